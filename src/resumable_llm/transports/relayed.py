"""The way to a relay: which calls go there, what becomes of their requests, and what to say when nobody is there.

A request names the origin that it was meant for, so that a relay in front of another provider refuses it, rather than
hand a key to whom it is not for. Knows requests as plain data; the transports send them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from urllib.parse import urlsplit

from anyio import to_thread

from resumable_llm.core.framing import EVENT_STREAM
from resumable_llm.core.model import RequestPlan, origin
from resumable_llm.dialects.relayed import Relayed
from resumable_llm.local import relay as local
from resumable_llm.local.announcement import LOOPBACK
from resumable_llm.transports.call import Call

LOCAL = "local"
"""What stands for a relay of the user's own, on this machine."""

MEANT_FOR = "Relay-Upstream"
"""The header that names the origin that a request was meant for."""

# A balancer's and a firewall's: they come and go with connections. The relay knows its callers by their cookies, among
# other things, and would not know one again who comes back with others.
_OF_THE_EDGE = ("__cf", "_cfuvid", "cf_clearance", "AWSALB")


class _Way:
    """What both colours have in common.

    Args:
        relay: A relay's URL, or ``"local"``; None: there is none, and all calls go where they are meant to.
        errors: The family's errors for a connection that could not be made; ours are raised as the first.

    Raises:
        ValueError: It is no such URL.
        ModuleNotFoundError: A relay of one's own needs packages that are not installed.
    """

    def __init__(self, relay: str | None, errors: tuple[type[Exception], ...]) -> None:
        self.relay = None if relay is None else checked(relay)
        self._errors = errors
        if relay == LOCAL:
            local.require_extras()

    @contextmanager
    def sending(self, call: Call) -> Iterator[None]:
        """An error while a call's request is sent says that it went to the relay, if it did."""
        try:
            yield
        except self._errors as error:
            if call.upstream:
                raise type(error)(f"the relay at {_shown(call.plan.url)} cannot be reached: {error}") from error
            raise

    def allow_direct(self, url: str) -> None:
        """See that a request may go past all this: somebody above watches over its answer.

        Raises:
            TypeError: It would go past the relay, which nobody would notice before it is too late.
        """
        if self.relay is not None and (self.relay == LOCAL or origin(url) != origin(self.relay)):
            raise TypeError(
                "connect_sse and resume_sse do not go through the relay of a wrapped client: give them a client "
                "that is not wrapped, and the relay's own URL"
            )

    def _wants(self, call: Call) -> bool:
        # What is no event stream, the relay does not keep. And where ids mean what their protocol says, the relay's own
        # would be of no use to a client that sends them back.
        return self.relay is not None and call.dialect.framing is EVENT_STREAM and call.dialect.honours_ids

    def _moved(self, call: Call, url: str) -> None:
        if origin(url) != origin(call.plan.url):
            raise self._errors[0](f"the local relay was restarted at another port: {_shown(url)}")


class Way(_Way):
    """The way to a relay, for blocking transports."""

    def take(self, call: Call) -> Call:
        """The call as it goes to the relay, if it is one for it.

        Raises:
            Exception: The family's error: there is no relay, and none can be started.
        """
        return redirected(call, self._address(_origin_of(call))) if self._wants(call) else call

    def check(self, call: Call) -> None:
        """See that what is told the caller's credentials is the relay still, and was not given its port."""
        if call.upstream and self.relay == LOCAL:
            self._moved(call, self._address(call.upstream))

    def _address(self, upstream: str) -> str:
        with _as_family(self._errors[0]):
            return local.address(upstream) if self.relay == LOCAL else str(self.relay)


class AsyncWay(_Way):
    """The same for asynchronous ones: what would block is done in a thread."""

    async def take(self, call: Call) -> Call:
        """See `Way.take`."""
        return redirected(call, await self._address(_origin_of(call))) if self._wants(call) else call

    async def check(self, call: Call) -> None:
        """See `Way.check`."""
        if call.upstream and self.relay == LOCAL:
            self._moved(call, await self._address(call.upstream))

    async def _address(self, upstream: str) -> str:
        if self.relay != LOCAL:
            return str(self.relay)
        with _as_family(self._errors[0]):
            return await to_thread.run_sync(local.address, upstream, abandon_on_cancel=True)


def checked(relay: str) -> str:
    """A relay as it is named by a caller.

    Raises:
        ValueError: It is neither a URL of a relay nor ``"local"``.
    """
    if relay == LOCAL:
        return relay
    parts = urlsplit(relay)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query:
        raise ValueError("relay must be a URL like http://127.0.0.1:8787, without a password or a query, or 'local'")
    return relay.rstrip("/")


def is_loopback(relay: str) -> bool:
    """Whether it is on this machine, where no proxy leads to."""
    return relay == LOCAL or urlsplit(relay).hostname in LOOPBACK


def redirected(call: Call, relay: str) -> Call:
    """A call that goes to a relay.

    Args:
        call: As it was meant.
        relay: The relay's URL.
    """
    plan = call.plan
    parts = urlsplit(plan.url)
    target = f"{relay}{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
    meant_for = _origin_of(call)
    bare = plan.with_headers((MEANT_FOR, meant_for), without=("host",))
    headers = [("Host", urlsplit(relay).netloc)]
    for name, value in bare.headers:
        kept = _without_edge(value) if name.lower() == "cookie" else value
        if kept or not value:
            headers.append((name, kept))
    going = RequestPlan(plan.method, target, tuple(headers), plan.body)
    return replace(call, plan=going, dialect=Relayed(call.dialect), upstream=meant_for)


def _without_edge(cookies: str) -> str:
    return "; ".join(each for each in map(str.strip, cookies.split(";")) if not each.startswith(_OF_THE_EDGE))


def _origin_of(call: Call) -> str:
    parts = urlsplit(call.plan.url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _shown(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


@contextmanager
def _as_family(kind: type[Exception]) -> Iterator[None]:
    try:
        yield
    except local.Unavailable as error:
        raise kind(str(error)) from error
