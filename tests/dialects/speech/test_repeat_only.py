"""What protocols have in common in which nothing can be gone on with."""

from __future__ import annotations

import json

import pytest

from resumable_llm.core.model import RequestPlan
from resumable_llm.core.speech import MESSAGE, Answer, Ask, Payload, Says, Slot
from resumable_llm.dialects.speech.repeat_only import RepeatOnly, index_in, learn, rename, says_more, text_in

REQUEST = RequestPlan("POST", "https://a/b", (), b"{}")


class _Mute(RepeatOnly):
    refusal = "because"


def test_the_last_text_is_the_open_part() -> None:
    speech, answer = _Mute(), Answer()
    assert speech.open_part(answer) == (MESSAGE,)
    for number, kind in enumerate(("text", "text", "tool")):
        answer.add([Slot((number,), kind, {"a": "x"}, "a")])  # type: ignore[arg-type]
    assert speech.open_part(answer) == (1,)


@pytest.mark.parametrize("can_continue", [None, True, False])
def test_refusing(can_continue: bool | None) -> None:
    speech, answer = _Mute(), Answer()
    assert speech.go_on(REQUEST, answer, "x", can_continue=can_continue) == Ask(None, "because")
    assert speech.stops(REQUEST) == []
    with pytest.raises(NotImplementedError, match="because"):
        speech.say(answer, "x")
    with pytest.raises(NotImplementedError, match="because"):
        speech.finish(answer, "x")


def test_the_first_slot_decides() -> None:
    first, second = (Slot((name,), "text", {"a": "x"}, "a", Says.NAMES) for name in "ab")
    assert says_more([first, second], [])
    assert says_more([first, second], [second])
    assert not says_more([first, second], [first])


def test_only_names_are_renamed() -> None:
    names: dict[str, str] = {}
    for new, old in (("b", "a"), (1, "a"), ("b", None), ({}, "c")):
        learn(names, new, old)
    assert names == {"b": "a"}
    payload: Payload = {
        "id": "b",
        "item_id": "b",
        "text": "b",
        "list": [{"call_id": "b"}, "b"],
        "x_id": ["b"],
        "y_id": "c",
    }
    rename(payload, names)
    assert payload == {
        "id": "a",
        "item_id": "a",
        "text": "b",
        "list": [{"call_id": "a"}, "b"],
        "x_id": ["b"],
        "y_id": "c",
    }


def test_renaming_however_deep() -> None:
    deep: Payload = {"id": "b"}
    for _ in range(100_000):
        deep = {"x": [deep]}
    payload = deep
    rename(payload, {"b": "a"})
    while "x" in deep:
        deep = deep["x"][0]
    assert deep == {"id": "a"}


def test_numbers_and_texts() -> None:
    payload = json.loads('{"a":1,"b":true,"c":"x","d":1.0}')
    assert [index_in(payload, name) for name in "abcde"] == [1, None, None, None, None]
    assert [text_in(payload, name) for name in "abcde"] == ["", "", "x", "", ""]
