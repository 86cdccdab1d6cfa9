from __future__ import annotations

import json
import socket
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import httpx
import pytest

import resumable_llm as rl
from resumable_llm.core.actions import Send
from resumable_llm.core.framing import JSON_LINES
from resumable_llm.core.model import RequestPlan
from resumable_llm.dialects import ANY_EVENT_STREAM, LastEventId, named
from resumable_llm.drivers.exchange import CANCEL_SECONDS
from resumable_llm.transports import call as calls
from resumable_llm.transports.call import Calls, Owner
from tests.in_memory import ACCEPT, CHAT, CHAT_URL, EVENTS_URL


def asked(**options: Any) -> httpx.Request:
    return httpx.Request("POST", CHAT_URL, **{"json": CHAT, **options})


def prepared(known: Calls, request: httpx.Request) -> calls.Call:
    call = known.prepare(request)
    assert call is not None
    return call


class Client:
    pass


def test_a_client_that_nobody_else_holds_is_alone() -> None:
    client = Client()
    owner = Owner(client)
    assert not owner.is_alone()
    del client
    assert owner.is_alone()


def test_nobody_is_alone_where_references_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = Owner(Client())
    monkeypatch.delattr(sys, "getrefcount")
    assert not owner.is_alone()


def test_a_call_that_asks_for_no_stream_is_none() -> None:
    assert Calls().prepare(httpx.Request("GET", EVENTS_URL)) is None
    assert Calls().prepare(asked(json={**CHAT, "stream": False})) is None


def test_a_call_is_named_and_its_request_left_alone() -> None:
    request = asked(headers={"accept-encoding": "gzip"})
    before = request.headers.copy()
    call = prepared(Calls(), request)
    assert call.dialect.name == "openai_chat"
    assert call.key is not None
    assert call.plan.header("idempotency-key") == call.plan.header("x-conversation-id") == call.key
    assert call.plan.header("accept-encoding") == "identity"
    assert call.plan.body == request.content
    assert request.headers == before


RESPONSES_URL = "https://api.example/v1/responses"


def test_a_call_is_upgraded_if_that_is_wanted() -> None:
    request = httpx.Request("POST", RESPONSES_URL, json={"stream": True})
    plain, upgraded = prepared(Calls(), request), prepared(Calls(upgrade=True), request)
    assert plain.plan.body == request.content
    assert json.loads(upgraded.plan.body or b"") == {"stream": True, "background": True, "store": True}
    assert upgraded.plan.header("content-length") == str(len(upgraded.plan.body or b""))
    assert upgraded.plan.header("idempotency-key") == upgraded.key is not None


def test_an_upgrade_changes_nothing_else() -> None:
    known = Calls(upgrade=True)
    request = asked()
    assert prepared(known, request).plan.body == request.content  # nothing would make it resumable
    assert known.prepare(httpx.Request("POST", RESPONSES_URL, json={"stream": False})) is None


def test_an_upgrade_may_be_refused() -> None:
    request = httpx.Request("POST", RESPONSES_URL, json={"stream": True, "store": False})
    with pytest.raises(rl.UpgradeRefused, match="store: false"):
        Calls(upgrade=True).prepare(request)
    assert prepared(Calls(), request).plan.body == request.content


def test_an_upgraded_call_keeps_its_name_when_it_is_retried() -> None:
    known = Calls(upgrade=True)
    asked_again = [
        httpx.Request("POST", RESPONSES_URL, json={"stream": True}, headers={"x-stainless-retry-count": str(number)})
        for number in range(3)
    ]
    assert len({refused(known, request) for request in asked_again}) == 1


def test_each_call_has_a_name_of_its_own() -> None:
    known = Calls()
    assert prepared(known, asked()).key != prepared(known, asked()).key


def test_the_callers_own_name_wins() -> None:
    call = prepared(Calls(), asked(headers={"Idempotency-Key": "mine"}))
    assert call.key == "mine"
    assert call.plan.header("x-conversation-id") == "mine"


def test_a_get_needs_no_name() -> None:
    call = prepared(Calls(), httpx.Request("GET", EVENTS_URL, headers=ACCEPT))
    assert call.key is None
    assert call.plan.header("idempotency-key") is None


def retry(number: int, **options: Any) -> httpx.Request:
    return asked(headers={"x-stainless-retry-count": str(number)}, **options)


def refused(known: Calls, request: httpx.Request) -> str:
    """The key of a call that no stream came of."""
    call = prepared(known, request)
    known.refused(call)
    assert call.key is not None
    return call.key


def test_an_sdks_own_retries_keep_the_name() -> None:
    known = Calls()
    assert len({refused(known, retry(number)) for number in range(3)}) == 1


