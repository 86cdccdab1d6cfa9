"""The fault matrix: every fault, in front of every kind of server, for every kind of client, and what comes of it.

`EXPECTED` is the promise, `test_fault_matrix.py` holds every cell to it, and `python -m tests.sockets.matrix` writes
it down as a page of the documentation. Nothing here knows how the package goes about it.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

import resumable_llm as rl
from tests.sockets import wire
from tests.sockets.clients import FAMILIES, LOOPS, SECRETS, async_client, busy, client, policy
from tests.sockets.scripted import EVENT_STREAM, Answer, End, Request, Script, Scripted

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "fault-matrix.md"

# Servers


@dataclass(frozen=True)
class Backdrop:
    """A kind of server.

    Args:
        name: Short.
        title: For the page.
        method: Of the request that starts the answer.
        path: Of that request.
        events: The whole answer.
        cut: Events before the fault.
        body: Of that request.
        terminal: Given to `connect_sse`, for servers whose protocol is not known.
    """

    name: str
    title: str
    method: str
    path: str
    events: list[wire.Event]
    cut: int
    body: dict[str, Any] | None = None
    terminal: str | None = None

    @property
    def blocks(self) -> list[bytes]:
        return wire.blocks(self.events)

    def honour(self, request: Request) -> Answer:
        """What a server answers that does as it should."""
        if self.name == "responses" and request.method == "GET":
            if request.query.get("stream") != "true":
                return Answer.json(json.dumps(wire.response()))
            return Answer(self.blocks[int(request.query["starting_after"]) + 1 :])
        cursor = request.headers.get("last-event-id")
        if cursor is None:
            return Answer(self.blocks)
        rest = self.blocks[[event.id for event in self.events].index(cursor) + 1 :]
        return Answer(rest) if rest else Answer(status=204, headers={})


_CHAT = {"model": "m", "messages": [{"role": "user", "content": "?"}], "stream": True}

BACKDROPS = {
    each.name: each
    for each in (
        Backdrop("get", "GET, `id:` lines", "GET", "/events", wire.numbered(wire.plain()), 3),
        Backdrop(
            "post", "POST, `id:` lines, `terminal=`", "POST", "/e", wire.numbered(wire.plain()), 3, {"q": 1}, "done"
        ),
        Backdrop(
            "chat_ids",
            "chat completions with `id:` lines",
            "POST",
            "/chat/completions",
            wire.numbered(wire.chat()),
            4,
            _CHAT,
        ),
        Backdrop(
            "responses",
            "Responses, `background`",
            "POST",
            "/responses",
            wire.responses(),
            7,
            {"model": "m", "input": "?", "background": True, "stream": True},
        ),
        Backdrop("chat", "chat completions", "POST", "/chat/completions", wire.chat(), 4, _CHAT),
    )
}

# Faults


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong.

    Args:
        title: For the page.
        script: The server's answers, and how it answers after them; given the backdrop and the URL of another origin.
        patience: Longest time without an event, in seconds, where the fault is that nothing comes.
    """

    title: str
    script: Callable[[Backdrop, str], tuple[list[Answer], Script | None]]
    patience: float = 10.0


def _cut(end: End, *more: Callable[[bytes], bytes]) -> Callable[[Backdrop, str], tuple[list[Answer], Script | None]]:
    """The first answer ends so, behind part of the next event if that is asked for; all is well afterwards."""

    def script(backdrop: Backdrop, other: str) -> tuple[list[Answer], Script | None]:
        part = [take(backdrop.blocks[backdrop.cut]) for take in more]
        return [Answer([*backdrop.blocks[: backdrop.cut], *part], end)], backdrop.honour

    return script


