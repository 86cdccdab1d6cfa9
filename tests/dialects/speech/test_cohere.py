"""Cohere's chat: two generations of an answer that are one, or a reason why not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from cohere.core.unchecked_base_model import construct_type
from cohere.v2.types import V2ChatResponse, V2ChatStreamResponse

from resumable_llm.core.events import Fields
from resumable_llm.core.model import RequestPlan
from resumable_llm.core.seam import TextSeam
from resumable_llm.core.speech import Answer, Usage, listen
from resumable_llm.dialects import named
from resumable_llm.dialects.speech.cohere import CohereSpeech
from tests.core.generations import Joined, fallbacks, join

COHERE = named("cohere_chat")
SPEECH = CohereSpeech()
USER = {"role": "user", "content": "What is a log?"}
WORDS = ("A log", " is ", "a  list;\n", "naïve", " \U0001f642 ", "readers ", "like it.")
TEXT = "".join(WORDS)


def asked(**body: Any) -> RequestPlan:
    whole = {"model": "command-a-03-2025", "messages": [USER], "stream": True, **body}
    return RequestPlan("POST", "https://api.cohere.com/v2/chat", (), json.dumps(whole).encode())


def event(kind: str, **more: Any) -> Fields:
    return Fields(kind, json.dumps({"type": kind, **more}, separators=(",", ":")), None, None)


def start(id: str = "one") -> Fields:
    return event("message-start", id=id, delta={"message": {"role": "assistant", "content": [], "tool_calls": []}})


def content(stage: str, index: int = 0, **content: Any) -> Fields:
    return event(f"content-{stage}", index=index, delta={"message": {"content": content}})


def call(stage: str, index: int, **call: Any) -> Fields:
    return event(f"tool-call-{stage}", index=index, delta={"message": {"tool_calls": call}})


def ended(block: str, index: int = 0) -> Fields:
    return event(f"{block}-end", index=index)


def used(prompt: Any, said: Any) -> dict[str, Any]:
    tokens = {"input_tokens": prompt, "output_tokens": said}
    return {"billed_units": {"input_tokens": prompt - 1, "output_tokens": said}, "tokens": tokens}


def end(reason: str = "COMPLETE", prompt: Any = 3, said: Any = 0) -> Fields:
    return event("message-end", delta={"finish_reason": reason, "usage": used(prompt, said)})


def generation(words: Sequence[str] = WORDS, id: str = "one", prompt: int = 3) -> list[Fields]:
    said = [content("delta", text=word) for word in words]
    return [
        start(id),
        content("start", type="text", text=""),
        *said,
        ended("content"),
        end("COMPLETE", prompt, len(words)),
    ]


def rich(
    words: Sequence[str] = ("Hel", "lo "), id: str = "one", arguments: Sequence[str] = ('{"a":', "1}")
) -> list[Fields]:
    """Thoughts, text with a citation, a plan, tool calls."""
    cited = {"start": 0, "end": 5, "text": "Hello", "sources": [], "type": "TEXT_CONTENT"}
    found = [start(id), content("start", 0, type="thinking", thinking="")]
    found += [content("delta", 0, thinking=word) for word in words]
    found += [ended("content", 0), content("start", 1, type="text", text="")]
    found += [content("delta", 1, text=word) for word in words]
    found += [event("citation-start", index=0, delta={"message": {"citations": cited}}), ended("citation", 0)]
    found += [ended("content", 1)]
    found += [event("tool-plan-delta", delta={"message": {"tool_plan": word}}) for word in words]
    for index, name in enumerate("fg"):
        function = {"name": name, "arguments": ""}
        found += [call("start", index, id=f"{name}-{id}", type="function", function=function)]
        found += [call("delta", index, function={"arguments": each}) for each in arguments]
        found += [ended("tool-call", index)]
    return [*found, end("TOOL_CALL", 3, 9), Fields(None, "[DONE]", None, None)]


def sdk_object(kind: Any, data: Any) -> Any:
    return construct_type(type_=kind, object_=data)


def fold(events: Sequence[Fields]) -> dict[str, Any]:
    """What a reader of the SDK's events has in the end; fails on what is begun twice, or not at all."""
    found: dict[str, Any] = {"starts": [], "blocks": {}, "plan": "", "end": None}
    for each in events:
        if each.data == "[DONE]":
            continue
        read = sdk_object(V2ChatStreamResponse, json.loads(each.data or ""))
        assert read.type == each.event
        block, _, stage = read.type.rpartition("-")
        where = (block, getattr(read, "index", None))
        message: Any = getattr(getattr(read, "delta", None), "message", None)
        if read.type == "message-start":
            found["starts"].append(read.id)
        elif read.type == "message-end":
            found["end"] = (read.delta.finish_reason, read.delta.usage.tokens.input_tokens)
        elif block == "tool-plan":
            found["plan"] += message.tool_plan
        elif stage == "start":
            assert where not in found["blocks"]
            found["blocks"][where] = {"text": "", "ended": False, "what": None}
            if block == "tool-call":
                found["blocks"][where]["what"] = message.tool_calls.function.name
            if block == "citation":
                found["blocks"][where]["what"] = message.citations.text
        else:
            open_block = found["blocks"][where]
            assert not open_block["ended"]
            if stage == "end":
                open_block["ended"] = True
            elif block == "content":
                open_block["text"] += message.content.text or message.content.thinking or ""
            else:
                open_block["text"] += message.tool_calls.function.arguments
    return found


