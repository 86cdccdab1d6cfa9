"""The relay from without: real sockets, a scripted upstream, plain clients."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
import time
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from resumable_llm.log.errors import StoreFailed
from resumable_llm.log.memory import MemoryStore
from resumable_llm.log.sqlite import SqliteStore
from resumable_llm.relay import Relay, relay
from tests.relay.serve import CHAT, CHAT_PATH, Gate, Served, datas, error_in, events_in, ids
from tests.sdks import cuts
from tests.sockets import wire
from tests.sockets.scripted import Answer, End, Request, Scripted

pytestmark = pytest.mark.slow

WHOLE = wire.blocks(wire.chat())
DATA = [event.data for event in wire.chat()]
COUNT = len(DATA)


def test_stream_is_numbered_and_can_be_read_again_from_anywhere() -> None:
    with Scripted(Answer(WHOLE)) as upstream, Served(upstream) as served, served.client() as client:
        first = client.post(CHAT_PATH, json=CHAT)
        assert datas(first.content) == DATA
        assert ids(first.content) == [str(number) for number in range(1, COUNT + 1)]
        place = first.headers["location"]
        assert place.startswith("/_streams/")
        again = client.get(place)
        assert again.content == first.content
        rest = client.get(place, headers={"last-event-id": "4"})
        assert ids(rest.content) == ids(first.content)[4:]
        assert client.get(f"{place}?after=4").content == rest.content
        assert client.get(place, headers={"last-event-id": str(COUNT)}).status_code == 204
    assert upstream.methods == ["POST"]


def test_what_the_relay_says_of_itself_is_said_once() -> None:
    said = {"x-accel-buffering": "yes", "cache-control": "public", "location": "/theirs", "idempotency-key": "theirs"}
    headers = {"content-type": "text/event-stream", **said}
    with Scripted(Answer(WHOLE, headers=headers)) as upstream, Served(upstream) as served, served.client() as client:
        answer = client.post(CHAT_PATH, json=CHAT, headers={"idempotency-key": "k1"})
    assert answer.headers.get_list("x-accel-buffering") == ["no"]
    assert answer.headers.get_list("cache-control") == ["no-cache, no-transform"]
    assert answer.headers.get_list("idempotency-key") == ["k1"]
    assert [place[:10] for place in answer.headers.get_list("location")] == ["/_streams/"]


def test_same_key_and_body_is_the_same_stream() -> None:
    with Scripted(Answer(WHOLE)) as upstream, Served(upstream) as served, served.client() as client:
        first = client.post(CHAT_PATH, json=CHAT, headers={"idempotency-key": "k1"})
        second = client.post(CHAT_PATH, json=CHAT, headers={"idempotency-key": "k1"})
        assert (second.status_code, second.content) == (200, first.content)
        assert second.headers["location"] == first.headers["location"]
        other = client.post(CHAT_PATH, json={**CHAT, "model": "n"}, headers={"idempotency-key": "k1"})
        assert (other.status_code, error_in(other)) == (422, "key_reused")
        rest = client.post(CHAT_PATH, json=CHAT, headers={"idempotency-key": "k1", "last-event-id": "3"})
        assert ids(rest.content) == ids(first.content)[3:]
    assert [request.headers["idempotency-key"] for request in upstream.requests] == ["k1"]


def test_tenants_that_use_one_key_never_meet() -> None:
    theirs = wire.blocks(wire.chat(("not", "yours")))
    with Scripted(Answer(WHOLE), Answer(theirs)) as upstream, Served(upstream) as served, served.client() as client:
        key = {"idempotency-key": "k1"}
        mine = client.post(CHAT_PATH, json=CHAT, headers=key)
        bob = {"authorization": "Bearer bob"}
        other = client.post(CHAT_PATH, json=CHAT, headers={**key, **bob})
        assert datas(mine.content) != datas(other.content)
        place = mine.headers["location"]
        assert client.get(place, headers=bob).status_code == 404
        assert client.delete(place, headers=bob).status_code == 404
        with httpx.Client(base_url=served.url) as nobody:
            assert nobody.get(place).status_code == 404
        assert client.get(place).content == mine.content


def test_two_equal_posts_at_once_make_one_request() -> None:
    with (
        Gate(WHOLE) as gate,
        Scripted(gate.answer) as upstream,
        Served(upstream) as served,
        served.client() as client,
        ThreadPoolExecutor(8) as pool,
    ):

        def post() -> httpx.Response:
            return client.post(CHAT_PATH, json=CHAT, headers={"idempotency-key": "k1"})

        asked = [pool.submit(post) for _ in range(8)]
        served.until(lambda: sum(each.readers for each in served.relay._generations.running) == 8)
        assert client.post(CHAT_PATH, json={}, headers={"idempotency-key": "k1"}).status_code == 422
        gate.open()
        answers = {each.result().content for each in asked}
        assert len(answers) == 1
        assert datas(answers.pop()) == DATA
    assert upstream.methods == ["POST"]


def test_refusal_passes_as_it_is_and_the_next_is_asked_again() -> None:
    refused = Answer.json('{"error":{"message":"slow down"}}', 429, {"retry-after": "7", "set-cookie": "a=b"})
    with Gate() as gate:

        def refuse(request: Request) -> Answer:
            gate.answer(request)
            return refused

        with (
            Scripted(refuse, refused, Answer(WHOLE)) as upstream,
            Served(upstream) as served,
            served.client() as client,
            ThreadPoolExecutor(2) as pool,
        ):

            def post() -> httpx.Response:
                return client.post(CHAT_PATH, json=CHAT, headers={"idempotency-key": "k1"})

            asked = [pool.submit(post) for _ in range(2)]
            served.until(lambda: sum(each.readers for each in served.relay._generations.running) == 2)
            gate.open()
            for each in asked:
                answer = each.result()
                assert (answer.status_code, answer.text) == (429, '{"error":{"message":"slow down"}}')
                assert answer.headers["retry-after"] == "7"
                assert "set-cookie" not in answer.headers
                assert "location" not in answer.headers
            assert datas(post().content) == DATA


def test_resource_form() -> None:
    name = str(uuid.uuid4())
    with Scripted(Answer(WHOLE)) as upstream, Served(upstream) as served, served.client() as client:

        def put(model: str = "m", **headers: str) -> httpx.Response:
            return client.put(f"/_streams/{name}{CHAT_PATH}", json={**CHAT, "model": model}, headers=headers)

        first, second = put(), put()
        assert (first.status_code, second.status_code) == (201, 200)
        assert first.content == second.content
        assert first.headers["location"] == f"/_streams/{name}"
        assert client.get(f"/_streams/{name}").content == first.content
        assert put("n").status_code == 422
        assert error_in(put(**{"cache-control": "no-store"})) == "contradiction"
        (request,) = upstream.requests
        assert (request.method, request.target) == ("POST", CHAT_PATH)
        assert request.headers["idempotency-key"] == name


def test_a_uuid_in_capitals_is_the_same_one() -> None:
    name = str(uuid.uuid4())
    answers = Scripted(Answer(WHOLE), Answer(WHOLE))
    with answers as upstream, Served(upstream) as served, served.client() as client:
        first = client.put(f"/_streams/{name.upper()}{CHAT_PATH}", json=CHAT)
        assert first.status_code == 201
        assert client.put(f"/_streams/{name}{CHAT_PATH}", json=CHAT).status_code == 200
        for each in (name, name.upper()):
            assert client.get(f"/_streams/{each}").content == first.content
        assert client.delete(f"/_streams/{name.upper()}").status_code == 204

        key = str(uuid.uuid4()).upper()
        second = client.post(CHAT_PATH, json=CHAT, headers={"idempotency-key": key})
        assert second.headers["idempotency-key"] == upstream.requests[-1].headers["idempotency-key"] == key
        assert client.get(second.headers["location"]).content == second.content
        assert client.get(f"/_streams/{key}").content == second.content


def test_what_is_not_there() -> None:
    now = [1000.0]
    store = MemoryStore(clock=lambda: now[0])
    with (
        Scripted(Answer(WHOLE)) as upstream,
        Served(upstream, store=store, ttl=60.0) as served,
        served.client() as client,
    ):
        place = client.post(CHAT_PATH, json=CHAT).headers["location"]
        assert client.get("/_streams/never").status_code == 404
        assert client.get(place, headers={"last-event-id": "x"}).status_code == 400
        assert client.get(f"{place}?after=99").status_code == 416
        assert client.get("/_anything").status_code == 404
        assert client.post(place).status_code == 405
        assert client.put(f"/_streams/no-uuid{CHAT_PATH}").status_code == 405
        assert client.post(f"{place}/v1").status_code == 405
        now[0] += 61
        assert error_in(client.get(place)) == "expired"
        store.sweep(now[0])
        gone = client.get(place)
        assert (gone.status_code, error_in(gone)) == (410, "expired")
        assert client.get(place, headers={"authorization": "Bearer bob"}).status_code == 404
        lost = client.post(CHAT_PATH, json=CHAT, headers={"idempotency-key": "k1", "last-event-id": "4"})
        assert lost.status_code == 404


def test_no_store_keeps_nothing() -> None:
    with Scripted(Answer(WHOLE)) as upstream, Served(upstream) as served, served.client() as client:
        answer = client.post(CHAT_PATH, json=CHAT, headers={"cache-control": "max-age=0, No-Store"})
        assert answer.content == b"".join(WHOLE)
        assert answer.headers["x-relay-store"] == "none"
        assert "location" not in answer.headers
        store = served.relay._store
        assert isinstance(store, MemoryStore)
        assert not store._logs
        assert not served.relay._remembered


def test_what_is_no_stream_passes_both_ways() -> None:
    body = bytes(range(256)) * 5000
    headers = {
        "content-type": "application/octet-stream",
        "x-odd": "caf\xe9",
        "date": "x",
        "connection": "x-hop",
        "x-hop": "1",
    }
    with (
        Scripted(lambda request: Answer([request.body], headers=headers, chunked=False)) as upstream,
        Served(f"{upstream.url}/base/") as served,
        served.client() as client,
    ):
        answer = client.request(
            "PATCH",
            "/v1/files/a%2Fb?x=%20y&key=s",
            content=body,
            headers=[(b"x-mine", "naïve".encode()), (b"x-forwarded-for", b"1.2.3.4")],
        )
        assert answer.content == body
        assert answer.headers.raw.count((b"x-odd", b"caf\xe9")) == 1
        assert len(answer.headers.get_list("date")) == 1
        assert "x-hop" not in answer.headers
        (request,) = upstream.requests
        assert (request.method, request.target) == ("PATCH", "/base/v1/files/a%2Fb?x=%20y&key=s")
        assert b"x-mine: na\xc3\xafve" in request.raw_head.lower()
        assert request.headers["host"] == upstream.url.removeprefix("http://")
        assert "x-forwarded-for" not in request.headers


@pytest.mark.parametrize("content_type", ["application/json", "text/event-stream"])
def test_what_cannot_be_decoded_passes_as_it_is(content_type: str) -> None:
    answer = Answer([b"\x1f\x8b packed"], headers={"content-type": content_type, "content-encoding": "x-packed"})
    with Scripted(answer) as upstream, Served(upstream) as served, served.client() as client:
        got = client.post(CHAT_PATH, json=CHAT)
        assert (got.status_code, got.headers["content-encoding"]) == (200, "x-packed")
        assert got.content == b"\x1f\x8b packed"
        assert len(upstream.requests) == 1


def test_what_has_no_body_may_have_a_length() -> None:
    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 304 Not Modified\r\netag: x\r\ncontent-length: 777\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        upstream = threading.Thread(target=answer)
        upstream.start()
        with Served(f"http://127.0.0.1:{listener.getsockname()[1]}") as served, served.client() as client:
            got = client.get("/v1/models", headers={"if-none-match": "x"})
            assert (got.status_code, got.headers["etag"], got.content) == (304, "x", b"")
            assert "content-length" not in got.headers
        upstream.join()


def test_stream_that_nobody_asked_for_is_kept_too() -> None:
    with Scripted(Answer(wire.blocks(wire.plain()))) as upstream, Served(upstream) as served, served.client() as client:
        first = client.post("/anything", content=b"{}")
        assert datas(first.content) == [event.data for event in wire.plain()]
        assert client.get(first.headers["location"]).content == first.content
        state = client.get(first.headers["location"], headers={"accept": "application/json"}).json()
        assert (state["state"], state["reason"]) == ("complete", "nothing proves that the answer is complete")


def test_json_lines_pass_and_are_not_kept() -> None:
    lines = [b'{"message":{"content":"a"},"done":false}\n', b'{"done":true}\n']
    answer = Answer(lines, headers={"content-type": "application/x-ndjson"})
    with Scripted(answer) as upstream, Served(upstream) as served, served.client() as client:
        found = client.post("/api/chat", json={"model": "m", "messages": []})
        assert found.content == b"".join(lines)
        assert "location" not in found.headers


@pytest.mark.parametrize("target", ["/../admin", "/v1/%2e%2e/admin", "//..\\x", "*"])
def test_target_leads_nowhere_else(target: str) -> None:
    with Scripted() as upstream, Served(upstream) as served, socket.create_connection(served.address) as raw:
        raw.sendall(f"GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        assert b" 400 " in raw.recv(100)
    assert not upstream.requests


def test_health_and_readiness() -> None:
    with Scripted() as upstream, Served(upstream) as served, served.client() as client:
        assert client.get("/_health").json() == {"status": "ok"}
        assert client.get("/_ready").json() == {"running": 0}
        served.run(served.relay.drain())
        assert client.get("/_ready").status_code == 503
        for headers in ({}, {"cache-control": "no-store"}):
            assert error_in(client.post(CHAT_PATH, json=CHAT, headers=headers)) == "closing"
        assert client.get("/_health").status_code == 200


def test_bounds() -> None:
    with (
        Scripted(Answer(WHOLE[:3], End.SILENT)) as upstream,
        Served(upstream, max_request_bytes=100, max_streams=1, max_readers=1) as served,
        served.client() as client,
    ):
        assert error_in(client.post(CHAT_PATH, content=b"x" * 101)) == "too_large"
        with client.stream("POST", CHAT_PATH, json=CHAT) as running:
            place = running.headers["location"]
            refused = client.get(place), client.post(CHAT_PATH, json=CHAT)
            assert [error_in(each) for each in refused] == ["too_many_readers", "busy"]
            assert [each.headers["retry-after"] for each in refused] == ["5", "1"]
        assert error_in(client.post(CHAT_PATH, json=CHAT, headers={"idempotency-key": "two words"})) == "bad_key"


def test_full_store_refuses_and_stops_the_upstream() -> None:
    with (
        Scripted(Answer(WHOLE), Answer(WHOLE[:3], End.SILENT)) as upstream,
        Served(upstream, store=MemoryStore(max_logs=1)) as served,
        served.client() as client,
    ):
        client.post(CHAT_PATH, json=CHAT)
        assert error_in(client.post(CHAT_PATH, json=CHAT)) == "store_full"
        assert upstream.gone.acquire(timeout=10)


def test_upstream_that_is_not_there() -> None:
    with Scripted() as upstream:
        url = upstream.url
    with Served(url) as served, served.client() as client:
        for headers in ({}, {"cache-control": "no-store"}):
            answer = client.post(CHAT_PATH, json=CHAT, headers=headers)
            assert (answer.status_code, error_in(answer)) == (502, "upstream_unreachable")


def test_slow_request_is_refused() -> None:
    with (
        Scripted() as upstream,
        Served(upstream, request_seconds=0.05) as served,
        socket.create_connection(served.address) as raw,
    ):
        raw.sendall(b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nab")
        assert b" 408 " in raw.recv(100)


# Lives and deaths


def show(client: httpx.Client, place: str) -> dict[str, Any]:
    found: dict[str, Any] = client.get(place, headers={"accept": "application/json"}).json()
    return found


def start(client: httpx.Client, **headers: str) -> str:
    """Have an answer begun, read some of it, and go."""
    with client.stream("POST", CHAT_PATH, json=CHAT, headers=headers) as running:
        next(running.iter_raw())
        return running.headers["location"]


def last_error(data: bytes) -> dict[str, Any]:
    event = events_in(data)[-1]
    assert event.event == "error"
    found: dict[str, Any] = json.loads(event.data)["error"]
    return found


def test_generation_goes_on_without_a_reader() -> None:
    with (
        Gate() as gate,
        Scripted(gate.between(WHOLE[:2], WHOLE[2:])) as upstream,
        Served(upstream) as served,
        served.client() as client,
    ):
        place = start(client)
        served.until(lambda: not served.readers)
        gate.open()
        served.until(lambda: not served.relay._generations.running)
        assert datas(client.get(place).content) == DATA
        assert show(client, place)["state"] == "complete"


def test_many_readers_join_late_and_read_the_same() -> None:
    with (
        Gate() as gate,
        ThreadPoolExecutor(10) as pool,
        Scripted(gate.between(WHOLE[:3], WHOLE[3:])) as upstream,
        Served(upstream) as served,
        served.client() as client,
    ):
        place = start(client)
        asked = [pool.submit(client.get, f"{place}?after={number % 4}") for number in range(10)]
        served.until(lambda: served.readers == 10)
        assert show(client, place) == show(client, place) | {"state": "running", "readers": 10, "ended_at": None}
        gate.open()
        for number, each in enumerate(asked):
            assert datas(each.result().content) == DATA[number % 4 :]


def test_state_has_the_partial_answer_in_the_sdks_shape() -> None:
    with Scripted(Answer(WHOLE[:4], End.SILENT)) as upstream, Served(upstream) as served, served.client() as client:
        place = start(client)
        log = next(iter(served.relay._generations.running)).log
        assert log is not None
        served.until(lambda: log.last == 4)
        found = show(client, place)
        assert found["partial"]["choices"][0]["message"]["content"] == "".join(wire.WORDS[:3])
        assert found["dialect"] == "openai_chat"
        assert client.delete(place).status_code == 204
        found = show(client, place)
        assert (found["state"], found["events"]) == ("cancelled", 5)
        assert found["partial"]["choices"][0]["message"]["content"] == "".join(wire.WORDS[:3])
        assert found["expires_at"] == found["ended_at"] + 3600


def test_delete_stops_the_upstream_and_tells_the_readers() -> None:
    with (
        Scripted(Answer(WHOLE[:3], End.SILENT)) as upstream,
        Served(upstream) as served,
        served.client() as client,
        ThreadPoolExecutor(1) as pool,
    ):
        place = start(client)
        reader = pool.submit(client.get, place)
        served.until(lambda: served.readers == 1)
        assert client.delete(place).status_code == 204
        assert upstream.gone.acquire(timeout=10)
        data = reader.result().content
        assert datas(data)[:-1] == DATA[:3]
        assert last_error(data)["code"] == "cancelled"
        assert client.get(place).content == data
        assert client.get(f"{place}?after=4").status_code == 204


def test_delete_forgets_what_has_ended() -> None:
    key = {"idempotency-key": "k1"}
    with Scripted(Answer(WHOLE), Answer(WHOLE)) as upstream, Served(upstream) as served, served.client() as client:
        place = client.post(CHAT_PATH, json=CHAT, headers=key).headers["location"]
        served.until(lambda: not served.relay._generations.running)
        assert client.delete(place, headers={"authorization": "Bearer bob"}).status_code == 404
        assert client.delete(place).status_code == 204
        assert [client.get(place).status_code, client.delete(place).status_code] == [410, 410]
        assert client.post(CHAT_PATH, json=CHAT, headers=key).headers["location"] != place
    assert upstream.methods == ["POST", "POST"]


def test_two_who_forget_at_once() -> None:
    with Scripted(Answer(WHOLE)) as upstream, Served(upstream) as served, served.client() as client:
        place = client.post(CHAT_PATH, json=CHAT).headers["location"]
        served.until(lambda: not served.relay._generations.running)
        store = served.relay._store
        delete = store.delete

        def delete_twice(scope: str, id: str) -> None:
            delete(scope, id)
            delete(scope, id)

        store.delete = delete_twice  # type: ignore[method-assign]
        assert client.delete(place).status_code == 204


def test_delete_tells_a_provider_that_would_go_on() -> None:
    events = wire.blocks(wire.responses())
    with (
        Scripted(Answer(events[:5], End.SILENT), Answer.json("{}")) as upstream,
        Served(upstream) as served,
        served.client() as client,
        client.stream("POST", "/v1/responses", json={"stream": True, "background": True}) as running,
    ):
        served.until(lambda: len(served.logs) == 1 and served.logs[0].last == 5)
        client.delete(running.headers["location"])
    assert [request.target for request in upstream.requests] == ["/v1/responses", "/v1/responses/resp_7/cancel"]
    assert upstream.requests[1].headers["authorization"] == "Bearer alice"


@pytest.mark.parametrize(
    "settings", [{"abandon_after": 0.02}, {"on_disconnect": "cancel"}], ids=["abandon after", "cancel"]
)
def test_answer_that_nobody_reads_is_stopped(settings: dict[str, Any]) -> None:
    with (
        Scripted(Answer(WHOLE[:3], End.SILENT)) as upstream,
        Served(upstream, **settings) as served,
        served.client() as client,
    ):
        place = start(client)
        assert upstream.gone.acquire(timeout=10)
        served.until(lambda: not served.relay._generations.running)
        found = show(client, place)
        assert found["state"] == "abandoned"
        data = client.get(place).content
        assert datas(data)[:-1] == DATA[:3]
        assert last_error(data)["code"] == "abandoned"


def test_reader_who_comes_back_in_time_keeps_it_going() -> None:
    with (
        Scripted(Answer(WHOLE[:3], End.SILENT)) as upstream,
        Served(upstream, abandon_after=1000.0) as served,
        served.client() as client,
    ):
        place = start(client)
        served.until(lambda: served.generation._timer is not None)
        with client.stream("GET", place) as reader:
            pieces = reader.iter_raw()
            next(pieces)
            assert served.generation._timer is None
        served.until(lambda: served.generation._timer is not None)


def test_caller_who_goes_before_the_answer_begins() -> None:
    with Gate(WHOLE) as gate, Scripted(gate.answer) as upstream, Served(upstream) as served, served.client() as client:
        with pytest.raises(httpx.ReadTimeout):
            client.post(CHAT_PATH, json=CHAT, headers={"idempotency-key": "k1"}, timeout=0.2)
        served.until(lambda: not served.readers)
        gate.open()
        assert datas(client.post(CHAT_PATH, json=CHAT, headers={"idempotency-key": "k1"}).content) == DATA
    assert upstream.methods == ["POST"]


def test_caller_who_goes_before_the_answer_begins_can_stop_it() -> None:
    with (
        Gate(WHOLE) as gate,
        Scripted(gate.answer, Answer(WHOLE)) as upstream,
        Served(upstream, on_disconnect="cancel") as served,
        served.client() as client,
    ):
        with pytest.raises(httpx.ReadTimeout):
            client.post(CHAT_PATH, json=CHAT, headers={"idempotency-key": "k1"}, timeout=0.2)
        served.until(lambda: not served.relay._generations.running)
        gate.open()
        assert datas(client.post(CHAT_PATH, json=CHAT, headers={"idempotency-key": "k1"}).content) == DATA


def test_upstream_that_breaks_off_ends_in_an_error() -> None:
    with (
        Scripted(Answer(WHOLE[:3], End.RST)) as upstream,
        Served(upstream) as served,
        served.client() as client,
    ):
        first = client.post(CHAT_PATH, json=CHAT)
        assert datas(first.content)[:-1] == DATA[:3]
        assert last_error(first.content)["code"] == "cannot_resume"
        place = first.headers["location"]
        assert show(client, place)["state"] == "failed"
        assert client.get(f"{place}?after=4").status_code == 204


def test_failure_that_the_provider_tells_is_the_last_event() -> None:
    failed = b'data: {"error":{"message":"no","type":"invalid_request_error","code":"x"}}\n\n'
    with Scripted(Answer([*WHOLE[:3], failed])) as upstream, Served(upstream) as served, served.client() as client:
        first = client.post(CHAT_PATH, json=CHAT)
        assert first.content.endswith(failed)
        assert show(client, first.headers["location"])["state"] == "failed"


def test_drop_upstream_is_healed_where_the_provider_can() -> None:
    events = wire.responses()
    after = cuts.starting_after(events)
    with (
        Scripted(Answer(wire.blocks(events)[:5], End.RST), rest=after) as upstream,
        Served(upstream) as served,
        served.client() as client,
    ):
        answer = client.post("/v1/responses", json={"stream": True, "background": True})
        assert datas(answer.content) == [event.data for event in events]
        assert show(client, answer.headers["location"])["state"] == "complete"
    assert upstream.methods == ["POST", "GET"]


def test_log_that_is_full_ends_in_an_error() -> None:
    store = MemoryStore(max_log_bytes=2000)
    big = wire.chat(("x" * 500,) * 10)
    with (
        Scripted(Answer(wire.blocks(big), End.SILENT)) as upstream,
        Served(upstream, store=store) as served,
        served.client() as client,
    ):
        answer = client.post(CHAT_PATH, json=CHAT)
        assert upstream.gone.acquire(timeout=10)
        assert last_error(answer.content)["code"] in ("not_kept", "interrupted")


def test_shutdown_interrupts_what_does_not_end_in_time() -> None:
    with (
        Scripted(Answer(WHOLE[:3], End.SILENT)) as upstream,
        Served(upstream) as served,
        served.client() as client,
        ThreadPoolExecutor(1) as pool,
    ):
        place = start(client)
        reader = pool.submit(client.get, place)
        served.until(lambda: served.readers == 1)
        served.run(served.relay.drain())
        data = reader.result().content
        assert datas(data)[:-1] == DATA[:3]
        assert last_error(data)["code"] == "interrupted"
        assert events_in(data)[-1].id == "3"  # it has none of its own, for the answer may go on some day
        assert show(client, place)["state"] == "interrupted"
        assert client.get(f"{place}?after=3").status_code == 200


def test_shutdown_ends_what_is_not_kept(caplog: pytest.LogCaptureFixture) -> None:
    headers = {"cache-control": "no-store"}
    with (
        Gate() as gate,
        Scripted(Answer(WHOLE[:3], End.SILENT), rest=gate.answer) as upstream,
        Served(upstream) as served,
        served.client(**headers) as client,
        ThreadPoolExecutor(1) as pool,
        client.stream("POST", CHAT_PATH, json=CHAT) as begun,
    ):
        pieces = begun.iter_raw()
        next(pieces)
        waiting = pool.submit(client.post, CHAT_PATH, json=CHAT)
        served.until(lambda: len(served.relay._passing) == 2)
        served.run(served.relay.drain())
        assert (waiting.result().status_code, error_in(waiting.result())) == (503, "stopped")
        with pytest.raises(httpx.RemoteProtocolError):
            list(pieces)
        served.until(lambda: not served.reading)
        gate.open()
    assert "Traceback" not in caplog.text


def test_shutdown_lets_what_is_not_kept_go_on() -> None:
    with (
        Gate(WHOLE) as gate,
        Scripted(gate.answer) as upstream,
        Served(upstream, shutdown_seconds=20.0) as served,
        served.client() as client,
        ThreadPoolExecutor(1) as pool,
    ):
        waiting = pool.submit(client.post, CHAT_PATH, json=CHAT, headers={"cache-control": "no-store"})
        served.until(lambda: len(served.relay._passing) == 1)
        drained = asyncio.run_coroutine_threadsafe(served.relay.drain(), served.loop)
        served.until(lambda: served.relay._generations.closing)
        gate.open()
        assert datas(waiting.result().content) == DATA
        drained.result(10)


def test_slow_reader_is_let_go_and_holds_nobody_back() -> None:
    words = ("x" * 10_000,) * 1000
    with (
        Scripted(Answer(wire.blocks(wire.chat(words)))) as upstream,
        Served(upstream, send_seconds=1.0) as served,
        served.client() as client,
        socket.create_connection(served.address) as raw,
    ):
        body = json.dumps(CHAT).encode()
        head = f"POST {CHAT_PATH} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer alice\r\nidempotency-key: k1\r\n"
        raw.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        assert b" 200 " in raw.recv(100)
        answer = client.post(CHAT_PATH, content=body, headers={"idempotency-key": "k1"})
        assert len(datas(answer.content)) == len(words) + 3
        served.until(lambda: not served.reading)


# Odds and ends


def test_store_that_fails_is_told() -> None:
    with Scripted() as upstream, Served(upstream) as served, served.client() as client:
        served.relay._store.close()
        answer = client.get("/_streams/x")
        assert (answer.status_code, error_in(answer)) == (503, "store_failed")


def test_mounted_in_another_application() -> None:
    def app(inner: Relay) -> Starlette:
        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            yield
            await inner.aclose()

        return Starlette(routes=[Mount("/llm", inner)], lifespan=lifespan)

    with Scripted(Answer(WHOLE)) as upstream, Served(upstream, app=app) as served, served.client() as client:
        first = client.post(f"/llm{CHAT_PATH}", json=CHAT)
        assert datas(first.content) == DATA
        assert first.headers["location"].startswith("/llm/_streams/")
        assert client.get(first.headers["location"]).content == first.content
        assert client.get("/_health").status_code == 404
        assert upstream.requests[0].target == CHAT_PATH


def test_waiting_caller_may_go() -> None:
    with (
        Gate(WHOLE) as gate,
        Scripted(gate.answer) as upstream,
        Served(upstream) as served,
        served.client() as client,
        ThreadPoolExecutor(1) as pool,
    ):
        first = pool.submit(client.post, CHAT_PATH, json=CHAT, headers={"idempotency-key": "k1"})
        served.until(lambda: served.readers == 1)
        with pytest.raises(httpx.ReadTimeout):
            client.post(CHAT_PATH, json=CHAT, headers={"idempotency-key": "k1"}, timeout=0.1)
        served.until(lambda: served.readers == 1)
        gate.open()
        assert datas(first.result().content) == DATA


def test_caller_who_goes_ends_what_is_not_kept() -> None:
    headers = {"cache-control": "no-store"}
    with (
        Gate(WHOLE) as gate,
        Scripted(Answer(WHOLE[:2], End.SILENT), gate.answer) as upstream,
        Served(upstream) as served,
        served.client() as client,
    ):
        with client.stream("POST", CHAT_PATH, json=CHAT, headers=headers) as running:
            next(running.iter_raw())
        assert upstream.gone.acquire(timeout=10)
        with pytest.raises(httpx.ReadTimeout):
            client.post(CHAT_PATH, json=CHAT, headers=headers, timeout=0.2)
        served.until(lambda: not served.reading)
        gate.open()  # only now could the upstream have answered


def test_what_is_not_kept_breaks_as_the_upstream_does() -> None:
    headers = {"cache-control": "no-store"}
    with (
        Scripted(Answer(WHOLE[:2], End.RST)) as upstream,
        Served(upstream) as served,
        served.client() as client,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        client.post(CHAT_PATH, json=CHAT, headers=headers)


def test_expired_streams_are_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resumable_llm.relay.app._SWEEP_SECONDS", 0.0)
    now = [time.time() - 100]
    store = MemoryStore(clock=lambda: now[0])
    with (
        Scripted(Answer(WHOLE)) as upstream,
        Served(upstream, store=store, ttl=60.0) as served,
        served.client() as client,
    ):
        client.post(CHAT_PATH, json=CHAT)
        served.until(lambda: not store._logs)
        store.close()  # and a sweep that fails is not the last


def test_only_so_many_streams_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resumable_llm.relay.app._MAX_REMEMBERED", 1)
    with Scripted(Answer(WHOLE), Answer(WHOLE)) as upstream, Served(upstream) as served, served.client() as client:
        places = [client.post(CHAT_PATH, json=CHAT).headers["location"] for _ in range(2)]
        for log in served.logs:
            served.relay._store.delete(log.head.scope, log.head.id)
        assert [client.get(place).status_code for place in places] == [404, 410]


def test_unknown_failure_is_ours(caplog: pytest.LogCaptureFixture) -> None:
    with Scripted() as upstream, Served(upstream) as served, served.client() as client:

        async def open_(*_: object, **__: object) -> Any:
            raise ZeroDivisionError

        served.relay._generations._open = open_
        answer = client.post(CHAT_PATH, json=CHAT)
        assert (answer.status_code, error_in(answer)) == (500, "internal_error")
    assert "relay.bug" in caplog.text


def test_nothing_that_was_said_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "resumable_llm")
    with Scripted(Answer(WHOLE[:5], End.RST)) as upstream, Served(upstream) as served, served.client() as client:
        client.post(f"{CHAT_PATH}?key=s3cret", json={**CHAT, "messages": [{"role": "user", "content": "prompt"}]})
        (log,) = served.logs
        assert "relay.begun" in caplog.text
        assert "relay.ended" in caplog.text
        for word in ("s3cret", "alice", "prompt", wire.WORDS[1].strip()):
            assert word not in caplog.text
            assert word not in repr(log.head)


def test_reason_of_a_failure_has_no_key() -> None:
    events = wire.blocks(wire.responses())
    broken = Answer(events, headers={"not a name": "1"})
    with (
        Scripted(Answer(events[:5], End.RST), rest=lambda _: broken) as upstream,
        Served(upstream) as served,
        served.client() as client,
    ):
        answer = client.post("/v1/responses?key=s3cret", json={"stream": True, "background": True})
        assert last_error(answer.content)["code"] == "retries_exhausted"
        assert "s3cret" not in answer.text + served.logs[0].reason


def test_equal_requests_that_do_not_ask_for_a_stream_share_the_one_that_comes() -> None:
    with (
        Gate(WHOLE) as gate,
        Scripted(gate.answer, gate.answer) as upstream,
        Served(upstream) as served,
        served.client() as client,
        ThreadPoolExecutor(2) as pool,
    ):
        asked = [pool.submit(client.post, "/x", headers={"idempotency-key": "k1"}) for _ in range(2)]
        served.until(lambda: served.readers == 2)
        gate.open()
        first, second = (each.result() for each in asked)
        assert first.content == second.content
        assert first.headers["location"] == second.headers["location"]


def test_caller_who_goes_drops_a_request_for_no_stream() -> None:
    with Gate() as gate, Scripted(gate.answer) as upstream, Served(upstream) as served, served.client() as client:
        with pytest.raises(httpx.ReadTimeout):
            client.get("/v1/models", timeout=0.2)
        served.until(lambda: not served.relay._generations.running)
        gate.open()


def test_closed_relay_may_be_closed_again_and_begins_nothing() -> None:
    async def close_twice() -> None:
        made = relay(upstream="http://127.0.0.1:1")
        await made.aclose()
        await made.aclose()
        said: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request"}

        async def send(message: Any) -> None:
            said.append(message)

        scope = {"type": "http", "method": "POST", "path": "/x", "headers": [(b"cache-control", b"no-store")]}
        await made(scope, receive, send)
        assert said[0]["status"] == 503
        assert made._session is None

    asyncio.run(close_twice())


@pytest.mark.parametrize("strict", [False, True], ids=["grouped", "strict"])
def test_file_serves_as_memory_does(strict: bool, tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "relay.db", strict=strict)
    with Scripted(Answer(WHOLE)) as upstream, Served(upstream, store=store) as served, served.client() as client:
        first = client.post(CHAT_PATH, json=CHAT, headers={"idempotency-key": "k1"})
        assert datas(first.content) == DATA
        assert client.post(CHAT_PATH, json=CHAT, headers={"idempotency-key": "k1"}).content == first.content
        assert client.get(first.headers["location"], headers={"authorization": "Bearer bob"}).status_code == 404
        assert show(client, first.headers["location"])["state"] == "complete"
    kept = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"alice" not in kept


def test_store_that_cannot_be_closed_is_told(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(MemoryStore):
        def close(self) -> None:
            raise StoreFailed("the disk is full")

    asyncio.run(relay(upstream="http://127.0.0.1:1", store=Failing()).aclose())
    assert "relay.not_kept error=StoreFailed" in caplog.text
