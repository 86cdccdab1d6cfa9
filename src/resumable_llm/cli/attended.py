"""What a relay does for whoever looks after it: it proves who it is, and says for how long it has been idle."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from resumable_llm.local.announcement import CHALLENGE, PROOF, Announcement

if TYPE_CHECKING:
    from resumable_llm.relay.messages import Message, Receive, Scope, Send

_CHALLENGE, _PROOF = CHALLENGE.lower().encode(), PROOF.lower().encode()


class Attended:
    """The relay's application, attended to.

    Args:
        app: The application.
        running: Says how many answers are being generated.
        announced: What was told of it; None: nothing, so there is nothing to prove.
        clock: Seconds, never going back.
    """

    def __init__(
        self,
        app: Callable[[Scope, Receive, Send], Awaitable[None]],
        running: Callable[[], int],
        announced: Announcement | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._running = running
        self._announced = announced
        self._clock = clock
        self._requests = 0
        self._since = clock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        self._requests += 1
        try:
            await self._app(scope, receive, self._proving(scope, send))
        finally:
            self._requests -= 1
            self._since = self._clock()

    def idle(self) -> float:
        """For how many seconds there has been neither a request nor an answer. To be asked every now and then."""
        now = self._clock()
        if self._requests or self._running():
            self._since = now
        return now - self._since

    def _proving(self, scope: Scope, send: Send) -> Send:
        challenge = next((value for name, value in scope["headers"] if name.lower() == _CHALLENGE), None)
        if self._announced is None or challenge is None:
            return send
        proof = (_PROOF, self._announced.proof(challenge.decode("latin-1")).encode())

        async def sends(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], proof]
            await send(message)

        return sends
