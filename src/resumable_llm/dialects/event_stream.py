"""Any server of event streams: how every question to a dialect is answered unless the dialect knows better.

The base of all dialects, and by itself the one named ``last_event_id``: MCP, the relay, any WHATWG event source.
Source: https://html.spec.whatwg.org/multipage/server-sent-events.html (section 9.2), read 2026-11-22.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from resumable_llm.core.dialect import Dialect, Facts, Ordinary, PollResult, Unusable
from resumable_llm.core.events import Fields
from resumable_llm.core.framing import EVENT_STREAM, Framing
from resumable_llm.core.model import NOTHING, Headers, Progress, Reading, RequestPlan
from resumable_llm.core.speech import Speech
from resumable_llm.core.transcript import Transcript

_NAME = re.compile(r"[\w.:/-]{1,100}")
_STREAM_WANTED = re.compile(rb'"stream"\s*:\s*true')


class EventStream:
    """A server that numbers its events with ``id:`` lines and goes on behind the one that ``Last-Event-ID`` names."""

    name: str = "last_event_id"
    facts: Facts = Facts(
        systems="any server of event streams that sends `id:` lines",
        resume="the `Location` it gave, or the same request, with `Last-Event-ID`",
        end="nothing in the stream; asked once more with the last id, the server has no more (204 or an empty answer)",
        closing="the server's choice",
        kept="the server's choice",
        sources=("https://html.spec.whatwg.org/multipage/server-sent-events.html, section 9.2, 2026-11-22",),
    )
    framing: Framing = EVENT_STREAM
    speech: Speech | None = None
    proves_end: bool = False
    honours_ids: bool = True
    repeats_last: bool = False
    is_log: bool = False
    confirms_by_poll: bool = False
    withheld: frozenset[str] = frozenset()
    detached: bool = False
    ordinary: Ordinary | None = None
    overlaps: bool = False
    sequence_key: bytes | None = None
    keeps: str = "the server sent no event ids, so nothing says where to go on"

    def recognises(self, request: RequestPlan) -> bool:
        """Any request that accepts an event stream."""
        return "text/event-stream" in (request.header("accept") or "")

    def prepare(self, request: RequestPlan, key: str) -> RequestPlan:
        """Ask for a body that is not compressed, for a resume counts in its bytes; and name the call."""
        signed = "accept-encoding" in (request.header("authorization") or "")  # as AWS's clients do
        added = [] if signed else [("Accept-Encoding", "identity")]
        if request.method == "POST" and request.header("idempotency-key") is None:
            added.append(("Idempotency-Key", key))
        return request.with_headers(*added)

    def upgrade(self, request: RequestPlan) -> RequestPlan:
        """As it is."""
        return request

    def answered_by(self, request: RequestPlan, headers: Headers) -> Dialect:
        """This one."""
        return self

    def handle(self, request: RequestPlan, headers: Headers) -> str | None:
        """None: the URL says it all."""
        return None

    def read(self, event: Fields) -> Reading:
        """Nothing: ids are the conversation's affair."""
        return NOTHING

    def counts(self, block: bytes) -> bool:
        """True."""
        return True

    def ended(self, request: RequestPlan, transcript: Transcript) -> bool:
        """False: nothing in a plain event stream says that it is complete."""
        return False

    def resume(self, progress: Progress) -> RequestPlan | None:
        """None: Last-Event-ID is what the conversation tries next."""
        return None

    def may_repeat(self, progress: Progress) -> bool:
        """Yes, as SDKs themselves do, with the same idempotency key."""
        return True

    def gone(self, status: int, body: bytes) -> bool:
        """False: 404, 410 and 416 are understood for every dialect."""
        return False

    def poll(self, progress: Progress) -> RequestPlan | None:
        """None."""
        return None

    def read_poll(self, headers: Headers, body: bytes, progress: Progress, transcript: Transcript) -> PollResult:
        """Unusable."""
        return Unusable("this protocol has no way to read a finished answer")

    def cancel(self, progress: Progress) -> RequestPlan | None:
        """None: closing the connection is the only sign that there is."""
        return None

    def text(self, event: Fields) -> str:
        """The data."""
        return event.data or ""


class AnyEventStream(EventStream):
    """A server of which nothing more is known: its ids are the conversation's affair, so no event need be read."""

    ordinary = re.compile(rb"(?:(?:event: .*\n)?data: .*\n\n)+")


class LastEventId(EventStream):
    """An event stream whose end the caller knows.

    Args:
        terminal: The event that ends an answer: its name, its whole data, or a function that recognises it.
    """

    proves_end = True

    def __init__(self, terminal: str | Callable[[Fields], bool]) -> None:
        self._is_terminal = terminal if callable(terminal) else lambda event: terminal in (event.event, event.data)

    def read(self, event: Fields) -> Reading:
        """Whether it is the terminal event."""
        return Reading(terminal=True) if self._is_terminal(event) else NOTHING


def wants_stream(request: RequestPlan) -> bool:
    """Whether a JSON body asks for a stream. Searched before it is parsed: bodies with images are large."""
    if request.method != "POST" or request.body is None or _STREAM_WANTED.search(request.body) is None:
        return False
    return json_object(request.body).get("stream") is True  # and not some object within


def json_object(text: str | bytes | None) -> dict[str, Any]:
    """The JSON object in a text; an empty one if there is none."""
    try:
        found = json.loads(text or "")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def object_in(payload: dict[str, Any], key: str) -> dict[str, Any]:
    """The object under a key; an empty one if there is something else, or nothing."""
    found = payload.get(key)
    return found if isinstance(found, dict) else {}


def error_text(error: object) -> str:
    """An in-stream error in a few words: its code or type, not its message, which may quote the prompt."""
    if isinstance(error, dict):
        names = (error.get("code"), error.get("type"))
        return next((str(name) for name in names if name and _NAME.fullmatch(str(name))), "unnamed error")
    return "unnamed error"
