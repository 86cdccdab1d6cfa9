"""``fallback=`` from the drop to the end: what the server did not keep is said again, or gone on from, without a seam.

Conversations with models of which all is known, cut at every byte and then at random, in each provider's wire format.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, groupby
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resumable_llm.core import errors
from resumable_llm.core.framing import EVENT_STREAM, JSON_LINES
from resumable_llm.core.machine import Conversation
from resumable_llm.core.model import Fallback, Limits, RequestPlan, Seam
from resumable_llm.dialects import recognise
from tests.conversation import KEY, Answer, Played, World, patient, play, told
from tests.models import PROVIDERS, TEXT, WORDS, Anthropic, Chat, Heard, Mistral, Provider, Said

Ways = tuple[Fallback, ...]

REPLAY: Ways = ("replay",)
CONTINUE: Ways = ("continue",)
BOTH: Ways = ("replay", "continue")
THE_OTHER_FIRST: Ways = ("continue", "replay")
ALL_WAYS = (REPLAY, CONTINUE, BOTH, THE_OTHER_FIRST)
OTHER_TEXT = "An answer is another one, said by lot."
MAX_FRUITLESS = 4
"""Requests, at most, that are made from one place in the answer, under `patient`."""

by_name = pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: provider.name)
in_any_way = pytest.mark.parametrize("ways", ALL_WAYS, ids="-".join)


@dataclass(frozen=True)
class Act:
    """What a server does with one request.

    Attributes:
        cut: So much of the body comes: bytes, or the part of it between 0 and 1; None: all.
        ends: As in `tests.conversation`.
        size: Words in an event.
        deaf: What the request brings along is ignored.
        text: What is said instead of the text that the model knows.
        says: Put behind the cut: a failure in the stream.
    """

    cut: int | float | None = None
    ends: str = "reset"
    size: int = 1
    deaf: bool = False
    text: str = TEXT
    says: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    json: Any = None
    down: bool = False
    lasts: float = 0.0
    echo: bool | None = None


WHOLE = Act(ends="eof")


class Server(World):
    """A model behind a provider's wire format, and what the network does to it; the last act is for all that follow."""

    def __init__(self, provider: Provider, *script: Act) -> None:
        self.provider = provider
        self._acts = script
        self.requests = []
        self.began: list[int] = []
        """Events that the caller had when each request was made."""
        self.said: list[Said] = []
        """Each generation as it would have been without a cut."""
        self.talk: Conversation

    def answer(self, plan: RequestPlan) -> Answer:
        number = len(self.requests)
        assert number < 200, "this goes on for ever"
        act = self._acts[min(number, len(self._acts) - 1)]
        self.requests.append(plan)
        self.began.append(self.talk.report.events)
        if act.down:
            return Answer(down=True)
        if act.json is not None:
            body, headers = json.dumps(act.json).encode(), {"content-type": "application/json", **act.headers}
            return Answer(act.status, headers, body, lasts=act.lasts)
        if act.status != 200:
            return Answer(act.status, act.headers, b"", lasts=act.lasts)
        said = self._say(act, plan, f"gen-{len(self.said) + 1}")
        self.said.append(said)
        whole = b"".join(said.blocks)
        cut = len(whole) if act.cut is None else act.cut if isinstance(act.cut, int) else int(act.cut * len(whole))
        headers = {**self.provider.headers, **act.headers}
        return Answer(200, headers, whole[:cut] + act.says, act.ends, lasts=act.lasts)

    def _say(self, act: Act, plan: RequestPlan, name: str) -> Said:
        assert plan.body is not None
        body = self.provider.body if act.deaf else json.loads(plan.body)
        text = act.text if act.text.startswith(self.provider.begun(body)) else TEXT
        if act.echo is None:
            return self.provider.say(body, name, size=act.size, text=text)
        return self.provider.say(body, name, size=act.size, text=text, echo=act.echo)


@dataclass(frozen=True)
class Story:
    """A conversation with a server, to its end."""

    server: Server
    talk: Conversation
    log: Played
    heard: Heard

    @property
    def error(self) -> errors.ResumableError:
        assert self.log.error is not None, self.log.outcome
        return self.log.error

    @property
    def ways(self) -> list[str]:
        return [drop.way for drop in self.talk.report.drops]

    @property
    def notices(self) -> list[str]:
        return [notice.kind for notice in self.log.notices]


def tell(
    provider: Provider,
    ways: Ways,
    *script: Act,
    chunk: int = 65536,
    slices: bool = True,
    can_continue: bool | None = None,
    limits: Limits | None = None,
    body: dict[str, Any] | None = None,
    whole: bool = True,
) -> Story:
    """Ask, and read to the end; whatever happens, what `_check` says must hold.

    Args:
        provider: Whose model.
        ways: The ways that the caller allows.
        script: What the server does.
        chunk: Bytes that come at once.
        slices: Read as transports do; False: event by event.
        can_continue: As in `resumable_llm.wrap`.
        limits: Of the conversation.
        body: Put into the request.
        whole: What is told at the end is the text that the model knows.
    """
    content = json.dumps({**provider.body, **(body or {})}).encode()
    asked = RequestPlan("POST", provider.url, (("Content-Type", "application/json"),), content)
    dialect = recognise(asked)
    assert dialect is not None
    assert dialect.name == provider.dialect
    talk = Conversation(
        dialect.prepare(asked, KEY),
        dialect,
        patient,
        limits or Limits(),
        key=KEY,
        one_by_one=not slices,
        fallback=ways,
        can_continue=can_continue,
    )
    server = Server(provider, *script)
    server.talk = talk
    log = play(talk, server, chunk, slices=slices)
    payloads = [json.loads(data) for _, data in log.told if data != "[DONE]"]
    heard = provider.hear([each for each in payloads if "error" not in each])
    story = Story(server, talk, log, heard)
    _check(story, len(payloads), whole=whole)
    return story


