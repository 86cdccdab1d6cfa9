from __future__ import annotations

import asyncio
import copy
from types import SimpleNamespace
from typing import Any

import pytest

import resumable_llm as rl
from resumable_llm.transports.call import Owner
from resumable_llm.wrapping import google
from tests.wrapping.fakes import async_http_client, http_client, is_watched, of


class Options:
    """The part of pydantic that is used of the real ones."""

    def __init__(self, **options: Any) -> None:
        vars(self).update({"httpx_client": None, "httpx_async_client": None, "async_client_args": None, **options})

    def model_copy(self, update: dict[str, Any]) -> Options:
        return Options(**{**vars(self), **update})


class Api:
    def __init__(self, options: Options, async_client: Any = None, mtls: str = "") -> None:
        self._http_options: Any = options
        self._httpx_client = http_client()
        self._async_httpx_client = async_client or async_http_client()
        self._aiohttp_sessions: dict[Any, Any] = {"loop": "session"}
        self._mtls = mtls

    def _use_google_auth_sync(self) -> bool:
        return self._mtls == "sync"

    def _use_google_auth_async(self) -> bool:
        return self._mtls == "async"

    def _use_aiohttp(self) -> bool:
        given = (self._http_options.async_client_args or {}).get("transport")
        return given is None and self._http_options.httpx_async_client is None


class Models:
    def __init__(self, api: Api) -> None:
        self._api_client = api


class AsyncClient(Models):
    def __init__(self, api: Api) -> None:
        super().__init__(api)
        self.models = Models(api)


def construct(self: Any, api: Api) -> None:
    self._api_client = api
    self._debug_config = SimpleNamespace(client_mode=None)
    self.aio = AsyncClient(api)
    self.models = Models(api)
    self._interactions = of("google.genai._gaos.google_genai", "Interactions")()
    self._agents = None


Client = of("google.genai.client", "Client", __init__=construct)


def client(**options: Any) -> Any:
    return Client(Api(Options(**options)))


def test_it_is_known_by_name() -> None:
    assert google.wraps(client())
    assert google.wraps(of("mine", "Mine", Client)(Api(Options())))
    assert not google.wraps(of("google.cloud.client", "Client")())


def test_everything_within_is_bound_to_the_copy() -> None:
    original = client()
    before = copy.copy(vars(original)), copy.copy(vars(original._api_client))
    made = rl.wrap(original)
    assert type(made) is Client
    api = made._api_client
    assert api is not original._api_client
    assert {id(each._api_client) for each in (made.models, made.aio, made.aio.models)} == {id(api)}
    assert (made._interactions, made._agents) == (None, None)
    assert made._debug_config is original._debug_config
    assert is_watched(api._httpx_client)
    assert is_watched(api._async_httpx_client)
    assert api._aiohttp_sessions == {}
    assert original._api_client._use_aiohttp()
    assert not api._use_aiohttp()
    assert (vars(original), vars(original._api_client)) == before


def test_clients_of_the_users_stay_the_users() -> None:
    """The SDK closes only what it has made; which that is, it reads off its options."""
    theirs = client(httpx_client=object(), httpx_async_client=object(), async_client_args={"ssl": False})
    api = rl.wrap(theirs)._api_client
    assert api._http_options.httpx_client is api._httpx_client
    assert api._http_options.httpx_async_client is api._async_httpx_client
    assert api._http_options.async_client_args["ssl"] is False
    own = rl.wrap(client())._api_client._http_options
    assert (own.httpx_client, own.httpx_async_client) == (None, None)


def test_one_owner_stands_behind_both_colours() -> None:
    original = client()
    api = rl.wrap(original)._api_client
    owner = api._httpx_client._transport.owner
    assert owner is api._async_httpx_client._transport.owner
    assert owner._client is original
    given = Owner(object())

    def around(http_client: Any, owner: Owner | None = None, /) -> Any:
        assert owner is given
        made = copy.copy(http_client)
        made._transport = copy.copy(http_client._transport)
        return made

    google.copied(original, around, given)


def test_one_http_client_for_each_event_loop() -> None:
    shared: list[Any] = []

    def client_for_running_loop(self: Any) -> Any:
        asyncio.get_running_loop()
        if not shared:
            shared.append(async_http_client())
        return shared[0]

    async_client = async_http_client()
    async_client.__class__ = of(
        "google.genai._api_client",
        "AsyncHttpxClient",
        type(async_client),
        _per_loop=True,
        _client_for_running_loop=client_for_running_loop,
    )
    async_client._loop_clients = shared  # type: ignore[attr-defined]
    made = rl.wrap(Client(Api(Options(), async_client)))._api_client._async_httpx_client
    assert made._loop_clients == {}
    assert made._loop_clients_lock is not getattr(async_client, "_loop_clients_lock", None)

    async def inner() -> Any:
        return made._inner_client_cls(cookies=None)

    inside = asyncio.run(inner())
    assert is_watched(inside)
    assert inside._transport.wrapped is shared[0]._transport, "connections are shared"


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_mtls_is_refused(colour: str) -> None:
    with pytest.raises(TypeError, match=r"with mTLS its requests are sent by google-auth.*httpx_async_client"):
        rl.wrap(Client(Api(Options(), mtls=colour)))


def test_a_session_of_aiohttp_is_refused() -> None:
    with pytest.raises(TypeError, match=r"given an aiohttp session.*httpx_async_client instead"):
        rl.wrap(client(aiohttp_client=object()))


def test_a_bypass_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Api, "_use_aiohttp", lambda self: True)
    with pytest.raises(TypeError, match="still uses aiohttp, so nothing would be watched over"):
        rl.wrap(client())


def test_a_client_for_the_api_that_stays_the_originals_is_refused() -> None:
    original = client()
    original.__class__ = of("google.genai.client", "Client", Client, models=original.models)
    del original.__dict__["models"]
    with pytest.raises(TypeError, match=r"Client did not take the HTTP client \(models\._api_client\._httpx_client\)"):
        rl.wrap(original)
