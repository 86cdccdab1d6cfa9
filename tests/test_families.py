from __future__ import annotations

import importlib
import sys

import pytest

from resumable_llm.families import family_of
from tests.in_memory import FAMILIES


@pytest.mark.parametrize("name", FAMILIES)
async def test_the_family_is_read_off_the_client(name: str) -> None:
    http = importlib.import_module(name)
    with http.Client() as client:
        family = family_of(client)
    assert family is not None
    assert family.http is http
    assert family.transports.__name__ == f"resumable_llm.transports.{name}"
    assert family.is_sync_client(client)
    assert not family.is_async_client(client)
    async with http.AsyncClient() as asynchronous:
        assert family_of(asynchronous) == family
    assert family.is_async_client(asynchronous)
    assert not family.is_sync_client(asynchronous)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_subclass_is_of_the_family(name: str) -> None:
    mine = type("Mine", (importlib.import_module(name).Client,), {"__module__": "somewhere.else"})
    with mine() as client:
        family = family_of(client)
    assert family is not None
    assert family.http.__name__ == name


@pytest.mark.parametrize("name", FAMILIES)
def test_not_everything_in_the_family_is_a_client(name: str) -> None:
    http = importlib.import_module(name)
    assert family_of(http.Response(200)) is None
    assert family_of(http.Client) is None


@pytest.mark.parametrize("thing", [None, "client", object()])
def test_most_things_are_of_no_family(thing: object) -> None:
    assert family_of(thing) is None


@pytest.mark.parametrize("name", FAMILIES)
def test_nothing_is_imported_for_a_client_that_only_has_the_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, name, raising=False)
    stranger = type("Client", (), {"__module__": name})
    assert family_of(stranger()) is None
    assert name not in sys.modules
