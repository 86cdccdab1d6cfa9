"""The player of recordings behaves like the server that was recorded."""

from __future__ import annotations

import json

import httpx
import pytest

from resumable_llm.cli.recorded import RECORDINGS, RecordedServer, recorded_events


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resumable_llm.cli.recorded._EVENT_SECONDS", 0.0005)


@pytest.mark.parametrize("path", RECORDINGS)
def test_a_recording_is_a_whole_answer(path: str) -> None:
    events = recorded_events(path)
    assert len(events) > 200
    last = b"".join(events).decode().removesuffix("\n\n").rpartition("\n\n")[2]
    assert last == "data: [DONE]" or '"type":"response.completed"' in last


@pytest.mark.slow
@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("path", RECORDINGS)
def test_it_plays_the_recording_from_any_offset(path: str) -> None:
    whole = b"".join(recorded_events(path))
    with RecordedServer() as server, httpx.Client(base_url=server.url, trust_env=False) as client:
        played = client.post(path, json={"stream": True}, headers={"X-Conversation-Id": "c"})
        assert played.headers["server"] == "llama.cpp"
        assert played.headers["content-type"] == "text/event-stream"
        assert played.content == whole
        for start in (0, 1, 300, len(whole) - 1, len(whole), len(whole) + 5):
            assert client.get("/v1/stream", params={"conv_id": "c", "from": start}).content == whole[start:]


@pytest.mark.slow
@pytest.mark.usefixtures("fast")
def test_a_conversation_goes_on_while_nobody_reads() -> None:
    path = "/v1/responses"
    whole = b"".join(recorded_events(path))
    with RecordedServer() as server, httpx.Client(base_url=server.url, trust_env=False) as client:
        with client.stream("POST", path, json={}, headers={"X-Conversation-Id": "c"}) as played:
            head = next(played.iter_raw())
        rest = client.get("/v1/stream", params={"conv_id": "c", "from": len(head)})
        assert head + rest.content == whole


def test_the_model_is_listed_and_all_else_is_unknown() -> None:
    with RecordedServer() as server, httpx.Client(base_url=server.url, trust_env=False) as client:
        assert client.get("/v1/models").json()["data"][0]["id"] == "recording"
        for answer in (
            client.get("/v1/stream", params={"conv_id": "unknown", "from": 0}),
            client.get("/elsewhere"),
            client.post("/elsewhere", content=json.dumps({})),
        ):
            assert answer.status_code == 404
            assert "error" in answer.json()
