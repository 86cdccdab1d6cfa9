"""What a relay can be told. Plain values, checked when they are given."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal
from urllib.parse import urlsplit

from resumable_llm.core.model import Limits, origin
from resumable_llm.local.announcement import LOOPBACK
from resumable_llm.policy import RetryPolicy
from resumable_llm.transports.call import limits_of

OnDisconnect = Literal["continue", "cancel"]

_TIMES = ("ttl", "request_seconds", "send_seconds")
_COUNTS = ("max_request_bytes", "max_streams", "max_readers", "max_sockets")
_MIN_SECRET = 16
_MAX_TRANSCRIPT_BYTES = 1024 * 1024  # the log has all of it; this is for comparing, and to complete it from a poll


@dataclass(frozen=True, kw_only=True)
class RelaySettings:
    """Settings of a relay; times in seconds.

    Args:
        upstream: Where requests go: scheme, host and, if need be, a port and the beginning of the path. Nothing that a
            caller sends can lead elsewhere.
        ttl: How long an answer is kept behind its end.
        abandon_after: How long an answer that nobody reads is let run; None: to its end.
        on_disconnect: What the last reader's going means: ``continue``, or ``cancel`` at once.
        secret: What the hashes of credentials are keyed with, 16 bytes or more; None: random, so that nobody finds
            their streams again in another process.
        policy: How patient to be with the upstream, once an answer has begun.
        max_request_bytes: The largest body of a request.
        max_streams: How many answers may be generated at once.
        max_readers: How many may read one answer at once.
        max_sockets: How many WebSockets may be open at once, which servers seldom bound.
        request_seconds: How long the body of a request may take to come.
        send_seconds: How long a reader may take for what is sent at once, 256 KiB at most.
        shutdown_seconds: How long answers may go on when the relay shuts down.

    Raises:
        ValueError: A setting cannot be meant; the message says which.
    """

    upstream: str
    ttl: float = 3600.0
    abandon_after: float | None = None
    on_disconnect: OnDisconnect = "continue"
    secret: bytes | None = field(default=None, repr=False)
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    max_request_bytes: int = 32 * 1024 * 1024
    max_streams: int = 1000
    max_readers: int = 1000
    max_sockets: int = 10_000
    request_seconds: float = 60.0
    send_seconds: float = 60.0
    shutdown_seconds: float = 10.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "upstream", self.upstream.rstrip("/"))
        parts = urlsplit(self.upstream)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise ValueError(f"upstream must be like https://api.openai.com, not {_shown(self.upstream)!r}")
        for name in (*_TIMES, *_COUNTS):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)!r}")
        for name in ("abandon_after", "shutdown_seconds"):
            if not (getattr(self, name) or 0) >= 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)!r}")
        if self.on_disconnect not in ("continue", "cancel"):
            raise ValueError(f"on_disconnect must be 'continue' or 'cancel', not {self.on_disconnect!r}")
        if self.secret is not None and len(self.secret) < _MIN_SECRET:
            raise ValueError(f"secret must have {_MIN_SECRET} bytes or more")

    def behind_upstream(self, meant_for: str, path: str) -> str:
        """What of a path is behind the upstream's own.

        Args:
            meant_for: The origin that a request was meant for, as its client says.
            path: Its path there, the whole.

        Raises:
            ValueError: That is not where this relay leads to.
        """
        within = urlsplit(self.upstream).path
        if _origin(meant_for) != _origin(self.upstream) or not f"{path}/".startswith(f"{within}/"):
            raise ValueError(
                f"this relay stands in front of {self.upstream}, and the request was meant for {meant_for}{path}"
            )
        return path[len(within) :]

    @cached_property
    def limits(self) -> Limits:
        """The policy's times, as a conversation takes them, and how much of an answer it keeps beside the log."""
        return replace(limits_of(self.policy), max_transcript_bytes=_MAX_TRANSCRIPT_BYTES)

    @property
    def patience(self) -> float | None:
        """How long an answer that nobody reads is let run; None: to its end."""
        return 0.0 if self.on_disconnect == "cancel" else self.abandon_after


def _origin(url: str) -> tuple[str, str, int | None]:
    """The origin, with one name for this machine."""
    scheme, host, port = origin(url)
    return scheme, "localhost" if host in LOOPBACK else host, port


def _shown(url: str) -> str:
    """A URL without what may be a password."""
    before, at, after = url.rpartition("@")
    return f"{before.partition('//')[0]}//…@{after}" if at else after
