"""``upgrade=True`` under the openai SDK: a response that would have been lost with its connection is resumed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI

import resumable_llm as rl
from tests.sdks import cuts
from tests.sockets import wire
from tests.sockets.clients import client, policy
from tests.sockets.scripted import Answer, End, Scripted

pytestmark = [pytest.mark.slow, pytest.mark.openai]

EVENTS = wire.responses()
OPENAI3 = int(openai.__version__.split(".")[0]) >= 3
FAMILY = "httpx2" if OPENAI3 else "httpx"
ASKED: dict[str, Any] = {"model": "m", "input": "naïve 🙂"}


@pytest.fixture
def http() -> Iterator[Any]:
    with rl.wrap(client(FAMILY), policy=policy(), upgrade=True) as made:
        yield made


def sdk(http: Any, url: str, **options: Any) -> OpenAI:
    return OpenAI(base_url=url, api_key="s3cret", http_client=http, **options)


def read(api: OpenAI, **more: Any) -> tuple[list[Any], Any]:
    with api.responses.stream(**ASKED, **more) as stream:
        return [event.type for event in stream], stream.get_final_response().to_dict()


@pytest.mark.parametrize("count", range(1, len(EVENTS)))
def test_cut_and_resumed(http: Any, count: int) -> None:
    rest = cuts.starting_after(EVENTS)
    with Scripted(rest=rest) as server, client(FAMILY) as plain:
        unbroken = read(sdk(plain, server.url), background=True)
    with Scripted(Answer(wire.blocks(EVENTS[:count]), cuts.ENDS[count % 3]), rest=rest) as server:
        assert read(sdk(http, server.url)) == unbroken
        first, second = server.requests
        assert json.loads(first.body) == {**ASKED, "stream": True, "background": True, "store": True}
        assert first.headers["content-length"] == str(len(first.body))
        assert "transfer-encoding" not in first.headers
        assert (second.method, second.path) == ("GET", "/responses/resp_7")
        assert second.query == {"stream": "true", "starting_after": str(count - 1)}
        assert second.body == b""


def test_the_key_is_kept_over_the_sdks_own_retries(http: Any) -> None:
    refusal = Answer.json("{}", 500, headers={"retry-after-ms": "1"})
    with Scripted(refusal, rest=cuts.starting_after(EVENTS)) as server:
        assert list(sdk(http, server.url).responses.create(**ASKED, stream=True))
        first, second = server.requests
        assert first.body == second.body
        assert first.headers["idempotency-key"] == second.headers["idempotency-key"]


def test_what_is_in_the_background_already_is_sent_as_it_is(http: Any) -> None:
    with Scripted(rest=cuts.starting_after(EVENTS)) as server, client(FAMILY) as plain:
        for each in (plain, http):
            list(sdk(each, server.url).responses.create(**ASKED, background=True, stream=True))
        first, second = server.requests
        assert first.body == second.body


def test_what_does_not_stream_is_sent_as_it_is(http: Any) -> None:
    with Scripted(rest=lambda request: Answer.json(json.dumps(wire.response()))) as server:
        sdk(http, server.url).responses.create(**ASKED)
        sdk(http, server.url).responses.retrieve("resp_7")
        assert [json.loads(request.body or b"{}") for request in server.requests] == [ASKED, {}]


@pytest.mark.parametrize("more", [{"store": False}, {"background": False}])
def test_a_contradiction_is_refused_before_anything_is_sent(http: Any, more: dict[str, Any]) -> None:
    """openai 3 lets it through as it is; openai 2 takes every error for the connection's, tries again and wraps it."""
    with Scripted() as server:
        with pytest.raises((rl.UpgradeRefused, openai.APIConnectionError)) as raised:
            sdk(http, server.url, max_retries=0).responses.create(**ASKED, **more, stream=True)
        refused = raised.value if OPENAI3 else raised.value.__cause__
        assert isinstance(refused, rl.UpgradeRefused)
        assert next(iter(more)) in str(refused)
        assert not server.requests


def test_a_server_that_cannot_do_it_says_so(http: Any) -> None:
    refusal = Answer.json('{"error":{"message":"background is not supported","code":"x"}}', 400)
    with Scripted(refusal) as server, pytest.raises(openai.BadRequestError, match="not supported"):
        sdk(http, server.url).responses.create(**ASKED, stream=True)


def test_other_requests_are_left_alone(http: Any) -> None:
    events = wire.chat()
    with Scripted(Answer(wire.blocks(events), End.CLEAN)) as server:
        list(sdk(http, server.url).chat.completions.create(model="m", messages=[], stream=True))
        assert json.loads(server.requests[0].body) == {"model": "m", "messages": [], "stream": True}
