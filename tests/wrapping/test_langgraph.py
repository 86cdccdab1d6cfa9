from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

import resumable_llm as rl
from resumable_llm.wrapping import langgraph
from tests.wrapping.fakes import async_http_client, http_client, is_watched, of


def construct(self: Any, http: Any) -> None:
    self.http = SimpleNamespace(client=http)
    self.runs = SimpleNamespace(http=self.http)
    self.threads = SimpleNamespace(http=self.http)


Client = of("langgraph_sdk._async.client", "LangGraphClient", __init__=construct)
SyncClient = of("langgraph_sdk._sync.client", "SyncLangGraphClient", __init__=construct)


@pytest.mark.parametrize(("kind", "http"), [(SyncClient, http_client), (Client, async_http_client)])
def test_it_is_built_anew_around_a_copy(kind: Any, http: Any) -> None:
    original = kind(http())
    assert langgraph.wraps(original)
    made = rl.wrap(original)
    assert type(made) is kind
    assert is_watched(made.runs.http.client)
    assert not is_watched(original.http.client)


def test_it_is_known_by_name() -> None:
    assert langgraph.wraps(of("mine", "Mine", Client)(None))
    assert not langgraph.wraps(of("langgraph.client", "LangGraphClient")())


def test_a_bypass_is_refused() -> None:
    runs = SimpleNamespace(http=SimpleNamespace(client=http_client()))

    def stubborn(self: Any, http: Any) -> None:
        construct(self, http)
        self.runs = runs

    with pytest.raises(TypeError, match=r"LangGraphClient did not take the HTTP client \(runs\.http\.client\)"):
        rl.wrap(of("langgraph_sdk.client", "LangGraphClient", __init__=stubborn)(http_client()))
