"""Fuzz the conversation: whatever a server says, it makes progress or ends in a documented way.

    python -m fuzz.machine [seconds]

`check` takes bytes only, so atheris can drive it too: ``atheris.Setup(sys.argv, check); atheris.Fuzz()``.
"""

from __future__ import annotations

import random
import sys
import time

from resumable_llm.core.actions import Deliver, Fail, Finish, Read, Send, Surface, Wait
from resumable_llm.core.dialect import Dialect
from resumable_llm.core.errors import ResumableError
from resumable_llm.core.machine import Conversation
from resumable_llm.core.model import Checkpoint, Failure, Limits, RequestPlan
from resumable_llm.dialects import DIALECTS, LastEventId, recognise
from tests.core import artificial

ACCEPT = (("Accept", "text/event-stream"),)
REQUESTS = [
    RequestPlan("GET", "https://x.example/feed", ACCEPT),
    RequestPlan("POST", "https://x.example/feed", ACCEPT, b"{}"),
    RequestPlan("POST", "https://x.example/v1/responses", (), b'{"stream":true,"background":true}'),
    RequestPlan("POST", "https://x.example/v1/responses", (), b'{"stream":true}'),
    RequestPlan("GET", "https://x.example/v1/responses/r?stream=true"),
    RequestPlan("POST", "https://x.example/v1/chat/completions", (), b'{"stream":true,"n":2}'),
    RequestPlan("POST", "https://x.example/v1/messages", (), b'{"stream":true}'),
    RequestPlan("POST", "https://x.example/completion", (), b'{"stream":true}'),
    RequestPlan("POST", "https://x.example/api/chat", (), b'{"model":"m"}'),
    RequestPlan("POST", "https://x.example/threads/t/runs/stream", (), b'{"stream_resumable":true}'),
    RequestPlan("GET", "https://x.example/log?offset=-1&live=sse"),
    RequestPlan("POST", "https://x.example/v1beta/interactions", (), b'{"stream":true,"background":true}'),
]
MADE_UP = [
    LastEventId("end"),
    artificial.Cursor(),
    artificial.CursorLines(),
    artificial.Log(),
    artificial.Lines(),
    artificial.Polled(),
    artificial.Marks(),
    artificial.MarksAlone(),
    artificial.MarksKept(),
    artificial.MarksUnkept(),
]
STATUSES = [200, 200, 200, 200, 201, 204, 301, 303, 307, 400, 401, 404, 410, 416, 429, 500, 503]
TYPES = ["", "", "", "; charset=utf-8", "application/json", "text/event-stream", "application/x-ndjson"]
"""What stands behind the type that the dialect expects; or another type."""
LOCATIONS = ["/else", "https://other.example/", "", "?x", "x.example", "http://["]
BODIES = [
    b"id: 1\ndata: a\n\n",
    b"id: 2\ndata: b\n\n",
    b"id\n\n",
    b"id: 9\n\n",
    b"retry: 5\n\n",
    b": ping\n\n",
    b"data: a\n",
    b"data: tail\n\n",
    b"\xef\xbb\xbf",
    b"data: [DONE]\n\n",
    b'data: {"error":{"code":"x"}}\n\n',
    b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n',
    b'data: {"choices":[{"index":1,"delta":{},"finish_reason":"stop"}]}\n\n',
    b'event: response.created\ndata: {"type":"response.created","sequence_number":0,"response":{"id":"r"}}\n\n',
    b'event: response.output_text.delta\ndata: {"type":"response.x.delta","sequence_number":1,"delta":"a"}\n\n',
    b'event: response.output_text.delta\ndata: {"type":"response.x.delta","sequence_number":3,"delta":"c"}\n\n',
    b'event: response.completed\ndata: {"type":"response.completed","sequence_number":2,"response":{"id":"r"}}\n\n',
    b'event: content_block_delta\ndata: {"delta":{"type":"text_delta","text":"a"}}\n\n',
    b'event: message_delta\ndata: {"delta":{"stop_reason":"end_turn"}}\n\n',
    b"event: message_stop\ndata: {}\n\n",
    b'data: {"content":"","stop":true}\n\n',
    b"id: 1\ndata: b\n\n",
    b"data: a\nid: 1\n\n",
    b'data: {"n":1}\n\n',
    b'data: {"event_id":"a"}\n\n',
    b'data: {"event_id":"b","idle":1}\n\n',
    b'data: {"error":"busy","passes":3}\n\n',
    b'event: error\ndata: {"error":{"type":"overloaded_error"}}\n\n',
    b'event: control\ndata: {"streamNextOffset":"1","upToDate":true}\n\n',
    b'event: control\ndata: {"streamNextOffset":"0"}\n\n',
    b'data: {"end":true}\n\n',
    b'{"n":1}\n',
    b'{"event_id":"a"}\n',
    b'{"model":"m","response":"a","done":false}\n',
    b'{"error":"busy","passes":0}\n',
    b'{"end":true}',
    b'{"done":true}\n',
    b'{"state":"done","missing":["data: {\\"n\\":2}\\n\\n","data: {\\"error\\":\\"x\\",\\"passes\\":1}\\n\\n"]}',
    b'{"state":"running"}',
    b'{"id":"r","status":"in_progress"}',
    b'{"id":"r","status":"completed","output":[]}',
]


