"""The nouns of the conversation: requests, positions, checkpoints, failures, reports.

Plain values. Nothing here acts, and nothing here knows a provider.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

Headers = Mapping[str, str]
"""Response headers by lower-case name."""

Fidelity = Literal["exact", "verified", "continued"]
Fallback = Literal["replay", "continue"]


def to_header(text: str) -> str:
    """A text as a header's value: in UTF-8, as the WHATWG wants ids to be sent, each byte a character."""
    return text.encode().decode("latin-1")


def from_header(value: str) -> str:
    """The text that `to_header` was given."""
    return value.encode("latin-1").decode(errors="replace")


@dataclass(frozen=True, slots=True)
class RequestPlan:
    """A request, as plain data.

    Args:
        method: HTTP method.
        url: Absolute URL.
        headers: Name and value pairs, in order; each character of a value is one byte on the wire.
        body: The whole body; None if it streams from somewhere and cannot be sent again.
    """

    method: str
    url: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = b""

    def header(self, name: str) -> str | None:
        """The value of a header, or None."""
        for key, value in self.headers:
            if key.lower() == name:
                return value
        return None

    def with_headers(self, *added: tuple[str, str], without: tuple[str, ...] = ()) -> RequestPlan:
        """This request with headers added in place of those of the same name. ``without`` takes lower-case names."""
        gone = {*[name.lower() for name, _ in added], *without}
        kept = [pair for pair in self.headers if pair[0].lower() not in gone]
        return RequestPlan(self.method, self.url, (*kept, *added), self.body)

    def with_body(self, body: bytes) -> RequestPlan:
        """This request with another body."""
        sized = self.with_headers(("Content-Length", str(len(body))), without=("transfer-encoding",))
        return replace(sized, body=body)

    def post(self, url: str, body: bytes = b"", content_type: str | None = None) -> RequestPlan:
        """A POST with this request's headers, less those about its body. The URL may be relative to this one's."""
        bare = replace(self.get(url), method="POST")
        typed = bare.with_headers(("Content-Type", content_type)) if content_type else bare
        return typed.with_body(body)

    def get(self, url: str, **query: str | int) -> RequestPlan:
        """A GET with this request's headers, less those about its body. The URL may be relative to this one's."""
        if url.startswith("//"):  # a path of this origin all the same, and no host
            here = urlsplit(self.url)
            url = f"{here.scheme}://{here.netloc}{url}"
        parts = urlsplit(urljoin(self.url, url))
        pairs = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0] not in query]
        pairs += [(name, str(value)) for name, value in query.items()]
        bare = self.with_headers(without=_BODY_HEADERS)
        return replace(
            bare, method="GET", url=urlunsplit(parts._replace(query=urlencode(pairs), fragment="")), body=b""
        )

    @property
    def path(self) -> str:
        """The URL's path."""
        return urlsplit(self.url).path

    @property
    def query(self) -> dict[str, str]:
        """The URL's query, the last of each name."""
        return dict(parse_qsl(urlsplit(self.url).query))


_BODY_HEADERS = ("content-length", "content-type", "content-encoding", "transfer-encoding", "idempotency-key", "expect")
_MAX_REFERENCE = 8192
_DEFAULT_PORTS = {"http": 80, "https": 443}


def resolve(base: str, reference: str) -> str | None:
    """The absolute URL that a server's reference means, if it has the origin of the base; otherwise None.

    What was meant for one origin is never sent to another, so nothing else that a server names is of any use.
    """
    if not reference.isprintable() or len(reference) > _MAX_REFERENCE:
        return None
    try:
        target = urlsplit(urljoin(base, reference))
        if origin(urlunsplit(target)) != origin(base):
            return None
    except ValueError:
        return None
    # User information would become credentials that the server chose.
    return urlunsplit(target._replace(netloc=urlsplit(base).netloc if "@" in target.netloc else target.netloc))


def origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port of a URL: what two URLs must share before one may see what was meant for the other."""
    parts = urlsplit(url)
    return parts.scheme.lower(), (parts.hostname or "").lower(), parts.port or _DEFAULT_PORTS.get(parts.scheme.lower())


class Position(NamedTuple):
    """A place between two events of an answer.

    Every stream has all of it; which part a server understands is its dialect's affair.
    """

    last_event_id: str = ""
    sequence: int | None = None
    """The number of the last event, where the dialect counts them."""
    offset: int = 0
    """Bytes of the answer's body before this place, decoded."""
    cursor: str = ""
    """An opaque place to go on from, where the dialect has one of its own; at this place or some events before it."""
    behind: int = 0
    """Events between the cursor, or else the event with the last id, and this place: they will come again."""


class Reading(NamedTuple):
    """What a dialect reads from one event."""

    sequence: int | None = None
    handle: str | None = None
    terminal: bool = False
    error: str | None = None
    """Why the answer failed, in the server's words, if this event says that it did."""
    keepalive: bool = False
    """It only says that the connection is alive, as a comment would."""
    cursor: str | None = None
    """An opaque place behind this event to go on from; None if the event does not tell one."""
    transient: bool = False
    """The failure is one that passes: worth another attempt where nothing would be lost by it."""
    retry_after: float | None = None
    """Seconds to wait before that attempt, if the server said."""
    hollow: bool = False
    """It says nothing of the answer, and whoever were handed it would take it for the end, which it is not."""
    resting: bool = False
    """The server has told all that there is by now; that the connection ends here for a while is no failure."""


NOTHING = Reading()


@dataclass(frozen=True)
class Checkpoint:
    """A place in an answer from which another process can go on. It holds no credentials and no prompt.

    Attributes:
        dialect: Name of the dialect.
        method: Of the request that started the answer.
        url: Of that request, without user information and without query fields that look like credentials.
        last_event_id: The SSE id of the last event delivered; empty if none.
        sequence: The number of that event, where the dialect counts events.
        offset: Bytes of the answer's body up to that event.
        cursor: The opaque place that the dialect goes on from, if it has one of its own.
        behind: Events delivered since that place, or since the event with ``last_event_id``.
        behind_checksum: CRC-32 over those.
        events: Events delivered.
        checksum: CRC-32 over those events, to recognise a server that starts over.
        first_id: SSE id of the first event, for the same end.
        handle: The provider's id of the generation.
        location: Where the server said the answer can be had, relative to ``url`` or absolute.
        idempotency_key: The key of the call.
        complete: True if nothing is left to read.
    """

    dialect: str
    method: str
    url: str
    last_event_id: str = ""
    sequence: int | None = None
    offset: int = 0
    cursor: str = ""
    behind: int = 0
    behind_checksum: int = 0
    events: int = 0
    checksum: int = 0
    first_id: str = ""
    handle: str | None = None
    location: str | None = None
    idempotency_key: str | None = None
    complete: bool = False

    def to_json(self) -> str:
        """This checkpoint as one line of JSON."""
        return json.dumps({"version": 1, **asdict(self)}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Checkpoint:
        """Read what `to_json` wrote.

        Raises:
            ValueError: It is no checkpoint, or one of a later version of this library; the message says which.
        """
        try:
            found = json.loads(text)
            version = found.pop("version")
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            raise ValueError("this is not a checkpoint: expected the JSON that Checkpoint.to_json() wrote") from None
        if version != 1:
            raise ValueError(
                f"this checkpoint has version {version!r}; this release reads version 1: upgrade resumable-llm"
            )
        known = {each.name: each for each in fields(cls)}
        if unknown := sorted(set(found) - set(known)):
            raise ValueError(f"this checkpoint has fields that this release does not know: {', '.join(unknown)}")
        for name, kinds in _CHECKPOINT_TYPES.items():
            if name in found and (
                not isinstance(found[name], kinds) or (isinstance(found[name], bool) and bool not in kinds)
            ):
                raise ValueError(f"this checkpoint's {name!r} is {found[name]!r}, which cannot be right")
        try:
            return cls(**found)
        except TypeError:
            raise ValueError("this checkpoint lacks its dialect, method or url") from None


_TEXT, _COUNT, _TEXT_OR_NONE = (str,), (int,), (str, type(None))
_CHECKPOINT_TYPES: dict[str, tuple[type, ...]] = {
    "dialect": _TEXT,
    "method": _TEXT,
    "url": _TEXT,
    "last_event_id": _TEXT,
    "sequence": (int, type(None)),
    "offset": _COUNT,
    "cursor": _TEXT,
    "behind": _COUNT,
    "behind_checksum": _COUNT,
    "events": _COUNT,
    "checksum": _COUNT,
    "first_id": _TEXT,
    "handle": _TEXT_OR_NONE,
    "location": _TEXT_OR_NONE,
    "idempotency_key": _TEXT_OR_NONE,
    "complete": (bool,),
}

_CREDENTIAL = re.compile(
    r"key|token|secret|passw|pwd|signature|^sig$|credential|auth|bearer|jwt|^code$|^x-amz-", re.IGNORECASE
)


def without_credentials(url: str) -> str:
    """The URL without user information and without query fields whose names speak of credentials."""
    parts = urlsplit(url)
    query = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if not _is_credential(*pair)]
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=urlencode(query), fragment=""))


