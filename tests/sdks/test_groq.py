"""The groq SDK, wrapped: on httpx, and without any `finally` that would close a stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

import resumable_llm as rl
from tests.sdks import cuts
from tests.sockets import wire
from tests.sockets.clients import FOREIGN_GENERATORS, async_client, busy, client, policy
from tests.sockets.scripted import Answer, End, Scripted

groq = pytest.importorskip("groq", reason="the environment for openai 2 has no groq")

pytestmark = [pytest.mark.slow, FOREIGN_GENERATORS]

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "?"}]}
EVENTS = wire.numbered(wire.chat())


@pytest.fixture(scope="module")
def http() -> Iterator[Any]:
    with client("httpx") as made:
        yield made


def sdk(http: Any, url: str, **options: Any) -> Any:
    return groq.Groq(base_url=url, api_key="s3cret", http_client=http, **options)


def create(api: Any) -> list[Any]:
    return [chunk.to_dict() for chunk in api.chat.completions.create(**CHAT, stream=True)]


def test_cut_anywhere(http: Any) -> None:
    rest = cuts.honour(EVENTS)
    with Scripted(rest=rest) as whole:
        unbroken = create(sdk(http, whole.url))
    for answer in cuts.cut_everywhere(EVENTS):
        with cuts.server(answer, rest) as server:
            assert create(rl.wrap(sdk(http, server.url), policy=policy())) == unbroken
            assert len(server.requests) in (1, 2)
            assert not busy(http)


async def test_cut_anywhere_async(anyio_backend: str) -> None:
    rest = cuts.honour(EVENTS)
    async with async_client("httpx") as http:
        for answer in cuts.cut_everywhere(EVENTS):
            with cuts.server(answer, rest) as server:
                api = rl.wrap(groq.AsyncGroq(base_url=server.url, api_key="x", http_client=http), policy=policy())
                chunks = [chunk.to_dict() async for chunk in await api.chat.completions.create(**CHAT, stream=True)]
                assert chunks == [event.json for event in EVENTS[:-1]]
                assert len(server.requests) in (1, 2)
                assert not busy(http)


def test_without_ids_an_error_carries_what_was_said(http: Any) -> None:
    """The SDK lets errors pass: it is ours, and a TransportError too. And nobody but us closes the response."""
    events = wire.chat()
    for count in range(1, len(events) - 2):
        with Scripted(Answer(wire.blocks(events[:count]), cuts.ENDS[count % 3])) as server:
            with pytest.raises(rl.CannotResume) as caught:
                create(rl.wrap(sdk(http, server.url), policy=policy()))
            assert isinstance(caught.value, httpx.TransportError)
            assert caught.value.partial_text == "".join(wire.WORDS[: count - 1])
            assert len(server.requests) == 1, "nothing may be generated twice"
            assert not busy(http)


@pytest.mark.parametrize("end", [End.RST, End.SILENT, End.FIN])
def test_a_drop_behind_the_last_event_is_not_seen(http: Any, end: End) -> None:
    """This SDK reads on to the end of the body, and would raise."""
    with Scripted(Answer(wire.blocks(wire.chat()), end)) as server:
        assert create(rl.wrap(sdk(http, server.url))) == [event.json for event in EVENTS[:-1]]
        assert not busy(http)


def test_one_key_over_the_sdks_own_retries(http: Any) -> None:
    refusal = Answer.json("{}", 500, headers={"retry-after": "0"})
    with Scripted(refusal, Answer(wire.blocks(EVENTS[:5]), End.FIN), rest=cuts.honour(EVENTS)) as server:
        create(rl.wrap(sdk(http, server.url, max_retries=1), policy=policy()))
        assert len(server.requests) == 3
        assert len({request.headers["idempotency-key"] for request in server.requests}) == 1


def test_what_is_made_of_a_wrapped_client_is_wrapped(http: Any) -> None:
    with Scripted(Answer(wire.blocks(EVENTS[:5]), End.FIN), rest=cuts.honour(EVENTS)) as server:
        api = rl.wrap(sdk(http, server.url), policy=policy()).with_options(timeout=5)
        assert type(api) is groq.Groq
        assert create(api) == [event.json for event in EVENTS[:-1]]
        assert len(server.requests) == 2
