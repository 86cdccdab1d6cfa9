"""Anthropic messages of two generations, joined; put together by the SDK's own accumulator."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from resumable_llm.core.events import Fields
from resumable_llm.core.model import RequestPlan
from resumable_llm.core.speech import Answer, Usage, listen
from resumable_llm.dialects.anthropic_messages import AnthropicMessages
from resumable_llm.dialects.llama_cpp import LlamaCpp
from resumable_llm.dialects.speech.anthropic import AnthropicSpeech
from resumable_llm.dialects.speech.prefill import OVERRIDE
from tests.core.generations import Joined, fallbacks, join

Json = dict[str, Any]

DIALECT = AnthropicMessages()
SPEECH = AnthropicSpeech()
FOUR_FIVE = "claude-sonnet-4-5-20250929"
ASKED: Json = {
    "model": FOUR_FIVE,
    "max_tokens": 99,
    "messages": [{"role": "user", "content": "?"}],
    "stream": True,
}
WORDS = ("An", " answer", " is", " a", " log;", " naïve", " 🙂", " readers", ".\n", "  ", "It", " ends", ".")
TEXT = "".join(WORDS)
START: Json = {"input_tokens": 30, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 2, "output_tokens": 1}
TOLD_AT_THE_END = {"input_tokens": 30, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 2}


def fields(payload: Json) -> Fields:
    return Fields(payload["type"], json.dumps(payload), None, None)


def start(name: str = "msg_1", **usage: Any) -> Json:
    message: Json = {"id": name, "type": "message", "role": "assistant", "model": FOUR_FIVE, "content": []}
    message |= {"stop_reason": None, "stop_sequence": None, "usage": {**START, **usage}}
    return {"type": "message_start", "message": message}


def block(index: int, deltas: Iterable[Json], **begun: Any) -> list[Json]:
    return [
        {"type": "content_block_start", "index": index, "content_block": begun},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def text(index: int, *words: str) -> list[Json]:
    return block(index, [{"type": "text_delta", "text": word} for word in words], type="text", text="")


def thinking(index: int, *thoughts: str, signature: str = "s1gn3d") -> list[Json]:
    deltas: list[Json] = [{"type": "thinking_delta", "thinking": each} for each in thoughts]
    deltas.append({"type": "signature_delta", "signature": signature})
    return block(index, deltas, type="thinking", thinking="", signature="")


def tool(index: int, *pieces: str, name: str = "toolu_1", kind: str = "tool_use") -> list[Json]:
    deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    called = "web_search" if kind == "server_tool_use" else "f"
    return block(index, deltas, type=kind, id=name, name=called, input={})


def end(reason: str = "end_turn", output: int = len(WORDS), **usage: Any) -> list[Json]:
    delta = {"stop_reason": reason, "stop_sequence": None}
    return [
        {"type": "message_delta", "delta": delta, "usage": {"output_tokens": output, **usage}},
        {"type": "message_stop"},
    ]


def answer_of(*parts: Sequence[Json], name: str = "msg_1", **usage: Any) -> list[Fields]:
    return [fields(each) for each in [start(name, **usage), *(event for part in parts for event in part)]]


def request(**changes: Any) -> RequestPlan:
    body = {name: value for name, value in {**ASKED, **changes}.items() if value is not ...}
    return RequestPlan("POST", "https://api.anthropic.com/v1/messages", (), json.dumps(body).encode())


def accumulated(events: Iterable[Fields]) -> Any:
    """The SDK's final message, as `messages.stream` puts it together, or as far as it got."""
    streaming = pytest.importorskip("anthropic.lib.streaming._messages")
    snapshot: Any = None
    buffers: dict[int, bytes] = {}
    known = ("message_start", "message_delta", "content_block_start", "content_block_delta", "content_block_stop")
    for event in events:
        if event.event in known:
            payload = json.loads(event.data or "")
            snapshot = streaming.accumulate_event(event=payload, current_snapshot=snapshot, json_bufs=buffers)
    return snapshot.to_dict()


