"""The openai SDK, wrapped: openai 3 on httpx2 and on httpx, and openai 2 on httpx; whichever is installed."""

# ruff: noqa: SIM117 - a server, a client and a stream nest as they do in life

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import openai
import pytest
from openai import AsyncAzureOpenAI, AsyncOpenAI, AzureOpenAI, OpenAI

import resumable_llm as rl
from tests.sdks import cuts
from tests.sockets import wire
from tests.sockets.clients import FOREIGN_GENERATORS, async_client, busy, client, policy
from tests.sockets.scripted import Answer, End, Request, Scripted

OPENAI3 = int(openai.__version__.split(".")[0]) >= 3
FAMILIES = ("httpx2", "httpx") if OPENAI3 else ("httpx",)

pytestmark = [pytest.mark.slow, pytest.mark.openai, FOREIGN_GENERATORS]

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "?"}]}
RESPONSE: dict[str, Any] = {"model": "m", "input": "?", "background": True}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    assert isinstance(request.param, str)
    return request.param


@pytest.fixture
def http(family: str) -> Iterator[Any]:
    with client(family) as made:
        yield made


def sdk(http: Any, url: str, **options: Any) -> OpenAI:
    return OpenAI(base_url=url, api_key="s3cret", http_client=http, **options)


def async_sdk(http: Any, url: str, **options: Any) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=url, api_key="s3cret", http_client=http, **options)


# The calls, and what remains of them in the end


def chat_create(api: Any) -> Any:
    return [chunk.to_dict() for chunk in api.chat.completions.create(**CHAT, stream=True)]


def chat_stream(api: Any) -> Any:
    with api.chat.completions.stream(**CHAT) as stream:
        kinds = [event.type for event in stream]
        return kinds, stream.get_final_completion().to_dict()


def responses_create(api: Any) -> Any:
    return [event.to_dict() for event in api.responses.create(**RESPONSE, stream=True)]


def responses_stream(api: Any) -> Any:
    with api.responses.stream(**RESPONSE) as stream:
        kinds = [event.type for event in stream]
        return kinds, stream.get_final_response().to_dict()


async def achat_create(api: Any) -> Any:
    return [chunk.to_dict() async for chunk in await api.chat.completions.create(**CHAT, stream=True)]


async def achat_stream(api: Any) -> Any:
    async with api.chat.completions.stream(**CHAT) as stream:
        kinds = [event.type async for event in stream]
        return kinds, (await stream.get_final_completion()).to_dict()


async def aresponses_create(api: Any) -> Any:
    return [event.to_dict() async for event in await api.responses.create(**RESPONSE, stream=True)]


async def aresponses_stream(api: Any) -> Any:
    async with api.responses.stream(**RESPONSE) as stream:
        kinds = [event.type async for event in stream]
        return kinds, (await stream.get_final_response()).to_dict()


Call = tuple[Callable[[Any], Any], Callable[[Any], Awaitable[Any]], list[wire.Event], Callable[[Request], Answer], str]

_NUMBERED, _RESPONSES = wire.numbered(wire.chat()), wire.responses()
CALLS: list[Call] = [
    (chat_create, achat_create, _NUMBERED, cuts.honour(_NUMBERED), "POST"),
    (chat_stream, achat_stream, _NUMBERED, cuts.honour(_NUMBERED), "POST"),
    (responses_create, aresponses_create, _RESPONSES, cuts.starting_after(_RESPONSES), "GET"),
    (responses_stream, aresponses_stream, _RESPONSES, cuts.starting_after(_RESPONSES), "GET"),
]
calls = pytest.mark.parametrize("call", CALLS, ids=lambda call: call[0].__name__)


def needed(answer: Answer, events: list[wire.Event]) -> int:
    """The requests that it takes: none besides the first if only what nobody needs was cut off."""
    whole = b"".join(answer.pieces).count(b"\n\n")
    has_finish = events is _NUMBERED and whole >= len(events) - 1
    return 1 if has_finish else 2


