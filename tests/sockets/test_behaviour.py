"""How streams begin, wait, end and are let go of, on real sockets, with bare clients and `connect_sse`."""

# ruff: noqa: SIM117 - a server, a client and a stream nest as they do in life

from __future__ import annotations

import contextlib
import gc
import json
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest

import resumable_llm as rl
from tests.sockets import wire
from tests.sockets.clients import FAMILIES, FOREIGN_GENERATORS, async_client, busy, client, policy
from tests.sockets.matrix import BACKDROPS
from tests.sockets.scripted import EVENT_STREAM, Answer, End, Request, Scripted

pytestmark = [pytest.mark.slow, FOREIGN_GENERATORS]

PROMPT = 4.0
"""Seconds that no busy machine needs; a read that is not ended takes five, what is asked to wait a minute."""

GET = BACKDROPS["get"]
POST = BACKDROPS["post"]
EVENTS = GET.events
ACCEPT = {"accept": "text/event-stream"}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    assert isinstance(request.param, str)
    return request.param


@pytest.fixture
def http(family: str) -> Iterator[Any]:
    with client(family) as made:
        yield made


def words(stream: Any) -> list[str]:
    return [event.data for event in stream]


def cut(end: End = End.FIN, **options: Any) -> Answer:
    return Answer(GET.blocks[: GET.cut], end, **options)


def _close_after(event: threading.Event, stream: Any) -> None:
    event.wait(5)
    stream.close()


def set_when_waiting(event: Any) -> Callable[[rl.Notice], None]:
    """An `on_event` that says when the stream begins to wait."""

    def note(notice: rl.Notice) -> None:
        if notice.kind == "wait":
            event.set()

    return note


@contextlib.contextmanager
def prompt(seconds: float = PROMPT) -> Iterator[None]:
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < seconds


# Letting go


def test_an_early_break_leaks_nothing(http: Any) -> None:
    with Scripted(cut(End.SILENT), cut(End.SILENT)) as server:
        with rl.connect_sse(http, "GET", server.url) as stream:
            for _ in stream:
                break
        assert not busy(http)
        with rl.wrap(http).stream("GET", server.url, headers=ACCEPT) as response:
            for _ in response.iter_bytes():
                break
        assert not busy(http)
        for _ in range(2):
            assert server.gone.acquire(timeout=5), "the server still has its connection"


async def test_an_early_break_leaks_nothing_async(family: str, anyio_backend: str) -> None:
    with Scripted(cut(End.SILENT), cut(End.SILENT)) as server:
        async with async_client(family) as http:
            async with rl.aconnect_sse(http, "GET", server.url) as stream:
                async for _ in stream:
                    break
            assert not busy(http)
            async with rl.wrap(http).stream("GET", server.url, headers=ACCEPT) as response:
                async for _ in response.aiter_bytes():
                    break
            assert not busy(http)
        for _ in range(2):
            assert server.gone.acquire(timeout=5), "the server still has its connection"


def test_an_unfinished_stream_is_collected(http: Any) -> None:
    with Scripted(cut(End.SILENT), cut(End.SILENT)) as server:
        stream = rl.connect_sse(http, "GET", server.url).__enter__()
        assert next(iter(stream)).data == EVENTS[0].data
        del stream
        gc.collect()
        assert server.gone.acquire(timeout=5)

        wrapped = rl.wrap(http)
        response = wrapped.send(wrapped.build_request("GET", server.url, headers=ACCEPT), stream=True)
        chunks = response.iter_bytes()
        next(chunks)
        del response, chunks
        gc.collect()
        assert server.gone.acquire(timeout=5)
        assert not busy(http)


def test_close_from_another_thread_ends_a_blocked_read(http: Any) -> None:
    with Scripted(cut(End.SILENT)) as server, rl.connect_sse(http, "GET", server.url) as stream:
        events = iter(stream)
        for _ in range(GET.cut):
            next(events)
        timer = threading.Timer(0.1, stream.close)
        timer.start()
        with prompt():
            assert not list(events)
        timer.join()
        assert not busy(http)


