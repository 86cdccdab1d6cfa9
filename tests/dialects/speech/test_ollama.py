"""Ollama's own API: two generations of an answer that are one, or a reason why not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import ollama
import pytest

from resumable_llm.core.events import Fields
from resumable_llm.core.model import RequestPlan
from resumable_llm.core.seam import TextSeam
from resumable_llm.core.speech import Answer, Usage, listen
from resumable_llm.dialects import named
from resumable_llm.dialects.speech.ollama import OllamaSpeech
from tests.core.generations import Joined, fallbacks, join

OLLAMA = named("ollama")
SPEECH = OllamaSpeech()
USER = {"role": "user", "content": "What is a log?"}
WORDS = ("A log", " is ", "a  list;\n", "naïve", " \U0001f642 ", "readers ", "like it.")
TEXT = "".join(WORDS)
FIGURES = {"total_duration": 7, "load_duration": 1, "prompt_eval_duration": 2, "eval_duration": 4}


def asked(**body: Any) -> RequestPlan:
    whole = {"model": "llama3.2", "messages": [USER], **body}
    return RequestPlan("POST", "http://localhost:11434/api/chat", (), json.dumps(whole).encode())


def asked_to_generate(**body: Any) -> RequestPlan:
    whole = {"model": "llama3.2", "prompt": "A log", "raw": True, **body}
    return RequestPlan("POST", "http://localhost:11434/api/generate", (), json.dumps(whole).encode())


def line(at: int = 0, **said: Any) -> Fields:
    whole = {"model": "llama3.2", "created_at": f"2026-11-22T12:00:{at:02}Z", "done": False, **said}
    return Fields(None, json.dumps(whole, separators=(",", ":")), None, None)


def message(content: str = "", at: int = 0, **more: Any) -> Fields:
    return line(at, message={"role": "assistant", "content": content, **more})


def end(at: int = 0, prompt: int = 3, said: int = 0, **more: Any) -> Fields:
    body = more or {"message": {"role": "assistant", "content": ""}}
    return line(at, **body, done=True, done_reason="stop", **FIGURES, prompt_eval_count=prompt, eval_count=said)


def generation(words: Sequence[str] = WORDS, at: int = 0, prompt: int = 3) -> list[Fields]:
    return [*(message(word, at) for word in words), end(at, prompt, len(words))]


def call(name: str, id: str = "one", **arguments: Any) -> dict[str, Any]:
    return {"id": id, "function": {"name": name, "arguments": arguments}}


def rich(words: Sequence[str] = ("Hel", "lo "), id: str = "one") -> list[Fields]:
    return [
        message(thinking="Gre"),
        message(thinking="et."),
        *map(message, words),
        message(tool_calls=[call("f", id, a=1, b=[2])]),
        message(tool_calls=[call("f", id, b=[2], a=1), call("g", id)]),
        end(said=6),
    ]


def fold(events: Sequence[Fields]) -> tuple[str, str, list[Any], Any]:
    """What a reader of the SDK's lines has in the end."""
    lines = [ollama.ChatResponse(**json.loads(each.data or "")) for each in events]
    text = "".join(each.message.content or "" for each in lines)
    thoughts = "".join(each.message.thinking or "" for each in lines)
    calls = [call for each in lines for call in each.message.tool_calls or []]
    return text, thoughts, calls, (lines[-1].done, lines[-1].prompt_eval_count, lines[-1].eval_count)


def joined(way: Any, head: Sequence[Fields], tail: Sequence[Fields], request: RequestPlan | None = None) -> Joined:
    found = join(fallbacks(way), OLLAMA, request or asked(), head, tail)
    assert isinstance(found, Joined), found
    return found


