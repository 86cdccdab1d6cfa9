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
from resumable_llm.core.fallback import BEGINS_ANEW, Habits
from resumable_llm.core.framing import EVENT_STREAM, JSON_LINES
from resumable_llm.core.machine import Conversation
from resumable_llm.core.model import Fallback, Limits, RequestPlan
from resumable_llm.core.seam import MIN_ECHO
from resumable_llm.dialects import recognise
from resumable_llm.dialects.openai_chat import OpenAIChat
from tests.conversation import KEY, Answer, Played, World, patient, play, told
from tests.models import OTHER_TEXT, PROVIDERS, TEXT, WORDS, Anthropic, Chat, Heard, Mistral, Ollama, Provider, Said

Ways = tuple[Fallback, ...]

REPLAY: Ways = ("replay",)
CONTINUE: Ways = ("continue",)
BOTH: Ways = ("replay", "continue")
THE_OTHER_FIRST: Ways = ("continue", "replay")
ALL_WAYS = (REPLAY, CONTINUE, BOTH, THE_OTHER_FIRST)
MAX_FRUITLESS = 4
"""Requests, at most, that are made from one place in the answer, under `patient`."""

by_name = pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: provider.name)
in_any_way = pytest.mark.parametrize("ways", ALL_WAYS, ids="-".join)


@dataclass(frozen=True)
class Act:
    """What a server does with one request.

    Attributes:
        cut: So much of the body comes: bytes, or the part of it between 0 and 1; None: all.
        pieces: So many pieces of text come, and then nothing more; None: as ``cut`` says.
        ends: As in `tests.conversation`.
        size: Words in an event.
        deaf: What the request brings along is ignored.
        text: What is said instead of the text that the model knows.
        says: A failure in the stream, behind the last whole event before the cut.
        json: A body that is no stream.
        down: There is no connection at all.
        lasts: So many seconds pass before it ends.
    """

    cut: int | float | None = None
    pieces: int | None = None
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
    """Whether what the request brings along is said again; None: as the provider does it."""


WHOLE = Act(ends="eof")


class Server(World):
    """A model behind a provider's wire format, and what the network does to it; the last act is for all that follow."""

    def __init__(self, provider: Provider, *script: Act) -> None:
        self.provider = provider
        self._acts = list(script)
        self.requests = []
        self.began: list[int] = []
        """Events that the caller had when each request was made, but for trials."""
        self.said: list[Said] = []
        """Each generation as it would have been without a cut."""
        self.trials: list[Act] = []
        """What is done with requests that try the model."""
        self.talk: Conversation

    def answer(self, plan: RequestPlan) -> Answer:
        self.requests.append(plan)
        assert len(self.requests) < 200, "this goes on for ever"
        if self.provider.is_tried and json.loads(plan.body or b"{}").get("stream") is not True:
            act = self.trials.pop(0)
        else:
            act = self._acts.pop(0) if len(self._acts) > 1 else self._acts[0]
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
        if act.pieces is not None:
            cut = len(b"".join(said.blocks[: said.opening + act.pieces]))
        elif act.says:
            cut = max(end for end in accumulate(map(len, said.blocks), initial=0) if end <= cut)
        headers = {**self.provider.headers, **act.headers}
        return Answer(200, headers, whole[:cut] + act.says, act.ends, lasts=act.lasts)

    def _say(self, act: Act, plan: RequestPlan, name: str) -> Said:
        assert plan.body is not None
        body = self.provider.body if act.deaf else json.loads(plan.body)
        begun = self.provider.begun(body)
        text = next(text for text in (act.text, TEXT, OTHER_TEXT) if text.startswith(begun))
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
    trials: Sequence[Act] = (),
    habits: Habits | None = None,
    limits: Limits | None = None,
    body: dict[str, Any] | None = None,
    texts: Sequence[str] = (TEXT,),
    server: type[Server] = Server,
) -> Story:
    """Ask, and read to the end; whatever happens, what `_check` says must hold.

    Args:
        provider: Whose model.
        ways: The ways that the caller allows.
        script: What the server does.
        chunk: Bytes that come at once.
        slices: Read as transports do; False: event by event.
        can_continue: As in `resumable_llm.wrap`; None without ``trials``: True if the model would have to be tried.
        trials: What the server does with trials.
        habits: What is known of models that were tried.
        limits: Of the conversation.
        body: Put into the request.
        texts: What may be told in the end.
        server: The kind of server.
    """
    content = json.dumps({**provider.body, **(body or {})}).encode()
    asked = RequestPlan("POST", provider.url, (("Content-Type", "application/json"),), content)
    dialect = recognise(asked)
    assert dialect is not None
    assert dialect.name == provider.dialect
    if can_continue is None and provider.is_tried and not trials and habits is None:
        can_continue = True
    talk = Conversation(
        dialect.prepare(asked, KEY),
        dialect,
        patient,
        limits or Limits(),
        key=KEY,
        one_by_one=not slices,
        fallback=ways,
        can_continue=can_continue,
        habits=habits,
    )
    world = server(provider, *script)
    world.talk, world.trials = talk, list(trials)
    log = play(talk, world, chunk, slices=slices)
    payloads = [json.loads(data) for _, data in log.told if data != "[DONE]"]
    heard = provider.hear([each for each in payloads if "error" not in each])
    story = Story(world, talk, log, heard)
    _check(story, len(payloads), texts)
    return story


