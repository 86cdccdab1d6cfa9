"""What follows upon a drop, a refusal, an end: which request, which wait, which error."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from resumable_llm.core import course, errors
from resumable_llm.core.actions import Action, Deliver, Fail, Finish, Read, Send, Surface, Wait
from resumable_llm.core.machine import Conversation
from resumable_llm.core.model import Checkpoint, Failure, Limits, Notice, Progress, RequestPlan
from resumable_llm.core.states import Input, State
from resumable_llm.dialects import LastEventId
from tests.conversation import Played, World, patient, play, told
from tests.core import artificial
from tests.core.talks import (
    BUSY,
    BY_NAME,
    CURSOR,
    DONE,
    END,
    FAILED,
    HALF,
    LINES,
    LOG,
    MARKS,
    NOTHING_NEW,
    POLLED,
    REFUSED,
    REQUEST,
    RUN,
    RUNNING,
    STREAM,
    TICK,
    UNKNOWN,
    WHOLE,
    A,
    B,
    conversation,
    drain,
    events,
    joined,
    made_up,
    played,
    streaming,
    ways,
)


def test_what_is_not_in_the_table_is_refused() -> None:
    with pytest.raises(RuntimeError, match="reported wakeup"):
        streaming()._course.expect(Input.WAKEUP)
    with pytest.raises(RuntimeError, match="must not lead"):
        streaming()._course.move(Input.DATA, State.COLLECTING, None)


@pytest.mark.parametrize(
    ("name", "outcome", "expected"),
    [
        ("gemini_generate/numbered_by_a_relay", "end", ["resume", "resume"]),
        ("last_event_id/busy_for_good", "surface", ["repeat"] * 3),
        ("last_event_id/confirmation_by_post_generates_anew", "end", ["confirm"]),
        ("last_event_id/confirmed_by_204", "end", ["confirm"]),
        ("last_event_id/redirect_on_the_same_origin", "end", ["resume", "resume", "confirm"]),
        ("last_event_id/terminal_known_204", "ResumeExpired", ["resume"]),
        ("openai_responses/background_another_answer", "ReplayDiverged", ["resume"]),
        ("openai_responses/background_gap", "GapDetected", ["resume"]),
    ],
)
def test_ways(name: str, outcome: str, expected: list[str]) -> None:
    _, log = played(BY_NAME[name])
    assert (log.outcome, ways(log)) == (outcome, expected)


class TestNothingMore:
    """The server answers 204 when it is asked for the rest."""

    def test_of_what_it_was_to_repeat(self) -> None:
        _, log = played(made_up(MARKS, CUT, {"status": 204, "text": ""}, wire=RUN, status=[DONE]))
        assert log.outcome == "ResumeExpired"

    def test_behind_a_failure_that_was_to_pass(self) -> None:
        talk, log = played(made_up(CURSOR, {"sse": events(CURSOR, A, BUSY)}, {"status": 204, "text": ""}))
        assert (log.outcome, talk.upstream_error) == ("end", "busy")


class TestDeadline:
    def broken(self) -> Conversation:
        talk = streaming(deadline=10.0, one_by_one=True)
        talk.receive_data(TICK, 1.0)
        drain(talk)
        talk.receive_failure(Failure("broke"), 2.0)
        assert isinstance(drain(talk), Send)
        return talk

    def check(self, talk: Conversation, why: str) -> None:
        action = drain(talk)
        assert isinstance(action, Fail)
        assert isinstance(action.error, errors.RetriesExhausted)
        assert why in str(action.error)

    def test_it_passes_while_an_attempt_is_waited_for(self) -> None:
        talk = self.broken()
        talk.receive_response(503, {"retry-after": "3"}, 3.0)
        assert isinstance(drain(talk), Wait)
        talk.receive_wakeup(10.5)
        self.check(talk, "the deadline has passed")

    def test_it_would_pass_before_the_next_attempt(self) -> None:
        talk = self.broken()
        talk.receive_response(503, {"retry-after": "20"}, 3.0)
        self.check(talk, "the deadline leaves no time for another attempt")


def test_no_request_goes_to_another_origin() -> None:
    class Away(LastEventId):
        def resume(self, progress: Progress) -> RequestPlan | None:
            return replace(progress.request, url="https://other.example/")

    talk = streaming(Away("end"), one_by_one=True)
    talk.receive_data(TICK, 1.0)
    drain(talk)
    talk.receive_failure(Failure("broke"), 2.0)
    action = drain(talk)
    assert isinstance(action, Fail)
    assert isinstance(action.error, errors.CannotResume)
    assert "another origin" in str(action.error)


def test_a_resume_without_a_way_back_fails_at_once() -> None:
    case = BY_NAME["openai_chat/whole"]
    checkpoint = Checkpoint("openai_chat", "POST", case.plan.url, events=3)
    log = play(case.converse(one_by_one=True, checkpoint=checkpoint), World(case), 65536, slices=False)
    assert (log.outcome, log.requests) == ("CannotResume", [])


class TestPolls:
    """How long a server is believed that says that the answer is in progress."""

    def test_an_answer_that_never_finishes_is_given_up_in_the_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(course, "MAX_POLL_SECONDS", 10.0)
        case = BY_NAME["openai_responses/background_poll_in_progress"]
        data = {**case.data, "answers": case.data["answers"][:3]}
        log = play(case.converse(one_by_one=True), World(replace(case, data=data)), 65536, slices=False)
        assert log.outcome == "RetriesExhausted"
        assert 10.0 < log.seconds < 15.0

    def test_an_answer_begun_by_another_process_that_never_finishes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(course, "MAX_POLL_SECONDS", 10.0)
        case = BY_NAME["openai_responses/background_poll_in_progress"]
        first = case.converse(one_by_one=True)
        play(first, World(case), 65536, slices=False, stop_after=2)
        running = {"json": {"id": first.checkpoint.handle, "status": "in_progress"}}
        world = World(replace(case, data={**case.data, "answers": [running, running]}))
        log = play(case.converse(one_by_one=True, checkpoint=first.checkpoint), world, 65536, slices=False)
        assert log.outcome == "RetriesExhausted"


class TestOtherGenerations:
    """What follows where the caller allows them; what comes of them is in `test_other_generation`."""

    def test_a_repeat_that_fits(self) -> None:
        log = joined("openai_chat/whole", "replay", HALF, {"body": "whole"})
        assert (log.outcome, ways(log)) == ("end", ["replay"])

    def test_a_repeat_that_does_not(self) -> None:
        other = BY_NAME["openai_chat/whole"].wire.decode().replace("Hel", "Bye")
        log = joined("openai_chat/whole", "replay", HALF, {"sse": other})
        assert (log.outcome, ways(log)) == ("ReplayDiverged", ["replay"])

    def test_a_repeat_that_is_refused(self) -> None:
        lost = {"status": 307, "text": ""}
        log = joined("openai_chat/whole", "replay", HALF, lost)
        assert (log.outcome, ways(log)) == ("CannotResume", ["replay"])

    def test_a_repeat_of_what_the_server_will_not_hand_out(self) -> None:
        cut = {"cut": "id: 2", "ends": "reset"}
        log = joined("openai_chat/numbered_by_a_relay", "replay", cut, REFUSED, {"body": "whole"})
        assert (log.outcome, ways(log)) == ("end", ["resume", "replay"])

    def test_a_model_is_tried_before_it_is_asked_to_go_on(self) -> None:
        log = joined("openai_chat/whole", "continue", HALF, {"json": {}})
        assert (log.outcome, ways(log)) == ("ContinuationRefused", ["trial"])


class TestFailuresThatPass:
    def test_it_passes(self) -> None:
        case = made_up(CURSOR, {"sse": events(CURSOR, A, BUSY)}, {}, wire=WHOLE)
        talk, log = played(case)
        assert (log.outcome, log.told, log.waits) == ("end", case.whole, [5.0])
        assert [drop.reason for drop in talk.report.drops] == ["the server reported in the stream: busy"]
        assert (talk.upstream_error, talk.report.end_proved) == (None, True)

    def test_the_position_stays_before_it(self) -> None:
        talk = made_up(CURSOR, wire=WHOLE).converse(one_by_one=False)
        talk.start(0.0)
        talk.receive_response(200, STREAM, 0.0)
        talk.receive_data(events(CURSOR, A, {"same": 1}, BUSY, B).encode(), 1.0)
        assert isinstance(talk.next_action(), Deliver)
        assert talk.checkpoint.events == 0  # of a slice the caller may not have read anything
        assert isinstance(drain(talk), Wait)
        assert (talk.checkpoint.cursor, talk.checkpoint.behind, talk.checkpoint.events) == ("a", 1, 2)

    def test_before_anything_was_delivered_the_request_is_repeated(self) -> None:
        case = made_up(LINES, {"ndjson": events(LINES, BUSY)}, {"body": "whole"}, wire=events(LINES, A, END), get=False)
        _, log = played(case)
        assert (log.outcome, log.told, log.waits) == ("end", case.whole, [5.0])
        assert [plan.method for plan in log.requests] == ["POST", "POST"]

    def test_without_a_way_back_it_is_the_callers(self) -> None:
        said = events(LINES, A, BUSY)
        talk, log = played(made_up(LINES, {"ndjson": said}, {"status": 500}, get=False))
        assert (log.outcome, log.proved, log.told) == ("end", True, told(said.encode(), LINES.framing))
        assert (talk.upstream_error, len(log.requests), talk.report.drops) == ("busy", 1, ())

    def test_a_poll_is_no_way_back_from_it(self) -> None:
        said = events(POLLED, {"same": 1}, BUSY)
        talk, log = played(made_up(POLLED, {"sse": said}, {"status": 500}, get=False))
        assert (log.outcome, log.told, len(log.requests)) == ("end", told(said.encode()), 1)
        assert talk.upstream_error == "busy"

    @pytest.mark.parametrize("end", [BUSY, END], ids=["fails again", "breaks"])
    def test_if_it_does_not_pass_it_is_the_callers(self, end: dict[str, Any]) -> None:
        """It comes again, or nothing comes: what the server said in the end says more than that nothing did."""
        again = {"sse": events(CURSOR, end), "cut": 10**6 if end is BUSY else 0, "ends": "reset"}
        talk, log = played(made_up(CURSOR, {"sse": events(CURSOR, A, BUSY)}, again))
        assert (log.outcome, log.proved) == ("end", True)
        assert log.told == told(events(CURSOR, A, BUSY).encode())
        assert log.waits[0] == 5.0
        assert len(log.requests) == 5
        assert talk.upstream_error == "busy"

    def test_nor_if_the_resume_is_refused(self) -> None:
        talk, log = played(made_up(CURSOR, {"sse": events(CURSOR, A, BUSY)}, {"status": 404, "text": "no"}))
        assert (log.outcome, log.told) == ("end", told(events(CURSOR, A, BUSY).encode()))
        assert talk.upstream_error == "busy"

    def test_a_stream_that_comes_in_pieces(self) -> None:
        case = made_up(CURSOR, {"sse": events(CURSOR, A, BUSY)}, {}, wire=WHOLE)
        _, log = played(case, size=7)
        assert (log.outcome, log.told) == ("end", case.whole)

    def test_one_that_stands_where_an_event_should_have_come_again(self) -> None:
        marks = artificial.Marks()
        wire = artificial.block(marks, "1", n=1)
        busy = artificial.block(marks, event="error", passes=1)
        talk, log = played(made_up(marks, {"sse": wire + "data", "ends": "reset"}, {"sse": busy}, wire=wire))
        assert (log.outcome, log.told) == ("end", told((wire + busy).encode()))
        assert talk.upstream_error == "busy"

    def test_repeats_are_no_more(self) -> None:
        again = {"sse": events(CURSOR, {"same": 1}), "ends": "reset"}
        first = {"sse": events(CURSOR, A, {"same": 1}, BUSY)}
        talk, log = played(made_up(CURSOR, first, again))
        assert (log.outcome, talk.upstream_error) == ("end", "busy")

    def test_a_poll_that_finds_a_failure(self) -> None:
        missing = {"json": {"state": "done", "missing": [events(POLLED, BUSY)]}}
        case = made_up(POLLED, {"sse": events(POLLED, {"same": 1}), "ends": "reset"}, status=[missing], get=False)
        talk, log = played(case)
        assert (log.outcome, log.told) == ("end", told(events(POLLED, {"same": 1}, BUSY).encode()))
        assert talk.upstream_error == "busy"


class TestStatus:
    """Ends that nothing proves, where the state of the work can be asked for."""

    def play(self, *answers: dict[str, Any], status: list[dict[str, Any]]) -> tuple[Conversation, Played]:
        return played(made_up(MARKS, *answers, wire=RUN, status=status, get=False))

    @pytest.mark.parametrize("status", [DONE, REFUSED, UNKNOWN])
    def test_the_end_is_confirmed_and_then_the_work_is_done(self, status: dict[str, Any]) -> None:
        _, log = self.play({}, NOTHING_NEW, status=[status])
        assert (log.outcome, log.proved, len(log.told)) == ("end", True, 4)
        assert [(plan.path, plan.header("last-event-id")) for plan in log.requests] == [
            ("/runs/r/stream", None),
            ("/runs/r/stream", "2"),
            ("/runs/r", None),
        ]
        assert [notice.kind for notice in log.notices] == ["confirm", "status", "end"]

    def test_the_work_has_failed(self) -> None:
        talk, log = self.play({}, NOTHING_NEW, status=[FAILED])
        assert (log.outcome, log.proved, log.told[-1]) == ("end", True, ("error", '{"error":"x"}'))
        assert talk.upstream_error == "failed"

    def test_the_work_goes_on(self) -> None:
        """Then it was a drop, and the stream is resumed when the server says; as long as it takes."""
        first = {"cut": len(artificial.block(MARKS, "1", said=0))}
        nothing = {"sse": artificial.block(MARKS, "1", said=0)}
        talk, log = self.play(first, nothing, nothing, {}, NOTHING_NEW, status=[RUNNING, RUNNING, DONE])
        assert (log.outcome, log.proved, len(log.told)) == ("end", True, 4)
        assert log.waits == [5.0, 5.0]
        kinds = ["first", *(notice.kind for notice in log.notices if notice.kind not in ("drop", "wait"))]
        assert kinds == ["first", "confirm", "status", "resume", "status", "resume", "confirm", "status", "end"]
        assert [drop.way for drop in talk.report.drops] == ["resume", "resume"]

    @pytest.mark.parametrize("refused", [{"status": 503, "text": "busy"}, {"down": True}, {**DONE, "ends": "reset"}])
    def test_a_status_that_cannot_be_had_is_asked_for_again_behind_a_resume(self, refused: dict[str, Any]) -> None:
        _, log = self.play({}, NOTHING_NEW, NOTHING_NEW, status=[refused, DONE])
        assert (log.outcome, log.proved, log.waits) == ("end", True, [1.0])
        paths = [plan.path.removeprefix("/runs/r") for plan in log.requests]
        assert paths == ["/stream", "/stream", "", "/stream", ""]

    @pytest.mark.parametrize("status", [DONE, REFUSED, UNKNOWN])
    def test_a_server_that_has_forgotten_the_stream(self, status: dict[str, Any]) -> None:
        """That the work is done does not say that all of it has come."""
        for forgotten in ({"sse": ""}, {"sse": artificial.block(MARKS, "9", other=1)}, REFUSED):
            _, log = self.play({}, forgotten, status=[status])
            assert (log.outcome, log.proved, len(log.told), len(log.requests)) == ("end", False, 4, 3)

    def test_a_server_that_has_forgotten_the_stream_although_the_work_goes_on(self) -> None:
        for forgotten in ({"sse": ""}, {"sse": artificial.block(MARKS, "9", other=1)}, REFUSED):
            _, log = self.play({}, forgotten, status=[RUNNING])
            assert (log.outcome, len(log.told), len(log.requests)) == ("ResumeExpired", 4, 3)

    def test_a_server_that_has_forgotten_the_stream_of_a_work_that_has_failed(self) -> None:
        """That it has failed is the end, whatever else may have come before."""
        talk, log = self.play({}, {"sse": ""}, status=[FAILED])
        assert (log.outcome, log.proved, talk.upstream_error) == ("end", True, "failed")

    def test_without_ids_the_status_does_not_prove_that_all_has_come(self) -> None:
        wire = "data: a\n\ndata: b\n\n"
        for status in (DONE, REFUSED):
            _, log = played(made_up(MARKS, {}, wire=wire, status=[status]))
            assert (log.outcome, log.proved, len(log.requests)) == ("end", False, 2)

    def test_without_a_way_back_a_work_that_goes_on_is_lost(self) -> None:
        talk, log = played(made_up(MARKS, {}, wire="data: a\n\n", status=[RUNNING]))
        assert log.outcome == "CannotResume"
        assert "although the work goes on" in str(log.error)
        assert talk.report.drops[0].way == ""

    def test_a_dialect_that_knows_no_status_of_this_answer(self) -> None:
        class Nameless(artificial.Marks):
            def poll(self, progress: Progress) -> RequestPlan | None:
                return None

        _, log = played(made_up(Nameless(), {}, {}, wire=RUN))
        assert (log.outcome, log.proved, len(log.requests)) == ("end", True, 2)

    def test_where_the_end_cannot_be_confirmed(self) -> None:
        talk, log = played(made_up(artificial.MarksUnkept(), {}, wire=RUN, status=[FAILED]))
        assert (log.outcome, log.proved, len(log.requests)) == ("end", True, 2)
        assert talk.upstream_error == "failed"

    def test_a_status_that_is_all_that_can_be_asked_for(self) -> None:
        """It may be asked for again, and where that never tells anything, it stands as it was."""
        _, log = played(made_up(artificial.MarksUnkept(), {}, wire=RUN, status=[{"status": 503, "text": "busy"}]))
        assert (log.outcome, log.waits) == ("end", [1.0, 2.0, 4.0])
        assert [plan.path for plan in log.requests[-4:]] == ["/runs/r"] * 4

    def test_a_work_that_never_ends_is_given_up_in_the_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(course, "MAX_POLL_SECONDS", 12.0)
        talk = made_up(MARKS, {}, NOTHING_NEW, wire=RUN, status=[RUNNING]).converse(one_by_one=True)
        log = play(talk, World(made_up(MARKS, {}, NOTHING_NEW, wire=RUN, status=[RUNNING])), 65536, slices=False)
        assert log.outcome == "RetriesExhausted"
        assert 12.0 < log.seconds < 20.0


CUT: dict[str, Any] = {"cut": len(RUN) - 3, "ends": "reset"}


class TestForgotten:
    """Servers that take any cursor: what was asked for again must come."""

    def test_it_comes(self) -> None:
        case = made_up(MARKS, CUT, {}, NOTHING_NEW, wire=RUN, status=[DONE])
        _, log = played(case)
        assert (log.outcome, log.told) == ("end", case.whole)
        assert [plan.header("last-event-id") for plan in log.requests] == [None, "1", "2", None]

    @pytest.mark.parametrize("said", ["", artificial.block(MARKS, "8", x=1), artificial.block(MARKS, event="error")])
    def test_it_does_not(self, said: str) -> None:
        for dialect in (MARKS, artificial.MarksAlone()):
            _, log = played(made_up(dialect, CUT, {"sse": said}, wire=RUN, status=[DONE]))
            assert log.outcome == "ResumeExpired"
            assert "runs are kept for two minutes" in str(log.error)
            assert len(log.requests) == 2

    def test_a_finished_answer_may_be_had_instead(self) -> None:
        rest = {"json": {"state": "done", "missing": [artificial.block(MARKS, said=3)]}}
        _, log = played(made_up(artificial.MarksKept(), CUT, {"sse": ""}, wire=RUN, status=[rest]))
        assert (log.outcome, log.proved, log.told) == ("end", True, told(RUN.encode()))

    def test_an_end_that_only_breaks_off_is_no_answer(self) -> None:
        _, log = played(made_up(MARKS, CUT, {"sse": "", "ends": "reset"}, {}, {}, wire=RUN, status=[DONE]))
        assert (log.outcome, len(log.told)) == ("end", 4)

    @pytest.mark.parametrize("size", [7, 65536])
    def test_what_one_connection_cannot_tell_the_next_one_can(self, size: int) -> None:
        twice = artificial.block(MARKS, "4", said="ha")
        wire = RUN + twice + twice
        first = {"cut": len(RUN), "ends": "reset"}
        case = made_up(MARKS, first, {}, {}, {}, wire=wire, status=[DONE])
        talk, log = played(case, size)
        assert (log.outcome, log.told, log.waits) == ("end", case.whole, [])
        assert "told the last event twice" in talk.report.drops[1].reason

    def test_a_log_that_has_lost_something(self) -> None:
        first, back = {"cut": len(events(LOG, A, B)), "ends": "reset"}, {"sse": events(LOG, {"event_id": "a"})}
        _, log = played(made_up(LOG, first, back, wire=events(LOG, A, B, END)))
        assert (log.outcome, len(log.told)) == ("ResumeExpired", 2)
        assert "it lost what it had" in str(log.error)


class TestRest:
    """A server that has told all that there is by now may end a connection."""

    IDLE = events(CURSOR, {"event_id": "a", "idle": True})

    @pytest.mark.parametrize("ends", ["eof", "reset", "silence"])
    @pytest.mark.parametrize(("lasts", "failures"), [(6.0, 0), (1.0, 3)])
    def test_its_end_is_no_failure(self, ends: str, lasts: float, failures: int) -> None:
        idle = {"sse": self.IDLE, "lasts": lasts, "ends": ends}
        _, log = played(made_up(CURSOR, idle, *[idle] * 10, {"sse": events(CURSOR, END)}))
        assert log.outcome == ("RetriesExhausted" if failures else "end")
        assert len(log.waits) == failures

    def test_nor_is_it_where_it_goes_on(self) -> None:
        idle = {"sse": self.IDLE + events(CURSOR, {"same": 1}), "lasts": 6.0}
        _, log = played(made_up(CURSOR, idle, {"sse": events(CURSOR, {"same": 1}), "lasts": 6.0}))
        assert (log.outcome, log.waits) == ("RetriesExhausted", [1.0, 2.0, 4.0])


class TestHostileServers:
    """Whatever a server says: an answer, or one of our errors."""

    def resumed(self, status: int, headers: dict[str, str]) -> Action:
        talk = streaming(one_by_one=True)
        talk.receive_data(TICK, 1.0)
        drain(talk)
        talk.receive_failure(Failure("broke"), 2.0)
        drain(talk)
        talk.receive_response(status, headers, 3.0)
        return drain(talk)

    @pytest.mark.parametrize("location", ["http://[", "http://events.example:99999999/", "https://[::1/x"])
    def test_a_redirect_to_nowhere(self, location: str) -> None:
        assert isinstance(self.resumed(307, {"location": location}), Fail)

    @pytest.mark.parametrize("location", ["http://[", "http://events.example:99999999/"])
    def test_a_location_that_is_none(self, location: str) -> None:
        talk = conversation(one_by_one=True)
        talk.start(0.0)
        talk.receive_response(200, {**STREAM, "location": location}, 0.0)
        talk.receive_data(TICK, 1.0)
        drain(talk)
        assert isinstance(talk.checkpoint, Checkpoint)
        talk.receive_failure(Failure("broke"), 2.0)
        assert isinstance(drain(talk), Fail)

    def test_a_date_beyond_all_dates(self) -> None:
        headers = {"retry-after": "Wed, 21 Oct 99999999999 07:28:00 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}
        assert self.resumed(503, headers) == Wait(1.0)

    @pytest.mark.parametrize(
        ("name", "data"),
        [
            (
                "openai_responses/background_cut",
                '{"type":"response.output_text.delta","sequence_number":' + "9" * 5000 + "}",
            ),
            ("openai_responses/background_cut", '{"response":' + "[" * 100_000),
            ("openai_chat/whole", '{"error":' + "[" * 100_000),
        ],
        ids=["endless number", "endless nesting", "endless nesting of an error"],
    )
    def test_an_event_that_cannot_be_read(self, name: str, data: str) -> None:
        talk = BY_NAME[name].converse(one_by_one=True)
        talk.start(0.0)
        talk.receive_response(200, STREAM, 0.0)
        talk.receive_data(f"event: response.output_text.delta\ndata: {data}\n\n".encode(), 1.0)
        assert isinstance(drain(talk), Read | Fail | Finish)


def test_what_could_not_be_had_was_not_needed() -> None:
    """Every choice has its finish_reason: if only [DONE] is missing, nothing of the text is."""
    case = BY_NAME["openai_chat/numbered_by_a_relay"]
    (at,) = [number for number, block in enumerate(case.blocks) if b'"stop"' in block]
    answers = [{"cut": len(b"".join(case.blocks[: at + 1])), "ends": "reset"}, {"status": 404, "text": "no"}]
    talk = case.converse(one_by_one=True)
    log = play(talk, World(replace(case, data={**case.data, "answers": answers})), 65536, slices=False)
    assert (log.outcome, log.proved, log.told) == ("end", True, case.whole[: at + 1])
    assert len(log.requests) == 2


def test_notices_say_what_happens() -> None:
    case = BY_NAME["openai_responses/background_poll_in_progress"]
    log = play(case.converse(one_by_one=True), World(case), 65536, slices=False)
    kinds = [notice.kind for notice in log.notices]
    assert kinds == ["drop", "resume", "poll", "wait", "poll", "wait", "poll", "end"]
    assert [notice.seconds for notice in log.notices if notice.kind == "wait"] == [0.75, 2.0]
    assert log.notices[0] == Notice("drop", 1, "the connection broke", 0.0, 3)


def test_a_server_that_is_not_ready_is_asked_again() -> None:
    case = BY_NAME["llama_cpp/offset"]
    loading = {"status": 503, "headers": {"server": "llama.cpp"}, "text": "loading model"}
    case = replace(
        case, data={**case.data, "answers": [loading, {"body": "whole", "headers": {"server": "llama.cpp"}}]}
    )
    log = play(case.converse(one_by_one=True), World(case), 65536, slices=False)
    assert (log.outcome, log.told, log.waits) == ("end", case.whole, [1.0])


def test_a_body_that_cannot_be_sent_again() -> None:
    talk = Conversation(
        replace(REQUEST, method="POST", body=None), LastEventId("end"), patient, Limits(), one_by_one=True
    )
    talk.start(0.0)
    talk.receive_response(200, STREAM, 0.0)
    talk.receive_data(TICK, 1.0)
    drain(talk)
    talk.receive_failure(Failure("broke"), 2.0)
    action = drain(talk)
    assert isinstance(action, Fail)
    assert "cannot be sent again" in str(action.error)
    busy = Conversation(replace(REQUEST, method="POST", body=None), LastEventId("end"), patient, Limits())
    busy.start(0.0)
    busy.receive_response(503, {}, 1.0)
    assert isinstance(drain(busy), Surface)


def test_before_the_answer_begins_a_busy_server_is_the_callers_affair() -> None:
    """Also where the request must not be repeated: nothing was started, and the status says so better than we could."""
    case = BY_NAME["openai_responses/background_whole"]
    data = {**case.data, "answers": [{"status": 503, "text": "busy"}]}
    log = play(case.converse(one_by_one=True), World(replace(case, data=data)), 65536, slices=False)
    assert log.outcome == "surface"
