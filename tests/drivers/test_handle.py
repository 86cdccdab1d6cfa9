from __future__ import annotations

from resumable_llm.core.actions import Send
from resumable_llm.drivers.async_driver import AsyncDriver
from resumable_llm.drivers.exchange import AsyncExchange, Exchange
from resumable_llm.drivers.handle import AsyncHandle, Handle
from resumable_llm.drivers.sync_driver import SyncDriver
from tests.drivers.wires import LLAMA, NAMED, ONE, SSE, TWO, Broken, FamilyError, conversation


class Spoken(SyncDriver):
    """A driver whose answers are at hand; all that was sent is kept."""

    def __init__(self, plan_is_named: bool, *chunks: bytes) -> None:
        super().__init__(conversation(NAMED) if plan_is_named else conversation(), self._answer, (Broken,), FamilyError)
        self.chunks = chunks
        self.sent: list[str] = []
        self.begin()

    def _answer(self, send: Send) -> Exchange:
        self.sent.append(send.plan.method)
        return Exchange(200, LLAMA if send.plan is NAMED else SSE, iter(self.chunks), lambda: None, None)


def test_the_first_look_makes_the_checkpoint_exact_from_there_on() -> None:
    driver = Spoken(False, ONE + TWO)
    handle = Handle(driver)
    assert handle.checkpoint.events == 0
    places = []
    for _ in driver.slices():
        places.append((handle.checkpoint.events, handle.checkpoint.last_event_id))
        if len(places) == 2:
            break
    assert places == [(1, "1"), (2, "2")]


def test_a_late_look_is_never_ahead_of_the_caller() -> None:
    driver = Spoken(False, ONE + TWO)
    handle = Handle(driver)
    slices = driver.slices()
    assert next(slices) == ONE + TWO
    assert handle.checkpoint.events == 0


def test_the_report() -> None:
    driver = Spoken(False, ONE)
    handle = Handle(driver)
    assert next(driver.slices()) == ONE
    assert handle.report.events == 1
    assert "<table>" in handle._repr_html_()


def test_cancel_tells_the_server_and_closes() -> None:
    driver = Spoken(True)
    Handle(driver).cancel()
    assert driver.sent == ["POST", "DELETE"]
    assert driver.exchange is None


async def test_the_asynchronous_handle() -> None:
    sent: list[str] = []

    class Body:
        def __aiter__(self) -> Body:
            return self

        async def __anext__(self) -> bytes:
            raise StopAsyncIteration

    async def close() -> None:
        sent.append("close")

    async def answer(send: Send) -> AsyncExchange:
        sent.append(send.plan.method)
        return AsyncExchange(200, LLAMA, Body(), close)

    driver = AsyncDriver(conversation(NAMED), answer, (Broken,), FamilyError)
    await driver.begin()
    handle = AsyncHandle(driver)
    assert handle.checkpoint.events == 0
    assert handle.report.attempts == 1
    await handle.cancel()
    assert sent == ["POST", "close", "DELETE", "close"]
