"""Joining another generation's events to those that were delivered: a repeat that is verified, and a continuation.

Both take the events of the new generation one at a time and return what may be delivered of them, under the names of
the old one: the caller sees one message. A repeat must say again what was delivered, to the character, before anything
of it counts; a continuation must go on with the one text that stood open. What cannot be shown to fit is an objection,
and nothing more is delivered.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from typing import Any, Protocol

from resumable_llm.core.events import Fields
from resumable_llm.core.framing import Framing
from resumable_llm.core.seam import StartedOver, TextSeam
from resumable_llm.core.speech import MESSAGE, Answer, Payload, Says, Slot, Speech, Usage, payload_of
from resumable_llm.core.units import characters, joined, split

MIN_COUNTED = 8
"""Events with text, at least, that must make a difference to the count of the prompt's tokens."""


class Splice(Protocol):
    """What joins one connection's events to what was delivered."""

    usage: Usage
    """What this generation has told of its own tokens."""
    objection: str
    """Why this generation does not fit; empty as long as it does."""
    joined: bool
    """The seam is behind us: what comes now is new."""
    finished: bool
    """The answer is complete, whatever else may come."""

    @property
    def echoed(self) -> int:
        """Characters that were said again."""
        ...

    def take(self, event: Fields, *, terminal: bool) -> list[bytes]:
        """Take the next event.

        Args:
            event: The event.
            terminal: It ends the generation.

        Returns:
            The events to deliver.
        """
        ...


class Repeat:
    """A generation that must be the one that was delivered, once more.

    Args:
        speech: The protocol's.
        framing: How events are written.
        answer: What was delivered.
        max_held: Bound on what is held back until all that was delivered has come again, in bytes.
    """

    def __init__(self, speech: Speech, framing: Framing, answer: Answer, max_held: int) -> None:
        self.objection = ""
        self.finished = False
        self.usage = Usage()
        self.echoed: int = 0
        self._speech = speech
        self._framing = framing
        self._answer = answer
        self._max_held = max_held
        self._due = {key: split(answer.text(key)) for key in answer.texts}
        self._told: dict[Any, int] = dict.fromkeys(self._due, 0)
        self._unclosed = set(answer.closed)
        self._unsettled = set(answer.settled)
        self._open = {key for key, text in self._due.items() if text}
        self._held: list[bytes] = []
        self._held_bytes = 0
        self.joined = False
        self.joined = self._is_verified

    def take(self, event: Fields, *, terminal: bool) -> list[bytes]:
        """See `Splice`."""
        if self.objection:
            return []
        payload = payload_of(event)
        found: list[bytes] = []
        if payload is None:
            found = [encode(self._framing, event, None)] if self._is_verified else []
        else:
            self.usage = self.usage.with_news(self._speech.usage(payload))
            for named, renamed in self._speech.adopt(event, payload, self._answer):
                found += self._compare(named, renamed)
                if self.objection:
                    return []
        if terminal and not self._is_verified:
            self.objection = "the answer that the server gave when asked again ends before what was delivered of it"
            return []
        return self._release(found)

    def _compare(self, event: Fields, payload: Payload) -> list[bytes]:
        was_verified = self._is_verified
        slots = self._speech.slots(event, payload)
        spent = [slot for slot in slots if self._is_spent(slot)]
        if self.objection or (spent and len(spent) == len(slots) and not was_verified):
            return []  # what else the event has, the caller had too
        left = self._speech.tidy(event, payload, spent) if slots else self._is_verified
        return [encode(self._framing, event, payload)] if left else []

    def _is_spent(self, slot: Slot) -> bool:
        """Whether the caller has had all that a slot says; what is new stays in it."""
        if slot.says is Says.GROWS:
            return self._has_grown(slot)
        if slot.key not in self._answer.marks:
            if self._answer.is_closed(slot.key[0]) or (slot.closes and self._is_short(slot.key[0])):
                self._diverge()
            return False
        if slot.says is Says.SETTLES and self._answer.marks[slot.key] != slot.value:
            self._diverge()
        self._unsettled.discard(slot.key)
        if slot.closes:
            self._unclosed.discard(slot.key[0])
            if self._is_short(slot.key[0]):
                self._diverge()
        return True

    def _has_grown(self, slot: Slot) -> bool:
        due, told = self._due.get(slot.key, ""), self._told.get(slot.key, 0)
        value = split(slot.value)
        again = due[told : told + len(value)]
        if not value.startswith(again):
            self._diverge()
            return False
        self._told[slot.key] = told + len(again)
        new = value[len(again) :]
        if new and self._answer.is_closed(slot.key[0]):
            self._diverge()
        self.echoed += characters(again)
        if not again:
            return not new and slot.key in self._due
        if new:
            slot.holder[slot.name] = joined(new)
        return not new

    def _is_short(self, group: Hashable) -> bool:
        """Whether a group that closes lacks something that was delivered."""
        return any(self._lacks(key) for key in self._open if group in (key[0], MESSAGE))

    def _lacks(self, key: Any) -> bool:
        return self._told[key] < len(self._due[key])

    @property
    def _is_verified(self) -> bool:
        if self.joined:  # once and for all
            return True
        return not self._unclosed and not self._unsettled and not any(self._lacks(key) for key in self._open)

    def _diverge(self) -> None:
        self.objection = "the server gave another answer when asked again"

    def _release(self, found: list[bytes]) -> list[bytes]:
        if not self._is_verified:  # some part goes on while another has not come again yet
            self._held += found
            self._held_bytes += sum(map(len, found))
            if self._held_bytes > self._max_held:
                self.objection = "the answer that the server gave when asked again cannot be compared within bounds"
            return []
        self.joined = True
        held, self._held = self._held, []
        return held + found


