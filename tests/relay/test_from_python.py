"""Official clients whose calls are sent to a relay: `rl.wrap(client, relay=...)` is all that a user changes.

The relay's address is that of a proxy which cuts the connections to it. No way leads around it: the upstream is asked
once for each answer, by the relay.
"""

from __future__ import annotations

import itertools
import json
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from anthropic import Anthropic, AsyncAnthropic
from openai import APIConnectionError, APIStatusError, AsyncOpenAI, OpenAI

import resumable_llm as rl
from resumable_llm.log.model import State
from resumable_llm.testing import Fault, FaultPlan, FaultProxy
from tests.relay.serve import Gate, Served
from tests.sdks import formats
from tests.sockets import wire
from tests.sockets.clients import FAMILIES, FOREIGN_GENERATORS, LOOPS, async_client, policy
from tests.sockets.clients import client as client_of
from tests.sockets.scripted import Answer, End, Scripted

pytestmark = pytest.mark.slow

CUTS = (Fault.rst, Fault.fin, Fault.end)
KEY = {"Idempotency-Key": "the-notebooks-cell-7"}


@pytest.fixture(scope="module")
def http() -> Iterator[Any]:
    with client_of(FAMILIES[-1]) as made:
        yield made


def openai(url: str, http: Any, **options: Any) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key="s3cret", http_client=http, **{"max_retries": 0, **options})


def anthropic(url: str, http: Any) -> Anthropic:
    return Anthropic(base_url=url, api_key="s3cret", http_client=http, max_retries=0)


def google(url: str, http: Any) -> Any:
    genai = pytest.importorskip("google.genai", reason="google-genai needs Python 3.11")
    return genai.Client(api_key="s3cret", http_options={"base_url": url, "httpx_client": http})


def chat(api: Any, **options: Any) -> Any:
    return list(api.chat.completions.create(model="m", messages=[], stream=True, **options))


def responses(api: Any) -> Any:
    return list(api.responses.create(model="m", input="?", stream=True))


