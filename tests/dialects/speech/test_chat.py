"""Chat completions, and the older completions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from resumable_llm.core.events import Fields
from resumable_llm.core.framing import EVENT_STREAM
from resumable_llm.core.model import RequestPlan
from resumable_llm.core.speech import Answer, Ask, Usage, listen
from resumable_llm.dialects.openai_chat import OpenAIChat
from resumable_llm.dialects.speech.chat import LLAMA_CPP, ChatSpeech
from resumable_llm.dialects.speech.common import count, event_of, objects_in, reduced, strings_in
from resumable_llm.dialects.speech.prefill import BEGUN, QUESTION, TRIAL_TOKENS, went_on
from tests.core.generations import Joined, fallbacks, fields_of, join

SPEECH = ChatSpeech()
VECTORS = Path(__file__).parents[2] / "vectors"
MESSAGES = [{"role": "user", "content": "Hi"}]
NAMES = {"id": "c", "object": "chat.completion.chunk", "created": 7, "model": "m"}
DONE = Fields(None, "[DONE]", None, None)
COMPLETIONS = {**NAMES, "object": "text_completion"}


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> Fields:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return Fields(None, json.dumps({**NAMES, "choices": choices, **more}), None, None)


def completion(text: str, finish: str | None = None, name: str = "c") -> Fields:
    choices = [{"index": 0, "text": text, "finish_reason": finish}]
    return Fields(None, json.dumps({**COMPLETIONS, "id": name, "choices": choices}), None, None)


def heard(*events: Fields) -> Answer:
    return listen(SPEECH, events)


def call(index: int | None, arguments: str, **begun: Any) -> dict[str, Any]:
    name = {"name": begun.pop("name")} if "name" in begun else {}
    found = {**begun, "function": {**name, "arguments": arguments}}
    return {"tool_calls": [found if index is None else {"index": index, **found}]}


def partial(*events: Fields) -> Any:
    found = SPEECH.partial(heard(*events))
    ended = [{**each, "finish_reason": each["finish_reason"] or "stop"} for each in found["choices"]]
    shape = Completion if found["object"] == "text_completion" else ChatCompletion
    shape.model_validate({**found, "choices": ended})  # the SDK's own shape, but for an answer that has not ended
    return found


def message(*events: Fields) -> Any:
    return partial(*events)["choices"][0]["message"]


def ask(url: str, text: str = "Hello", *, can_continue: bool | None = None, tokens: int = 0, **body: Any) -> Ask:
    whole = {"model": "m", "stream": True, **({} if "prompt" in body else {"messages": MESSAGES}), **body}
    request = RequestPlan("POST", url).with_body(json.dumps(whole).encode())
    answer = Answer(text_events=tokens)
    return SPEECH.go_on(request, answer, text, can_continue=can_continue)


def body_of(found: Ask) -> Any:
    assert found.reason == ""
    assert found.plan is not None
    return json.loads(found.plan.body or b"")


# What is said.


@pytest.mark.parametrize("wire", sorted(VECTORS.glob("*_chat/*/wire.sse")), ids=lambda path: path.parent.name)
def test_every_vector_is_listened_to(wire: Path) -> None:
    events = fields_of(EVENT_STREAM, [wire.read_bytes()])
    for cut in range(len(events) + 1):
        found = SPEECH.partial(listen(SPEECH, events[:cut]))
        json.dumps(found)


def test_everything_that_a_choice_may_say() -> None:
    answer = heard(
        chunk({"role": "assistant", "content": ""}),
        chunk({"reasoning_content": "a", "reasoning": "b", "reasoning_text": "c", "thinking": "d", "content": None}),
        chunk({"content": "Hello"}),
        chunk({"refusal": "no"}),
        chunk({"function_call": {"name": "f", "arguments": "{"}}),
        chunk({"function_call": None, "tool_calls": None, "audio": None}),
        chunk({"audio": {"id": "au", "expires_at": 9}}),
        chunk({"audio": {"data": "QQ==", "transcript": "A"}}),
        chunk({}, "stop"),
    )
    assert {key[1:]: answer.text(key) for key in answer.texts} == {
        ("text",): "Hello",
        ("thinking", "reasoning_content"): "a",
        ("thinking", "reasoning"): "b",
        ("thinking", "reasoning_text"): "c",
        ("thinking", "thinking"): "d",
        ("refusal",): "no",
        ("tool", "function_call", "arguments"): "{",
        ("audio", "data"): "QQ==",
        ("audio", "transcript"): "A",
    }
    assert answer.marks[0, "audio", "id"] == "au"
    assert answer.closed == {0}
    assert set(answer.kinds.values()) == {"text", "thinking", "refusal", "tool", "audio"}


def test_mistral_thinks_in_its_content() -> None:
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}, {"type": "reference"}]}
    answer = heard(chunk({"content": [thought, {"type": "text", "text": "Hello"}, {"type": "odd"}, "odd"]}))
    assert answer.text((0, "text")) == "Hello"
    assert answer.text((0, "thinking", "thinking")) == "Hm"


@pytest.mark.parametrize("index", [None, "0", [], {"a": 1}, 1.5])
def test_an_odd_index_is_none(index: Any) -> None:
    choices = [{"index": index, "delta": {"content": "a", "tool_calls": [{"index": index, "id": "t"}, {"id": "u"}]}}]
    answer = heard(Fields(None, json.dumps({"choices": choices}), None, None))
    assert answer.text((0, "text")) == "a"
    assert (answer.marks[0, "tool", 0, "id"], answer.marks[0, "tool", 1, "id"]) == ("t", "u")


@pytest.mark.parametrize("payload", [{}, {"choices": None}, {"choices": ["x", {}]}, {"choices": [{"delta": []}]}])
def test_what_says_nothing(payload: Any) -> None:
    answer = heard(Fields(None, json.dumps(payload), None, None))
    assert (answer.texts, answer.marks) == ({}, {})


def test_usage() -> None:
    used = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    for payload in ({"usage": dict(used)}, {"x_groq": {"usage": dict(used)}}):
        assert SPEECH.usage(payload) == Usage(5, 2)
        SPEECH.set_usage(payload, Usage(None, 9))
        SPEECH.set_usage(payload, Usage(20, None))
        assert SPEECH.usage(payload) == Usage(20, 9)
        assert "29" in str(payload)
    assert SPEECH.usage({"usage": None}) is None
    few: dict[str, Any] = {"usage": {"prompt_tokens": 5}}
    SPEECH.set_usage(few, Usage(6, 7))
    assert few == {"usage": {"prompt_tokens": 6}}


# The message so far.


def test_a_partial_message() -> None:
    assert partial(chunk({"role": "assistant", "content": ""}), chunk({"content": "Hel"})) == {
        **NAMES,
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hel"},
                "finish_reason": None,
                "logprobs": None,
            }
        ],
    }


def test_a_partial_completion() -> None:
    found = partial(completion("Hel"), completion("lo", "stop"))
    assert found["object"] == "text_completion"
    assert found["choices"] == [{"index": 0, "text": "Hello", "finish_reason": "stop", "logprobs": None}]


def test_nothing_yet() -> None:
    assert SPEECH.partial(Answer()) == {"object": "chat.completion", "choices": []}


def test_thoughts_sound_and_usage() -> None:
    used = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    found = partial(
        chunk({"reasoning_content": "Hm", "refusal": "", "audio": {"id": "au", "expires_at": 9, "data": "QQ=="}}),
        chunk({"audio": {"transcript": "A"}}),
        chunk(usage=used),
    )
    assert found["usage"] == used
    assert found["choices"][0]["message"] == {
        "role": "assistant",
        "content": None,
        "reasoning_content": "Hm",
        "audio": {"id": "au", "expires_at": 9, "data": "QQ==", "transcript": "A"},
    }
    assert partial(chunk({}, "stop", usage={"completion_tokens": 2}))["usage"]["total_tokens"] == 2


WEATHER = call(0, "", id="call_1", type="function", name="weather")
TIME = call(1, '{"zone": "CET"}', id="call_2", type="function", name="time")


def whole_call(number: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": number, "type": "function", "function": {"name": name, "arguments": arguments}}


@pytest.mark.parametrize("finish", [None, "tool_calls", "stop", "length", "content_filter", "model_length", "error"])
def test_half_a_call_of_a_tool_is_never_shown_as_a_whole_one(finish: str | None) -> None:
    events = [chunk(WEATHER), chunk(call(0, '{"city": "')), chunk(call(0, 'Rom"}')), chunk(TIME)]
    for cut in (1, 2, 3):
        found = SPEECH.partial(heard(*events[:cut]))
        arguments = ("", '{"city": "', '{"city": "Rom"}')[cut - 1]
        assert "tool_calls" not in found["choices"][0]["message"]
        assert found["incomplete_tool_calls"] == [whole_call("call_1", "weather", arguments)]
    ended = [chunk({}, finish)] if finish else []
    found = SPEECH.partial(heard(*events, *ended))
    calls = [whole_call("call_1", "weather", '{"city": "Rom"}'), whole_call("call_2", "time", '{"zone": "CET"}')]
    whole = 2 if finish in ("tool_calls", "stop") else 1
    assert found["choices"][0]["message"]["tool_calls"] == calls[:whole]
    assert found.get("incomplete_tool_calls", []) == calls[whole:]


def test_several_choices() -> None:
    choices = [{"index": index, "delta": {"content": str(index)}, "finish_reason": None} for index in (1, 0)]
    found = SPEECH.partial(heard(Fields(None, json.dumps({**NAMES, "choices": choices}), None, None)))
    assert [each["message"]["content"] for each in found["choices"]] == ["0", "1"]


# Events of another generation.


def test_an_event_is_adopted_under_the_old_names() -> None:
    answer = heard(chunk({"role": "assistant"}))
    event = chunk({"content": "x"})
    payload = {"id": "other", "created": 99, "model": "m-2", "choices": [{"index": 0, "delta": {"content": "x"}}]}
    assert SPEECH.adopt(event, payload, answer) == [(event, {**payload, "id": "c", "created": 7})]
    bare = {"choices": payload["choices"]}
    assert SPEECH.adopt(event, dict(bare), answer) == [(event, bare)]
    assert SPEECH.adopt(event, dict(payload), Answer()) == [(event, payload)]


def test_what_tells_of_the_prompt_is_left_out_and_a_failure_is_not() -> None:
    event = chunk()
    assert SPEECH.adopt(event, {"choices": [], "prompt_filter_results": []}, Answer()) == []
    for payload in ({"error": {"message": "overloaded"}}, {"choices": [], "usage": {"prompt_tokens": 1}}):
        assert SPEECH.adopt(event, payload, Answer()) == [(event, payload)]


def tidied(payload: dict[str, Any], *spent: str) -> dict[str, Any] | None:
    event = chunk()
    slots = [slot for slot in SPEECH.slots(event, payload) if slot.name in spent]
    return payload if SPEECH.tidy(event, payload, slots) else None


def test_what_is_spent_is_taken_out() -> None:
    def one(**more: Any) -> dict[str, Any]:
        return {"choices": [{"index": 0, **more}]}

    assert tidied(one(delta={"role": "assistant", "content": "x"}), "role") == one(delta={"content": "x"})
    assert tidied(one(delta={"role": "assistant", "content": ""}), "role", "content") is None
    ended = one(delta={}, finish_reason="stop")
    assert tidied({**ended, "usage": {"prompt_tokens": 1}}, "finish_reason") == {
        "choices": [],
        "usage": {"prompt_tokens": 1},
    }
    assert tidied(one(text="x", finish_reason="stop"), "text") == one(text="", finish_reason="stop")
    assert tidied(one(text="x"), "text") is None
    half = one(delta={"content": "more", **call(0, "x", id="call_1")})
    assert tidied(half, "id", "arguments") == one(delta={"content": "more"})
    assert tidied(one(delta=call(0, "x", id="call_1")), "arguments") == one(
        delta={"tool_calls": [{"index": 0, "id": "call_1", "function": {}}]}
    )
    parts = [{"type": "text", "text": "x"}, "odd", {"type": "reference", "ids": [1]}]
    assert tidied(one(delta={"content": parts}), "text") == one(delta={"content": parts[1:]})


def accumulated(events: Sequence[Fields]) -> Any:
    """What the SDK's own accumulator makes of it."""
    state: ChatCompletionStreamState[None] = ChatCompletionStreamState()
    for event in events:
        if event != DONE:
            list(state.handle_chunk(ChatCompletionChunk.model_validate_json(event.data or "")))
    return state.get_final_completion().model_dump(exclude={"id", "created"})


