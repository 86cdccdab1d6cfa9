"""Exactly once, in order, or a typed error: what an enemy would try, and servers of each kind that misbehave by lot."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resumable_llm.core import replay
from resumable_llm.core.actions import Deliver, Fail, Finish, Read, Send
from resumable_llm.core.dialect import Dialect
from resumable_llm.core.machine import Conversation
from resumable_llm.core.model import Checkpoint, Failure, Limits
from resumable_llm.dialects import ANY_EVENT_STREAM, LastEventId
from resumable_llm.dialects.openai_chat import OpenAIChat
from tests.conversation import Case, Played, World, play
from tests.core import artificial

FEED: dict[str, Any] = {
    "method": "GET",
    "url": "https://made-up.example/feed",
    "headers": {"Accept": "text/event-stream"},
}
RUN: dict[str, Any] = {"method": "GET", "url": "https://made-up.example/runs/r/stream"}
RUN_URL = "https://made-up.example/threads/t/runs"
CHAT: dict[str, Any] = {
    "method": "POST",
    "url": "https://made-up.example/v1/chat/completions",
    "body": {"stream": True},
}
RESPONSE: dict[str, Any] = {"method": "GET", "url": "https://made-up.example/v1/responses/r?stream=true"}
EVENTS: dict[str, Any] = {"method": "GET", "url": "https://made-up.example/v1/responses/r/events"}
DONE = [{"json": {"state": "done"}}]
TOO_OLD = {"status": 400, "json": {"error": {"message": "This response can no longer be streamed."}}}


def case(
    wire: str,
    *answers: dict[str, Any],
    spoken: Dialect | None = None,
    dialect: str = "",
    request: dict[str, Any] | None = None,
    **more: Any,
) -> Case:
    data = {"request": request or FEED, "answers": list(answers), "dialect": dialect, **more}
    return Case("made up", data, wire.encode(), spoken if spoken or dialect else ANY_EVENT_STREAM)


def played(
    case: Case, size: int = 65536, *, one_by_one: bool = True, limits: Limits | None = None
) -> tuple[Conversation, Played]:
    talk = case.converse(one_by_one=one_by_one, limits=limits)
    return talk, play(talk, World(case), size, slices=not one_by_one)


def data(log: Played) -> list[str]:
    return [text for _, text in log.told]


def handed_over(case: Case, events: int) -> Checkpoint:
    """The checkpoint behind so many events, as another process reads it."""
    talk = case.converse(one_by_one=True)
    play(talk, World(case), 65536, slices=False, stop_after=events)
    return Checkpoint.from_json(talk.checkpoint.to_json())


def goes_on(case: Case, checkpoint: Checkpoint, **first: Any) -> Played:
    """What another process gets behind it."""
    talk = case.converse(one_by_one=True, checkpoint=checkpoint)
    return play(talk, World(case, **{"body": "rest", **first}), 65536, slices=False)


def response(number: int, kind: str, **said: Any) -> str:
    payload = json.dumps({"type": f"response.{kind}", "sequence_number": number, **said}, separators=(",", ":"))
    return f"event: response.{kind}\ndata: {payload}\n\n"


def delta(number: int, text: str) -> str:
    return response(number, "output_text.delta", item_id="m", output_index=0, content_index=0, delta=text)


def choice(index: int, text: str, finish: str | None = None) -> str:
    said = {"choices": [{"index": index, "delta": {"content": text}, "finish_reason": finish}]}
    return f"data: {json.dumps(said, separators=(',', ':'))}\n\n"


def finished(text: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": []}
    item = {"id": "m", "type": "message", "role": "assistant", "content": [part]}
    return {"json": {"id": "r", "object": "response", "status": "completed", "output": [item]}}


# Servers of each kind, drops and handovers by lot


def numbered(name: str, number: int, same: bool) -> str:
    """An event of the answer; every third has no cursor where cursors are in the data."""
    said: dict[str, Any] = {"same": 1} if same else {"n": number}
    if name == "ids":
        return f"id: {number}\ndata: {json.dumps(said)}\n\n"
    if name == "nameless":
        return (f"id: {number}\n" if number % 3 == 0 else "") + f"data: {json.dumps(said)}\n\n"
    if name == "sequence":
        return delta(number, "x" if same else str(number))
    if name == "offset":
        return choice(0, "x" if same else str(number))
    if name == "marks":
        return artificial.block(artificial.Marks(), str(100 + number // 2), **said)
    cursor = {} if number % 3 else {"event_id": f"e{number:03}"}
    return artificial.block(SPOKEN[name], **said, **cursor)


SPOKEN: dict[str, Dialect] = {
    "ids": LastEventId("end"),
    "nameless": LastEventId("end"),
    "cursor": artificial.Cursor(),
    "lines": artificial.CursorLines(),
    "log": artificial.Log(),
    "marks": artificial.Marks(),
}
ENDS = {
    "ids": "event: end\nid: z\ndata: x\n\n",
    "nameless": "event: end\nid: z\ndata: x\n\n",
    "sequence": "",
    "offset": "data: [DONE]\n\n",
    "marks": "",
}
OVERLAPS = {"ids", "sequence"}
"""Kinds of which every event is known again, so that a server may go back further than it was asked to."""


@st.composite
def servers(draw: st.DrawFn, name: str) -> Case:
    alike = draw(st.lists(st.booleans(), min_size=1, max_size=9))
    blocks = [numbered(name, number, same) for number, same in enumerate(alike)]
    if name == "sequence":
        blocks[0] = response(0, "created", response={"id": "r"})
        blocks.append(response(len(alike), "completed", response={"id": "r"}))
    else:
        blocks.append(ENDS.get(name) or (artificial.block(SPOKEN[name], end=True) if name not in ENDS else ""))
    wire = "".join(blocks)
    drops = draw(
        st.lists(
            st.fixed_dictionaries(
                {
                    "cut": st.integers(0, len(wire)),
                    "ends": st.sampled_from(["reset"] if name == "marks" else ["reset", "eof"]),
                    "overlap": st.integers(0, 9 if name in OVERLAPS else 0),
                }
            ),
            max_size=6,
        )
    )
    script: list[dict[str, Any]] = [{**drop, "body": "rest"} for drop in drops] + [{"body": "rest"}]
    if name == "marks":  # without a cursor this server tells nothing
        script[0] = {**script[0], "cut": max(script[0].get("cut", len(wire)), len(blocks[0]))}
    request = {"sequence": EVENTS, "offset": CHAT}.get(name, RUN if name == "marks" else FEED)
    headers = {"server": "llama.cpp"} if name == "offset" else {}
    return case(
        wire,
        *({**said, "headers": headers} for said in script),
        spoken=SPOKEN.get(name),
        dialect={"sequence": "openai_responses", "offset": "openai_chat"}.get(name, "made up"),
        request=request,
        ids="sorted" if name == "marks" else "exact",
        elsewhere={"/runs/r": DONE, "/v1/responses/r": [{"json": {"id": "r", "status": "in_progress"}}]},
    )


def undaunted(failures: int, elapsed: float, floor: float | None) -> float:
    return floor or 0.0


@pytest.mark.parametrize("max_transcript_bytes", [300, 1 << 20])
@pytest.mark.parametrize("name", ["ids", "nameless", "sequence", "offset", "cursor", "lines", "log", "marks"])
def test_whatever_breaks_and_whoever_takes_over(name: str, max_transcript_bytes: int) -> None:
    """Two processes and any number of drops: what they are told, put together, is the answer."""

    @settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(servers(name), st.sampled_from([1, 7, 65536]), st.booleans(), st.integers(0, 12))
    def check(server: Case, size: int, one_by_one: bool, handover: int) -> None:
        if name == "ids" and handover:  # what an earlier process had is known only from the last id on
            answers = [{**said, "overlap": 0} for said in server.data["answers"]]
            server = replace(server, data={**server.data, "answers": answers})
        world = World(server, body="whole")
        limits = Limits(max_transcript_bytes=max_transcript_bytes)
        talk = undaunted_talk(server, one_by_one=one_by_one, limits=limits)
        head = play(talk, world, size, slices=not one_by_one, stop_after=handover or None)
        kept = talk.checkpoint.events
        assert head.told == server.whole[: len(head.told)]
        assert kept == len(head.told) or not one_by_one
        if head.outcome:
            assert (head.outcome, head.proved, head.told) == ("end", True, server.whole)
            return
        at = Checkpoint.from_json(talk.checkpoint.to_json())
        if not (at.cursor or at.last_event_id or at.sequence is not None or name in ("log", "offset")):
            return  # nothing that could be named has been delivered
        second = undaunted_talk(server, one_by_one=one_by_one, limits=limits, checkpoint=at)
        tail = play(second, world, size, slices=not one_by_one)
        assert (tail.outcome, tail.proved) == ("end", True)
        assert head.told[:kept] + tail.told == server.whole

    check()


def undaunted_talk(
    server: Case, *, one_by_one: bool, limits: Limits, checkpoint: Checkpoint | None = None
) -> Conversation:
    talk = server.converse(one_by_one=one_by_one, limits=limits, checkpoint=checkpoint)
    return Conversation(
        server.prepared, talk.dialect, undaunted, limits, key=None, checkpoint=checkpoint, one_by_one=one_by_one
    )


@pytest.mark.parametrize("size", [1, 7, 65536])
@pytest.mark.parametrize("one_by_one", [True, False])
def test_a_poll_tells_the_rest_wherever_the_stream_is_cut(size: int, one_by_one: bool) -> None:
    """And no letter of it twice."""
    text = ["Hel", "lo", " the", "re"]
    wire = response(0, "created", response={"id": "r"}) + "".join(
        delta(number, each) for number, each in enumerate(text, 1)
    )
    for cut in range(len(response(0, "created", response={"id": "r"})), len(wire) + 1):
        told = {"cut": cut, "ends": "reset"}
        _, log = played(
            case(wire, told, TOO_OLD, finished("".join(text)), dialect="openai_responses", request=RESPONSE),
            size,
            one_by_one=one_by_one,
        )
        assert (log.outcome, log.proved) == ("end", True)
        payloads = [json.loads(each) for each in data(log)]
        said = [each["delta"] for each in payloads if each["type"].endswith(".delta")]
        assert "".join(said) == "Hello there"
        assert [each["sequence_number"] for each in payloads] == list(range(len(payloads)))


# What is lost, or told twice


def test_each_connection_may_begin_with_a_byte_order_mark() -> None:
    _, log = played(
        case(
            "id: 1\ndata: a\n\n", {"ends": "reset"}, {"sse": "\ufeffdata: b\n\nid: 2\ndata: c\n\n"}, {"sse": ""}, ids=""
        )
    )
    assert data(log) == ["a", "b", "c"]


@pytest.mark.parametrize("first", ["data: hello\n\n", "event: ping\ndata: {}\n\n"])
def test_a_server_that_starts_over_with_an_event_without_id(first: str) -> None:
    wire = first + "id: 1\ndata: a\n\nid: 2\ndata: b\n\n"
    whole = {"body": "whole"}
    _, log = played(case(wire, {"cut": len(first) + 16, "ends": "reset"}, whole, {"sse": ""}))
    assert [text for text in data(log) if text in ("a", "b")] == ["a", "b"]


def test_an_id_that_names_the_answer_is_no_cursor() -> None:
    def answer(name: str, *texts: str) -> str:
        return "".join(f"id: {name}\n{choice(0, text)}" for text in texts) + "data: [DONE]\n\n"

    wire = answer("gen-1", "A", "B", "C")
    cut = {"cut": 2 * len(f"id: gen-1\n{choice(0, 'A')}"), "ends": "reset"}
    talk, log = played(case(wire, cut, {"sse": answer("gen-2", "X", "Y")}, dialect="openai_chat", request=CHAT))
    assert len(log.requests) == 1
    assert (log.outcome, talk.partial_text()) == ("CannotResume", "AB")


@pytest.mark.parametrize("status", [200, 403, 404])
def test_a_refusal_is_no_part_of_the_answer(status: int) -> None:
    wire = "id: 1\ndata: a\n\ndata: x\n\nid: 2\ndata: b\n\n"
    _, log = played(
        case(wire, {"cut": 24, "ends": "reset"}, {"status": status, "text": "data: no\n\n"}), one_by_one=False
    )
    assert log.error is not None
    assert data(log) == ["a", "x"]


def test_a_poll_of_a_stream_that_did_not_begin_at_the_start() -> None:
    request = {**RESPONSE, "url": f"{RESPONSE['url']}&starting_after=2"}
    wire = response(0, "created", response={"id": "r"}) + "".join(delta(at, "a") for at in (1, 2, 3))
    cut = {"body": "rest", "cut": len(delta(3, "a")), "ends": "reset"}
    talk, log = played(case(wire, cut, TOO_OLD, finished("aaab"), dialect="openai_responses", request=request))
    assert (log.outcome, talk.partial_text()) == ("CannotResume", "a")


def test_ids_beside_cursors() -> None:
    cursor = artificial.Cursor()
    said: list[dict[str, Any]] = [{"event_id": "a"}, {"n": 1}, {"n": 2}, {"end": True}]
    blocks = [f"id: {number}\n{artificial.block(cursor, **each)}" for number, each in enumerate(said)]
    made = case("".join(blocks), {}, spoken=cursor)
    assert len(goes_on(made, handed_over(made, 3), sse="".join(blocks[1:])).told) == 1


def test_what_is_new_is_not_taken_for_what_an_earlier_process_had() -> None:
    made = case("id: 1\ndata: a\n\ndata: p\n\ndata: q\n\n", {}, {"sse": ""})
    log = goes_on(made, handed_over(made, 3), sse="data: new\n\nid: 2\ndata: b\n\n")
    assert log.error is not None or data(log) == ["new", "b"]


@pytest.mark.xfail(strict=True, reason="in another process the last id is enough, whatever stands beside it")
def test_another_event_under_the_last_id() -> None:
    made = case("id: 1\ndata: a\n\n", {}, {"sse": ""})
    log = goes_on(made, handed_over(made, 1), sse="id: 1\ndata: new\n\nid: 2\ndata: b\n\n")
    assert log.error is not None or data(log) == ["new", "b"]


@pytest.mark.xfail(strict=True, reason="of what an earlier process had only the first and the last id are known")
def test_another_process_is_told_more_than_it_asked_for() -> None:
    blocks = [f"id: {number}\ndata: {number}\n\n" for number in range(4)]
    made = case("".join(blocks), {}, {"sse": ""})
    log = goes_on(made, handed_over(made, 3), sse="".join(blocks[1:]))
    assert log.error is not None or data(log) == ["3"]


def test_a_checkpoint_while_a_polls_slice_is_in_hand() -> None:
    wire = response(0, "created", response={"id": "r"}) + "".join(delta(at, "a") for at in (1, 2, 3))
    made = case(wire, {"ends": "reset"}, TOO_OLD, finished("aaab"), dialect="openai_responses", request=RESPONSE)
    talk, world, told = made.converse(one_by_one=False), World(made), 0
    chunks: Iterator[bytes] = iter(())
    talk.start(0.0)
    while not isinstance(action := talk.next_action(), Finish | Fail):
        if isinstance(action, Send):
            answer = world.answer(action.plan)
            talk.receive_response(answer.status, answer.headers, 0.0)
            chunks = iter(answer.body.replace(b"\n\n", b"\n\n\0").split(b"\0"))
        elif isinstance(action, Read):
            chunk = next(chunks, b"")
            if talk.receive_plain(chunk):
                told += 1
            elif chunk:
                talk.receive_data(chunk, 0.0)
            elif answer.ends == "eof":
                talk.receive_eof(0.0)
            else:
                talk.receive_failure(Failure("broke"), 0.0)
        elif isinstance(action, Deliver):
            told += action.events == 1
            assert (talk.checkpoint.events, talk.checkpoint.sequence) == (told, told - 1)


# Ends that are none


@pytest.mark.parametrize("marks", [artificial.Marks(), artificial.MarksAlone()], ids=lambda marks: marks.name)
def test_nothing_is_no_repeat(marks: Dialect) -> None:
    wire = "".join(artificial.block(marks, str(at), n=at) for at in range(1, 5))
    cut = {"cut": len(wire) // 2, "ends": "reset"}
    running = [{"json": {"state": "running"}}]
    _, log = played(
        case(wire, cut, {"status": 204}, spoken=marks, request=RUN, ids="sorted", elsewhere={"/runs/r": running})
    )
    assert not log.proved
    assert log.outcome == "ResumeExpired"


def test_a_failure_that_is_followed_by_nothing() -> None:
    marks = artificial.MarksAlone()
    said = artificial.block(marks, "1", n=1) + artificial.block(marks, passes=0)
    talk, log = played(case("", {"sse": said}, {"status": 204}, spoken=marks, request=RUN, ids="sorted"))
    assert talk.upstream_error is not None or log.error is not None


def test_an_answer_to_two_prompts_has_two_ends() -> None:
    request = {**CHAT, "url": "https://made-up.example/v1/completions", "body": {"stream": True, "prompt": ["a", "b"]}}
    wire = choice(0, "A") + choice(0, "", "stop")
    _, log = played(case(wire, {"ends": "reset"}, dialect="openai_chat", request=request))
    assert log.outcome == "CannotResume"


def test_an_end_is_not_proved_by_forgetting() -> None:
    wire = choice(1, "B") + choice(0, "A" * 100) * 4 + choice(0, "", "stop")
    made = case(wire, {"ends": "reset"}, dialect="openai_chat", request=CHAT)
    assert played(made, 1)[1].outcome == "CannotResume"
    assert played(made, 1, limits=Limits(max_transcript_bytes=400))[1].outcome == "CannotResume"


def test_a_failure_beside_a_choice_that_goes_on() -> None:
    said = b'data: {"choices":[{"index":0,"finish_reason":null},{"index":1,"finish_reason":"error"}]}\n\n'
    ordinary = OpenAIChat.ordinary
    assert ordinary is not None
    assert ordinary.fullmatch(said) is None


def test_what_stands_behind_a_failure_that_stays() -> None:
    error = 'event: error\ndata: {"type":"error","code":"server_error","sequence_number":1}\n\n'
    failed = response(2, "failed", response={"id": "r", "error": {"code": "server_error"}})
    wire = response(0, "created", response={"id": "r"}) + error + failed
    made = case(wire, {}, dialect="openai_responses", request=RESPONSE)
    assert data(played(made, 65536)[1]) == data(played(made, 1)[1])


# False alarms


@pytest.mark.parametrize("trouble", [{"status": 503, "text": "busy"}, {"down": True}])
def test_a_question_may_be_asked_again(trouble: dict[str, Any]) -> None:
    location = "/threads/t/runs/r/stream"
    made = case(
        'event: metadata\ndata: {"run_id":"r"}\n\nevent: values\ndata: {}\n\n',
        {"headers": {"location": location}},
        dialect="langgraph",
        request={"method": "POST", "url": f"{RUN_URL}/stream", "body": {"input": {}}},
        elsewhere={"/threads/t/runs/r": [trouble, {"json": {"status": "success"}}]},
    )
    assert played(made)[1].outcome == "end"


def test_an_event_larger_than_the_transcript() -> None:
    wire = f"id: 1\ndata: {'x' * 500}\n\nid: 2\ndata: b\n\n"
    _, log = played(case(wire, {"ends": "reset"}, {"sse": ""}), limits=Limits(max_transcript_bytes=100))
    assert len(log.told) == 2


def test_a_ping_that_tells_the_time() -> None:
    made = case("id: 1\ndata: a\n\nevent: ping\ndata: 12:00\n\n", {}, {"sse": ""})
    log = goes_on(made, handed_over(made, 2), sse="event: ping\ndata: 12:01\n\nid: 2\ndata: b\n\n")
    assert log.outcome == "end"
    assert data(log)[-1] == "b"


def test_a_ping_before_the_event_that_must_come_again() -> None:
    marks = artificial.Marks()
    blocks = [artificial.block(marks, str(at), n=at) for at in (1, 2, 3)]
    again = {"sse": artificial.block(marks, event="ping", at=1) + "".join(blocks[1:])}
    cut = {"cut": len("".join(blocks[:2])), "ends": "reset"}
    made = case("".join(blocks), cut, again, {}, spoken=marks, request=RUN, ids="sorted", elsewhere={"/runs/r": DONE})
    assert played(made)[1].outcome == "end"


@pytest.mark.xfail(strict=True, reason="who joins a run midway and is cut off within the first id is told of the start")
def test_a_run_that_was_joined_midway() -> None:
    def said(number: int) -> str:
        return f'event: messages\ndata: [{{"type":"ai","content":"{number}"}},{{}}]\nid: {number}-0\n\n'

    made = case(
        said(1) + said(2) + said(3) + "event: end\ndata: null\n\n",
        {"sse": said(2), "ends": "reset"},
        {},
        dialect="langgraph",
        request={"method": "GET", "url": f"{RUN_URL}/r/stream"},
        ids="sorted",
        elsewhere={"/threads/t/runs/r": [{"json": {"status": "success"}}]},
    )
    talk, log = played(made)
    assert (log.outcome, talk.partial_text()) == ("end", "23")


def test_a_start_over_with_events_that_are_alike() -> None:
    wire = "id: 1\ndata: a\n\ndata: s\n\nid: 2\ndata: b\n\ndata: s\n\nid: 3\ndata: c\n\n"
    made = case(wire, {}, {"body": "whole"}, {"sse": ""})
    log = goes_on(made, handed_over(made, 3), sse="data: s\n\n", ends="reset")
    assert data(log) == ["s", "c"]


@pytest.mark.xfail(strict=True, reason="more events behind the cursor than are remembered: their sum is a wrong one")
def test_more_behind_the_cursor_than_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "MAX_REMEMBERED", 8)
    log = artificial.Log()
    wire = artificial.block(log, event_id="a") + "".join(artificial.block(log, n=at) for at in range(20))
    made = case(wire + artificial.block(log, end=True), {}, spoken=log)
    assert goes_on(made, handed_over(made, 15)).told == made.whole[15:]