def _check(story: Story, events: int, *, whole: bool) -> None:
    """All of it under one name, or a typed error that has what was delivered."""
    report, heard, log = story.talk.report, story.heard, story.log
    assert report.attempts == len(story.server.requests)
    assert len(set(heard.names)) <= 1
    assert heard.starts <= 1
    assert not whole or TEXT.startswith(heard.text)
    assert max(len(list(requests)) for _, requests in groupby(story.server.began)) <= MAX_FRUITLESS
    assert story.talk.partial_text() == heard.text
    if log.outcome == "end" and story.talk.upstream_error is None:
        assert log.proved
        assert not whole or heard.text == TEXT
        assert len(heard.ends) == heard.starts == 1
    elif log.outcome == "end":
        assert not heard.ends
    else:
        assert isinstance(log.error, errors.ResumableError)
        assert log.error.partial_text == heard.text
        assert log.error.report == report
        assert not heard.ends, "the answer was complete"
        if events:
            assert story.server.provider.told(log.error.partial) == heard.text
            assert "incomplete_tool_calls" not in log.error.partial
        else:
            assert log.error.partial is None


def blocks_of(provider: Provider) -> list[bytes]:
    return provider.say(provider.body, "gen-1").blocks


def delivered(provider: Provider, cut: int) -> int:
    """Whole events in so many bytes."""
    return sum(1 for end in accumulate(map(len, blocks_of(provider))) if end <= cut)


def behind(provider: Provider, words: int) -> int:
    """The number of bytes behind which so many words have come."""
    found, at = 0, 0
    for block in blocks_of(provider):
        at += len(block)
        found += any(json.dumps(word, ensure_ascii=False)[1:-1] in block.decode() for word in WORDS)
        if found == words:
            return at
    raise AssertionError(words)


# Cut at every byte


@in_any_way
@by_name
def test_cut_at_every_byte(provider: Provider, ways: Ways) -> None:
    blocks = blocks_of(provider)
    step = 1 if len(ways) == 1 and provider.name in ("chat", "anthropic") else 7
    for cut in range(0, len(b"".join(blocks)), step):
        size, slices, chunk = 1 + cut % 3, cut % 2 == 0, 5 if cut % 17 == 0 else 65536
        story = tell(provider, ways, Act(cut), replace(WHOLE, size=size), chunk=chunk, slices=slices)
        report, server = story.talk.report, story.server
        events = delivered(provider, cut)
        assert story.log.outcome == "end"
        if len(server.requests) == 1:
            assert story.heard.ends, "what was cut off was needed"
            assert (report.drops, report.fidelity, report.seams) == ((), "exact", ())
            continue
        (drop,) = report.drops
        assert drop.events == events
        usage = server.said[-1].prompt, server.said[-1].output
        if events == 0:
            assert (drop.way, report.fidelity, report.seams) == ("repeat", "exact", ())
            assert set(story.heard.names) <= {"gen-2"}
            assert story.heard.usage == usage
            continue
        way = ways[0]
        characters = len(provider.hear(_payloads(provider, blocks[:events])).text)
        assert set(story.heard.names) <= {"gen-1"}
        assert story.notices == ["drop", way, "seam", "end"]
        assert drop.way == way
        (seam,) = report.seams
        assert (seam.way, seam.events, seam.characters) == (way, events, characters)
        first, second = server.requests
        assert (first.method, first.url, second.url) == (second.method, first.url, first.url)
        key = first.header("idempotency-key")
        if way == "replay":
            assert (second.body, second.header("idempotency-key")) == (first.body, key)
            assert report.fidelity == "verified"
            assert story.heard.usage == usage
            assert (report.tokens_not_paid_twice, report.seconds_saved) == (0, 0.0)
        else:
            assert key != second.header("idempotency-key")
            assert report.fidelity == "continued"
            assert story.heard.usage == _sum(server)
            assert report.tokens_not_paid_twice > 0 or characters == 0
        assert report.input_tokens_sent_again == usage[0]


def _payloads(provider: Provider, blocks: Sequence[bytes]) -> list[Any]:
    framing = JSON_LINES if provider.name == "ollama" else EVENT_STREAM
    return [json.loads(data) for _, data in told(b"".join(blocks), framing) if data != "[DONE]"]


def _sum(server: Server) -> tuple[int, int]:
    """The tokens of all generations: each prompt, and the words that were delivered of each."""
    last = server.said[-1]
    return sum(each.prompt for each in server.said), last.prompt - server.said[0].prompt + last.output


@by_name
def test_without_fallback_it_is_as_it_was(provider: Provider) -> None:
    whole = b"".join(blocks_of(provider))
    for cut in range(0, len(whole), 3):
        story = tell(provider, (), Act(cut), WHOLE)
        if len(story.server.requests) == 1 and story.log.outcome != "end":
            assert isinstance(story.error, errors.CannotResume)
            assert delivered(provider, cut) > 0
            (drop,) = story.talk.report.drops
            assert drop.way == ""
        assert (story.talk.report.fidelity, story.talk.report.seams) == ("exact", ())


@pytest.mark.xfail(strict=True, reason="characters beyond the first plane are counted as two of those that came again")
@pytest.mark.parametrize("way", ["replay", "continue"])
def test_what_comes_again_is_counted_in_characters(way: Fallback) -> None:
    characters = len(TEXT) - 1
    story = tell(Mistral(), (way,), Act(behind(Mistral(), len(WORDS) - 1)), WHOLE)
    (seam,) = story.talk.report.seams
    assert seam.echoed == seam.characters == characters