def test_close_from_another_thread_ends_a_blocked_read_of_a_wrapped_client(http: Any) -> None:
    wrapped = rl.wrap(http)
    with Scripted(cut(End.SILENT)) as server, wrapped.stream("GET", server.url, headers=ACCEPT) as response:
        chunks = response.iter_bytes()
        for _ in range(GET.cut):
            next(chunks)
        timer = threading.Timer(0.1, response.close)
        timer.start()
        with prompt():
            assert not list(chunks)
        timer.join()
        assert not busy(http)


def test_close_from_another_thread_ends_a_backoff(http: Any) -> None:
    with Scripted(cut(), Answer.json("{}", 503, headers={"retry-after": "60"})) as server:
        waiting = threading.Event()
        with rl.connect_sse(http, "GET", server.url, policy=policy(), on_event=set_when_waiting(waiting)) as stream:
            events = iter(stream)
            for _ in range(GET.cut):
                next(events)
            closer = threading.Thread(target=_close_after, args=(waiting, stream))
            closer.start()
            with prompt():
                assert not list(events)
            closer.join()
        assert len(server.requests) == 2


@pytest.mark.xfail(strict=True, reason="a limit that close() documents: there is no socket to shut down yet")
def test_close_from_another_thread_ends_a_reconnect(http: Any) -> None:
    arrived, released = threading.Event(), threading.Event()
    with Scripted(cut(), lambda request: _never_answer(arrived, released)) as server:
        with rl.connect_sse(http, "GET", server.url, policy=policy(read_timeout=1)) as stream:
            closer = threading.Thread(target=_close_after, args=(arrived, stream))
            closer.start()
            try:
                with prompt(0.5):
                    assert len(words(stream)) == GET.cut
            finally:
                released.set()
                closer.join()


async def test_aclose_from_another_task_ends_a_blocked_read(family: str, anyio_backend: str) -> None:
    with Scripted(cut(End.SILENT)) as server:
        async with async_client(family) as http, rl.aconnect_sse(http, "GET", server.url) as stream:
            seen = []

            async def read() -> None:
                async for event in stream:
                    seen.append(event)  # noqa: PERF401 - counted while it grows

            with anyio.fail_after(5):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(read)
                    while len(seen) < GET.cut:  # noqa: ASYNC110 - read() counts, and sets nothing
                        await anyio.sleep(0.001)
                    await stream.aclose()
            assert not busy(http)


@pytest.mark.parametrize("after", [0.0, 0.05])
async def test_aclose_from_another_task_ends_a_backoff(family: str, anyio_backend: str, after: float) -> None:
    with Scripted(cut(), Answer.json("{}", 503, headers={"retry-after": "60"})) as server:
        waiting = anyio.Event()
        async with (
            async_client(family) as http,
            rl.aconnect_sse(http, "GET", server.url, on_event=set_when_waiting(waiting)) as stream,
        ):

            async def close() -> None:
                await waiting.wait()
                if after:
                    await anyio.sleep(after)
                await stream.aclose()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(close)
                with anyio.fail_after(PROMPT):
                    assert len([event async for event in stream]) == GET.cut


@pytest.mark.parametrize("how", ["connect_sse", "client"])
@pytest.mark.parametrize("where", ["read", "backoff", "reconnect"])
async def test_cancellation_is_no_drop(family: str, anyio_backend: str, where: str, how: str) -> None:
    script: dict[str, list[Answer | Callable[[Request], Answer]]] = {
        "read": [cut(End.SILENT)],
        "backoff": [cut(), Answer.json("{}", 503, headers={"retry-after": "60"})],
        "reconnect": [cut(), lambda request: _never_answer(arrived, released)],
    }
    arrived, released = threading.Event(), threading.Event()
    notices: list[str] = []
    with Scripted(*script[where]) as server:
        try:
            async with async_client(family) as http:
                with anyio.move_on_after(5) as scope:

                    async def cancel_then() -> None:
                        while not (  # noqa: ASYNC110 - a server's thread may be what is waited for
                            (where == "read" and seen == GET.cut)
                            or (where == "backoff" and "wait" in notices)
                            or arrived.is_set()
                        ):
                            await anyio.sleep(0.001)
                        await anyio.sleep(0.05)
                        scope.cancel()

                    seen = 0
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(cancel_then)
                        if how == "connect_sse":
                            async with rl.aconnect_sse(
                                http,
                                "GET",
                                server.url,
                                policy=policy(),
                                on_event=lambda notice: notices.append(notice.kind),
                            ) as stream:
                                async for _ in stream:
                                    seen += 1
                        else:
                            wrapped = rl.wrap(
                                http, policy=policy(), on_event=lambda notice: notices.append(notice.kind)
                            )
                            async with wrapped.stream("GET", server.url, headers=ACCEPT) as response:
                                async for chunk in response.aiter_bytes():
                                    seen += chunk.count(b"\n\n")
                        pytest.fail("the stream ended although it was cancelled")
                assert scope.cancelled_caught
                assert not busy(http)
        finally:
            released.set()
        assert "give_up" not in notices
        assert len(server.requests) == (1 if where == "read" else 2)