def sent(request: RequestPlan, head: Sequence[Fields]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(joined("continue", head, [], request).way.plan.body or b"")
    return found


class TestListen:
    def test_a_whole_answer(self) -> None:
        answer = listen(SPEECH, generation())
        assert answer.text((0, "text")) == TEXT
        assert answer.closed == {0}
        assert answer.usage == Usage(3, len(WORDS))

    def test_a_generated_one(self) -> None:
        answer = listen(SPEECH, [line(response="", thinking="Hm"), line(response="Hel"), line(response="lo")])
        assert answer.text((0, "text")) == "Hello"
        assert answer.text((0, "thinking")) == "Hm"
        assert not answer.closed

    @pytest.mark.parametrize(
        ("event", "why"),
        [
            (message(tool_calls=[call("f")]), "tool call"),
            (message(thinking="Hm"), "thought aloud"),
            (line(response="", image="AA=="), "images"),
        ],
    )
    def test_what_cannot_be_continued(self, event: Fields, why: str) -> None:
        found = join(fallbacks("continue"), OLLAMA, asked(), [message("Hello"), event], [])
        assert isinstance(found, str)
        assert why in found


class TestRepeat:
    @pytest.mark.parametrize("cut", range(len(WORDS) + 1))
    @pytest.mark.parametrize("pieces", [(TEXT,), WORDS, tuple(TEXT), (TEXT[:7], "", TEXT[7:])])
    def test_at_every_cut_with_other_pieces(self, cut: int, pieces: tuple[str, ...]) -> None:
        found = joined("replay", generation()[:cut], generation(pieces, 9))
        assert not found.objection
        text, _, _, (done, prompt, _) = fold(found.events)
        assert (text, done, prompt) == (TEXT, True, 3)

    @pytest.mark.parametrize("cut", range(len(rich())))
    def test_of_everything_else(self, cut: int) -> None:
        found = joined("replay", rich()[:cut], rich(("H", "ello", " "), "two"))
        assert not found.objection
        assert fold(found.events) == fold(rich())

    def test_a_new_tool_call_beside_one_that_was_told(self) -> None:
        again = [message(tool_calls=[call("f", "two"), call("g", "two")])]
        found = joined("replay", [message(tool_calls=[call("f")])], again)
        assert found.tail == [message(tool_calls=[call("g", "two")])]

    @pytest.mark.parametrize("cut", range(1, len(WORDS) + 1))
    def test_diverging_anywhere_delivers_nothing(self, cut: int) -> None:
        said = "".join(WORDS[:cut])
        for at in range(len(said)):
            found = joined("replay", generation()[:cut], generation((said[:at] + "§", TEXT)))
            assert found.objection
            assert not found.tail

    @pytest.mark.parametrize("other", [call("f", a=2), call("g", a=1)])
    def test_another_tool_call(self, other: Any) -> None:
        found = joined("replay", [message(tool_calls=[call("f", a=1)])], [message(tool_calls=[other]), end()])
        assert found.objection
        assert not found.tail

    def test_a_generated_image(self) -> None:
        head, image = line(response="Look:"), line(response="", image="AA==", done=True)
        assert joined("replay", [head], [head, image]).tail == [image]
        drawn = line(response="", image="AA==")
        again = joined("replay", [head, drawn], [line(response="Look: here", image="AA==")])
        assert again.tail == [line(response=" here", image="")]
        assert joined("replay", [drawn], [line(response="", image="BB==")]).objection

    def test_an_end_that_was_told(self) -> None:
        assert not joined("replay", generation(), generation()).tail
        payload = {"done": True, "message": {"content": ""}}
        assert not SPEECH.tidy(end(), payload, SPEECH.slots(end(), payload))
        assert payload["done"] is False


class TestContinue:
    @pytest.mark.parametrize("cut", range(1, len(WORDS) + 1))
    @pytest.mark.parametrize("size", [1, 5, 100])
    def test_at_every_cut(self, cut: int, size: int) -> None:
        said = "".join(WORDS[:cut])
        rest = TEXT[len(TextSeam(said).sent) :]
        pieces = [rest[at : at + size] for at in range(0, len(rest), size)]
        found = joined("continue", generation()[:cut], generation(pieces, 9, prompt=3 + cut))
        assert not found.objection
        text, _, _, usage = fold(found.events)
        assert text == TEXT
        assert usage == (True, 3 + 3 + cut, cut + len(pieces))  # the first prompt was not told: what was said, less

    def test_ends_at_a_stop_sequence_across_the_seam(self) -> None:
        request = asked(options={"stop": ["END"]})
        found = joined("continue", [message("Hello E")], [message("ND of it")], request)
        assert found.way.splice.finished
        assert fold(found.events)[0] == "Hello E"
        assert [json.loads(each.data or "") for each in found.tail] == [
            {**json.loads(message().data or ""), "done": True, "done_reason": "stop"}
        ]

    def test_what_was_held_back_comes_before_the_end(self) -> None:
        found = joined("continue", [message("Hello ")], [message("H"), end()])
        assert fold(found.events)[0] == "Hello H"
        raw = asked_to_generate()
        found = joined("continue", [line(response="Hello ")], [line(response="H"), end(response="")], raw)
        assert [json.loads(each.data or "")["response"] for each in found.tail] == ["H", ""]

    def test_a_new_start_is_refused(self) -> None:
        found = joined("continue", generation()[:4], generation())
        assert found.objection
        assert not found.tail

    def test_an_echo_is_taken_off(self) -> None:
        words = ["It is a list of what has happened, ", "in the order ", "in which it has."]
        found = joined("continue", generation(words)[:2], generation(words))
        assert fold(found.events)[0] == "".join(words)

    def test_the_same_request_if_nothing_was_said(self) -> None:
        assert joined("continue", [], []).way.plan.body == asked().body

    def test_the_request(self) -> None:
        request = asked(options={"num_predict": 100, "stop": "x"}, think=False)
        assert sent(request, generation()[:3]) == {
            "model": "llama3.2",
            "messages": [USER, {"role": "assistant", "content": "A log is a  list;"}],
            "options": {"num_predict": 97, "stop": "x"},
            "think": False,
        }
        assert SPEECH.stops(request) == ["x"]

    def test_behind_what_the_caller_had_put_there(self) -> None:
        request = asked(messages=[USER, {"role": "assistant", "content": "Well, "}])
        assert sent(request, [message("Hello")])["messages"] == [USER, {"role": "assistant", "content": "Well, Hello"}]
        assert len(sent(asked(messages=[]), [message("Hello")])["messages"]) == 1

    def test_behind_a_raw_prompt(self) -> None:
        request = asked_to_generate(options={"num_predict": -1})
        assert sent(request, [line(response=" is"), line(response=" a ")]) == {
            "model": "llama3.2",
            "prompt": "A log is a",
            "raw": True,
            "options": {"num_predict": -1},
        }

    @pytest.mark.parametrize(
        ("request_", "reason"),
        [
            (asked(format="json"), "format"),
            (asked(format={"type": "object"}), "format"),
            (asked(think=True), "think first"),
            (asked(think="high"), "think first"),
            (asked_to_generate(raw=False), "only raw ones"),
            (asked_to_generate(suffix="."), "only raw ones"),
            (asked_to_generate(prompt=None), "only raw ones"),
        ],
    )
    def test_refused(self, request_: RequestPlan, reason: str) -> None:
        found = join(fallbacks("continue", can_continue=True), OLLAMA, request_, [message("Hello")], [])
        assert isinstance(found, str)
        assert reason in found

    def test_as_the_caller_says(self) -> None:
        found = join(fallbacks("continue", can_continue=False), OLLAMA, asked(), [message("Hello")], [])
        assert isinstance(found, str)
        assert "can_continue=False" in found


def test_usage_is_written_only_where_it_was_told() -> None:
    payload = {"eval_count": 1}
    SPEECH.set_usage(payload, Usage(3, None))
    assert payload == {"eval_count": 1}
    SPEECH.set_usage(payload, Usage(3, 4))
    assert payload == {"eval_count": 4}


class TestPartial:
    @pytest.mark.parametrize("cut", range(1, len(rich()) + 1))
    def test_at_every_cut(self, cut: int) -> None:
        head = rich()[:cut]
        partial = SPEECH.partial(listen(SPEECH, head))
        assert fold([Fields(None, json.dumps(partial), None, None)]) == fold(head)

    def test_ends_as_the_answer_that_is_not_streamed(self) -> None:
        assert SPEECH.partial(listen(SPEECH, rich())) == {
            **json.loads(end(said=6).data or ""),
            "message": {
                "role": "assistant",
                "content": "Hello ",
                "thinking": "Greet.",
                "tool_calls": [call("f", a=1, b=[2]), call("f", a=1, b=[2]), call("g")],
            },
        }

    def test_a_generated_one(self) -> None:
        head = [line(response="Hel", thinking="Hm"), line(response="lo"), line(response="", image="AA==")]
        partial = SPEECH.partial(listen(SPEECH, head))
        found = ollama.GenerateResponse(**partial)
        assert (found.response, found.thinking, found.image, found.done) == ("Hello", "Hm", "AA==", False)
        assert "image" not in SPEECH.partial(listen(SPEECH, head[:2]))

    def test_of_nothing(self) -> None:
        nothing = {"message": {"role": "assistant", "content": ""}}
        assert SPEECH.partial(Answer()) == nothing
        assert SPEECH.partial(listen(SPEECH, [Fields(None, '{"error":"full"}', None, None)])) == nothing