def test_the_sdk_sees_one_answer() -> None:
    def told(texts: Sequence[str], name: str, prompt: int) -> list[Fields]:
        used = {"prompt_tokens": prompt, "completion_tokens": len(texts), "total_tokens": prompt + len(texts)}
        own: dict[str, Any] = {"id": name, "created": prompt}
        begun = chunk({"role": "assistant", "content": ""}, **own)
        return [
            begun,
            *(chunk({"content": each}, **own) for each in texts),
            chunk({}, "stop", **own),
            chunk(usage=used),
        ]

    words = ["One", " two", " three", " four", " five", "."]
    whole = told(words, "a", 10)
    request = RequestPlan("POST", GROQ).with_body(b'{"model":"m","stream":true,"messages":[]}')
    for cut in range(1, len(words) + 1):
        goes_on = [*told(words[cut - 1 :], "b", 10 + cut - 1), DONE]
        says_again = [*told(["".join(words)], "b", 10), DONE]
        for way, tail in (("continue", goes_on), ("replay", says_again)):
            found = join(
                fallbacks("replay" if way == "replay" else "continue"), OpenAIChat(), request, whole[:cut], tail
            )
            assert isinstance(found, Joined)
            one, other = accumulated(found.events), accumulated(whole)
            used = one.pop("usage")
            assert one["choices"] == other["choices"]
            if way == "continue" and cut > 1:
                assert used["completion_tokens"] == len(words)
                assert used["prompt_tokens"] == 10 + 10 + cut - 1


