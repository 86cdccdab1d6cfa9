"""What a log is made of: events of the upstream without what is the upstream's own, and the relay's in-band errors.

Ids are the log's. Comments are not kept: an SDK that is given ids takes a block of comments for an event.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from resumable_llm.core.events import BOM

_ID_LINES = re.compile(rb"^id: [0-9.]+\n", re.MULTILINE)
_KEPT = (b"event", b"data")


def is_frame(data: bytes) -> bool:
    """Whether this is a single event already, as a log has it: a data line, and perhaps its name before."""
    # Cut, not searched: a regular expression takes ten times as long to find the end of a line, and CPython 3.11's
    # `find`, `startswith` and `endswith` take two to three times as long as slices.
    line, _, rest = data.partition(b"\n")
    if line[:6] != b"data: ":
        if line[:7] != b"event: ":
            return False
        line, _, rest = rest.partition(b"\n")
        if line[:6] != b"data: ":
            return False
    return rest == b"\n" and 13 not in data


def frames_of(blocks: Iterable[bytes]) -> list[bytes]:
    """The events among some blocks: event and data lines, ended by LF. What has no data is no event."""
    frames = []
    for block in blocks:
        if is_frame(block):
            frames.append(block)
            continue
        lines = block.removeprefix(BOM).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        kept = [line for line in lines if line.partition(b":")[0] in _KEPT]
        if any(line.partition(b":")[0] == b"data" for line in kept):
            frames.append(b"\n".join(kept) + b"\n\n")
    return frames


def without_ids(data: bytes) -> bytes:
    """What a log gives out, without the ids: no other line of it begins like one."""
    return _ID_LINES.sub(b"", data)


def error_object(kind: str, code: str, message: str) -> dict[str, object]:
    """An error that openai's and anthropic's SDKs raise, as a response or as an event.

    The upper code and message are where OpenAI's Responses have them.
    """
    return {
        "type": "error",
        "code": code,
        "message": message,
        "error": {"type": kind, "code": code, "message": message},
    }


def error_frame(code: str, message: str, *, google: bool = False) -> bytes:
    """The event that ends a log whose answer is not complete.

    Args:
        code: Why, in a word.
        message: Why, for people.
        google: In the shape that google-genai reads, which knows only data lines.
    """
    if google:
        body: dict[str, object] = {"error": {"code": 502, "status": "UNAVAILABLE", "message": f"{code}: {message}"}}
        return b"data: %b\n\n" % json.dumps(body).encode()
    return b"event: error\ndata: %b\n\n" % json.dumps(error_object("upstream_interrupted", code, message)).encode()
