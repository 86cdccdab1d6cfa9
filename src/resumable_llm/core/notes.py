"""Notes of how far an answer has come, small and quickly made: one is kept with each slice of events that is kept.

From its last note another process goes on with an answer, as from a checkpoint. A `Checkpoint` costs thirty times as
much, for it tells only what its caller surely has, and it is written for people. A note is written for this module.
"""

from __future__ import annotations

import json
from dataclasses import astuple
from json.encoder import encode_basestring_ascii as _quoted
from typing import NamedTuple

from resumable_llm.core.machine import Conversation
from resumable_llm.core.model import Checkpoint, Seam, resolve, without_credentials

_VERSION = 1
_FIELDS = 18


class Note(NamedTuple):
    """A note, read again."""

    checkpoint: Checkpoint
    seams: tuple[Seam, ...]


class Notes:
    """Writes the notes of one answer. They hold no header, no body and no credential.

    Args:
        talk: The conversation, whose caller keeps what it gives out.
        summed: The events are kept, but not as they came: then sums over them have to stand for them. All that was
            given out counts as delivered whenever a note is made.
    """

    def __init__(self, talk: Conversation, *, summed: bool = True) -> None:
        self.complete = False
        """Whether the last note says that the answer is complete."""
        self._talk = talk
        self._summed = summed
        self._names: tuple[str, str | None, str | None] | None = None
        self._named = ""

    def now(self) -> str:
        """A note of the place behind all that was given out so far."""
        talk = self._talk
        if self._summed:
            talk.settle()
        position, events, handle, location, self.complete, seams, checksum, first_id, behind_checksum = talk.standing(
            summed=self._summed
        )
        names = talk.dialect.name, handle, location
        if names != self._names:  # which is once, or twice
            self._names, self._named = names, self._name(*names)
        last_event_id, sequence, offset, cursor, behind = position
        number = "null" if sequence is None else sequence
        joined = json.dumps([astuple(seam) for seam in seams]) if seams else "[]"
        return (
            f"[{self._named},{_quoted(last_event_id)},{number},{offset},{_quoted(cursor)},{behind},{behind_checksum},"
            f"{events},{checksum},{_quoted(first_id)},{'true' if self.complete else 'false'},{joined}]"
        )

    def _name(self, dialect: str, handle: str | None, location: str | None) -> str:
        request = self._talk.request
        if location is not None:
            location = without_credentials(location) if resolve(request.url, location) else None
        url = without_credentials(request.url)
        return json.dumps([_VERSION, dialect, request.method, url, self._talk.key, handle, location])[1:-1]


def read_note(note: str) -> Note:
    """Read what `Notes.now` wrote.

    Raises:
        ValueError: It is no note, or one of another version of this library.
    """
    try:
        found = json.loads(note)
    except ValueError:
        found = None
    if not isinstance(found, list) or len(found) != _FIELDS or found[0] != _VERSION:
        raise ValueError("this is not a note of this version of resumable-llm")
    _, dialect, method, url, key, handle, location, last_event_id, sequence, offset, cursor, *told = found
    behind, behind_checksum, events, checksum, first_id, complete, seams = told
    return Note(
        Checkpoint(
            dialect=dialect,
            method=method,
            url=url,
            last_event_id=last_event_id,
            sequence=sequence,
            offset=offset,
            cursor=cursor,
            behind=behind,
            behind_checksum=behind_checksum,
            events=events,
            checksum=checksum,
            first_id=first_id,
            handle=handle,
            location=location,
            idempotency_key=key,
            complete=complete,
        ),
        tuple(Seam(*each) for each in seams),
    )