def names(events: Iterable[Fields]) -> list[str]:
    """Events in short: what happens to which block."""
    found = []
    for event in events:
        payload = json.loads(event.data or "")
        found.append(payload["type"].removeprefix("content_block_") + str(payload.get("index", "")))
    return found


def is_well_formed(events: Iterable[Fields]) -> bool:
    """One start and one end, and blocks that begin and end in turn, counted from 0."""
    due, blocks = "message_start", 0
    for name in names(events):
        if name == "ping":
            continue
        if due == "block" and name == f"start{blocks}":
            due = "delta"
        elif due == "delta" and name == f"stop{blocks}":
            due, blocks = "block", blocks + 1
        elif due == "block" and name == "message_delta":
            due = "message_stop"
        elif due == "message_start" == name:
            due = "block"
        elif due == "message_stop" == name:
            due = ""
        elif (due, name) != ("delta", f"delta{blocks}"):
            return False
    return due == ""


def repeated(head: Sequence[Fields], tail: Sequence[Fields]) -> Joined:
    found = join(fallbacks("replay"), DIALECT, request(), head, tail)
    assert isinstance(found, Joined)
    return found


def continued(head: Sequence[Fields], tail: Sequence[Fields], **changes: Any) -> Joined:
    found = join(fallbacks("continue"), DIALECT, request(**changes), head, tail)
    assert isinstance(found, Joined), found
    return found


def body_of(joined: Joined) -> Json:
    found: Json = json.loads(joined.way.plan.body or b"")
    return found


def delivered_text(events: Iterable[Fields]) -> str:
    return "".join(DIALECT.text(event) for event in events)


# The whole of an answer

RICH = [
    thinking(0, "Let me", " see."),
    text(1, *WORDS),
    tool(2, '{"a"', ": 1}"),
    tool(3, '{"q": "x"}', name="srvtoolu_1", kind="server_tool_use"),
    block(
        4,
        [],
        type="web_search_tool_result",
        tool_use_id="srvtoolu_1",
        content=[{"type": "web_search_result", "url": "u", "title": "t", "encrypted_content": "e1", "page_age": None}],
    ),
    block(
        5,
        [
            {"type": "text_delta", "text": "Cited"},
            {"type": "citations_delta", "citation": {"type": "char_location", "cited_text": "a", "document_index": 0}},
            {"type": "citations_delta", "citation": {"type": "char_location", "cited_text": "ab", "document_index": 0}},
        ],
        type="text",
        text="",
        citations=[],
    ),
    block(6, [], type="redacted_thinking", data="s3cret"),
    end("end_turn", **TOLD_AT_THE_END),
]
WHOLE = answer_of(*RICH)


def test_a_whole_answer_is_heard() -> None:
    answer = listen(SPEECH, WHOLE)
    assert answer.text((0, "thinking")) == "Let me see."
    assert answer.text((1, "text")) == TEXT
    assert answer.text((2, "partial_json")) == '{"a": 1}'
    assert answer.text((5, "text")) == "Cited"
    assert answer.closed == {0, 1, 2, 3, 4, 5, 6, "message"}
    assert answer.usage == Usage(37, len(WORDS))
    assert all(answer.has(kind) for kind in ("text", "thinking", "tool", "other"))
    assert not any(answer.has(kind) for kind in ("image", "audio", "refusal"))


def test_a_partial_message_is_the_sdks() -> None:
    assert {**SPEECH.partial(listen(SPEECH, WHOLE)), "stop_details": None} == accumulated(WHOLE)


@pytest.mark.parametrize("cut", range(1, len(WHOLE) - 1))
def test_a_partial_message_at_every_cut(cut: int) -> None:
    found = SPEECH.partial(listen(SPEECH, WHOLE[:cut]))
    expected = accumulated(WHOLE[:cut])
    open_blocks = len([name for name in names(WHOLE[:cut]) if name.startswith("start")]) > len(
        [name for name in names(WHOLE[:cut]) if name.startswith("stop")]
    )
    if open_blocks and expected["content"][-1]["type"].endswith("tool_use"):
        torn = expected["content"].pop()
        [call] = found.pop("incomplete_tool_calls")
        assert (call["id"], call["name"], call["type"]) == (torn["id"], torn["name"], torn["type"])
        told = [json.loads(each.data or "") for each in WHOLE[:cut]]
        pieces = [each["delta"]["partial_json"] for each in told if "partial_json" in each.get("delta", {})]
        assert '{"a": 1}{"q": "x"}'.startswith("".join(pieces))
        assert "".join(pieces).endswith(call["partial_json"])
    if open_blocks and expected["content"] and expected["content"][-1]["type"] == "thinking":
        expected["content"][-1]["signature"] = ""
    assert found == expected