# Events that are written.


@pytest.mark.parametrize("first", [chunk({"role": "assistant", "content": "Hel"}), completion("Hel")])
def test_events_that_say_more(first: Fields) -> None:
    answer = heard(first)
    said = SPEECH.say(answer, "lo")
    (ended, reason), (done, nothing) = SPEECH.finish(answer, "END")
    assert (done.data, nothing) == ("[DONE]", None)
    assert reason is not None
    assert said[0] == ended == event_of(None)
    shape = Completion if "text" in said[1]["choices"][0] else ChatCompletionChunk
    for payload in (said[1], reason):
        assert {name: payload[name] for name in ("id", "created", "model")} == {"id": "c", "created": 7, "model": "m"}
    if shape is ChatCompletionChunk:
        shape.model_validate(said[1])
        shape.model_validate(reason)
    found = SPEECH.partial(heard(first, *[Fields(None, json.dumps(each), None, None) for each in (said[1], reason)]))
    assert found["choices"][0]["finish_reason"] == "stop"
    assert "Hello" in str(found)


@pytest.mark.parametrize(
    ("stop", "found"), [(None, []), ("END", ["END"]), (["a", "", 3, "b"], ["a", "b"]), ("", []), (7, [])]
)
def test_stop_sequences(stop: Any, found: list[str]) -> None:
    request = RequestPlan("POST", "http://localhost/").with_body(json.dumps({"stop": stop}).encode())
    assert SPEECH.stops(request) == found


