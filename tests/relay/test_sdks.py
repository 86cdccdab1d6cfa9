"""Official clients pointed at the relay, as they are and wrapped, over connections that are cut."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from anthropic import Anthropic, APIStatusError
from openai import APIError, OpenAI

import resumable_llm as rl
from resumable_llm.testing import Fault, FaultPlan, FaultProxy
from tests.relay.serve import AUTH, CHAT, CHAT_PATH, Served
from tests.sdks import cuts, formats
from tests.sockets import wire
from tests.sockets.clients import FAMILIES, policy
from tests.sockets.clients import client as client_of
from tests.sockets.scripted import Answer, End, Scripted

pytestmark = pytest.mark.slow

CUTS = (Fault.rst, Fault.fin, Fault.end)


@pytest.fixture(scope="module")
def http() -> Iterator[Any]:
    with client_of(FAMILIES[-1]) as made:
        yield made


def openai(url: str, http: Any) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key="s3cret", http_client=http, max_retries=0)


def anthropic(url: str, http: Any) -> Anthropic:
    return Anthropic(base_url=url, api_key="s3cret", http_client=http, max_retries=0)


def chat(api: Any) -> Any:
    stream = api.chat.completions.create(model="m", messages=[], stream=True)
    return [chunk.to_dict() for chunk in stream]


def responses(api: Any) -> Any:
    return [event.to_dict() for event in api.responses.create(model="m", input="?", stream=True)]


def messages(api: Any) -> Any:
    stream = api.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": "?"}], stream=True)
    return [event.to_dict() for event in stream]


# Before Python 3.11 openai's clients are of httpx, and anthropic's of httpx2.
ONE_FAMILY = pytest.mark.skipif(sys.version_info < (3, 11), reason="one HTTP client for both SDKs needs Python 3.11")

CALLS = [
    pytest.param(openai, chat, wire.chat(), id="openai chat"),
    pytest.param(openai, responses, wire.responses(background=False), id="openai responses"),
    pytest.param(anthropic, messages, wire.messages(), id="anthropic", marks=ONE_FAMILY),
]
Make = Callable[[str, Any], Any]
Call = Callable[[Any], Any]


@pytest.mark.parametrize(("make", "call", "events"), CALLS)
def test_plain_client_just_works(make: Make, call: Call, events: list[wire.Event], http: Any) -> None:
    # An upstream that pings with comments, and has ids and times of its own.
    blocks = [b": ping\n\n" + b"retry: 9\nid: x\n" + block + b": ping\n\n" for block in wire.blocks(events)]
    with Scripted(Answer(wire.blocks(events)), Answer(blocks)) as upstream, Served(upstream) as served:
        direct = call(make(upstream.url, http))
        assert len(direct) > len(wire.WORDS)
        assert call(make(served.url, http)) == direct


@pytest.mark.parametrize(("make", "call", "events"), CALLS)
def test_wrapped_client_survives_cuts_everywhere(make: Make, call: Call, events: list[wire.Event], http: Any) -> None:
    answer = Answer(wire.blocks(events))
    with Scripted(rest=lambda _: answer) as upstream, Served(upstream) as served, FaultProxy(served.url) as proxy:
        whole = call(make(served.url, http))
        kinds = itertools.cycle(CUTS)
        # One cut behind every event; each answer is cut three times.
        plans = [(number, max(number // 2, 1), 1) for number in range(1, len(events))]
        for plan in plans:
            proxy.plan = FaultPlan(*(next(kinds)(at_event=number) for number in plan))
            before = len(upstream.requests)
            assert call(rl.wrap(make(proxy.url, http), policy=policy())) == whole
            assert len(upstream.requests) == before + 1


def test_bytes_are_the_same_wherever_the_connection_is_cut(http: Any) -> None:
    answer = Answer(wire.blocks(wire.chat()))
    with Scripted(rest=lambda _: answer) as upstream, Served(upstream) as served, FaultProxy(served.url) as proxy:
        whole = http.post(f"{served.url}{CHAT_PATH}", json=CHAT, headers=AUTH).content
        kinds = itertools.cycle(CUTS)
        wrapped = rl.wrap(http, policy=policy())
        places = range(1, len(whole), 61)
        for place in places:
            proxy.plan = FaultPlan(next(kinds)(at_byte=place))
            with wrapped.stream("POST", f"{proxy.url}{CHAT_PATH}", json=CHAT, headers=AUTH) as response:
                assert response.read() == whole
        assert len(upstream.requests) == len(places) + 1


def test_wrapped_client_resumes_a_background_response_through_the_relay(http: Any) -> None:
    events = wire.responses()
    with (
        Scripted(Answer(wire.blocks(events)), rest=cuts.starting_after(events)) as upstream,
        Served(upstream) as served,
        FaultProxy(served.url, FaultPlan(Fault.rst(at_event=4), Fault.end(at_event=2))) as proxy,
    ):
        api = rl.wrap(openai(proxy.url, http), policy=policy())
        stream = api.responses.create(model="m", input="?", background=True, stream=True)
        assert [event.to_dict() for event in stream] == [event.json for event in events]


BROKEN = [
    pytest.param(openai, chat, wire.chat(), APIError, id="openai chat"),
    pytest.param(openai, responses, wire.responses(background=False), APIError, id="openai responses"),
    pytest.param(anthropic, messages, wire.messages(), APIStatusError, id="anthropic", marks=ONE_FAMILY),
]


@pytest.mark.parametrize("wraps", [False, True], ids=["plain", "wrapped"])
@pytest.mark.parametrize(("make", "call", "events", "error"), BROKEN)
def test_sdk_raises_what_the_relay_reports(
    make: Make, call: Call, events: list[wire.Event], error: type[Exception], http: Any, wraps: bool
) -> None:
    with Scripted(Answer(wire.blocks(events)[:5], End.RST)) as upstream, Served(upstream) as served:
        api = make(served.url, http)
        with pytest.raises(error) as caught:
            call(rl.wrap(api, policy=policy()) if wraps else api)
    assert isinstance(caught.value, APIError | APIStatusError)
    assert "upstream_interrupted" in str(caught.value.body)


@pytest.mark.parametrize(("make", "call", "events", "error"), BROKEN)
def test_sdk_sees_the_refusals_of_its_provider(
    make: Make, call: Call, events: list[wire.Event], error: type[Exception], http: Any
) -> None:
    refused = Answer.json('{"type":"error","error":{"type":"invalid_request_error","message":"no such model"}}', 404)
    with (
        Scripted(refused) as upstream,
        Served(upstream) as served,
        pytest.raises(Exception, match="no such model") as caught,
    ):
        call(make(served.url, http))
    assert caught.value.status_code == 404  # type: ignore[attr-defined]


def test_google_reads_answers_and_errors(http: Any) -> None:
    genai = pytest.importorskip("google.genai", reason="google-genai needs Python 3.11")
    errors = pytest.importorskip("google.genai.errors")
    events = formats.gemini()
    with (
        Scripted(Answer(wire.blocks(events)), Answer(wire.blocks(events)[:3], End.RST)) as upstream,
        Served(upstream) as served,
    ):
        api = genai.Client(api_key="s3cret", http_options={"base_url": served.url, "httpx_client": http})
        said = [chunk.text for chunk in api.models.generate_content_stream(model="m", contents="?")]
        assert said == list(wire.WORDS)
        (log,) = served.logs
        place = f"{served.url}/_streams/{log.head.id}?after=2"
        rest = httpx.get(place, headers={"x-goog-api-key": "s3cret"})
        assert rest.content.startswith(b"id: 3\ndata: ")
        heard: list[str] = []
        with pytest.raises(errors.APIError, match="cannot_resume"):
            heard.extend(chunk.text for chunk in api.models.generate_content_stream(model="m", contents="?"))
    assert heard == list(wire.WORDS[:3])
