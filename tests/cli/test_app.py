"""The commands as they are typed: options, help, exit codes."""

from __future__ import annotations

import builtins
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

import resumable_llm as rl
import resumable_llm.cli
from resumable_llm.cli import demo, stream
from resumable_llm.cli.app import app
from tests.sockets import wire
from tests.sockets.scripted import Answer, End, Scripted

DATA = "".join(f"{event.data}\n" for event in wire.plain())


def invoke(*arguments: str, stdin: str | None = None) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, arguments, input=stdin)
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[stream.Job]:
    """The jobs that the command `stream` would run."""
    found: list[stream.Job] = []

    def run(job: stream.Job, out: object, err: object) -> int:
        found.append(job)
        return 0

    monkeypatch.setattr(stream, "run", run)
    return found


def test_the_version_is_told() -> None:
    assert invoke("--version") == (0, f"resumable-llm {version('resumable-llm')}\n", "")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--help"], ["demo", "stream", "--version"]),
        (["demo", "-h"], ["--server", "--cuts", "--seed", "--api", "--recorded", "130: Ctrl-C"]),
        (["stream", "-h"], ["--checkpoint", "--resume", "--header", "--fallback", "4: the request was refused"]),
    ],
)
def test_help_tells_options_and_exit_codes(arguments: list[str], told: list[str]) -> None:
    code, out, _ = invoke(*arguments)
    assert code == 0
    assert all(each in out for each in told)
    assert "--svg" not in out


def test_a_job_is_what_was_asked(jobs: list[stream.Job], tmp_path: Path) -> None:
    code, _, _ = invoke(
        *["stream", "http://there/v1", "-X", "PUT", "-d", "{}", "-H", "A: b: c", "--header", "content-TYPE:text/plain"],
        *["--raw", "--checkpoint", str(tmp_path), "--timeout", "7", "--deadline", "9"],
    )
    (job,) = jobs
    assert code == 0
    assert (job.url, job.method, job.body, job.form) == ("http://there/v1", "PUT", b"{}", "raw")
    assert job.headers == (("A", "b: c"), ("content-TYPE", "text/plain"))
    assert job.checkpoint == tmp_path
    assert (job.policy.first_event_timeout, job.policy.event_timeout, job.policy.deadline) == (7, 7, 9)
    assert (job.fallback, job.can_continue) == ((), None)


@pytest.mark.parametrize(
    ("arguments", "ways", "can_continue"),
    [
        (["--fallback", "replay"], ("replay",), None),
        (["--fallback", "continue", "--fallback", "replay"], ("continue", "replay"), None),
        (["--fallback", "replay", "--fallback", "continue", "--fallback", "replay"], ("replay", "continue"), None),
        (["--fallback", "continue", "--can-continue"], ("continue",), True),
        (["--fallback", "continue", "--cannot-continue"], ("continue",), False),
    ],
)
def test_other_generations_are_allowed_in_the_order_given(
    jobs: list[stream.Job], arguments: list[str], ways: tuple[str, ...], can_continue: bool | None
) -> None:
    assert invoke("stream", "http://there", "-d", "{}", *arguments)[0] == 0
    assert [(job.fallback, job.can_continue) for job in jobs] == [(ways, can_continue)]


def test_what_is_not_asked_is_sensible(jobs: list[stream.Job], tmp_path: Path) -> None:
    invoke("stream", "http://there")
    invoke("stream", "http://there", "--data", "{}", "--text")
    invoke("stream", "--resume", str(tmp_path))
    get, post, resumed = jobs
    assert (get.method, get.body, get.headers, get.form) == ("GET", None, (), None)
    assert get.policy.event_timeout == rl.RetryPolicy().event_timeout
    assert (post.method, post.headers, post.form) == ("POST", (("Content-Type", "application/json"),), "text")
    assert (resumed.url, resumed.checkpoint) == (None, tmp_path)


