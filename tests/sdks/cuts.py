"""Servers that cut an answer at many places and hand out the rest, or do not.

Knows wire formats and scripts, no SDK.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from tests.sockets import wire
from tests.sockets.scripted import Answer, End, Request, Scripted

ENDS = (End.FIN, End.RST, End.CLEAN)


def honour(events: list[wire.Event]) -> Callable[[Request], Answer]:
    """A server that resumes by Last-Event-ID."""
    ids = [event.id for event in events]

    def answer(request: Request) -> Answer:
        cursor = request.headers.get("last-event-id")
        return Answer(wire.blocks(events[0 if cursor is None else ids.index(cursor) + 1 :]))

    return answer


def starting_after(events: list[wire.Event]) -> Callable[[Request], Answer]:
    """A server of background responses."""

    def answer(request: Request) -> Answer:
        after = request.query.get("starting_after")
        return Answer(wire.blocks(events[0 if after is None else int(after) + 1 :]))

    return answer


def cut_everywhere(events: list[wire.Event]) -> Iterator[Answer]:
    """Answers cut behind each event but the last, and in the middle of the one that follows, in all ways in turn."""
    blocks = wire.blocks(events)
    ends = itertools.cycle(ENDS)
    for count in range(1, len(blocks)):
        yield Answer(blocks[:count], next(ends))
        yield Answer([*blocks[:count], blocks[count][: len(blocks[count]) // 2]], next(ends))


def server(first: Answer, rest: Callable[[Request], Answer]) -> Scripted:
    """Cut once, and then as it should be."""
    return Scripted(first, rest=rest)
