from __future__ import annotations

from types import ModuleType
from typing import Any, cast

import httpx
import pytest

from resumable_llm.wrapping import clients


def test_a_bare_client_needs_no_sdk() -> None:
    with httpx.Client(trust_env=False) as client:
        assert clients.copied(client, lambda http_client, owner=None: (http_client, owner)) == (client, None)


def test_the_first_that_knows_a_client_copies_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Known:
        def __init__(self, knows: type) -> None:
            self.knows = knows

        def wraps(self, client: object) -> bool:
            return isinstance(client, self.knows)

        def copied(self, client: Any, around: Any) -> Any:
            return self.knows, client, around

    def around(http_client: Any, owner: Any = None, /) -> Any:
        raise AssertionError("nobody asked for it")

    monkeypatch.setattr(clients, "CLIENTS", (Known(str), Known(int), Known(object)))
    assert clients.copied(7, around) == (int, 7, around)
    assert clients.copied(None, around) == (object, None, around)


def test_what_nobody_knows() -> None:
    with pytest.raises(TypeError, match=r"cannot wrap builtins\.object: pass a client of openai, .*mistralai"):
        clients.copied(object(), lambda http_client, owner=None: http_client)


def test_whoever_goes_by_looks_is_asked_last() -> None:
    names = [cast(ModuleType, sdk).__name__.rpartition(".")[2] for sdk in clients.CLIENTS]
    assert names[-1] == "stainless"
    assert len(set(names)) == len(names)
