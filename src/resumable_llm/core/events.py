"""Bytes to events and back, exactly as the WHATWG rules for event streams say.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html (section 9.2), read 2026-11-22.
Nothing here knows of HTTP, of providers or of resuming; other framings than event streams are in `framing`. Work per
event is proportional to its own bytes, however they are cut.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from resumable_llm.core.errors import EventTooLarge

MAX_EVENT_BYTES = 16 * 1024 * 1024
"""Default bound on one event, in bytes: an image answer in base64 fits, an endless line does not."""

BOM = b"\xef\xbb\xbf"

_new = tuple.__new__  # a named tuple's own constructor costs twice as much

# A line ends in CRLF, LF or CR; a blank line is one line end behind another. The CR of a CRLF is no line end by itself.
_COMMON = re.compile(rb"(?:event: (.*)\n)?(?:id: ([^\n\0]*)\n)?data: (.*)\n(?:id: ([^\n\0]*)\n)?\n").fullmatch
"""The shapes that most events have, read in one go."""

_BLANK_LINE = re.compile(rb"\n\n|(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r)")


class BlockSplitter:
    """Cuts a byte stream behind each blank line; what is not yet closed by one is kept back.

    The blocks and the rest put together are the input, byte for byte.

    Args:
        max_bytes: Bound on one block, in bytes.
    """

    __slots__ = ("_pieces", "_tail", "max_bytes", "pending")

    def __init__(self, max_bytes: int = MAX_EVENT_BYTES) -> None:
        self.max_bytes = max_bytes
        self._pieces: list[bytes] = []
        self._tail = b""
        self.pending = 0
        """Bytes held back, of an event that has not ended."""

    @property
    def is_torn(self) -> bool:
        """Whether what is held back is part of an event, and not only line ends."""
        return any(piece.strip(b"\r\n") for piece in self._pieces)

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take more bytes.

        Args:
            chunk: Any number of bytes, cut anywhere.

        Returns:
            The blocks that are now whole, each with the blank line that closes it.

        Raises:
            EventTooLarge: An event has grown beyond the bound.
        """
        return self.split(self.cut(chunk))

    def cut(self, chunk: bytes) -> bytes:
        """The same, with the blocks in one piece; empty if none is whole."""
        # A line end can be three bytes old when the one that makes the line blank arrives, so only the seam is looked
        # at again: an event that comes in a thousand pieces is searched once, and put together once.
        seam = self._tail + chunk if self.pending else chunk
        end = self._end_of_last_block(seam) - (len(seam) - len(chunk))
        if end <= 0:
            self._hold(chunk)
            return b""
        if not self.pending and end == len(chunk):
            return chunk
        whole = b"".join([*self._pieces, chunk[:end]])
        self._pieces.clear()
        self._tail, self.pending = b"", 0
        if end < len(chunk):
            self._hold(chunk[end:])
        return whole

    def split(self, whole: bytes) -> list[bytes]:
        """The blocks of what `cut` returned. Raises `EventTooLarge`."""
        blank_line = b"\r\n\r\n" if _has_crlf_alone(whole) else b"\n\n"
        if 13 in whole and blank_line == b"\n\n":
            blocks, start = [], 0
            for found in _BLANK_LINE.finditer(whole):
                blocks.append(whole[start : found.end()])
                start = found.end()
            if start < len(whole):  # of an odd run of line ends, the last belongs to no pair
                blocks.append(blocks.pop() + whole[start:])
        elif whole.find(blank_line) == len(whole) - len(blank_line) and whole:
            blocks = [whole]  # mostly an event comes alone
        else:
            *parts, odd = whole.split(blank_line)
            blocks = [part + blank_line for part in parts]
            if odd:
                blocks.append(blocks.pop() + odd)
        if len(whole) > self.max_bytes and max(map(len, blocks)) > self.max_bytes:
            self._refuse()
        return blocks

    def rest(self) -> bytes:
        """Take what is held back, where the end of the body closes a block as well; empty where it does not."""
        return b""

    @staticmethod
    def _end_of_last_block(data: bytes) -> int:
        if 13 not in data:
            last = data.rfind(b"\n\n")
            return last + 2 if last >= 0 else -1
        if _has_crlf_alone(data):
            last = data.rfind(b"\r\n\r\n")
            return last + 4 if last >= 0 else -1
        return max((found.end() for found in _BLANK_LINE.finditer(data)), default=-1)

    def _hold(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._tail = (self._tail + piece)[-3:]
        self.pending += len(piece)
        if self.pending > self.max_bytes:
            self._refuse()

    def _refuse(self) -> None:
        raise EventTooLarge(
            f"the server sent an event of more than {self.max_bytes:,} bytes, the most that is kept of one: ask it for "
            "smaller ones, or read this answer without resumable-llm"
        )


def _has_crlf_alone(data: bytes) -> bool:
    """Whether CRLF, and no other line end, is about: then a blank line can be found without a pattern."""
    ends = data.count(b"\r\n")
    return ends > 0 and ends == data.count(b"\r") == data.count(b"\n")


class Fields(NamedTuple):
    """The fields of one block; None where the block does not have the field."""

    event: str | None
    data: str | None
    id: str | None
    retry: int | None


def parse_block(block: bytes) -> Fields:
    """Read the fields of one block.

    Args:
        block: The bytes up to and with a blank line, without the stream's byte order mark.

    Returns:
        The fields. ``data`` is None if there is no data line: such a block dispatches no event, yet its id and retry
        count.
    """
    if 13 in block:
        block = block.replace(b"\r\n", b"\n")
    common = _COMMON(block)
    if common is not None and 13 not in block:
        event_field, id_field, data_field, late_id = common.groups()
        id_field = late_id if late_id is not None else id_field
        return _new(
            Fields,
            (
                None if event_field is None else event_field.decode("utf-8", "replace"),
                data_field.decode("utf-8", "replace"),
                None if id_field is None else id_field.decode("utf-8", "replace"),
                None,
            ),
        )
    text = block.decode("utf-8", "replace")
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    event: str | None = None
    data: str | None = None
    last_event_id: str | None = None
    retry: int | None = None
    for line in text.split("\n"):
        if line.startswith("data:"):
            value = line[5:].removeprefix(" ")
            data = value if data is None else f"{data}\n{value}"
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            event = value
        elif name == "id":
            if "\0" not in value:
                last_event_id = value
        elif name == "data":
            data = "" if data is None else f"{data}\n"
        elif name == "retry" and value.isascii() and value.isdigit():
            retry = int(value[:18])
    return _new(Fields, (event, data, last_event_id, retry))


class Event(NamedTuple):
    """An event as the rules dispatch it."""

    event: str
    data: str
    id: str
    retry: int | None


class EventDecoder:
    """The whole way from bytes to dispatched events, for those who need nothing else.

    Args:
        max_bytes: Bound on one event, in bytes.
    """

    def __init__(self, max_bytes: int = MAX_EVENT_BYTES) -> None:
        self._splitter = BlockSplitter(max_bytes)
        self._at_start = True
        self.last_event_id = ""
        self.retry: int | None = None
        """The server's wish for the time between connections, in milliseconds."""

    def feed(self, chunk: bytes) -> list[Event]:
        """Take more bytes; return the events that they complete. Raises `EventTooLarge`."""
        events = []
        for block in self._splitter.feed(chunk):
            if self._at_start:
                self._at_start = False
                block = block.removeprefix(BOM)
            event, data, last_event_id, retry = parse_block(block)
            if last_event_id is not None:
                self.last_event_id = last_event_id
            if retry is not None:
                self.retry = retry
            if data is not None:
                events.append(_new(Event, (event or "message", data, self.last_event_id, retry)))
        return events


def encode_event(data: str, *, event: str | None = None, id: str | None = None, retry: int | None = None) -> bytes:
    """Write one event.

    Args:
        data: The payload; each of its lines becomes a data line.
        event: The event's name; no line end in it.
        id: The event's id; no line end and no NUL in it.
        retry: Milliseconds.

    Returns:
        The event with its blank line.

    Raises:
        ValueError: A field holds what its line cannot carry.
    """
    lines = []
    for name, value in (("event", event), ("id", id)):
        if value is not None:
            if any(character in value for character in "\r\n\0"):
                raise ValueError(f"{name} must not hold a line end or NUL: {value!r}")
            lines.append(f"{name}: {value}\n")
    if retry is not None:
        lines.append(f"retry: {retry:d}\n")
    lines.extend(f"data: {line}\n" for line in data.replace("\r\n", "\n").replace("\r", "\n").split("\n"))
    return "".join(lines).encode() + b"\n"