def test_the_older_completions_are_joined_too() -> None:
    request = RequestPlan("POST", "https://api.openai.com/v1/completions").with_body(b'{"model":"m","prompt":"Hi. "}')
    tail = [completion(" world", name="d"), completion("", "stop", name="d"), DONE]
    found = join(fallbacks("continue"), OpenAIChat(), request, [completion("Hello")], tail)
    assert isinstance(found, Joined)
    assert json.loads(found.way.plan.body or b"")["prompt"] == "Hi. Hello"
    for event in found.tail[:-1]:
        Completion.model_validate({**json.loads(event.data or ""), "choices": []})
        assert "text" in json.loads(event.data or "")["choices"][0]
    assert partial(*found.events[:-1])["choices"][0]["text"] == "Hello world"
    again = join(fallbacks("replay"), OpenAIChat(), request, [completion("Hello")], [completion("Hell"), *tail])
    assert isinstance(again, Joined)
    assert again.objection


# How each service is asked to go on.

HELLO = {"role": "assistant", "content": "Hello"}
ANYBODY = {"continue_final_message": True, "add_generation_prompt": False}


@pytest.mark.parametrize(
    ("url", "form", "body", "echoes", "asked"),
    [
        ("https://api.mistral.ai/v1/chat/completions", {"prefix": True}, {}, True, None),
        (
            "https://api.deepseek.com/chat/completions",
            {"prefix": True},
            {},
            None,
            "https://api.deepseek.com/beta/chat/completions",
        ),
        (
            "https://api.deepseek.com/v1/chat/completions?a=b",
            {"prefix": True},
            {},
            None,
            "https://api.deepseek.com/beta/chat/completions?a=b",
        ),
        ("https://api.deepseek.com/beta/chat/completions", {"prefix": True}, {}, None, None),
        ("https://api.groq.com/openai/v1/chat/completions", {}, {}, False, None),
        ("https://dashscope-intl.aliyuncs.com/compatible-mode/v1/chat/completions", {"partial": True}, {}, False, None),
        ("http://localhost:8000/v1/chat/completions", {}, ANYBODY, None, None),
        ("https://notopenai.com/v1/chat/completions", {}, ANYBODY, None, None),
    ],
)
def test_each_service_in_its_own_form(
    url: str, form: dict[str, Any], body: dict[str, Any], echoes: bool | None, asked: str | None
) -> None:
    found = ask(url)
    assert body_of(found) == {"model": "m", "stream": True, "messages": [*MESSAGES, {**HELLO, **form}], **body}
    assert found.plan is not None
    assert (found.plan.url, found.echoes) == (asked or url, echoes)


