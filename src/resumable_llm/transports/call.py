"""What the transports of every HTTP family do alike: recognise a call, name it, and watch over it.

Knows requests and responses of the httpx family by their shape only; nothing here imports one.
"""

from __future__ import annotations

import hashlib
import socket
import sys
import threading
import uuid
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from resumable_llm.core.actions import Send
from resumable_llm.core.dialect import Dialect
from resumable_llm.core.fallback import WAYS, Habits
from resumable_llm.core.framing import EVENT_STREAM, Framing
from resumable_llm.core.machine import Conversation
from resumable_llm.core.model import Checkpoint, Fallback, Headers, Limits, Past, RequestPlan
from resumable_llm.dialects import named, recognise
from resumable_llm.policy import RetryPolicy

BYPASS = "resumable_llm.bypass"
"""Request extension that makes our transports let the request pass: something above them is watching over it."""

HANDLE = "resumable_llm"
"""Response extension that holds the stream's handle, for `inspect`."""

_MAX_KEYS = 1024
_MAX_KEYS_ALIKE = 64


class Owner:
    """The client whose transport a copy shares.

    Its finalizer would close the transport in the middle of the copy's streams, so the copy keeps it alive. Whoever
    closes the last client that uses a transport closes the transport; the reference count says whether it is the last.

    Args:
        client: The client.
        behind: The owner that this client itself looks to, if it is a copy too.
    """

    def __init__(self, client: object, behind: Owner | None = None) -> None:
        self._client = client
        self._behind = behind

    def is_alone(self) -> bool:
        """Whether nobody but this object holds the client. False where Python does not count references."""
        count = getattr(sys, "getrefcount", None)
        alone = count is not None and count(self._client) <= count(_REFERENCE._client)
        return alone and (self._behind is None or self._behind.is_alone())


_REFERENCE = Owner(object())


@dataclass(frozen=True)
class Call:
    """A request that asks for a stream, as it will be sent."""

    plan: RequestPlan
    dialect: Dialect
    key: str | None
    fingerprint: str = ""
    """The same for an SDK's repeat of the same request; empty if the caller has named the call."""
    upstream: str = ""
    """The origin that it was meant for, if it goes to a relay; otherwise empty."""


class Calls:
    """Prepares the calls of one transport, and remembers their keys over an SDK's own retries.

    An SDK retries by sending the request again, with ``x-stainless-retry-count`` above 0; it must carry the key of
    its first attempt.

    Args:
        upgrade: Make requests resumable that would not be, where their dialect can.
    """

    def __init__(self, *, upgrade: bool = False) -> None:
        self._upgrade = upgrade
        self._refused: OrderedDict[str, list[str]] = OrderedDict()
        self._lock = threading.Lock()

    def prepare(self, request: Any) -> Call | None:
        """The call that a request is, or None if it asks for no stream.

        Args:
            request: A request of the httpx family.

        Raises:
            UpgradeRefused: It cannot be upgraded, for it asks for the opposite.
        """
        plan = plan_of(request)
        dialect = recognise(plan)
        if dialect is None:
            return None
        if self._upgrade:
            plan = dialect.upgrade(plan)
        if plan.header("idempotency-key") is not None:  # the caller knows which calls are the same
            prepared = dialect.prepare(plan, new_key())
            return Call(prepared, dialect, prepared.header("idempotency-key"))
        fingerprint = hashlib.sha256(f"{plan.method} {plan.url} ".encode() + (plan.body or b"")).hexdigest()
        retried = (plan.header("x-stainless-retry-count") or "0") != "0"
        prepared = dialect.prepare(plan, (self._key_again(fingerprint) if retried else None) or new_key())
        return Call(prepared, dialect, prepared.header("idempotency-key"), fingerprint)

    def refused(self, call: Call) -> None:
        """No stream came of a call: if the SDK tries again, it is the same call, and no other one has its key."""
        if call.key is None or not call.fingerprint:
            return
        with self._lock:
            keys = self._refused.setdefault(call.fingerprint, [])
            keys.append(call.key)
            del keys[:-_MAX_KEYS_ALIKE]
            if len(self._refused) > _MAX_KEYS:
                self._refused.popitem(last=False)

    def _key_again(self, fingerprint: str) -> str | None:
        with self._lock:
            keys = self._refused.pop(fingerprint, [])
            key = keys.pop() if keys else None  # the newest: older ones may be of calls that were given up
            if keys:
                self._refused[fingerprint] = keys
        return key


def new_key() -> str:
    """An idempotency key for a new call."""
    return f"rl-{uuid.uuid4()}"


