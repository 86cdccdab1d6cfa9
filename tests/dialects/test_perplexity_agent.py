"""Perplexity's agents: Responses that are created under another path than they are found."""

from __future__ import annotations

import json

import pytest

from resumable_llm.core.errors import UpgradeRefused
from resumable_llm.core.model import Position, Progress, RequestPlan
from resumable_llm.dialects import named, recognise
from resumable_llm.dialects.perplexity_agent import PerplexityAgent

AGENT = PerplexityAgent()
URL = "https://api.perplexity.ai/v1/agent"


def asked(url: str = URL, body: bytes = b'{"stream":true,"background":true}') -> RequestPlan:
    return RequestPlan("POST", url, (("Authorization", "Bearer x"), ("Content-Type", "application/json")), body)


@pytest.mark.parametrize(
    ("request_", "name"),
    [
        (asked(), "perplexity_agent"),
        (asked(body=b'{"stream":false}'), None),
        (asked("https://api.perplexity.ai.example/v1/agent"), None),
        (asked("https://notperplexity.ai/v1/agent"), None),
        (asked("https://perplexity.ai/v1/agent"), "perplexity_agent"),
        (asked("https://api.perplexity.ai/v1/agents"), None),
        (RequestPlan("GET", URL), None),
        (asked("https://api.perplexity.ai/v1/responses"), "openai_responses"),
        (RequestPlan("GET", "https://api.perplexity.ai/v1/responses/r?stream=true"), "openai_responses"),
    ],
)
def test_recognises(request_: RequestPlan, name: str | None) -> None:
    found = recognise(request_)
    assert (found and found.name) == name
    assert named("perplexity_agent").name == "perplexity_agent"


def test_ways_back() -> None:
    progress = Progress(asked(), Position(sequence=7), "resp_1")
    resumed, polled, cancelled = AGENT.resume(progress), AGENT.poll(progress), AGENT.cancel(progress)
    assert resumed is not None
    assert polled is not None
    assert cancelled is not None
    base = "https://api.perplexity.ai/v1/responses/resp_1"
    assert (resumed.method, resumed.url) == ("GET", f"{base}?stream=true&starting_after=7")
    assert (polled.method, polled.url) == ("GET", base)
    assert (cancelled.method, cancelled.url) == ("POST", f"{base}/cancel")
    assert {plan.header("authorization") for plan in (resumed, polled, cancelled)} == {"Bearer x"}


def test_upgrade() -> None:
    upgraded = AGENT.upgrade(asked(body=b'{"stream":true}'))
    assert json.loads(upgraded.body or b"") == {"stream": True, "background": True}
    with pytest.raises(UpgradeRefused, match="background: false"):
        AGENT.upgrade(asked(body=b'{"stream":true,"background":false}'))