def _never_answer(arrived: threading.Event, released: threading.Event) -> Answer:
    arrived.set()
    released.wait(10)
    return Answer(status=204, headers={})


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_task_that_is_cancelled_ends_as_cancelled(family: str, anyio_backend: str) -> None:
    # asyncio's own cancellation, as tasks and timeouts of people who do not use anyio do it
    import asyncio

    with Scripted(cut(End.SILENT)) as server:
        async with async_client(family) as http:
            begun = asyncio.Event()

            async def read() -> None:
                async with rl.aconnect_sse(http, "GET", server.url) as stream:
                    async for _ in stream:
                        begun.set()

            task = asyncio.create_task(read())
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not busy(http)
        assert len(server.requests) == 1


@pytest.mark.parametrize("how", ["connect_sse", "client"])
def test_keyboard_interrupt_is_no_drop(http: Any, how: str) -> None:
    with Scripted(cut(End.SILENT)) as server:

        def interrupt() -> None:
            server.sent.acquire(timeout=5)
            time.sleep(0.05)  # in the middle of the read rather than before it; either must do
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012
            if how == "connect_sse":
                with rl.connect_sse(http, "GET", server.url) as stream:
                    words(stream)
            else:
                with rl.wrap(http).stream("GET", server.url, headers=ACCEPT) as response:
                    response.read()
        thread.join()
        assert len(server.requests) == 1
        assert not busy(http)


# Waiting


def test_a_deadline_ends_an_answer_that_only_pings(http: Any) -> None:
    with Scripted(cut(End.PINGS), rest=lambda request: Answer(end=End.PINGS)) as server:
        got: list[str] = []
        with (
            prompt(),
            pytest.raises(rl.RetriesExhausted) as caught,
            rl.connect_sse(http, "GET", server.url, policy=policy(deadline=1.0)) as stream,
        ):
            got.extend(event.data for event in stream)
        assert len(got) == GET.cut
        assert caught.value.checkpoint is not None
        assert caught.value.checkpoint.last_event_id == EVENTS[GET.cut - 1].id


def test_a_deadline_ends_silence(http: Any) -> None:
    with (
        Scripted(cut(End.SILENT)) as server,
        prompt(),
        pytest.raises(rl.RetriesExhausted),
        rl.connect_sse(http, "GET", server.url, policy=policy(deadline=1.0)) as stream,
    ):
        words(stream)


@pytest.mark.parametrize("end", [End.SILENT, End.PINGS])
def test_an_answer_that_never_begins_is_asked_for_again_with_the_same_key(http: Any, end: End) -> None:
    patience = policy(first_event_timeout=0.2, event_timeout=0.2)
    with Scripted(Answer(end=end), rest=POST.honour) as server:
        with rl.connect_sse(http, "POST", server.url, json={}, policy=patience, terminal="done") as stream:
            assert words(stream) == [event.data for event in POST.events]
        first, *others = server.requests
        assert others
        for again in others:  # on a busy machine the right answer may be late, too
            assert first.headers["idempotency-key"] == again.headers["idempotency-key"]
            assert first.body == again.body
            assert "last-event-id" not in again.headers