def test_nothing_said_is_an_empty_message() -> None:
    empty: Json = {"type": "message", "role": "assistant", "content": [], "stop_reason": None, "stop_sequence": None}
    assert SPEECH.partial(Answer()) == empty


def test_a_tool_call_cut_short_by_max_tokens_is_not_whole() -> None:
    found = SPEECH.partial(listen(SPEECH, answer_of(tool(0, '{"a": "b'), end("max_tokens"))))
    assert found["content"] == []
    torn = {"type": "tool_use", "id": "toolu_1", "name": "f", "partial_json": '{"a": "b'}
    assert found["incomplete_tool_calls"] == [torn]


def test_a_tool_call_without_arguments_is_whole_when_it_is_closed() -> None:
    events = answer_of(tool(0))
    assert SPEECH.partial(listen(SPEECH, events))["content"][0]["input"] == {}
    assert "incomplete_tool_calls" in SPEECH.partial(listen(SPEECH, events[:-1]))


def test_what_nobody_knows_yet_is_kept() -> None:
    deltas = [{"type": "compaction_delta", "content": "c", "encrypted_content": "e"}]
    events = answer_of(block(0, deltas, type="compaction", content=None))
    answer = listen(SPEECH, events)
    assert answer.has("other")
    assert SPEECH.partial(answer)["content"] == [{"type": "compaction", "content": "c", "encrypted_content": "e"}]


def test_images_are_no_text() -> None:
    assert listen(SPEECH, answer_of(block(0, [], type="image", source={}))).has("image")


@pytest.mark.parametrize(
    "payload",
    [
        {"type": "ping"},
        {"type": "content_block_start"},
        {"type": "content_block_start", "index": [], "content_block": {"type": "text"}},
        {"type": "content_block_delta", "index": "0", "delta": {"type": "text_delta", "text": "a"}},
        {"type": "message_delta", "delta": {"stop_reason": None}},
        {"type": "something_else", "index": 0},
    ],
)
def test_what_says_nothing(payload: Json) -> None:
    assert SPEECH.slots(fields(payload), payload) == []
    assert SPEECH.partial(listen(SPEECH, [fields(payload)]))["content"] == []


def test_the_end_may_tell_no_news() -> None:
    events = answer_of(text(0, "a"), [{"type": "message_delta", "delta": {"stop_reason": "end_turn"}}])
    found = SPEECH.partial(listen(SPEECH, events))
    assert (found["stop_reason"], found["usage"]) == ("end_turn", START)


def test_what_is_left_where_the_beginning_is_no_longer_at_hand() -> None:
    events = answer_of(text(0, "gone", "a"), thinking(1, "b"), tool(2, "{}"), end("tool_use"))
    begun = ("message_start", "start0", "start1", "start2")
    left = [event for event, name in zip(events, names(events), strict=True) if name not in begun][1:]
    found = SPEECH.partial(listen(SPEECH, left))
    assert found["content"][0] == {"type": "text", "text": "a"}
    assert found["content"][1]["thinking"] == "b"
    assert found["incomplete_tool_calls"] == [{"type": "tool_use", "partial_json": "{}"}]
    assert found["stop_reason"] == "tool_use"


# Repeats


