"""The way to a relay: which calls take it, and what of them arrives; tests/relay/test_from_python.py uses sockets."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

import resumable_llm as rl
from resumable_llm.core.model import RequestPlan
from resumable_llm.dialects import recognise
from resumable_llm.local import relay as local
from resumable_llm.transports.call import Call
from resumable_llm.transports.relayed import AsyncWay, Way, checked, is_loopback, redirected
from tests.in_memory import ACCEPT, CHAT, CHAT_URL, EVENTS_URL, FAMILIES, SSE, Said, chat, numbered, policy, transport

RELAY = "http://127.0.0.1:8787"
KEPT = {**SSE, "location": "/_streams/7"}


class NotConnected(Exception):
    pass


class TimedOut(Exception):
    pass


def call(url: str = CHAT_URL, body: bytes = b'{"stream": true, "model": "m"}', **headers: str) -> Call:
    pairs = tuple((name.replace("_", "-"), value) for name, value in {"Host": "api.example", **headers}.items())
    plan = RequestPlan("POST", url, pairs, body)
    dialect = recognise(plan)
    assert dialect is not None
    return Call(plan, dialect, "k", "f")


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    assert isinstance(request.param, str)
    return request.param


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where the local relay is found each time it is looked for; empty: nowhere."""
    places = [RELAY]

    def address(upstream: str) -> str:
        assert upstream == "https://api.example"
        if not places[0]:
            raise local.Unavailable("no relay")
        return places.pop(0) if len(places) > 1 else places[0]

    monkeypatch.setattr(local, "address", address)
    return places


@pytest.mark.parametrize("relay", ["", "relay", "ftp://h", "http://", "http://me:pass@h", "http://h?a=1", "LOCAL"])
def test_what_is_no_relay(relay: str, family: str) -> None:
    library = importlib.import_module(family)
    with (
        library.Client(transport=transport(family)) as client,
        pytest.raises(ValueError, match="relay must be a URL") as c,
    ):
        rl.wrap(client, relay=relay)
    assert "pass" not in str(c.value).replace("password", "")
    with pytest.raises(ValueError, match="relay must be a URL"):
        checked(relay)


def test_packages_are_looked_for_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ModuleNotFoundError("pip install")

    monkeypatch.setattr(local, "require_extras", missing)
    for way in (Way, AsyncWay):
        way(RELAY, (NotConnected,))
        with pytest.raises(ModuleNotFoundError, match="pip install"):
            way("local", (NotConnected,))


@pytest.mark.parametrize(
    ("relay", "there"),
    [("local", True), ("http://localhost:1", True), ("https://[::1]/x", True), ("http://relay.example", False)],
)
def test_on_this_machine(relay: str, there: bool) -> None:
    assert is_loopback(relay) is there


class TestRedirected:
    @pytest.mark.parametrize(
        ("url", "relay", "target", "meant_for"),
        [
            (CHAT_URL, RELAY, f"{RELAY}/v1/chat/completions", "https://api.example"),
            (CHAT_URL, "https://r.example/llm", "https://r.example/llm/v1/chat/completions", "https://api.example"),
            (
                "http://h:8000/v1/chat/completions?a=%2F&b",
                RELAY,
                f"{RELAY}/v1/chat/completions?a=%2F&b",
                "http://h:8000",
            ),
            ("https://me:pw@[::1]:7/completions", RELAY, f"{RELAY}/completions", "https://[::1]:7"),
        ],
    )
    def test_where_to(self, url: str, relay: str, target: str, meant_for: str) -> None:
        going = redirected(call(url), relay)
        assert (going.plan.url, going.upstream) == (target, meant_for)
        assert going.plan.header("relay-upstream") == meant_for
        assert (going.key, going.fingerprint, going.dialect.name) == ("k", "f", "relay/openai_chat")

    def test_a_url_without_a_path(self) -> None:
        plan = RequestPlan("GET", "https://api.example", (("Accept", "text/event-stream"),))
        dialect = recognise(plan)
        assert dialect is not None
        assert redirected(Call(plan, dialect, None), RELAY).plan.url == f"{RELAY}/"

    def test_headers_are_the_callers_but_for_the_host(self) -> None:
        going = redirected(call(Authorization="Bearer x", X_Empty="", Relay_Upstream="http://other"), RELAY)
        assert going.plan.headers == (
            ("Host", "127.0.0.1:8787"),
            ("Authorization", "Bearer x"),
            ("X-Empty", ""),
            ("Relay-Upstream", "https://api.example"),
        )

    @pytest.mark.parametrize(
        ("cookies", "left"),
        [
            ("session=1", "session=1"),
            ("session=1; __cf_bm=a.b; other=2", "session=1; other=2"),
            ("__cf_bm=a; _cfuvid=b; AWSALB=c; AWSALBCORS=d; __cflb=e; cf_clearance=f", None),
        ],
    )
    def test_cookies_that_come_and_go_do_not_make_another_caller(self, cookies: str, left: str | None) -> None:
        assert redirected(call(Cookie=cookies), RELAY).plan.header("cookie") == left


