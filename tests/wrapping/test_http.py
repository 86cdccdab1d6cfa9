"""Wrapping a client of httpx or httpx2: what the copy keeps, and who closes the connections."""

from __future__ import annotations

import copy
import gc
import importlib
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

import resumable_llm as rl
from resumable_llm.transports.call import Owner
from resumable_llm.wrapping import http as wrapping
from tests.in_memory import ACCEPT, EVENTS_URL, FAMILIES, SSE, Said, numbered, policy, transport


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    assert isinstance(request.param, str)
    return request.param


@pytest.fixture
def no_chance_collection() -> Iterator[None]:
    """Garbage is collected where the test says so, and that of other tests before it.

    An error in a finalizer keeps the frames that happened to run, and with them a client that was just being made.
    """
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def client(family: str, *script: Said, **options: Any) -> Any:
    inner = transport(family, *script)
    return importlib.import_module(family).Client(transport=inner, trust_env=False, **options)


def async_client(family: str, *script: Said, **options: Any) -> Any:
    inner = transport(family, *script)
    return importlib.import_module(family).AsyncClient(transport=inner, trust_env=False, **options)


CUT = (Said(numbered(1), ends="ReadError"), Said(numbered(2)), Said())
WHOLE = b"".join(numbered(1, 2))
JSON = Said([b"{}"], headers={"content-type": "application/json", "set-cookie": "seen=1"})


def test_a_wrapped_client_survives_a_drop(family: str) -> None:
    http = client(family, *CUT)
    notices: list[str] = []
    wrapped = rl.wrap(http, policy=policy(), on_event=lambda notice: notices.append(notice.kind))
    assert type(wrapped) is type(http)
    with wrapped.stream("GET", EVENTS_URL, headers=ACCEPT) as response:
        assert response.read() == WHOLE
    assert notices == ["drop", "resume", "confirm", "end"]


async def test_a_wrapped_client_survives_a_drop_async(family: str) -> None:
    http = async_client(family, *CUT)
    wrapped = rl.wrap(http, policy=policy())
    assert type(wrapped) is type(http)
    async with wrapped.stream("GET", EVENTS_URL, headers=ACCEPT) as response:
        assert await response.aread() == WHOLE


def test_a_copy_keeps_everything(family: str) -> None:
    library = importlib.import_module(family)
    seen: list[str] = []
    mounted = transport(family, JSON)
    http = client(
        family,
        JSON,
        base_url="https://api.example/v1/",
        auth=("me", "s3cret"),
        cookies={"kept": "yes"},
        params={"version": "7"},
        headers={"x-mine": "1"},
        timeout=9,
        follow_redirects=True,
        max_redirects=3,
        event_hooks={"request": [lambda request: seen.append("asked")], "response": []},
        mounts={"all://mounted.example": mounted, "all://direct.example": None},
    )
    wrapped = rl.wrap(http)
    for name in ("auth", "base_url", "cookies", "follow_redirects", "headers", "max_redirects", "params", "timeout"):
        assert getattr(wrapped, name) == getattr(http, name), name
    assert wrapped.trust_env is False
    assert wrapped.event_hooks == http.event_hooks
    assert wrapped.get("things").json() == {}
    (asked,) = http._transport.requests
    assert asked.url == "https://api.example/v1/things?version=7"
    assert asked.headers["authorization"].startswith("Basic ")
    assert (asked.headers["x-mine"], asked.headers["cookie"]) == ("1", "kept=yes")
    assert asked.extensions["timeout"]["read"] == 9
    assert seen == ["asked"]
    assert "seen" in http.cookies  # whoever logs in with one is logged in with the other
    wrapped.get("https://mounted.example/")
    assert len(mounted.requests) == 1
    ours = getattr(rl, family).ResumableTransport
    assert [type(mount) for mount in wrapped._mounts.values()] == [
        ours if mount else type(None) for mount in http._mounts.values()
    ]
    assert None in wrapped._mounts.values()
    assert isinstance(wrapped, library.Client)


def test_the_original_stays_as_it_was(family: str) -> None:
    http = client(family, event_hooks={"request": [], "response": []}, mounts={"all://direct.example": None})
    inner = http._transport
    before = copy.deepcopy((http.headers, http.timeout, http.event_hooks, dict(http._mounts), http._state))
    wrapped = rl.wrap(http)
    wrapped.headers["x-new"] = "1"
    wrapped.event_hooks["request"].append(print)
    wrapped.timeout = 1
    wrapped._mounts.clear()
    assert (http.headers, http.timeout, http.event_hooks, dict(http._mounts), http._state) == before
    assert http._transport is inner