def test_an_answer_that_never_begins_is_given_up(http: Any) -> None:
    with (
        Scripted(rest=lambda request: Answer(end=End.PINGS)) as server,
        pytest.raises(rl.RetriesExhausted),
        rl.connect_sse(
            http, "POST", server.url, json={}, policy=policy(first_event_timeout=0.1), terminal="x"
        ) as stream,
    ):
        words(stream)


@pytest.mark.xfail(
    strict=True, reason="a limit that RetryPolicy documents: a connection has one read timeout for its whole life"
)
def test_event_timeout_counts_on_the_first_connection_too(http: Any) -> None:
    """Silence behind the first event is not to be borne for as long as silence before it."""
    patience = policy(first_event_timeout=1.5, event_timeout=0.2)
    with Scripted(cut(End.SILENT), rest=GET.honour) as server, prompt(1.4):
        with rl.connect_sse(http, "GET", server.url, policy=patience) as stream:
            assert words(stream) == [event.data for event in EVENTS]


def test_the_first_reconnect_is_immediate(http: Any) -> None:
    with Scripted(cut(), rest=GET.honour) as server, rl.connect_sse(http, "GET", server.url) as stream:
        assert words(stream) == [event.data for event in EVENTS]
        assert [drop.backoff for drop in stream.report.drops] == [0.0]


@pytest.mark.parametrize("header", [{"retry-after": "0.2"}, {"retry-after-ms": "200"}])
def test_retry_after_is_a_floor(http: Any, header: dict[str, str]) -> None:
    busy_answer = Answer.json("{}", 503, headers=header)
    with Scripted(cut(), busy_answer, rest=GET.honour) as server:
        begun = time.monotonic()
        with rl.connect_sse(http, "GET", server.url, policy=policy()) as stream:
            assert words(stream) == [event.data for event in EVENTS]
            assert [drop.backoff for drop in stream.report.drops] == [0.0, 0.2]
        assert time.monotonic() - begun >= 0.2


def test_retry_is_a_floor(http: Any) -> None:
    with Scripted(Answer([b"retry: 150\n\n", *GET.blocks[:3]], End.FIN), rest=GET.honour) as server:
        begun = time.monotonic()
        with rl.connect_sse(http, "POST", server.url, json={}, terminal="done", policy=policy()) as stream:
            assert words(stream) == [event.data for event in EVENTS]
            assert [drop.backoff for drop in stream.report.drops] == [0.15]
        assert time.monotonic() - begun >= 0.15


@pytest.mark.parametrize("header", ["86400", "Wed, 21 Oct 2099 07:28:00 GMT"])
def test_a_floor_is_bounded(http: Any, header: str) -> None:
    late = Answer.json("{}", 503, headers={"retry-after": header, "date": "Wed, 21 Oct 2026 07:28:00 GMT"})
    waits: list[float] = []

    def note(notice: rl.Notice) -> None:
        if notice.kind == "wait":
            waits.append(notice.seconds)
            stream.close()

    with Scripted(cut(), late) as server:
        stream = rl.connect_sse(http, "GET", server.url, policy=policy(), on_event=note)
        with prompt(), stream:
            assert len(words(stream)) == GET.cut
    assert waits == [120.0]


# What comes over the wire


def _gzipped(blocks: list[bytes]) -> list[bytes]:
    packer = zlib.compressobj(wbits=31)
    return [packer.compress(block) + packer.flush(zlib.Z_SYNC_FLUSH) for block in blocks]


GZIP = {**EVENT_STREAM, "content-encoding": "gzip"}


def _gzip_honour(request: Request) -> Answer:
    answer = GET.honour(request)
    return answer if answer.status == 204 else Answer(_gzipped(list(answer.pieces)), headers=GZIP)


def test_a_compressed_stream_is_decoded_and_survives(http: Any) -> None:
    half = _gzipped([*GET.blocks[:3], GET.blocks[3][:20]])
    with Scripted(Answer(half, End.FIN, headers=GZIP), rest=_gzip_honour) as server:
        with rl.connect_sse(http, "GET", server.url, policy=policy()) as stream:
            assert words(stream) == [event.data for event in EVENTS]
        assert server.requests[0].headers["accept-encoding"] == "identity"
    with Scripted(Answer(half, End.FIN, headers=GZIP), rest=_gzip_honour) as server:
        with rl.wrap(http, policy=policy()).stream("GET", server.url, headers=ACCEPT) as response:
            assert "content-encoding" not in response.headers
            assert response.read() == b"".join(GET.blocks)


