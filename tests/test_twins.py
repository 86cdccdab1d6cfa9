"""Sync and async are one program in two colours, and so are the two HTTP families: held equal by statements."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

from resumable_llm import streams
from resumable_llm.drivers import async_driver, handle, sync_driver
from resumable_llm.transports import httpx as httpx_transports
from resumable_llm.transports import journal, recording, relayed

# Where the two colours must differ, and why.
ELSEWHERE = {
    "exchange": "the socket, which wakes a blocked thread, is of no use to a task",
    "close": "an asynchronous generator must be ended by hand",
    "__iter__": "who abandons an iteration of an asynchronous generator ends it",
    "__anext__": "the same",
    "_recorded": "an asynchronous generator must be ended by hand",
    "_do": "what waits for another machine is done in a thread, where there is a loop that must go on",
    "_place": "threads can share what tasks of another loop cannot",
    "_address": "what blocks is done in a thread, where there is a loop that must go on",
}
IN_DRIVERS = {
    "__init__": "how a wait is woken: a threading.Event, or a flag and an anyio.Event made in the loop",
    "close": "a blocked thread is woken by shutting its socket; a task is woken by closing the stream",
    "_perform": "how to wait",
    "_drain": "how to bound the wait: a timer that shuts the socket, or a cancel scope",
    "_let_go": "a cancelled task must still let go",
    "slices": "a flag or an event says that it is closed; an async generator cannot return a value",
    "_failed": "the same",
    "_end_of_body": "the same",
    "begin": "the same",
    "_body": "an iterator of nothing",
    "cancel": "a cancelled task must still tell the server",
    "pour": "only an event loop can call without a task; a thread that reads is there anyway",
    "abandon": "the same",
}

TO_SYNC = [
    (r"\basync (def|for|with) ", r"\1 "),
    (r"\bawait ", ""),
    (r"\bAsync(\w)", r"\1"),
    (r"_async_", "_"),
    (r"\banyio\.Lock\b", "threading.Lock"),
    (r"\basync_exchange", "exchange"),
    (r"\b(a)(close|read|connect_sse|resume_sse|iter_sse|iter_bytes|next|iter)\b", r"\2"),
    (r"__a(iter|enter|exit)__", r"__\1__"),
]


def methods(module: ModuleType, classes: str) -> dict[str, str]:
    """The functions of the classes whose name matches, by class and name: normalised source without docstrings."""
    found = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if not re.fullmatch(classes, getattr(node, "name", "")):
            continue
        parts = node.body if isinstance(node, ast.ClassDef) else [node]
        owner = node.name.replace("Async", "").replace("Sync", "") + "." if isinstance(node, ast.ClassDef) else ""
        for part in parts:
            if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef)):
                if ast.get_docstring(part):
                    part.body = part.body[1:]
                name, source = part.name, ast.unparse(part)
                for pattern, replacement in TO_SYNC:
                    name, source = re.sub(pattern, replacement, name), re.sub(pattern, replacement, source)
                found[owner + name] = source
    return found


PAIRS = [
    (sync_driver, "SyncDriver", async_driver, "AsyncDriver"),
    (handle, "Handle", handle, "AsyncHandle"),
    (streams, "ResumableStream", streams, "AsyncResumableStream"),
    (streams, "(connect|resume)_sse", streams, "a(connect|resume)_sse"),
    (journal, "Journal", journal, "AsyncJournal"),
    (recording, "Recording|Reader|_recorded", recording, "Async(Recording|Reader)|_async_recorded"),
    (
        httpx_transports,
        "ResumableTransport|_Body|_response|exchange",
        httpx_transports,
        "AsyncResumableTransport|_AsyncBody|_async_response|async_exchange",
    ),
    (relayed, "Way", relayed, "AsyncWay"),
]


def differing(sync: ModuleType, sync_classes: str, other: ModuleType, other_classes: str) -> set[str]:
    """The names of the functions that are not twins, without their classes."""
    one, two = methods(sync, sync_classes), methods(other, other_classes)
    assert one, "no such class"
    one = {name: source.replace("Sync", "") for name, source in one.items()}
    two = {name: source.replace("Async", "").replace("sync=False", "sync=True") for name, source in two.items()}
    return {name.rpartition(".")[2] for name in {*one, *two} if one.get(name) != two.get(name)}


@pytest.mark.parametrize(("sync", "sync_classes", "other", "other_classes"), PAIRS)
def test_colours_are_twins(sync: ModuleType, sync_classes: str, other: ModuleType, other_classes: str) -> None:
    allowed = IN_DRIVERS if sync is sync_driver else ELSEWHERE
    assert differing(sync, sync_classes, other, other_classes) <= {*allowed}


def test_exceptions_are_still_needed() -> None:
    assert differing(*PAIRS[0]) == {*IN_DRIVERS}
    assert set().union(*(differing(*pair) for pair in PAIRS[1:])) == {*ELSEWHERE}


def test_families_are_twins() -> None:
    # Read, not imported: httpx2 needs Python 3.11.
    ours = Path(httpx_transports.__file__).read_text(encoding="utf-8").splitlines()
    theirs = Path(httpx_transports.__file__).with_name("httpx2.py").read_text(encoding="utf-8").splitlines()
    differing = [(one, two) for one, two in zip(ours, theirs, strict=True) if one != two]
    assert differing == [
        ('"""Transports for httpx.', '"""Transports for httpx2.'),
        (
            "The file for httpx2 differs in the import alone; a test holds the two equal.",
            "The file for httpx differs in the import alone; a test holds the two equal.",
        ),
        ("import httpx as http", "import httpx2 as http"),
    ]