def test_wrapping_twice_is_wrapping_once(family: str) -> None:
    first: list[str] = []
    second: list[str] = []
    once = rl.wrap(client(family, *CUT), on_event=lambda notice: first.append(notice.kind))
    twice = rl.wrap(once, policy=policy(), on_event=lambda notice: second.append(notice.kind))
    with twice.stream("GET", EVENTS_URL, headers=ACCEPT) as response:
        assert response.read() == WHOLE
    assert (first, second) == ([], ["drop", "resume", "confirm", "end"])


def test_a_client_in_use_and_its_copy(family: str) -> None:
    http = client(family, JSON, JSON, JSON)
    with http:
        http.get(EVENTS_URL)
        with rl.wrap(http) as wrapped:
            wrapped.get(EVENTS_URL)
        assert wrapped.is_closed
        assert not http.is_closed
        http.get(EVENTS_URL)
    assert len(http._transport.requests) == 3


async def test_a_client_in_use_and_its_copy_async(family: str) -> None:
    http = async_client(family, JSON, JSON, JSON)
    async with http:
        await http.get(EVENTS_URL)
        async with rl.wrap(http) as wrapped:
            await wrapped.get(EVENTS_URL)
        assert wrapped.is_closed
        assert not http.is_closed
        await http.get(EVENTS_URL)


def test_a_subclass_with_a_constructor_of_its_own(family: str) -> None:
    library = importlib.import_module(family)

    def construct(self: Any, inner: Any, mine: str) -> None:
        library.Client.__init__(self, transport=inner, trust_env=False)
        self.mine = mine

    subclass: Any = type("Mine", (library.Client,), {"__init__": construct})
    with rl.wrap(subclass(transport(family, *CUT), "my own")) as wrapped:
        assert type(wrapped) is subclass
        assert wrapped.mine == "my own"
        assert wrapped.get(EVENTS_URL, headers=ACCEPT).content == WHOLE


def test_a_transport_that_must_be_entered(family: str) -> None:
    def enter(self: object) -> None:
        entered.append(self)

    http = client(family)
    entered: list[object] = []
    inner = http._transport
    inner.__class__ = type("Entered", (type(inner),), {"__enter__": enter})
    with rl.wrap(http):
        assert entered == [inner]


async def test_a_transport_that_must_be_entered_async(family: str) -> None:
    async def enter(self: object) -> None:
        entered.append(self)

    http = async_client(family)
    entered: list[object] = []
    inner = http._transport
    inner.__class__ = type("Entered", (type(inner),), {"__aenter__": enter})
    async with rl.wrap(http):
        assert entered == [inner]


def test_a_closed_client_stays_closed(family: str) -> None:
    http = client(family, JSON)
    http.close()
    with pytest.raises(RuntimeError, match="closed"):
        rl.wrap(http).get(EVENTS_URL)


# Who closes the connections


def test_the_connections_stay_while_the_original_is_used(family: str) -> None:
    http = client(family)
    inner = http._transport
    rl.wrap(http).close()
    assert inner.closed == 0
    http.close()
    assert inner.closed == 1


@pytest.mark.usefixtures("no_chance_collection")
def test_the_last_client_closes_the_connections(family: str) -> None:
    http = client(family, mounts={"all://mounted.example": transport(family), "all://direct.example": None})
    inner, mounted = http._transport, next(mount for mount in http._mounts.values() if mount)
    wrapped = rl.wrap(http)
    del http
    gc.collect()
    wrapped.close()
    assert (inner.closed, mounted.closed) == (1, 1)


@pytest.mark.usefixtures("no_chance_collection")
async def test_the_last_client_closes_the_connections_async(family: str) -> None:
    http = async_client(family)
    inner = http._transport
    wrapped = rl.wrap(http)
    await wrapped.aclose()
    assert inner.closed == 0
    wrapped = rl.wrap(http)
    del http
    gc.collect()
    await wrapped.aclose()
    assert inner.closed == 1


def test_the_connections_stay_while_the_original_is_used_though_wrapped_twice(family: str) -> None:
    http = client(family)
    rl.wrap(rl.wrap(http)).close()
    assert http._transport.closed == 0


@pytest.mark.usefixtures("no_chance_collection")
def test_the_connections_stay_while_the_copy_is_used_that_was_wrapped_again(family: str) -> None:
    http = client(family)
    inner = http._transport
    once = rl.wrap(http)
    del http
    gc.collect()
    rl.wrap(once).close()
    assert inner.closed == 0
    once.close()
    assert inner.closed == 1


