"""What every SDK's wrapped client is held to, whatever the SDK: nobody can tell how many connections an answer took.

Knows scripts and servers, no SDK.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

import resumable_llm as rl
from tests.sdks import cuts
from tests.sockets import wire
from tests.sockets.clients import busy, policy
from tests.sockets.scripted import Answer, Request, Scripted

Make = Callable[[str], Any]
"""Makes the SDK's client, or a model on top of it, for a server's URL."""


class Watched:
    """One client wrapped, and what its transport was seen to do."""

    def __init__(self, original: Any) -> None:
        self.notices: list[str] = []
        self.original = original
        self.client = rl.wrap(original, policy=policy(), on_event=lambda notice: self.notices.append(notice.kind))
        assert type(self.client) is type(original)
        assert self.client is not original


def check(
    make: Make,
    run: Callable[[Any], Any],
    events: list[wire.Event],
    http: Any,
    *,
    rest: Callable[[Request], Answer] | None = None,
    cut: Iterable[Answer] | None = None,
) -> None:
    """Cut an answer everywhere: the wrapped client must not notice, and the original must stay unwatched.

    Args:
        make: Makes the client.
        run: Reads one answer with it, and returns all that there is to compare.
        events: The answer.
        http: The HTTP client inside, whose connections must be let go of; None if it shows none.
        rest: The server; default: it resumes by Last-Event-ID.
        cut: Its first answers; default: cut behind and inside of every event.
    """
    rest = rest or cuts.honour(events)
    with Scripted(rest=rest) as whole:
        unbroken = run(make(whole.url))
        assert run(rl.wrap(make(whole.url))) == unbroken, "without a cut"
    assert unbroken, "the script says nothing that this SDK understands"
    for answer in cut or cuts.cut_everywhere(events):
        with cuts.server(answer, rest) as server:
            watched = Watched(make(server.url))
            assert run(watched.client) == unbroken
            _settled(watched, server, http)
            count = len(watched.notices)
            assert run(watched.original) == unbroken
            assert len(watched.notices) == count, "the original goes through our transport"


async def acheck(
    make: Make,
    run: Callable[[Any], Awaitable[Any]],
    events: list[wire.Event],
    http: Any,
    *,
    rest: Callable[[Request], Answer] | None = None,
    cut: Iterable[Answer] | None = None,
) -> None:
    """The same for asynchronous clients; see `check`."""
    rest = rest or cuts.honour(events)
    with Scripted(rest=rest) as whole:
        unbroken = await run(make(whole.url))
        assert await run(rl.wrap(make(whole.url))) == unbroken, "without a cut"
    assert unbroken, "the script says nothing that this SDK understands"
    for answer in cut or cuts.cut_everywhere(events):
        with cuts.server(answer, rest) as server:
            watched = Watched(make(server.url))
            assert await run(watched.client) == unbroken
            _settled(watched, server, http)
            count = len(watched.notices)
            assert await run(watched.original) == unbroken
            assert len(watched.notices) == count, "the original goes through our transport"


def _settled(watched: Watched, server: Scripted, http: Any) -> None:
    assert watched.notices, "the copy does not go through our transport"
    # If only what nobody needs was cut off, nobody asks for it. If no event ends an answer, it is asked for once more.
    assert len(server.requests) in (1, 2, 3)
    assert len(server.requests) > 1 or "drop" not in watched.notices
    assert http is None or not busy(http)


def some_cuts(events: list[wire.Event]) -> Iterator[Answer]:
    """A few, of all kinds, for SDKs that take long to make a client."""
    return itertools.islice(cuts.cut_everywhere(events), 2, None, 7)


def cut_in_the_middle(events: list[wire.Event]) -> Answer:
    """One cut, for tests about something else."""
    return next(answer for number, answer in enumerate(cuts.cut_everywhere(events)) if number == len(events))
