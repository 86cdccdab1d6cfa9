"""Official SDKs and a real model with the relay between them: connections are cut at random, and nobody notices."""

from __future__ import annotations

import random
import uuid
from contextlib import ExitStack
from typing import Any

import anthropic
import httpx
import openai
import pytest

import resumable_llm as rl
from resumable_llm.testing import Fault, FaultPlan, FaultProxy
from tests.real.test_llama_cpp import POLICY, PROMPT
from tests.relay.serve import Served, datas

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

KINDS = (Fault.rst, Fault.fin, Fault.end)


def chat(url: str, key: str, stack: ExitStack) -> Any:
    client = stack.enter_context(rl.wrap(openai.OpenAI(base_url=f"{url}/v1", api_key="none"), policy=POLICY))
    asked: Any = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 48, "temperature": 0, "seed": 7}
    return client.chat.completions.create(model="m", stream=True, extra_headers={"Idempotency-Key": key}, **asked)


def messages(url: str, key: str, stack: ExitStack) -> Any:
    client = stack.enter_context(rl.wrap(anthropic.Anthropic(base_url=url, api_key="none"), policy=POLICY))
    asked: Any = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 48}
    return client.messages.create(model="m", stream=True, extra_headers={"Idempotency-Key": key}, **asked)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ask", [chat, messages])
def test_cut_at_random_and_whole(llama: str, ask: Any, seed: int) -> None:
    dice = random.Random(seed)
    key = str(uuid.uuid4())
    cuts = [dice.choice(KINDS)(at_byte=dice.randrange(1, 1000)) for _ in range(6)]
    with ExitStack() as stack:
        counting = stack.enter_context(FaultProxy(llama))
        served = stack.enter_context(Served(counting.url))
        proxy = stack.enter_context(FaultProxy(served.url))
        proxy.plan = FaultPlan(*cuts)
        stream = ask(proxy.url, key, stack)
        events = list(stream)
        report = rl.inspect(stream).report
        asked = [request.method for request in counting.requests]
        with httpx.Client() as client:
            whole = client.get(f"{served.url}/_streams/{key}", headers={"authorization": "Bearer none"}).content
    record = httpx.get(f"{llama}/v1/stream", params={"conv_id": key, "from": 0}, timeout=60).content
    assert datas(whole) == datas(record)
    expected = [data for data in datas(record) if data != "[DONE]"]
    assert [event.model_dump_json(exclude_unset=True) for event in events] == [
        type(event).model_validate_json(data).model_dump_json(exclude_unset=True)
        for event, data in zip(events, expected, strict=True)
    ]
    assert report.fidelity == "exact"
    assert report.drops  # how many depends on how long the model's answer is
    assert asked == ["POST"]
