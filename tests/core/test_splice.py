"""Another generation's events joined to those delivered; over chat completions, whose chunks are the plainest."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resumable_llm.core.events import Fields
from resumable_llm.core.framing import EVENT_STREAM
from resumable_llm.core.model import RequestPlan
from resumable_llm.core.seam import TextSeam
from resumable_llm.core.speech import Usage, listen
from resumable_llm.core.splice import MIN_COUNTED, Continuation, Repeat, total
from resumable_llm.core.units import joined, split
from resumable_llm.dialects.openai_chat import OpenAIChat
from resumable_llm.dialects.speech.chat import ChatSpeech
from tests.core.generations import Joined, fallbacks, fields_of, join

CHAT = OpenAIChat()
SPEECH = ChatSpeech()
DONE = Fields(None, "[DONE]", None, None)
MESSAGES = [{"role": "user", "content": "Hi"}]
OTHER_ANSWER = "the server gave another answer when asked again"
ENDS_BEFORE = "the answer that the server gave when asked again ends before what was delivered of it"
ANEW = "the model began anew instead of going on from what it had said"


def request(**body: Any) -> RequestPlan:
    return RequestPlan("POST", "http://localhost/v1/chat/completions").with_body(
        json.dumps({"model": "m", "messages": MESSAGES, "stream": True, **body}).encode()
    )


def chunk(*choices: dict[str, Any], name: str = "a", **more: Any) -> Fields:
    payload = {"id": f"chatcmpl-{name}", "object": "chat.completion.chunk", "created": ord(name), "model": "m"}
    return Fields(None, json.dumps({**payload, "choices": list(choices), **more}), None, None)


def choice(index: int = 0, finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"index": index, "delta": delta, "finish_reason": finish}


def usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def told(pieces: Iterable[str], name: str = "a", **last: Any) -> list[Fields]:
    """A plain answer: role, text, finish_reason, usage if given, end."""
    found = [chunk(choice(role="assistant", content=""), name=name)]
    found += [chunk(choice(content=piece), name=name) for piece in pieces]
    found.append(chunk(choice(finish="stop"), name=name))
    if last:
        found.append(chunk(name=name, **last))
    return [*found, DONE]


def in_pieces(text: str, size: int) -> list[str]:
    units = split(text)
    return [joined(units[at : at + size]) for at in range(0, len(units), size)]


def payloads(events: Iterable[Fields]) -> list[dict[str, Any]]:
    return [json.loads(event.data or "") for event in events if event.data != "[DONE]"]


def message(events: Iterable[Fields]) -> Any:
    return SPEECH.partial(listen(SPEECH, events))


def text(events: Iterable[Fields]) -> str:
    return listen(SPEECH, events).text((0, "text"))


def repeated(head: Sequence[Fields], tail: Iterable[Fields], max_held: int = 10**6) -> Joined:
    found = join(fallbacks("replay", max_held=max_held), CHAT, request(), head, tail)
    assert isinstance(found, Joined)
    return found


def continued(head: Sequence[Fields], tail: Iterable[Fields], **body: Any) -> Joined:
    found = join(fallbacks("continue"), CHAT, request(**body), head, tail)
    assert isinstance(found, Joined)
    return found


def tool_calls(name: str, size: int) -> list[Fields]:
    """Some text, then two calls of tools."""
    found = [chunk(choice(role="assistant", content=None), name=name)]
    found += [chunk(choice(content=piece), name=name) for piece in in_pieces("Let me see 😀", size)]
    for index, (function, arguments) in enumerate((("weather", '{"city": "Rom"}'), ("time", '{"zone": "CET"}'))):
        begun = {"index": index, "id": f"call_{name}{index}", "type": "function"}
        found.append(chunk(choice(tool_calls=[{**begun, "function": {"name": function, "arguments": ""}}]), name=name))
        for piece in in_pieces(arguments, size):
            found.append(chunk(choice(tool_calls=[{"index": index, "function": {"arguments": piece}}]), name=name))
    found.append(chunk(choice(finish="tool_calls"), name=name))
    return [*found, chunk(name=name, usage=usage(5, 40)), DONE]


def two_choices(name: str, size: int, *, in_turn: bool) -> list[Fields]:
    texts = [in_pieces("One way to say it", size), in_pieces("Another 🚢 way", size)]
    chunks = [[chunk(choice(index, content=piece), name=name) for piece in texts[index]] for index in (0, 1)]
    for index in (0, 1):
        chunks[index].insert(0, chunk(choice(index, role="assistant", content=""), name=name))
        chunks[index].append(chunk(choice(index, finish=("stop", "length")[index]), name=name))
    found: list[Fields] = []
    if not in_turn:
        found = [*chunks[1], *chunks[0]]
    while in_turn and any(chunks):
        found += [each.pop(0) for each in chunks if each]
    return [*found, chunk(name=name, usage=usage(5, 9)), DONE]


def thoughts(name: str, size: int) -> list[Fields]:
    found = [chunk(choice(role="assistant"), name=name)]
    found += [chunk(choice(reasoning_content=piece), name=name) for piece in in_pieces("Hm, hm.", size)]
    found += [chunk(choice(content=piece), name=name) for piece in in_pieces("Hm, well.", size)]
    return [*found, chunk(choice(finish="stop"), name=name), DONE]


def merged(name: str) -> list[Fields]:
    """As few chunks as can be."""
    return [chunk(choice(finish="stop", role="assistant", content="Hel😀lo"), name=name), DONE]


def plain(name: str, size: int) -> list[Fields]:
    return told(in_pieces("Hel😀lo", size), name)


REPEATS = {
    "tools": (tool_calls("a", 3), [tool_calls("b", size) for size in (1, 2, 3, 99)]),
    "choices": (
        two_choices("a", 4, in_turn=True),
        [two_choices("b", size, in_turn=turn) for size in (1, 5) for turn in (True, False)],
    ),
    "thoughts": (thoughts("a", 2), [thoughts("b", size) for size in (1, 3, 99)]),
    "plain": (plain("a", 1), [merged("b"), plain("b", 2), plain("b", 4)]),
    "merged": (merged("a"), [plain("b", 1), merged("b")]),
}


def without_ids(found: Any) -> str:
    return json.dumps(found).replace("call_b", "call_a").replace("chatcmpl-b", "chatcmpl-a").replace("98", "97")


@pytest.mark.slow
@pytest.mark.parametrize("kind", REPEATS)
def test_a_repeat_is_joined_at_every_cut(kind: str) -> None:
    first, others = REPEATS[kind]
    for cut in range(1, len(first) + 1):
        for other in others:
            found = repeated(first[:cut], other)
            assert found.objection == ""
            assert found.way.splice.joined
            assert without_ids(message(found.events)) == without_ids(message(first))
            assert {each["id"] for each in payloads(found.events)} == {"chatcmpl-a"}
            assert {each["created"] for each in payloads(found.events)} == {97}
            assert len([each for each in found.events if "role" in str(each.data)]) == len(
                [each for each in first if "role" in str(each.data)]
            )
            delivered = listen(SPEECH, first[:cut])
            again = sum(len(delivered.text(key)) for key in delivered.texts)
            assert found.way.splice.echoed == again
            assert found.tail[-1] == DONE


@pytest.mark.slow
@pytest.mark.parametrize("kind", REPEATS)
def test_another_answer_at_any_place_delivers_nothing(kind: str) -> None:
    first, others = REPEATS[kind]
    for cut in range(1, len(first)):
        had = listen(SPEECH, first[:cut])
        for key in had.texts:
            units = split(had.text(key))
            for at in range(len(units)):
                for other in others:
                    changed, seen = [], 0
                    for event in other:
                        payload = json.loads(event.data or "") if event != DONE else {}
                        for slot in SPEECH.slots(event, payload):
                            if slot.key == key:
                                value = split(slot.value)
                                if 0 <= at - seen < len(value):
                                    value = f"{value[: at - seen]}#{value[at - seen + 1 :]}"
                                seen += len(value)
                                slot.holder[slot.name] = joined(value)
                        changed.append(event._replace(data=json.dumps(payload)) if payload else event)
                    found = repeated(first[:cut], changed)
                    assert (found.objection, found.tail) == (OTHER_ANSWER, [])


def test_nothing_but_a_role_was_delivered() -> None:
    first = told(["Hello"])
    found = repeated(first[:1], told(["Good", " day"], "b"))
    assert (text(found.events), found.objection) == ("Good day", "")


def test_a_call_of_a_tool_that_does_not_come_again() -> None:
    begun = tool_calls("a", 99)[:3]
    without_text = [begun[0], begun[2]]
    for other in (told(["Hello"], "b"), tool_calls("b", 3)[:4], told([], "b")):
        found = repeated(without_text, [*other, DONE])
        assert found.tail == []
        assert found.objection
    assert repeated(without_text, tool_calls("b", 99)).objection == ""


@pytest.mark.parametrize(
    ("first", "other", "why"),
    [
        (told(["Hello"])[:2], told(["Hell"], "b"), OTHER_ANSWER),  # it closes too early
        (told(["Hello"])[:2], [*told(["Hell"], "b")[:2], DONE], ENDS_BEFORE),
        (told(["Hello"])[:3], [*told(["Hello"], "b")[:2], DONE], ENDS_BEFORE),  # and too late
        (told(["Hello"])[:3], told(["Hello", "!"], "b"), OTHER_ANSWER),
        (told(["Hello"])[:3], told(["Hello!"], "b"), OTHER_ANSWER),
        (told(["Hello"])[:3], [chunk(choice(content="Hello", finish="length")), DONE], OTHER_ANSWER),
        (
            [chunk(choice(content="Hi", finish="stop"))],
            [chunk(choice(role="assistant"))],
            OTHER_ANSWER,
        ),  # a name is new
        (
            [chunk(choice(content="Hi", finish="stop"))],
            [chunk(choice(content="Hi", finish="length"))],
            OTHER_ANSWER,
        ),
        (tool_calls("a", 99)[:3], [*tool_calls("b", 99)[:2], chunk(choice(finish="stop")), DONE], ENDS_BEFORE),
    ],
)
def test_closing_otherwise(first: list[Fields], other: list[Fields], why: str) -> None:
    found = repeated(first, other)
    assert (found.objection, found.tail) == (why, [])


def test_nothing_comes_after_an_objection() -> None:
    repeat = Repeat(SPEECH, EVENT_STREAM, listen(SPEECH, told(["Hello"])[:2]), 10**6)
    assert [repeat.take(event, terminal=False) for event in told(["Help"], "b")[:2]] == [[], []]
    assert repeat.objection == OTHER_ANSWER
    assert repeat.take(chunk(choice(content="Hello")), terminal=False) == []
    assert repeat.take(DONE, terminal=True) == []


def test_what_cannot_be_compared_within_bounds() -> None:
    first = two_choices("a", 4, in_turn=True)[:6]
    other = two_choices("b", 4, in_turn=False)
    assert repeated(first, other, max_held=1000).objection == ""
    found = repeated(first, other, max_held=100)
    assert (found.objection, found.tail) == (
        "the answer that the server gave when asked again cannot be compared within bounds",
        [],
    )


def test_usage_with_every_chunk_is_not_told_again() -> None:
    def counted(name: str) -> list[Fields]:
        return [chunk(choice(content=each), name=name, usage=usage(5, number)) for number, each in enumerate("abcd")]

    found = repeated(counted("a")[:3], [*counted("b"), DONE])
    assert [each["usage"]["completion_tokens"] for each in payloads(found.tail)] == [3]
    assert found.way.splice.usage == Usage(5, 3)


def test_what_says_nothing_passes_once_all_has_come_again() -> None:
    other = Fields("ping", '{"error": null}', None, None)
    found = repeated(told(["ab"])[:2], [other, *told(["abc"], "b")[:2], other, DONE])
    assert [each.event or "message" for each in found.tail] == ["message", "ping", "message"]
    assert text(found.events) == "abc"


WORDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)


@pytest.mark.slow
@settings(max_examples=300)
@given(WORDS, st.data())
def test_a_repeat_in_any_chunks(whole: str, data: st.DataObject) -> None:
    units = split(whole)
    sizes = st.lists(st.integers(1, 5), min_size=len(units), max_size=len(units))

    def cut_up() -> list[str]:
        left, found = units, []
        for size in data.draw(sizes):
            found.append(joined(left[:size]))
            left = left[size:]
        return found

    first = told(cut_up())
    cut = data.draw(st.integers(1, len(first)))
    found = repeated(first[:cut], told(cut_up(), "b"))
    assert (found.objection, text(found.events)) == ("", whole)


@pytest.mark.slow
def test_a_long_answer_that_is_said_again_costs_little() -> None:
    said = "abcd 😀é" * 5_000
    repeat = Repeat(SPEECH, EVENT_STREAM, listen(SPEECH, told([said])[:2]), 10**6)
    other = told(in_pieces(said, 5), "b")
    begun = time.perf_counter()
    assert all(repeat.take(event, terminal=False) == [] for event in other[:-2])
    assert time.perf_counter() - begun < 3
    assert repeat.joined


# To go on.

SAID = "The old house stood at the end"
REST = " of the lane, empty."


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 3, 99])
@pytest.mark.parametrize("echoes", [False, True])
def test_a_continuation_at_every_cut(size: int, echoes: bool) -> None:
    whole = f"{SAID} 😀{REST} \n\nAnd nobody came."
    units = split(whole)
    for cut in range(12, len(units)):
        head = told(in_pieces(joined(units[:cut]), 1))[:-2]
        sent = TextSeam(joined(units[:cut])).sent
        rest = joined(units[len(split(sent)) :])
        host = "https://api.mistral.ai" if echoes else "https://api.groq.com/openai"
        asked = RequestPlan("POST", f"{host}/v1/chat/completions").with_body(request().body or b"")
        tail = told(in_pieces(sent + rest if echoes else rest, size), "b", usage=usage(90, 5))
        found = join(fallbacks("continue"), CHAT, asked, head, tail)
        assert isinstance(found, Joined)
        assert found.objection == ""
        assert text(found.events) == whole
        assert found.way.splice.echoed == (len(sent) if echoes else 0)
        said = payloads(found.events)
        assert {(each["id"], each["created"]) for each in said} == {("chatcmpl-a", 97)}
        assert sum("role" in str(each) for each in said) == 1
        assert [each["choices"][0]["finish_reason"] for each in said if each["choices"]][-2:] == [None, "stop"]
        counted = len(units[:cut].rstrip())  # an event each
        assert said[-1]["usage"] == usage(90 - counted + 90, counted + 5)
        assert found.tail[-1] == DONE


def test_the_model_ends_at_once() -> None:
    found = continued(told(["All said."])[:2], told([], "b"))
    assert (text(found.events), found.objection) == ("All said.", "")
    assert message(found.events)["choices"][0]["finish_reason"] == "stop"
    assert found.way.splice.joined


def test_nothing_was_said_yet() -> None:
    for head in (told([])[:1], told(["\n"])[:2]):
        found = continued(head, told(["\nHel", "lo"], "b"))
        assert (text(found.events), found.objection) == ("\nHello", "")


def test_a_model_that_thinks_before_it_says_anything() -> None:
    found = continued(told([])[:1], thoughts("b", 2))
    assert found.objection == ""
    assert message(found.events)["choices"][0]["message"] == {
        "role": "assistant",
        "content": "Hm, well.",
        "reasoning_content": "Hm, hm.",
    }
    assert "think anew" in continued(told([SAID])[:2], thoughts("b", 2)).objection


def test_thoughts_behind_the_text_are_let_pass() -> None:
    tail = told([REST], "b")
    tail.insert(2, chunk(choice(reasoning_content="hm"), name="b"))
    found = continued(told([SAID])[:2], tail)
    assert (found.objection, text(found.events)) == ("", SAID + REST)


@pytest.mark.parametrize("other", [[SAID], [SAID, REST], ["The old", " house stood at", " last"], ["  ", SAID + REST]])
def test_a_model_that_begins_anew(other: list[str]) -> None:
    found = continued(told([SAID])[:2], told(other, "b"))
    assert (found.objection, found.tail) == (ANEW, [])
    assert found.way.splice.take(chunk(choice(content="more")), terminal=False) == []


def test_a_model_that_begins_anew_and_ends_soon() -> None:
    found = continued(told([SAID])[:2], told([SAID[:9]], "b"))
    assert found.objection.endswith("ended before it was through with it")
    assert found.tail == []


@pytest.mark.parametrize("end", [[chunk(choice(finish="length"))], [], [chunk(usage=usage(1, 1))]])
def test_what_is_held_comes_before_the_end(end: list[Fields]) -> None:
    found = continued(told(["Say it: no-"])[:2], [chunk(choice(content="S")), *end, DONE])
    assert text(found.events) == "Say it: no-S"
    deltas = [each["choices"][0]["delta"] for each in payloads(found.tail) if each["choices"]]
    assert deltas == [{"content": "S"}, *([{}] if "length" in str(end) else [])]
    assert found.tail[-1] == DONE


def test_what_is_held_comes_before_whatever_else_there_is() -> None:
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}
    for more in ({"tool_calls": [call]}, {"refusal": "no"}):
        found = continued(told(["Say it"])[:2], [chunk(choice(content="S")), chunk(choice(**more)), DONE])
        said = [each["choices"][0]["delta"] for each in payloads(found.tail)]
        assert said == [{"content": "S"}, more]


def test_what_comes_before_the_text_does_not_open_the_seam() -> None:
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}
    tail = [chunk(choice(tool_calls=[call])), chunk(choice(refusal="no")), chunk(choice(content=SAID + REST)), DONE]
    assert continued(told([SAID])[:2], tail).objection == ANEW


def test_half_a_character_that_does_not_go_on() -> None:
    for tail in ([DONE], told([], "b"), told(["smile"], "b")):
        found = continued(told(["It is \ud83d"])[:2], tail)
        assert "inside a character" in found.objection
        assert DONE not in found.tail
    found = continued(told(["It is \ud83d"])[:2], told([" 😀!"], "b"))
    assert text(found.events) == "It is 😀!"


@pytest.mark.parametrize("size", [1, 2, 99])
def test_a_stop_sequence_across_the_seam(size: int) -> None:
    head = told(["It is over. EN"])[:2]
    tail = told(in_pieces("D and more", size), "b", usage=usage(9, 9))
    found = continued(head, tail, stop=["END"])
    assert found.way.splice.finished
    assert found.way.splice.take(DONE, terminal=True) == []
    said = payloads(found.tail)
    assert [each["choices"][0]["finish_reason"] for each in said if each["choices"]] == ["stop"]
    assert found.tail[-1] == DONE
    assert text(found.events) == "It is over. EN"


@pytest.mark.parametrize("last", [[chunk(choice(finish="stop")), DONE], [DONE], [chunk(choice(refusal="x")), DONE]])
def test_a_stop_sequence_that_is_known_at_the_end(last: list[Fields]) -> None:
    head = told(["xa bad e"])[:2]
    found = continued(head, [chunk(choice(content="x")), *last], stop="ex")  # which is how the text begins, too
    assert found.way.splice.finished
    assert [str(each.data) for each in found.tail].count("[DONE]") == 1
    assert str(found.tail).count('"finish_reason":"stop"') == 1
    assert text(found.events) == "xa bad e"


def test_a_stop_sequence_in_one_of_several_events() -> None:
    class Twice(ChatSpeech):
        def adopt(self, event: Fields, payload: Any, answer: Any) -> list[tuple[Fields, Any]]:
            return super().adopt(event, payload, answer) * 2

    seam = TextSeam("It is EN", ["END"])
    answer = listen(SPEECH, told(["It is EN"])[:2])
    continuation = Continuation(Twice(), EVENT_STREAM, answer, seam, [])
    found = fields_of(EVENT_STREAM, continuation.take(chunk(choice(content="D")), terminal=True))
    assert [each.data == "[DONE]" for each in found] == [False, True]


def test_going_on_again_and_again() -> None:
    whole = "One two three four five six seven eight nine ten"
    allowed = fallbacks("continue")
    events = told(in_pieces(whole[:10], 1))[:-2]
    asked = request(max_tokens=100, stream_options={"include_usage": True})
    for name, upto in (("b", 20), ("c", 29), ("d", len(whole))):
        begun = len(text(events))
        last = told(in_pieces(whole[begun:upto], 1), name, usage=usage(7 + begun, upto - begun))
        found = join(allowed, CHAT, asked, events, last if name == "d" else last[:-3])
        assert isinstance(found, Joined)
        assert found.objection == ""
        events = found.events
        body = json.loads(found.way.plan.body or b"")
        assert body["messages"] == [*MESSAGES, {"role": "assistant", "content": whole[:begun].rstrip()}]
        assert body["max_tokens"] == 100 - begun
    assert text(events) == whole
    assert {each["id"] for each in payloads(events)} == {"chatcmpl-a"}
    said = listen(SPEECH, events).usage
    assert said == Usage(7 + (7 + 10) + (7 + 20) + (7 + 29), len(whole))


def test_usage_that_shows_that_the_partial_answer_was_not_read() -> None:
    head = told(["word "] * MIN_COUNTED)[:-2]
    head[0] = chunk(choice(role="assistant"), usage=usage(20, 0))
    for prompt, objection in ((20, True), (19, True), (28, False)):
        tail = told([" and so on"], "b")
        tail[0] = chunk(choice(role="assistant"), usage=usage(prompt, 0))
        found = continued(head, tail)
        assert bool(found.objection) == objection
        assert (found.tail == []) == objection
    few = [head[0], *head[1:MIN_COUNTED]]
    assert continued(few, [chunk(choice(role="assistant"), usage=usage(20, 0))]).objection == ""


def test_usage_without_a_part_of_it() -> None:
    seam = TextSeam(SAID)
    continuation = Continuation(SPEECH, EVENT_STREAM, listen(SPEECH, told([SAID])[:2]), seam, [])
    (found,) = continuation.take(chunk(usage={"prompt_tokens": 9}), terminal=False)
    assert json.loads(found.decode().removeprefix("data: "))["usage"] == {"prompt_tokens": 9}
    assert continuation.usage == Usage(9, None)


@pytest.mark.parametrize(
    ("spent", "last", "counted", "expected"),
    [
        ([], Usage(20, 5), 10, Usage(20, 15)),
        ([(Usage(), 0)], Usage(20, 5), 8, Usage(12 + 20, 13)),
        ([(Usage(12, None), 0)], Usage(20, 5), 10, Usage(12 + 20, 8 + 5)),
        ([(Usage(12, 3), 0)], Usage(12, 5), 10, Usage(12 + 12, 15)),  # it did not read what was said
        ([(Usage(), 0)], Usage(None, 5), 8, Usage(None, 13)),
        ([(Usage(), 0)], Usage(20, None), 8, Usage(32, None)),
        ([(Usage(), 0)], Usage(5, 5), 8, Usage(5, 13)),  # it counted less than was said: no prompt is left
        ([(Usage(), 0), (Usage(), 8)], Usage(25, 5), 13, Usage(12 + (12 + 8) + 25, 18)),
        ([(Usage(12, 1), 0), (Usage(), 8)], Usage(25, 5), 13, Usage(12 + (12 + 8) + 25, 18)),
        ([(Usage(12, 1), 0), (Usage(21, 4), 8)], Usage(25, 5), 12, Usage(12 + 21 + 25, 13 + 5)),
        ([(Usage(), 0), (Usage(20, 4), 8)], Usage(25, 5), 13, Usage(12 + 20 + 25, 18)),
    ],
)
def test_the_usage_of_all_generations(
    spent: list[tuple[Usage, int]], last: Usage, counted: int, expected: Usage
) -> None:
    assert total(spent, last, counted) == expected
