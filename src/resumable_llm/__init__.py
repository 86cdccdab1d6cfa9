"""resumable-llm: LLM token streams that survive dropped connections.

    import resumable_llm as rl
    client = rl.wrap(OpenAI())

An answer is a log; a connection is only a reader of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from resumable_llm.core.dialect import Dialect
from resumable_llm.core.errors import (
    CannotResume,
    ContinuationRefused,
    EventTooLarge,
    GapDetected,
    JournalRefused,
    MalformedEvent,
    ProtocolError,
    ReplayDiverged,
    ResumableError,
    ResumeExpired,
    RetriesExhausted,
    StreamInterrupted,
    UpgradeRefused,
    UpstreamFailed,
)
from resumable_llm.core.model import Checkpoint, Drop, Notice, Report, Seam
from resumable_llm.drivers.handle import AsyncHandle, Handle
from resumable_llm.policy import RetryPolicy
from resumable_llm.streams import (
    AsyncResumableStream,
    ResumableStream,
    aconnect_sse,
    aresume_sse,
    connect_sse,
    resume_sse,
)
from resumable_llm.transports import httpx
from resumable_llm.wrapping import inspect, wrap

if TYPE_CHECKING:
    from resumable_llm import testing
    from resumable_llm.transports import httpx2

__version__ = "0.1.0"

__all__ = [
    "AsyncHandle",
    "AsyncResumableStream",
    "CannotResume",
    "Checkpoint",
    "ContinuationRefused",
    "Dialect",
    "Drop",
    "EventTooLarge",
    "GapDetected",
    "Handle",
    "JournalRefused",
    "MalformedEvent",
    "Notice",
    "ProtocolError",
    "ReplayDiverged",
    "Report",
    "ResumableError",
    "ResumableStream",
    "ResumeExpired",
    "RetriesExhausted",
    "RetryPolicy",
    "Seam",
    "StreamInterrupted",
    "UpgradeRefused",
    "UpstreamFailed",
    "aconnect_sse",
    "aresume_sse",
    "connect_sse",
    "httpx",
    "httpx2",
    "inspect",
    "resume_sse",
    "testing",
    "wrap",
]


def __getattr__(name: str) -> object:
    # httpx2 is an extra, and testing is for tests: neither is imported before somebody wants it.
    import importlib

    if name == "httpx2":
        return importlib.import_module("resumable_llm.transports.httpx2")
    if name == "testing":
        return importlib.import_module("resumable_llm.testing")
    raise AttributeError(f"module 'resumable_llm' has no attribute {name!r}")
