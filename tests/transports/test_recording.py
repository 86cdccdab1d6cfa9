"""Several readers of one answer, and answers that cannot be kept to their end."""

from __future__ import annotations

import gc
import threading
from typing import Any

import anyio
import pytest

import resumable_llm as rl
from resumable_llm.log import MemoryStore, State
from tests.in_memory import (
    Said,
    chat,
    numbered,
    policy,
    transport,
)
from tests.transports.journaled import WHOLE, Caller, log_of, open_async, open_sync

# Several readers at a time


def test_another_reader_gets_what_there_is_and_goes_on(store: MemoryStore) -> None:
    """As in a notebook: a cell was stopped, its stream was never closed, and the cell is run again."""
    caller = Caller("httpx", "sync", store)
    inner = transport("httpx", Said(WHOLE))
    first = open_sync(caller, inner)
    pieces = iter(first.stream)
    assert next(pieces) == WHOLE[0]
    second = open_sync(caller, inner)
    assert list(second.stream) == WHOLE
    assert list(pieces) == WHOLE[1:]
    assert len(inner.requests) == 1
    first.close()
    second.close()


async def test_another_reader_gets_what_there_is_and_goes_on_async(store: MemoryStore) -> None:
    caller = Caller("httpx", "async", store)
    inner = transport("httpx", Said(WHOLE))
    first = await open_async(caller, inner)
    pieces = aiter(first.stream)
    assert await anext(pieces) == WHOLE[0]
    second = await open_async(caller, inner)
    assert [piece async for piece in second.stream] == WHOLE
    assert [piece async for piece in pieces] == WHOLE[1:]
    assert len(inner.requests) == 1
    await first.aclose()
    await second.aclose()