@calls
def test_cut_anywhere(http: Any, call: Call) -> None:
    run, _, events, rest, method = call
    with Scripted(rest=rest) as whole:
        unbroken = run(sdk(http, whole.url))
    for answer in cuts.cut_everywhere(events):
        with cuts.server(answer, rest) as server:
            assert run(rl.wrap(sdk(http, server.url), policy=policy())) == unbroken
            assert len(server.requests) in (needed(answer, events), 2)
            assert server.methods[1:] in ([], [method])
            assert not busy(http)


@calls
async def test_cut_anywhere_async(family: str, anyio_backend: str, call: Call) -> None:
    _, run, events, rest, method = call
    async with async_client(family) as http:
        with Scripted(rest=rest) as whole:
            unbroken = await run(async_sdk(http, whole.url))
        for answer in cuts.cut_everywhere(events):
            with cuts.server(answer, rest) as server:
                assert await run(rl.wrap(async_sdk(http, server.url), policy=policy())) == unbroken
                assert len(server.requests) in (needed(answer, events), 2)
                assert server.methods[1:] in ([], [method])
                assert not busy(http)


def test_a_cut_behind_every_event(http: Any) -> None:
    """One answer over as many connections as it has events."""
    with Scripted(*_one_each(_NUMBERED, cuts.honour(_NUMBERED))) as server:
        api = rl.wrap(sdk(http, server.url), policy=policy())
        stream = api.chat.completions.create(**CHAT, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == wire.TEXT
        report = rl.inspect(stream).report
        assert report.attempts == len(server.requests)
        assert report.attempts >= len(_NUMBERED) - 1
        assert {request.body for request in server.requests} == {server.requests[0].body}
        assert len({request.headers["idempotency-key"] for request in server.requests}) == 1


def _one_each(events: list[wire.Event], rest: Callable[[Request], Answer]) -> list[Callable[[Request], Answer]]:
    def one(request: Request) -> Answer:
        answer = rest(request)
        last = len(answer.pieces) == 1
        return answer if last else Answer(answer.pieces[:1], cuts.ENDS[len(answer.pieces) % 3])

    return [one] * len(events)


# No way back


def check_error(error: BaseException, said: str) -> None:
    """The SDK's own error with ours inside (openai 3), or ours (openai 2, whose streams let errors pass)."""
    if OPENAI3:
        assert type(error) is openai.APIConnectionError
        found = error.__cause__
    else:
        found = error
    assert isinstance(found, rl.CannotResume)
    assert isinstance(found, rl.StreamInterrupted)
    assert found.partial_text == said
    assert found.report is not None
    assert found.report.attempts == 1
    assert found.checkpoint is not None


def cuts_without_ids() -> Iterator[tuple[Answer, str]]:
    events = wire.chat()
    for count in range(1, len(events) - 2):
        yield Answer(wire.blocks(events[:count]), cuts.ENDS[count % 3]), "".join(wire.WORDS[: count - 1])


def test_without_ids_an_error_carries_what_was_said(http: Any) -> None:
    for answer, said in cuts_without_ids():
        with Scripted(answer) as server:
            api = rl.wrap(sdk(http, server.url), policy=policy())
            got: list[str] = []
            with pytest.raises((openai.APIConnectionError, rl.StreamInterrupted)) as caught:  # noqa: PT012
                for chunk in api.chat.completions.create(**CHAT, stream=True):
                    got.append(chunk.choices[0].delta.content or "")  # noqa: PERF401
            assert "".join(got) == said
            check_error(caught.value, said)
            assert len(server.requests) == 1, "nothing may be generated twice"
            assert not busy(http)


async def test_without_ids_an_error_carries_what_was_said_async(family: str, anyio_backend: str) -> None:
    async with async_client(family) as http:
        for answer, said in cuts_without_ids():
            with Scripted(answer) as server:
                api = rl.wrap(async_sdk(http, server.url), policy=policy())
                got: list[str] = []
                with pytest.raises((openai.APIConnectionError, rl.StreamInterrupted)) as caught:  # noqa: PT012
                    async for chunk in await api.chat.completions.create(**CHAT, stream=True):
                        got.append(chunk.choices[0].delta.content or "")  # noqa: PERF401
                assert "".join(got) == said
                check_error(caught.value, said)
                assert len(server.requests) == 1, "nothing may be generated twice"
                assert not busy(http)


def test_a_cut_behind_the_finish_reason_loses_nothing(http: Any) -> None:
    blocks = wire.blocks(wire.chat())[:-1]
    for end in cuts.ENDS:
        with Scripted(Answer(blocks, end)) as server:
            api = rl.wrap(sdk(http, server.url))
            chunks = list(api.chat.completions.create(**CHAT, stream=True))
            assert chunks[-1].choices[0].finish_reason == "stop"


def test_a_foreground_response_cannot_be_resumed(http: Any) -> None:
    blocks = wire.blocks(wire.responses(background=False))
    with Scripted(Answer(blocks[:8], End.FIN)) as server:
        api = rl.wrap(sdk(http, server.url), policy=policy())
        with pytest.raises((openai.APIConnectionError, rl.StreamInterrupted)) as caught:
            for _ in api.responses.create(model="m", input="?", stream=True):
                pass
        check_error(caught.value, "".join(wire.WORDS[:4]))
        assert len(server.requests) == 1


def test_retrieve_as_a_stream_is_resumed(http: Any) -> None:
    rest = cuts.starting_after(_RESPONSES)
    with Scripted(Answer(wire.blocks(_RESPONSES[:6]), End.FIN), rest=rest) as server:
        stream = rl.wrap(sdk(http, server.url)).responses.retrieve("resp_7", stream=True)
        assert [event.to_dict() for event in stream] == [event.json for event in _RESPONSES]
        assert [request.query.get("starting_after") for request in server.requests] == [None, "5"]
        assert {request.path for request in server.requests} == {"/responses/resp_7"}


@pytest.mark.parametrize("end", [End.RST, End.SILENT, End.FIN])
def test_a_drop_behind_the_last_event_is_not_seen(http: Any, end: End) -> None:
    for run, _, events, _, _ in CALLS:
        with Scripted(Answer(wire.blocks(events), end)) as server:
            run(rl.wrap(sdk(http, server.url)))
            assert not busy(http)


@pytest.mark.parametrize("end", [End.RST, End.SILENT, End.FIN])
async def test_a_drop_behind_the_last_event_is_not_seen_async(family: str, anyio_backend: str, end: End) -> None:
    async with async_client(family) as http:
        for _, run, events, _, _ in CALLS:
            with Scripted(Answer(wire.blocks(events), end)) as server:
                await run(rl.wrap(async_sdk(http, server.url)))
                assert not busy(http)


def test_an_early_break_leaks_nothing(http: Any) -> None:
    with Scripted(Answer(wire.blocks(wire.chat()[:3]), End.SILENT)) as server:
        with rl.wrap(sdk(http, server.url)).chat.completions.create(**CHAT, stream=True) as stream:
            for _ in stream:
                break
        assert not busy(http)
        assert server.gone.acquire(timeout=5)


async def test_an_early_break_leaks_nothing_async(family: str, anyio_backend: str) -> None:
    with Scripted(Answer(wire.blocks(wire.chat()[:3]), End.SILENT)) as server:
        async with async_client(family) as http:
            api = rl.wrap(async_sdk(http, server.url))
            async with await api.chat.completions.create(**CHAT, stream=True) as stream:
                async for _ in stream:
                    break
            assert not busy(http)
        assert server.gone.acquire(timeout=5)


# Other clients of the SDK


def test_azure(http: Any) -> None:
    options: dict[str, Any] = {"api_key": "s3cret", "api_version": "2026-01-01", "http_client": http}
    rest = cuts.honour(_NUMBERED)
    with Scripted(Answer(wire.blocks(_NUMBERED[:4]), End.FIN), rest=rest) as server:
        api = rl.wrap(AzureOpenAI(azure_endpoint=server.url, azure_deployment="dep", **options), policy=policy())
        assert type(api) is AzureOpenAI
        assert chat_create(api) == [event.json for event in _NUMBERED[:-1]]
        assert {request.target for request in server.requests} == {
            "/openai/deployments/dep/chat/completions?api-version=2026-01-01"
        }
        assert [request.headers["api-key"] for request in server.requests] == ["s3cret"] * 2
    rest = cuts.starting_after(_RESPONSES)
    with Scripted(Answer(wire.blocks(_RESPONSES[:6]), End.FIN), rest=rest) as server:
        api = rl.wrap(AzureOpenAI(azure_endpoint=server.url, **options), policy=policy())
        assert responses_create(api) == [event.json for event in _RESPONSES]
        first, second = server.requests
        assert first.query["api-version"] == second.query["api-version"] == "2026-01-01"
        assert (second.method, second.query["starting_after"]) == ("GET", "5")


async def test_azure_async(family: str, anyio_backend: str) -> None:
    rest = cuts.honour(_NUMBERED)
    with Scripted(Answer(wire.blocks(_NUMBERED[:4]), End.FIN), rest=rest) as server:
        async with async_client(family) as http:
            api = rl.wrap(
                AsyncAzureOpenAI(azure_endpoint=server.url, api_key="x", api_version="1", http_client=http),
                policy=policy(),
            )
            assert await achat_create(api) == [event.json for event in _NUMBERED[:-1]]
        assert len(server.requests) == 2


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_aiohttp(anyio_backend: str) -> None:
    pytest.importorskip("httpx_aiohttp", reason="the SDK's client over aiohttp needs httpx-aiohttp")
    rest = cuts.honour(_NUMBERED)
    for end in (End.FIN, End.RST, End.CLEAN):
        with Scripted(Answer(wire.blocks(_NUMBERED[:4]), end), rest=rest) as server:
            async with openai.DefaultAioHttpClient() as http:
                api = rl.wrap(async_sdk(http, server.url), policy=policy())
                assert await achat_create(api) == [event.json for event in _NUMBERED[:-1]]
            assert len(server.requests) == 2


def test_the_sdks_own_http_client() -> None:
    with Scripted(Answer(wire.blocks(_NUMBERED[:4]), End.FIN), rest=cuts.honour(_NUMBERED)) as server:
        with OpenAI(base_url=server.url, api_key="s3cret") as original:
            api = rl.wrap(original, policy=policy())
            assert chat_create(api) == [event.json for event in _NUMBERED[:-1]]
            assert len(server.requests) == 2
            assert not original.is_closed()


# What a copy must keep


class TeamOpenAI(OpenAI):
    """As users write them: with a constructor of its own."""

    def __init__(self, team: str, **options: Any) -> None:
        super().__init__(**options)
        self.team = team


def test_a_subclass_with_a_constructor_of_its_own(http: Any) -> None:
    with Scripted(Answer(wire.blocks(_NUMBERED[:4]), End.FIN), rest=cuts.honour(_NUMBERED)) as server:
        original = TeamOpenAI("blue", base_url=server.url, api_key="s3cret", http_client=http)
        resource = original.chat.completions  # cached, and bound to the original
        api = rl.wrap(original, policy=policy())
        assert type(api) is TeamOpenAI
        assert api.team == "blue"
        assert api.chat.completions is not resource
        assert chat_create(api) == [event.json for event in _NUMBERED[:-1]]
        assert len(server.requests) == 2


def test_what_is_made_of_a_wrapped_client_is_wrapped(http: Any) -> None:
    derivations: tuple[Callable[[OpenAI], OpenAI], ...] = (
        lambda api: api.with_options(timeout=5),
        lambda api: api.copy(max_retries=0),
        lambda api: api.with_options(max_retries=1).copy(),
    )
    for derive in derivations:
        with Scripted(Answer(wire.blocks(_NUMBERED[:4]), End.FIN), rest=cuts.honour(_NUMBERED)) as server:
            api = derive(rl.wrap(sdk(http, server.url), policy=policy()))
            assert chat_create(api) == [event.json for event in _NUMBERED[:-1]]
            assert len(server.requests) == 2


def test_the_settings_survive(http: Any) -> None:
    original = sdk(
        http,
        "http://far.test/v1",
        organization="o",
        project="p",
        timeout=7,
        max_retries=5,
        default_headers={"x-mine": "1"},
        default_query={"q": "1"},
        _strict_response_validation=True,
    )
    api = rl.wrap(original)
    for name in (
        "api_key",
        "organization",
        "project",
        "timeout",
        "max_retries",
        "base_url",
        "_strict_response_validation",
    ):
        assert getattr(api, name) == getattr(original, name), name
    assert api.default_headers == original.default_headers
    assert api.default_query == original.default_query
    assert original._client is http
    assert api._client is not http


def test_raw_responses_are_watched_over(http: Any) -> None:
    with Scripted(Answer(wire.blocks(_NUMBERED[:4]), End.FIN), rest=cuts.honour(_NUMBERED)) as server:
        api = rl.wrap(sdk(http, server.url), policy=policy())
        raw = api.chat.completions.with_raw_response.create(**CHAT, stream=True)
        assert [chunk.to_dict() for chunk in raw.parse()] == [event.json for event in _NUMBERED[:-1]]
        assert rl.inspect(raw).report.attempts == 2


def test_inspect_finds_the_handle_in_every_stream(http: Any) -> None:
    with Scripted(rest=cuts.honour(_NUMBERED)) as server:
        api = rl.wrap(sdk(http, server.url))
        with api.chat.completions.create(**CHAT, stream=True) as stream:
            assert rl.inspect(stream).checkpoint.dialect == "openai_chat"
        with api.chat.completions.stream(**CHAT) as helper:
            assert rl.inspect(helper).checkpoint.dialect == "openai_chat"
    with Scripted(rest=cuts.starting_after(_RESPONSES)) as server:
        api = rl.wrap(sdk(http, server.url))
        with api.responses.stream(**RESPONSE) as helper:
            assert rl.inspect(helper).checkpoint.dialect == "openai_responses"
    with pytest.raises(TypeError, match="nothing watches over"):
        rl.inspect(object())


# What is the SDK's own affair


def always(answer: Answer) -> Callable[[Request], Answer]:
    return lambda request: answer


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500])
def test_refusals_before_the_answer_are_the_sdks(http: Any, status: int) -> None:
    seen = []
    for wrapped in (False, True):
        refusal = Answer.json('{"error":{"message":"no"}}', status, headers={"retry-after-ms": "1"})
        with Scripted(rest=always(refusal)) as server:
            api = sdk(http, server.url, max_retries=2)
            with pytest.raises(openai.APIStatusError) as caught:
                (rl.wrap(api) if wrapped else api).chat.completions.create(**CHAT, stream=True)
            seen.append((type(caught.value), caught.value.status_code, caught.value.body, len(server.requests)))
    assert seen[0] == seen[1]


