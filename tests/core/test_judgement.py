"""What responses say that are no streams, asked as pure functions."""

from __future__ import annotations

from typing import ClassVar

import pytest

from resumable_llm.core import errors
from resumable_llm.core.dialect import Finished, PollResult, StillRunning, Unusable
from resumable_llm.core.judgement import (
    MAX_REFUSAL_BYTES,
    REDIRECTS,
    TRANSIENT,
    Gone,
    Judgement,
    Refused,
    Response,
    Unknown,
    judge,
    redirected,
)
from resumable_llm.core.model import Headers, Progress, RequestPlan
from resumable_llm.core.recovery import NEVER_ACROSS, Purpose
from resumable_llm.core.transcript import Transcript
from resumable_llm.dialects.event_stream import EventStream

GET = RequestPlan("GET", "https://api.example/runs/7/stream", (("Authorization", "Bearer x"),))
POST = RequestPlan("POST", "https://api.example/runs", (("Content-Type", "application/json"),), b"{}")
FOR_THE_REST = (Purpose.RESUME, Purpose.CONFIRM)
KEEPS = "runs are kept for a minute"


class Plain(EventStream):
    """Nothing but the stream can be had."""

    keeps = KEEPS

    def gone(self, status: int, body: bytes) -> bool:
        return body == b"no longer here"


class Polled(Plain):
    """The finished answer can be read."""

    says: ClassVar[dict[bytes, PollResult]] = {
        b"done": Finished([b"data: a\n\n"]),
        b"running": StillRunning(3.0),
        b"nonsense": Unusable("it makes no sense"),
    }

    def poll(self, progress: Progress) -> RequestPlan | None:
        return progress.request.get("/runs/7")

    def read_poll(self, headers: Headers, body: bytes, progress: Progress, transcript: Transcript) -> PollResult:
        return self.says[body]


class Confirmed(Polled):
    """Only the state of the work can be read."""

    confirms_by_poll = True


def say(dialect: EventStream, purpose: Purpose, status: int = 200, body: bytes = b"", kind: str = "") -> Judgement:
    response = Response(status, {"content-type": kind} if kind else {}, bytearray(body))
    return judge(response, purpose, dialect, Progress(GET, delivered=True), Transcript(1000, lambda: None))


class TestStateOfTheWork:
    @pytest.mark.parametrize("dialect", [Polled(), Confirmed()])
    def test_as_the_dialect_reads_it(self, dialect: EventStream) -> None:
        assert say(dialect, Purpose.STATUS, body=b"done") == Finished([b"data: a\n\n"])
        assert say(dialect, Purpose.STATUS, body=b"running") == StillRunning(3.0)

    def test_not_told(self) -> None:
        assert say(Confirmed(), Purpose.STATUS, body=b"nonsense") == Unknown()
        assert say(Confirmed(), Purpose.STATUS, 404, b"running") == Unknown()
        assert say(Confirmed(), Purpose.STATUS, 201, b"done") == Unknown()


class TestPoll:
    @pytest.mark.parametrize("purpose", [Purpose.POLL, *FOR_THE_REST])
    def test_as_the_dialect_reads_it(self, purpose: Purpose) -> None:
        assert say(Polled(), purpose, body=b"done") == Finished([b"data: a\n\n"])
        assert say(Polled(), purpose, body=b"running") == StillRunning(3.0)
        assert say(Polled(), purpose, body=b"nonsense") == Refused(errors.CannotResume, "it makes no sense")

    @pytest.mark.parametrize(
        ("dialect", "purpose"),
        [(Polled(), Purpose.REPEAT), (Plain(), Purpose.RESUME), (Confirmed(), Purpose.RESUME)],
        ids=["a repeat asks for a stream", "the dialect reads no answers", "the dialect reads only states"],
    )
    def test_what_nobody_reads(self, dialect: EventStream, purpose: Purpose) -> None:
        why = "the server answered with {} instead of an event stream"
        json = "application/json"
        assert say(dialect, purpose, body=b"done", kind=json) == Refused(errors.CannotResume, why.format(json))
        assert say(dialect, purpose, body=b"done") == Refused(errors.CannotResume, why.format("no content type"))