def again(size: int) -> list[Fields]:
    """The same answer, under other names and in pieces of another size."""

    def pieces(whole: str) -> list[str]:
        return [whole[at : at + size] for at in range(0, len(whole), size)]

    cited = [{"type": "text_delta", "text": piece} for piece in pieces("Cited")]
    result = {"type": "web_search_result", "url": "u", "title": "t", "encrypted_content": "e2", "page_age": None}
    return answer_of(
        thinking(0, *pieces("Let me see."), signature="0ther"),
        text(1, *pieces(TEXT)),
        tool(2, *pieces('{"a": 1}'), name="toolu_2"),
        tool(3, *pieces('{"q": "x"}'), name="srvtoolu_2", kind="server_tool_use"),
        block(4, [], type="web_search_tool_result", tool_use_id="srvtoolu_2", content=[result]),
        block(5, [*cited, *(each["delta"] for each in RICH[5][2:4])], type="text", text="", citations=[]),
        block(6, [], type="redacted_thinking", data="0ther"),
        RICH[7],
        name="msg_2",
    )


def without_names(message: Json) -> Json:
    """A message less what is another in every generation."""
    text = json.dumps(message)
    for one, other in (("s1gn3d", "0ther"), ("s3cret", "0ther"), ('"e1"', '"e2"'), ("toolu_1", "toolu_2")):
        text = text.replace(one, other)
    found: Json = json.loads(text)
    return found


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("cut", range(len(WHOLE) - 1))
def test_a_repeat_at_every_cut(cut: int, size: int) -> None:
    joined = repeated(WHOLE[:cut], again(size))
    assert joined.objection == ""
    assert is_well_formed(joined.events)
    found = accumulated(joined.events)
    assert found["id"] == ("msg_1" if cut else "msg_2")
    assert without_names({**found, "id": ""}) == without_names({**accumulated(WHOLE), "id": ""})


OTHERS = [
    thinking(0, "Let me", " see!"),
    text(1, "Another", " answer."),
    tool(2, '{"b"', ": 1}"),
    block(3, [], type="server_tool_use", id="srvtoolu_1", name="g", input={}),
    block(4, [], type="web_search_tool_result", tool_use_id="srvtoolu_1", content=[]),
    block(5, [RICH[5][1]["delta"], RICH[5][3]["delta"]], type="text", text="", citations=[]),
    block(6, [], type="fallback"),
]


@pytest.mark.parametrize("where", range(len(OTHERS)))
def test_a_repeat_that_diverges_delivers_nothing(where: int) -> None:
    head = answer_of(*RICH[: where + 1])
    tail = answer_of(*RICH[:where], OTHERS[where], *RICH[where + 1 :])
    joined = repeated(head, tail)
    assert joined.objection
    assert joined.tail == []


def test_a_tool_call_that_a_relay_says_at_once_is_compared_in_full() -> None:
    def called(name: str, order: int) -> list[Json]:
        return block(0, [], type="tool_use", id=name, name="f", input={"order_id": order})

    head = answer_of(called("toolu_1", 1))[:2]
    assert SPEECH.partial(listen(SPEECH, head))["incomplete_tool_calls"][0]["partial_json"] == '{"order_id": 1}'
    whole = repeated(head, answer_of(called("toolu_2", 1), end("tool_use")))
    assert accumulated(whole.events)["content"] == [called("toolu_1", 1)[0]["content_block"]]
    assert repeated(head, answer_of(called("toolu_1", 2), end("tool_use"))).objection


def test_a_repeat_that_ends_too_early_delivers_nothing() -> None:
    joined = repeated(answer_of(*RICH[:2]), answer_of(RICH[0], end()))
    assert joined.objection
    assert joined.tail == []


def test_a_repeat_of_a_block_that_says_something_in_its_start() -> None:
    begun = block(0, [{"type": "text_delta", "text": " there"}], type="text", text="Hello")
    head = answer_of(begun)[:2]
    assert listen(SPEECH, head).text((0, "text")) == "Hello"
    for other in (text(0, "Hel", "lo there"), begun, block(0, [], type="text", text="Hello there")):
        joined = repeated(head, answer_of(other, end()))
        assert is_well_formed(joined.events)
        assert accumulated(joined.events)["content"][0]["text"] == "Hello there"


def test_a_repeat_of_thoughts_in_the_start_of_a_block() -> None:
    begun = block(0, [], type="thinking", thinking="Hm, well", signature="")
    joined = repeated(answer_of(thinking(0, "Hm"))[:3], answer_of(begun, end()))
    assert accumulated(joined.events)["content"][0]["thinking"] == "Hm, well"


