"""The examples run, each as its reader would run it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import resumable_llm as rl
from resumable_llm.cli.recorded import RecordedServer
from resumable_llm.testing import Fault, FaultPlan, FaultProxy
from tests.sockets import wire
from tests.sockets.scripted import Answer, End, Request, Scripted

EXAMPLES = Path(__file__).parent.parent / "examples"

pytestmark = pytest.mark.slow


@pytest.fixture
def server() -> Iterator[str]:
    with RecordedServer() as recorded:
        yield recorded.url


def run(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **environment})


def test_wrap_openai(server: str) -> None:
    key = {"OPENAI_API_KEY": "none"}
    whole = run("wrap_openai.py", "Hello!", OPENAI_BASE_URL=f"{server}/v1", **key)
    with FaultProxy(server, FaultPlan(Fault.rst(at_event=9), Fault.end(at_byte=3001))) as proxy:
        cut = run("wrap_openai.py", "Hello!", OPENAI_BASE_URL=f"{proxy.url}/v1", **key)
    assert cut.stdout == whole.stdout
    assert len(whole.stdout) > 100
    assert (whole.stderr.count("[drop]"), cut.stderr.count("[drop]")) == (0, 2)


def test_resume_in_another_process(server: str, tmp_path: Path) -> None:
    name, arguments = "resume_in_another_process.py", [f"{server}/v1/chat/completions", str(tmp_path / "place.json")]
    whole = run(name, *arguments).stdout
    first = subprocess.Popen([sys.executable, str(EXAMPLES / name), *arguments], stdout=subprocess.PIPE)
    assert first.stdout is not None
    head = first.stdout.read(40)
    first.kill()
    head += first.stdout.read()
    first.stdout.close()
    first.wait()
    tail = run(name, *arguments).stdout.encode()
    # One event at most may lie between the place that was saved and the text that was printed.
    assert whole.encode().startswith(head)
    assert whole.encode().endswith(tail)
    assert len(whole.encode()) - len(head) - len(tail) <= 20


def test_the_place_can_be_read_whenever_the_program_is_killed(server: str, tmp_path: Path) -> None:
    file = tmp_path / "place.json"
    command = [sys.executable, str(EXAMPLES / "resume_in_another_process.py")]
    saved = set()
    with subprocess.Popen([*command, f"{server}/v1/chat/completions", str(file)], stdout=subprocess.DEVNULL) as program:
        while program.poll() is None:
            with contextlib.suppress(FileNotFoundError):
                saved.add(file.read_text())
    assert len({rl.Checkpoint.from_json(place).events for place in saved}) > 5


def test_write_a_dialect() -> None:
    said = [f'data: {{"answer": "a1", "n": {n}, "text": "{word} "}}\n\n' for n, word in enumerate("abcdefgh")]
    events = [event.encode() for event in [*said, 'data: {"answer": "a1", "n": 8, "done": true}\n\n']]

    def rest(request: Request) -> Answer:
        start = int(request.query["after"]) + 1
        return Answer(events[start : start + 2], End.RST) if start < 6 else Answer(events[start:])

    with Scripted(Answer([*events[:3], events[3][:9]], End.FIN), rest=rest) as server:
        run_of_it = run("write_a_dialect.py", f"{server.url}/answers", "Say it.")
        asked = [request.target for request in server.requests]
    assert run_of_it.stdout == "a b c d e f g h "
    assert asked == ["/answers", "/answers/a1?after=2", "/answers/a1?after=4", "/answers/a1?after=6"]
    assert "4 requests, 9 events delivered" in run_of_it.stderr


def test_continue_after_a_drop() -> None:
    words = [f" {number}" for number in range(60)]
    events = wire.blocks(wire.chat(tuple(words)))

    def go_on(request: Request) -> Answer:
        said = json.loads(request.body)["messages"][-1]
        assert (said["role"], said["content"]) == ("assistant", "".join(words[:19]))  # the first event has the role
        return Answer([*events[:1], *events[20:]])

    with Scripted(Answer(events), go_on) as server:
        run_of_it = run("continue_after_a_drop.py", f"{server.url}/v1/chat/completions", "Count.")
    assert run_of_it.stdout == "".join(words)
    assert "[seam] continue behind 47 characters" in run_of_it.stderr
    assert run_of_it.stderr.endswith("continued, 2 requests, 63 events delivered\ncontinue behind 47 characters\n")


def test_your_own_code() -> None:
    command = [sys.executable, "-m", "pytest", "-q", str(EXAMPLES / "test_your_own_code.py")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
