"""What the events of an answer say: the parts of a message, growing piece by piece.

A protocol's `Speech` shows where in the JSON of an event something stands; what is done with it (comparing two
generations, joining one to the other, putting a partial message together) is the same for every protocol, and is done
elsewhere. Events are read here only when an answer has broken off: nothing of this is on the way of a healthy stream.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, NamedTuple, Protocol

from resumable_llm.core.events import Fields
from resumable_llm.core.model import RequestPlan
from resumable_llm.core.units import characters, joined

Kind = Literal["text", "thinking", "tool", "refusal", "audio", "image", "other"]
"""What a part of a message is. Only an answer of text alone can be continued."""

Key = tuple[Hashable, ...]
"""A part of a message. The first is its group: a choice, a content block, an output item."""

Payload = dict[str, Any]

MESSAGE = "message"
"""The group of what belongs to the message as a whole; when it closes, everything is closed."""


class Says(Enum):
    """How a value is to be understood when another generation says it again."""

    GROWS = "grows"
    """Text to be put behind the text before it."""
    SETTLES = "settles"
    """Said once, and the same in every generation of the same answer."""
    NAMES = "names"
    """Said once, and different in every generation: an id, a signature."""


@dataclass
class Slot:
    """A place in an event's JSON where something is said.

    Attributes:
        key: What part of the message it belongs to.
        kind: What that part is.
        holder: The JSON object in which the value stands; a change in it changes the event.
        name: Under this name.
        says: How it is to be understood.
        closes: With it, the group is complete.
    """

    key: Key
    kind: Kind
    holder: Payload
    name: str
    says: Says = Says.GROWS
    closes: bool = False

    @property
    def value(self) -> Any:
        """What is said."""
        return self.holder[self.name]


class Usage(NamedTuple):
    """Tokens, as a server told them; None where it did not."""

    input: int | None = None
    """The prompt, with what of it came from a cache."""
    output: int | None = None

    def with_news(self, told: Usage | None) -> Usage:
        """This, with what has been told since."""
        if told is None:
            return self
        return Usage(
            self.input if told.input is None else told.input, self.output if told.output is None else told.output
        )


class Trial(NamedTuple):
    """A small request that shows whether a model goes on from a partial answer."""

    plan: RequestPlan
    passed: Callable[[bytes], bool]
    """Reads the body of the answer."""


class Ask(NamedTuple):
    """A request to go on, or why none can be made."""

    plan: RequestPlan | None
    reason: str = ""
    echoes: bool | None = None
    """Whether the server says the text again before it goes on; None: not known."""
    trial: Trial | None = None
    """What shows whether the model goes on at all, where that is not known."""


@dataclass
class Answer:
    """What was said so far.

    Attributes:
        texts: The growing parts, in the order in which they began, each in the pieces in which it came.
        kinds: What each part is.
        marks: What was settled or named.
        settled: Of which that was settled: every generation of the same answer has it.
        closed: The groups that are complete.
        names: What a `Speech` needs to write events of this generation: ids, times, indexes. Its own affair.
        usage: The last usage that was told.
        text_events: Events with text or thoughts or the like in them: at about a token each.
    """

    texts: dict[Key, list[str]] = field(default_factory=dict)
    kinds: dict[Key, Kind] = field(default_factory=dict)
    marks: dict[Key, Any] = field(default_factory=dict)
    settled: set[Key] = field(default_factory=set)
    closed: set[Hashable] = field(default_factory=set)
    names: Payload = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    text_events: int = 0

    def text(self, key: Key) -> str:
        """A growing part as one text."""
        return joined("".join(self.texts.get(key, ())))

    @property
    def characters(self) -> int:
        """Characters of all growing parts."""
        return sum(characters(piece) for pieces in self.texts.values() for piece in pieces)

    def is_closed(self, group: Hashable) -> bool:
        """Whether nothing more can come of a group."""
        return group in self.closed or MESSAGE in self.closed

    def let_go_blank(self, part: Key) -> None:
        """Do not count the events of white space at the end of a part: they are not sent, but generated again."""
        for piece in reversed(self.texts.get(part, [])):
            if piece.strip():
                break
            self.text_events -= bool(piece)

    def has(self, kind: Kind) -> bool:
        """Whether something of this kind was said, or begun."""
        return any(found == kind and (key in self.marks or any(self.texts[key])) for key, found in self.kinds.items())

    def add(self, slots: Iterable[Slot]) -> None:
        """Take what one event says."""
        said = False
        for slot in slots:
            value = slot.value
            self.kinds.setdefault(slot.key, slot.kind)
            if slot.says is Says.GROWS:
                self.texts.setdefault(slot.key, []).append(value)
                said = said or bool(value)
            else:
                self.marks.setdefault(slot.key, value)
                if slot.says is Says.SETTLES:
                    self.settled.add(slot.key)
            if slot.closes:
                self.closed.add(slot.key[0])
        self.text_events += said


class Speech(Protocol):
    """What a protocol's events say, and how to go on from it. Stateless."""

    def slots(self, event: Fields, payload: Payload) -> list[Slot]:
        """Where an event says something."""
        ...

    def note(self, event: Fields, payload: Payload, answer: Answer) -> None:
        """Keep in ``answer.names`` what is needed to write events of this generation."""
        ...

    def usage(self, payload: Payload) -> Usage | None:
        """The usage that an event tells."""
        ...

    def set_usage(self, payload: Payload, usage: Usage) -> None:
        """Write another usage over the one that an event tells."""
        ...

    def adopt(self, event: Fields, payload: Payload, answer: Answer) -> list[tuple[Fields, Payload]]:
        """An event of another generation under the names of this one, with whatever has to come before it.

        Called for every event of that generation, in order.
        """
        ...

    def tidy(self, event: Fields, payload: Payload, spent: list[Slot]) -> bool:
        """Take out of an event what the caller has already, and return whether anything is left of it."""
        ...

    def open_part(self, answer: Answer) -> Key:
        """The part of text that the model would go on with, or the last one."""
        ...

    def go_on(self, request: RequestPlan, answer: Answer, text: str, *, can_continue: bool | None) -> Ask:
        """The request in which the model goes on behind ``text``, the open part as far as it can be sent.

        Args:
            request: The request that started the answer.
            answer: What was said.
            text: The open part, less the white space at its end; empty if nothing was said yet.
            can_continue: What the caller knows about the model; None: go by the table of models.
        """
        ...

    def stops(self, request: RequestPlan) -> list[str]:
        """The stop sequences of a request."""
        ...

    def say(self, answer: Answer, text: str) -> tuple[Fields, Payload]:
        """An event of this generation that says more of the open part."""
        ...

    def finish(self, answer: Answer, stop: str) -> list[tuple[Fields, Payload | None]]:
        """The events that end an answer at a stop sequence; those without JSON have their data in the fields."""
        ...

    def partial(self, answer: Answer) -> Any:
        """The message so far, in the shape of the SDK's own, as plain data.

        A tool call that may not be whole is no part of it, but of the list under ``incomplete_tool_calls``.
        """
        ...


def payload_of(event: Fields) -> Payload | None:
    """The JSON object that is an event's data; None if it is something else."""
    try:
        found = json.loads(event.data or "")
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def listen(speech: Speech, events: Iterable[Fields]) -> Answer:
    """What these events say, from the first on."""
    answer = Answer()
    for event in events:
        payload = payload_of(event)
        if payload is None:
            continue
        speech.note(event, payload, answer)
        answer.add(speech.slots(event, payload))
        answer.usage = answer.usage.with_news(speech.usage(payload))
    return answer
