"""Calls through transports with a journal, as if each were made by a process of its own."""

from __future__ import annotations

import importlib
import threading
from dataclasses import dataclass, field
from typing import Any

import anyio

import resumable_llm as rl
from resumable_llm.log import MemoryStore
from resumable_llm.log.model import Head
from tests.in_memory import ACCEPT, CHAT, CHAT_URL, EVENTS_URL, Said, chat, policy, transport

KEY = {"Idempotency-Key": "cell-7", "Authorization": "Bearer mine"}


@dataclass
class Heard:
    """What came of one call."""

    inner: Any
    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    error: Exception | None = None
    report: rl.Report = field(default_factory=rl.Report)
    notices: list[rl.Notice] = field(default_factory=list)

    @property
    def data(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def requests(self) -> list[Any]:
        return list(self.inner.requests)

    @property
    def kinds(self) -> list[str]:
        return [notice.kind for notice in self.notices]


class Caller:
    """Makes calls, each through a transport of its own, as if by another process."""

    def __init__(self, family: str, colour: str, journal: Any) -> None:
        self.family = family
        self.http = importlib.import_module(family)
        self.colour = colour
        self.journal = journal

    def call(
        self,
        *script: Said,
        take: int | None = None,
        cancel: bool = False,
        headers: dict[str, str] = KEY,
        request: Any = None,
        **options: Any,
    ) -> Heard:
        """Make a call and read its answer.

        Args:
            script: What the server says.
            take: Read so many pieces and close; None: all.
            cancel: Cancel in place of closing.
            headers: Of the request.
            request: The request; default: a chat completion.
            options: Of the transport.
        """
        heard = Heard(transport(self.family, *script))
        options = {"policy": policy(), "journal": self.journal, "on_event": heard.notices.append, **options}
        request = request or self.chat(headers=headers)
        if self.colour == "sync":
            self._call(heard, request, take, cancel, options)
        else:
            anyio.run(self._acall, heard, request, take, cancel, options, backend=self.colour)
        return heard

    def chat(self, **options: Any) -> Any:
        return self.http.Request("POST", options.pop("url", CHAT_URL), json=options.pop("json", CHAT), **options)

    def events(self, headers: dict[str, str] = KEY) -> Any:
        return self.http.Request("GET", EVENTS_URL, headers={**ACCEPT, **headers})

    def _call(self, heard: Heard, request: Any, take: int | None, cancel: bool, options: dict[str, Any]) -> None:
        outer = getattr(rl, self.family).ResumableTransport(heard.inner, **options)
        try:
            response = outer.handle_request(request)
            heard.status, heard.headers = response.status_code, response.headers.raw
            try:
                for piece in response.stream:
                    heard.pieces.append(piece)
                    if len(heard.pieces) == take:
                        if cancel:
                            rl.inspect(response).cancel()
                        break
            finally:
                response.close()
                if "resumable_llm" in response.extensions:
                    heard.report = rl.inspect(response).report
        except self.http.TransportError as error:
            heard.error = error

    async def _acall(self, heard: Heard, request: Any, take: int | None, cancel: bool, options: dict[str, Any]) -> None:
        outer = getattr(rl, self.family).AsyncResumableTransport(heard.inner, **options)
        try:
            response = await outer.handle_async_request(request)
            heard.status, heard.headers = response.status_code, response.headers.raw
            try:
                async for piece in response.stream:
                    heard.pieces.append(piece)
                    if len(heard.pieces) == take:
                        if cancel:
                            await rl.inspect(response).cancel()  # type: ignore[misc]
                        break
            finally:
                await response.aclose()
                if "resumable_llm" in response.extensions:
                    heard.report = rl.inspect(response).report
        except self.http.TransportError as error:
            heard.error = error


def log_of(store: MemoryStore) -> Any:
    """The only answer that is kept."""
    (log,) = [log for (scope, _), log in store._logs.items() if scope != "journal"]
    return log


def open_sync(caller: Caller, inner: Any) -> Any:
    outer = getattr(rl, caller.family).ResumableTransport(inner, policy=policy(), journal=caller.journal)
    return outer.handle_request(caller.chat(headers=KEY))


async def open_async(caller: Caller, inner: Any) -> Any:
    outer = getattr(rl, caller.family).AsyncResumableTransport(inner, policy=policy(), journal=caller.journal)
    return await outer.handle_async_request(caller.chat(headers=KEY))


WHOLE = chat("a", "b", "c", done=True)


class Remote(MemoryStore):
    """A store that says that it is elsewhere, and remembers who has called."""

    remote = True

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.threads: set[threading.Thread] = set()

    def begin(self, head: Head) -> Any:
        self.threads.add(threading.current_thread())
        return super().begin(head)

    def by_key(self, scope: str, key: str) -> Any:
        self.threads.add(threading.current_thread())
        return super().by_key(scope, key)