def test_a_body_comes_from_a_file_or_from_stdin(jobs: list[stream.Job], tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(b"\x00from a file")
    invoke("stream", "http://there", "-d", f"@{tmp_path / 'body'}")
    invoke("stream", "http://there", "-d", "@-", stdin="from stdin")
    assert [job.body for job in jobs] == [b"\x00from a file", b"from stdin"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["stream"], "give a URL, or --resume FILE"),
        (["stream", "http://there", "--resume", "f"], "give a URL, or --resume FILE"),
        (["stream", "--resume", "f", "--checkpoint", "g"], "leave out --checkpoint"),
        (["stream", "http://there", "--text", "--raw"], "--text or --raw, not both"),
        (["stream", "http://there", "-H", "nonsense"], "--header takes 'Name: value'"),
        (["stream", "http://there", "-H", ": value"], "--header takes 'Name: value'"),
        (["stream", "http://there", "-d", "@/nowhere"], "No such file"),
        (["stream", "http://there", "--timeout", "0"], "--timeout"),
        (["stream", "http://there", "--fallback", "hope"], "--fallback"),
        (["stream", "--resume", "f", "--fallback", "replay"], "not with --resume"),
        (["stream", "http://there", "--can-continue"], "about --fallback continue"),
        (["stream", "http://there", "--fallback", "replay", "--cannot-continue"], "about --fallback continue"),
        (["demo", "--recorded", "--server", "http://there"], "take one of them"),
        (["demo", "--cuts", "0"], "--cuts"),
        (["demo", "--api", "other"], "--api"),
    ],
)
def test_wrong_usage_is_explained(arguments: list[str], complaint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = invoke(*arguments)
    assert code == 2
    assert out == ""
    assert complaint in err


# In processes of their own


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "resumable_llm", *arguments]


@pytest.mark.slow
def test_stdout_has_the_events_and_nothing_else() -> None:
    with Scripted(Answer(wire.blocks(wire.plain()))) as server:
        done = subprocess.run(command("stream", server.url), capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (0, DATA)
    assert "nothing proves" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="pipes break differently there")
def test_a_reader_that_goes_away_ends_it_quietly() -> None:
    events = [event.block for event in wire.plain()]
    with Scripted(Answer(events[:1], End.RST), rest=lambda _: Answer(events)) as server:
        shell = f"{' '.join(command('stream', server.url))} | true; exit ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode in (1, 3)  # it depends on how soon the pipe breaks
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


# Without the extra


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes a package impossible to import."""
    real = builtins.__import__

    def block(name: str) -> None:
        def fake(wanted: str, *rest: object) -> ModuleType:
            if wanted == name:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])
            return real(wanted, *rest)  # type: ignore[arg-type]

        monkeypatch.delitem(sys.modules, "resumable_llm.cli.app")
        monkeypatch.setattr(builtins, "__import__", fake)

    return block


@pytest.mark.parametrize("missing", ["typer", "rich.console"])
def test_a_missing_extra_is_named(
    missing: str, without: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    without(missing)
    with pytest.raises(SystemExit) as ended:
        resumable_llm.cli.main()
    assert ended.value.code == 2
    assert "pip install 'resumable-llm[cli]'" in capsys.readouterr().err


def test_any_other_missing_package_is_a_bug(without: Callable[[str], None]) -> None:
    without("resumable_llm.policy")
    with pytest.raises(ModuleNotFoundError):
        resumable_llm.cli.main()


def test_main_runs_the_app(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["resumable-llm", "--version"])
    with pytest.raises(SystemExit) as ended:
        resumable_llm.cli.main()
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("resumable-llm ")


# The demo's outcome as an exit code

OUTCOME = demo.Outcome([("bytes identical", "", "yes")], "it was so", identical=True)


@pytest.mark.parametrize("identical", [True, False])
def test_the_demo_ends_with_what_came_of_it(identical: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    outcome = demo.Outcome(OUTCOME.rows, OUTCOME.summary, identical=identical)
    asked: list[demo.Settings] = []

    def run(settings: demo.Settings, audience: object) -> tuple[demo.Reader, demo.Reader, demo.Outcome]:
        asked.append(settings)
        return demo.Reader(), demo.Reader(), outcome

    monkeypatch.setattr(demo, "run", run)
    picture = tmp_path / "demo.svg"
    code, out, _ = invoke(
        "demo", "--recorded", "--cuts", "7", "--seed", "3", "--api", "responses", "--svg", str(picture)
    )
    assert code == (0 if identical else 1)
    assert "it was so" in out
    assert asked == [demo.Settings(recorded=True, cuts=7, seed=3, api="responses")]
    assert "<svg" in picture.read_text()


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [(demo.DemoUnavailable("there is no [model]"), 3, "there is no [model]\n"), (KeyboardInterrupt(), 130, "")],
)
def test_a_demo_that_does_not_end_says_so(
    error: BaseException, code: int, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(settings: demo.Settings, audience: object) -> None:
        raise error

    monkeypatch.setattr(demo, "run", run)
    assert invoke("demo") == (code, "", told)
