"""What a response says that is no stream: a poll's answer, the state of the work, a refusal, a redirect.

Pure functions of what came and of what is known. What to do about it the conversation decides.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from resumable_llm.core import errors
from resumable_llm.core.dialect import Dialect, Finished, StillRunning, Unusable
from resumable_llm.core.model import Headers, Progress, RequestPlan, resolve
from resumable_llm.core.recovery import NEVER_ACROSS, Purpose
from resumable_llm.core.transcript import Transcript

TRANSIENT = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Statuses that pass, or may: worth another attempt."""

REDIRECTS = frozenset({301, 302, 303, 307, 308})
"""Statuses that name another place."""

MAX_REFUSAL_BYTES = 64 * 1024
"""How much of a refusal's body is read, in bytes."""

_MAX_REDIRECTS = 5
_EXPIRED = frozenset({404, 410, 416})


@dataclass
class Response:
    """A response, its body as far as it has come."""

    status: int
    headers: Headers
    body: bytearray = field(default_factory=bytearray)

    def is_enough(self, max_bytes: int) -> bool:
        """Whether more of the body would not be read, with a bound on what a poll may answer, in bytes."""
        return len(self.body) > (max_bytes if self.status == 200 else MAX_REFUSAL_BYTES)


@dataclass(frozen=True)
class Unknown:
    """Asked for the state of the work, the server does not tell."""


@dataclass(frozen=True)
class Gone:
    """The stream is not kept any more, but the server may be asked for something else."""


@dataclass(frozen=True)
class Refused:
    """There is no going on from here: the error, and why."""

    error: type[errors.ResumableError]
    why: str


Judgement = StillRunning | Finished | Unknown | Gone | Refused


def judge(
    response: Response, purpose: Purpose, dialect: Dialect, progress: Progress, transcript: Transcript
) -> Judgement:
    """What a response means that is no stream, no redirect, and no failure that passes.

    Args:
        response: With its whole body, or as much of it as is enough.
        purpose: Why the request was made.
        dialect: Reads the body.
        progress: How far the answer has come.
        transcript: What was said of it.
    """
    status, headers, body = response.status, response.headers, bytes(response.body)
    if purpose is Purpose.STATUS:
        state = dialect.read_poll(headers, body, progress, transcript) if status == 200 else None
        return Unknown() if state is None or isinstance(state, Unusable) else state
    polls = not dialect.confirms_by_poll and dialect.poll(progress) is not None
    if status == 200 and polls and purpose is not Purpose.REPEAT:
        answer = dialect.read_poll(headers, body, progress, transcript)
        return Refused(errors.CannotResume, answer.reason) if isinstance(answer, Unusable) else answer
    if status == 200:
        kind = headers.get("content-type", "no content type")
        return Refused(errors.CannotResume, f"the server answered with {kind} instead of an event stream")
    why = f"the server answered {status} when asked for the rest"
    if purpose is Purpose.REPEAT or not (status in _EXPIRED or dialect.gone(status, body)):
        return Refused(errors.CannotResume, why)
    if (polls and purpose is not Purpose.POLL) or (purpose is Purpose.CONFIRM and dialect.confirms_by_poll):
        return Gone()
    return Refused(errors.ResumeExpired, f"{why}: {dialect.keeps}")


def redirected(plan: RequestPlan, response: Response, redirects: int) -> RequestPlan | str:
    """The request that a redirect asks for, or why it is not followed.

    Args:
        plan: The request that was redirected.
        response: The redirect.
        redirects: How many there have been in a row, this one included.
    """
    location = response.headers.get("location", "")
    if not location or redirects > _MAX_REDIRECTS:
        return "the server redirects without end"
    target = resolve(plan.url, location)
    if target is None:
        return f"the server redirects to another origin, and {NEVER_ACROSS}"
    same = response.status in (307, 308) or plan.method == "GET"
    return replace(plan, url=target) if same else plan.get(target)
