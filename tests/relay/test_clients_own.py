"""What the relay does for clients of this library: it sees that a request was meant for its upstream."""

from __future__ import annotations

import uuid

import pytest

from tests.relay.serve import CHAT, CHAT_PATH, Served, error_in, events_in
from tests.sdks import formats
from tests.sockets import wire
from tests.sockets.scripted import Answer, Scripted

GEMINI_PATH = "/v1beta/models/m:streamGenerateContent?alt=sse"


@pytest.mark.parametrize(
    "meant_for", ["https://api.example", "http://127.0.0.1", "", "https://[", "http://127.0.0.1:x"]
)
@pytest.mark.parametrize("no_store", [False, True])
def test_what_was_meant_for_another_goes_nowhere(meant_for: str, no_store: bool) -> None:
    more = {"cache-control": "no-store"} if no_store else {}
    with Scripted() as upstream, Served(upstream) as served, served.client(**more) as client:
        own = {"relay-upstream": meant_for}
        refused = client.post(CHAT_PATH, json=CHAT, headers=own)
        assert (refused.status_code, error_in(refused)) == (421, "wrong_upstream")
        assert client.get("/v1/models", headers=own).status_code == 421
        put = client.put(f"/_streams/{uuid.uuid4()}{CHAT_PATH}", json=CHAT, headers=own)
        assert put.status_code == 421
        assert not upstream.requests


def test_what_was_meant_for_it_is_the_same_as_without_a_word() -> None:
    with Scripted(Answer(wire.blocks(wire.chat()))) as upstream, Served(f"{upstream.url}/v1") as served:
        port = upstream.url.rpartition(":")[2]
        key = {"idempotency-key": "7"}
        with served.client() as client:
            first = client.post(CHAT_PATH, json=CHAT, headers={**key, "relay-upstream": f"http://localhost:{port}"})
            again = client.post(CHAT_PATH.removeprefix("/v1"), json=CHAT, headers=key)
        assert first.status_code == again.status_code == 200
        assert first.content == again.content
        (asked,) = upstream.requests
    assert asked.path == CHAT_PATH
    assert "relay-upstream" not in asked.headers
    assert asked.headers["authorization"] == "Bearer alice"


def test_who_says_so_reads_googles_answers_without_ids() -> None:
    said = wire.blocks(formats.gemini())
    with Scripted(Answer(said)) as upstream, Served(upstream) as served, served.client() as client:
        first = client.post(GEMINI_PATH, json={"contents": []})
        place = first.headers["location"]
        assert first.content == b"".join(said)
        assert client.get(f"{place}?ids=none").content == first.content
        assert client.get(f"{place}?after=2&ids=none").content == b"".join(said[2:])
        assert [event.id for event in events_in(client.get(place).content)] == [str(n) for n in range(1, len(said) + 1)]


def test_nobody_else_does() -> None:
    with Scripted(Answer(wire.blocks(wire.chat()))) as upstream, Served(upstream) as served, served.client() as client:
        first = client.post(CHAT_PATH, json=CHAT)
        assert client.get(f"{first.headers['location']}?ids=none").content == first.content
    assert events_in(first.content)[0].id == "1"
