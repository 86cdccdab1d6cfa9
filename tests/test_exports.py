"""The public names: what is here is a promise, and what is not here may change."""

from __future__ import annotations

import importlib
import importlib.util
import inspect

import httpx_sse
import pytest

import resumable_llm as rl

NAMES = {
    "AsyncHandle",
    "AsyncResumableStream",
    "Checkpoint",
    "Dialect",
    "Drop",
    "Handle",
    "Notice",
    "Report",
    "ResumableStream",
    "RetryPolicy",
    "Seam",
    "aconnect_sse",
    "aresume_sse",
    "connect_sse",
    "inspect",
    "resume_sse",
    "wrap",
}
ERRORS = {
    "ResumableError": "Exception",
    "StreamInterrupted": "ResumableError",
    "RetriesExhausted": "StreamInterrupted",
    "CannotResume": "StreamInterrupted",
    "ResumeExpired": "StreamInterrupted",
    "GapDetected": "StreamInterrupted",
    "ReplayDiverged": "StreamInterrupted",
    "ContinuationRefused": "StreamInterrupted",
    "UpstreamFailed": "StreamInterrupted",
    "UpgradeRefused": "ResumableError",
    "JournalRefused": "ResumableError",
    "ProtocolError": "ResumableError",
    "MalformedEvent": "ProtocolError",
    "EventTooLarge": "ProtocolError",
}
MODULES = {"httpx", "httpx2", "testing"}


def test_all_lists_the_contract() -> None:
    assert set(rl.__all__) == NAMES | set(ERRORS) | MODULES


@pytest.mark.parametrize("name", sorted(NAMES | set(ERRORS)))
def test_every_name_is_documented(name: str) -> None:
    assert inspect.getdoc(getattr(rl, name))


@pytest.mark.parametrize(("name", "base"), ERRORS.items())
def test_the_tree_of_errors(name: str, base: str) -> None:
    (found,) = getattr(rl, name).__bases__
    assert found.__name__ == base


@pytest.mark.parametrize(
    "family",
    [
        "httpx",
        pytest.param(
            "httpx2",
            marks=pytest.mark.skipif(importlib.util.find_spec("httpx2") is None, reason="httpx2 is not installed"),
        ),
    ],
)
def test_each_family_has_both_transports(family: str) -> None:
    ours, theirs = getattr(rl, family), importlib.import_module(family)
    assert issubclass(ours.ResumableTransport, theirs.BaseTransport)
    assert issubclass(ours.AsyncResumableTransport, theirs.AsyncBaseTransport)


def test_testing_has_its_names() -> None:
    assert {"FaultPlan", "FaultProxy"} <= set(rl.testing.__all__)


@pytest.mark.parametrize(("sync", "asynchronous"), [("connect_sse", "aconnect_sse"), ("resume_sse", "aresume_sse")])
def test_twins_take_the_same_arguments(sync: str, asynchronous: str) -> None:
    ours, twin = (inspect.signature(getattr(rl, name)).parameters for name in (sync, asynchronous))
    assert list(ours)[1:] == list(twin)[1:]
    assert [each.default for each in ours.values()] == [each.default for each in twin.values()]


@pytest.mark.parametrize(
    ("sync", "asynchronous"), [("Handle", "AsyncHandle"), ("ResumableStream", "AsyncResumableStream")]
)
def test_twins_have_the_same_names(sync: str, asynchronous: str) -> None:
    ours, twin = (
        {name.removeprefix("a") for name in dir(getattr(rl, each)) if name[0] != "_"} for each in (sync, asynchronous)
    )
    assert ours == twin


def test_connect_sse_begins_like_httpx_sse() -> None:
    def positional(function: object) -> list[str]:
        parameters = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
        return [each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]

    theirs = positional(httpx_sse.connect_sse)
    assert positional(rl.connect_sse)[1 : len(theirs)] == theirs[1:]


def test_what_wrap_can_be_told_is_named() -> None:
    client, *settings = inspect.signature(rl.wrap).parameters.values()
    assert client.kind is client.POSITIONAL_ONLY or client.kind is client.POSITIONAL_OR_KEYWORD
    assert all(each.kind is each.KEYWORD_ONLY for each in settings)
    assert {each.name for each in settings} >= {"policy", "on_event"}
