"""What the holder of somebody else's stream may know and do: the checkpoint, the report, and to have the server stop.

For streams inside an SDK, which `resumable_llm.inspect` finds. Knows no HTTP library.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Protocol

from resumable_llm.core.machine import Conversation
from resumable_llm.core.model import Checkpoint, Report


class Source(Protocol):
    """What gives an answer to its reader: a driver, or whatever stands before one."""

    @property
    def conversation(self) -> Conversation:
        """The conversation about the answer."""
        ...

    def slices(self) -> Iterator[bytes]:
        """See `SyncDriver.slices`."""
        ...

    def abandon(self) -> None:
        """See `SyncDriver.abandon`."""
        ...

    def cancel(self) -> None:
        """See `SyncDriver.cancel`."""
        ...


class AsyncSource(Protocol):
    """The same for asynchronous code; see `Source`."""

    @property
    def conversation(self) -> Conversation:
        """The conversation about the answer."""
        ...

    def slices(self) -> AsyncIterator[bytes]:
        """See `AsyncDriver.slices`."""
        ...

    async def abandon(self) -> None:
        """See `AsyncDriver.abandon`."""
        ...

    async def cancel(self) -> None:
        """See `AsyncDriver.cancel`."""
        ...


class _Handle:
    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation

    @property
    def checkpoint(self) -> Checkpoint:
        """Where the caller stands.

        Exact at each event from the first look on. Looked at for the first time in the middle of a stream, it may
        name a place some events back, never one ahead of the caller. With a journal it is where the journal stands:
        what is before it is there, and comes first when the same call is made again.
        """
        self._conversation.deliver_one_by_one()
        return self._conversation.checkpoint

    @property
    def report(self) -> Report:
        """What it took so far."""
        return self._conversation.report

    def _repr_html_(self) -> str:
        return self.report._repr_html_()


class Handle(_Handle):
    """A stream that `wrap` or a transport watches over."""

    def __init__(self, source: Source) -> None:
        super().__init__(source.conversation)
        self._source = source

    def cancel(self) -> None:
        """Tell the server to stop generating, and close the stream."""
        self._source.cancel()


class AsyncHandle(_Handle):
    """The same for asynchronous streams."""

    def __init__(self, source: AsyncSource) -> None:
        super().__init__(source.conversation)
        self._source = source

    async def cancel(self) -> None:
        """Tell the server to stop generating, and close the stream."""
        await self._source.cancel()