def joined(
    way: Any, head: Sequence[Fields], tail: Sequence[Fields], request: RequestPlan | None = None, *, can: bool = True
) -> Joined:
    found = join(fallbacks(way, can_continue=can), COHERE, request or asked(), head, tail)
    assert isinstance(found, Joined), found
    return found


def refused(request: RequestPlan, head: Sequence[Fields], can: bool | None) -> str:
    found = join(fallbacks("continue", can_continue=can), COHERE, request, head, [])
    assert isinstance(found, str)
    return found


class TestListen:
    def test_a_whole_answer(self) -> None:
        answer = listen(SPEECH, generation())
        assert answer.text((("content", 0), "text")) == TEXT
        assert answer.is_closed("anything")
        assert answer.usage == Usage(3, len(WORDS))

    def test_of_everything_else(self) -> None:
        answer = listen(SPEECH, rich())
        assert answer.has("text")
        assert answer.has("thinking")
        assert answer.has("tool")
        assert answer.has("other")

    @pytest.mark.parametrize(
        "odd",
        [
            event("tool-plan-delta", delta={"message": {}}),
            event("citation-start", delta={}),
            event("message-start"),
            event("message-end", delta={}),
            event("content-start", delta=[]),
            event("tool-call-delta"),
            event("debug"),
            Fields(None, "{}", None, None),
        ],
    )
    def test_odd_events_say_nothing(self, odd: Fields) -> None:
        assert not listen(SPEECH, [odd]).kinds

    def test_content_of_an_unknown_kind(self) -> None:
        assert listen(SPEECH, [content("start", type="smell")]).has("other")


class TestRepeat:
    @pytest.mark.parametrize("cut", range(len(generation())))
    @pytest.mark.parametrize("pieces", [(TEXT,), WORDS, tuple(TEXT), (TEXT[:7], "", TEXT[7:])])
    def test_at_every_cut_with_other_pieces(self, cut: int, pieces: tuple[str, ...]) -> None:
        found = joined("replay", generation()[:cut], generation(pieces, "two"))
        assert not found.objection
        assert fold(found.events) == {**fold(generation()), "starts": ["one" if cut else "two"]}

    @pytest.mark.parametrize("cut", range(len(rich()) - 1))
    def test_of_everything_else(self, cut: int) -> None:
        again = rich(("H", "ello", " "), "two", ('{"', 'a":1', "}"))
        found = joined("replay", rich()[:cut], again)
        assert not found.objection
        assert fold(found.events) == {**fold(rich()), "starts": ["one" if cut else "two"]}

    @pytest.mark.parametrize("cut", range(3, len(generation())))
    def test_diverging_anywhere_delivers_nothing(self, cut: int) -> None:
        head = generation()[:cut]
        said = "".join(map(COHERE.text, head))
        for at in range(len(said)):
            found = joined("replay", head, generation((said[:at] + "§", TEXT)))
            assert found.objection
            assert not found.tail

    @pytest.mark.parametrize("cut", range(2, len(rich()) - 1))
    def test_another_message(self, cut: int) -> None:
        found = joined("replay", rich()[:cut], generation())
        assert found.objection
        assert not found.tail

    def test_another_index_is_no_shift(self) -> None:
        head = [start(), content("start", 1, type="text", text=""), content("delta", 1, text="Hel")]
        found = joined("replay", head, [*head, content("delta", 1, text="lo")])
        assert found.tail == [content("delta", 1, text="lo")]