def test_one_key_over_the_sdks_own_retries(http: Any) -> None:
    refusal = Answer.json("{}", 500, headers={"retry-after-ms": "1"})
    with Scripted(refusal, refusal, Answer(wire.blocks(_NUMBERED[:4]), End.FIN), rest=cuts.honour(_NUMBERED)) as server:
        api = rl.wrap(sdk(http, server.url, max_retries=2), policy=policy())
        chat_create(api)
        assert [request.headers["x-stainless-retry-count"] for request in server.requests[:3]] == ["0", "1", "2"]
        keys = [request.headers["idempotency-key"] for request in server.requests]
        assert len(keys) == 4
        assert len(set(keys)) == 1
        chat_create(api)
        assert server.requests[-1].headers["idempotency-key"] != keys[0]


def test_the_callers_key_wins(http: Any) -> None:
    with Scripted(rest=cuts.honour(_NUMBERED)) as server:
        api = rl.wrap(sdk(http, server.url))
        list(api.chat.completions.create(**CHAT, stream=True, extra_headers={"Idempotency-Key": "mine"}))
        assert server.requests[0].headers["idempotency-key"] == "mine"


def test_calls_that_do_not_stream_are_untouched(http: Any) -> None:
    completion = {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hi"}}],
    }
    with Scripted(rest=lambda request: Answer.json(json.dumps(completion))) as server:
        api = sdk(http, server.url)
        plain = api.chat.completions.create(**CHAT)
        watched = rl.wrap(api).chat.completions.create(**CHAT)
        assert watched == plain
        first, second = server.requests
        assert first.raw_head == second.raw_head
        assert first.body == second.body


