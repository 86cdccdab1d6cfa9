from __future__ import annotations

import copy
import gc
import importlib
import weakref
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import pytest

import resumable_llm as rl
from tests.in_memory import ACCEPT, CHAT, CHAT_URL, EVENTS_URL, FAMILIES, Said, chat, numbered, policy, transport


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    assert isinstance(request.param, str)
    return request.param


def client(family: str, *script: Said, **options: Any) -> Any:
    inner = transport(family, *script)
    return importlib.import_module(family).Client(transport=inner, trust_env=False, **options)


def async_client(family: str, *script: Said, **options: Any) -> Any:
    inner = transport(family, *script)
    return importlib.import_module(family).AsyncClient(transport=inner, trust_env=False, **options)


CUT = (Said(numbered(1), ends="ReadError"), Said(numbered(2)), Said())
WHOLE = b"".join(numbered(1, 2))
JSON = Said([b"{}"], headers={"content-type": "application/json", "set-cookie": "seen=1"})


# A client of the family


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


def test_the_last_client_closes_the_connections(family: str) -> None:
    http = client(family, mounts={"all://mounted.example": transport(family), "all://direct.example": None})
    inner, mounted = http._transport, next(mount for mount in http._mounts.values() if mount)
    wrapped = rl.wrap(http)
    del http
    gc.collect()
    wrapped.close()
    assert (inner.closed, mounted.closed) == (1, 1)


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


# A client of an SDK


class Sdk:
    """What Stainless generates, in short."""

    def __init__(self, *, http_client: Any, strict: bool = False) -> None:
        self._client = http_client
        self._strict_response_validation = strict

    def copy(self, *, http_client: Any) -> Any:
        return type(self)(http_client=http_client)

    @cached_property
    def answers(self) -> Answers:
        return Answers(self)

    def ask(self) -> bytes:
        found: bytes = self._client.get(EVENTS_URL, headers=ACCEPT).content
        return found


class Answers:
    """A resource, bound to the client that made it."""

    def __init__(self, sdk: Sdk) -> None:
        self.ask = sdk.ask


def test_an_sdks_client_is_copied_by_its_own_means(family: str) -> None:
    http = client(family, *CUT)
    sdk = Sdk(http_client=http, strict=True)
    wrapped = rl.wrap(sdk, policy=policy())
    assert type(wrapped) is Sdk
    assert wrapped.answers.ask() == WHOLE
    assert wrapped._strict_response_validation
    assert sdk._client is http


def test_an_sdk_without_strictness(family: str) -> None:
    class Lenient(Sdk):
        def __init__(self, *, http_client: Any) -> None:
            self._client = http_client

    assert rl.wrap(Lenient(http_client=client(family, *CUT)), policy=policy()).ask() == WHOLE


def test_an_sdk_that_warms_its_connection_up_is_kept_from_it(family: str) -> None:
    class Warming(Sdk):
        warmed = 0

        def __init__(self, *, http_client: Any, warm_tcp_connection: bool = True) -> None:
            super().__init__(http_client=http_client)
            Warming.warmed += warm_tcp_connection

        def copy(self, *, http_client: Any, **options: Any) -> Any:
            return type(self)(http_client=http_client, **options)

    assert rl.wrap(Warming(http_client=client(family, *CUT)), policy=policy()).ask() == WHOLE
    assert Warming.warmed == 1


class OwnConstructor(Sdk):
    """A user's subclass, which its SDK's copy() cannot make."""

    def __init__(self, tenant: str, http_client: Any) -> None:
        super().__init__(http_client=http_client)
        self.tenant = tenant


def test_a_subclass_of_an_sdks_client_is_copied_by_hand(family: str) -> None:
    sdk = OwnConstructor("mine", client(family, *CUT))
    bound = sdk.answers
    wrapped = rl.wrap(sdk, policy=policy())
    assert wrapped.tenant == "mine"
    assert wrapped.answers is not bound
    assert wrapped.answers.ask() == WHOLE
    assert sdk.answers is bound


@pytest.mark.parametrize("middleware", [(), ("mine",)])
def test_middleware_cannot_be_copied_by_hand(family: str, middleware: tuple[str, ...]) -> None:
    sdk: Any = OwnConstructor("mine", client(family, *CUT))
    sdk._middleware_chain = object()
    sdk.middleware = middleware
    if middleware:
        with pytest.raises(TypeError, match=r"cannot copy OwnConstructor: .* has middleware"):
            rl.wrap(sdk)
    else:
        assert rl.wrap(sdk, policy=policy()).ask() == WHOLE


def test_a_copy_that_is_not_watched_over_is_refused(family: str) -> None:
    class Stubborn(Sdk):
        def copy(self, *, http_client: Any) -> Any:
            return Sdk(http_client=self._client)

    with pytest.raises(TypeError, match=r"Stubborn\.copy\(\) did not take the HTTP client"):
        rl.wrap(Stubborn(http_client=client(family)))


@pytest.mark.parametrize("thing", [None, "client", Sdk, SimpleNamespace(_client=object(), copy=print)])
def test_what_cannot_be_wrapped(thing: object) -> None:
    with pytest.raises(TypeError, match=r"cannot wrap \w+\.\w+: pass a client of openai.*rl\.wrap\("):
        rl.wrap(thing)


def test_what_cannot_be_copied_cannot_be_wrapped(family: str) -> None:
    with pytest.raises(TypeError, match="cannot wrap"):
        rl.wrap(SimpleNamespace(_client=client(family)))


# Inside an SDK's stream


@pytest.mark.parametrize(
    "around",
    [
        lambda response: response,
        lambda response: SimpleNamespace(response=response),
        lambda response: SimpleNamespace(_response=response),
        lambda response: SimpleNamespace(_raw_stream=SimpleNamespace(response=response)),
        lambda response: SimpleNamespace(http_response=response),
    ],
    ids=["response", "stream", "hidden", "raw", "http"],
)
def test_the_handle_is_found(family: str, around: Any) -> None:
    wrapped = rl.wrap(client(family, Said(chat("a", done=True))))
    with wrapped.stream("POST", CHAT_URL, json=CHAT) as response:
        handle = rl.inspect(around(response))
        assert isinstance(handle, rl.Handle)
        response.read()
        assert handle.report.events == 2
        assert handle.checkpoint.complete


async def test_the_handle_is_found_async(family: str) -> None:
    wrapped = rl.wrap(async_client(family, Said(chat("a", done=True))))
    async with wrapped.stream("POST", CHAT_URL, json=CHAT) as response:
        assert isinstance(rl.inspect(response), rl.AsyncHandle)
        await response.aread()


def test_there_is_no_handle_where_nobody_watches(family: str) -> None:
    with (
        client(family, Said(chat("a", done=True))).stream("POST", CHAT_URL, json=CHAT) as response,
        pytest.raises(TypeError, match="nothing watches over this Response"),
    ):
        rl.inspect(response)
    with pytest.raises(TypeError, match="nothing watches over this NoneType"):
        rl.inspect(None)
