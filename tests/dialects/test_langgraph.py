"""LangGraph: what one event says, how to join, ask and cancel a run; and a server whose ids are milliseconds."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resumable_llm.core.actions import Deliver, Notify, Read
from resumable_llm.core.dialect import Finished, StillRunning, Unusable
from resumable_llm.core.errors import UpgradeRefused
from resumable_llm.core.events import Fields, parse_block
from resumable_llm.core.machine import Conversation
from resumable_llm.core.model import NOTHING, Checkpoint, Limits, Position, Progress, Reading, RequestPlan
from resumable_llm.core.transcript import Transcript
from resumable_llm.dialects import named, recognise
from resumable_llm.dialects.langgraph import LangGraph
from tests.conversation import KEY, Answer, Case, World, load, play

LANGGRAPH = LangGraph()
ORIGIN = "https://graphs.example"
RUN = "/threads/t/runs/r"
KEYS = (("X-Api-Key", "s3cret"), ("Authorization", "Bearer s3cret"))
NOBODY = Transcript(1, lambda: None)


def create(path: str = "/threads/t/runs/stream", **body: Any) -> RequestPlan:
    return RequestPlan("POST", ORIGIN + path, KEYS, json.dumps({"stream_resumable": True, **body}).encode())


def join(query: str = "") -> RequestPlan:
    return RequestPlan("GET", f"{ORIGIN}{RUN}/stream{query}", KEYS)


def progress(request: RequestPlan | None = None, location: str | None = f"{RUN}/stream", **more: Any) -> Progress:
    told = {"position": Position("9-0", cursor="8-0", behind=1), "delivered": True, **more}
    return Progress(request or create(), location=location, **told)


def fields(name: str | None, data: Any = None, id: str | None = None) -> Fields:
    return Fields(name, data if isinstance(data, str) else json.dumps(data), id, None)


class TestRecognition:
    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("POST", "/threads/t/runs/stream"),
            ("POST", "/runs/stream"),
            ("POST", "/behind/a/proxy/threads/t/runs/stream"),
            ("GET", "/threads/t/runs/r/stream"),
            ("GET", "/proxy/threads/t/runs/r/stream?stream_mode=values"),
        ],
    )
    def test_runs(self, method: str, path: str) -> None:
        found = recognise(RequestPlan(method, ORIGIN + path))
        assert found is not None
        assert found.name == "langgraph"

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("POST", "/threads/t/runs"),
            ("POST", "/threads/t/runs/wait"),
            ("POST", "/runs/wait"),
            ("POST", "/runs/batch"),
            ("GET", "/threads/t/runs/r"),
            ("GET", "/threads/t/runs/r/join"),
            ("POST", "/threads/t/runs/r/stream"),
            ("GET", "/threads/t/runs/stream"),
            ("GET", "/threads/t/stream"),
            ("POST", "/threads/t/stream/events"),
            ("PUT", "/threads/t/runs/stream"),
            ("POST", "/threads/t/reruns/stream"),
        ],
    )
    def test_what_is_none(self, method: str, path: str) -> None:
        assert not LANGGRAPH.recognises(RequestPlan(method, ORIGIN + path))

    @pytest.mark.parametrize(
        ("request_", "headers", "handle"),
        [
            (create(), {"location": f"{RUN}/stream"}, "r"),
            (create("/runs/stream"), {"location": "/runs/r/stream"}, "r"),
            (create(), {}, None),
            (join(), {}, "r"),
        ],
    )
    def test_the_run_is_the_handle(self, request_: RequestPlan, headers: dict[str, str], handle: str | None) -> None:
        assert LANGGRAPH.handle(request_, headers) == handle


class TestRead:
    @pytest.mark.parametrize(
        ("event", "reading"),
        [
            (fields("metadata", {"run_id": "r", "attempt": 1}, "1-0"), Reading(handle="r")),
            (fields("metadata", {"run_id": 7}), Reading()),
            (fields("messages", [{"content": "event: end", "type": "ai"}, {}], "1-0"), Reading()),
            (fields("values", {"error": "x"}), Reading()),
            (fields("end"), Reading(terminal=True)),
            (fields("end", "null"), Reading(terminal=True)),
            (fields("error", {"error": "ValueError", "message": "no"}), Reading(terminal=True, error="ValueError")),
            (fields("error", "no JSON"), Reading(terminal=True, error="unnamed error")),
            (fields("error"), Reading(terminal=True, error="unnamed error")),
        ],
    )
    def test_read(self, event: Fields, reading: Reading) -> None:
        assert LANGGRAPH.read(event) == reading

    @pytest.mark.parametrize(
        ("kind", "message", "transient"),
        [
            ("HTTPException", "503: busy", True),
            ("HTTPException", "429: slowly", True),
            ("HTTPException", "404: Run not found", False),
            ("HTTPException", "no status", False),
            # what the graph has met has failed the run, and is not asked for again
            ("InternalServerError", "503: upstream", False),
            ("RateLimitError", "429", False),
            ("TimeoutError", "504: slow", False),
        ],
    )
    def test_only_the_servers_own_trouble_passes(self, kind: str, message: str, transient: bool) -> None:
        reading = LANGGRAPH.read(fields("error", {"error": kind, "message": message}))
        assert reading.terminal
        assert reading.transient is transient
        assert reading.error

    @pytest.mark.parametrize(
        ("event", "text"),
        [
            (fields("messages", [{"type": "AIMessageChunk", "content": "a"}, {}]), "a"),
            (fields("messages", [{"type": "ai", "content": "a"}, {}]), "a"),
            (fields("messages|sub:1", [{"type": "AIMessageChunk", "content": "a"}, {}]), "a"),
            (
                fields(
                    "messages",
                    [{"type": "ai", "content": [{"type": "text", "text": "a"}, "b", {"type": "image"}, 7]}, {}],
                ),
                "ab",
            ),
            (fields("messages", [{"type": "human", "content": "a"}, {}]), ""),
            (fields("messages", [{"type": "tool", "content": "a"}, {}]), ""),
            (fields("messages", [{"type": "ai", "content": None}, {}]), ""),
            (fields("messages", []), ""),
            (fields("messages", ["a"]), ""),
            (fields("messages", {"type": "ai", "content": "a"}), ""),
            (fields("messages", "no JSON"), ""),
            (Fields("messages", None, "1-0", None), ""),
            (fields("messages/partial", [{"type": "ai", "content": "a"}]), ""),
            (fields("values", {"messages": [{"type": "ai", "content": "a"}]}), ""),
            (fields(None, [{"type": "ai", "content": "a"}]), ""),
        ],
    )
    def test_text(self, event: Fields, text: str) -> None:
        assert LANGGRAPH.text(event) == text


class TestResume:
    def test_it_is_a_get_with_the_callers_keys(self) -> None:
        plan = LANGGRAPH.resume(progress())
        assert plan is not None
        assert (plan.method, plan.url, plan.body) == ("GET", f"{ORIGIN}{RUN}/stream", b"")
        assert plan.headers == (
            *KEYS,
            ("Accept", "text/event-stream"),
            ("Accept-Encoding", "identity"),
            ("Last-Event-ID", "8-0"),
        )

    @pytest.mark.parametrize(
        ("request_", "location", "url"),
        [
            (create(), f"{ORIGIN}{RUN}/stream", f"{ORIGIN}{RUN}/stream"),
            (create("/runs/stream"), "/runs/r/stream", f"{ORIGIN}/runs/r/stream"),
            (create("/p/threads/t/runs/stream"), f"{RUN}/stream", f"{ORIGIN}/p{RUN}/stream"),
            (create("/p/threads/t/runs/stream"), f"/q{RUN}/stream", f"{ORIGIN}/q{RUN}/stream"),
            (create("//threads/t/runs/stream"), f"{RUN}/stream", f"{ORIGIN}//threads/t/runs/r/stream"),
            (join("?stream_mode=values"), f"{RUN}/stream", f"{ORIGIN}{RUN}/stream?stream_mode=values"),
            (join("?stream_mode=values"), None, f"{ORIGIN}{RUN}/stream?stream_mode=values"),
            (replace(create(), body=None), f"{RUN}/stream", f"{ORIGIN}{RUN}/stream"),
        ],
    )
    def test_where(self, request_: RequestPlan, location: str | None, url: str) -> None:
        plan = LANGGRAPH.resume(progress(request_, location))
        assert plan is not None
        assert plan.url == url

    @pytest.mark.parametrize(
        "location",
        [None, "", "/elsewhere", f"https://other.example{RUN}/stream", f"http://graphs.example{RUN}/stream", "//["],
    )
    def test_nowhere(self, location: str | None) -> None:
        assert LANGGRAPH.resume(progress(location=location)) is None
        assert LANGGRAPH.poll(progress(location=location)) is None
        assert LANGGRAPH.cancel(progress(location=location)) is None

    @pytest.mark.parametrize(
        ("more", "cursor"),
        [
            ({}, "8-0"),
            ({"position": Position("9-0", behind=1)}, "0"),
            ({"position": Position("", cursor="8-0", behind=1)}, "8-0"),
            ({"position": Position(), "delivered": False}, "0"),
            ({"position": Position(behind=3)}, None),
            ({"position": Position(), "delivered": False, "request": create(stream_resumable=False)}, None),
            ({"position": Position("9-0"), "delivered": False, "request": join()}, None),
            ({"request": create(on_disconnect="cancel")}, None),
            ({"request": create(on_disconnect="continue")}, "8-0"),
            ({"request": join("?cancel_on_disconnect=True")}, None),
            ({"request": join("?cancel_on_disconnect=false")}, "8-0"),
        ],
    )
    def test_from_where(self, more: dict[str, Any], cursor: str | None) -> None:
        plan = LANGGRAPH.resume(progress(**more))
        assert (plan and plan.header("last-event-id")) == cursor

    def test_ids_as_they_are_never_will_do(self) -> None:
        assert not LANGGRAPH.honours_ids

    def test_a_run_is_started_once(self) -> None:
        assert not LANGGRAPH.may_repeat(progress())
        assert LANGGRAPH.may_repeat(progress(join()))


class TestStatus:
    def test_the_request(self) -> None:
        plan = LANGGRAPH.poll(progress(join("?stream_mode=values").with_headers(("Last-Event-ID", "7-0"))))
        assert plan is not None
        assert (plan.method, plan.url) == ("GET", f"{ORIGIN}{RUN}")
        assert plan.headers == (*KEYS, ("Accept", "application/json"))

    @pytest.mark.parametrize("status", ["pending", "running"])
    def test_the_run_goes_on(self, status: str) -> None:
        assert self.read({"status": status}) == StillRunning(1.0)

    @pytest.mark.parametrize("status", ["success", "interrupted", "timeout"])
    def test_the_run_is_over(self, status: str) -> None:
        assert self.read({"status": status}) == Finished([])

    def test_the_run_has_failed(self) -> None:
        found = self.read({"status": "error"})
        assert isinstance(found, Finished)
        (block,) = found.blocks
        event = parse_block(block)
        assert LANGGRAPH.read(event) == Reading(terminal=True, error="RunFailed")
        assert set(json.loads(event.data or "")) == {"error", "message"}

    @pytest.mark.parametrize("said", [{}, {"status": None}, {"status": "other"}, []])
    def test_nothing_is_said(self, said: Any) -> None:
        assert isinstance(self.read(said), Unusable)

    def test_an_interruption_may_be_the_connections_doing(self) -> None:
        assert isinstance(self.read({"status": "interrupted"}, create(on_disconnect="cancel")), Unusable)
        assert self.read({"status": "success"}, create(on_disconnect="cancel")) == Finished([])

    def read(self, said: Any, request: RequestPlan | None = None) -> Any:
        return LANGGRAPH.read_poll({}, json.dumps(said).encode(), progress(request), NOBODY)


class TestCancel:
    def test_of_a_run(self) -> None:
        plan = LANGGRAPH.cancel(progress())
        assert plan is not None
        assert (plan.method, plan.url, plan.body) == (
            "POST",
            f"{ORIGIN}{RUN}/cancel?wait=false&action=interrupt",
            b"",
        )
        assert plan.headers == (*KEYS, ("Content-Length", "0"))

    def test_a_run_without_a_thread_cannot_be_named(self) -> None:
        assert LANGGRAPH.cancel(progress(create("/runs/stream"), "/runs/r/stream")) is None


class TestUpgrade:
    @pytest.mark.parametrize(
        "body",
        [
            {"input": "é"},
            {"input": "é", "stream_resumable": False},  # the SDK's default
            {"input": "é", "on_disconnect": None},
            {"input": "é", "stream_resumable": True},
        ],
    )
    def test_what_it_adds(self, body: dict[str, Any]) -> None:
        request = RequestPlan("POST", f"{ORIGIN}/runs/stream", KEYS, json.dumps(body).encode())
        upgraded = LANGGRAPH.upgrade(request)
        assert json.loads(upgraded.body or b"") == {
            "input": "é",
            "stream_resumable": True,
            "on_disconnect": "continue",
        }
        assert upgraded.header("content-length") == str(len(upgraded.body or b""))
        assert LANGGRAPH.upgrade(upgraded) is upgraded

    @pytest.mark.parametrize("request_", [join(), replace(create(), body=None), replace(create(), body=b"[]")])
    def test_nothing_to_add(self, request_: RequestPlan) -> None:
        assert LANGGRAPH.upgrade(request_) is request_

    def test_a_run_that_ends_with_its_connection(self) -> None:
        with pytest.raises(UpgradeRefused, match="on_disconnect"):
            LANGGRAPH.upgrade(create(on_disconnect="cancel"))


# Whole conversations that are no vectors

WHOLE = load("langgraph/whole")[0]
LOCATED = WHOLE.data["answers"][0]
STATUS = {"json": {"status": "success"}}


def scripted(*answers: dict[str, Any], status: tuple[dict[str, Any], ...] = (STATUS,), **body: Any) -> Case:
    request = {**WHOLE.data["request"], "body": {**WHOLE.data["request"]["body"], **body}}
    elsewhere = {path: list(status) for path in WHOLE.data["elsewhere"]}
    return replace(WHOLE, data={**WHOLE.data, "request": request, "answers": list(answers), "elsewhere": elsewhere})


def behind(count: int) -> int:
    return len(b"".join(WHOLE.blocks[:count]))


def error(message: str) -> str:
    return f'event: error\r\ndata: {{"error":"HTTPException","message":"{message}"}}\r\n\r\n'


class TestStalls:
    def test_heartbeats_do_not_hide_that_nothing_comes(self) -> None:
        talk = WHOLE.converse(one_by_one=True, limits=Limits(event_timeout=60.0))
        talk.start(0.0)
        talk.next_action()
        talk.receive_response(200, {"content-type": "text/event-stream", **LOCATED["headers"]}, 0.0)
        talk.receive_data(WHOLE.blocks[0], 1.0)
        for now in range(5, 61, 5):
            while isinstance(talk.next_action(), Deliver | Notify):
                pass
            assert isinstance(talk.next_action(), Read), f"after {now} s"
            talk.receive_data(b": heartbeat\r\n\r\n", float(now))
        talk.receive_data(b": heartbeat\r\n\r\n", 65.0)
        assert "no event for 60 s" in talk.report.drops[0].reason
        assert talk.report.drops[0].way == "resume"

    def test_a_run_that_goes_on_is_worth_waiting_for(self) -> None:
        """However often the server closes the connection of a run that goes on, nobody loses patience too soon."""
        repeat = {**LOCATED, "cut": len(WHOLE.blocks[3])}
        running = [{"json": {"status": "running"}}] * 9
        case = scripted({**LOCATED, "cut": behind(4)}, *[repeat] * 9, LOCATED, status=(*running, STATUS))
        log = play(case.converse(one_by_one=True), World(case), 65536, slices=False)
        assert (log.outcome, log.proved, log.told) == ("end", True, case.whole)
        assert log.waits == [1.0] * 9


class TestAnotherProcess:
    @pytest.mark.parametrize("name", ["whole", "cut_between_equal_events", "heartbeats"])
    @pytest.mark.parametrize("one_by_one", [True, False])
    def test_head_and_tail_are_the_whole(self, name: str, one_by_one: bool) -> None:
        case = load(f"langgraph/{name}")[0]
        case = replace(case, data={**case.data, "answers": [LOCATED, LOCATED]})
        for events in range(1, len(case.whole)):
            first = case.converse(one_by_one=one_by_one)
            head = play(first, World(case), 7, slices=not one_by_one, stop_after=events)
            checkpoint = Checkpoint.from_json(first.checkpoint.to_json())
            assert "made-up" not in checkpoint.to_json()
            second = case.converse(one_by_one=one_by_one, checkpoint=checkpoint)
            tail = play(second, World(case, body="rest"), 7, slices=not one_by_one)
            assert (tail.outcome, tail.proved) == ("end", True)
            assert head.told[: checkpoint.events] + tail.told == case.whole


# A server as the development server is: kept events are those with a greater id, and live ones come behind them, the
# first of which may be among the kept ones too.


@dataclass
class Visit:
    """One connection."""

    away: int
    """Events that happen before it is made."""
    meanwhile: int
    """Events that happen between its being heard and the reading of what is kept: they come twice."""
    live: int
    """Events that happen before it breaks."""
    cut: int | None
    """Bytes that arrive, modulo their number; None: all."""
    ends: str


@dataclass
class DevServer:
    events: list[tuple[int, str]]
    visits: list[Visit]
    requests: list[RequestPlan] = field(default_factory=list)
    now: int = 0

    def answer(self, plan: RequestPlan) -> Answer:
        assert len(self.requests) < 60, "this goes on for ever"
        self.requests.append(plan)
        if plan.path == RUN:
            status = "running" if self.visits else "success"
            return Answer(headers={"content-type": "application/json"}, body=json.dumps({"status": status}).encode())
        count = len(self.events)
        visit = self.visits.pop(0) if self.visits else Visit(count, 0, count, None, "eof")
        heard = self._heard(visit) if plan.method == "GET" else 0
        kept = min(heard + visit.meanwhile, count) if plan.method == "GET" else 0
        self.now = max(self.now, min(max(kept, heard + visit.live), count))
        cursor = plan.header("last-event-id")
        told = [event for event in self.events[:kept] if cursor is not None and f"{event[0]}-0" > cursor]
        blocks = [self.block(event) for event in [*told, *self.events[heard : self.now]]]
        body = b"".join(blocks)
        cut = len(body) if visit.cut is None else visit.cut % (len(body) + 1)
        tidy = not body[:cut] or any(len(b"".join(blocks[:at])) - cut in (0, 1) for at in range(1, len(blocks) + 1))
        # A clean end right behind an event of a resumed stream, while there is more, is beyond what can be found out.
        broken = visit.ends == "reset" or (plan.method == "GET" and tidy and (cut < len(body) or self.now < count))
        headers = {"content-type": "text/event-stream", "location": f"{RUN}/stream"}
        return Answer(headers=headers, body=body[:cut], ends="reset" if broken else "eof")

    def _heard(self, visit: Visit) -> int:
        """The first event that comes live. Coming back takes longer than the millisecond of the last event."""
        last = self.events[self.now - 1][0] if self.now else 0
        at = min(self.now + visit.away, len(self.events))
        while at < len(self.events) and self.events[at][0] <= last:
            at += 1
        return at

    @staticmethod
    def block(event: tuple[int, str]) -> bytes:
        data = json.dumps([{"type": "ai", "content": event[1]}, {}])
        return f"event: messages\r\ndata: {data}\r\nid: {event[0]}-0\r\n\r\n".encode()


@st.composite
def servers(draw: st.DrawFn) -> DevServer:
    events, now = [], 100
    for _ in range(draw(st.integers(1, 10))):
        now += draw(st.sampled_from([0, 0, 1, 2]))
        events.append((now, draw(st.sampled_from("ab"))))
    few = st.integers(0, 4)
    cuts = st.none() | st.integers(0, 10**6)
    visit = st.builds(Visit, few, few, st.integers(0, 8), cuts, st.sampled_from(["reset", "eof"]))
    return DevServer(events, draw(st.lists(visit, max_size=5)))


def endless(failures: int, elapsed: float, floor: float | None) -> float:
    return floor or 0.0


def test_exactly_once_whatever_the_server_does() -> None:
    @settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(servers(), st.sampled_from([1, 7, 40, 65536]), st.booleans())
    def check(server: DevServer, size: int, one_by_one: bool) -> None:
        events = list(server.events)
        talk = Conversation(create(), LANGGRAPH, endless, Limits(), key=KEY, one_by_one=one_by_one)
        log = play(talk, server, size, slices=not one_by_one)  # type: ignore[arg-type]
        assert (log.outcome, talk.partial_text()) == ("end", "".join(text for _, text in events))
        assert log.proved

    check()


# Rules of the core that nothing else needs so much


def test_what_is_unclear_is_asked_for_from_the_last_place() -> None:
    case = load("langgraph/cut_between_equal_events")[0]
    blocks = case.blocks
    cut = {**LOCATED, "cut": len(b"".join(blocks[:4])), "ends": "reset"}
    case = replace(case, data={**case.data, "answers": [cut, LOCATED]})
    log = play(case.converse(one_by_one=True), World(case), 65536, slices=False)
    assert log.told == case.whole
    assert [plan.header("last-event-id") for plan in log.requests[1:4]] == [
        parse_block(blocks[at]).id for at in (1, 4, 9)
    ]


def test_a_status_proves_no_more_than_that_the_run_is_over() -> None:
    case = scripted({**LOCATED, "cut": behind(6)}, {**LOCATED, "sse": ""})
    log = play(case.converse(one_by_one=True), World(case), 65536, slices=False)
    assert log.told == case.whole[:6]
    assert not log.proved


def test_a_clean_end_before_the_first_event() -> None:
    case = scripted({**LOCATED, "cut": 0}, LOCATED)
    log = play(case.converse(one_by_one=True), World(case), 65536, slices=False)
    assert (log.outcome, log.proved, log.told) == ("end", True, case.whole)


def test_a_resumed_stream_that_ends_inside_its_first_event() -> None:
    answers = [{**LOCATED, "cut": behind(6), "ends": "reset"}, {**LOCATED, "cut": 9}, LOCATED]
    case = scripted(*answers)
    log = play(case.converse(one_by_one=True), World(case), 65536, slices=False)
    assert (log.outcome, log.told) == ("end", case.whole)


class TestThread:
    """What all runs of a thread tell."""

    ASKED = RequestPlan(
        "GET", "https://graphs.example/threads/7f3c/stream?stream_modes=run_modes", (("Accept", "*/*"),)
    )

    def test_it_is_recognised(self) -> None:
        found = recognise(self.ASKED)
        assert found is not None
        assert found.name == "langgraph_thread"
        assert named("langgraph_thread") is found
        assert found.read(Fields("error", "{}", "1-0", None)) == NOTHING
        assert found.handle(self.ASKED, {"location": "/threads/t/runs/r/stream"}) is None

    def test_it_goes_on_behind_the_last_id_but_one(self) -> None:
        thread = named("langgraph_thread")
        assert thread.resume(Progress(self.ASKED)) is None
        plan = thread.resume(Progress(self.ASKED, Position("2-0", cursor="1-0"), delivered=True))
        assert plan is not None
        assert (plan.url, plan.header("last-event-id")) == (self.ASKED.url, "1-0")
        plan = thread.resume(Progress(self.ASKED, Position("2-0"), delivered=True))
        assert plan is not None
        assert plan.header("last-event-id") == "0"
        assert thread.cancel(Progress(self.ASKED)) is None