# Continuations


def words_in(said: str) -> int:
    """How many of the words it takes to say that."""
    return sum(len("".join(WORDS[:number])) < len(said) for number in range(len(WORDS)))


def rest_of(said: str) -> str:
    """What a model has to say behind that much of the text."""
    return TEXT[len(said.rstrip()) :]


def second(said: str, size: int = 3, **usage: Any) -> list[Fields]:
    rest = rest_of(said)
    pieces = [rest[at : at + size] for at in range(0, len(rest), size)]
    told = {"input_tokens": 40, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0}
    parts = [text(0, *pieces)] if rest else []
    return answer_of(*parts, end(output=7, **usage), name="msg_2", **told)


PLAIN = answer_of(text(0, *WORDS), end())
LAST_CUT = len(PLAIN) - 2
"""Behind it is the stop reason, which ends the answer."""


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize("cut", range(1, LAST_CUT))
def test_a_continuation_at_every_cut(cut: int, size: int) -> None:
    head = PLAIN[:cut]
    said = delivered_text(head)
    joined = continued(head, second(said, size))
    assert joined.objection == ""
    assert is_well_formed(joined.events)
    found = accumulated(joined.events)
    assert found["id"] == "msg_1"
    assert [each["text"] for each in found["content"]] == [TEXT]
    sent = body_of(joined)
    if said:
        assert sent["messages"][1:] == [{"role": "assistant", "content": said.rstrip()}]
        assert sent["max_tokens"] == 99 - words_in(said.rstrip())
    else:
        assert sent == ASKED


def test_a_continuation_behind_the_end_of_the_block() -> None:
    joined = continued(PLAIN[:LAST_CUT], answer_of(end(output=1), name="msg_2", input_tokens=50))
    assert body_of(joined)["messages"][-1] == {"role": "assistant", "content": TEXT}
    assert is_well_formed(joined.events)
    assert [each["text"] for each in accumulated(joined.events)["content"]] == [TEXT]


def test_a_continuation_in_another_block() -> None:
    head = answer_of(text(0, "One. \n"))
    joined = continued(head, answer_of(text(0, "Two."), end()))
    assert body_of(joined)["messages"][-1] == {"role": "assistant", "content": "One."}
    assert is_well_formed(joined.events)
    assert [each["text"] for each in accumulated(joined.events)["content"]] == ["One. \n", "Two."]


@pytest.mark.parametrize("empty", [(), ("",)])
def test_an_empty_block_behind_another_is_none(empty: tuple[str, ...]) -> None:
    """Whatever comes behind it takes its place."""
    head = answer_of(text(0, "One."))
    blank = text(0, *empty)
    nothing: list[Json] = [*blank[:1], {"type": "ping"}, *blank[1:]]
    alone = continued(head, answer_of(nothing, end()))
    assert names(alone.tail) == ["ping", "message_delta", "message_stop"]
    more = continued(head, answer_of(nothing, text(1, "", "Two."), tool(2, "{}"), end("tool_use")))
    assert is_well_formed(more.events)
    assert [each["type"] for each in accumulated(more.events)["content"]] == ["text", "text", "tool_use"]
    assert delivered_text(more.events) == "One.Two."


def test_an_empty_block_is_an_answer_where_nothing_was_said() -> None:
    joined = continued(answer_of(), answer_of(text(0), end()))
    assert [each["text"] for each in accumulated(joined.events)["content"]] == [""]


def test_a_continuation_that_says_nothing_more_closes_the_block() -> None:
    for tail in (end(), end()[1:]):
        joined = continued(PLAIN[:5], answer_of(tail))
        assert names(joined.tail)[0] == "stop0"
        assert names(joined.tail)[-1] == "message_stop"
        assert accumulated(joined.events)["content"][0]["text"] == delivered_text(PLAIN[:5])


