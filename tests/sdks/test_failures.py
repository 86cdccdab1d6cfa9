"""Failures inside a stream, through wrapped SDKs: what passes is not seen, and what does not is raised as ever."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

import resumable_llm as rl
from tests.sdks import cuts
from tests.sockets import wire
from tests.sockets.clients import client, policy
from tests.sockets.scripted import Answer, End, Scripted

anthropic = pytest.importorskip("anthropic", reason="the environment for openai 2 has no anthropic")
groq = pytest.importorskip("groq", reason="the environment for openai 2 has no groq")

pytestmark = pytest.mark.slow

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "?"}]}


def error(name: str | None = None, **said: Any) -> bytes:
    return wire.Event(json.dumps({"error": said}), name).block


# What each SDK is asked, and all that there is to compare


def openai_chat(url: str, http: Any) -> Iterator[Any]:
    api = OpenAI(base_url=url, api_key="x", http_client=http)
    return (chunk.to_dict() for chunk in api.chat.completions.create(**CHAT, stream=True))


def openai_helper(url: str, http: Any) -> Iterator[Any]:
    with OpenAI(base_url=url, api_key="x", http_client=http).chat.completions.stream(**CHAT) as stream:
        yield from (event.type for event in stream)


def openai_responses(url: str, http: Any) -> Iterator[Any]:
    api = OpenAI(base_url=url, api_key="x", http_client=http)
    return (event.to_dict() for event in api.responses.create(model="m", input="?", stream=True))


def anthropic_messages(url: str, http: Any) -> Iterator[Any]:
    api = anthropic.Anthropic(base_url=url, api_key="x", http_client=http)
    return (event.to_dict() for event in api.messages.create(**CHAT, max_tokens=9, stream=True))


def groq_chat(url: str, http: Any) -> Iterator[Any]:
    api = groq.Groq(base_url=url, api_key="x", http_client=http)
    return (chunk.to_dict() for chunk in api.chat.completions.create(**CHAT, stream=True))


Run = Callable[[str, Any], Iterator[Any]]
CHUNKS, MESSAGES, RESPONSES = (
    wire.blocks(events) for events in (wire.chat(), wire.messages(), wire.responses(background=False))
)
DONE = CHUNKS[-1]
OVERLOADED = {"message": "Overloaded", "type": "server_error", "param": None, "code": "server_is_overloaded"}
QUOTA = {"message": "You exceeded your quota", "type": "insufficient_quota", "code": "insufficient_quota"}


def anthropic_error(kind: str) -> bytes:
    said = {"type": "error", "error": {"type": kind, "message": "No"}, "request_id": "req_7"}
    return wire.Event(json.dumps(said), "error").block


def flat_error(number: int, code: str) -> bytes:
    said = {"type": "error", "sequence_number": number, "code": code, "message": "No", "param": None}
    return wire.Event(json.dumps(said), "error").block


def failed(number: int, code: str) -> bytes:
    response = {**wire.response("failed", background=False), "error": {"code": code, "message": "No"}}
    said = {"type": "response.failed", "sequence_number": number, "response": response}
    return wire.Event(json.dumps(said), "response.failed").block


def outcome(run: Run, url: str, http: Any) -> tuple[list[Any], tuple[Any, ...] | None]:
    """All that a user can see of it."""
    got: list[Any] = []
    try:
        got.extend(run(url, http))  # keeps what came before an error
    except (openai.APIError, anthropic.APIError, groq.APIError) as raised:
        about = (type(raised), raised.message, raised.body, getattr(raised, "status_code", None), str(raised))
        return got, (*about, type(raised.__cause__))
    return got, None


SURFACED = [
    ("openai", openai_chat, "httpx2", [error(**OVERLOADED), DONE], 3),
    ("openai, behind text", openai_chat, "httpx2", [*CHUNKS[:3], error(**OVERLOADED), DONE], 1),
    ("openai, quota", openai_chat, "httpx2", [error(**QUOTA)], 1),
    ("openai, no object", openai_chat, "httpx2", [*CHUNKS[:3], wire.Event('{"error": "boom"}').block], 1),
    ("openai, stream()", openai_helper, "httpx2", [*CHUNKS[:3], error(**OVERLOADED), DONE], 1),
    ("openai, OpenRouter's chunk", openai_chat, "httpx2", [*CHUNKS[:3], error(code=502, message="Bad gateway")], 1),
    ("openai, aborted", openai_chat, "httpx2", [*CHUNKS[:3], CHUNKS[-2].replace(b'"stop"', b'"abort"'), DONE], 1),
    ("anthropic", anthropic_messages, "httpx2", [anthropic_error("overloaded_error")], 3),
    ("anthropic, behind text", anthropic_messages, "httpx2", [*MESSAGES[:5], anthropic_error("overloaded_error")], 1),
    ("anthropic, lasting", anthropic_messages, "httpx2", [anthropic_error("invalid_request_error")], 1),
    ("groq, named", groq_chat, "httpx", [error("error", **OVERLOADED)], 3),
    ("groq, behind text", groq_chat, "httpx", [*CHUNKS[:3], error("error", **OVERLOADED)], 1),
    ("groq, a chunk", groq_chat, "httpx", [*CHUNKS[:3], error(**QUOTA), DONE], 1),
    ("responses", openai_responses, "httpx2", [*RESPONSES[:5], flat_error(5, "invalid_prompt"), failed(6, "x")], 1),
    ("responses, no more", openai_responses, "httpx2", [*RESPONSES[:5], flat_error(5, "invalid_prompt")], 1),
    ("responses, failed", openai_responses, "httpx2", [*RESPONSES[:5], failed(5, "server_error")], 1),
]


@pytest.mark.parametrize(
    ("run", "family", "pieces", "requests"),
    [pytest.param(*case, id=name) for name, *case in SURFACED],
)
@pytest.mark.parametrize("end", [End.CLEAN, End.RST])
def test_what_does_not_pass_is_raised_as_ever(
    run: Run, family: str, pieces: list[bytes], requests: int, end: End
) -> None:
    with Scripted(rest=lambda request: Answer(pieces)) as server, client(family) as http:
        plain = outcome(run, server.url, http)
    with Scripted(rest=lambda request: Answer(pieces, end)) as server, client(family) as http:
        assert outcome(run, server.url, rl.wrap(http, policy=policy())) == plain
        assert len(server.requests) == requests


def test_what_follows_a_failure_that_might_have_passed() -> None:
    pieces = [*RESPONSES[:5], flat_error(5, "server_is_overloaded"), failed(6, "server_is_overloaded")]
    with Scripted(rest=lambda request: Answer(pieces)) as server, client("httpx2") as http:
        plain = outcome(openai_responses, server.url, http)
        assert outcome(openai_responses, server.url, rl.wrap(http, policy=policy())) == plain


FIRST = [
    ("openai", openai_chat, "httpx2", CHUNKS, [error(**OVERLOADED), DONE]),
    ("anthropic", anthropic_messages, "httpx2", MESSAGES, [anthropic_error("overloaded_error")]),
    ("groq", groq_chat, "httpx", CHUNKS, [b": comment\n\n", error("error", **OVERLOADED)]),
    ("responses", openai_responses, "httpx2", RESPONSES, [flat_error(0, "server_is_overloaded")]),
]


@pytest.mark.parametrize(
    ("run", "family", "whole", "refusal"),
    [pytest.param(*case, id=name) for name, *case in FIRST],
)
def test_what_passes_is_not_seen(run: Run, family: str, whole: list[bytes], refusal: list[bytes]) -> None:
    with Scripted(rest=lambda request: Answer(whole)) as server, client(family) as http:
        plain = outcome(run, server.url, http)
    with Scripted(Answer(refusal), Answer(refusal, End.SILENT), Answer(whole)) as server, client(family) as http:
        assert outcome(run, server.url, rl.wrap(http, policy=policy())) == plain
        assert len({request.body for request in server.requests}) == 1
        assert len({request.headers["idempotency-key"] for request in server.requests}) == 1
        assert len(server.requests) == 3


def test_a_background_response_goes_on_behind_a_failure_that_passes() -> None:
    events = wire.responses()
    first = Answer([*wire.blocks(events[:6]), flat_error(6, "server_error")])
    with Scripted(first, rest=cuts.starting_after(events)) as server, client("httpx2") as http:
        api = OpenAI(base_url=server.url, api_key="x", http_client=rl.wrap(http, policy=policy()))
        stream = api.responses.create(model="m", input="?", background=True, stream=True)
        assert [event.to_dict() for event in stream] == [event.json for event in events]
        assert [request.query.get("starting_after") for request in server.requests] == [None, "5"]


# Behind the hosts of services


class Elsewhere(httpx.HTTPTransport):
    """Sends what is meant for any host to a server of ours."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = httpx.URL(url)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.url = request.url.copy_with(scheme="http", host=self._url.host, port=self._url.port)
        return super().handle_request(request)


