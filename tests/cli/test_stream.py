"""The command `stream`: what goes to stdout, what to stderr, what to the file, and what comes after a kill."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import resumable_llm as rl
from resumable_llm.cli.checkpoint_file import load
from resumable_llm.cli.stream import Job, run
from resumable_llm.core.events import EventDecoder
from resumable_llm.core.model import Fallback
from tests.sockets import wire
from tests.sockets.scripted import Answer, End, Request, Scripted

pytestmark = pytest.mark.slow

FAST = rl.RetryPolicy(wait=lambda state: 0.01)
CHAT = json.dumps({"stream": True, "model": "m", "messages": []})
PLAIN = wire.plain()
NUMBERED = wire.numbered(PLAIN)
DATA = "".join(f"{event.data}\n" for event in PLAIN).encode()


def read(job: Job) -> tuple[int, bytes, str]:
    out, err = io.BytesIO(), io.StringIO()
    code = run(job, out, err)
    return code, out.getvalue(), err.getvalue()


def behind(request: Request) -> Answer:
    """What a server answers that goes on behind the Last-Event-ID."""
    done = int(request.headers.get("last-event-id", "gen-7:0").partition(":")[2])
    return Answer(wire.blocks(NUMBERED[done:]))


# What is written


def test_text_is_written_where_the_dialect_knows_it() -> None:
    with Scripted(Answer(wire.blocks(wire.chat()))) as server:
        job = Job(url=f"{server.url}/v1/chat/completions", method="POST", body=CHAT.encode(), policy=FAST)
        assert read(job) == (0, wire.TEXT.encode(), "")


def test_data_is_written_where_it_does_not() -> None:
    with Scripted(Answer(wire.blocks(PLAIN))) as server:
        code, out, err = read(Job(url=server.url, policy=FAST))
    assert (code, out) == (0, DATA)
    assert "nothing proves that the answer is complete" in err


def test_raw_events_can_be_had() -> None:
    blocks = [*wire.blocks(NUMBERED), b"retry: 5\ndata: two\ndata: lines\n\n"]
    with Scripted(Answer(blocks), Answer(status=204)) as server:
        _, out, _ = read(Job(url=server.url, form="raw", policy=FAST))
    assert EventDecoder().feed(out) == EventDecoder().feed(b"".join(blocks))


def test_halves_of_a_character_are_put_together() -> None:
    halves = [{"choices": [{"index": 0, "delta": {"content": half}}]} for half in ("\ud83d", "\ude42!")]
    events = [b"data: %s\n\n" % json.dumps(each).encode() for each in halves] + [b"data: [DONE]\n\n"]
    with Scripted(Answer(events)) as server:
        url = f"{server.url}/v1/chat/completions"
        _, out, _ = read(Job(url=url, method="POST", body=CHAT.encode(), policy=FAST))
    assert out.decode() == "🙂!"


def test_request_goes_out_as_asked() -> None:
    with Scripted(Answer(wire.blocks(PLAIN))) as server:
        read(Job(url=server.url, method="PUT", headers=(("X-Mine", "1"),), body=b"hello", policy=FAST))
        (request,) = server.requests
    assert (request.method, request.headers["x-mine"], request.body) == ("PUT", "1", b"hello")


# Drops


def test_drops_are_told_on_stderr_only() -> None:
    with Scripted(Answer(wire.blocks(NUMBERED[:3]), End.RST), Answer([], status=503), rest=behind) as server:
        code, out, err = read(Job(url=server.url, policy=FAST))
    assert (code, out) == (0, DATA)
    assert "dropped after 3 events: " in err
    assert "next attempt in 0.0 s" in err
    assert "2 drops hidden" in err


@pytest.mark.parametrize("kept", [True, False])
def test_an_interruption_tells_how_to_go_on(tmp_path: Path, kept: bool) -> None:
    file = tmp_path / "a place"
    policy = rl.RetryPolicy(wait=lambda state: 0.0, stop=lambda state: True)
    with Scripted(Answer(wire.blocks(NUMBERED[:3]), End.RST), rest=lambda _: Answer([], status=503)) as server:
        code, out, err = read(Job(url=server.url, checkpoint=file if kept else None, policy=policy))
    assert (code, out) == (1, b"".join(DATA.splitlines(keepends=True)[:3]))
    assert "RetriesExhausted" in err
    if kept:
        assert f"to go on: resumable-llm stream --resume '{file}'" in err
        assert load(file)[0].events == 3
    else:
        assert "with --checkpoint FILE it would be possible to go on" in err
        assert list(tmp_path.iterdir()) == []


def test_an_answer_that_never_began_leaves_nothing_to_go_on_with(tmp_path: Path) -> None:
    policy = rl.RetryPolicy(wait=lambda state: 0.0, stop=lambda state: True)
    with Scripted() as server:
        url = server.url
    code, out, err = read(Job(url=url, checkpoint=tmp_path / "place", policy=policy))
    assert (code, out) == (1, b"")
    assert "the answer had not begun" in err
    assert list(tmp_path.iterdir()) == []


def test_what_nobody_keeps_cannot_be_had_again() -> None:
    with Scripted(Answer(wire.blocks(wire.chat()[:4]), End.FIN)) as server:
        url = f"{server.url}/v1/chat/completions"
        code, out, err = read(Job(url=url, method="POST", body=CHAT.encode(), policy=FAST))
    assert (code, out) == (3, "".join(wire.WORDS[:3]).encode())
    assert "CannotResume" in err
    assert "to go on" not in err


def test_a_refusal_is_shown_with_its_reason() -> None:
    with Scripted(Answer.json('{"error": "no such model"}', status=404)) as server:
        code, out, err = read(Job(url=f"{server.url}/?key=secret", policy=FAST))
    assert (code, out) == (4, b"")
    assert 'refused with 404 Scripted: {"error": "no such model"}' in err
    assert "secret" not in err


def test_an_answer_that_is_no_stream_is_refused() -> None:
    with Scripted(Answer.json("{}")) as server:
        code, out, err = read(Job(url=server.url, policy=FAST))
    assert (code, out) == (4, b"")
    assert "expected an answer of type text/event-stream" in err


# Another generation

CUT = Answer(wire.blocks(wire.chat()[:4]), End.RST)  # behind "An answer is"


def chat_job(server: Scripted, *fallback: Fallback, can_continue: bool | None = None) -> Job:
    url = f"{server.url}/v1/chat/completions"
    body = CHAT.encode()
    return Job(url=url, method="POST", body=body, policy=FAST, fallback=fallback, can_continue=can_continue)


def test_what_was_generated_again_is_compared_and_told() -> None:
    with Scripted(CUT, Answer(wire.blocks(wire.chat()))) as server:
        code, out, err = read(chat_job(server, "replay"))
        bodies = [request.body for request in server.requests]
    assert (code, out) == (0, wire.TEXT.encode())
    assert bodies == [CHAT.encode()] * 2
    said = [
        "dropped after 4 events: ",
        "asking for the whole answer again, to compare it with what was written",
        "joined to the 4 events before: replay behind 12 characters",
        "1 drops hidden, ",
        "verified: replay behind 12 characters\n",
    ]
    assert [line for line in said if line not in err] == []
    assert [err.index(line) for line in said] == sorted(err.index(line) for line in said)


def test_where_the_model_went_on_is_told() -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 6, "total_tokens": 13}
    tail = [*wire.chat(wire.WORDS[3:])[:-1], wire.Event(json.dumps({"choices": [], "usage": usage}))]
    with Scripted(CUT, Answer([*wire.blocks(tail), b"data: [DONE]\n\n"])) as server:
        code, out, err = read(chat_job(server, "continue", can_continue=True))
        sent = json.loads(server.requests[1].body)["messages"]
    assert (code, out) == (0, wire.TEXT.encode())
    assert sent == [{"role": "assistant", "content": "An answer is"}]
    assert "asking the model to go on from what it has said" in err
    assert "joined to the 4 events before: continue behind 12 characters" in err
    assert "continued: continue behind 12 characters; 7 tokens were read again\n" in err


def test_the_second_way_is_taken_where_the_first_is_none() -> None:
    with Scripted(CUT, Answer(wire.blocks(wire.chat()))) as server:
        code, out, err = read(chat_job(server, "continue", "replay", can_continue=False))
    assert (code, out) == (0, wire.TEXT.encode())
    assert "verified: replay behind 12 characters" in err
    assert "asking the model to go on" not in err


@pytest.mark.parametrize(("said", "goes_on"), [(" 47, 48,", True), ("Certainly! 41, 42", False)])
def test_a_model_that_nobody_knows_is_tried_first(said: str, goes_on: bool) -> None:
    trial = Answer.json(json.dumps({"choices": [{"message": {"role": "assistant", "content": said}}]}))
    tail = Answer(wire.blocks(wire.chat(wire.WORDS[3:])))
    with Scripted(CUT, trial, *([tail] if goes_on else [])) as server:
        code, out, err = read(chat_job(server, "continue"))
    assert "trying whether the model goes on from a partial answer at all" in err
    assert (code, out) == ((0, wire.TEXT.encode()) if goes_on else (3, b"An answer is"))
    assert ("ContinuationRefused" in err) != goes_on


@pytest.mark.parametrize(
    ("fallback", "can_continue", "anew", "kind", "why"),
    [
        ("continue", False, "", "ContinuationRefused", "can_continue=False says that the model does not go on"),
        ("continue", True, "An answer is never", "ContinuationRefused", "the model began anew"),
        ("replay", None, "An answer was never", "ReplayDiverged", "the server gave another answer when asked again"),
    ],
)
def test_what_does_not_fit_is_not_written(
    fallback: Fallback, can_continue: bool | None, anew: str, kind: str, why: str
) -> None:
    with Scripted(CUT, Answer(wire.blocks(wire.chat((anew, " the same."))))) as server:
        code, out, err = read(chat_job(server, fallback, can_continue=can_continue))
    assert (code, out) == (3, b"An answer is")
    assert f"{kind}: " in err
    assert why in err
    assert "joined" not in err


# Going on


def test_the_file_is_removed_at_the_end(tmp_path: Path) -> None:
    with Scripted(rest=behind) as server:
        code, _, _ = read(Job(url=server.url, checkpoint=tmp_path / "place", policy=FAST))
    assert code == 0
    assert list(tmp_path.iterdir()) == []


def test_no_secret_reaches_the_file(tmp_path: Path) -> None:
    file = tmp_path / "place"
    policy = rl.RetryPolicy(wait=lambda state: 0.0, stop=lambda state: True)
    with Scripted(Answer(wire.blocks(NUMBERED[:3]), End.RST), rest=lambda _: Answer([], status=503)) as server:
        headers = (("Authorization", "Bearer secret-1"), ("x-api-key", "secret-2"))
        read(Job(url=f"{server.url}/?key=secret-3", headers=headers, body=b"secret-4", checkpoint=file, policy=policy))
    assert "secret" not in file.read_text()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "No such file or directory"),
        ("hello", "this is not a checkpoint"),
        (rl.Checkpoint("of tomorrow", "GET", "http://there").to_json(), "unknown dialect"),
    ],
)
def test_a_file_that_cannot_be_used_is_wrong_usage(tmp_path: Path, content: str | None, complaint: str) -> None:
    file = tmp_path / "place"
    if content is not None:
        file.write_text(content)
    code, out, err = read(Job(checkpoint=file, policy=FAST))
    assert (code, out) == (2, b"")
    assert str(file) in err
    assert complaint in err


@pytest.mark.parametrize(
    "url", ["http://[", "http://host:99999/", "ftp://host/", "localhost:8000/v1", "http:///v1", "h\n"]
)
def test_a_url_that_is_none_is_wrong_usage(url: str) -> None:
    code, _, err = read(Job(url=url, policy=FAST))
    assert code == 2
    assert f"{url}: " in err


class Killed:
    """A reader in a process of its own, reading the first half of an answer; the server then falls silent.

    Args:
        server: Whence.
        file: Its checkpoint.
    """

    def __init__(self, server: Scripted, file: Path) -> None:
        command = [sys.executable, "-m", "resumable_llm", "stream", server.url, "--checkpoint", str(file)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.head = "".join(self.process.stdout.readline() for _ in range(5))

    def by(self, number: int) -> tuple[int, str]:
        self.process.send_signal(number)
        rest, err = self.process.communicate(timeout=20)
        self.head += rest
        return self.process.returncode, err


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_after_a_kill_head_and_tail_are_the_whole(tmp_path: Path, name: str) -> None:
    file = tmp_path / "place"
    number = getattr(signal, name)
    with Scripted(Answer(wire.blocks(NUMBERED[:5]), End.SILENT), rest=behind) as server:
        # It is killed at the very sight of its output, so the kill may fall between the output and the note of it.
        reader = Killed(server, file)
        code, err = reader.by(number)
        assert code == (130 if name == "SIGINT" else -number)
        if name == "SIGINT":
            assert "to go on: resumable-llm stream --resume" in err
        code, tail, err = read(Job(checkpoint=file, policy=FAST))
    assert code == 0
    assert reader.head.encode() + tail == DATA
    assert server.requests[1].headers["last-event-id"] == "gen-7:5"
    assert not file.exists()


def test_a_kill_in_the_instant_of_writing_is_told(tmp_path: Path) -> None:
    file = tmp_path / "place"
    stop = rl.RetryPolicy(wait=lambda state: 0.0, stop=lambda state: True)
    with Scripted(Answer(wire.blocks(NUMBERED[:5]), End.RST), Answer(status=503), rest=behind) as server:
        assert read(Job(url=server.url, checkpoint=file, policy=stop))[0] == 1
        file.write_bytes(file.read_bytes()[:-2] + b"\t\n")
        code, out, err = read(Job(checkpoint=file, policy=FAST))
    assert (code, out) == (0, b"".join(DATA.splitlines(keepends=True)[5:]))
    assert "killed in the instant of writing event 5: it is taken as written" in err


@pytest.mark.skipif(sys.platform == "win32", reason="pipes break differently there")
def test_what_a_lost_reader_did_not_get_comes_again(tmp_path: Path) -> None:
    file = tmp_path / "place"
    ends = os.pipe()
    with open(ends[0], "rb") as reader, open(ends[1], "wb", buffering=0) as writer:  # noqa: PTH123

        def hang_up(request: Request) -> Answer:
            assert reader.readline() == DATA.splitlines(keepends=True)[0]
            reader.close()
            return behind(request)

        with Scripted(Answer(wire.blocks(NUMBERED[:1]), End.RST), hang_up, rest=behind) as server:
            err = io.StringIO()
            assert run(Job(url=server.url, checkpoint=file, policy=FAST), writer, err) == 1
            assert "BrokenPipeError" in err.getvalue()
            assert "to go on" in err.getvalue()
            assert load(file)[0].events == 1
            code, tail, _ = read(Job(checkpoint=file, policy=FAST))
    assert code == 0
    assert tail == b"".join(DATA.splitlines(keepends=True)[1:])


class Terminal(io.BytesIO):
    """Output that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_on_a_terminal_comments_begin_on_a_line_of_their_own() -> None:
    with Scripted(Answer(wire.blocks(wire.chat()))) as server:
        out, err = Terminal(), io.StringIO()
        url = f"{server.url}/v1/chat/completions"
        assert run(Job(url=url, method="POST", body=CHAT.encode(), policy=FAST), out, err) == 0
    assert err.getvalue() == "\n"