class _Choices:
    """Reads decisions from bytes; when they are used up, the network is down for good."""

    def __init__(self, data: bytes) -> None:
        self._data = list(reversed(data))

    @property
    def are_over(self) -> bool:
        return not self._data

    def __call__(self, count: int) -> int:
        return self._data.pop() % count if self._data else 0


def _headers(choose: _Choices, dialect: Dialect) -> dict[str, str]:
    kind = TYPES[choose(len(TYPES))]
    headers = {"content-type": kind if "/" in kind else dialect.framing.media_types[0] + kind}
    if choose(2):
        headers["location"] = LOCATIONS[choose(len(LOCATIONS))]
    if choose(4) == 3:
        headers["server"] = "llama.cpp"
    return headers


def check(data: bytes) -> None:  # noqa: PLR0912 - one branch for each thing that can happen
    """The invariants. Every byte decides something."""
    choose = _Choices(data)
    request = REQUESTS[choose(len(REQUESTS))]
    dialect = recognise(request) or DIALECTS[-1]
    if choose(3) == 2:
        dialect = MADE_UP[choose(len(MADE_UP))]
    boundary = dialect.framing.boundary
    talk = Conversation(
        dialect.prepare(request, "k"),
        dialect,
        lambda failures, _, floor: None if failures > 2 else float(floor or failures),
        Limits(600.0, 300.0, 3600.0, 4096, 16384),
        key="k",
        one_by_one=bool(choose(2)),
    )
    now, events, sent = 0.0, 0, 0
    talk.start(now)
    for _ in range(8 * len(data) + 100):
        action = talk.next_action()
        now += choose(4) * 10.0
        if isinstance(action, Deliver):
            events += action.events
        elif isinstance(action, Send):
            sent += 1
            if choose.are_over or choose(6) == 5:
                talk.receive_failure(Failure("down"), now)
            else:
                headers = _headers(choose, dialect)
                talk.receive_response(STATUSES[choose(len(STATUSES))], headers, now)
        elif isinstance(action, Read):
            what = choose(len(BODIES) + 4)
            if what == len(BODIES) or choose.are_over:
                talk.receive_failure(Failure("broke"), now)
            elif what > len(BODIES) + 1:
                talk.receive_eof(now)
            else:
                body = BODIES[what] if what < len(BODIES) else bytes([choose(256), choose(256)])
                body = body[choose(4) :] if choose(8) == 7 else body
                if talk.receive_plain(body):
                    events += body.count(boundary)
                else:
                    talk.receive_data(body, now)
        elif isinstance(action, Wait):
            assert action.seconds > 0, "a wait that is none"
            now += action.seconds
            talk.receive_wakeup(now)
        elif isinstance(action, Finish | Fail | Surface):
            report, checkpoint = talk.report, talk.checkpoint
            assert Checkpoint.from_json(checkpoint.to_json()) == checkpoint, "the checkpoint does not survive JSON"
            assert report.events == events == checkpoint.events, "events were miscounted"
            assert report.attempts == sent, "attempts were miscounted"
            assert isinstance(action, Finish | Surface) or isinstance(action.error, ResumableError)
            return
    raise AssertionError("this goes on for ever")


def generate(chance: random.Random) -> bytes:
    """Decisions."""
    return chance.randbytes(chance.randrange(200))


def run(seconds: float, seed: int) -> int:
    """Try until the time is over; return how many inputs were tried."""
    chance, until, count = random.Random(seed), time.monotonic() + seconds, 0
    while time.monotonic() < until:
        data = generate(chance)
        try:
            check(data)
        except BaseException:
            sys.stderr.write(f"input: {data.hex()}\n")
            raise
        count += 1
    return count


if __name__ == "__main__":
    tried = run(float(sys.argv[1]) if sys.argv[1:] else 60.0, seed=int(time.time()))
    sys.stdout.write(f"{tried} inputs, no complaint\n")
