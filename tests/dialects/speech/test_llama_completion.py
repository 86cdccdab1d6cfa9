"""llama.cpp's native completion: two generations of an answer that are one, or a reason why not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from resumable_llm.core.events import Fields
from resumable_llm.core.model import RequestPlan
from resumable_llm.core.seam import TextSeam
from resumable_llm.core.speech import Answer, Usage, listen
from resumable_llm.dialects import named
from resumable_llm.dialects.speech.llama_completion import LlamaCompletionSpeech
from tests.core.generations import Joined, fallbacks, join

LLAMA = named("llama_completion")
SPEECH = LlamaCompletionSpeech()
PROMPT = "What is a log?"
WORDS = (" A log", " is ", "a  list;\n", "naïve", " \U0001f642 ", "readers ", "like it.")
TEXT = "".join(WORDS)


def asked(**body: Any) -> RequestPlan:
    whole = {"prompt": PROMPT, "stream": True, **body}
    return RequestPlan("POST", "http://localhost:8080/completion", (), json.dumps(whole).encode())


def event(content: str, slot: int = 0, index: Any = 0, **more: Any) -> Fields:
    whole = {"index": index, "content": content, "tokens": [7], "stop": False, "id_slot": slot, **more}
    return Fields(None, json.dumps(whole, separators=(",", ":")), None, None)


def generation(words: Sequence[str] = WORDS, slot: int = 0, evaluated: int = 5, prompt: str = PROMPT) -> list[Fields]:
    said = [event(word, slot, tokens_predicted=n, tokens_evaluated=evaluated) for n, word in enumerate(words, 1)]
    figures = {"tokens_predicted": len(words), "tokens_evaluated": evaluated, "timings": {"predicted_n": len(words)}}
    last = {"tokens": [], "stop": True, "model": "m", **figures, "prompt": f"<s>{prompt}", "stop_type": "eos"}
    return [*said, event("", slot, **last)]


def payloads(events: Sequence[Fields]) -> list[Any]:
    return [json.loads(each.data or "") for each in events]


def text(events: Sequence[Fields]) -> str:
    return "".join(map(LLAMA.text, events))


def joined(way: Any, head: Sequence[Fields], tail: Sequence[Fields], request: RequestPlan | None = None) -> Joined:
    found = join(fallbacks(way), LLAMA, request or asked(), head, tail)
    assert isinstance(found, Joined), found
    return found


def sent(request: RequestPlan, head: Sequence[Fields]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(joined("continue", head, [], request).way.plan.body or b"")
    return found


def test_listen() -> None:
    answer = listen(SPEECH, generation())
    assert answer.text((0, "text")) == TEXT
    assert answer.closed == {0}
    assert answer.usage == Usage(5, len(WORDS))
    assert not listen(SPEECH, [Fields(None, '{"error":{}}', None, None)]).kinds


class TestRepeat:
    @pytest.mark.parametrize("cut", range(len(WORDS) + 1))
    @pytest.mark.parametrize("pieces", [(TEXT,), WORDS, tuple(TEXT), (TEXT[:7], "", TEXT[7:])])
    def test_at_every_cut_with_other_pieces(self, cut: int, pieces: tuple[str, ...]) -> None:
        again = generation(pieces, 3)
        found = joined("replay", generation()[:cut], again)
        assert not found.objection
        assert text(found.events) == TEXT
        assert {each["id_slot"] for each in payloads(found.events)} == {0 if cut else 3}
        assert {**payloads(found.tail)[-1], "id_slot": 3} == payloads(again)[-1]

    @pytest.mark.parametrize("cut", range(1, len(WORDS) + 1))
    def test_diverging_anywhere_delivers_nothing(self, cut: int) -> None:
        said = "".join(WORDS[:cut])
        for at in range(len(said)):
            found = joined("replay", generation()[:cut], generation((said[:at] + "§", TEXT)))
            assert found.objection
            assert not found.tail

    def test_an_earlier_end(self) -> None:
        assert joined("replay", generation()[:3], generation(WORDS[:2])).objection

    def test_several_prompts(self) -> None:
        head = [event("a"), event("b", index=1), event("", stop=True)]
        again = [event("b!", index=1), event("a"), event("", stop=True), event("", index=1, stop=True)]
        found = joined("replay", head, again, asked(prompt=["x", "y"]))
        assert found.tail == [event("!", index=1), event("", index=1, stop=True)]

    def test_an_end_that_was_told_beside_what_was_not(self) -> None:
        payload = payloads([event("a", stop=True)])[0]
        slots = SPEECH.slots(event(""), payload)
        assert SPEECH.tidy(event(""), payload, slots[1:])
        assert payload["stop"] is False
        assert not SPEECH.tidy(event(""), payload, slots[:1])


class TestContinue:
    @pytest.mark.parametrize("cut", range(1, len(WORDS) + 1))
    @pytest.mark.parametrize("size", [1, 5, 100])
    def test_at_every_cut(self, cut: int, size: int) -> None:
        said = TextSeam("".join(WORDS[:cut])).sent
        rest = TEXT[len(said) :]
        pieces = [rest[at : at + size] for at in range(0, len(rest), size)]
        tail = generation(pieces, 3, evaluated=5 + cut, prompt=PROMPT + said)
        found = joined("continue", generation()[:cut], tail)
        assert not found.objection
        assert text(found.events) == TEXT
        last = payloads(found.tail)[-1]
        assert (last["tokens_evaluated"], last["tokens_predicted"]) == (5 + 5 + cut, cut + len(pieces))
        assert last["prompt"] == f"<s>{PROMPT}"
        assert {each["id_slot"] for each in payloads(found.events)} == {0}

    def test_ends_at_a_stop_sequence_across_the_seam(self) -> None:
        found = joined("continue", [event("Hello E")], [event("ND of it")], asked(stop=["END"]))
        assert found.way.splice.finished
        assert text(found.events) == "Hello E"
        last = payloads(found.tail)[-1]
        assert (last["stop"], last["stop_type"], last["stopping_word"]) == (True, "word", "END")

    def test_what_was_held_back_comes_before_the_end(self) -> None:
        found = joined("continue", [event("Hello ")], [event("H"), event("", stop=True)])
        assert [(each["content"], each["stop"]) for each in payloads(found.tail)] == [("H", False), ("", True)]

    def test_a_repetition_is_a_new_start(self) -> None:
        found = joined("continue", generation()[:4], generation())
        assert found.objection
        assert not found.tail

    def test_the_same_request_if_nothing_was_said(self) -> None:
        assert joined("continue", [], []).way.plan.body == asked().body

    @pytest.mark.parametrize("limit", ["n_predict", "max_tokens"])
    def test_the_request(self, limit: str) -> None:
        request = asked(**{limit: 100}, stop="x")
        assert sent(request, generation()[:3]) == {
            "prompt": f"{PROMPT} A log is a  list;",
            "stream": True,
            limit: 97,
            "stop": "x",
        }
        assert SPEECH.stops(request) == ["x"]

    def test_the_limit_where_no_usage_was_told(self) -> None:
        assert sent(asked(n_predict=9), [event("Hel"), event("lo")])["n_predict"] == 7

    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            ({"json_schema": {"type": "object"}}, "json_schema"),
            ({"grammar": "root ::= x"}, "grammar"),
            ({"prompt": [1, 2]}, "single prompt"),
            ({"prompt": ["x", "y"]}, "single prompt"),
            ({"n": 2}, "more than one answer"),
            ({"n_cmpl": 2}, "more than one answer"),
        ],
    )
    def test_refused(self, body: Any, reason: str) -> None:
        found = join(fallbacks("continue", can_continue=True), LLAMA, asked(**body), generation()[:2], [])
        assert isinstance(found, str)
        assert reason in found

    def test_as_the_caller_says(self) -> None:
        found = join(fallbacks("continue", can_continue=False), LLAMA, asked(n=1), generation()[:2], [])
        assert isinstance(found, str)
        assert "can_continue=False" in found


def test_usage_is_written_only_where_it_was_told() -> None:
    payload = {"tokens_predicted": 1}
    SPEECH.set_usage(payload, Usage(3, None))
    assert payload == {"tokens_predicted": 1}
    SPEECH.set_usage(payload, Usage(3, 4))
    assert payload == {"tokens_predicted": 4}


class TestPartial:
    @pytest.mark.parametrize("cut", range(1, len(WORDS) + 2))
    def test_at_every_cut(self, cut: int) -> None:
        head = generation()[:cut]
        last = payloads(head)[-1]
        del last["tokens"]
        assert SPEECH.partial(listen(SPEECH, head)) == {**last, "content": text(head)}

    def test_of_several_prompts(self) -> None:
        head = [event("b", index=1), event("a"), event("A"), event("", index=1, stop=True)]
        found = SPEECH.partial(listen(SPEECH, head))
        assert [(each["content"], each["stop"]) for each in found] == [("aA", False), ("b", True)]

    def test_of_nothing_and_of_odd_things(self) -> None:
        assert SPEECH.partial(Answer()) == {"index": 0, "stop": False, "content": ""}
        assert SPEECH.partial(listen(SPEECH, [event("a", index="odd")]))["content"] == "a"