def _check(story: Story, events: int, texts: Sequence[str]) -> None:
    """All of it under one name, or a typed error that has what was delivered."""
    report, heard, log = story.talk.report, story.heard, story.log
    assert report.attempts == len(story.server.requests)
    assert len(set(heard.names)) <= 1
    assert heard.starts <= 1
    assert any(text.startswith(heard.text) for text in texts)
    assert max(len(list(requests)) for _, requests in groupby(story.server.began)) <= MAX_FRUITLESS
    assert story.talk.partial_text() == heard.text
    if log.outcome == "end" and story.talk.upstream_error is None:
        assert log.proved
        assert heard.text in texts
        assert len(heard.ends) == heard.starts == 1
    elif log.outcome == "end":
        pass  # the server's failure was told, perhaps behind the last word
    else:
        assert isinstance(log.error, errors.ResumableError)
        assert log.error.partial_text == heard.text
        assert log.error.report == report
        assert not heard.ends, "the answer was complete"
        told = story.server.provider.told(log.error.partial) if events else log.error.partial
        assert told == (heard.text if events else None)


def blocks_of(provider: Provider) -> list[bytes]:
    return provider.say(provider.body, "gen-1").blocks


def delivered(provider: Provider, cut: int) -> int:
    """Whole events in so many bytes."""
    return sum(1 for end in accumulate(map(len, blocks_of(provider))) if end <= cut)


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


# What comes between


@st.composite
def acts(draw: st.DrawFn, provider: Provider) -> Act:
    what = draw(st.sampled_from(["says"] * 6 + ["fails", "passes", "busy", "refuses", "down", "json", "deaf", "other"]))
    cut, ends = draw(st.floats(0, 1)), draw(st.sampled_from(["reset", "eof"]))
    said = Act(cut, ends=ends, size=draw(st.integers(1, 3)))
    if what == "fails":
        return replace(said, says=provider.lasting, ends="eof")
    if what == "passes":
        return replace(said, says=provider.transient, ends="eof")
    if what == "deaf":
        return replace(said, deaf=True)
    if what == "other":
        return replace(said, text=OTHER_TEXT)
    statuses = {"busy": Act(status=503, headers={"retry-after": "1"}), "refuses": Act(status=400, json={"error": {}})}
    return {**statuses, "down": Act(down=True), "json": Act(json={"choices": []})}.get(what, said)


@pytest.mark.parametrize("ways", [*ALL_WAYS, ()], ids="-".join)
@by_name
def test_whatever_comes_between(provider: Provider, ways: Ways) -> None:
    """What holds of every conversation is asserted where it is told; here is chance."""

    @settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(
        st.floats(0, 1),
        st.lists(acts(provider), max_size=7),
        st.sampled_from([23, 65536]),
        st.booleans(),
    )
    def check(cut: float, script: list[Act], chunk: int, slices: bool) -> None:
        texts = (TEXT, OTHER_TEXT)
        story = tell(provider, ways, Act(cut), *script, WHOLE, chunk=chunk, slices=slices, texts=texts)
        report = story.talk.report
        assert set(story.ways) <= {"repeat", "", *ways}
        assert [seam.way for seam in report.seams if seam.way not in ways] == []
        assert report.fidelity == _fidelity([seam.way for seam in report.seams])
        assert sum(kind == "seam" for kind in story.notices) <= len(report.seams)

    check()