class TestContinue:
    @pytest.mark.parametrize("cut", range(3, len(WORDS) + 3))
    @pytest.mark.parametrize("size", [1, 5, 100])
    def test_at_every_cut(self, cut: int, size: int) -> None:
        head = generation()[:cut]
        said = "".join(WORDS[: cut - 2])
        rest = TEXT[len(TextSeam(said).sent) :]
        pieces = [rest[at : at + size] for at in range(0, len(rest), size)]
        found = joined("continue", head, generation(pieces, "two", prompt=3 + cut - 2))
        assert not found.objection
        prompt = 3 + 3 + cut - 2
        assert fold(found.events) == {**fold(generation()), "end": ("COMPLETE", prompt)}
        last = json.loads(found.tail[-1].data or "")["delta"]["usage"]
        assert last == used(prompt, cut - 2 + len(pieces))

    def test_in_another_block(self) -> None:
        head = [start(), content("start", 0, type="text", text=""), ended("content", 0)]
        head += [content("start", 1, type="text", text=""), content("delta", 1, text="Hello")]
        found = joined("continue", head, generation([" there"], "two"))
        assert fold(found.events)["blocks"]["content", 1] == {"text": "Hello there", "ended": True, "what": None}

    def test_ends_at_a_stop_sequence_across_the_seam(self) -> None:
        request = asked(stop_sequences=["END"])
        found = joined("continue", generation(["Hello E"])[:3], generation(["ND of it"]), request)
        assert found.tail == [ended("content"), event("message-end", delta={"finish_reason": "STOP_SEQUENCE"})]
        assert found.way.splice.finished

    def test_events_without_names_stay_without(self) -> None:
        head = [each._replace(event=None) for each in generation(["Hello "])[:3]]
        tail = [each._replace(event=None) for each in generation(["H"])]
        found = joined("continue", head, tail)
        assert next((each.event, COHERE.text(each)) for each in found.tail) == (None, "H")

    def test_what_was_held_back_comes_before_the_end(self) -> None:
        found = joined("continue", generation(["Hello "])[:3], generation(["H"]))
        assert [each.event for each in found.tail] == ["content-delta", "content-end", "message-end"]
        assert fold(found.events)["blocks"]["content", 0]["text"] == "Hello H"

    def test_new_thoughts_are_a_new_start(self) -> None:
        found = joined("continue", generation()[:4], rich())
        assert found.objection
        assert not found.tail

    @pytest.mark.parametrize("head", [[], generation()[:1], generation()[:2]])
    def test_the_same_request_if_nothing_was_said(self, head: list[Fields]) -> None:
        found = joined("continue", head, generation())
        assert found.way.plan.body == asked().body
        assert fold(found.events)["blocks"] == fold(generation())["blocks"]

    def test_the_request(self) -> None:
        plan = joined("continue", generation()[:5], [], asked(max_tokens=100, stop_sequences=["x"])).way.plan
        assert json.loads(plan.body or b"") == {
            "model": "command-a-03-2025",
            "messages": [USER, {"role": "assistant", "content": "A log is a  list;"}],
            "stream": True,
            "max_tokens": 97,
            "stop_sequences": ["x"],
        }

    @pytest.mark.parametrize(
        ("messages", "sent"),
        [
            (
                [USER, {"role": "assistant", "content": "Well, "}],
                [USER, {"role": "assistant", "content": "Well, Hello"}],
            ),
            ([], [{"role": "assistant", "content": "Hello"}]),
        ],
    )
    def test_behind_what_the_caller_had_put_there(self, messages: Any, sent: Any) -> None:
        plan = joined("continue", generation(["Hello"])[:3], [], asked(messages=messages)).way.plan
        assert json.loads(plan.body or b"")["messages"] == sent

    @pytest.mark.parametrize(
        ("body", "head", "reason"),
        [
            ({"messages": "Hello"}, generation()[:3], "no list of messages"),
            ({"documents": ["A log."]}, generation()[:3], "citations"),
            ({"messages": [USER, {"role": "tool"}]}, generation()[:3], "citations"),
            ({"response_format": {"type": "json_object"}}, generation()[:3], "json_object"),
            ({"tool_choice": "REQUIRED"}, generation()[:3], "forces the model to call a tool"),
            ({}, generation()[:-1], "its text was whole"),
            ({}, rich()[:8], "thought aloud"),
        ],
    )
    def test_refused_whatever_the_caller_says(self, body: Any, head: list[Fields], reason: str) -> None:
        assert reason in refused(asked(**body), head, can=True)

    def test_refused_unless_the_caller_knows_better(self) -> None:
        assert "nothing is known of how Cohere's models go on" in refused(asked(), generation()[:3], can=None)
        assert "can_continue=True says" in refused(asked(), generation()[:3], can=None)
        assert "can_continue=False says" in refused(asked(), generation()[:3], can=False)