def test_a_continuation_by_a_tool_call_closes_the_block() -> None:
    tail = answer_of(tool(0, '{"a"', ": 1}"), tool(1, "{}"), end("tool_use"))
    joined = continued(PLAIN[:5], tail)
    assert is_well_formed(joined.events)
    found = accumulated(joined.events)
    assert [each["type"] for each in found["content"]] == ["text", "tool_use", "tool_use"]
    assert found["content"][1]["input"] == {"a": 1}
    assert found["stop_reason"] == "tool_use"


def test_a_continuation_by_text_and_a_tool_call() -> None:
    joined = continued(PLAIN[:5], answer_of(text(0, " a log"), tool(1, "{}"), text(2, "x"), end("tool_use")))
    assert is_well_formed(joined.events)
    contents = accumulated(joined.events)["content"]
    assert [each["type"] for each in contents] == ["text", "tool_use", "text"]


def test_pings_and_what_has_no_index_pass() -> None:
    tail = second(delivered_text(PLAIN[:5]))
    odd = fields({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "odd"}})
    null = fields({"type": "message_delta", "delta": {"stop_reason": None}, "usage": {"output_tokens": 1}})
    joined = continued(PLAIN[:5], [tail[0], fields({"type": "ping"}), null, odd, *tail[1:]])
    assert names(joined.tail)[:3] == ["ping", "message_delta", "delta"]
    assert delivered_text(joined.events).replace("odd", "") == TEXT


@pytest.mark.parametrize("thoughts", [thinking(0, "Hm"), block(0, [], type="redacted_thinking", data="x")])
def test_a_model_that_thinks_anew_has_started_over(thoughts: list[Json]) -> None:
    joined = continued(PLAIN[:5], answer_of(thoughts, text(1, TEXT), end()))
    assert "think anew" in joined.objection
    assert joined.tail == []


def test_a_model_that_begins_anew_is_recognised() -> None:
    joined = continued(PLAIN[:9], PLAIN)
    assert joined.objection
    assert joined.tail == []


def test_a_generation_of_its_own_where_nothing_was_said() -> None:
    refused = "claude-opus-4-6"
    for head in (PLAIN[:1], PLAIN[:2]):
        joined = continued(head, WHOLE, model=refused, thinking={"type": "adaptive"})
        assert body_of(joined)["messages"] == ASKED["messages"]
        assert is_well_formed(joined.events)


# Usage


def test_the_usage_is_that_of_both_generations() -> None:
    head = PLAIN[:5]  # 3 words of 37 tokens' prompt
    for told in ({}, {"input_tokens": 40, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 0}):
        read = 40 + told.get("cache_read_input_tokens", 0)
        usage = accumulated(continued(head, second(delivered_text(head), **told)).events)["usage"]
        assert usage["output_tokens"] == 7 + read - 37
        assert usage["cache_read_input_tokens"] == 5 + told.get("cache_read_input_tokens", 0)
        assert usage["cache_creation_input_tokens"] == 2
        assert sum(usage[name] for name in TOLD_AT_THE_END) == 37 + read


def test_the_usage_of_three_generations() -> None:
    allowed = fallbacks("continue")
    head = PLAIN[:5]
    first = join(allowed, DIALECT, request(), head, second(delivered_text(head), 8)[:4])
    assert isinstance(first, Joined)
    said = delivered_text(first.events)
    read: Json = {"input_tokens": 50, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0}
    last = answer_of(text(0, rest_of(said)), end(output=4), **read)
    joined = join(allowed, DIALECT, request(), first.events, last)
    assert isinstance(joined, Joined)
    assert is_well_formed(joined.events)
    found = accumulated(joined.events)
    assert found["content"][0]["text"] == TEXT
    assert sum(found["usage"][name] for name in TOLD_AT_THE_END) == 37 + 40 + 50
    assert found["usage"]["output_tokens"] == 4 + 50 - 37


def test_a_usage_that_is_not_known_is_not_made_up() -> None:
    head = answer_of(text(0, *WORDS), input_tokens=0, cache_read_input_tokens=None, cache_creation_input_tokens=None)
    assert listen(SPEECH, head).usage == Usage(None, None)
    nothing: Json = {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}}
    joined = continued(head[:5], [fields(each) for each in [*text(0, rest_of("An answer is")), nothing]])
    assert json.loads(joined.tail[-1].data or "") == nothing
    payload: Json = {"type": "message_delta", "usage": {"input_tokens": 1}}
    SPEECH.set_usage(payload, Usage(None, 3))
    assert payload["usage"] == {"input_tokens": 1}


