"""What is common to protocols in which an answer can be asked for again, but not gone on with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from resumable_llm.core.events import Fields
from resumable_llm.core.model import RequestPlan
from resumable_llm.core.speech import MESSAGE, Answer, Ask, Key, Payload, Slot


class RepeatOnly:
    """The half of a `Speech` that is about going on, where there is no way to."""

    refusal: ClassVar[str]
    """Why."""

    def open_part(self, answer: Answer) -> Key:
        """The last part of text."""
        return next((key for key in reversed(answer.texts) if answer.kinds[key] == "text"), (MESSAGE,))

    def go_on(self, request: RequestPlan, answer: Answer, text: str, *, can_continue: bool | None) -> Ask:
        """None, whatever the caller knows of the model: there is no form of request for it."""
        return Ask(None, self.refusal)

    def stops(self, request: RequestPlan) -> list[str]:
        """None."""
        return []

    def say(self, answer: Answer, text: str) -> tuple[Fields, Payload]:
        """Only somebody who goes on says more."""
        raise NotImplementedError(self.refusal)

    def finish(self, answer: Answer, stop: str) -> list[tuple[Fields, Payload | None]]:
        """Only somebody who goes on may have to end."""
        raise NotImplementedError(self.refusal)


def says_more(slots: list[Slot], spent: list[Slot]) -> bool:
    """Whether an event is new to the caller: if what its first slot says is."""
    return all(slot.key != slots[0].key for slot in spent)


def learn(names: dict[str, str], new: object, old: object) -> None:
    """Remember what the caller knows under another name."""
    if isinstance(new, str) and isinstance(old, str):
        names[new] = old


def rename(payload: Payload, names: Mapping[str, str]) -> None:
    """Write the names that the caller knows over the new ones, under ``id`` and whatever ends in ``_id``."""
    left: list[Any] = [payload]
    while left:  # no recursion: how deep an answer is nested is up to a model
        found = left.pop()
        if isinstance(found, list):
            left += found
        elif isinstance(found, dict):
            left += found.values()
            for name, value in found.items():
                if isinstance(value, str) and (name == "id" or name.endswith("_id")):
                    found[name] = names.get(value, value)


def index_in(payload: Payload, name: str) -> int | None:
    """The number under a name; None if there is none."""
    found = payload.get(name)
    return found if type(found) is int else None


def text_in(payload: Payload, name: str) -> str:
    """The text under a name; an empty one if there is none."""
    found = payload.get(name)
    return found if isinstance(found, str) else ""