def _fidelity(ways: Sequence[str]) -> str:
    return "continued" if "continue" in ways else "verified" if ways else "exact"


@by_name
def test_gone_on_from_again_and_again(provider: Provider) -> None:
    """Each generation says two words more, and the last one the rest."""
    story = tell(provider, CONTINUE, *[Act(pieces=2)] * 3, WHOLE)
    report, server = story.talk.report, story.server
    assert story.ways == ["continue"] * 3
    assert report.fidelity == "continued"
    assert [seam.characters for seam in report.seams] == [len("".join(WORDS[: 2 * count])) for count in (1, 2, 3)]
    assert [plan.header("idempotency-key") for plan in server.requests] == [KEY, f"{KEY}-2", f"{KEY}-3", f"{KEY}-4"]
    assert story.heard.usage == _sum(server)
    assert story.notices == [*["drop", "continue", "seam"] * 3, "end"]


@by_name
def test_repeated_until_it_is_whole(provider: Provider) -> None:
    story = tell(provider, REPLAY, *(Act(pieces=count) for count in (2, 5, 4, 7)), WHOLE)
    report = story.talk.report
    assert story.ways == ["replay"] * 4
    assert story.log.waits == [1.0], "of one repeat nothing was new"
    assert (report.fidelity, report.tokens_not_paid_twice) == ("verified", 0)
    assert report.replayed > 0
    assert len({plan.body for plan in story.server.requests}) == 1
    assert {plan.header("idempotency-key") for plan in story.server.requests} == {KEY}


def test_one_way_after_the_other() -> None:
    """A repeat that diverges leaves the text as it was, and the model can go on from that."""
    story = tell(Chat(), BOTH, Act(pieces=5), replace(WHOLE, text=OTHER_TEXT), WHOLE)
    assert story.ways == ["replay", "continue"]
    assert [seam.way for seam in story.talk.report.seams] == ["continue"]
    assert story.talk.report.fidelity == "continued"


def test_first_the_one_and_then_the_other() -> None:
    """A continuation that broke off is repeated like any other answer, and cannot come again."""
    story = tell(Chat(), THE_OTHER_FIRST, Act(pieces=3), Act(pieces=2), Act(status=400), WHOLE)
    assert story.ways == ["continue", "continue", "replay"]
    assert story.talk.report.fidelity == "continued", "the worse of the two"


@in_any_way
def test_a_server_without_room(ways: Ways) -> None:
    busy = Act(status=503, headers={"retry-after": "7"})
    story = tell(Chat(), ways, Act(pieces=3), busy, busy, WHOLE)
    assert story.log.waits == [7.0, 7.0]
    assert story.ways == [ways[0]] * 3
    assert [drop.backoff for drop in story.talk.report.drops] == [0.0, 7.0, 7.0]
    assert story.talk.report.attempts == 4


@pytest.mark.parametrize(
    ("way", "said", "error", "why"),
    [
        ("replay", Act(status=400), errors.CannotResume, "the server answered 400 when asked to replay"),
        ("replay", Act(json={}), errors.CannotResume, "the server answered 200 when asked to replay"),
        ("replay", Act(status=301), errors.CannotResume, "the server answered 301 when asked to replay"),
        ("replay", Act(text=OTHER_TEXT), errors.ReplayDiverged, "gave another answer when asked again"),
        ("replay", Act(text="An answer is a"), errors.ReplayDiverged, "another answer"),
        ("continue", Act(status=400), errors.ContinuationRefused, "the server answered 400 when asked to continue"),
        ("continue", Act(json={}), errors.ContinuationRefused, "the server answered 200 when asked to continue"),
        ("continue", Act(status=204), errors.ContinuationRefused, "the server answered 204 when asked to continue"),
        ("continue", Act(deaf=True), errors.ContinuationRefused, "the model began anew"),
        ("continue", Act(echo=True), errors.ContinuationRefused, "the model began anew"),
    ],
)
def test_what_does_not_fit(way: Fallback, said: Act, error: type[errors.ResumableError], why: str) -> None:
    cut = Act(pieces=5)
    story = tell(Chat(), (way,), cut, replace(said, ends="eof"), WHOLE)
    assert type(story.error) is error
    assert why in str(story.error)
    assert len(story.server.requests) == 2
    assert story.heard.text == "".join(WORDS[:5])
    assert story.talk.report.seams == ()
    assert story.ways == [way, ""]
    other: Ways = ("replay", "continue") if way == "replay" else ("continue", "replay")
    story = tell(Chat(), other, cut, replace(said, ends="eof"), WHOLE)
    assert story.log.outcome == "end"
    assert story.ways == list(other)
    assert [seam.way for seam in story.talk.report.seams] == [other[1]]