def test_a_server_that_tells_of_its_own_tokens_alone() -> None:
    tail = [fields(each) for each in [*text(0, rest_of("An answer is")), *end(output=2)]]
    usage = accumulated(continued(PLAIN[:5], tail).events)["usage"]
    assert usage == {**START, "output_tokens": 3 + 2}


def test_a_server_that_counted_no_more_than_before_has_not_read_the_answer() -> None:
    joined = continued(PLAIN[:13], answer_of(text(0, " x"), end()))
    assert "did not count" in joined.objection


# Stop sequences


def test_a_stop_sequence_across_the_seam_ends_the_answer() -> None:
    head = answer_of(text(0, "a", " b E"))[:-1]
    joined = continued(head, answer_of(text(0, "N", "D and more"), end()), stop_sequences=["END"])
    assert is_well_formed(joined.events)
    found = accumulated(joined.events)
    assert found["content"][0]["text"] == "a b E"
    assert (found["stop_reason"], found["stop_sequence"]) == ("stop_sequence", "END")
    assert found["usage"]["output_tokens"] == 2
    assert joined.way.splice.finished


def test_a_stop_sequence_that_is_known_only_at_the_end_of_the_block() -> None:
    head = answer_of(text(0, "DEN"))[:-1]
    joined = continued(head, answer_of(text(0, "D"), end()), stop_sequences=["ND"])
    assert is_well_formed(joined.events)
    assert accumulated(joined.events)["content"][0]["text"] == "DEN"


def test_what_is_held_back_is_said_before_the_block_ends() -> None:
    head = answer_of(text(0, "a", " b E"))[:-1]
    joined = continued(head, answer_of(text(0, "N"), end()), stop_sequences=["END"])
    assert is_well_formed(joined.events)
    assert accumulated(joined.events)["content"][0]["text"] == "a b EN"


# Requests

TWO_BLOCKS = answer_of(text(0, "One. "), text(1), text(2, "Two"))[:-1]


@pytest.mark.parametrize(
    ("last", "head", "content"),
    [
        (None, PLAIN[:4], "An answer"),
        ("Well: ", PLAIN[:4], "Well: An answer"),
        ([{"type": "text", "text": "Well: ", "cache_control": {}}], PLAIN[:4], ["Well: An answer"]),
        ([{"type": "tool_use"}], PLAIN[:4], [None, "An answer"]),
        ([], PLAIN[:4], ["An answer"]),
        (None, TWO_BLOCKS, ["One. ", "Two"]),
        ("Well: ", TWO_BLOCKS, ["Well: One. ", "Two"]),
        ([{"type": "text", "text": "Well: "}], TWO_BLOCKS, ["Well: One. ", "Two"]),
        (None, TWO_BLOCKS[:3], "One."),
        (None, TWO_BLOCKS[:-2], "One."),
    ],
)
def test_what_was_said_goes_back(last: Any, head: list[Fields], content: Any) -> None:
    messages = [{"role": "user", "content": "?"}]
    given = messages if last is None else [*messages, {"role": "assistant", "content": last}]
    sent = body_of(continued(head, [], messages=given))["messages"]
    assert sent[:-1] == messages
    assert sent[-1]["role"] == "assistant"
    found = sent[-1]["content"]
    assert content == (found if isinstance(found, str) else [each.get("text") for each in found])
    if isinstance(last, list) and last and "cache_control" in last[0]:
        assert found[0]["cache_control"] == {}