def test_a_server_that_has_shown_what_it_is() -> None:
    request = RequestPlan("POST", "http://localhost/v1/chat/completions").with_body(b'{"messages": []}')
    found = ChatSpeech(LLAMA_CPP).go_on(request, Answer(), "Hello", can_continue=None)
    assert body_of(found) == {"messages": [HELLO], **ANYBODY}
    assert found.echoes is False


@pytest.mark.parametrize(
    ("url", "model", "can_continue", "tried"),
    [
        ("http://localhost:8000/v1/chat/completions", "llama", None, True),
        ("http://localhost:8000/v1/chat/completions", "llama", True, False),
        ("http://localhost:8000/v1/chat/completions", "claude-3-haiku", None, False),
        ("https://api.groq.com/openai/v1/chat/completions", "llama", None, False),
    ],
)
def test_a_model_of_which_nothing_is_known_is_tried(
    url: str, model: str, can_continue: bool | None, tried: bool
) -> None:
    assert (ask(url, model=model, can_continue=can_continue).trial is not None) == tried


def test_the_trial() -> None:
    url = "http://localhost:8000/v1/chat/completions"
    limits: list[tuple[str, dict[str, Any]]] = [
        ("max_tokens", {}),
        ("max_completion_tokens", {"max_completion_tokens": 7}),
    ]
    for name, body in limits:
        trial = ask(url, tools=[{}], **body).trial
        assert trial is not None
        asked = json.loads(trial.plan.body or b"")
        messages = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": BEGUN}]
        assert asked == {"model": "m", "messages": messages, name: TRIAL_TOKENS, "temperature": 0, **ANYBODY}
    assert trial is not None
    assert trial.plan.url == url
    request = RequestPlan("POST", url).with_body(b'{"messages": []}')
    unnamed = SPEECH.go_on(request, Answer(), "Hello", can_continue=None).trial
    assert unnamed is not None
    assert "model" not in json.loads(unnamed.plan.body or b"")