@pytest.mark.parametrize("ways", [BOTH, THE_OTHER_FIRST], ids="-".join)
def test_the_last_refusal_is_told(ways: Ways) -> None:
    story = tell(Chat(), ways, Act(pieces=5), Act(status=400))
    assert type(story.error) is (errors.ContinuationRefused if ways is BOTH else errors.CannotResume)
    assert story.ways == [*ways, ""]


def test_the_other_generation_is_sought_where_the_server_says() -> None:
    moved = Act(status=307, headers={"location": "/elsewhere"})
    story = tell(Chat(), REPLAY, Act(pieces=5), moved, WHOLE)
    assert [plan.path for plan in story.server.requests] == ["/v1/chat/completions"] * 2 + ["/elsewhere"]
    away = Act(status=307, headers={"location": "https://other.example/"})
    story = tell(Chat(), REPLAY, Act(pieces=5), away, WHOLE)
    assert type(story.error) is errors.CannotResume
    assert "another origin" in str(story.error)


@pytest.mark.parametrize("words", range(1, len(WORDS)))
def test_what_is_said_again_is_taken_off(words: int) -> None:
    """Where that is the server's habit, however short; where nothing is known of it, if it is too long for chance."""
    for provider, known in ((Mistral(), True), (Chat(), False)):
        echo = replace(WHOLE, echo=True, size=2)
        story = tell(provider, CONTINUE, Act(pieces=words), echo, chunk=11)
        if known or len("".join(WORDS[:words]).rstrip()) >= MIN_ECHO:
            assert story.log.outcome == "end"
            assert story.talk.report.seams[0].echoed > 0
            assert story.heard.usage == _sum(story.server)
        else:
            assert type(story.error) is errors.ContinuationRefused


@by_name
def test_a_server_that_does_not_listen(provider: Provider) -> None:
    """It says all of it again, under its own name: of that nothing may be delivered twice."""
    for words in range(1, len(WORDS)):
        story = tell(provider, CONTINUE, Act(pieces=words), replace(WHOLE, deaf=True))
        if story.log.outcome != "end":
            assert type(story.error) is errors.ContinuationRefused
            assert story.heard.text == "".join(WORDS[:words])


@in_any_way
def test_what_was_refused_is_not_asked_for_under_another_name(ways: Ways) -> None:
    """Where nothing was delivered, the first request, a repeat and a continuation are one and the same."""
    story = tell(Chat(), ways, Act(0), Act(status=400), WHOLE)
    assert type(story.error) is errors.CannotResume
    assert story.ways == ["repeat"]
    assert len(story.server.requests) == 2


@in_any_way
def test_nothing_is_generated_behind_the_end(ways: Ways) -> None:
    """Where all was said a drop is none, and a failure that would pass is the caller's as ever."""
    *_, usage, done = blocks_of(Chat())
    for late in (usage + done, done):
        cut = len(b"".join(blocks_of(Chat()))) - len(late)
        assert tell(Chat(), ways, Act(cut), WHOLE).ways == []
        content = json.dumps({**Chat.body}).encode()
        for allowed in ((), ways):
            talk = Conversation(
                RequestPlan("POST", Chat.url, (), content), OpenAIChat(), patient, Limits(), fallback=allowed
            )
            server = Server(Chat(), Act(cut, says=Chat.transient, ends="eof"), WHOLE)
            server.talk = talk
            log = play(talk, server, 65536, slices=True)
            assert (log.outcome, talk.upstream_error, len(server.requests)) == ("end", "overloaded", 1)


def test_a_closed_block_is_not_said_again() -> None:
    """The model may go on with a block of its own; one that says the first block again did not listen."""
    for size in (1, 5):
        said = Anthropic().say(Anthropic.body, "gen-1", size=size)
        cut = Act(len(b"".join(said.blocks[:-2])), size=size)
        story = tell(Anthropic(), CONTINUE, cut, replace(WHOLE, deaf=True))
        assert type(story.error) is errors.ContinuationRefused
        assert story.heard.text == TEXT


