"""The demo: one question to one model, read over connections that are cut, by a plain and a wrapped client.

It sets the stage, lets both clients read at the same time and then asks the server for its own record of the answer.
How that looks on a screen is decided elsewhere.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Literal, Protocol

import httpx

import resumable_llm as rl
from resumable_llm.cli.llama import LlamaServer, LlamaUnavailable
from resumable_llm.cli.model import ModelUnavailable, ensure_model
from resumable_llm.cli.recorded import RecordedServer
from resumable_llm.testing import Fault, FaultPlan, FaultProxy
from resumable_llm.testing.injector import SSEBlocks

PROMPT = "Write two short paragraphs about a little robot who repairs a broken telephone line in a storm."

Api = Literal["chat", "responses"]

_MAX_TOKENS = 320
# Of a model this small, these keep the answer from going round in circles. Not every API knows them.
_PENALTIES = {"frequency_penalty": 0.6, "presence_penalty": 0.6}

_KINDS = ("end", "rst", "inside", "stall", "fin", "stall_pings")
_EVENTS_EXPECTED = 240
_EVENT_BYTES: dict[Api, int] = {"chat": 235, "responses": 165}  # about; only to place a cut inside some event
_PATIENCE_SECONDS = 2.0

_BLANK_LINE = b"\n\n"

_BACK_WORDS = {"resume": "resumed at byte", "repeat": "asked again at byte", "poll": "polled at byte"}
_FAULT_WORDS = {
    "end": "clean end",
    "rst": "reset",
    "fin": "closed",
    "stall": "silence",
    "stall_pings": "only pings",
}


class DemoUnavailable(Exception):
    """The demo cannot run here; the message says why and what can be done."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the demo was asked to do.

    Attributes:
        server: URL of an OpenAI-compatible server; None for llama.cpp, started here.
        model: The model's name there; None for the first that the server lists.
        cuts: Faults in the connection.
        seed: Chooses kinds and places of the faults.
        api: Chat completions or Responses.
        recorded: Play back a recorded answer instead of asking a model.
    """

    server: str | None = None
    model: str | None = None
    cuts: int = 6
    seed: int = 0
    api: Api = "chat"
    recorded: bool = False


@dataclass
class Drop:
    """One drop of a reader's connection, as it is told to the audience.

    Attributes:
        place: Length of the text that had arrived before it.
        what: What happened to the connection, and where.
        back: How the stream was had again; empty before that.
        gap: Seconds between the last event before the drop and the first after it; None before that.
    """

    place: int
    what: str
    back: str = ""
    gap: float | None = None


@dataclass
class Reader:
    """One of the two clients: what it has received so far, and how it fared.

    Attributes:
        text: The answer as the application sees it.
        received: The bytes of the response body as the SDK was given them.
        last_event_at: When the last of them came that was an event, on the monotonic clock.
        drops: The drops, in order.
        ended: How it ended, in words; empty while it reads.
        complete: The API itself said that the answer is complete.
        handle: The server's name for the answer, if the client was told.
        report: What it took, if the client was wrapped.
    """

    text: str = ""
    received: bytearray = field(default_factory=bytearray)
    last_event_at: float = 0.0
    drops: list[Drop] = field(default_factory=list)
    ended: str = ""
    complete: bool = False
    handle: str | None = None
    report: rl.Report | None = None

    @property
    def answer(self) -> bytes:
        """What was received, less what the fault proxy added to it: the pings of its stalls."""
        blocks = bytes(self.received).split(_BLANK_LINE)
        return _BLANK_LINE.join(block for block in blocks if block + _BLANK_LINE != SSEBlocks.ping)

    @property
    def seconds_lost(self) -> float:
        """Time without events around all drops together."""
        return sum(drop.gap or 0.0 for drop in self.drops)

    def receive(self, chunk: bytes) -> None:
        """Take what the SDK is about to be given."""
        self.received += chunk
        if not chunk.startswith(SSEBlocks.ping):
            now = time.monotonic()
            if self.drops and self.drops[-1].gap is None:
                self.drops[-1].gap = now - self.last_event_at
            self.last_event_at = now


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        rows: Lines of a table: what is compared, the plain client's value, the wrapped client's.
        summary: The same in a sentence or two.
        identical: The wrapped client received, byte for byte, what the server's own record of the answer holds.
    """

    rows: list[tuple[str, str, str]]
    summary: str
    identical: bool