def _half(block: bytes) -> bytes:
    return block[: len(block) * 2 // 3]


def _without_blank_line(block: bytes) -> bytes:
    return block[:-1]


def _resumed(
    answer: Callable[[Backdrop, str], Answer], *, again: bool = False, polls: bool = True
) -> Callable[[Backdrop, str], tuple[list[Answer], Script | None]]:
    """The first answer is cut, and the first request for the rest is answered so, or with ``again`` every one."""

    def script(backdrop: Backdrop, other: str) -> tuple[list[Answer], Script | None]:
        cut = Answer(backdrop.blocks[: backdrop.cut], End.FIN)
        answered = answer(backdrop, other)

        def rest(request: Request) -> Answer:
            is_poll = backdrop.name == "responses" and request.method == "GET" and "stream" not in request.query
            return backdrop.honour(request) if is_poll and polls else answered

        return ([cut], rest) if again else ([cut, answered], backdrop.honour)

    return script


def _location(backdrop: Backdrop, other: str) -> tuple[list[Answer], Script | None]:
    headers = {**EVENT_STREAM, "location": other + backdrop.path}
    return [Answer(backdrop.blocks[: backdrop.cut], End.FIN, headers=headers)], backdrop.honour


def _error(status: int, message: str) -> Callable[[Backdrop, str], Answer]:
    return lambda backdrop, other: Answer.json(json.dumps({"error": {"message": message}}), status)


FAULTS = {
    "fin": Fault("FIN without the last chunk", _cut(End.FIN)),
    "rst": Fault("RST", _cut(End.RST)),
    "end": Fault("clean EOF, no terminal event", _cut(End.CLEAN)),
    "end_inside": Fault("clean EOF inside an event", _cut(End.CLEAN, _half)),
    "end_no_blank": Fault("clean EOF after a whole data line, no blank line", _cut(End.CLEAN, _without_blank_line)),
    "fin_inside": Fault("FIN inside an event", _cut(End.FIN, _half)),
    "silence": Fault("silence", _cut(End.SILENT), patience=0.25),
    "pings": Fault("silence under pings", _cut(End.PINGS), patience=0.15),
    "replay": Fault("the resume tells everything again", _resumed(lambda backdrop, other: Answer(backdrop.blocks))),
    "redirect": Fault(
        "307 to another origin",
        _resumed(lambda backdrop, other: Answer(status=307, headers={"location": other + backdrop.path})),
    ),
    "location": Fault("`Location` at another origin", _location),
    "empty": Fault("resumes answered 200 and empty", _resumed(lambda backdrop, other: Answer(), again=True)),
    "json": Fault("resume answered 200 and JSON", _resumed(lambda backdrop, other: Answer.json('{"detail":"hello"}'))),
    "404": Fault("resumes answered 404, polls fine", _resumed(_error(404, "not found"), again=True)),
    "410": Fault("resumes and polls answered 410", _resumed(_error(410, "gone"), again=True, polls=False)),
    "400": Fault(
        'resumes answered 400 "no longer be streamed"',
        _resumed(
            _error(400, "This response can no longer be streamed because it is more than 5 minutes old."), again=True
        ),
    ),
    "500": Fault("resume answered 500, then fine", _resumed(_error(500, "oops"))),
    "gap": Fault(
        "the resume leaves an event out", _resumed(lambda backdrop, other: Answer(backdrop.blocks[backdrop.cut + 1 :]))
    ),
}

# What comes of it: the outcome and the number of requests, the first included. None: the fault cannot be made there.

HIDDEN = "hidden"
POLLED = "hidden, by the poll"

Outcome = tuple[str, int]

NO_WAY: Outcome = ("CannotResume", 1)
REFUSED: Outcome = ("CannotResume", 2)
ONCE: Outcome = (HIDDEN, 2)
ASKED: Outcome = (HIDDEN, 3)
"""No event ends an answer of this server, so it is asked once more whether there is anything behind the last."""
POLL: Outcome = (POLLED, 3)
EXPIRED: Outcome = ("ResumeExpired", 2)

EXPECTED: dict[str, dict[str, Outcome | None]] = {
    fault: dict(zip(BACKDROPS, outcomes, strict=True))
    for fault, outcomes in {
        #                GET           POST          chat, ids     Responses     chat
        "fin":          (ASKED,        ONCE,         ONCE,         ONCE,         NO_WAY),
        "rst":          (ASKED,        ONCE,         ONCE,         ONCE,         NO_WAY),
        "end":          (ASKED,        ONCE,         ONCE,         ONCE,         NO_WAY),
        "end_inside":   (ASKED,        ONCE,         ONCE,         ONCE,         NO_WAY),
        "end_no_blank": (ASKED,        ONCE,         ONCE,         ONCE,         NO_WAY),
        "fin_inside":   (ASKED,        ONCE,         ONCE,         ONCE,         NO_WAY),
        "silence":      (ASKED,        ONCE,         ONCE,         ONCE,         NO_WAY),
        "pings":        (ASKED,        ONCE,         ONCE,         ONCE,         NO_WAY),
        "replay":       (ASKED,        ONCE,         ONCE,         ONCE,         NO_WAY),
        "redirect":     (REFUSED,      REFUSED,      REFUSED,      REFUSED,      NO_WAY),
        "location":     (NO_WAY,       NO_WAY,       NO_WAY,       ONCE,         NO_WAY),
        "empty":        (None,         ("RetriesExhausted", 4), ("RetriesExhausted", 4), POLL, NO_WAY),
        "json":         (REFUSED,      REFUSED,      REFUSED,      REFUSED,      NO_WAY),
        "404":          (EXPIRED,      EXPIRED,      EXPIRED,      POLL,         NO_WAY),
        "410":          (EXPIRED,      EXPIRED,      EXPIRED,      ("ResumeExpired", 3), NO_WAY),
        "400":          (REFUSED,      REFUSED,      REFUSED,      POLL,         NO_WAY),
        "500":          ((HIDDEN, 4),  (HIDDEN, 3),  (HIDDEN, 3),  (HIDDEN, 3),  NO_WAY),
        "gap":          (None,         None,         None,         ("GapDetected", 2), NO_WAY),
    }.items()
}  # fmt: skip

# Clients


@dataclass(frozen=True)
class Reader:
    """A way to read a stream.

    Args:
        how: ``connect_sse``, ``client`` (bare, wrapped) or ``openai`` (the SDK's client, wrapped).
        family: ``httpx`` or ``httpx2``.
        loop: ``asyncio``, ``trio``, or None for blocking.
    """

    how: str
    family: str
    loop: str | None

    def __str__(self) -> str:
        return f"{self.how}-{self.family}-{self.loop or 'sync'}"


READERS = [
    Reader(how, family, loop)
    for how in ("connect_sse", "client", "openai")
    for family in FAMILIES
    for loop in (None, *LOOPS)
]
KNOWS = {
    "connect_sse": set(BACKDROPS),
    "client": set(BACKDROPS) - {"post"},
    "openai": {"chat_ids", "responses", "chat"},
}
"""Which servers each can talk to: only `connect_sse` can be told a terminal event, and the SDK speaks OpenAI."""

CELLS = [
    (fault, backdrop, reader)
    for fault, outcomes in EXPECTED.items()
    for backdrop, outcome in outcomes.items()
    for reader in READERS
    if outcome is not None and backdrop in KNOWS[reader.how]
]


@dataclass
class Seen:
    """What a reader came to see."""

    items: list[Any] = field(default_factory=list)
    error: Exception | None = None
    handle: Any = None
    requests: list[Request] = field(default_factory=list)
    strangers: int = 0
    """Connections that the other origin saw."""
    held: list[object] = field(default_factory=list)
    """Connections that were not let go of."""


def run(fault: Fault, backdrop: Backdrop, reader: Reader) -> Seen:
    """Read one answer through one fault."""
    seen = Seen()
    with Scripted() as other:
        answers, rest = fault.script(backdrop, other.url)
        with Scripted(*answers, rest=rest) as server:
            patience = policy(first_event_timeout=fault.patience, event_timeout=fault.patience)
            if reader.loop is None:
                _read(reader, backdrop, server.url, patience, seen)
            else:
                anyio.run(_aread, reader, backdrop, server.url, patience, seen, backend=reader.loop)
            seen.requests = list(server.requests)
        seen.strangers = other.accepted
    return seen


def whole(backdrop: Backdrop, reader: Reader) -> list[Any]:
    """What the reader would see if nothing went wrong."""
    if reader.how == "connect_sse":
        return [(event.name or "message", event.data, event.id or "") for event in backdrop.events]
    if reader.how == "client":
        return [event.block for event in backdrop.events]
    return [event.json for event in backdrop.events if event.data != "[DONE]"]


def text(backdrop: Backdrop, reader: Reader, items: list[Any]) -> str:
    """The text that a person would have read."""
    if reader.how == "connect_sse":
        datas = [data for _, data, _ in items]
    elif reader.how == "client":
        datas = [line[6:] for line in b"".join(items).decode().split("\n") if line.startswith("data: ")]
    else:
        datas = [json.dumps(item) for item in items]
    if backdrop.name in ("get", "post"):
        return "".join(datas)  # as this dialect understands text
    said = [json.loads(data) for data in datas if data != "[DONE]"]
    if backdrop.name == "responses":
        return "".join(each["delta"] for each in said if each["type"] == "response.output_text.delta")
    return "".join(each["choices"][0]["delta"].get("content", "") for each in said)


def ours(error: BaseException | None) -> BaseException | None:
    """Our error, in an SDK's or as it is."""
    return error if error is None or isinstance(error, rl.ResumableError) else error.__cause__


def _request(backdrop: Backdrop) -> dict[str, Any]:
    headers = {"accept": "text/event-stream", **SECRETS}
    return {"headers": headers} if backdrop.body is None else {"headers": headers, "json": backdrop.body}


def _read(reader: Reader, backdrop: Backdrop, url: str, patience: rl.RetryPolicy, seen: Seen) -> None:
    with ExitStack() as stack:
        http = stack.enter_context(client(reader.family))
        try:
            for item in _items(reader, backdrop, url, patience, http, stack, seen):
                seen.items.append(item)
        except Exception as error:  # noqa: BLE001 - which it is, is for the test to say
            seen.error = error
        seen.held = busy(http)


def _items(
    reader: Reader, backdrop: Backdrop, url: str, patience: rl.RetryPolicy, http: Any, stack: ExitStack, seen: Seen
) -> Iterator[Any]:
    if reader.how == "connect_sse":
        asked = rl.connect_sse(
            http,
            backdrop.method,
            url + backdrop.path,
            policy=patience,
            terminal=backdrop.terminal,
            **_request(backdrop),
        )
        with asked as stream:
            seen.handle = stream
            for event in stream:
                yield event.event, event.data, event.id
    elif reader.how == "client":
        wrapped = rl.wrap(http, policy=patience)
        with wrapped.stream(backdrop.method, url + backdrop.path, **_request(backdrop)) as response:
            seen.handle = rl.inspect(response)
            yield from response.iter_bytes()
    else:
        openai = importlib.import_module("openai")
        sdk = rl.wrap(openai.OpenAI(base_url=url, api_key="s3cret", http_client=http), policy=patience)
        stream = create(sdk, backdrop)
        seen.handle = rl.inspect(stream)
        for each in stream:
            yield each.to_dict()


async def _aread(reader: Reader, backdrop: Backdrop, url: str, patience: rl.RetryPolicy, seen: Seen) -> None:
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(async_client(reader.family))
        try:
            async for item in _aitems(reader, backdrop, url, patience, http, seen):
                seen.items.append(item)
        except Exception as error:  # noqa: BLE001 - which it is, is for the test to say
            seen.error = error
        seen.held = busy(http)


async def _aitems(
    reader: Reader, backdrop: Backdrop, url: str, patience: rl.RetryPolicy, http: Any, seen: Seen
) -> AsyncIterator[Any]:
    if reader.how == "connect_sse":
        asked = rl.aconnect_sse(
            http,
            backdrop.method,
            url + backdrop.path,
            policy=patience,
            terminal=backdrop.terminal,
            **_request(backdrop),
        )
        async with asked as stream:
            seen.handle = stream
            async for event in stream:
                yield event.event, event.data, event.id
    elif reader.how == "client":
        wrapped = rl.wrap(http, policy=patience)
        async with wrapped.stream(backdrop.method, url + backdrop.path, **_request(backdrop)) as response:
            seen.handle = rl.inspect(response)
            async for chunk in response.aiter_bytes():
                yield chunk
    else:
        openai = importlib.import_module("openai")
        sdk = rl.wrap(openai.AsyncOpenAI(base_url=url, api_key="s3cret", http_client=http), policy=patience)
        stream = await create(sdk, backdrop)
        seen.handle = rl.inspect(stream)
        async for each in stream:
            yield each.to_dict()


def create(sdk: Any, backdrop: Backdrop) -> Any:
    """The SDK's call that sends the backdrop's request."""
    assert backdrop.body is not None
    resource = sdk.responses if backdrop.name == "responses" else sdk.chat.completions
    return resource.create(**backdrop.body, extra_headers=SECRETS)


# The page


def render() -> str:
    """The page of the documentation."""
    columns = list(BACKDROPS.values())
    rows = [
        f"| {FAULTS[name].title} | " + " | ".join(_shown(outcomes[each.name]) for each in columns) + " |"
        for name, outcomes in EXPECTED.items()
    ]
    head = "| fault | " + " | ".join(each.title for each in columns) + " |"
    return _PAGE.format(table="\n".join([head, "|---" * (len(columns) + 1) + "|", *rows]))


_PAGE = """\
# Fault matrix

What a reader sees when a connection breaks in the middle of an answer. Every cell is a test on real sockets, for each
of these clients that can speak to the server in question: `connect_sse` and `aconnect_sse`, a wrapped `Client` and
`AsyncClient`, a wrapped `OpenAI` and `AsyncOpenAI`; each with httpx and with httpx2; blocking, on asyncio and on trio.

hidden
: The reader sees the very events of an unbroken stream (from a wrapped client: the very bytes), each once.

hidden, by the poll
: The stream cannot be had any more, but the finished answer can: the missing text comes from there, and the last event
  holds the whole answer.

an error
: It is raised after the last event that was received, carries `partial_text`, and is a `TransportError` of the HTTP
  library too; the openai SDK gives it as the `__cause__` of its `APIConnectionError`. See [errors](errors.md).

—
: Nobody can tell. Ids are opaque, so a server that leaves an event out looks like one that does not. And where no event
  ends an answer, a server that has nothing behind the last event says that the answer is complete.

The number says how many requests it took, the first included. With a server whose protocol has no terminal event, the
last of them asks whether there is anything behind the last event.

{table}

No request, and so no header of yours, ever reached the other origin.
"""


def _shown(outcome: Outcome | None) -> str:
    if outcome is None:
        return "—"
    name, requests = outcome
    return f"{name} ({requests})" if name in (HIDDEN, POLLED) else f"`{name}` ({requests})"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    print(f"wrote {PAGE}")  # noqa: T201
