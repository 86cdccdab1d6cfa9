"""Your own code against bad networks, with pytest: ``pytest examples/test_your_own_code.py``.

The fixtures come with the package. The server here is a recording, so that the example runs anywhere; put your own
upstream in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest

import resumable_llm as rl
from resumable_llm.cli.recorded import RecordedServer
from resumable_llm.testing import Fault, FaultProxy


def ask(client: httpx.Client, url: str, policy: rl.RetryPolicy) -> str:
    """The code to be tested: asks, and returns the text of the answer."""
    question = {"messages": [{"role": "user", "content": "Hello!"}], "stream": True}
    with rl.connect_sse(client, "POST", f"{url}/v1/chat/completions", json=question, policy=policy) as stream:
        return "".join(stream.text_deltas())


@pytest.fixture
def server() -> Iterator[str]:
    with RecordedServer() as recorded:
        yield recorded.url


def test_drops_do_not_change_the_answer(
    server: str, fault_proxy: Callable[..., FaultProxy], instant_retries: rl.RetryPolicy
) -> None:
    proxy = fault_proxy(server, Fault.rst(at_event=5), Fault.end(at_byte=4000), Fault.fin(at_event=40))
    with httpx.Client() as client:
        assert ask(client, proxy.url, instant_retries) == ask(client, server, instant_retries)
    assert len(proxy.requests) == 4