class Audience(Protocol):
    """Whoever watches."""

    def say(self, line: str) -> None:
        """Comment on what is being done."""
        ...

    def show(self, plain: Reader, wrapped: Reader) -> contextlib.AbstractContextManager[Callable[[], None]]:
        """Show both readers while the block runs; the function it gives is called whenever something may be new."""
        ...


@dataclass(frozen=True)
class _Upstream:
    url: str
    model: str
    is_llama: bool
    headers: dict[str, str]


def run(settings: Settings, audience: Audience) -> tuple[Reader, Reader, Outcome]:
    """Run the demo.

    Args:
        settings: What to do.
        audience: Who watches.

    Returns:
        The plain reader, the wrapped reader and what came of it.

    Raises:
        DemoUnavailable: There is nothing to read from.
    """
    if importlib.util.find_spec("openai") is None:
        raise DemoUnavailable("the demo reads with the official client, which is not installed: pip install openai")
    plan = make_plan(settings.cuts, settings.seed, settings.api)
    plain, wrapped = Reader(), Reader()
    with (
        _engine(settings, audience) as url,
        _examine(url, settings) as upstream,
        # Each client has a proxy of its own with the same plan, so neither takes a fault meant for the other.
        FaultProxy(upstream.url, plan) as for_plain,
        FaultProxy(upstream.url, plan) as for_wrapped,
    ):
        audience.say(f'asking {upstream.model}: "{PROMPT}"')
        reading = [
            threading.Thread(target=_read, args=(plain, for_plain, upstream, settings.api, False), daemon=True),
            threading.Thread(target=_read, args=(wrapped, for_wrapped, upstream, settings.api, True), daemon=True),
        ]
        with audience.show(plain, wrapped) as refresh:
            for thread in reading:
                thread.start()
            while any(thread.is_alive() for thread in reading):
                refresh()
                time.sleep(0.03)
            refresh()
        if not (plain.ended and wrapped.ended):
            raise RuntimeError("a reader stopped without saying why; see the traceback above")
        record = _own_record(upstream, wrapped.handle)
    return plain, wrapped, judge(plain, wrapped, record)


def make_plan(cuts: int, seed: int, api: Api) -> FaultPlan:
    """The faults: all kinds in a random order before any comes again, spread over the answer.

    Args:
        cuts: How many.
        seed: Chooses order and places; the same seed, the same plan.
        api: Whose events they fall among.
    """
    chance = random.Random(seed)
    kinds: list[str] = []
    while len(kinds) < cuts:
        kinds += chance.sample(_KINDS, len(_KINDS))
    while kinds[0] in ("stall", "stall_pings"):  # the plain client would hang there, for ten minutes or for ever
        kinds.append(kinds.pop(0))
    apart = _EVENTS_EXPECTED / (cuts + 1)
    places = [max(1, round(apart * chance.uniform(0.7, 1.2))) for _ in range(cuts)]
    return FaultPlan(*(_fault(kind, place, api) for kind, place in zip(kinds, places, strict=False)))


def _fault(kind: str, events: int, api: Api) -> Fault:
    match kind:
        case "end":
            return Fault.end(at_event=events)
        case "rst":
            return Fault.rst(at_event=events)
        case "fin":
            return Fault.fin(at_event=events)
        case "stall":
            return Fault.stall(at_event=events)
        case "stall_pings":
            return Fault.stall_pings(interval=_PATIENCE_SECONDS / 4, at_event=events)
        case _:
            return Fault.rst(at_byte=round((events + 0.5) * _EVENT_BYTES[api]))


@contextlib.contextmanager
def _engine(settings: Settings, audience: Audience) -> Iterator[str]:
    """What answers: the user's server, a recording, or llama.cpp started here. Gives its URL."""
    if settings.server is not None:
        yield settings.server
        return
    if settings.recorded:
        audience.say(
            "RECORDING: no model runs; an answer recorded from llama.cpp is played back by a small local server"
        )
        with RecordedServer() as player:
            yield player.url
        return
    try:
        path = ensure_model()
        audience.say(f"starting llama.cpp with {path.name}")
        with LlamaServer(path) as server:
            yield server.url
    except (ModelUnavailable, LlamaUnavailable) as error:
        hint = "Without a model, a recorded stream can be played back: resumable-llm demo --recorded"
        raise DemoUnavailable(f"{error}\n{hint}") from error


