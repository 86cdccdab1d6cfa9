"""The anthropic SDK, wrapped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import resumable_llm as rl
from tests.sdks import cuts
from tests.sockets import wire
from tests.sockets.clients import FOREIGN_GENERATORS, busy, policy
from tests.sockets.scripted import Answer, End, Scripted

anthropic = pytest.importorskip("anthropic", reason="the environment for openai 2 has no anthropic")

pytestmark = [pytest.mark.slow, FOREIGN_GENERATORS]

ASKED: dict[str, Any] = {"model": "m", "max_tokens": 99, "messages": [{"role": "user", "content": "?"}]}
EVENTS = wire.numbered(wire.messages())


@pytest.fixture(scope="module")
def http() -> Iterator[Any]:
    with anthropic.DefaultHttpxClient(trust_env=False) as made:
        yield made


def sdk(http: Any, url: str, **options: Any) -> Any:
    return anthropic.Anthropic(base_url=url, api_key="s3cret", http_client=http, **options)


def create(api: Any) -> Any:
    return [event.to_dict() for event in api.messages.create(**ASKED, stream=True)]


def stream(api: Any) -> Any:
    with api.messages.stream(**ASKED) as made:
        kinds = [event.type for event in made]
        return kinds, made.get_final_message().to_dict()


async def acreate(api: Any) -> Any:
    return [event.to_dict() async for event in await api.messages.create(**ASKED, stream=True)]


async def astream(api: Any) -> Any:
    async with api.messages.stream(**ASKED) as made:
        kinds = [event.type async for event in made]
        return kinds, (await made.get_final_message()).to_dict()


@pytest.mark.parametrize("run", [create, stream], ids=lambda run: run.__name__)
def test_cut_anywhere(http: Any, run: Any) -> None:
    rest = cuts.honour(EVENTS)
    with Scripted(rest=rest) as whole:
        unbroken = run(sdk(http, whole.url))
    for answer in cuts.cut_everywhere(EVENTS):
        with cuts.server(answer, rest) as server:
            assert run(rl.wrap(sdk(http, server.url), policy=policy())) == unbroken
            assert len(server.requests) == 2
            assert server.requests[0].body == server.requests[1].body
            assert server.requests[1].headers["authorization"] == server.requests[0].headers["authorization"]
            assert not busy(http)


@pytest.mark.parametrize("run", [acreate, astream], ids=lambda run: run.__name__)
async def test_cut_anywhere_async(anyio_backend: str, run: Any) -> None:
    rest = cuts.honour(EVENTS)
    async with anthropic.DefaultAsyncHttpxClient(trust_env=False) as http:

        def made(url: str) -> Any:
            return anthropic.AsyncAnthropic(base_url=url, api_key="s3cret", http_client=http)

        with Scripted(rest=rest) as whole:
            unbroken = await run(made(whole.url))
        for answer in cuts.cut_everywhere(EVENTS):
            with cuts.server(answer, rest) as server:
                assert await run(rl.wrap(made(server.url), policy=policy())) == unbroken
                assert len(server.requests) == 2
                assert not busy(http)


def test_without_ids_an_error_carries_what_was_said(http: Any) -> None:
    """The SDK lets errors pass: it is ours, and a TransportError of its HTTP library."""
    import httpx2

    events = wire.messages()
    for count in range(1, len(events) - 2):
        said = "".join(wire.WORDS[: max(count - 3, 0)])
        with Scripted(Answer(wire.blocks(events[:count]), cuts.ENDS[count % 3])) as server:
            api = rl.wrap(sdk(http, server.url), policy=policy())
            with pytest.raises(rl.CannotResume) as caught:
                create(api)
            assert isinstance(caught.value, httpx2.TransportError)
            assert caught.value.partial_text == said
            assert len(server.requests) == 1, "nothing may be generated twice"
            assert not busy(http)


@pytest.mark.parametrize("end", [End.RST, End.SILENT, End.FIN])
def test_a_drop_behind_the_last_event_is_not_seen(http: Any, end: End) -> None:
    """This SDK reads on to the end of the body, and would raise."""
    for run in (create, stream):
        with Scripted(Answer(wire.blocks(wire.messages()), end)) as server:
            run(rl.wrap(sdk(http, server.url)))
            assert not busy(http)


def test_one_key_over_the_sdks_own_retries(http: Any) -> None:
    refusal = Answer.json("{}", 529, headers={"retry-after-ms": "1"})
    with Scripted(refusal, Answer(wire.blocks(EVENTS[:5]), End.FIN), rest=cuts.honour(EVENTS)) as server:
        create(rl.wrap(sdk(http, server.url), policy=policy()))
        assert len(server.requests) == 3
        assert len({request.headers["idempotency-key"] for request in server.requests}) == 1


def test_an_error_in_the_stream_is_the_sdks(http: Any) -> None:
    failed = wire.Event('{"type":"error","error":{"type":"overloaded_error","message":"busy"}}', "error")
    seen = []
    for wrapped in (False, True):
        with Scripted(Answer(wire.blocks([*wire.messages()[:5], failed]))) as server:
            api = sdk(http, server.url)
            with pytest.raises(anthropic.APIStatusError) as caught:
                create(rl.wrap(api) if wrapped else api)
            seen.append((type(caught.value), caught.value.message))
    assert seen[0] == seen[1]


def test_what_is_made_of_a_wrapped_client_is_wrapped(http: Any) -> None:
    with Scripted(Answer(wire.blocks(EVENTS[:5]), End.FIN), rest=cuts.honour(EVENTS)) as server:
        api = rl.wrap(sdk(http, server.url), policy=policy()).with_options(timeout=5)
        assert type(api) is anthropic.Anthropic
        assert create(api) == create(sdk(http, server.url))
        assert len(server.requests) == 3


class TeamAnthropic(anthropic.Anthropic):  # type: ignore[misc, name-defined]
    """As users write them: with a constructor of its own."""

    def __init__(self, team: str, **options: Any) -> None:
        super().__init__(**options)
        self.team = team


def test_a_subclass_with_a_constructor_of_its_own(http: Any) -> None:
    with Scripted(Answer(wire.blocks(EVENTS[:5]), End.FIN), rest=cuts.honour(EVENTS)) as server:
        api = rl.wrap(TeamAnthropic("blue", base_url=server.url, api_key="x", http_client=http), policy=policy())
        assert (type(api), api.team) == (TeamAnthropic, "blue")
        create(api)
        assert len(server.requests) == 2


def test_inspect_finds_the_handle(http: Any) -> None:
    with Scripted(rest=cuts.honour(EVENTS)) as server:
        api = rl.wrap(sdk(http, server.url))
        with api.messages.create(**ASKED, stream=True) as made:
            assert rl.inspect(made).checkpoint.dialect == "anthropic_messages"
        with api.messages.stream(**ASKED) as helper:
            assert rl.inspect(helper).checkpoint.dialect == "anthropic_messages"