# Enough is enough


@by_name
def test_no_more_attempts_than_the_policy_has(provider: Provider) -> None:
    """A server that always gets as far: a repeat of that brings nothing."""
    cut = Act(pieces=4)
    story = tell(provider, REPLAY, cut)
    assert type(story.error) is errors.RetriesExhausted
    assert story.log.waits == [1.0, 2.0, 4.0]
    assert story.talk.report.attempts == 1 + MAX_FRUITLESS
    down = tell(provider, CONTINUE, cut, Act(down=True))
    assert type(down.error) is errors.RetriesExhausted
    assert isinstance(down.error.__cause__, ConnectionError | Exception)
    assert down.talk.report.attempts == 1 + MAX_FRUITLESS


@pytest.mark.parametrize("way", ["replay", "continue"])
def test_the_deadline_holds_for_all_generations(way: Fallback) -> None:
    cut = replace(Act(pieces=4), lasts=3.0)
    story = tell(Chat(), (way,), cut, Act(down=True), limits=Limits(deadline=5.0))
    assert type(story.error) is errors.RetriesExhausted
    assert "deadline" in str(story.error)
    assert story.log.seconds < 5.0
    late = tell(Chat(), (way,), replace(cut, lasts=6.0), WHOLE, limits=Limits(deadline=5.0))
    assert type(late.error) is errors.RetriesExhausted
    assert len(late.server.requests) == 1


# Failures that the server reports in the stream


@in_any_way
@by_name
def test_a_failure_that_passes(provider: Provider, ways: Ways) -> None:
    for words in (1, 4, len(WORDS) - 1):
        failing = replace(WHOLE, pieces=words, says=provider.transient)
        story = tell(provider, ways, failing, WHOLE)
        assert story.ways == [ways[0]]
        assert story.talk.upstream_error is None
        assert "reported in the stream" in story.talk.report.drops[0].reason


@by_name
def test_a_failure_that_passes_and_returns(provider: Provider) -> None:
    """When no attempt is left the caller gets what the server said."""
    failing = replace(WHOLE, pieces=4, says=provider.transient)
    story = tell(provider, REPLAY, failing)
    assert story.log.outcome == "end"
    assert story.talk.upstream_error
    assert story.log.slices[-1].endswith(provider.transient)
    assert story.talk.report.attempts == 1 + MAX_FRUITLESS


@in_any_way
@by_name
def test_a_failure_that_stays(provider: Provider, ways: Ways) -> None:
    failing = replace(WHOLE, pieces=4, says=provider.lasting)
    story = tell(provider, ways, failing, WHOLE)
    assert len(story.server.requests) == 1
    assert story.talk.upstream_error
    later = tell(provider, ways, Act(pieces=3), failing, WHOLE)
    assert later.ways == [ways[0]]
    assert later.talk.upstream_error
    assert later.log.slices[-1].endswith(provider.lasting)


@by_name
def test_without_fallback_failures_are_the_callers(provider: Provider) -> None:
    story = tell(provider, (), replace(WHOLE, pieces=4, says=provider.transient), WHOLE)
    assert len(story.server.requests) == 1
    assert story.talk.upstream_error


class Failing(Chat):
    """Whose second generation ends with an error for a reason, behind so many words."""

    words = len(WORDS)

    def events(self, pieces: Sequence[str], name: str, usage: tuple[int, int]) -> list[bytes]:
        if name == "gen-1":
            return super().events(pieces, name, usage)
        made = super().events(pieces[: self.words], name, usage)
        return [each.replace(b'"stop"', b'"error"') for each in made]


class FailingEarly(Failing):
    words = 2


@in_any_way
def test_an_answer_that_fails_is_a_part_of_the_same_answer(ways: Ways) -> None:
    story = tell(Failing(), ways, Act(pieces=4), WHOLE)
    assert story.talk.upstream_error == "finish_reason error"
    assert set(story.heard.names) == {"gen-1"}


def test_a_repeat_that_fails_before_it_is_through() -> None:
    story = tell(FailingEarly(), REPLAY, Act(pieces=4), WHOLE)
    assert type(story.error) is errors.ReplayDiverged
    assert (set(story.heard.names), story.heard.ends) == ({"gen-1"}, [])