def test_readers_in_threads(store: MemoryStore) -> None:
    caller = Caller("httpx", "sync", store)
    more = threading.Event()
    inner = transport("httpx", Said([WHOLE[0], lambda: more.wait(5), *WHOLE[1:]]))
    heard: list[list[bytes]] = []

    def read(response: Any) -> None:
        heard.append(list(response.stream))

    threads = [threading.Thread(target=read, args=(open_sync(caller, inner),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    more.set()
    for thread in threads:
        thread.join()
    assert heard == [WHOLE] * 3
    assert len(inner.requests) == 1


async def test_readers_in_tasks(store: MemoryStore) -> None:
    caller = Caller("httpx", "async", store)
    inner = transport("httpx", Said(WHOLE))
    heard: list[list[bytes]] = []

    async def read(response: Any) -> None:
        heard.append([piece async for piece in response.stream])
        await response.aclose()

    responses = [await open_async(caller, inner) for _ in range(3)]
    async with anyio.create_task_group() as tasks:
        for response in responses:
            tasks.start_soon(read, response)
    assert heard == [WHOLE] * 3
    assert len(inner.requests) == 1


def test_the_last_to_leave_lets_go(store: MemoryStore) -> None:
    caller = Caller("httpx", "sync", store)
    inner = transport("httpx", Said(WHOLE))
    first, second = open_sync(caller, inner), open_sync(caller, inner)
    assert next(iter(first.stream)) == WHOLE[0]
    first.close()
    first.close()
    assert not inner.bodies[0].closed
    assert next(iter(second.stream)) == WHOLE[0]
    second.close()
    assert inner.bodies[0].closed
    assert log_of(store).state is State.INTERRUPTED


def test_whom_another_reader_leaves_alone_with_an_end(store: MemoryStore) -> None:
    """Cancelled by one of them, the answer ends for the other with an error, and not as if it were whole."""
    caller = Caller("httpx", "sync", store)
    inner = transport("httpx", Said(WHOLE))
    first, second = open_sync(caller, inner), open_sync(caller, inner)
    assert next(iter(first.stream)) == WHOLE[0]
    rl.inspect(first).cancel()
    assert list(first.stream) == []
    with pytest.raises(rl.CannotResume, match="cancelled") as caught:
        list(second.stream)
    assert isinstance(caught.value, caller.http.TransportError)


async def test_whom_another_reader_leaves_alone_with_an_end_async(store: MemoryStore) -> None:
    caller = Caller("httpx", "async", store)
    inner = transport("httpx", Said(WHOLE))
    first, second = await open_async(caller, inner), await open_async(caller, inner)
    assert await anext(aiter(first.stream)) == WHOLE[0]
    await rl.inspect(first).cancel()  # type: ignore[misc]
    assert [piece async for piece in first.stream] == []
    with pytest.raises(rl.CannotResume, match="cancelled"):
        async for _ in second.stream:
            pass
    await first.aclose()
    await second.aclose()


@pytest.mark.parametrize("read", [True, False])
def test_a_stream_that_is_dropped_can_be_gone_on_with(store: MemoryStore, read: bool) -> None:
    caller = Caller("httpx", "sync", store)
    inner = transport("httpx", Said(WHOLE))
    response = open_sync(caller, inner)
    if read:
        next(iter(response.stream))
    del response
    assert log_of(store).state is State.INTERRUPTED, "only the garbage collector would find it"


def test_what_was_let_go_of_ends_nothing_of_what_follows(store: MemoryStore) -> None:
    """The stream of a call that failed is closed late, when the same call has been made again and goes on."""
    caller = Caller("httpx", "sync", store)
    down = Said(down="ConnectError")
    inner = transport("httpx", Said(numbered(1), ends="ReadError"), down, down, down, Said(numbered(2, 3)))
    outer = rl.httpx.ResumableTransport(inner, policy=policy(), journal=store)
    first: Any = outer.handle_request(caller.events())
    with pytest.raises(rl.RetriesExhausted):
        list(first.stream)
    second: Any = outer.handle_request(caller.events())
    pieces = iter(second.stream)
    assert [next(pieces), next(pieces)] == numbered(1, 2)
    rl.inspect(first).cancel()
    first.close()
    del first
    gc.collect()
    assert log_of(store).state is State.RUNNING
    assert next(pieces) == numbered(3)[0]
    second.close()


# Stores that fail


def test_an_answer_too_large_to_be_kept(colour: str) -> None:
    wire = numbered(*range(1, 9))
    store = MemoryStore(max_log_bytes=100)
    caller = Caller("httpx", colour, store)
    first = caller.call(Said(wire), Said(status=204), request=caller.events())
    assert (first.error, first.data) == (None, b"".join(wire))
    assert first.kinds.count("journal") == 1
    assert "exceed" in next(notice.reason for notice in first.notices if notice.kind == "journal")
    kept = log_of(store).last
    assert 0 < kept < 8
    again = caller.call(Said(wire[kept:]), Said(status=204), request=caller.events())
    assert (again.error, again.data) == (None, b"".join(wire))


def test_another_reader_of_an_answer_too_large_to_be_kept(store: MemoryStore) -> None:
    store = MemoryStore(max_log_bytes=150)
    caller = Caller("httpx", "sync", store)
    inner = transport("httpx", Said(WHOLE))
    first, second = open_sync(caller, inner), open_sync(caller, inner)
    assert list(first.stream) == WHOLE
    with pytest.raises(rl.CannotResume, match="could keep no more"):
        list(second.stream)


def test_how_answers_end(caller: Caller) -> None:
    failed = [*chat("a"), b'data: {"error":{"code":"bad_thing","message":"no"}}\n\n']
    cases: list[tuple[list[bytes], dict[str, Any], State]] = [
        (WHOLE, {}, State.COMPLETE),
        (failed, {}, State.FAILED),
        (WHOLE, {"take": 1}, State.INTERRUPTED),
        (WHOLE, {"take": 1, "cancel": True}, State.CANCELLED),
        (WHOLE[:1], {}, State.INTERRUPTED),
    ]
    for wire, options, state in cases:
        store = caller.journal = MemoryStore()
        caller.call(Said(wire), **options)
        assert log_of(store).state is state
