"""What the holder of somebody else's stream may know and do: the checkpoint, the report, and to have the server stop.

For streams inside an SDK, which `resumable_llm.inspect` finds. Knows no HTTP library.
"""

from __future__ import annotations

from resumable_llm.core.model import Checkpoint, Report
from resumable_llm.drivers.async_driver import AsyncDriver
from resumable_llm.drivers.sync_driver import SyncDriver


class _Handle:
    def __init__(self, driver: SyncDriver | AsyncDriver) -> None:
        self._conversation = driver.conversation

    @property
    def checkpoint(self) -> Checkpoint:
        """Where the caller stands.

        Exact at each event from the first look on. Looked at for the first time in the middle of a stream, it may
        name a place some events back, never one ahead of the caller.
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

    def __init__(self, driver: SyncDriver) -> None:
        super().__init__(driver)
        self._driver = driver

    def cancel(self) -> None:
        """Tell the server to stop generating, and close the stream."""
        self._driver.cancel()


class AsyncHandle(_Handle):
    """The same for asynchronous streams."""

    def __init__(self, driver: AsyncDriver) -> None:
        super().__init__(driver)
        self._driver = driver

    async def cancel(self) -> None:
        """Tell the server to stop generating, and close the stream."""
        await self._driver.cancel()