def test_groq_by_its_host() -> None:
    early = json.loads(CHUNKS[2][6:]) | {"x_groq": {"id": "req_7", "error": "over capacity"}}
    pieces = [*CHUNKS[:2], wire.Event(json.dumps(early)).block, DONE]
    with Scripted(rest=lambda request: Answer(pieces)) as server:
        with client("httpx") as plain:
            expected = outcome(groq_chat, server.url, plain)
        http = httpx.Client(transport=rl.httpx.ResumableTransport(Elsewhere(server.url)))
        with http, groq.Groq(api_key="x", http_client=http) as api:
            stream = api.chat.completions.create(**CHAT, stream=True)
            assert [chunk.to_dict() for chunk in stream] == expected[0]
            assert rl.inspect(stream).report.dialect == "groq_chat"
            assert rl.inspect(stream).report.end_proved


@pytest.mark.parametrize(
    ("base", "comment", "name"),
    [
        ("https://api.deepseek.com", b": keep-alive\n\n", "deepseek_chat"),
        ("https://openrouter.ai/api/v1", b": OPENROUTER PROCESSING\n\n", "openrouter_chat"),
    ],
)
@pytest.mark.parametrize("numbered", [True, False])
def test_comments_and_ids_together(base: str, comment: bytes, name: str, numbered: bool) -> None:
    """The SDK's decoder would make an event of a comment once it has seen an id, and fail to read it."""
    events = wire.numbered(wire.chat()) if numbered else wire.chat()
    pieces = [piece for block in wire.blocks(events) for piece in (comment, block)]
    with Scripted(rest=lambda request: Answer(pieces)) as server:
        http = httpx.Client(transport=rl.httpx.ResumableTransport(Elsewhere(server.url)))
        with http, groq.Groq(base_url=base, api_key="x", http_client=http) as api:
            stream = api.chat.completions.create(**CHAT, stream=True)
            assert [chunk.to_dict() for chunk in stream] == [event.json for event in events[:-1]]
            assert rl.inspect(stream).report.dialect == name