# What the request, or the answer, does not allow


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"n": 2}, "more than one choice"),
        ({"response_format": {"type": "json_object"}}, "constrains the form"),
        ({"tool_choice": "required"}, "forces the model to call a tool"),
        ({"model": "claude-opus-4-6"}, "does not go on from a partial answer"),
    ],
)
def test_what_cannot_be_gone_on_from_is_not_asked_for(body: dict[str, Any], why: str) -> None:
    habits: Habits = {}
    story = tell(Chat(), CONTINUE, Act(pieces=4), WHOLE, body=body, habits=habits)
    assert type(story.error) is errors.ContinuationRefused
    assert why in str(story.error)
    assert len(story.server.requests) == 1
    if "n" not in body:
        story = tell(Chat(), THE_OTHER_FIRST, Act(pieces=4), WHOLE, body=body, habits=habits)
        assert story.ways == ["replay"]


def test_what_the_caller_knows() -> None:
    cut = Act(pieces=4)
    for model, can_continue, goes_on in (
        ("claude-opus-4-6", None, False),
        ("claude-opus-4-6", True, True),
        ("claude-3-haiku-20240307", None, True),
        ("claude-3-haiku-20240307", False, False),
    ):
        story = tell(Anthropic(), CONTINUE, cut, WHOLE, body={"model": model}, can_continue=can_continue)
        assert story.log.outcome == ("end" if goes_on else "ContinuationRefused")
        assert len(story.server.requests) == 1 + goes_on


def test_an_answer_too_large_to_be_kept() -> None:
    limits = Limits(max_transcript_bytes=300)
    cut = Act(pieces=6)
    for ways in ALL_WAYS:
        content = json.dumps(Chat().body).encode()
        asked = RequestPlan("POST", Chat.url, (), content)
        dialect = recognise(asked)
        assert dialect is not None
        talk = Conversation(asked, dialect, patient, limits, fallback=ways, can_continue=True)
        server = Server(Chat(), cut, WHOLE)
        server.talk = talk
        log = play(talk, server, 65536, slices=True)
        assert log.error is not None
        assert "too large to be kept" in str(log.error)
        assert len(server.requests) == 1


# Trials


@pytest.mark.parametrize("provider", [Chat(), Ollama()], ids=lambda provider: provider.name)
def test_a_model_that_passes_its_trial(provider: Provider) -> None:
    habits: Habits = {}
    passed = Act(json=provider.tried(" 47, 48, 49"))
    cut = Act(pieces=4)
    story = tell(provider, CONTINUE, cut, cut, WHOLE, trials=[passed], habits=habits)
    assert story.ways == ["trial", "continue"], "it is tried once"
    assert story.notices[:4] == ["drop", "trial", "continue", "seam"]
    assert story.log.waits == []
    assert story.talk.report.attempts == 4
    again = tell(provider, CONTINUE, cut, WHOLE, habits=habits)
    assert again.ways == ["continue"], "and once for all"


@pytest.mark.parametrize("provider", [Chat(), Ollama()], ids=lambda provider: provider.name)
def test_a_model_that_fails_its_trial(provider: Provider) -> None:
    cut = Act(pieces=4)
    failed = Act(json=provider.tried("Sure! 41, 42, 43"))
    habits: Habits = {}
    for trials in ([failed], []):
        story = tell(provider, CONTINUE, cut, WHOLE, trials=trials, habits=habits)
        assert type(story.error) is errors.ContinuationRefused
        assert BEGINS_ANEW in str(story.error)
        assert len(story.server.requests) == 1 + len(trials)
    story = tell(provider, THE_OTHER_FIRST, cut, WHOLE, trials=[failed])
    assert story.ways == ["trial", "replay"]
    assert story.talk.report.fidelity == "verified"


def test_a_trial_that_is_not_held_at_once() -> None:
    busy = Act(status=503, headers={"retry-after": "7"})
    passed = Act(json=Chat().tried("47"))
    story = tell(Chat(), CONTINUE, Act(pieces=4), WHOLE, trials=[busy, Act(down=True), passed])
    assert story.ways == ["trial", "trial", "trial"]
    assert story.log.waits == [7.0, 2.0]
    assert story.log.outcome == "end"
    never = tell(Chat(), CONTINUE, Act(pieces=4), WHOLE, trials=[busy] * MAX_FRUITLESS)
    assert type(never.error) is errors.RetriesExhausted