@pytest.mark.parametrize(
    ("plan", "goes"),
    [
        (RequestPlan("POST", CHAT_URL, (), b'{"stream": true}'), True),
        (RequestPlan("POST", "https://api.example/v1/messages", (), b'{"stream": true}'), True),
        (RequestPlan("GET", EVENTS_URL, (("Accept", "text/event-stream"),)), True),
        # Their framing has no room for ids, or their ids are their own, and their clients send them back.
        (RequestPlan("POST", "http://h:11434/api/chat", (), b'{"model": "m", "messages": []}'), False),
        (RequestPlan("POST", "http://h/threads/1/runs/stream", (), b"{}"), False),
        (RequestPlan("GET", "http://h/v1/stream/s?offset=-1&live=sse", (("Accept", "text/event-stream"),)), None),
    ],
)
def test_which_calls_take_it(plan: RequestPlan, goes: bool | None) -> None:
    dialect = recognise(plan)
    assert dialect is not None
    asked = Call(plan, dialect, None)
    taken = Way(RELAY, (NotConnected,)).take(asked)
    goes = dialect.honours_ids if goes is None else goes
    assert (taken is not asked) is goes
    assert Way(None, (NotConnected,)).take(asked) is asked


@pytest.mark.parametrize("error", [NotConnected, TimedOut])
def test_an_error_says_whose_connection_it_was(error: type[Exception]) -> None:
    way = Way(RELAY, (NotConnected, TimedOut))
    with pytest.raises(error, match=r"^refused$"), way.sending(call()):
        raise error("refused")
    with (
        pytest.raises(error, match=f"^the relay at {RELAY} cannot be reached: refused$") as c,
        way.sending(way.take(call())),
    ):
        raise error("refused")
    assert isinstance(c.value.__cause__, error)
    with pytest.raises(KeyError), way.sending(way.take(call())):
        raise KeyError


class TestLocal:
    """Nothing is sent that could not be proved a moment before to go to the relay."""

    def test_it_is_looked_for_at_each_request(self, at: list[str]) -> None:
        way = Way("local", (NotConnected,))
        taken = way.take(call())
        way.check(taken)
        way.check(call())  # of no relay's
        at[:] = ["http://127.0.0.1:8788"]
        with pytest.raises(NotConnected, match=r"restarted at another port: http://127\.0\.0\.1:8788"):
            way.check(taken)
        at[:] = [""]
        for step, asked in ((way.take, call()), (way.check, taken)):
            with pytest.raises(NotConnected, match=r"^no relay$") as caught:
                step(asked)
            assert isinstance(caught.value.__cause__, local.Unavailable)

    async def test_it_is_looked_for_at_each_request_async(self, at: list[str]) -> None:
        way = AsyncWay("local", (NotConnected,))
        taken = await way.take(call())
        await way.check(taken)
        await way.check(call())
        at[:] = ["http://127.0.0.1:8788"]
        with pytest.raises(NotConnected, match=r"restarted at another port: http://127\.0\.0\.1:8788"):
            await way.check(taken)
        at[:] = [""]
        for step, asked in ((way.take, call()), (way.check, taken)):
            with pytest.raises(NotConnected, match=r"^no relay$") as caught:
                await step(asked)
            assert isinstance(caught.value.__cause__, local.Unavailable)

    async def test_another_one_is_not(self) -> None:
        taken = await AsyncWay(RELAY, (NotConnected,)).take(call())
        assert taken.plan == Way(RELAY, (NotConnected,)).take(call()).plan
        Way(RELAY, (NotConnected,)).check(taken)
        await AsyncWay(RELAY, (NotConnected,)).check(taken)

    def test_its_port_is_not_told_a_key_once_another_has_it(self, family: str, at: list[str]) -> None:
        at[:] = [RELAY, "http://127.0.0.1:8788"]
        inner = transport(family, Said([b"id: 1\n", *chat("a")], headers=KEPT, ends="ReadError"))
        outer = getattr(rl, family).ResumableTransport(inner, relay="local", policy=policy())
        request = importlib.import_module(family).Request("POST", CHAT_URL, json=CHAT)
        with pytest.raises(rl.RetriesExhausted, match="restarted at another port"):
            outer.handle_request(request).read()
        assert len(inner.requests) == 1