class TestUsage:
    def test_with_fractions_and_without_what_is_billed(self) -> None:
        payload: Any = {"delta": {"usage": {"tokens": {"input_tokens": 3.0}}}}
        assert SPEECH.usage(payload) == Usage(3, None)
        SPEECH.set_usage(payload, Usage(9, 9))
        assert payload == {"delta": {"usage": {"tokens": {"input_tokens": 9}}}}
        SPEECH.set_usage(payload, Usage(None, None))
        assert payload == {"delta": {"usage": {"tokens": {"input_tokens": 9}}}}


class TestPartial:
    @pytest.mark.parametrize("cut", range(1, len(rich()) + 1))
    def test_at_every_cut(self, cut: int) -> None:
        head = rich()[:cut]
        partial = SPEECH.partial(listen(SPEECH, head))
        found = sdk_object(V2ChatResponse, partial)
        seen = fold(head)
        assert found.id == "one"
        blocks = {key: block for key, block in seen["blocks"].items() if key[0] == "content"}
        texts = [getattr(each, each.type) for each in found.message.content or []]
        assert texts == [block["text"] for block in blocks.values()]
        assert (found.message.tool_plan or "") == seen["plan"]
        calls = [block for key, block in seen["blocks"].items() if key[0] == "tool-call"]
        whole = [(each.function.name, each.function.arguments) for each in found.message.tool_calls or []]
        assert whole == [(block["what"], block["text"]) for block in calls if block["ended"]]
        torn = partial.get("incomplete_tool_calls", [])
        assert [each["function"]["arguments"] for each in torn] == [each["text"] for each in calls if not each["ended"]]
        cited = [block["what"] for key, block in seen["blocks"].items() if key[0] == "citation"]
        assert [each.text for each in found.message.citations or []] == cited

    def test_ends_as_the_answer_that_is_not_streamed(self) -> None:
        assert SPEECH.partial(listen(SPEECH, generation())) == {
            "id": "one",
            "finish_reason": "COMPLETE",
            "message": {"role": "assistant", "content": [{"type": "text", "text": TEXT}]},
            "usage": used(3, len(WORDS)),
        }

    def test_of_nothing(self) -> None:
        assert SPEECH.partial(Answer()) == {"id": None, "finish_reason": None, "message": {"role": "assistant"}}