def _is_credential(name: str, value: str) -> bool:
    # Some clients put a second question mark before more fields, and some a semicolon, so a value can hold names too.
    names = [name, *(piece.partition("=")[0] for piece in re.split("[?;]", value)[1:])]
    return any(_CREDENTIAL.search(each) for each in names)


@dataclass(frozen=True)
class Failure:
    """Why a connection gave no more.

    Attributes:
        reason: In words; no secret, no prompt.
        cause: The exception behind it, if there is one.
        floor: The least time to wait before the next attempt, in seconds, if the server named one.
    """

    reason: str
    cause: BaseException | None = None
    floor: float | None = None


@dataclass(frozen=True)
class Drop:
    """One drop and what followed.

    Attributes:
        reason: Why the connection gave no more.
        way: The way back that was taken: ``resume``, ``poll``, ``repeat`` (nothing had been delivered), ``status``
            (whether the work is done was asked again), ``replay``, ``continue`` or ``trial`` (whether the model goes on
            at all); empty if there was none.
        events: Events delivered before it.
        backoff: Time waited before the next attempt, in seconds.
    """

    reason: str
    way: str
    events: int
    backoff: float


@dataclass(frozen=True)
class Seam:
    """Where another generation was joined to what was delivered.

    Attributes:
        way: ``replay`` (it repeated what was delivered, and was compared with it) or ``continue`` (it went on).
        events: Events delivered before it.
        characters: Characters of the answer delivered before it.
        echoed: Characters that were said again, and not delivered again.
    """

    way: str
    events: int
    characters: int
    echoed: int


