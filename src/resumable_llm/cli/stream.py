"""The command that reads one event stream: events to stdout, the place behind the last one to a checkpoint file.

Knows streams by the public API only, and options only as plain values.
"""

from __future__ import annotations

import codecs
import contextlib
import select
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, TextIO
from urllib.parse import urlsplit

import httpx

import resumable_llm as rl
from resumable_llm.cli.checkpoint_file import CheckpointFile, load
from resumable_llm.core.events import encode_event
from resumable_llm.core.model import Fallback
from resumable_llm.streams import ResumableStream

Form = Literal["text", "data", "raw"]

COMPLETE, INTERRUPTED, USAGE, GONE, REFUSED, CTRL_C = 0, 1, 2, 3, 4, 130
"""Exit codes."""

# In this order: our errors come from a client of the httpx family, and are that family's too.
_CODES: tuple[tuple[tuple[type[BaseException], ...], int], ...] = (
    ((KeyboardInterrupt,), CTRL_C),
    (
        (
            rl.CannotResume,
            rl.ResumeExpired,
            rl.GapDetected,
            rl.ReplayDiverged,
            rl.ContinuationRefused,
            rl.UpstreamFailed,
        ),
        GONE,
    ),
    ((rl.ResumableError, BrokenPipeError), INTERRUPTED),
    ((httpx.HTTPError, httpx.InvalidURL), REFUSED),
)
_EXPECTED = tuple(kind for kinds, _ in _CODES for kind in kinds)
_REFUSAL_CHARACTERS = 500
_CONNECT_ONLY = httpx.Timeout(30, read=None)  # how long a silence may be is the policy's affair
_ANY_EVENT_STREAM = "last_event_id"
_WAYS = {
    "replay": "asking for the whole answer again, to compare it with what was written",
    "trial": "trying whether the model goes on from a partial answer at all",
    "continue": "asking the model to go on from what it has said",
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to read, and how.

    Attributes:
        url: Where the stream is; None to go on from the checkpoint file.
        method: HTTP method.
        headers: Name and value pairs; sent, and written nowhere.
        body: The request's body, if there is one.
        form: What is written of each event; None: its text where the dialect knows it, else its data on a line.
        checkpoint: The file that keeps the place.
        policy: When to try again.
        fallback: What is allowed, in order, where the server did not keep the answer.
        can_continue: Whether the model goes on from a partial answer; None: go by the table of models.
    """

    url: str | None = None
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    form: Form | None = None
    checkpoint: Path | None = None
    policy: rl.RetryPolicy
    fallback: tuple[Fallback, ...] = ()
    can_continue: bool | None = None


def run(job: Job, out: BinaryIO, err: TextIO) -> int:
    """Read a stream to its end.

    Args:
        job: What to read, and how.
        out: Where events go.
        err: Where all else goes.

    Returns:
        The exit code.
    """
    before_line = "\n" if out.isatty() else ""

    def say(line: str) -> None:
        print(f"{before_line}resumable-llm: {line}", file=err, flush=True)

    def hear(notice: rl.Notice) -> None:
        if words := _in_words(notice):
            say(words)

    with httpx.Client(timeout=_CONNECT_ONLY) as client:
        try:
            start, in_doubt = load(job.checkpoint) if job.checkpoint and job.url is None else (None, False)
            file = CheckpointFile(job.checkpoint)
            opening = _open(client, job, start, hear)
        except (OSError, ValueError, httpx.InvalidURL) as error:
            say(f"{job.checkpoint if job.url is None else job.url}: {error}")
            return USAGE
        if start is not None and in_doubt:
            say(f"the reader was killed in the instant of writing event {start.events}: it is taken as written")
        try:
            with contextlib.closing(file), opening as stream:
                file.save(stream.checkpoint)
                for piece in _pieces(stream, job.form):
                    _await_room(out)
                    with file.noting(stream.checkpoint):
                        out.write(piece)
                        out.flush()
                report = stream.report
        except _EXPECTED as error:
            return _explain(error, job, say, kept=file.holds_one or start is not None)
    file.remove()
    for line in _what_it_took(report):
        say(line)
    err.write(before_line)
    return COMPLETE


def _in_words(notice: rl.Notice) -> str:
    """A notice as it is shown; empty if it is not."""
    match notice.kind:
        case "drop":
            return f"dropped after {notice.events} events: {notice.reason}"
        case "wait":
            return f"next attempt in {notice.seconds:.1f} s"
        case "seam":
            return f"joined to the {notice.events} events before: {notice.reason}"
        case kind:
            return _WAYS.get(kind, "")


def _what_it_took(report: rl.Report) -> Iterator[str]:
    if report.drops:
        yield f"{len(report.drops)} drops hidden, {report.seconds_lost:.1f} s lost"
    if report.seams:
        seams = ", ".join(f"{seam.way} behind {seam.characters} characters" for seam in report.seams)
        told = report.input_tokens_sent_again
        yield f"{report.fidelity}: {seams}" + ("" if told is None else f"; {told} tokens were read again")
    if not report.end_proved:
        yield "the connection ended in order, but nothing proves that the answer is complete"


def _open(
    client: httpx.Client, job: Job, start: rl.Checkpoint | None, hear: Callable[[rl.Notice], None]
) -> contextlib.AbstractContextManager[ResumableStream]:
    settings: dict[str, Any] = {"headers": list(job.headers), "policy": job.policy, "on_event": hear}
    if job.body is not None:
        settings["content"] = job.body
    if start is not None:
        return rl.resume_sse(client, start, **settings)
    parts = urlsplit(job.url or "")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError("expected a URL such as https://host/path")
    settings |= {"fallback": job.fallback, "can_continue": job.can_continue}
    return rl.connect_sse(client, job.method, job.url, **settings)


def _pieces(stream: ResumableStream, form: Form | None) -> Iterator[bytes]:
    """What is written, one piece an event; a checkpoint taken at a piece lies behind all that was written."""
    match form or ("data" if stream.report.dialect == _ANY_EVENT_STREAM else "text"):
        case "raw":
            for event in stream:
                name = None if event.event == "message" else event.event
                yield encode_event(event.data, event=name, id=event.id or None, retry=event.retry)
        case "data":
            for event in stream:
                yield event.data.encode() + b"\n"
        case _:
            # Some servers cut a character outside the basic plane in two, half of it in one event and half in the next.
            halves = codecs.getincrementaldecoder("utf-16-le")("replace")
            for text in stream.text_deltas():
                if whole := halves.decode(text.encode("utf-16-le", "surrogatepass")):
                    yield whole.encode()


def _await_room(out: BinaryIO) -> None:
    """Wait until a write will not block, so that it is a matter of microseconds, where the system can tell."""
    with contextlib.suppress(OSError):
        select.select([], [out], [])


def _explain(error: BaseException, job: Job, say: Callable[[str], None], *, kept: bool) -> int:
    """Say why the stream stopped and what can be done; give the exit code."""
    code = next(code for kinds, code in _CODES if isinstance(error, kinds))
    if isinstance(error, httpx.HTTPStatusError):
        answer = error.response
        say(f"refused with {answer.status_code} {answer.reason_phrase}: {answer.text[:_REFUSAL_CHARACTERS]}")
    else:
        say(f"{type(error).__name__}: {error}".removesuffix(": "))
    if code not in (INTERRUPTED, CTRL_C):
        return code
    if kept:
        say(f"to go on: resumable-llm stream --resume {shlex.quote(str(job.checkpoint))}")
    elif job.checkpoint is None:
        say("no checkpoint was kept: with --checkpoint FILE it would be possible to go on")
    else:
        say("the answer had not begun: there is nothing to go on with")
    return code
