"""The relay of this library, which keeps the answers of any provider, behind the format of whichever it stands before.

Not recognised by requests: whoever sends one to a relay knows. An answer that the relay keeps has a ``Location`` there,
and an ``id:`` at every event; the rest of it is a GET away, behind ``Last-Event-ID``. What it does not keep, it passes
on, and then the format's own ways are all that there is. Should the relay have lost an answer that the provider keeps,
the format may read it there, through the relay.

google-genai cannot read ``id:`` lines, so its answers have none. They are told again from the start, and compared.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from resumable_llm.core.dialect import Dialect, Facts, PollResult
from resumable_llm.core.events import Fields
from resumable_llm.core.model import Headers, Progress, Reading, RequestPlan, resolve
from resumable_llm.core.transcript import Transcript
from resumable_llm.dialects.event_stream import EventStream

_KEPT = re.compile(r"/_streams/[A-Za-z0-9_-]+$")
_CURSOR = re.compile(r"[0-9.]*")
# By which, besides headers, the relay knows its callers.
_CREDENTIALS = ("key", "api_key", "api-key", "access_token")


class Relayed(EventStream):
    """An answer from the relay.

    Args:
        format: The provider's dialect.
    """

    facts = Facts(
        systems="this library's relay, to clients with `relay=`, behind the format of any provider",
        resume="GET of the `Location` with `Last-Event-ID`",
        end="what ends it in the format",
        closing="nothing: the answer goes on, unless the relay was told otherwise",
        cancel="`DELETE` of the `Location`",
        kept="until `--ttl` seconds after its end",
        sources=("docs/how-to/run-the-relay.md, 2026-11-22",),
    )
    keeps = "the relay keeps an answer for a while after its end; it may have been restarted and have lost it"

    def __init__(self, format: Dialect) -> None:
        self._format = format
        self.name = f"relay/{format.name}"
        self.framing = format.framing
        self.speech = format.speech
        self.ordinary = format.ordinary
        self.sequence_key = format.sequence_key
        self.withheld = format.withheld
        self.is_log = format.name == "gemini_generate"  # events without ids, which come again from the first
        # The relay says itself when an answer is not whole. Who asks it for all of it once more, because nothing in the
        # format is the very last event, does so after a good end and not after a drop.
        self.proves_end = format.proves_end and not self.is_log

    def recognises(self, request: RequestPlan) -> bool:
        """As the format does."""
        return self._format.recognises(request)

    def prepare(self, request: RequestPlan, key: str) -> RequestPlan:
        """As the format does."""
        return self._format.prepare(request, key)

    def upgrade(self, request: RequestPlan) -> RequestPlan:
        """As the format does."""
        return self._format.upgrade(request)

    def answered_by(self, request: RequestPlan, headers: Headers) -> Dialect:
        """This one, if the relay keeps the answer."""
        kept = _KEPT.search(urlsplit(headers.get("location", "")).path)
        return self if kept else self._format.answered_by(request, headers)

    def handle(self, request: RequestPlan, headers: Headers) -> str | None:
        """As the format does."""
        return self._format.handle(request, headers)

    def read(self, event: Fields) -> Reading:
        """What the format reads.

        No failure passes: what the relay has said is kept, so asked again it would say the same. And there is but one
        cursor.
        """
        return self._format.read(event)._replace(cursor=None, transient=False, retry_after=None)

    def ended(self, request: RequestPlan, transcript: Transcript) -> bool:
        """As the format does."""
        return self._format.ended(request, transcript)

    def resume(self, progress: Progress) -> RequestPlan | None:
        """What is behind the last event; without ids, all of it again."""
        cursor = progress.position.last_event_id
        plan = self._there(progress, **({"ids": "none"} if self.is_log else {}))
        if plan is None or not _CURSOR.fullmatch(cursor) or (progress.delivered and not (cursor or self.is_log)):
            return None
        named = (("Last-Event-ID", cursor),) if cursor else ()
        return plan.with_headers(
            ("Accept", "text/event-stream"), ("Accept-Encoding", "identity"), *named, without=("last-event-id",)
        )

    def may_repeat(self, progress: Progress) -> bool:
        """As the format does."""
        return self._format.may_repeat(progress)

    def poll(self, progress: Progress) -> RequestPlan | None:
        """Where the provider keeps the finished answer, for a relay that has lost it."""
        return self._format.poll(progress)

    def read_poll(self, headers: Headers, body: bytes, progress: Progress, transcript: Transcript) -> PollResult:
        """As the format does."""
        return self._format.read_poll(headers, body, progress, transcript)

    def cancel(self, progress: Progress) -> RequestPlan | None:
        """``DELETE`` of what is kept."""
        plan = self._there(progress)
        return None if plan is None else RequestPlan("DELETE", plan.url, plan.headers)

    def text(self, event: Fields) -> str:
        """As the format does."""
        return self._format.text(event)

    def _there(self, progress: Progress, **query: str) -> RequestPlan | None:
        """A request for what the relay keeps, if it has said where."""
        request, location = progress.request, progress.location
        target = None if location is None else resolve(request.url, location)
        kept = {name: value for name, value in request.query.items() if name.lower() in _CREDENTIALS}
        return None if target is None else request.get(target, **{**kept, **query})
