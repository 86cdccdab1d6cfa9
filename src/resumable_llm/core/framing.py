"""How a body is cut into blocks: event streams, and JSON with an object a line.

Which of them a protocol uses is its dialect's affair. A block is an event, or what stands between events, up to and
with its boundary; nothing else here knows more of it than its fields.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from resumable_llm.core.events import BlockSplitter, Fields, encode_event, parse_block


class LineSplitter(BlockSplitter):
    """Cuts a byte stream behind each line feed; see `BlockSplitter`."""

    def split(self, whole: bytes) -> list[bytes]:
        """The lines of what `cut` returned. Raises `EventTooLarge`."""
        lines = [line + b"\n" for line in whole.split(b"\n")[:-1]]
        if len(whole) > self.max_bytes and max(map(len, lines)) > self.max_bytes:
            self._refuse()
        return lines

    def rest(self) -> bytes:
        """A last line without a line feed, if it is whole, and with one: some servers leave it out."""
        held = b"".join(self._pieces)
        try:
            json.loads(held)
        except (ValueError, RecursionError):
            return b""
        self._pieces.clear()
        self._tail, self.pending = b"", 0
        return held + b"\n"  # another line may follow it, on another connection

    @staticmethod
    def _end_of_last_block(data: bytes) -> int:
        return data.rfind(b"\n") + 1


def parse_line(block: bytes) -> Fields:
    """A line as an event that has data and nothing else; a blank line is no event."""
    return Fields(None, block.strip().decode("utf-8", "replace") or None, None, None)


@dataclass(frozen=True)
class Framing:
    """A way to cut a body into blocks.

    Attributes:
        media_types: The content types that announce it, in lower case.
        boundary: What ends a block, in the simple form that `Dialect.ordinary` is written for.
        splitter: Makes a splitter, given the bound on one block in bytes.
        parse: Reads the fields of a block.
        encode: Writes a block, given the name of the event, if it has one, and its data.
    """

    media_types: tuple[str, ...]
    boundary: bytes
    splitter: Callable[[int], BlockSplitter]
    parse: Callable[[bytes], Fields]
    encode: Callable[[str | None, str], bytes]

    def announced_by(self, content_type: str) -> bool:
        """Whether a ``Content-Type`` header announces a body of this kind."""
        return content_type.partition(";")[0].strip().lower() in self.media_types


EVENT_STREAM = Framing(
    ("text/event-stream",), b"\n\n", BlockSplitter, parse_block, lambda event, data: encode_event(data, event=event)
)
"""Server-sent events."""

JSON_LINES = Framing(
    ("application/x-ndjson", "application/ndjson", "application/jsonl"),
    b"\n",
    LineSplitter,
    parse_line,
    lambda _event, data: data.encode() + b"\n",
)
"""A JSON object a line: https://github.com/ndjson/ndjson-spec, read 2026-11-22."""