@pytest.mark.parametrize("status", [204, 301, 400, 404])
def test_a_trial_that_is_refused(status: int) -> None:
    story = tell(Chat(), CONTINUE, Act(pieces=4), WHOLE, trials=[Act(status=status)])
    assert type(story.error) is errors.ContinuationRefused
    assert str(status) in str(story.error)
    assert len(story.server.requests) == 2


# Where the server keeps what it says


class LlamaServer(Server):
    """llama.cpp: it keeps what it says, unless told otherwise."""

    kept: Act = Act(ends="eof")

    def answer(self, plan: RequestPlan) -> Answer:
        if plan.method != "GET":
            return super().answer(plan)
        self.requests.append(plan)
        self.began.append(-len(self.requests))
        if self.kept.status != 200:
            return Answer(self.kept.status, {"content-type": "application/json"}, b"{}")
        whole = b"".join(blocks_of(self.provider))
        return Answer(200, {**self.provider.headers, "server": "llama.cpp"}, whole[int(plan.query["from"]) :])


class Forgetful(LlamaServer):
    kept = Act(status=404)


LLAMA = {"server": "llama.cpp"}


@in_any_way
def test_what_the_server_keeps_comes_first(ways: Ways) -> None:
    for words in (1, 4, len(WORDS)):
        cut = Act(pieces=words, headers=LLAMA)
        story = tell(Chat(), ways, cut, WHOLE, server=LlamaServer)
        assert story.ways == ["resume"]
        assert (story.talk.report.fidelity, story.talk.report.seams) == ("exact", ())
        assert [plan.method for plan in story.server.requests] == ["POST", "GET"]
        assert set(story.heard.names) == {"gen-1"}


@in_any_way
def test_what_it_has_forgotten_is_generated_again(ways: Ways) -> None:
    cut = Act(pieces=4, headers=LLAMA)
    story = tell(Chat(), ways, cut, replace(WHOLE, headers=LLAMA), server=Forgetful)
    report = story.talk.report
    assert story.ways == ["resume", ways[0]]
    assert [plan.method for plan in story.server.requests] == ["POST", "GET", "POST"]
    assert [seam.way for seam in report.seams] == [ways[0]]
    assert report.dialect == "llama_cpp/openai_chat"
    assert set(story.heard.names) == {"gen-1"}


def test_it_has_forgotten_and_does_not_go_on() -> None:
    cut = Act(pieces=4, headers=LLAMA)
    story = tell(Chat(), (), cut, server=Forgetful)
    assert type(story.error) is errors.ResumeExpired
    story = tell(Chat(), CONTINUE, cut, replace(WHOLE, headers=LLAMA, deaf=True), server=Forgetful)
    assert type(story.error) is errors.ContinuationRefused
    story = tell(Chat(), CONTINUE, cut, body={"n": 2}, server=Forgetful)
    assert type(story.error) is errors.ContinuationRefused
    assert "404" in str(story.error)
    assert "more than one choice" in str(story.error)


def test_a_second_drop_is_not_resumed() -> None:
    """The other generation has bytes of its own, which are not those that the caller has."""
    cut = Act(pieces=4, headers=LLAMA)
    story = tell(Chat(), CONTINUE, cut, replace(cut, cut=0.5), replace(WHOLE, headers=LLAMA), server=Forgetful)
    assert story.ways == ["resume", "continue", "continue"]
    assert story.talk.checkpoint.handle is None


@pytest.mark.parametrize("way", ["replay", "continue"])
def test_what_comes_again_is_counted_in_characters(way: Fallback) -> None:
    characters = len("".join(WORDS[:-1]))
    story = tell(Mistral(), (way,), Act(pieces=len(WORDS) - 1), WHOLE)
    (seam,) = story.talk.report.seams
    assert seam.echoed == seam.characters == characters


class EmptyBlocks(Anthropic):
    always_block = True


def test_an_empty_block_is_no_block() -> None:
    said = EmptyBlocks().say(Anthropic.body, "gen-1")
    story = tell(EmptyBlocks(), CONTINUE, Act(len(b"".join(said.blocks[:-2]))), WHOLE)
    assert sum(name == "content_block_start" for name, _ in story.log.told) == 1