def test_an_error_in_the_stream_is_the_sdks(http: Any) -> None:
    """The server reports a failure as an event: it is passed on, and the SDK raises what it always raises."""
    failed = b'data: {"error":{"message":"boom","type":"server_error","code":"boom"}}\n\n'
    seen = []
    for wrapped in (False, True):
        with Scripted(Answer([*wire.blocks(wire.chat()[:3]), failed, b"data: [DONE]\n\n"])) as server:
            api = sdk(http, server.url)
            with pytest.raises(openai.APIError) as caught:
                for _ in (rl.wrap(api) if wrapped else api).chat.completions.create(**CHAT, stream=True):
                    pass
            seen.append((type(caught.value), str(caught.value)))
    assert seen[0] == seen[1]


def test_the_versions_of_this_environment() -> None:
    """Which of the two environments this is: openai 3 from Python 3.11 on in the first, openai 2 in the second."""
    roots = {base.__module__.partition(".")[0] for base in type(openai.OpenAI(api_key="none")._client).__mro__}
    assert ("httpx2" in roots) == OPENAI3, "openai 3 stands on httpx2, openai 2 on httpx"


async def test_text_of_an_abandoned_iterator(family: str, anyio_backend: str) -> None:
    """A reader that stops in the middle and goes on later misses nothing."""
    with Scripted(Answer(wire.blocks(_NUMBERED[:4]), End.FIN), rest=cuts.honour(_NUMBERED)) as server:
        async with async_client(family) as http:
            stream = await rl.wrap(async_sdk(http, server.url), policy=policy()).chat.completions.create(
                **CHAT, stream=True
            )
            chunks: AsyncIterator[Any] = stream.__aiter__()
            said = [(await anext(chunks)).to_dict() for _ in range(2)]
            said += [chunk.to_dict() async for chunk in stream]
            assert said == [event.json for event in _NUMBERED[:-1]]