@pytest.mark.parametrize("text", [" 8, 9, 10", "Sure! 1, 2", None])
def test_what_the_trial_shows(text: str | None) -> None:
    trial = ask("http://localhost:8000/v1/chat/completions").trial
    assert trial is not None
    body = json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()
    assert trial.passed(body) == went_on(text)
    assert not any(trial.passed(odd) for odd in (b"", b"[]", b"{}", b'{"choices": [1]}', b'{"choices": [{}]}'))


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://api.openai.com/v1/chat/completions", "OpenAI begins a new turn"),
        ("https://eu.api.openai.com/v1/chat/completions", "OpenAI begins a new turn"),
        ("https://x.openai.azure.com/openai/deployments/d/chat/completions", "Azure OpenAI begins a new turn"),
        ("https://openrouter.ai/api/v1/chat/completions", "nothing is known"),
        ("https://api.together.xyz/v1/chat/completions", "nothing is known"),
        ("https://api.x.ai/v1/chat/completions", "nothing is known"),
    ],
)
def test_services_that_are_not_asked_unless_the_caller_knows_better(url: str, why: str) -> None:
    found = ask(url)
    assert found.plan is None
    assert why in found.reason
    assert "can_continue=True" in found.reason
    sure = ask(url, can_continue=True)
    assert body_of(sure)["messages"][-1] == HELLO
    assert sure.echoes is None


GROQ = "https://api.groq.com/openai/v1/chat/completions"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"n": 2}, "more than one choice"),
        ({"response_format": {"type": "json_object"}}, "response_format json_object"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format json_schema"),
        ({"guided_json": {"type": "object"}}, "guided_json"),
        ({"grammar": "root ::= x"}, "grammar"),
        ({"tool_choice": "required"}, "call a tool"),
        ({"tool_choice": "any"}, "call a tool"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "call a tool"),
        ({"modalities": ["text", "audio"]}, "asks for sound"),
    ],
)
@pytest.mark.parametrize("can_continue", [True, None])
def test_requests_that_cannot_be_gone_on_with(body: dict[str, Any], why: str, can_continue: bool | None) -> None:
    found = ask(GROQ, can_continue=can_continue, **body)
    assert found.plan is None
    assert why in found.reason


@pytest.mark.parametrize(
    "body",
    [
        {"n": None, "tool_choice": None, "response_format": None, "modalities": None},
        {"n": 1, "tool_choice": "auto", "response_format": {"type": "text"}, "modalities": ["text"], "grammar": ""},
        {"tool_choice": "none", "tools": [{}]},
    ],
)
def test_requests_that_can(body: dict[str, Any]) -> None:
    assert body_of(ask(GROQ, **body))["messages"][-1] == HELLO


def test_models_that_refuse() -> None:
    found = ask("http://localhost/v1/chat/completions", model="anthropic/claude-opus-4-7")
    assert found.plan is None
    assert "claude-opus-4-7 does not go on" in found.reason
    assert ask(GROQ, can_continue=False).reason.startswith("can_continue=False")


def test_what_the_model_has_ended() -> None:
    request = RequestPlan("POST", GROQ).with_body(b'{"messages": []}')
    for answer in (Answer(closed={0}), Answer(closed={"message"})):
        assert SPEECH.go_on(request, answer, "Hello", can_continue=True).reason == "the model had ended it"