@contextlib.contextmanager
def _examine(url: str, settings: Settings) -> Iterator[_Upstream]:
    """Find out what the server is and what its model is called."""
    root = url.rstrip("/").removesuffix("/v1")
    key = os.environ.get("OPENAI_API_KEY", "")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        answer = httpx.get(f"{root}/v1/models", headers=headers, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise DemoUnavailable(f"{url} does not answer: {error}") from error
    if answer.status_code in (401, 403):
        raise DemoUnavailable(f"{url} wants a key: set OPENAI_API_KEY")
    try:
        model = settings.model or answer.raise_for_status().json()["data"][0]["id"]
    except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
        raise DemoUnavailable(f"{url} does not tell its models: name one with --model") from error
    yield _Upstream(root, model, answer.headers.get("server") == "llama.cpp", headers)


def _read(reader: Reader, proxy: FaultProxy, upstream: _Upstream, api: Api, wrap: bool) -> None:
    """Read the answer through the proxy, as any application would."""
    import openai

    http_client = openai.DefaultHttpxClient(trust_env=False, event_hooks={"response": [_recorder(reader.receive)]})
    key = os.environ.get("OPENAI_API_KEY") or "none"
    client = openai.OpenAI(base_url=f"{proxy.url}/v1", api_key=key, http_client=http_client)
    if wrap:
        policy = rl.RetryPolicy(first_event_timeout=30, event_timeout=_PATIENCE_SECONDS, deadline=300)
        client = rl.wrap(client, policy=policy, on_event=_narrator(reader, proxy))
    stream = None
    with contextlib.closing(http_client):
        try:
            stream = _ask(client, upstream, api)
            for event in stream:
                _take(reader, event)
            ending = "the answer is complete" if reader.complete else "ended in the middle of the answer, with no error"
        except (openai.OpenAIError, rl.ResumableError, _family(http_client).HTTPError) as error:
            ending = _in_words(error)
    if wrap and stream is not None:
        handle = rl.inspect(stream)
        reader.report, reader.handle = handle.report, handle.checkpoint.handle
    reader.ended = ending


def _ask(client: Any, upstream: _Upstream, api: Api) -> Any:
    penalties = _PENALTIES if upstream.is_llama else {}
    settings = {"model": upstream.model, "stream": True, "temperature": 0, "extra_body": {"seed": 7, **penalties}}
    if api == "chat":
        return client.chat.completions.create(
            messages=[{"role": "user", "content": PROMPT}], max_tokens=_MAX_TOKENS, **settings
        )
    return client.responses.create(input=PROMPT, max_output_tokens=_MAX_TOKENS, **settings)


def _take(reader: Reader, event: Any) -> None:
    if event.__class__.__name__ == "ChatCompletionChunk":
        for choice in event.choices:
            reader.text += choice.delta.content or ""
            reader.complete = reader.complete or choice.finish_reason is not None
    elif event.type == "response.output_text.delta":
        reader.text += event.delta
    else:
        reader.complete = reader.complete or event.type in ("response.completed", "response.incomplete")


def _narrator(reader: Reader, proxy: FaultProxy) -> Callable[[rl.Notice], None]:
    """Tells the audience what the wrapped client hides from the application."""
    attempt_began_at = 0

    def hear(notice: rl.Notice) -> None:
        nonlocal attempt_began_at
        if notice.kind == "drop":
            record = proxy.requests[-1]
            what = _FAULT_WORDS[record.fault.kind] if record.fault else notice.reason
            where = f"after event {notice.events}"
            # The proxy sent more than the client delivered: the rest was half an event, held back.
            half = attempt_began_at + record.bytes_sent - len(reader.received)
            if record.fault and record.fault.at_byte is not None and half > 0:
                where = f"{half} bytes into event {notice.events + 1}"
            reader.drops.append(Drop(len(reader.text), f"{what} {where}"))
        elif notice.kind in ("resume", "repeat", "poll") and reader.drops:
            attempt_began_at = len(reader.received)
            reader.drops[-1].back = f"{_BACK_WORDS[notice.kind]} {attempt_began_at:,}"

    return hear


def _family(client: object) -> Any:
    """The HTTP library that a client belongs to: openai 2 stands on httpx, openai 3 on httpx2."""
    tops = (base.__module__.partition(".")[0] for base in type(client).__mro__)
    return sys.modules[next(top for top in tops if top in ("httpx", "httpx2"))]


def _recorder(receive: Callable[[bytes], None]) -> Callable[[Any], None]:
    """A response hook that keeps a copy of the body: above our transport, below the SDK's decoder."""

    def hook(response: Any) -> None:
        class Recorded(_family(response).SyncByteStream):  # type: ignore[misc]
            def __iter__(self) -> Iterator[bytes]:
                for chunk in inner:
                    receive(chunk)
                    yield chunk

            def close(self) -> None:
                inner.close()

        inner = response.stream
        response.stream = Recorded()

    return hook


def _in_words(error: BaseException) -> str:
    chain = [error]
    while cause := chain[-1].__cause__:
        chain.append(cause)
    ours = next((each for each in chain if isinstance(each, rl.ResumableError)), None)
    return f"{type(ours or error).__name__}: {ours or chain[-1]}"


def _own_record(upstream: _Upstream, handle: str | None) -> bytes | None:
    """The whole answer as the server itself kept it, asked for directly and not through the proxy."""
    if handle is None or not upstream.is_llama:
        return None
    query = {"conv_id": handle, "from": "0"}
    answer = httpx.get(f"{upstream.url}/v1/stream", params=query, headers=upstream.headers, trust_env=False)
    return answer.content if answer.status_code == 200 else None


def judge(plain: Reader, wrapped: Reader, record: bytes | None) -> Outcome:
    """Compare what arrived with the server's own record.

    Args:
        plain: The reader without our help.
        wrapped: The reader with it.
        record: The body that the server would have sent over a good connection; None if it does not tell.
    """
    received = wrapped.answer
    identical = wrapped.complete and received == record
    report = wrapped.report or rl.Report()
    events = received.count(_BLANK_LINE)
    whole = f" of {record.count(_BLANK_LINE):,}" if record else ""
    hidden = "hidden" if wrapped.complete else "not all could be hidden"
    rows = [
        ("how it ended", plain.ended, wrapped.ended),
        ("drops", "0" if plain.complete else "1", f"{len(wrapped.drops)}, {hidden}"),
        ("attempts", "1", f"{report.attempts}"),
        (
            "events delivered",
            f"{plain.answer.count(_BLANK_LINE):,}",
            f"{events:,}{whole}{', each once' if identical else ''}",
        ),
        ("bytes delivered", f"{len(plain.answer):,}", f"{len(received):,}, SHA-256 {_digest(received)}"),
        ("the server's own record", "", f"{len(record):,}, SHA-256 {_digest(record)}" if record else "none"),
        ("bytes identical", "", "yes" if identical else "no" if record else "cannot be compared"),
        ("tokens not generated again", "", f"{report.tokens_not_paid_twice:,}"),
        ("time lost to drops", "", f"{wrapped.seconds_lost:.2f} s"),
    ]
    return Outcome(rows, _summary(wrapped, record, identical), identical)


def _summary(wrapped: Reader, record: bytes | None, identical: bool) -> str:
    drops = len(wrapped.drops)
    if identical:
        return (
            f"{drops} drops, and the application saw none: what it received is, byte for byte, the answer that the "
            "server has on record."
        )
    if not wrapped.complete:
        return (
            f"After {drops} drops the rest could not be had. The wrapped client says so instead of passing off a part "
            f"as the whole, and keeps the {len(wrapped.text):,} characters it has."
        )
    if record is None:
        return "The answer arrived whole, but this server has no record of it to compare with."
    return "What the wrapped client received is NOT what the server has on record. This is a bug: please report it."


def _digest(data: bytes) -> str:
    return f"{sha256(data).hexdigest()[:12]}…"
