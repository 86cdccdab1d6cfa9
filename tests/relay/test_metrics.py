"""What a relay tells Prometheus: asked for as Prometheus does, and read by its own parser."""

from __future__ import annotations

import asyncio
import time

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from resumable_llm.log.memory import MemoryStore
from resumable_llm.log.model import Head, State
from resumable_llm.relay.metrics import Metrics
from tests.relay.serve import CHAT, CHAT_PATH, Served
from tests.sdks import cuts
from tests.sockets import wire
from tests.sockets.scripted import Answer, End, Scripted

WHOLE = wire.blocks(wire.chat())
OURS = "resumable_llm_relay_"


def told(text: str) -> dict[str, float]:
    """The samples by what they are called in the text, without our prefix and without what times a process."""
    return {
        ",".join([sample.name.removeprefix(OURS), *sample.labels.values()]): sample.value
        for family in parse(text)
        for sample in family.samples
        if not sample.name.startswith("process_") and not sample.name.endswith(("_created", "_bucket", "_sum"))
    }


def scrape(client: httpx.Client) -> dict[str, float]:
    return told(client.get("/metrics").text)


@pytest.mark.slow
def test_answers_are_counted_while_they_run_and_when_they_have_ended() -> None:
    with (
        Scripted(Answer(WHOLE), Answer(WHOLE[:3], End.SILENT), Answer.json("{}", 400)) as upstream,
        Served(upstream) as served,
        served.client() as client,
    ):
        nothing = dict.fromkeys(("answers_running", "readers", "websockets", "events_total", "bytes_total"), 0)
        assert scrape(client) == {**nothing, "store_failures_total": 0, "first_event_seconds_count": 0}
        client.post(CHAT_PATH, json=CHAT)
        served.until(lambda: not served.relay._generations.running)
        first = scrape(client)
        assert first["answers_total,openai_chat,complete"] == 1
        assert first["events_total"] == len(WHOLE)
        assert first["bytes_total"] == sum(map(len, WHOLE))
        assert first["first_event_seconds_count"] == 1
        with client.stream("POST", CHAT_PATH, json=CHAT) as running:
            served.until(lambda: served.logs[-1].last == 3)
            second = scrape(client)
            assert (second["answers_running"], second["readers"]) == (1, 1)
            assert second["events_total"] == len(WHOLE) + 3
            assert second["bytes_total"] == sum(map(len, WHOLE)) + sum(map(len, WHOLE[:3]))
            client.delete(running.headers["location"])
        client.post(CHAT_PATH, json=CHAT)  # a refusal of the upstream's is no answer
        served.until(lambda: not served.relay._generations.running and not served.relay._reading)
        last = scrape(client)
        assert last["answers_total,openai_chat,cancelled"] == 1
        assert (last["answers_running"], last["readers"], last["first_event_seconds_count"]) == (0, 0, 2)
        assert sum(value for name, value in last.items() if name.startswith("answers_total")) == 2
    assert upstream.methods == ["POST"] * 3


@pytest.mark.slow
def test_drops_are_counted_by_the_way_back() -> None:
    events = wire.responses()
    with (
        Scripted(
            Answer(wire.blocks(events)[:5], End.RST),
            cuts.starting_after(events),
            Answer(WHOLE[:3], End.RST),
        ) as upstream,
        Served(upstream) as served,
        served.client() as client,
    ):
        client.post("/v1/responses", json={"stream": True, "background": True})
        client.post(CHAT_PATH, json=CHAT)
        served.until(lambda: not served.relay._generations.running)
        found = scrape(client)
        assert found["upstream_drops_total,resume"] == found["upstream_drops_total,none"] == 1
        assert found["answers_total,openai_responses,complete"] == found["answers_total,openai_chat,failed"] == 1


@pytest.mark.slow
def test_refusals_and_failures_of_the_store() -> None:
    store = MemoryStore(max_logs=1, max_log_bytes=2000)
    big = wire.blocks(wire.chat(("x" * 500,) * 10))
    with (
        Scripted(Answer(big), Answer(WHOLE)) as upstream,
        Served(upstream, store=store) as served,
        served.client() as client,
    ):
        client.post(CHAT_PATH, json=CHAT)
        client.get("/_streams/never")
        client.get("/_streams/never")
        assert client.post(CHAT_PATH, json=CHAT).headers["retry-after"] == "5"
        served.until(lambda: not served.relay._generations.running)
        found = scrape(client)
        assert (found["refusals_total,not_found"], found["refusals_total,store_full"]) == (2, 1)
        assert found["store_failures_total"] == 2  # a log that was full, and a store that was


@pytest.mark.slow
def test_every_format_that_prometheus_asks_for() -> None:
    with Scripted(Answer(WHOLE)) as upstream, Served(upstream) as served, served.client() as client:
        client.post(CHAT_PATH, json=CHAT)
        plain = client.get("/metrics")
        assert plain.headers["content-type"].startswith("text/plain; version=")
        modern = client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
        assert modern.headers["content-type"].startswith("application/openmetrics-text")
        families = {family.name: family for family in parse_openmetrics(modern.text)}  # type: ignore[no-untyped-call]
        assert {each.name for each in parse(plain.text) if not each.name.endswith("_created")} == set(families)
        ours = [name for name in families if name.startswith(OURS)]
        assert len(ours) == 10
        assert all(families[name].documentation.endswith(".") for name in ours)
        assert f"{OURS}answers" in families
    assert upstream.methods == ["POST"]


@pytest.mark.slow
def test_labels_say_nothing_of_anybody() -> None:
    with Scripted(Answer(WHOLE)) as upstream, Served(upstream) as served, served.client() as client:
        place = client.post(f"{CHAT_PATH}?key=s3cret", json={**CHAT, "model": "gpt-9"}).headers["location"]
        client.get("/_streams/unknown")
        text = client.get("/metrics").text
        for word in ("s3cret", "alice", "gpt-9", "unknown", place.rpartition("/")[2]):
            assert word not in text


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def ticks() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_first_event_is_timed_once() -> None:
    metrics, store = Metrics((), ()), MemoryStore()
    log = store.begin(Head("id", "scope", "", "", 200, (), time.time(), 60.0))[0]
    empty = store.begin(Head("empty", "scope", "other", "", 200, (), time.time(), 60.0))[0]
    asked_at = asyncio.get_running_loop().time() - 3.0
    for each in (log, empty):
        metrics.await_first_event(each, asked_at)
    await asyncio.to_thread(log.append, [b"data: 1\n\n"])
    log.append([b"data: 2\n\n"])
    empty.end(State.FAILED)
    await ticks()
    log.append([b"data: 3\n\n"])
    await ticks()
    text = metrics.exposition("")[0].decode()
    assert told(text)["first_event_seconds_count"] == 1
    assert f'{OURS}first_event_seconds_bucket{{le="2.5"}} 0.0' in text
    assert f'{OURS}first_event_seconds_bucket{{le="5.0"}} 1.0' in text


def test_log_may_outlive_the_loop() -> None:
    log = MemoryStore().begin(Head("id", "scope", "", "", 200, (), time.time(), 60.0))[0]

    async def watch() -> None:
        Metrics((), ()).await_first_event(log, 0.0)

    asyncio.run(watch())
    assert log.append([b"data: 1\n\n"]) == 1