def test_a_redirected_call_is_still_known_for_what_it_is(http: Any) -> None:
    """The SDK's client follows redirects; behind one, an answer that ends too early must not look whole."""
    http.follow_redirects = True
    moved = Answer(status=307, headers={"location": "/chat/completions"})
    with Scripted(moved, Answer(wire.blocks(wire.chat()[:4]))) as server:
        api = rl.wrap(sdk(http, f"{server.url}/old"), policy=policy())
        with pytest.raises((openai.APIConnectionError, rl.StreamInterrupted)):
            chat_create(api)


def test_a_poll_waits_for_the_answer(http: Any) -> None:
    polls = iter(["queued", "in_progress", "completed"])

    def rest(request: Request) -> Answer:
        if request.query.get("stream") == "true":
            return Answer.json("{}", 404)
        return Answer.json(json.dumps(wire.response(next(polls))), headers={"openai-poll-after-ms": "100"})

    with Scripted(Answer(wire.blocks(_RESPONSES[:7]), End.FIN), rest=rest) as server:
        kinds, final = responses_stream(rl.wrap(sdk(http, server.url), policy=policy()))
        assert final["output"][0]["content"][0]["text"] == wire.TEXT
        assert kinds[-1] == "response.completed"
        assert len(server.requests) == 5