async def test_a_compressed_stream_is_decoded_and_survives_async(family: str, anyio_backend: str) -> None:
    half = _gzipped([*GET.blocks[:3], GET.blocks[3][:20]])
    with Scripted(Answer(half, End.RST, headers=GZIP), rest=_gzip_honour) as server:
        async with async_client(family) as http:
            async with rl.wrap(http, policy=policy()).stream("GET", server.url, headers=ACCEPT) as response:
                assert await response.aread() == b"".join(GET.blocks)
            assert not busy(http)


@pytest.mark.parametrize("end", [End.RST, End.SILENT, End.PINGS, End.FIN])
def test_what_follows_the_terminal_event_does_not_matter(http: Any, end: End) -> None:
    with Scripted(Answer(POST.blocks, end), Answer(wire.blocks(wire.chat()), end)) as server:
        with prompt(), rl.connect_sse(http, "POST", server.url, json={}, terminal="done") as stream:
            assert words(stream) == [event.data for event in POST.events]
            assert stream.report.end_proved
        assert not busy(http)
        chat = {"model": "m", "messages": [], "stream": True}
        with prompt(), rl.wrap(http).stream("POST", f"{server.url}/chat/completions", json=chat) as response:
            assert response.read() == b"".join(wire.blocks(wire.chat()))
        assert not busy(http)


@pytest.mark.parametrize("end", [End.RST, End.SILENT, End.PINGS, End.FIN])
async def test_what_follows_the_terminal_event_does_not_matter_async(family: str, anyio_backend: str, end: End) -> None:
    chat = {"model": "m", "messages": [], "stream": True}
    with Scripted(Answer(POST.blocks, end), Answer(wire.blocks(wire.chat()), end)) as server:
        async with async_client(family) as http:
            with prompt():
                async with rl.aconnect_sse(http, "POST", server.url, json={}, terminal="done") as stream:
                    assert [event.data async for event in stream] == [event.data for event in POST.events]
            assert not busy(http)
            with prompt():
                async with rl.wrap(http).stream("POST", f"{server.url}/chat/completions", json=chat) as response:
                    assert await response.aread() == b"".join(wire.blocks(wire.chat()))
            assert not busy(http)


def test_a_connection_is_used_again_after_a_whole_answer(http: Any) -> None:
    with Scripted(rest=POST.honour) as server:
        for _ in range(3):
            with rl.connect_sse(http, "POST", server.url, json={}, terminal="done") as stream:
                words(stream)
        with rl.wrap(http).stream("GET", server.url, headers=ACCEPT) as response:  # no terminal event: asks once more
            response.read()
        assert (len(server.requests), server.accepted) == (5, 1)


async def test_a_connection_is_used_again_after_a_whole_answer_async(family: str, anyio_backend: str) -> None:
    with Scripted(rest=POST.honour) as server:
        async with async_client(family) as http:
            for _ in range(3):
                async with rl.aconnect_sse(http, "POST", server.url, json={}, terminal="done") as stream:
                    assert [event async for event in stream]
            async with rl.wrap(http).stream("GET", server.url, headers=ACCEPT) as response:
                await response.aread()
        assert (len(server.requests), server.accepted) == (5, 1)


def test_half_an_event_at_the_end_is_no_whole_answer(http: Any) -> None:
    """No ids, no known terminal event: but an answer that ends inside an event is certainly not whole."""
    blocks = wire.blocks(wire.plain())
    with (
        Scripted(Answer([*blocks[:3], blocks[3][:12]])) as server,
        pytest.raises(rl.CannotResume),
        rl.connect_sse(http, "GET", server.url) as stream,
    ):
        words(stream)