class TestTransports:
    def around(self, family: str, *script: Said, colour: str = "") -> Any:
        inner = transport(family, *script)
        outer = getattr(getattr(rl, family), f"{colour}ResumableTransport")
        return outer(inner, relay=RELAY, policy=policy()), inner

    def asked(self, family: str, **options: Any) -> Any:
        return importlib.import_module(family).Request("POST", CHAT_URL, json=CHAT, **options)

    CUT = (
        Said([b"id: 1\n" + chat("a")[0]], headers=KEPT, ends="ReadError"),
        Said([b"id: 2\ndata: [DONE]\n\n"], headers=KEPT),
    )

    def check(self, inner: Any, got: bytes) -> None:
        assert got == b"id: 1\n" + chat("a")[0] + b"id: 2\ndata: [DONE]\n\n"
        first, second = inner.requests
        assert (first.method, first.url) == ("POST", f"{RELAY}/v1/chat/completions")
        assert (second.method, second.url) == ("GET", f"{RELAY}/_streams/7")
        for seen in (first, second):
            assert seen.headers["host"] == "127.0.0.1:8787"
            assert seen.headers["relay-upstream"] == "https://api.example"
        assert second.headers["last-event-id"] == "1"

    def test_an_answer_is_resumed_at_the_relay(self, family: str) -> None:
        outer, inner = self.around(family, *self.CUT)
        self.check(inner, outer.handle_request(self.asked(family)).read())

    async def test_an_answer_is_resumed_at_the_relay_async(self, family: str) -> None:
        outer, inner = self.around(family, *self.CUT, colour="Async")
        response = await outer.handle_async_request(self.asked(family))
        self.check(inner, await response.aread())

    def test_the_request_is_left_as_it_was(self, family: str) -> None:
        outer, _ = self.around(family, *self.CUT)
        request = self.asked(family)
        before = str(request.url), request.headers.copy()
        outer.handle_request(request).read()
        assert (str(request.url), request.headers) == before

    def test_an_sdks_own_retries_keep_the_key(self, family: str) -> None:
        answers = Said(status=503), Said(down="ConnectError"), Said(down="ConnectTimeout"), *self.CUT
        outer, inner = self.around(family, *answers)
        library = importlib.import_module(family)
        assert outer.handle_request(self.asked(family, headers={"x-stainless-retry-count": "0"})).status_code == 503
        for count, error in ((1, library.ConnectError), (2, library.ConnectTimeout)):
            with pytest.raises(error, match=f"the relay at {RELAY} cannot be reached: down"):
                outer.handle_request(self.asked(family, headers={"x-stainless-retry-count": str(count)}))
        outer.handle_request(self.asked(family, headers={"x-stainless-retry-count": "3"})).read()
        assert len({seen.headers["idempotency-key"] for seen in inner.requests[:4]}) == 1

    async def test_an_sdks_own_retries_keep_the_key_async(self, family: str) -> None:
        outer, inner = self.around(family, Said(down="ConnectError"), *self.CUT, colour="Async")
        with pytest.raises(
            importlib.import_module(family).ConnectError, match=f"the relay at {RELAY} cannot be reached"
        ):
            await outer.handle_async_request(self.asked(family, headers={"x-stainless-retry-count": "0"}))
        response = await outer.handle_async_request(self.asked(family, headers={"x-stainless-retry-count": "1"}))
        await response.aread()
        assert len({seen.headers["idempotency-key"] for seen in inner.requests[:2]}) == 1

    def test_what_asks_for_no_stream_goes_directly(self, family: str) -> None:
        outer, inner = self.around(family, Said([b"{}"], headers={}), Said(numbered(1)), Said(status=204))
        library = importlib.import_module(family)
        outer.handle_request(library.Request("POST", CHAT_URL, json={**CHAT, "stream": False})).read()
        assert outer.handle_request(library.Request("GET", EVENTS_URL)).read() == numbered(1)[0]
        assert [seen.url for seen in inner.requests] == [CHAT_URL, EVENTS_URL, EVENTS_URL]
        assert not any("relay-upstream" in seen.headers for seen in inner.requests)

    @pytest.mark.parametrize("relay", [RELAY, "local"])
    def test_what_somebody_above_watches_over_must_not_go_past_it(self, relay: str, family: str) -> None:
        library = importlib.import_module(family)
        inner = transport(family, *[Said(numbered(1)), Said(status=204)] * 2)
        with library.Client(transport=inner) as client:
            wrapped = rl.wrap(client, relay=relay, policy=policy())
            with pytest.raises(TypeError, match="do not go through the relay of a wrapped client"):
                rl.connect_sse(wrapped, "GET", EVENTS_URL).__enter__()
            assert not inner.requests
            if relay == RELAY:  # the relay itself may be asked
                with rl.connect_sse(wrapped, "GET", f"{RELAY}/_streams/7", headers=ACCEPT) as stream:
                    assert [event.data for event in stream] == ["part 1"]

    async def test_what_somebody_above_watches_over_must_not_go_past_it_async(self, family: str) -> None:
        library = importlib.import_module(family)
        async with library.AsyncClient(transport=transport(family)) as client:
            wrapped = rl.wrap(client, relay=RELAY, policy=policy())
            with pytest.raises(TypeError, match="do not go through the relay of a wrapped client"):
                await rl.aconnect_sse(wrapped, "GET", EVENTS_URL).__aenter__()