def plan_of(request: Any) -> RequestPlan:
    """A request of the httpx family as plain data; a body that streams from somewhere is None."""
    # Not `request.content`: a request that the client made to follow a redirect has its bytes in the stream alone.
    in_memory = type(request.stream).__name__ == "ByteStream"
    body: bytes | None = b"".join(request.stream) if in_memory else None
    headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw)
    return RequestPlan(request.method, str(request.url), headers, body)


def raw_headers(plan: RequestPlan) -> list[tuple[bytes, bytes]]:
    """A plan's headers as they go out."""
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in plan.headers]


def headers_of(response: Any) -> Headers:
    """Response headers by lower-case name."""
    return {name.lower(): value for name, value in response.headers.items()}


def is_stream(response: Any, framing: Framing = EVENT_STREAM) -> bool:
    """Whether a response is a stream to watch over."""
    return response.status_code in (200, 201) and framing.announced_by(response.headers.get("content-type", ""))


def is_answer(response: Any, call: Call) -> bool:
    """Whether a response is the stream that a call asked for, as whoever has answered writes it."""
    return is_stream(response, call.dialect.answered_by(call.plan, headers_of(response)).framing)


def is_encoded(response: Any) -> bool:
    """Whether the body must be decoded before it can be read."""
    return response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity")


def passed_headers(response: Any, dialect: Dialect) -> list[tuple[bytes, bytes]]:
    """The response headers that stay true of the body that is passed on: decoded, and of unknown length."""
    gone = {"content-encoding", "content-length", *dialect.withheld}
    return [(name, value) for name, value in response.headers.raw if name.decode("latin-1").lower() not in gone]


def converse(
    call: Call,
    policy: RetryPolicy,
    fallback: Sequence[Fallback] = (),
    can_continue: bool | None = None,
    habits: Habits | None = None,
    *,
    checkpoint: Checkpoint | None = None,
    past: Past | None = None,
    one_by_one: bool = False,
) -> Conversation:
    """The conversation about a call; its options are those of `Conversation`."""
    return Conversation(
        call.plan,
        call.dialect if checkpoint is None else dialect_of(checkpoint, call.dialect),
        policy.backoff,
        limits_of(policy),
        key=call.key,
        checkpoint=checkpoint,
        past=past,
        one_by_one=one_by_one,
        fallback=fallback,
        can_continue=can_continue,
        habits=habits,
    )


def dialect_of(checkpoint: Checkpoint, called: Dialect) -> Dialect:
    """The dialect of a checkpoint: that of its call, which may be the caller's own, unless its server has another.

    Raises:
        ValueError: It is not known here.
    """
    return called if called.name == checkpoint.dialect else named(checkpoint.dialect)


def ways_of(fallback: Fallback | Sequence[Fallback] | None) -> tuple[Fallback, ...]:
    """What ``fallback=`` allows, in order.

    Raises:
        ValueError: It names no such way.
    """
    ways = (fallback,) if isinstance(fallback, str) else tuple(fallback or ())
    if not set(ways) <= set(WAYS) or len(set(ways)) < len(ways):
        raise ValueError(f"fallback must be 'replay', 'continue', a tuple of the two, or None, not {fallback!r}")
    return ways


def limits_of(policy: RetryPolicy) -> Limits:
    """The policy's times, as a conversation takes them."""
    return Limits(policy.first_event_timeout, policy.event_timeout, policy.deadline)


def with_timeout(extensions: Any, policy: RetryPolicy, send: Send) -> dict[str, Any]:
    """Request extensions with a read timeout no longer than client, policy and conversation allow."""
    timeout = dict(extensions.get("timeout") or {})
    wanted = (timeout.get("read"), policy.read_timeout, send.read_timeout)
    timeout["read"] = min((seconds for seconds in wanted if seconds is not None), default=None)
    return {**extensions, "timeout": timeout}


async def end_generator(generator: AsyncIterator[object]) -> None:
    """End an asynchronous generator that nobody reads any more; left to the garbage collector, trio complains."""
    if isinstance(generator, AsyncGenerator) and not getattr(generator, "ag_running", False):
        await generator.aclose()


def socket_of(response: Any) -> socket.socket | None:
    """The connection's socket, if the transport shows it."""
    if response.extensions.get("http_version") == b"HTTP/2":
        return None  # it is shared with other streams
    stream = response.extensions.get("network_stream")
    found = stream.get_extra_info("socket") if stream is not None else None
    return found if isinstance(found, socket.socket) else None