class TestRefusals:
    @pytest.mark.parametrize(
        ("status", "body"), [(404, b""), (410, b""), (416, b""), (400, b"no longer here")], ids=str
    )
    def test_what_is_not_kept(self, status: int, body: bytes) -> None:
        expired = Refused(
            errors.ResumeExpired, f"the server answered {status} when asked for the rest: runs are kept for a minute"
        )
        assert say(Plain(), Purpose.RESUME, status, body) == expired
        assert say(Plain(), Purpose.CONFIRM, status, body) == expired
        assert say(Confirmed(), Purpose.RESUME, status, body) == expired
        assert say(Polled(), Purpose.POLL, status, body) == expired

    @pytest.mark.parametrize(
        ("dialect", "purpose"),
        [(Polled(), Purpose.RESUME), (Polled(), Purpose.CONFIRM), (Confirmed(), Purpose.CONFIRM)],
        ids=["there is the poll", "there is the poll after a clean end", "there is the state after a clean end"],
    )
    def test_something_else_can_be_asked_for(self, dialect: EventStream, purpose: Purpose) -> None:
        assert say(dialect, purpose, 404) == Gone()
        assert say(dialect, purpose, 400, b"no longer here") == Gone()

    @pytest.mark.parametrize("dialect", [Plain(), Polled(), Confirmed()])
    def test_others(self, dialect: EventStream) -> None:
        def why(status: int) -> Refused:
            return Refused(errors.CannotResume, f"the server answered {status} when asked for the rest")

        for purpose in (Purpose.POLL, *FOR_THE_REST):
            assert say(dialect, purpose, 401) == why(401)
            assert say(dialect, purpose, 201) == why(201)
            assert say(dialect, purpose, 400, b"no") == why(400)
        # A repeat asks for nothing that was kept.
        assert say(dialect, Purpose.REPEAT, 404) == why(404)
        assert say(dialect, Purpose.REPEAT, 400, b"no longer here") == why(400)


@pytest.mark.parametrize(("status", "most"), [(200, 100), (201, MAX_REFUSAL_BYTES), (404, MAX_REFUSAL_BYTES)])
def test_how_much_is_enough(status: int, most: int) -> None:
    response = Response(status, {})
    assert not response.is_enough(100)
    response.body += b"x" * most
    assert not response.is_enough(100)
    response.body += b"x"
    assert response.is_enough(100)


def test_bodies_are_not_shared() -> None:
    assert Response(200, {}).body is not Response(200, {}).body


class TestRedirects:
    def follow(self, plan: RequestPlan, status: int, location: str | None, redirects: int = 1) -> RequestPlan | str:
        return redirected(plan, Response(status, {} if location is None else {"location": location}), redirects)

    @pytest.mark.parametrize("status", sorted(REDIRECTS))
    def test_a_get_stays_what_it_is(self, status: int) -> None:
        moved = RequestPlan("GET", "https://api.example/runs/7/elsewhere?a=1", GET.headers)
        assert self.follow(GET, status, "elsewhere?a=1") == moved

    def test_a_post_stays_one_only_where_the_status_says_so(self) -> None:
        for status in (307, 308):
            assert self.follow(POST, status, "/v2/runs") == RequestPlan(
                "POST", "https://api.example/v2/runs", POST.headers, POST.body
            )
        for status in (301, 302, 303):
            assert self.follow(POST, status, "/v2/runs") == RequestPlan("GET", "https://api.example/v2/runs")

    @pytest.mark.parametrize(
        "location", ["https://evil.example/runs/7", "//evil.example/", "http://api.example/runs/7", "https://[api"]
    )
    def test_never_to_another_origin(self, location: str) -> None:
        assert self.follow(GET, 307, location) == f"the server redirects to another origin, and {NEVER_ACROSS}"

    def test_not_without_end(self) -> None:
        assert isinstance(self.follow(GET, 307, "/a", 5), RequestPlan)
        assert self.follow(GET, 307, "/a", 6) == "the server redirects without end"

    @pytest.mark.parametrize("location", [None, ""])
    def test_not_to_nowhere(self, location: str | None) -> None:
        assert self.follow(GET, 302, location) == "the server redirects without end"


def test_a_status_means_one_thing() -> None:
    assert not TRANSIENT & REDIRECTS
    assert not TRANSIENT & {200, 201, 204, 404, 410, 416}
