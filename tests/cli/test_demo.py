"""The demo: its plan of faults, its verdict, and whole runs on the recording and on the real model."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import resumable_llm as rl
from resumable_llm.cli import demo
from resumable_llm.cli.demo import Api, DemoUnavailable, Drop, Outcome, Reader, Settings, judge, make_plan, run
from resumable_llm.cli.llama import LlamaUnavailable
from resumable_llm.cli.model import ModelUnavailable
from resumable_llm.cli.recorded import RecordedServer, recorded_events
from tests.sockets import wire
from tests.sockets.scripted import Answer, Request, Scripted

RECORDED = {
    api: b"".join(recorded_events(path))
    for api, path in (("chat", "/v1/chat/completions"), ("responses", "/v1/responses"))
}


# The plan


@pytest.mark.parametrize("api", ["chat", "responses"])
@pytest.mark.parametrize("seed", range(20))
def test_each_kind_comes_before_any_comes_again(seed: int, api: Api) -> None:
    plan = make_plan(6, seed, api)
    kinds = [("inside" if fault.at_byte else fault.kind) for fault in plan.faults if fault]
    assert sorted(kinds) == ["end", "fin", "inside", "rst", "stall", "stall_pings"]
    assert kinds[0] not in ("stall", "stall_pings")
    assert plan == make_plan(6, seed, api)


@pytest.mark.parametrize("cuts", [1, 5, 7, 60])
def test_the_faults_fall_within_the_answer(cuts: int) -> None:
    plan = make_plan(cuts, 3, "chat")
    assert len(plan.faults) == cuts
    events = [fault.at_event or round((fault.at_byte or 0) / 235) for fault in plan.faults if fault]
    assert all(events)
    assert sum(events) < len(recorded_events("/v1/chat/completions"))


# The verdict


def reader(received: bytes, **more: Any) -> Reader:
    return Reader(text="text", received=bytearray(received), ended="somehow", **{"complete": True, **more})


def row(outcome: Outcome, name: str) -> tuple[str, str]:
    (found,) = [row[1:] for row in outcome.rows if row[0] == name]
    return found


EVENTS = b"data: 1\n\ndata: 2\n\n"
DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("received", "record"),
    [
        (EVENTS + DONE, EVENTS + DONE),
        (b"data: 1\n\n: ping\n\ndata: 2\n\n", EVENTS),  # the fault proxy's own
    ],
)
def test_identical_is_success(received: bytes, record: bytes) -> None:
    outcome = judge(reader(b"", complete=False), reader(received), record)
    assert outcome.identical
    assert row(outcome, "bytes identical") == ("", "yes")
    assert "byte for byte" in outcome.summary
    assert "each once" in row(outcome, "events delivered")[1]


@pytest.mark.parametrize(
    "received", [b"", EVENTS + b"data: 3\n\n" + DONE, DONE + EVENTS, EVENTS.replace(b"2", b"3") + DONE[:-1]]
)
def test_anything_else_is_a_bug(received: bytes) -> None:
    outcome = judge(reader(b""), reader(received), EVENTS + b"data: 3\n\n")
    assert not outcome.identical
    assert row(outcome, "bytes identical") == ("", "no")
    assert "This is a bug" in outcome.summary
    assert "each once" not in row(outcome, "events delivered")[1]


def test_a_server_without_a_record_leaves_nothing_to_compare() -> None:
    outcome = judge(reader(EVENTS), reader(EVENTS), None)
    assert not outcome.identical
    assert row(outcome, "bytes identical") == ("", "cannot be compared")
    assert "no record" in outcome.summary


def test_an_interrupted_answer_is_no_success_even_if_all_that_came_is_right() -> None:
    drops = [Drop(place=1, what="reset after event 1")]
    outcome = judge(reader(EVENTS), reader(EVENTS, complete=False, drops=drops), EVENTS)
    assert not outcome.identical
    assert "keeps the 4 characters it has" in outcome.summary
    assert row(outcome, "drops")[1] == "1, not all could be hidden"


# Whole runs


class Watcher:
    """An audience that takes notes."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.shown = 0

    def say(self, line: str) -> None:
        self.told.append(line)

    @contextmanager
    def show(self, plain: Reader, wrapped: Reader) -> Iterator[Callable[[], None]]:
        def refresh() -> None:
            self.shown += 1

        yield refresh


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quick recording, and little patience."""
    monkeypatch.setattr(demo, "_PATIENCE_SECONDS", 0.8)
    monkeypatch.setattr("resumable_llm.cli.recorded._EVENT_SECONDS", 0.002)


@pytest.mark.slow
@pytest.mark.openai
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("api", ["chat", "responses"])
def test_the_recording_survives_every_kind_of_fault(api: Api) -> None:
    watcher = Watcher()
    plain, wrapped, outcome = run(Settings(recorded=True, api=api), watcher)
    assert outcome.identical
    assert wrapped.answer == RECORDED[api]
    assert wrapped.complete
    assert not plain.complete
    assert plain.text == wrapped.text[: len(plain.text)] != wrapped.text
    assert plain.ended == "ended in the middle of the answer, with no error"
    assert len(wrapped.drops) >= 6  # more if this machine paused for longer than the patience
    whats = " | ".join(drop.what for drop in wrapped.drops)
    for what in ("clean end", "reset after", "bytes into event", "closed", "silence", "only pings"):
        assert what in whats
    came_back = [drop for drop in wrapped.drops if drop.gap is not None]
    assert len(came_back) >= 6
    assert all(drop.back.startswith("resumed at byte") for drop in came_back)
    assert wrapped.seconds_lost > 1.6
    assert row(outcome, "attempts") == ("1", str(len(wrapped.drops) + 1))
    assert watcher.told[0].startswith("RECORDING: no model runs")
    assert watcher.shown


@pytest.mark.slow
@pytest.mark.openai
def test_a_server_that_keeps_nothing_gets_a_typed_error_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    events = [event.block for event in wire.chat(tuple(f" word{number}" for number in range(300)))]
    keys = []

    def answer(request: Request) -> Answer:
        keys.append(request.headers["authorization"])
        if request.path == "/api/v1/models":
            return Answer.json('{"data": [{"id": "their-model"}]}')
        assert request.path == "/api/v1/chat/completions"
        assert b"penalty" not in request.body
        assert b'"their-model"' in request.body
        return Answer(events)

    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with Scripted(rest=answer) as server:
        plain, wrapped, outcome = run(Settings(server=f"{server.url}/api/v1/"), Watcher())
    assert keys == ["Bearer secret"] * 3
    assert not outcome.identical
    assert wrapped.ended.startswith("CannotResume: ")
    assert wrapped.text == plain.text
    assert wrapped.text.startswith(" word0")
    assert "instead of passing off a part as the whole" in outcome.summary
    assert row(outcome, "the server's own record") == ("", "none")


@pytest.mark.slow
@pytest.mark.openai
@pytest.mark.usefixtures("quick")
def test_a_recorded_server_can_be_named_too() -> None:
    with RecordedServer() as server:
        _, _, outcome = run(Settings(server=server.url, model="any", cuts=1, seed=5), Watcher())
    assert outcome.identical
    assert re.match(
        r"(APIConnectionError|RemoteProtocolError): ", row(outcome, "how it ended")[0]
    )  # openai 3, openai 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (Answer.json("{}", status=401), "set OPENAI_API_KEY"),
        (Answer.json("{}", status=404), "name one with --model"),
        (Answer.json('{"data": []}'), "name one with --model"),
        (Answer.json("hello"), "name one with --model"),
    ],
)
def test_a_server_that_cannot_be_used_is_explained(answer: Answer, complaint: str) -> None:
    with Scripted(answer) as server, pytest.raises(DemoUnavailable, match=complaint):
        run(Settings(server=server.url), Watcher())


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://[", "localhost:1", "https://127.0.0.1:9"])
def test_a_server_that_is_not_there_is_explained(url: str) -> None:
    with pytest.raises(DemoUnavailable, match=re.escape(url)):
        run(Settings(server=url), Watcher())


@pytest.mark.parametrize("error", [ModelUnavailable("no network"), LlamaUnavailable("no package")])
def test_without_a_model_the_recording_is_offered(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(demo, "ensure_model", fail)
    with pytest.raises(DemoUnavailable) as caught:
        run(Settings(), Watcher())
    assert str(error) in str(caught.value)
    assert "resumable-llm demo --recorded" in str(caught.value)


def test_a_missing_sdk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DemoUnavailable, match="pip install openai"):
        run(Settings(), Watcher())


@pytest.mark.slow
@pytest.mark.openai
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_in_a_reader_does_not_pass_for_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(reader: Reader, event: object) -> None:
        raise LookupError("a bug")

    monkeypatch.setattr(demo, "_take", broken)
    with pytest.raises(RuntimeError, match="stopped without saying why"):
        run(Settings(recorded=True), Watcher())


def demo_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "resumable_llm", "demo", *arguments]
    environment = {**os.environ, "COLUMNS": "120"}
    return subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, env=environment)


@pytest.mark.slow
@pytest.mark.openai
@pytest.mark.timeout(300)
def test_the_real_model_is_read_whole() -> None:
    done = demo_command()
    assert done.returncode == 0, done.stderr
    assert re.search(r"bytes identical .* yes", done.stdout)
    hidden = re.search(r"drops .* (\d+), hidden", done.stdout)
    assert hidden
    assert int(hidden[1]) >= 5
    assert "[wrapped] the answer is complete" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


def test_reports_come_from_the_library() -> None:
    report = rl.Report(attempts=7, tokens_not_paid_twice=99)
    outcome = judge(reader(b""), reader(EVENTS, report=report), EVENTS)
    assert row(outcome, "attempts") == ("1", "7")
    assert row(outcome, "tokens not generated again") == ("", "99")
