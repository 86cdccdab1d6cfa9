"""What an answer said, put together from slots."""

from __future__ import annotations

import pytest

from resumable_llm.core.events import Fields
from resumable_llm.core.speech import MESSAGE, Answer, Kind, Says, Slot, Usage, listen, payload_of
from resumable_llm.dialects.speech.chat import ChatSpeech

TEXT = (0, "text")


def grows(value: str, kind: Kind = "text", *, closes: bool = False) -> Slot:
    return Slot((0, kind), kind, {"x": value}, "x", closes=closes)


def test_pieces_grow_together() -> None:
    answer = Answer()
    answer.add([grows("Hel"), grows("lo \ud83d")])
    answer.add([grows("")])
    answer.add([grows("\ude00", closes=True)])
    assert answer.text(TEXT) == "Hello 😀"
    assert answer.text((1, "text")) == ""
    assert answer.text_events == 2
    assert (answer.is_closed(0), answer.is_closed(1)) == (True, False)


def test_what_is_said_once_is_kept_as_it_was_said_first() -> None:
    answer = Answer()
    for number in (1, 2):
        answer.add([Slot((0, "id"), "tool", {"id": number}, "id", Says.NAMES)])
        answer.add([Slot((0, "name"), "tool", {"name": number}, "name", Says.SETTLES)])
    assert answer.marks == {(0, "id"): 1, (0, "name"): 1}
    assert answer.settled == {(0, "name")}
    assert answer.text_events == 0


def test_a_part_is_there_once_something_was_said_or_begun() -> None:
    answer = Answer()
    answer.add([grows("", "thinking"), Slot((0, "call"), "tool", {"id": ""}, "id", Says.NAMES)])
    assert (answer.has("thinking"), answer.has("tool"), answer.has("audio")) == (False, True, False)
    answer.add([grows("hm", "thinking")])
    assert answer.has("thinking")


def test_the_end_of_the_message_is_the_end_of_all_of_it() -> None:
    answer = Answer()
    answer.add([Slot((MESSAGE, "end"), "text", {"end": 1}, "end", Says.SETTLES, closes=True)])
    assert answer.is_closed(0)
    assert answer.is_closed("anything")


def test_usage_is_told_bit_by_bit() -> None:
    first = Usage(7, None)
    assert first.with_news(None) == first
    assert first.with_news(Usage(None, 3)) == Usage(7, 3)
    assert Usage(7, 3).with_news(Usage(8, 4)) == Usage(8, 4)


@pytest.mark.parametrize("data", ["[DONE]", "[1]", "", None, "[" * 100_000])
def test_what_is_no_object_says_nothing(data: str | None) -> None:
    event = Fields(None, data, None, None)
    assert payload_of(event) is None
    assert listen(ChatSpeech(), [event]) == Answer()


def test_listening() -> None:
    chunk = (
        '{"id":"c","choices":[{"index":0,"delta":{"content":"a"}}],"usage":{"prompt_tokens":3,"completion_tokens":%d}}'
    )
    answer = listen(ChatSpeech(), [Fields(None, chunk % tokens, None, None) for tokens in (1, 2)])
    assert answer.text(TEXT) == "aa"
    assert (answer.usage, answer.names, answer.text_events) == (Usage(3, 2), {"id": "c"}, 2)