@pytest.mark.usefixtures("no_chance_collection")
def test_two_copies_of_a_client_that_is_gone_leave_the_closing_to_the_collector(family: str) -> None:
    # Each of them holds the original, so that neither can know itself to be the last: a limit, not a promise.
    http = client(family)
    inner = http._transport
    connections = weakref.ref(inner)
    one, other = rl.wrap(http), rl.wrap(http)
    del http
    gc.collect()
    one.close()
    other.close()
    assert inner.closed == 0
    del inner, one, other
    gc.collect()
    assert connections() is None


@pytest.mark.usefixtures("no_chance_collection")
def test_the_original_may_go_while_its_copy_streams(family: str) -> None:
    library = importlib.import_module(family)
    finalized: list[object] = []
    mine = type("Finalized", (library.Client,), {"__del__": lambda self: finalized.append(self.close())})
    http = mine(transport=transport(family, *CUT), trust_env=False)
    wrapped = rl.wrap(http, policy=policy())
    with wrapped.stream("GET", EVENTS_URL, headers=ACCEPT) as response:
        del http
        gc.collect()
        assert finalized == []
        assert response.read() == WHOLE


# What is none


@pytest.mark.parametrize("thing", [None, object(), "client"])
def test_what_is_no_such_client(thing: object) -> None:
    assert not wrapping.wraps(thing)
    with pytest.raises(TypeError, match=r"cannot wrap what uses builtins\.\w+: only clients of httpx and httpx2"):
        wrapping.copied(thing, {})


@pytest.mark.usefixtures("no_chance_collection")
def test_somebody_else_may_own_the_connections(family: str) -> None:
    held = object()
    owner = Owner(held)
    http = client(family)
    inner = http._transport
    made = wrapping.copied(http, {}, owner)
    assert made._transport.owner is owner
    del http
    made.close()
    assert inner.closed == 0
    del held
    made._transport.close()
    assert inner.closed == 1


def test_the_options_reach_the_transport(family: str) -> None:
    with client(family) as http:
        assert wrapping.wraps(http)
        patient = policy()
        made = wrapping.copied(http, {"policy": patient})
        assert made._transport._policy is patient


# To a relay


def relayed_to(family: str, relay: str) -> tuple[Any, Any]:
    """Who is asked for the provider's answer by a client that has a proxy for it: the client's own, and the proxy."""
    proxy = transport(family, Said(numbered(1), headers={**SSE, "location": "/_streams/7"}), Said(status=204))
    http = client(
        family,
        *proxy.script,
        mounts={"https://": proxy, "all://relay.internal": transport(family, *proxy.script)},
    )
    asked = rl.wrap(rl.wrap(http), relay=relay, policy=policy())
    with asked.stream("GET", EVENTS_URL, headers=ACCEPT) as response:
        assert response.read() == numbered(1)[0]
    return http, proxy


@pytest.mark.parametrize("relay", ["http://127.0.0.1:8787", "https://localhost:8787/llm"])
def test_no_proxy_leads_to_a_relay_on_this_machine(family: str, relay: str) -> None:
    http, proxy = relayed_to(family, relay)
    assert [seen.url for seen in http._transport.requests] == [
        f"{relay}/events",
        relay.removesuffix("/llm") + "/_streams/7",
    ]
    assert not proxy.requests


def test_a_relay_elsewhere_has_its_own_way(family: str) -> None:
    http, proxy = relayed_to(family, "http://relay.internal")
    (mounted,) = [mount for mount in http._mounts.values() if mount is not proxy]
    assert [seen.url for seen in mounted.requests] == [
        "http://relay.internal/events",
        "http://relay.internal/_streams/7",
    ]
    assert not proxy.requests
    assert not http._transport.requests


def test_a_relay_elsewhere_may_be_behind_a_proxy(family: str) -> None:
    http, proxy = relayed_to(family, "https://relay.example")
    assert len(proxy.requests) == 2
    assert not http._transport.requests


async def test_a_relay_for_an_asynchronous_client(family: str) -> None:
    http = async_client(family, Said(numbered(1), headers={**SSE, "location": "/_streams/7"}), Said(status=204))
    async with rl.wrap(http, relay="http://relay.example").stream("GET", EVENTS_URL, headers=ACCEPT) as response:
        assert await response.aread() == numbered(1)[0]
    assert http._transport.requests[0].url == "http://relay.example/events"
