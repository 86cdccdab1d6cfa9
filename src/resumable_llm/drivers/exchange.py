"""One request and its response, as the drivers need them: what each HTTP family's opener must return.

Nothing here knows an HTTP library.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from socket import SHUT_RDWR, SocketType

from resumable_llm.core.actions import Send
from resumable_llm.core.model import Headers, Notice

DRAIN_SECONDS = 0.25
"""How long to wait, behind the terminal event, for the end of the body that lets the connection be used again."""

DRAIN_BYTES = 64 * 1024

CANCEL_SECONDS = 5.0
"""How long to wait for the server's answer when it is told to stop."""

log = logging.getLogger("resumable_llm")

OnEvent = Callable[[Notice], object]


@dataclass
class Exchange:
    """A response whose body is being read.

    Attributes:
        status: HTTP status.
        headers: Response headers by lower-case name.
        body: The body, decoded, in whatever pieces it comes.
        close: Lets go of the connection.
        socket: The connection's socket if it can be had, to wake a blocked read.
    """

    status: int
    headers: Headers
    body: Iterator[bytes]
    close: Callable[[], object]
    socket: SocketType | None

    def abort(self) -> None:
        """End a read that another thread is blocked in."""
        if self.socket is not None:
            with suppress(OSError):  # it is gone already, which is all that is wanted
                self.socket.shutdown(SHUT_RDWR)


@dataclass
class AsyncExchange:
    """The same for asynchronous code; see `Exchange`."""

    status: int
    headers: Headers
    body: AsyncIterator[bytes]
    aclose: Callable[[], Awaitable[object]]

    async def pour(self, take: Callable[[bytes], bool]) -> bool:
        """Hand over the body's pieces as they come.

        Args:
            take: Given each, says whether it wants more. What it raises is raised here.

        Returns:
            Whether the body has ended.
        """
        async for chunk in self.body:
            if not take(chunk):
                return False
        return True


Opener = Callable[[Send], Exchange]
AsyncOpener = Callable[[Send], Awaitable[AsyncExchange]]


def tell(on_event: OnEvent | None, notice: Notice) -> None:
    """Call the caller's callback; a callback that fails must not cost the answer."""
    if on_event is not None:
        try:
            on_event(notice)
        except Exception:
            log.exception("the on_event callback failed at %s", notice.kind)