@pytest.mark.parametrize("messages", [[], ["odd"]])
def test_messages_of_another_shape_are_left_alone(messages: list[Any]) -> None:
    sent = body_of(continued(PLAIN[:4], [], messages=messages))["messages"]
    assert sent == [*messages, {"role": "assistant", "content": "An answer"}]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "think aloud"),
        ({"thinking": {"type": "adaptive"}}, "think aloud"),
        ({"tool_choice": {"type": "any"}}, "forces the model to call a tool"),
        ({"tool_choice": {"type": "tool", "name": "f"}}, "forces the model to call a tool"),
        ({"output_format": {"type": "json_schema", "schema": {}}}, "constrains the form"),
        ({"output_config": {"format": {"type": "json_schema", "schema": {}}}}, "constrains the form"),
        ({"model": "claude-opus-4-6"}, OVERRIDE),
        ({"messages": ...}, "no list of messages"),
    ],
)
def test_requests_that_cannot_go_on(changes: Json, reason: str) -> None:
    found = join(fallbacks("continue"), DIALECT, request(**changes), PLAIN[:4], [])
    assert isinstance(found, str)
    assert reason in found


@pytest.mark.parametrize(
    "changes",
    [
        {"thinking": {"type": "disabled"}},
        {"tool_choice": {"type": "auto"}},
        {"output_config": {"effort": "low"}},
        {"model": "qwen3-4b"},
        {"model": ...},
    ],
)
def test_requests_that_can_go_on(changes: Json) -> None:
    assert isinstance(join(fallbacks("continue"), DIALECT, request(**changes), PLAIN[:4], []), Joined)


def test_the_caller_knows_better() -> None:
    asked = request(model="claude-opus-4-6")
    assert isinstance(join(fallbacks("continue", can_continue=True), DIALECT, asked, PLAIN[:4], []), Joined)
    assert isinstance(join(fallbacks("continue", can_continue=False), DIALECT, request(), PLAIN[:4], []), str)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (tool(0, "{"), "tool call"),
        (tool(0, kind="server_tool_use"), "tool call"),
        (thinking(0, "Hm"), "thought aloud"),
        (block(0, [], type="redacted_thinking", data="x"), "thought aloud"),
        (block(0, [], type="image", source={}), "images"),
        (RICH[5], "more in it than text"),
        (block(0, [], type="container_upload", file_id="f"), "more in it than text"),
    ],
)
def test_answers_that_cannot_be_continued(said: list[Json], reason: str) -> None:
    found = join(fallbacks("continue"), DIALECT, request(), answer_of(said[:-1]), [])
    assert isinstance(found, str)
    assert reason in found


def test_a_server_of_unknown_habits_may_say_it_again() -> None:
    said = delivered_text(PLAIN[:13])
    assert len(said.rstrip()) >= 40
    joined = continued(PLAIN[:13], answer_of(text(0, TEXT), end(), input_tokens=60), model="qwen3-4b")
    assert accumulated(joined.events)["content"][0]["text"] == TEXT


def test_llama_cpp_speaks_it_too() -> None:
    assert LlamaCpp(DIALECT).speech is DIALECT.speech
    assert isinstance(DIALECT.speech, AnthropicSpeech)


# The SDK's own stream


@pytest.mark.parametrize("way", ["replay", "continue"])
def test_the_sdks_stream_ends_with_one_message(way: Any) -> None:
    anthropic, httpx2 = pytest.importorskip("anthropic"), pytest.importorskip("httpx2")
    head = PLAIN[:6]
    tail = again_plain() if way == "replay" else second(delivered_text(head))
    joined = join(fallbacks(way), DIALECT, request(), head, tail)
    assert isinstance(joined, Joined)
    body = b"".join(DIALECT.framing.encode(event.event, event.data or "") for event in joined.events)

    def respond(asked: Any) -> Any:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body)

    with (
        httpx2.Client(transport=httpx2.MockTransport(respond)) as http,
        anthropic.Anthropic(api_key="made-up", base_url="http://made.up", http_client=http) as client,
        client.messages.stream(model="m", max_tokens=99, messages=ASKED["messages"]) as stream,
    ):
        assert "".join(stream.text_stream) == TEXT
        message = stream.get_final_message()
    assert (message.id, message.stop_reason, message.content[0].text) == ("msg_1", "end_turn", TEXT)


def again_plain() -> list[Fields]:
    return answer_of(text(0, TEXT[:7], TEXT[7:30], TEXT[30:]), end(), name="msg_2")