def messages(api: Any) -> Any:
    return list(api.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": "?"}], stream=True))


def contents(api: Any) -> Any:
    found = list(api.models.generate_content_stream(model="m", contents="?"))
    for each in found:
        each.sdk_http_response = None  # its headers are those of the moment
    return found


async def achat(api: Any) -> Any:
    stream = await api.chat.completions.create(model="m", messages=[], stream=True)
    return [chunk async for chunk in stream]


async def amessages(api: Any) -> Any:
    asked: list[Any] = [{"role": "user", "content": "?"}]
    stream = await api.messages.create(model="m", max_tokens=9, messages=asked, stream=True)
    return [event async for event in stream]


def aopenai(url: str, http: Any) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{url}/v1", api_key="s3cret", http_client=http, max_retries=0)


def aanthropic(url: str, http: Any) -> AsyncAnthropic:
    return AsyncAnthropic(base_url=url, api_key="s3cret", http_client=http, max_retries=0)


# Before Python 3.11 openai's clients are of httpx, and anthropic's of httpx2.
ONE_FAMILY = pytest.mark.skipif(sys.version_info < (3, 11), reason="one HTTP client for both SDKs needs Python 3.11")

CALLS = [
    pytest.param(openai, chat, wire.chat(), id="openai chat"),
    pytest.param(openai, responses, wire.responses(background=False), id="openai responses"),
    pytest.param(anthropic, messages, wire.messages(), id="anthropic", marks=ONE_FAMILY),
    pytest.param(google, contents, formats.gemini(), id="google", marks=ONE_FAMILY),
]
ASYNC_CALLS = [
    pytest.param(aopenai, achat, wire.chat(), id="openai chat"),
    pytest.param(aanthropic, amessages, wire.messages(), id="anthropic", marks=ONE_FAMILY),
]
Make = Callable[[str, Any], Any]
Call = Callable[[Any], Any]


def plans(events: list[wire.Event]) -> Iterator[FaultPlan]:
    """One cut behind every event; each answer is cut three times."""
    kinds = itertools.cycle(CUTS)
    for number in range(1, len(events)):
        yield FaultPlan(*(next(kinds)(at_event=place) for place in (number, max(number // 2, 1), 1)))


@pytest.mark.parametrize(("make", "call", "events"), CALLS)
def test_answers_are_the_same_wherever_they_are_cut(
    make: Make, call: Call, events: list[wire.Event], http: Any
) -> None:
    answer = Answer(wire.blocks(events))
    with Scripted(rest=lambda _: answer) as upstream, Served(upstream) as served, FaultProxy(served.url) as proxy:
        direct = call(make(upstream.url, http))
        before = len(upstream.requests)
        for number, plan in enumerate(plans(events), 1):
            proxy.plan = plan
            assert call(rl.wrap(make(upstream.url, http), relay=proxy.url, policy=policy())) == direct
            assert len(upstream.requests) == before + number == before + len(served.logs)
    assert any(request.fault for request in proxy.requests)
    assert "relay-upstream" not in upstream.requests[-1].headers
    assert upstream.requests[-1].headers.items() >= _credentials(upstream.requests[0].headers).items()


def _credentials(headers: dict[str, str]) -> dict[str, str]:
    found = {name: value for name, value in headers.items() if "s3cret" in value}
    assert found
    return found


@FOREIGN_GENERATORS
@pytest.mark.parametrize("anyio_backend", LOOPS)
@pytest.mark.parametrize(("make", "call", "events"), ASYNC_CALLS)
async def test_answers_are_the_same_wherever_they_are_cut_async(
    make: Make, call: Callable[[Any], Awaitable[Any]], events: list[wire.Event]
) -> None:
    answer = Answer(wire.blocks(events))
    with Scripted(rest=lambda _: answer) as upstream, Served(upstream) as served, FaultProxy(served.url) as proxy:
        async with async_client(FAMILIES[-1]) as http:
            direct = await call(make(upstream.url, http))
            for number, plan in enumerate(itertools.islice(plans(events), 0, None, 3), 1):
                proxy.plan = plan
                assert await call(rl.wrap(make(upstream.url, http), relay=proxy.url, policy=policy())) == direct
                assert len(upstream.requests) == number + 1 == len(served.logs) + 1


@pytest.mark.parametrize("query", ["", "?key=s3cret&alt=sse"])
@pytest.mark.parametrize("family", FAMILIES)
def test_bytes_are_the_same_wherever_they_are_cut(family: str, query: str) -> None:
    answer = Answer(wire.blocks(wire.chat()))
    with (
        Scripted(rest=lambda _: answer) as upstream,
        Served(upstream) as served,
        FaultProxy(served.url) as proxy,
        client_of(family) as plain,
    ):
        asked = {"json": {"model": "m", "stream": True, "messages": []}, "headers": {"authorization": "Bearer alice"}}
        path = f"/v1/chat/completions{query}"
        whole = plain.post(f"{served.url}{path}", **asked).content
        wrapped = rl.wrap(plain, relay=proxy.url, policy=policy())
        kinds = itertools.cycle(CUTS)
        for place in range(1, len(whole), 173):
            proxy.plan = FaultPlan(next(kinds)(at_byte=place), next(kinds)(at_byte=1))
            with wrapped.stream("POST", f"{upstream.url}{path}", **asked) as response:
                assert response.read() == whole
                report = rl.inspect(response).report
            assert (report.fidelity, len(report.drops)) == ("exact", 2)
        assert len(upstream.requests) == len(served.logs)


def test_background_response_is_resumed_at_the_relay(http: Any) -> None:
    events = wire.responses()
    with (
        Scripted(Answer(wire.blocks(events))) as upstream,
        Served(upstream) as served,
        FaultProxy(served.url, FaultPlan(Fault.rst(at_event=4), Fault.end(at_event=2))) as proxy,
    ):
        api = rl.wrap(openai(upstream.url, http), relay=proxy.url, upgrade=True, policy=policy())
        assert [event.to_dict() for event in responses(api)] == [event.json for event in events]
    assert [request.path.partition("_streams/")[0] for request in proxy.requests] == ["/v1/responses", "/", "/"]


def test_background_response_that_the_relay_has_lost_is_read_at_its_provider(http: Any) -> None:
    events = wire.responses()
    whole: list[Any] = [event.json for event in events]
    with (
        Scripted(Answer(wire.blocks(events)), Answer.json(json.dumps(wire.response()))) as upstream,
        Served(upstream) as served,
        FaultProxy(served.url, FaultPlan(Fault.rst(at_event=4))) as proxy,
    ):
        api = rl.wrap(openai(upstream.url, http), relay=proxy.url, upgrade=True, policy=policy())
        stream = api.responses.create(model="m", input="?", stream=True)
        got = [next(stream)]
        served.until(lambda: [log.state for log in served.logs] == [State.COMPLETE])
        (log,) = served.logs
        served.relay._store.delete(log.head.scope, log.head.id)
        got += stream
    assert [event.type for event in got][:4] == [event["type"] for event in whole][:4]
    finished: Any = got[-1].to_dict()
    assert [part["text"] for part in finished["response"]["output"][0]["content"]] == [wire.TEXT]
    assert [request.method for request in upstream.requests] == ["POST", "GET"]


def test_calls_that_do_not_stream_go_to_their_provider(http: Any) -> None:
    answer = Answer.json('{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[]}')
    with Scripted(answer) as upstream, Served(upstream) as served, FaultProxy(served.url) as proxy:
        api = rl.wrap(openai(upstream.url, http), relay=proxy.url, policy=policy())
        assert api.chat.completions.create(model="m", messages=[]).id == "c"
        assert not proxy.requests


def test_retry_of_a_request_that_was_lost_is_the_same_request(http: Any) -> None:
    """The relay has the request, and the client's connection fails before it has heard of an answer."""
    gate = Gate(wire.blocks(wire.chat()))
    with gate, Scripted(gate.answer) as upstream, Served(upstream) as served, FaultProxy(served.url) as proxy:
        api = rl.wrap(openai(upstream.url, http, timeout=1.0, max_retries=2), relay=proxy.url, policy=policy())
        found: list[Any] = []
        asking = threading.Thread(target=lambda: found.extend(chat(api)))
        asking.start()
        served.until(lambda: len(proxy.requests) >= 2 and served.readers == 1)
        gate.open()
        asking.join(20)
        assert len(found) == len(wire.chat()) - 1
        assert len(upstream.requests) == 1
    assert len({request.headers["idempotency-key"] for request in proxy.requests}) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_relay_that_is_not_there_is_named_and_not_gone_around(family: str) -> None:
    with Scripted() as gone:
        pass
    with Scripted() as upstream, client_of(family) as plain:
        with pytest.raises(Exception, match=f"the relay at {gone.url} cannot be reached") as caught:
            rl.wrap(plain, relay=gone.url).post(f"{upstream.url}/v1/chat/completions", json={"stream": True})
        assert type(caught.value).__name__ == "ConnectError"
        assert not upstream.requests


def test_relay_that_is_not_there_is_the_connections_failure_to_an_sdk(http: Any) -> None:
    with Scripted() as gone:
        pass
    with Scripted() as upstream, pytest.raises(APIConnectionError) as caught:
        chat(rl.wrap(openai(upstream.url, http), relay=gone.url))
    assert f"the relay at {gone.url}" in str(caught.value.__cause__)


def test_key_is_not_handed_to_another_provider(http: Any) -> None:
    with Scripted() as other, Scripted() as upstream, Served(other) as served:
        api = rl.wrap(openai(upstream.url, http), relay=served.url)
        with pytest.raises(APIStatusError, match="was meant for") as caught:
            chat(api)
    assert caught.value.status_code == 421
    assert other.url in str(caught.value)
    assert upstream.url in str(caught.value)
    assert not other.requests


@pytest.mark.parametrize(("base", "prefix"), [("/openai", "/openai"), ("", "/openai"), ("/openai/v1", "/openai/v1")])
def test_path_of_the_upstream_is_not_added_twice(base: str, prefix: str, http: Any) -> None:
    with Scripted(Answer(wire.blocks(wire.chat()))) as upstream, Served(f"{upstream.url}{base}") as served:
        api = rl.wrap(openai(f"{upstream.url}/openai", http), relay=f"{served.url}/", policy=policy())
        chat(api)
    assert [request.path for request in upstream.requests] == ["/openai/v1/chat/completions"]


def test_relay_in_an_application_of_somebody_elses(http: Any) -> None:
    from starlette.applications import Starlette
    from starlette.routing import Mount

    with (
        Scripted(Answer(wire.blocks(wire.chat()))) as upstream,
        Served(upstream, app=lambda relay: Starlette(routes=[Mount("/llm", relay)])) as served,
        FaultProxy(f"{served.url}/llm", FaultPlan(Fault.rst(at_event=3))) as proxy,
    ):
        found = chat(rl.wrap(openai(upstream.url, http), relay=proxy.url, policy=policy()))
        served.run(served.relay.aclose())
    assert len(found) == len(wire.chat()) - 1
    assert [request.path[:14] for request in proxy.requests] == ["/llm/v1/chat/c", "/llm/_streams/"]


def test_cancel_stops_the_generation_and_close_does_not(http: Any) -> None:
    said = wire.blocks(wire.chat())
    with Scripted(Answer(said[:3], End.SILENT), Answer(said[:3], End.SILENT)) as upstream, Served(upstream) as served:
        api = rl.wrap(openai(upstream.url, http), relay=served.url, policy=policy())
        with api.chat.completions.create(model="m", messages=[], stream=True) as stream:
            next(stream)
            stream.close()
        served.until(lambda: served.readers == 0 and served.reading == 0)
        assert [log.state for log in served.logs] == [State.RUNNING]
        with api.chat.completions.create(model="m", messages=[], stream=True) as stream:
            next(stream)
            rl.inspect(stream).cancel()
        assert upstream.gone.acquire(timeout=10)
        assert [log.state for log in served.logs] == [State.RUNNING, State.CANCELLED]


def test_cancel_of_an_answer_that_is_complete_does_not_forget_it(http: Any) -> None:
    with Scripted(rest=lambda _: Answer(wire.blocks(wire.chat()))) as upstream, Served(upstream) as served:
        api = rl.wrap(openai(upstream.url, http), relay=served.url, policy=policy())
        stream = api.chat.completions.create(model="m", messages=[], stream=True, extra_headers=KEY)
        first = list(stream)
        rl.inspect(stream).cancel()
        assert chat(api, extra_headers=KEY) == first
        assert len(upstream.requests) == 1


def test_the_same_key_gives_the_same_answer(http: Any) -> None:
    with Scripted(Answer(wire.blocks(wire.chat()))) as upstream, Served(upstream) as served:
        api = rl.wrap(openai(upstream.url, http), relay=served.url, policy=policy())
        assert chat(api, extra_headers=KEY) == chat(api, extra_headers=KEY)
        assert len(upstream.requests) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpoint_of_a_relayed_answer_is_good_in_another_process(family: str) -> None:
    said = wire.blocks(wire.chat())
    asked: dict[str, Any] = {"json": {"model": "m", "stream": True, "messages": []}, "headers": {"authorization": "x"}}
    with Scripted(Answer(said)) as upstream, Served(upstream) as served, client_of(family) as plain:
        wrapped = rl.wrap(plain, relay=served.url, policy=policy())
        with wrapped.stream("POST", f"{upstream.url}/v1/chat/completions", **asked) as response:
            handle = rl.inspect(response)
            assert handle.checkpoint.events == 0  # from here on exact
            pieces = response.iter_raw()
            first = next(pieces)
            checkpoint = rl.Checkpoint.from_json(handle.checkpoint.to_json())
        with rl.resume_sse(wrapped, checkpoint, headers=asked["headers"]) as rest:
            told = [event.data for event in rest]
        assert first.startswith(b"id: 1\n")
        assert told == [event.data for event in wire.chat()][checkpoint.events :]
        assert len(upstream.requests) == 1