def test_another_call_is_no_retry() -> None:
    known = Calls()
    first = refused(known, retry(0))
    assert prepared(known, retry(0)).key != first
    assert prepared(known, retry(1, json={**CHAT, "model": "other"})).key != first
    assert prepared(known, retry(1)).key == first
    assert prepared(known, retry(1)).key != first


def test_a_call_that_streams_is_not_retried() -> None:
    known = Calls()
    first = prepared(known, retry(0))
    assert prepared(known, retry(1)).key != first.key


def test_without_a_name_there_is_none_to_be_kept() -> None:
    known = Calls()
    feed = httpx.Request("GET", EVENTS_URL, headers={**ACCEPT, "x-stainless-retry-count": "1"})
    known.refused(prepared(known, feed))
    assert prepared(known, feed).key is None


def test_names_are_not_remembered_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_MAX_KEYS", 3)
    known = Calls()
    keys = [refused(known, retry(0, json={**CHAT, "seed": seed})) for seed in range(4)]
    assert prepared(known, retry(1, json={**CHAT, "seed": 0})).key not in keys
    assert [prepared(known, retry(1, json={**CHAT, "seed": seed})).key for seed in range(1, 4)] == keys[1:]


def test_names_of_calls_alike_are_not_remembered_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_MAX_KEYS_ALIKE", 3)
    known = Calls()
    keys = [refused(known, retry(0)) for _ in range(4)]
    again = [prepared(known, retry(1)).key for _ in range(4)]
    assert len(set(again)) == 4
    assert 1 <= len({*again} & {*keys}) <= 3
    assert keys[-1] in again


def test_two_calls_alike_that_are_both_retried_keep_two_names() -> None:
    # The same prompt, sampled twice at once, and both refused with 429.
    known = Calls()
    keys = {refused(known, retry(0)) for _ in range(2)}
    assert {prepared(known, retry(1)).key for _ in range(2)} == keys


def test_a_call_that_was_given_up_leaves_its_name_to_no_retry_of_the_next() -> None:
    # Refused with 400, which no SDK retries; the same call is made again, and refused with 503, which is retried.
    known = Calls()
    refused(known, retry(0))
    second = refused(known, retry(0))
    assert prepared(known, retry(1)).key == second


def test_the_callers_own_name_is_given_to_no_other_call() -> None:
    known = Calls()
    refused(known, asked(headers={"Idempotency-Key": "mine"}))
    assert prepared(known, retry(1)).key != "mine"


def test_a_body_that_streams_from_somewhere_is_none() -> None:
    request = httpx.Request("POST", EVENTS_URL, content=iter([b"a"]), headers=ACCEPT)
    assert calls.plan_of(request).body is None
    assert prepared(Calls(), request).key is not None


def test_a_body_that_a_redirect_has_carried_over_is_at_hand() -> None:
    request = httpx.Request("POST", EVENTS_URL, stream=httpx.ByteStream(b"body"))
    assert calls.plan_of(request).body == b"body"


def test_a_request_as_plain_data() -> None:
    request = httpx.Request("POST", "https://api.example/a?b=c%20d", headers={"X-Mine": "1"}, content=b"body")
    plan = calls.plan_of(request)
    assert plan == RequestPlan(
        "POST",
        "https://api.example/a?b=c%20d",
        (("Host", "api.example"), ("X-Mine", "1"), ("Content-Length", "4")),
        b"body",
    )


def test_headers_go_out_as_they_came_in() -> None:
    headers = [(b"X-Title", "café".encode()), (b"x-latin", b"caf\xe9"), (b"x-twice", b"1"), (b"X-Twice", b"2")]
    request = httpx.Request("GET", EVENTS_URL, headers=headers)
    assert calls.raw_headers(calls.plan_of(request)) == request.headers.raw
    assert calls.raw_headers(calls.plan_of(request))[1:] == headers


def test_headers_by_lower_case_name() -> None:
    response = httpx.Response(200, headers=[("Set-Cookie", "a"), ("SET-COOKIE", "b"), ("Server", "x")])
    assert calls.headers_of(response) == {"set-cookie": "a, b", "server": "x"}


@pytest.mark.parametrize(
    ("status", "content_type", "expected"),
    [
        (200, "text/event-stream", True),
        (201, "Text/Event-Stream; charset=utf-8", True),
        (202, "text/event-stream", False),
        (401, "text/event-stream", False),
        (200, "application/json", False),
        (200, "", False),
    ],
)
def test_what_is_a_stream(status: int, content_type: str, expected: bool) -> None:
    assert calls.is_stream(httpx.Response(status, headers={"content-type": content_type})) is expected
    assert not calls.is_stream(httpx.Response(status))


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("application/x-ndjson", True),
        ("Application/NDJSON; charset=utf-8", True),
        ("application/jsonl", True),
        ("application/json", False),
        ("text/event-stream", False),
    ],
)
def test_what_is_a_stream_of_lines(content_type: str, expected: bool) -> None:
    response = httpx.Response(200, headers={"content-type": content_type})
    assert calls.is_stream(response, JSON_LINES) is expected
    assert calls.is_stream(response) is (content_type == "text/event-stream")


