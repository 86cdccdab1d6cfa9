"""What becomes of a drop with each server and each client: rows that `test_systems.py` holds true.

`python -m tests.systems.table` writes them down as a page of the documentation. Nothing here knows how the package goes
about it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.systems import clients
from tests.systems.clients import Reader

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "systems.md"

HIDDEN = "hidden"
POLLED = "hidden, by the poll"
LOST = "CannotResume"
EXPIRED = "ResumeExpired"
AGAIN = "hidden, asked again"

SYSTEMS = {
    "llama": "llama.cpp",
    "llama_for_groq": "llama.cpp",
    "langgraph_server": "LangGraph, dev server",
    "fastresponses_server": "fastresponses",
    "mcp_server": "MCP python SDK, server with an event store",
    "durable_streams_server": "Durable Streams, reference server",
    "aimock": "aimock",
}
"""By the fixture that starts it."""


@dataclass(frozen=True)
class Row:
    """A client in front of a server.

    Args:
        server: The fixture.
        client: For the page.
        reader: Asks and reads.
        final: What the client makes of the answer, for the page.
        outcome: `HIDDEN`, `POLLED`, or the name of the error.
        way: How the rest is had, for the page.
        requests: Requests for each drop; None: as many as it takes.
        at_end: Requests after the answer: ours, which ask whether it is complete.
        own: Requests after the answer that the SDK makes by itself.
        unwrapped: The same of those that it makes only where nobody watches over it.
        fresh: Keys of what the server makes up for each answer.
        times: Keys of times, and of what else depends on when it was asked, as what the server still has in its cache.
        record: Whether the server can be asked for the very answer that was read, so that nothing need be overlooked.
        at_once: Answers that the server gives at a time.
        before: Streams that have begun before the question, if the reader says when that comes.
        method: Of the requests that count, if the reader sends others as well.
        tail: Last events that say nothing: if they are cut off, nobody asks for them.
        untold: How many of those the SDK would have shown.
        unbegun: The outcome of a cut before the first event.
        asks: What the requests after the answer are for.
        clean: Whether a clean end can be told from the real one.
        empty: The outcome of a way back that is answered by a clean end and nothing else.
        python: The oldest Python for which pyproject.toml demands the client.
    """

    server: str
    client: str
    reader: Reader
    final: str
    outcome: str = HIDDEN
    way: str = ""
    requests: int | None = 1
    at_end: int = 0
    own: int = 0
    unwrapped: int = 0
    fresh: tuple[str, ...] = ()
    times: tuple[str, ...] = ()
    record: bool = False
    at_once: int = 1
    before: int | None = None
    method: str | None = None
    tail: int = 0
    untold: int = 0
    unbegun: str = HIDDEN
    asks: str = ""
    empty: str = HIDDEN
    clean: bool = True
    python: tuple[int, int] = (3, 10)

    def __str__(self) -> str:
        name = self.reader.func.__name__ if isinstance(self.reader, functools.partial) else self.reader.__name__
        return f"{self.server.removesuffix('_server')}-{name}"


def _llama(
    client: str, reader: Reader, final: str, server: str = "llama", *, times: tuple[str, ...] = (), **options: Any
) -> Row:
    return Row(
        server,
        client,
        reader,
        final,
        way="`GET /v1/stream` from the byte",
        fresh=("id", "item_id", "provider_response_id"),
        times=(
            "created",
            "created_at",
            "completed_at",
            "timestamp",
            "timings",
            "cached_tokens",
            "cache_read_tokens",
            "cache_read_input_tokens",
            *times,
        ),
        record=True,
        **options,
    )


def _langgraph(client: str, reader: Reader, final: str) -> Row:
    return Row(
        "langgraph_server",
        client,
        reader,
        final,
        way="GET of the `Location` with `Last-Event-ID`",
        at_end=2,
        unwrapped=1,
        asks="whether there is more, and whether the run is over",
        requests=None,
        empty=EXPIRED,
        fresh=("id",),
        record=True,
        at_once=8,
    )


def _fastresponses(client: str, reader: Reader, final: str, **options: Any) -> Row:
    options = {"fresh": ("id", "item_id"), "times": ("created_at", "completed_at", "obfuscation"), **options}
    return Row("fastresponses_server", client, reader, final, at_once=5, **options)


def _aimock(
    client: str, reader: Reader, final: str, fresh: tuple[str, ...], times: tuple[str, ...] = (), **options: Any
) -> Row:
    options = {"outcome": LOST, "requests": 0, "unbegun": AGAIN, "at_once": 5, **options}
    return Row("aimock", client, reader, final, fresh=fresh, times=times, **options)


def _with(reader: Any, **options: Any) -> Reader:
    return functools.partial(reader, **options)


_WHOLE = {"prompt": "whole"}
_MADE_UP = ("id", "run_id", "thread_id", "langgraph_checkpoint_ns", "checkpoint_ns")
_UNKEPT = clients.run(["messages-tuple"], resumable=False)

_MESSAGES: dict[str, Any] = {"untold": 1, "times": ("input_tokens",)}  # which are those that were not in the cache

ROWS = [
    _llama("openai: `chat.completions.create`", clients.openai_chat, "text"),
    _llama("AsyncOpenAI: `chat.completions.create`", clients.openai_chat_async, "text"),
    _llama("openai: `chat.completions.stream`", clients.openai_chat_helper, "`get_final_completion()`"),
    _llama("AsyncOpenAI: `chat.completions.stream`", clients.openai_chat_helper_async, "`get_final_completion()`"),
    _llama(
        "openai: `responses.create`",
        _with(clients.openai_responses_events, prompt=clients.PROMPT, max_output_tokens=8, temperature=0),
        "`response.completed`",
    ),
    _llama("groq: `chat.completions.create`", clients.groq_chat, "text", "llama_for_groq"),
    _llama("mistralai: `chat.stream`", clients.mistral_chat, "text", python=(3, 11)),
    _llama("mistralai: `chat.stream_async`", clients.mistral_chat_async, "text", python=(3, 11)),
    _llama("LangChain: `ChatOpenAI.stream`", clients.langchain_chat, "sum of the chunks", python=(3, 11)),
    _llama("LangChain: `ChatOpenAI.astream`", clients.langchain_chat_async, "sum of the chunks", python=(3, 11)),
    _llama("Pydantic AI: `OpenAIChatModel`", clients.pydantic_ai_chat, "`ModelResponse`", python=(3, 11)),
    _llama("anthropic: `messages.stream`", clients.anthropic_messages, "`get_final_message()`", **_MESSAGES),
    _llama("AsyncAnthropic: `messages.stream`", clients.anthropic_messages_async, "`get_final_message()`", **_MESSAGES),
    _langgraph(
        "langgraph-sdk, async: `runs.stream`, messages-tuple",
        _with(clients.langgraph_async, **clients.run(["messages-tuple"])),
        "text",
    ),
    _langgraph(
        "langgraph-sdk: `runs.stream`, values and updates",
        _with(clients.langgraph, **clients.run(["values", "updates"])),
        "the last values",
    ),
    _langgraph(
        "langgraph-sdk: `runs.stream`, all three, in bursts",
        _with(clients.langgraph, **clients.run(["messages-tuple", "values", "updates"], seconds=0)),
        "the last values",
    ),
    Row(
        "langgraph_server",
        "`connect_sse`, not `stream_resumable`",
        _with(clients.langgraph_events, **_UNKEPT),
        "text",
        LOST,
        requests=0,
        at_end=1,
        asks="whether the run is over, if the end was clean",
        clean=False,
        fresh=_MADE_UP,
        at_once=8,
        unbegun=LOST,
    ),
    Row(
        "langgraph_server",
        "langgraph-sdk: `runs.stream`, not `stream_resumable`",
        _with(clients.langgraph, **_UNKEPT),
        "text",
        LOST,
        requests=0,
        at_end=1,
        unwrapped=1,
        asks="whether the run is over, if the end was clean",
        clean=False,
        fresh=_MADE_UP,
        at_once=8,
        unbegun=LOST,
    ),
    _fastresponses(
        "openai: `responses.stream`, background",
        _with(clients.openai_responses, prompt=clients.SAY, background=True),
        "`get_final_response()`",
        outcome=POLLED,
        way="`GET /v1/responses/{id}` until it is finished",
        requests=None,
        record=True,
        unbegun=LOST,
    ),
    _fastresponses(
        "`connect_sse` on `/v1/responses/{id}/events`",
        clients.fastresponses_events,
        "`response.completed`",
        way="the same with `starting_after`",
        requests=None,
        record=True,
        before=0,
        method="GET",
    ),
    _fastresponses(
        "openai: `responses.create`, not background",
        _with(clients.openai_responses_events, prompt=clients.SAY),
        "`response.completed`",
        outcome=LOST,
        requests=0,
        unbegun=AGAIN,
    ),
    Row(
        "mcp_server",
        "mcp: `ClientSession.call_tool`",
        _with(clients.mcp_tool, steps=8, seconds=0.02),
        "progress and result",
        way="`GET /mcp` with `Last-Event-ID`",
        requests=None,
        own=2,
        before=2,
        unbegun="MCPError",
    ),
    Row(
        "durable_streams_server",
        "`connect_sse`",
        clients.durable_stream,
        "what was appended",
        way="GET of the same URL with the last offset",
        at_once=5,
        before=0,
        method="GET",
    ),
    _aimock(
        "openai: `chat.completions.create`", _with(clients.openai_chat, **_WHOLE), "text", ("id",), ("created",), tail=1
    ),
    _aimock(
        "AsyncOpenAI: `chat.completions.create`",
        _with(clients.openai_chat_async, **_WHOLE),
        "text",
        ("id",),
        ("created",),
        tail=1,
    ),
    _aimock(
        "openai: `responses.create`",
        _with(clients.openai_responses_events, **_WHOLE),
        "`response.completed`",
        ("id", "item_id"),
        ("created_at",),
    ),
    _aimock(
        "anthropic: `messages.create`", _with(clients.anthropic_events, **_WHOLE), "text", ("id",), tail=1, untold=1
    ),
    _aimock(
        "google-genai: `chats`",
        _with(clients.genai_chat, **_WHOLE),
        "`get_history()`",
        ("response_id",),
        python=(3, 11),
    ),
    _aimock(
        "google-genai, async: `chats`",
        _with(clients.genai_chat_async, **_WHOLE),
        "`get_history()`",
        ("response_id",),
        python=(3, 11),
    ),
    _aimock(
        "google-genai: `interactions.create`",
        _with(clients.genai_interactions, **_WHOLE),
        "text",
        ("id", "event_id"),
        ("created", "updated"),
        outcome=EXPIRED,
        requests=2,
        python=(3, 11),
    ),
]

# The page


def render() -> str:
    """The page of the documentation."""
    columns = ("client", "a drop is", "way back", "fidelity", "requests a drop", "the same as uncut")
    parts = []
    for system in dict.fromkeys(SYSTEMS.values()):
        rows = [_shown(row) for row in ROWS if SYSTEMS[row.server] == system]
        lines = [f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows)]
        parts.append("\n".join([f"## {system}", "", *lines, *_notes(system)]))
    return _PAGE.format(tables="\n\n".join(parts))


def _shown(row: Row) -> tuple[str, ...]:
    if row.outcome not in (HIDDEN, POLLED):
        return row.client, _named(row.outcome), "none", "", str(row.requests), "`partial_text`: what was sent"
    requests = "1 or more" if row.requests is None else str(row.requests)
    return row.client, row.outcome, row.way, "exact", requests, row.final


def _notes(system: str) -> list[str]:
    rows = [row for row in ROWS if SYSTEMS[row.server] == system]
    notes = []
    for unbegun in dict.fromkeys(row.unbegun for row in rows if row.unbegun not in (HIDDEN, row.outcome)):
        those = [row for row in rows if row.unbegun == unbegun]
        notes.append(f"A drop before the first event{_of(those, rows)}: {_named(unbegun)}.")
    for asks in dict.fromkeys(row.asks for row in rows if row.asks):
        those = [row for row in rows if row.asks == asks]
        notes.append(f"At the end{_of(those, rows)}, drop or not, {those[0].at_end} more to ask {asks}.")
    if any(row.untold for row in rows):
        notes.append("`message_stop` may be missing if the drop left out nothing else of Anthropic's messages.")
    unclear = [row for row in rows if not row.clean]
    if unclear:
        notes.append(
            f"A clean end before the last event, once the run is over{_of(unclear, rows)}: nothing tells it from the "
            "real one, so there is no error, but `report.end_proved` is false."
        )
    for empty in dict.fromkeys(row.empty for row in rows if row.empty != HIDDEN):
        those = [row for row in rows if row.empty == empty]
        notes.append(f"A way back that is answered by a clean end and nothing else{_of(those, rows)}: {_named(empty)}.")
    return [line for note in notes for line in ("", note)]


def _of(those: list[Row], rows: list[Row]) -> str:
    return "" if len(those) == len(rows) else f" ({'; '.join(row.client for row in those)})"


def _named(outcome: str) -> str:
    return outcome if outcome.startswith(HIDDEN) else f"`{outcome}`"


_PAGE = """\
# Real servers

What a reader sees when a connection to a real server breaks in the middle of an answer. Every row is a test: the
server is one that others wrote, in the version that the tests pin, the client is wrapped with `rl.wrap`, and between
them stands a proxy that cuts the connection at twenty random places of the answer, in the middle of events and between
them, with a reset, a FIN and a clean end, up to three times in one answer.

hidden
: Nobody can tell how many connections it took: the SDK gives the very events, and makes the very object of them, that
  it makes without us of what the server itself has kept of this answer. Where the server cannot be asked for that, it
  is held against another, uncut answer; only ids that the server makes up for each answer, and times, may differ.

hidden, by the poll
: The same of the object; the events behind the drop are made from the finished answer.

hidden, asked again
: Nothing had been received, so the request was sent once more, with the same idempotency key.

an error
: It is, or is caused by, the one named; its `partial_text` and its checkpoint are exactly what was sent before the cut,
  and the events are the first of the uncut answer's. See [errors](errors.md).

In every row the answer was generated once, but for what was asked again; an answer that is not cut gives no alarm and
takes one request, but for those named; and a connection that breaks behind the event that ends an answer is no drop.

{tables}
"""


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    print(f"wrote {PAGE}")  # noqa: T201