@dataclass(frozen=True)
class Report:
    """What it took to deliver an answer.

    Attributes:
        attempts: Requests made for it, the first included.
        drops: Each drop, in order.
        events: Events delivered.
        bytes: Bytes delivered.
        replayed: Events that came again and were not delivered again.
        fidelity: ``exact``: what was delivered is what the server said, once. ``verified``: it was generated again, and
            the same to the character as far as it had been delivered. ``continued``: the model went on from it.
        seams: Where generations were joined.
        seconds_lost: Time between each drop and the next event, summed, in seconds.
        seconds_saved: Time that the server took for what was delivered before the last drop, in seconds: what asking
            again from the start would have taken a second time. 0 where that is what was done.
        tokens_not_paid_twice: Events with text received before the last drop: at about a token each, what asking again
            from the start would have generated a second time. 0 where that is what was done.
        input_tokens_sent_again: Tokens that the server read for each generation but the first, what came from a cache
            included; None where it did not tell.
        end_proved: Whether something in the stream, or the server when asked, proved that the answer is complete.
        dialect: The wire protocol that was recognised.
        journaled: Events of these that were in the journal, so that no server was asked for them.
    """

    attempts: int = 0
    drops: tuple[Drop, ...] = ()
    events: int = 0
    bytes: int = 0
    replayed: int = 0
    fidelity: Fidelity = "exact"
    seams: tuple[Seam, ...] = ()
    seconds_lost: float = 0.0
    seconds_saved: float = 0.0
    tokens_not_paid_twice: int = 0
    input_tokens_sent_again: int | None = 0
    end_proved: bool = False
    dialect: str = ""
    journaled: int = 0

    def summary(self) -> str:
        """In half a sentence."""
        requests, events = "s" * (self.attempts != 1), "s" * (self.events != 1)
        return f"{self.attempts} request{requests}, {self.events} event{events} delivered"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{name.replace('_', ' ')}</th><td>{value}</td></tr>"
            for name, value in self._rows()
        )
        return f"<table>{rows}</table>"

    def _rows(self) -> list[tuple[str, Any]]:
        shown = {each.name: getattr(self, each.name) for each in fields(self)}
        shown["drops"] = len(self.drops)
        for name in ("seconds_lost", "seconds_saved"):
            shown[name] = f"{shown[name]:.2f}"
        if self.input_tokens_sent_again is None:
            shown["input_tokens_sent_again"] = "not told"
        shown["seams"] = "; ".join(f"{seam.way} behind {seam.characters} characters" for seam in self.seams) or "none"
        return list(shown.items())


class Standing(NamedTuple):
    """How far an answer has come, behind all that was given out of it; see `Conversation.standing`.

    What is not said of an attribute here is as `Checkpoint` and `Report` have it.
    """

    position: Position
    events: int
    handle: str | None
    location: str | None
    complete: bool
    seams: tuple[Seam, ...]
    checksum: int = 0
    first_id: str = ""
    behind_checksum: int = 0


class Past(NamedTuple):
    """What earlier conversations have delivered of an answer, where it is at hand as it was delivered.

    Attributes:
        data: All of it.
        events: How many events that is.
        seams: Where generations were joined in it.
        error: Why the answer failed, if it is complete and an event in it says that it did.
    """

    data: bytes
    events: int
    seams: tuple[Seam, ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class Notice:
    """Something that happened to a stream, for ``on_event`` callbacks. Holds neither text of the answer nor secrets.

    Attributes:
        kind: ``drop``, ``wait``, ``resume``, ``repeat``, ``confirm`` (whether there is more behind a clean end),
            ``status`` (whether the work is done), ``poll``, ``replay``, ``continue``, ``trial`` (whether the model goes
            on from a partial answer at all), ``seam`` (another generation fits, and goes on), ``journal`` (the journal
            has given what it had of the answer, or can keep no more of it), ``end`` or ``give_up``.
        attempt: Requests made so far.
        reason: In words.
        seconds: The time to be waited, for ``wait``.
        events: Events delivered so far.
    """

    kind: str
    attempt: int
    reason: str = ""
    seconds: float = 0.0
    events: int = 0


@dataclass(frozen=True)
class Limits:
    """Bounds and times of one stream; times in seconds, None for no limit."""

    first_event_timeout: float | None = None
    event_timeout: float | None = None
    deadline: float | None = None
    max_event_bytes: int = 16 * 1024 * 1024
    max_transcript_bytes: int = 16 * 1024 * 1024


Backoff = Callable[[int, float, "float | None"], "float | None"]
"""Failures in a row, seconds since the first of them, the server's floor -> seconds to wait, or None to stop."""


@dataclass
class Progress:
    """How far an answer has come: all that a dialect may know when it is asked for a way on."""

    request: RequestPlan
    position: Position = field(default_factory=Position)
    handle: str | None = None
    location: str | None = None
    delivered: bool = False
    """Something of the answer has reached the caller."""
    overlap: int = 0
    """Bytes before the position that are known and can be asked for again, where the dialect wants to."""
    ids_tell: bool = True
    """The SSE ids tell events apart; False once two events in a row have had the same."""
