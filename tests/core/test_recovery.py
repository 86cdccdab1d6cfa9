"""The ways back, asked as pure functions: which comes first, which are refused, how long to wait."""

from __future__ import annotations

from dataclasses import replace

import pytest

from resumable_llm.core.model import Position, Progress, RequestPlan
from resumable_llm.core.recovery import Purpose, by_last_event_id, retry_after, way_back
from resumable_llm.dialects.event_stream import EventStream

POST = RequestPlan(
    "POST", "https://api.example/v1/runs", (("Authorization", "Bearer x"), ("Last-Event-ID", "old")), b"{}"
)
POLL = RequestPlan("GET", "https://api.example/v1/runs/7")
OWN = RequestPlan("GET", "https://api.example/v1/runs/7/stream")


class Full(EventStream):
    """A dialect with every way."""

    def __init__(self, *, own: bool = False, poll: bool = False, repeat: bool = True) -> None:
        self._own, self._poll, self._repeat = own, poll, repeat

    def resume(self, progress: Progress) -> RequestPlan | None:
        return OWN if self._own else None

    def poll(self, progress: Progress) -> RequestPlan | None:
        return POLL if self._poll else None

    def may_repeat(self, progress: Progress) -> bool:
        return self._repeat


NOWHERE = Progress(POST)
BY_ID = Progress(POST, Position("7"), delivered=True)


def back(dialect: EventStream, progress: Progress, *, prefer_poll: bool = False, stream_gone: bool = False) -> object:
    found = way_back(dialect, progress, prefer_poll=prefer_poll, stream_gone=stream_gone)
    return found if isinstance(found, str) else found[0]


class TestOrder:
    def test_the_dialects_own_way_is_first(self) -> None:
        found = way_back(Full(own=True, poll=True), BY_ID, prefer_poll=False, stream_gone=False)
        assert found == (Purpose.RESUME, OWN)

    def test_then_last_event_id(self) -> None:
        found = way_back(Full(poll=True), BY_ID, prefer_poll=False, stream_gone=False)
        assert not isinstance(found, str)
        assert found[0] is Purpose.RESUME
        assert found[1].header("last-event-id") == "7"

    def test_then_the_same_request_if_nothing_was_delivered(self) -> None:
        assert way_back(Full(poll=True), NOWHERE, prefer_poll=False, stream_gone=False) == (Purpose.REPEAT, POST)

    def test_then_the_poll(self) -> None:
        assert back(Full(poll=True), replace(NOWHERE, delivered=True)) is Purpose.POLL
        assert back(Full(poll=True, repeat=False), NOWHERE) is Purpose.POLL
        assert back(Full(poll=True), Progress(replace(POST, body=None))) is Purpose.POLL

    def test_a_poll_may_be_preferred(self) -> None:
        assert back(Full(own=True, poll=True), BY_ID, prefer_poll=True) is Purpose.POLL
        assert back(Full(own=True), BY_ID, prefer_poll=True) is Purpose.RESUME

    def test_a_stream_that_is_gone_is_not_asked_for(self) -> None:
        assert back(Full(own=True, poll=True), BY_ID, stream_gone=True) is Purpose.POLL
        assert back(Full(own=True), BY_ID, stream_gone=True) == f"the server no longer has it: {EventStream.keeps}"

    def test_a_poll_that_only_confirms_is_no_way(self) -> None:
        class Confirms(Full):
            confirms_by_poll = True

        dialect, delivered = Confirms(poll=True), replace(NOWHERE, delivered=True)
        assert back(dialect, delivered) == EventStream.keeps
        assert back(dialect, delivered, stream_gone=True) == f"the server no longer has it: {EventStream.keeps}"
        assert back(dialect, BY_ID, prefer_poll=True) is Purpose.RESUME
        assert back(dialect, NOWHERE) is Purpose.REPEAT

    def test_ids_that_are_no_cursors(self) -> None:
        class Ignores(Full):
            honours_ids = False

        assert back(Ignores(), BY_ID) == EventStream.keeps
        assert back(Ignores(poll=True), BY_ID) is Purpose.POLL
        assert back(Ignores(own=True), BY_ID) is Purpose.RESUME
        assert back(Ignores(), replace(BY_ID, delivered=False)) is Purpose.REPEAT
        assert by_last_event_id(Ignores(), replace(BY_ID, location="/v1/runs/7/stream")) == EventStream.keeps

    def test_no_way(self) -> None:
        assert back(Full(repeat=False), NOWHERE) == EventStream.keeps
        assert back(Full(), replace(NOWHERE, delivered=True)) == EventStream.keeps


class TestByLastEventId:
    def test_the_same_request(self) -> None:
        plan = by_last_event_id(Full(), BY_ID)
        assert isinstance(plan, RequestPlan)
        assert (plan.method, plan.url, plan.body) == ("POST", POST.url, b"{}")
        assert plan.headers == (
            ("Authorization", "Bearer x"),
            ("Accept", "text/event-stream"),
            ("Accept-Encoding", "identity"),
            ("Last-Event-ID", "7"),
        )

    def test_a_location(self) -> None:
        plan = by_last_event_id(Full(), replace(BY_ID, location="/v1/runs/7/stream"))
        assert isinstance(plan, RequestPlan)
        assert (plan.method, plan.url, plan.body) == ("GET", "https://api.example/v1/runs/7/stream", b"")

    def test_a_location_before_the_first_id(self) -> None:
        plan = by_last_event_id(Full(), Progress(POST, location="/v1/runs/7/stream"))
        assert isinstance(plan, RequestPlan)
        assert plan.header("last-event-id") is None

    @pytest.mark.parametrize(
        "location",
        ["https://api.example.evil/x", "http://api.example/x", "https://api.example:444/x", "//evil.example/x"],
    )
    def test_never_to_another_origin(self, location: str) -> None:
        assert "another origin" in str(by_last_event_id(Full(), replace(BY_ID, location=location)))

    def test_a_location_without_a_cursor(self) -> None:
        progress = Progress(POST, location="/x", delivered=True)
        assert "no event id" in str(by_last_event_id(Full(), progress))

    def test_no_cursor(self) -> None:
        assert by_last_event_id(Full(), NOWHERE) == EventStream.keeps

    def test_no_body(self) -> None:
        progress = replace(BY_ID, request=replace(POST, body=None))
        assert "resume_sse" in str(by_last_event_id(Full(), progress))


DATE = "Wed, 21 Oct 2026 07:28:00 GMT"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": " 7 "}, 7.0),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after-ms": "2500"}, 2.5),
        ({"retry-after-ms": "2500", "retry-after": "9"}, 2.5),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT", "date": DATE}, 30.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:27:00 GMT", "date": DATE}, 0.0),
        ({"retry-after": "Wed, 21 Oct 2026 09:28:30 +0200", "date": DATE}, 30.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 -0000", "date": DATE}, None),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT"}, None),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT", "date": "today"}, None),
        ({"retry-after": "Wed, 99 Oct 2026 07:28:30 GMT", "date": DATE}, None),
    ],
)
def test_retry_after(headers: dict[str, str], expected: float | None) -> None:
    assert retry_after(headers) == expected
