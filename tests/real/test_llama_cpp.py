"""Official SDKs, a real language model in a real llama.cpp server, real sockets that are cut: nobody notices."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import anyio
import httpx
import openai
import pytest

import resumable_llm as rl
from resumable_llm.testing import Fault, FaultPlan, FaultProxy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

PROMPT = "Write a few lines about a lighthouse keeper."
POLICY = rl.RetryPolicy(read_timeout=20)
CUTS = (
    Fault.rst(at_byte=1500),
    Fault.fin(at_byte=700),
    Fault.end(at_event=3),
    Fault.end(at_byte=901),
    Fault.rst(at_byte=1),
)


def chat(client: openai.OpenAI) -> Any:
    return client.chat.completions.create(
        model="smollm2",
        messages=[{"role": "user", "content": PROMPT}],
        stream=True,
        max_tokens=48,
        temperature=0,
        seed=7,
    )


def responses(client: openai.OpenAI) -> Any:
    return client.responses.create(model="smollm2", input=PROMPT, stream=True, max_output_tokens=48, temperature=0)


def own_record(server: str, handle: rl.Handle | rl.AsyncHandle) -> bytes:
    """What the server itself has kept of the answer, from its first byte."""
    conversation = handle.checkpoint.handle
    assert conversation is not None
    return httpx.get(f"{server}/v1/stream", params={"conv_id": conversation, "from": 0}, timeout=60).content


def record(client: Any) -> list[bytes]:
    """The bytes that an SDK's HTTP client is given from here on."""
    given: list[bytes] = []

    def listen(response: Any) -> None:
        inner = response.stream

        class Listening(type(inner).__mro__[1]):  # type: ignore[misc]
            def __iter__(self) -> Iterator[bytes]:
                for chunk in inner:
                    given.append(chunk)
                    yield chunk

            def close(self) -> None:
                inner.close()

        response.stream = Listening()

    client._client.event_hooks["response"].append(listen)
    return given


@pytest.mark.parametrize("ask", [chat, responses])
def test_an_answer_cut_again_and_again_is_whole(llama: str, ask: Callable[[openai.OpenAI], Any]) -> None:
    with (
        FaultProxy(llama, FaultPlan(*CUTS)) as proxy,
        openai.OpenAI(base_url=f"{proxy.url}/v1", api_key="none") as plain,
    ):
        client = rl.wrap(plain, policy=POLICY)
        given = record(client)
        stream = ask(client)
        events = list(stream)
        handle = rl.inspect(stream)
        assert len(proxy.requests) == handle.report.attempts == len(CUTS) + 1
        assert [request.method for request in proxy.requests] == ["POST"] + ["GET"] * len(CUTS)
    assert handle.report.fidelity == "exact"
    assert handle.report.end_proved
    whole = own_record(llama, handle)
    assert b"".join(given) == whole
    assert len(events) >= 48


def test_anthropic_messages_of_llama_cpp(llama: str) -> None:
    def ask(url: str) -> Any:
        with (
            anthropic.Anthropic(base_url=url, api_key="none") as client,
            rl.wrap(client, policy=POLICY).messages.stream(
                model="smollm2",
                max_tokens=40,
                extra_body={"temperature": 0},
                messages=[{"role": "user", "content": PROMPT}],
            ) as stream,
        ):
            return stream.get_final_message(), rl.inspect(stream)

    whole, _ = ask(llama)
    with FaultProxy(llama, FaultPlan(*CUTS)) as proxy:
        cut, handle = ask(proxy.url)
    assert len(handle.report.drops) == len(CUTS)
    assert cut.content == whole.content
    assert (cut.stop_reason, cut.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)


# openai reads no further than [DONE] and leaves its own generators unfinished, of which trio complains.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_asynchronous_clients(llama: str, anyio_backend: str) -> None:
    with FaultProxy(llama, FaultPlan(*CUTS)) as proxy:
        async with openai.AsyncOpenAI(base_url=f"{proxy.url}/v1", api_key="none") as client:
            stream = await rl.wrap(client, policy=POLICY).chat.completions.create(
                model="smollm2",
                messages=[{"role": "user", "content": PROMPT}],
                stream=True,
                max_tokens=48,
                temperature=0,
                seed=7,
            )
            handle = rl.inspect(stream)
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
    assert len(handle.report.drops) == len(CUTS)
    assert len(await anyio.to_thread.run_sync(own_record, llama, handle)) == handle.report.bytes
    assert text


def test_a_closed_stream_stops_the_server(llama: str) -> None:
    with openai.OpenAI(base_url=f"{llama}/v1", api_key="none") as client:
        stream = rl.wrap(client).chat.completions.create(
            model="smollm2", messages=[{"role": "user", "content": PROMPT}], stream=True, max_tokens=2000
        )
        next(iter(stream))
        conversation = stream.response.request.headers.get("x-conversation-id")
        assert conversation is None, "the caller's own request must not be touched"
        stream.close()
        assert running(llama) == 0


def test_cancel_stops_the_server(llama: str) -> None:
    body = {"messages": [{"role": "user", "content": PROMPT}], "stream": True, "max_tokens": 2000}
    with httpx.Client(timeout=60) as client:
        with rl.connect_sse(client, "POST", f"{llama}/v1/chat/completions", json=body) as stream:
            next(stream.text_deltas())
            stream.cancel()
        assert running(llama) == 0
        assert stream.report.events < 2000


def running(server: str) -> int:
    """How many answers the server is generating, once it has noticed what it was told."""
    count = -1
    for _ in range(50):
        slots = httpx.get(f"{server}/slots", timeout=10).json()
        count = sum(slot["is_processing"] for slot in slots)
        if count == 0:
            break
        time.sleep(0.1)  # the server looks at its connections between two tokens
    return count


READER = """
import os, sys, httpx, resumable_llm as rl
url, path = sys.argv[1:]
body = {"messages": [{"role": "user", "content": "%s"}], "stream": True, "max_tokens": 60, "temperature": 0, "seed": 7}
with httpx.Client(timeout=60) as client, rl.connect_sse(client, "POST", url, json=body) as stream:
    for event in stream:
        with open(path + ".new", "w") as file:
            file.write(stream.checkpoint.to_json())
        os.replace(path + ".new", path)
        print(event.data, flush=True)
"""


def test_a_killed_process_and_its_successor_have_the_whole(llama: str, tmp_path: Any) -> None:
    path = tmp_path / "checkpoint"
    reader = subprocess.Popen(
        [sys.executable, "-c", READER % PROMPT, f"{llama}/v1/chat/completions", str(path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert reader.stdout is not None
    head = [reader.stdout.readline().strip() for _ in range(12)]
    os.kill(reader.pid, signal.SIGSTOP)  # so that what it has printed is what it has noted
    reader.kill()
    head += [line.strip() for line in reader.stdout]
    reader.stdout.close()
    reader.wait()
    checkpoint = rl.Checkpoint.from_json(path.read_text())
    assert checkpoint.events in (len(head), len(head) + 1), "stopped between the note and the print, at most"
    with httpx.Client(timeout=60) as client, rl.resume_sse(client, checkpoint) as stream:
        tail = [event.data for event in stream]
    whole = httpx.get(f"{llama}/v1/stream", params={"conv_id": checkpoint.handle, "from": 0}, timeout=60).text
    events = [block.removeprefix("data: ") for block in whole.split("\n\n") if block]
    assert head + (events[len(head) : checkpoint.events]) + tail == events