class Continuation:
    """A generation that goes on with the text that stood open.

    Args:
        speech: The protocol's.
        framing: How events are written.
        answer: What was delivered.
        seam: Joins the text.
        spent: What the generations before this one took, as far as they told, in order, with the events with text
            that had been delivered when each of them began.
    """

    def __init__(
        self,
        speech: Speech,
        framing: Framing,
        answer: Answer,
        seam: TextSeam,
        spent: Sequence[tuple[Usage, int]],
    ) -> None:
        self.objection = ""
        self.joined = False
        self.finished = False
        self.usage = Usage()
        self._speech = speech
        self._framing = framing
        self._answer = answer
        self._seam = seam
        self._spent = spent
        self._part = speech.open_part(answer)
        self._told_text = False

    @property
    def echoed(self) -> int:
        """See `Splice`."""
        return self._seam.echoed

    def take(self, event: Fields, *, terminal: bool) -> list[bytes]:
        """See `Splice`."""
        if self.objection or self.finished:
            return []
        payload = payload_of(event)
        found: list[bytes] = []
        try:
            if payload is None:
                found = [encode(self._framing, event, None)]
            else:
                self._add_up(payload)
                for named, renamed in self._speech.adopt(event, payload, self._answer):
                    found += [] if self.finished else self._join(named, renamed)
            if terminal and not self.finished:
                rest = self._rest()
                found[-1:] = rest if self.finished else [*rest, *found[-1:]]
        except StartedOver as error:
            self.objection = str(error)
        return [] if self.objection else found

    def _join(self, event: Fields, payload: Payload) -> list[bytes]:
        slots = self._speech.slots(event, payload)
        found: list[bytes] = []
        spent: list[Slot] = []
        for slot in slots:
            thinks = slot.kind == "thinking" and slot.says is not Says.NAMES and bool(slot.value)
            if thinks and not self._told_text and self._seam.sent:  # its first event may be the start of a block
                raise StartedOver("the model began to think anew instead of going on from what it had said")
            if slot.says is not Says.GROWS:
                if slot.key in self._answer.marks:
                    spent.append(slot)
                elif slot.closes or (slot.kind != "text" and self._seam.is_holding):
                    found += self._rest()
            elif slot.key == self._part:
                slot.holder[slot.name] = text = self._seam.feed(slot.value)
                self._told_text = self._told_text or bool(text)
                self.joined = self.joined or bool(text)
                if not text:
                    spent.append(slot)
                if self._seam.stopped is not None:
                    return found + self._finish()
            elif slot.value:
                found += self._rest() if self._seam.is_holding else []
                self.joined = True
            if self.finished:
                return found
        if not slots or self._speech.tidy(event, payload, spent):
            found.append(encode(self._framing, event, payload))
        return found

    def _rest(self) -> list[bytes]:
        """What the seam held back, for something comes behind it."""
        text = self._seam.flush()
        if self._seam.stopped is not None:
            return self._finish()
        self.joined = True
        return [encode(self._framing, *self._speech.say(self._answer, text))] if text else []

    def _finish(self) -> list[bytes]:
        assert self._seam.stopped is not None
        self.finished = self.joined = True
        return [encode(self._framing, *each) for each in self._speech.finish(self._answer, self._seam.stopped)]

    def _add_up(self, payload: Payload) -> None:
        """Make the usage that an event tells that of all generations together."""
        told = self._speech.usage(payload)
        if told is None:
            return
        self.usage = told = self.usage.with_news(told)
        first = self._spent[0][0].input if self._spent else None
        counted = self._answer.text_events
        if not self.joined and None not in (told.input, first) and counted >= MIN_COUNTED:
            assert told.input is not None
            assert first is not None
            if told.input <= first:
                raise StartedOver("the server did not count the partial answer among what it read, so it ignored it")
        self._speech.set_usage(payload, total(self._spent, told, counted))


def total(spent: Sequence[tuple[Usage, int]], last: Usage, counted: int) -> Usage:
    """The usage of all generations of an answer together.

    Args:
        spent: What those before the last one told, and the events with text delivered when each of them began.
        last: What the last one told.
        counted: Events with text delivered when the last one began; an estimate of the tokens, where none were told.
    """
    first = spent[0][0].input if spent else None
    said = counted
    if first is not None and last.input is not None and last.input > first:
        said = last.input - first  # what was said before is read now
    told = sum(usage.output or 0 for usage, _ in spent)  # more than what is seen, if there were thoughts
    output = None if last.output is None else max(said, told) + last.output
    if last.input is None:
        return Usage(None, output)
    prompt = max(last.input - said, 0) if first is None else first
    before = sum(prompt + begun if usage.input is None else usage.input for usage, begun in spent)
    return Usage(before + last.input, output)


def encode(framing: Framing, event: Fields, payload: Payload | None) -> bytes:
    """An event as bytes, without its id, which is another generation's."""
    data = event.data or "" if payload is None else json.dumps(payload, separators=(",", ":"))
    return framing.encode(event.event, data)