def test_an_empty_stream_after_a_cut_is_no_proof_of_the_end(http: Any) -> None:
    """The connection broke inside an event, so there was more, whatever a server says that now says nothing."""
    half = Answer([*GET.blocks[:3], GET.blocks[3][:12]], End.FIN)
    with (
        Scripted(half, rest=lambda request: Answer()) as server,
        pytest.raises(rl.StreamInterrupted),
        rl.connect_sse(http, "GET", server.url, policy=policy()) as stream,
    ):
        words(stream)


def test_a_second_iteration_goes_on(http: Any) -> None:
    with Scripted(rest=POST.honour) as server:
        with rl.connect_sse(http, "POST", server.url, json={}, terminal="done") as stream:
            first = next(iter(stream)).data
            assert [first, *words(stream.iter_sse())] == [event.data for event in POST.events]


async def test_a_second_iteration_of_the_body_goes_on(family: str, anyio_backend: str) -> None:
    # the openai SDK iterates response.stream again, to drain it
    with Scripted(rest=POST.honour) as server:
        async with async_client(family) as http:
            async with rl.wrap(http).stream("POST", server.url, json={}, headers=ACCEPT) as response:
                body = aiter(response.stream)
                first = await anext(body)
                rest = [chunk async for chunk in response.stream]
                assert first + b"".join(rest) == b"".join(POST.blocks)


# Idempotency keys


def test_one_key_for_each_call(http: Any) -> None:
    with Scripted(cut(), POST.honour, rest=POST.honour) as server:
        for _ in range(2):
            with rl.connect_sse(http, "POST", server.url, json={"same": 1}, terminal="done", policy=policy()) as stream:
                words(stream)
        first, resumed, second = (request.headers["idempotency-key"] for request in server.requests)
        assert first == resumed
        assert first != second


def test_the_callers_key_wins(http: Any) -> None:
    with Scripted(rest=POST.honour) as server:
        with rl.connect_sse(http, "POST", server.url, json={}, terminal="done", idempotency_key="mine") as stream:
            words(stream)
        headers = {**ACCEPT, "Idempotency-Key": "my own"}
        with rl.wrap(http).stream("POST", server.url, json={}, headers=headers) as response:
            response.read()
        assert [request.headers["idempotency-key"] for request in server.requests] == ["mine", "my own", "my own"]


# Another process

READER = """
import sys, httpx, resumable_llm as rl
with httpx.Client(trust_env=False) as http, rl.connect_sse(http, "GET", sys.argv[1]) as stream:
    for event in stream:
        print(event.data, stream.checkpoint.to_json(), sep="\\t", flush=True)
"""


def test_another_process_goes_on_after_a_kill(http: Any) -> None:
    with Scripted(cut(End.SILENT), rest=GET.honour) as server:
        with subprocess.Popen([sys.executable, "-c", READER, server.url], stdout=subprocess.PIPE, text=True) as reader:
            assert reader.stdout is not None
            lines = [reader.stdout.readline() for _ in range(GET.cut)]
            reader.kill()
        assert reader.returncode == -signal.SIGKILL
        head = [line.partition("\t")[0] for line in lines]
        checkpoint = rl.Checkpoint.from_json(lines[-1].partition("\t")[2])
        with rl.resume_sse(http, checkpoint, headers={"authorization": "Bearer again"}) as stream:
            tail = words(stream)
        assert head + tail == [event.data for event in EVENTS]
        assert server.requests[1].headers["authorization"] == "Bearer again"


def test_another_process_goes_on_with_a_background_response(http: Any) -> None:
    server_kind = BACKDROPS["responses"]
    cut_at = server_kind.cut
    with Scripted(Answer(server_kind.blocks[:cut_at], End.SILENT), rest=server_kind.honour) as server:
        with rl.connect_sse(http, "POST", f"{server.url}/responses", json=server_kind.body) as stream:
            events = iter(stream)
            head = [next(events).data for _ in range(cut_at)]
            saved = stream.checkpoint.to_json()
        assert "Bearer" not in saved
        with rl.resume_sse(http, rl.Checkpoint.from_json(saved)) as stream:
            tail = words(stream)
        assert head + tail == [event.data for event in server_kind.events]
        assert server.methods == ["POST", "GET"]
        assert json.loads(tail[-1])["type"] == "response.completed"