def test_a_resume_that_is_answered_with_the_finished_answer(http: Any) -> None:
    finished = Answer.json(json.dumps(wire.response()))
    with Scripted(Answer(wire.blocks(_RESPONSES[:7]), End.FIN), rest=always(finished)) as server:
        _, final = responses_stream(rl.wrap(sdk(http, server.url), policy=policy()))
        assert final["output"][0]["content"][0]["text"] == wire.TEXT
        assert len(server.requests) == 2


def test_a_background_response_is_never_started_twice(http: Any) -> None:
    """The connection broke before the first event told the id: it runs on, unseen."""
    with Scripted(Answer([], End.FIN)) as server:
        with pytest.raises((openai.APIConnectionError, rl.StreamInterrupted)):
            responses_create(rl.wrap(sdk(http, server.url), policy=policy()))
        assert server.methods == ["POST"]


def test_an_answer_that_never_began_is_asked_for_again(http: Any) -> None:
    begun = [Answer([], End.FIN), Answer([b": ping\n\n"], End.RST)]
    with Scripted(*begun, rest=cuts.honour(wire.chat())) as server:
        assert chat_create(rl.wrap(sdk(http, server.url), policy=policy())) == [
            event.json for event in wire.chat()[:-1]
        ]
        assert len({request.headers["idempotency-key"] for request in server.requests}) == 1
        assert len(server.requests) == 3