def test_nothing_was_said_yet() -> None:
    found = ask(GROQ, "", max_tokens=5, tokens=3)
    assert body_of(found) == {"model": "m", "stream": True, "messages": MESSAGES, "max_tokens": 5}


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n_predict"])
def test_limits_are_less_what_was_said(name: str) -> None:
    for limit, left in ((100, 60), (41, 1), (40, 1), (7, 1), (-1, -1), (0, 0), (None, None), ("x", "x")):
        body: dict[str, Any] = {name: limit}
        assert body_of(ask(GROQ, tokens=40, **body))[name] == left


@pytest.mark.parametrize(
    ("url", "begun", "text", "whole"),
    [
        (GROQ, "So: ", "Hello", "So: Hello"),
        (GROQ, "So: ", "So: Hello", "So: So: Hello"),  # it does not repeat, so the model did
        ("https://api.mistral.ai/v1/chat/completions", "So: ", "So: Hello", "So: Hello"),
        ("https://api.mistral.ai/v1/chat/completions", "So: Hello", "So", "So: Hello"),  # it broke off in there
        ("https://api.mistral.ai/v1/chat/completions", "So: ", "Hello", "So: Hello"),
        ("https://api.mistral.ai/v1/chat/completions", "", "Hello", "Hello"),
        ("https://api.deepseek.com/chat/completions", "So: ", "So: Hello", "So: Hello"),
    ],
)
def test_what_the_caller_had_put_there_of_the_answer(url: str, begun: str, text: str, whole: str) -> None:
    own = {"role": "assistant", "content": begun, "name": "bot"}
    *before, last = body_of(ask(url, text, messages=[*MESSAGES, own]))["messages"]
    assert before == MESSAGES
    assert (last["role"], last["content"], last["name"]) == ("assistant", whole, "bot")


@pytest.mark.parametrize(
    "last",
    [
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "user", "content": "x"},
        {"role": "tool", "content": "x", "tool_call_id": "c"},
        "odd",
    ],
)
def test_another_last_message_stays_as_it_is(last: Any) -> None:
    assert body_of(ask(GROQ, messages=[last]))["messages"] == [last, HELLO]
    assert body_of(ask(GROQ, messages=[]))["messages"] == [HELLO]


def test_behind_a_prompt() -> None:
    found = ask("https://api.openai.com/v1/completions", prompt="Hi. ", max_tokens=9, tokens=4)
    assert body_of(found) == {"model": "m", "stream": True, "prompt": "Hi. Hello", "max_tokens": 5}
    assert found.echoes is False


@pytest.mark.parametrize(
    "body",
    [{"prompt": ["a", "b"]}, {"prompt": [1, 2]}, {"prompt": "a", "suffix": "z"}, {"prompt": "a", "echo": True}, {}],
)
def test_prompts_that_cannot_be_gone_on_from(body: dict[str, Any]) -> None:
    found = ask("http://localhost/v1/completions", **{"messages": None, **body})
    assert found.plan is None
    assert found.reason.startswith("only a single prompt")
    request = RequestPlan("POST", "http://localhost/v1/completions").with_body(b"no JSON")
    assert SPEECH.go_on(request, Answer(), "Hello", can_continue=True).plan is None


# Small things.


def test_small_things() -> None:
    assert objects_in({"a": [{}, 1, {"b": 2}]}, "a") == [{}, {"b": 2}]
    assert objects_in({"a": {}}, "a") == []
    assert strings_in(None) == []
    assert count({"a": 1, "b": 2, "c": None}, "a", "b", "c", "d") == 3
    assert count({"b": 2}, "a", "b") is None
    assert reduced({"a": 5, "b": "x", "c": -1}, ("a", "b", "c", "d"), 2) == {"a": 3, "b": "x", "c": -1}
    assert event_of("x", "y") == Fields("x", "y", None, None)