@pytest.mark.parametrize(("encoding", "expected"), [("gzip", True), ("identity", False), (" Identity ", False)])
def test_what_is_encoded(encoding: str, expected: bool) -> None:
    assert calls.is_encoded(httpx.Response(200, headers={"content-encoding": encoding})) is expected
    assert not calls.is_encoded(httpx.Response(200))


def test_headers_that_are_not_true_any_more_do_not_pass() -> None:
    response = httpx.Response(
        200, headers=[("Content-Encoding", "gzip"), ("Content-Length", "3"), ("X-Request-Id", "1"), ("x-a", "b")]
    )
    assert calls.passed_headers(response, ANY_EVENT_STREAM) == [(b"X-Request-Id", b"1"), (b"x-a", b"b")]


def test_a_conversation_keeps_the_name() -> None:
    call = prepared(Calls(), asked())
    assert calls.converse(call, rl.RetryPolicy()).checkpoint.idempotency_key == call.key


def test_a_dialect_that_is_known_again() -> None:
    own = LastEventId("end")
    assert calls.dialect_of(rl.Checkpoint(own.name, "GET", EVENTS_URL), own) is own
    assert calls.dialect_of(rl.Checkpoint("openai_chat", "GET", EVENTS_URL), own) is named("openai_chat")
    with pytest.raises(ValueError, match="unknown dialect"):
        calls.dialect_of(rl.Checkpoint("nonsense", "GET", EVENTS_URL), own)


@pytest.mark.parametrize(
    ("client", "policy", "conversation", "expected"),
    [
        (5.0, None, None, 5.0),
        (5.0, 3.0, None, 3.0),
        (5.0, 7.0, 2.0, 2.0),
        (1.0, 7.0, 2.0, 1.0),
        (None, None, 2.0, 2.0),
        (None, None, None, None),
    ],
)
def test_the_shortest_read_timeout_counts(
    client: float | None, policy: float | None, conversation: float | None, expected: float | None
) -> None:
    extensions = {"timeout": {"connect": 1.0, "read": client}, "trace": "mine"}
    send = Send(RequestPlan("GET", EVENTS_URL), conversation)
    made = calls.with_timeout(extensions, rl.RetryPolicy(read_timeout=policy), send)
    assert made == {"timeout": {"connect": 1.0, "read": expected}, "trace": "mine"}
    assert extensions["timeout"] == {"connect": 1.0, "read": client}


def test_a_read_timeout_where_the_client_has_none() -> None:
    send = Send(RequestPlan("GET", EVENTS_URL), CANCEL_SECONDS)
    assert calls.with_timeout({}, rl.RetryPolicy(), send) == {"timeout": {"read": CANCEL_SECONDS}}


async def test_a_generator_is_ended() -> None:
    ended = []

    async def generate() -> AsyncGenerator[bytes, None]:
        try:
            yield b"a"
        finally:
            ended.append(True)

    generator = generate()
    assert await anext(generator) == b"a"
    await calls.end_generator(generator)
    await calls.end_generator(generator)
    assert ended == [True]


async def test_a_generator_that_runs_is_let_be() -> None:
    async def generate() -> AsyncGenerator[bytes, None]:
        await calls.end_generator(generator)
        yield b"a"

    generator = generate()
    assert [part async for part in generator] == [b"a"]


async def test_what_is_no_generator_needs_no_end() -> None:
    class Parts:
        def __aiter__(self) -> AsyncIterator[bytes]:
            return self

        async def __anext__(self) -> bytes:
            raise StopAsyncIteration

    await calls.end_generator(Parts())


class Connection:
    """A network stream, as the transports of the family show it."""

    def __init__(self, info: object) -> None:
        self._info = info

    def get_extra_info(self, name: str) -> object:
        assert name == "socket"
        return self._info


def test_the_socket_if_it_can_be_had() -> None:
    with socket.socket() as connection:
        shown = httpx.Response(200, extensions={"network_stream": Connection(connection)})
        assert calls.socket_of(shown) is connection
    assert calls.socket_of(httpx.Response(200)) is None
    assert calls.socket_of(httpx.Response(200, extensions={"network_stream": Connection(None)})) is None


def test_a_socket_that_others_use_is_not_ours_to_shut() -> None:
    with socket.socket() as connection:
        extensions = {"network_stream": Connection(connection), "http_version": b"HTTP/2", "stream_id": 3}
        assert calls.socket_of(httpx.Response(200, extensions=extensions)) is None
