"""What a hostile or broken server can learn, and how long it can hold a caller; and what wrapping adds to a request.

Servers and clients are real; no test knows how the library does it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import logging
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, overload

import httpx
import pytest
import tenacity

import resumable_llm as rl
from resumable_llm.core.model import RequestPlan, without_credentials
from resumable_llm.dialects import named, recognise
from tests.sockets import wire
from tests.sockets.clients import client, policy
from tests.sockets.scripted import EVENT_STREAM, JSON, Answer, End, Request, Scripted
from tests.systems.absent import needs_python

pytestmark = pytest.mark.slow

SECRET = "s3cret-s3cret"
PROMPT = "the patient's name is Ada"


def sse(data: str, *, event: str | None = None, id: str | None = None) -> bytes:
    lines = [f"event: {event}\n"] if event else []
    lines += [f"id: {id}\n"] if id is not None else []
    return "".join([*lines, f"data: {data}\n\n"]).encode()


CREATED = sse(
    '{"type":"response.created","sequence_number":0,"response":{"id":"r","status":"queued"}}', event="response.created"
)
BACKGROUND: dict[str, Any] = {"model": "m", "stream": True, "background": True}
TOOL_CALL: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with client("httpx") as made:
        yield made


class Seen(httpx.HTTPTransport):
    """A transport that remembers where requests went, whatever their Host header says."""

    def __init__(self) -> None:
        super().__init__(verify=False, trust_env=False)
        self.urls: list[httpx.URL] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.urls.append(request.url)
        return super().handle_request(request)


class Dribble(Sequence[bytes]):
    """Pieces that come one by one, with a pause behind each."""

    def __init__(self, piece: bytes, count: int, pause: float = 0.02) -> None:
        self._piece, self._count, self._pause = piece, count, pause

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | Sequence[bytes]:
        raise NotImplementedError

    def __iter__(self) -> Iterator[bytes]:
        for _ in range(self._count):
            yield self._piece
            time.sleep(self._pause)  # the server's slowness is what is tested


# Credentials never go to another origin


LOCATIONS = (
    "//{other}/x",
    "http://{other}/x",
    "\thttp://{other}/x",
    "http://{own}@{other}/x",
    "http://{own}\\@{other}/x",
    "http://{own};@{other}/x",
    "https://{own}/x",
    "http://{own}:{port}/x",
    "http://[::1/x",
    "http://\uff11\uff12\uff17.0.0.1:{port}/x",
    "ftp://{other}/x",
)
STAYING = (
    "http:///{other}/x",
    "///{other}/x",
    "/\\{other}/x",
    "\\\\{other}/x",
    "http:{other}/x",
    "http://{own}#@{other}/",
)


@pytest.mark.parametrize("location", LOCATIONS + STAYING)
@pytest.mark.parametrize("how", ["location", "redirect", "langgraph"])
def test_no_location_leads_to_another_origin(location: str, how: str) -> None:
    with Scripted(rest=lambda _: Answer([])) as other, Scripted(rest=lambda _: Answer([])) as server:
        own, port = server.url.removeprefix("http://"), server.url.rpartition(":")[2]
        where = location.format(own=own, other=other.url.removeprefix("http://"), port=port)
        if how == "langgraph":
            where += "/threads/t/runs/r/stream"
        led = {**EVENT_STREAM, "location": where.encode().decode("latin-1")}
        first = Answer(
            [sse("1", id="a"), sse("2", id="b")], End.FIN, headers=led if how != "redirect" else EVENT_STREAM
        )
        redirect = Answer([], status=307, headers=led)
        server._script = (first, redirect) if how == "redirect" else (first,)
        path = "/threads/t/runs/stream" if how == "langgraph" else "/events"
        seen = Seen()
        transport = rl.httpx.ResumableTransport(seen, policy=policy())
        with httpx.Client(transport=transport) as api:
            headers = {"accept": "text/event-stream", "x-api-key": SECRET}
            with contextlib.suppress(rl.ResumableError):
                api.post(server.url + path, json={}, headers=headers)
        assert not other.requests
        assert {(url.scheme, url.host, url.port) for url in seen.urls} == {("http", "127.0.0.1", int(port))}


PATHS: dict[str, tuple[dict[str, str], bytes]] = {
    "/v1/responses": ({}, CREATED),
    "/v1/chat/completions": ({"server": "llama.cpp"}, wire.blocks(wire.chat())[0]),
    "/v1beta/interactions": (
        {},
        sse(
            '{"event_type":"interaction.created","interaction":{"id":"i"},"event_id":"e"}', event="interaction.created"
        ),
    ),
}


@pytest.mark.parametrize("path", PATHS)
def test_two_slashes_in_a_base_url_are_no_host(path: str) -> None:
    headers, first = PATHS[path]
    with Scripted(Answer([first], End.FIN, headers={**EVENT_STREAM, **headers}), rest=lambda _: Answer([])) as server:
        seen = Seen()
        with (
            httpx.Client(transport=rl.httpx.ResumableTransport(seen, policy=policy())) as api,
            pytest.raises(rl.ResumableError),
        ):
            api.post(f"{server.url}/{path}", json=BACKGROUND, headers={"authorization": f"Bearer {SECRET}"})
    assert len(seen.urls) > 1
    assert {url.host for url in seen.urls} == {"127.0.0.1"}


def test_a_dialect_cannot_lead_to_another_origin(http: httpx.Client) -> None:
    dialects = importlib.import_module("resumable_llm.dialects")

    class Astray(dialects.EventStream):  # type: ignore[misc, name-defined]
        proves_end = True

        def resume(self, progress: Any) -> RequestPlan:
            plan: RequestPlan = progress.request.get(f"{other.url}/rest")
            return plan

    with Scripted(rest=lambda _: Answer([])) as other, Scripted(Answer([sse("1")], End.FIN)) as server:
        headers = {"x-api-key": SECRET}
        stream = rl.connect_sse(http, "GET", f"{server.url}/e", headers=headers, dialect=Astray(), policy=policy())
        with pytest.raises(rl.ResumableError), stream:
            list(stream)
        assert not other.requests


# Secrets stay where they are


@pytest.mark.parametrize("end", ["resumed", "polled", "cancelled", "refused"])
def test_a_key_in_the_url_is_sent_but_never_told(
    http: httpx.Client, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "resumable_llm")
    told: list[rl.Notice] = []
    created = '{"event_type":"interaction.created","interaction":{"id":"i"},"event_id":"e1"}'
    completed = sse(
        '{"event_type":"interaction.completed","interaction":{"id":"i","status":"completed"}}',
        event="interaction.completed",
    )

    def rest(request: Request) -> Answer:
        if end == "refused":
            return Answer.json(json.dumps({"error": {"message": f"bad key {SECRET}"}}), 403)
        if request.query.get("stream") == "true" and end == "polled":
            return Answer([])
        if request.query.get("stream") == "true":
            return Answer([completed])
        return Answer.json(json.dumps({"id": "i", "status": "completed", "steps": []}))

    first = Answer([sse(created, event="interaction.created")], End.SILENT if end == "cancelled" else End.FIN)
    with Scripted(first, rest=rest) as server:
        url = f"{server.url}/v1beta/interactions?key={SECRET}"
        body = {"model": "m", "input": PROMPT, "stream": True, "background": True, "store": True}
        stream = rl.connect_sse(http, "POST", url, json=body, policy=policy(), on_event=told.append)
        errors: list[str] = []
        with stream:
            try:
                next(iter(stream))
                if end == "cancelled":
                    stream.cancel()
                list(stream)
            except rl.ResumableError as error:
                errors += [str(error), repr(error), repr(error.checkpoint), repr(error.report)]
        assert bool(errors) is (end == "refused")
        assert len(server.requests) > 1
        assert {request.query["key"] for request in server.requests} == {SECRET}
        assert {request.path for request in server.requests[1:]} <= {
            "/v1beta/interactions/i",
            "/v1beta/interactions/i/cancel",
        }
        said = [*errors, stream.checkpoint.to_json(), repr(stream.report), repr(told), caplog.text]
        assert not [each for each in said if SECRET in each or PROMPT in each]


@pytest.mark.parametrize(
    "query",
    [
        "key=",
        "api_key=",
        "%6bey=",
        "access_token=",
        "X-Amz-Signature=",
        "sig=",
        "code=",
        "pwd=",
        "jwt=",
        "bearer=",
        "alt=sse?key=",
        "a=1;key=",
    ],
)
def test_no_credential_of_a_url_gets_into_a_checkpoint(query: str) -> None:
    assert SECRET not in without_credentials(f"https://user:{SECRET}@h/p?{query}{SECRET}&b=2#{SECRET}")


FAILURES = {
    "openai_chat": {"error": {"message": PROMPT, "type": "bad", "param": PROMPT}},
    "openai_responses": {"type": "response.failed", "response": {"error": {"message": PROMPT}}},
    "anthropic_messages": {"type": "error", "error": {"type": "bad", "message": PROMPT}},
    "gemini_generate": {"error": {"code": 400, "status": "BAD", "message": PROMPT, "details": [{"x": PROMPT}]}},
    "gemini_interactions": {
        "event_type": "interaction.completed",
        "interaction": {"status": "failed", "errors": [PROMPT]},
    },
    "langgraph": {"error": "ValueError", "message": PROMPT},
    "ollama": {"error": PROMPT},
    "mcp": {"jsonrpc": "2.0", "id": 1, "error": {"code": -1, "message": PROMPT, "data": PROMPT}},
    "cohere_chat": {"type": "message-end", "delta": {"finish_reason": "ERROR", "error": PROMPT}},
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_that_quotes_the_prompt_is_not_quoted(name: str) -> None:
    dialect, payload = named(name), json.dumps(FAILURES[name])
    kind = json.loads(payload).get("type") or json.loads(payload).get("event_type") or "error"
    block = f"{payload}\n".encode() if name == "ollama" else sse(payload, event=kind)
    reading = dialect.read(dialect.framing.parse(block))
    assert reading.error
    assert PROMPT not in reading.error


@pytest.mark.parametrize("code", [{"text": PROMPT}, [PROMPT], f"\x1b[31m\n{PROMPT}"], ids=["object", "list", "text"])
def test_a_code_that_is_no_code_is_not_quoted(code: object) -> None:
    dialect = named("openai_chat")
    reading = dialect.read(dialect.framing.parse(sse(json.dumps({"error": {"code": code}}))))
    assert reading.error
    assert PROMPT not in reading.error


# What is added to a request


ASKED: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "naïve 🙂"}]}


def _openai(url: str) -> Any:
    return importlib.import_module("openai").OpenAI(base_url=url, api_key=SECRET, max_retries=0)


def _anthropic(url: str) -> Any:
    return importlib.import_module("anthropic").Anthropic(base_url=url, api_key=SECRET, max_retries=0)


def _groq(url: str) -> Any:
    return importlib.import_module("groq").Groq(base_url=url, api_key=SECRET, max_retries=0)


def _mistral(url: str) -> Any:
    return importlib.import_module("mistralai.client").Mistral(api_key=SECRET, server_url=url)


def _genai(url: str) -> Any:
    return importlib.import_module("google.genai").Client(api_key=SECRET, http_options={"base_url": url})


def _cohere(url: str) -> Any:
    return importlib.import_module("cohere").ClientV2(api_key=SECRET, base_url=url)


def _ollama(url: str) -> Any:
    return importlib.import_module("ollama").Client(host=url)


def _langgraph(url: str) -> Any:
    return importlib.import_module("langgraph_sdk").get_sync_client(url=url)


Call = Callable[[Any], Any]
SDKS: dict[str, tuple[str, Callable[[str], Any], Call, Call]] = {
    "openai": (
        "openai",
        _openai,
        lambda api: api.chat.completions.create(**ASKED),
        lambda api: list(api.chat.completions.create(**ASKED, stream=True)),
    ),
    "responses": (
        "openai",
        _openai,
        lambda api: api.responses.create(model="m", input="?"),
        lambda api: list(api.responses.create(model="m", input="?", stream=True)),
    ),
    "anthropic": (
        "anthropic",
        _anthropic,
        lambda api: api.messages.create(**ASKED, max_tokens=3),
        lambda api: list(api.messages.create(**ASKED, max_tokens=3, stream=True)),
    ),
    "groq": (
        "groq",
        _groq,
        lambda api: api.chat.completions.create(**ASKED),
        lambda api: list(api.chat.completions.create(**ASKED, stream=True)),
    ),
    "mistral": (
        "mistralai",
        _mistral,
        lambda api: api.chat.complete(**ASKED),
        lambda api: list(api.chat.stream(**ASKED)),
    ),
    "genai": (
        "google.genai",
        _genai,
        lambda api: api.models.generate_content(model="m", contents="?"),
        lambda api: list(api.models.generate_content_stream(model="m", contents="?")),
    ),
    "interactions": (
        "google.genai",
        _genai,
        lambda api: api.interactions.create(model="m", input="?"),
        lambda api: list(api.interactions.create(model="m", input="?", stream=True)),
    ),
    "cohere": ("cohere", _cohere, lambda api: api.chat(**ASKED), lambda api: list(api.chat_stream(**ASKED))),
    "ollama": ("ollama", _ollama, lambda api: api.chat(**ASKED), lambda api: list(api.chat(**ASKED, stream=True))),
    "langgraph": (
        "langgraph_sdk",
        _langgraph,
        lambda api: api.runs.wait("t", "a", input={}),
        lambda api: list(api.runs.stream("t", "a", input={})),
    ),
}
NEWER = {"mistralai", "google.genai"}  # those that pyproject.toml demands only from Python 3.11 on
EACH_SDK = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=needs_python(module, (3, 11)) if module in NEWER else ())
        for name, (module, *_) in SDKS.items()
    ],
)


def _sent(name: str, call: Call, *, wrapped: bool, **options: Any) -> Request:
    """The first request that a call sends; the server refuses it, for what was asked is all that is wanted."""
    with Scripted(rest=lambda _: Answer.json('{"error": {"message": "no"}}', 400)) as server:
        api = SDKS[name][1](server.url)
        with pytest.raises(Exception):  # noqa: B017, PT011 - each SDK has its own
            call(rl.wrap(api, **options) if wrapped else api)
        assert len(server.requests) == 1
        del api
        gc.collect()  # what an SDK leaves open is collected here, where that is expected, and not in another test
        return server.requests[0]


def _head(request: Request) -> list[str]:
    return [line for line in request.raw_head.decode("latin-1").split("\r\n") if not line.lower().startswith("host:")]


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # of SDKs that never close what they open
@EACH_SDK
def test_a_call_that_streams_not_is_sent_as_it_is(name: str) -> None:
    call = SDKS[name][2]
    plain = _sent(name, call, wrapped=False)
    for upgrade in (False, True):
        sent = _sent(name, call, wrapped=True, upgrade=upgrade)
        assert _head(sent) == _head(plain)
        assert sent.body == plain.body


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@EACH_SDK
def test_three_headers_are_all_that_a_stream_gets(name: str) -> None:
    plain, sent = (_sent(name, SDKS[name][3], wrapped=wrapped) for wrapped in (False, True))
    before, after = _head(plain), _head(sent)
    gone = [line.partition(":")[0].lower() for line in before if line not in after]
    come = {line.partition(":")[0].lower() for line in after if line not in before}
    assert gone == ["accept-encoding"]
    assert come - {"x-conversation-id"} == {"accept-encoding", "idempotency-key"}
    assert [line for line in before if line in after] == [line for line in after if line in before]
    assert sent.body == plain.body


NESTED: dict[str, Any] = {"model": "m", "stream": False, "tools": [{"parameters": {"default": {"stream": True}}}]}


@pytest.mark.parametrize("path", ["/v1/responses", "/v1beta/interactions"])
def test_a_field_that_is_called_stream_somewhere_within_upgrades_nothing(http: httpx.Client, path: str) -> None:
    with Scripted(rest=lambda _: Answer.json("{}")) as server:
        rl.wrap(http, upgrade=True).post(server.url + path, json=NESTED)
        assert json.loads(server.requests[0].body) == NESTED


class Signed(httpx.Auth):
    """As AWS wants it: the signature names the headers that it speaks for."""

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        spoken_for = request.headers["accept-encoding"]
        request.headers["authorization"] = (
            f"AWS4-HMAC-SHA256 SignedHeaders=accept-encoding;host, Signature={spoken_for}"
        )
        yield request


def test_what_is_signed_is_not_changed(http: httpx.Client) -> None:
    with Scripted(rest=lambda _: Answer(wire.blocks(wire.messages()))) as server:
        body = {"model": "m", "stream": True, "max_tokens": 3, "messages": []}
        rl.wrap(http).post(f"{server.url}/v1/messages", json=body, auth=Signed())
        headers = server.requests[0].headers
        assert headers["authorization"].endswith(f"Signature={headers['accept-encoding']}")


# It ends


@pytest.mark.parametrize(
    ("path", "body", "first", "ping"),
    [
        ("/v1/chat/completions", {"stream": True}, wire.blocks(wire.chat())[0], b": ping\n\n"),
        ("/m:streamGenerateContent?alt=sse", {}, sse('{"candidates":[{"content":{}}]}'), b": ping\n\n"),
        ("/runs/stream", {}, sse("{}", event="values"), b": heartbeat\r\n\r\n"),
        ("/mcp", TOOL_CALL, sse('{"jsonrpc":"2.0","method":"x"}'), sse("", id="p")),
        ("/v1/responses", {"stream": True}, CREATED, sse('{"type":"keepalive"}', event="keepalive")),
        ("/api/chat", {"model": "m"}, b'{"model":"m","message":{"content":"a"},"done":false}\n', b"\n"),
        ("/api/chat", {"model": "m"}, b'{"model":"m","message":{"content":"a"},"done":false}\n', b"{"),
        ("/events", {}, sse("1"), b"x"),
    ],
)
def test_pings_do_not_keep_a_dead_stream_alive(
    http: httpx.Client, path: str, body: dict[str, Any], first: bytes, ping: bytes
) -> None:
    kind = "application/x-ndjson" if first.startswith(b"{") else "text/event-stream"

    class Pinging(Dribble):
        def __iter__(self) -> Iterator[bytes]:
            yield first
            yield from super().__iter__()

    answer = Answer(Pinging(ping, 1000), End.CLEAN, headers={"content-type": kind})
    with Scripted(answer, rest=lambda _: Answer.json("{}", 410)) as server:
        headers = {"accept": "text/event-stream"}
        stream = rl.connect_sse(
            http, "POST", server.url + path, json=body, headers=headers, policy=policy(event_timeout=0.2)
        )
        began = time.monotonic()
        with pytest.raises(rl.ResumableError), stream:
            list(stream)
        assert time.monotonic() - began < 10  # what the server says lasts for twenty


@pytest.mark.parametrize("kind", ["503", "garbage", "redirect", "empty", "torn", "comment"])
@pytest.mark.parametrize("path", ["/v1/responses", "/threads/t/runs/stream", "/mcp", "/s?live=sse&offset=-1"])
def test_requests_are_bounded_whatever_the_server_answers(http: httpx.Client, kind: str, path: str) -> None:
    answers = {
        "503": Answer.json("{}", 503),
        "garbage": Answer([b"<html>"], headers=JSON),
        "empty": Answer([]),
        "torn": Answer([b"data: {"]),
        "comment": Answer([b": hello\n\n"]),
    }

    def rest(request: Request) -> Answer:
        return answers[kind] if kind in answers else Answer([], status=307, headers={"location": request.target})

    first = {
        "/v1/responses": (CREATED, BACKGROUND),
        "/threads/t/runs/stream": (sse("{}", event="values", id="1"), {"stream_resumable": True}),
        "/mcp": (sse("", id="1"), TOOL_CALL),
    }.get(path, (sse('{"streamNextOffset":"1"}', event="control"), None))
    led = {**EVENT_STREAM, "location": "/threads/t/runs/r/stream"} if "runs" in path else EVENT_STREAM
    with Scripted(Answer([first[0]], End.FIN, headers=led), rest=rest) as server:
        asked: dict[str, Any] = {"headers": {"accept": "text/event-stream"}}
        stream = rl.connect_sse(
            http, "POST" if first[1] else "GET", server.url + path, json=first[1], policy=policy(), **asked
        )
        with contextlib.suppress(rl.ResumableError), stream:
            list(stream)
        assert len(server.requests) <= 20


@pytest.mark.parametrize("path", ["/mcp", "/v1/responses"])
def test_a_connection_that_brings_nothing_but_a_keepalive_has_brought_nothing(http: httpx.Client, path: str) -> None:
    calls = iter(range(1, 1000))

    def rest(_: Request) -> Answer:
        number = next(calls)
        if number > 50:  # enough seen
            return Answer.json("{}", 410)
        if path == "/mcp":
            return Answer([sse("", id=f"p{number}")])
        return Answer([sse(f'{{"type":"keepalive","sequence_number":{number}}}', event="keepalive")], End.FIN)

    first = rest if path == "/mcp" else Answer([CREATED], End.FIN)
    with Scripted(first, rest=rest) as server:
        asked: dict[str, Any] = {
            "json": TOOL_CALL if path == "/mcp" else BACKGROUND,
            "headers": {"mcp-session-id": "s"},
        }
        stream = rl.connect_sse(
            http, "POST", server.url + path, policy=policy(stop=tenacity.stop_after_attempt(3)), **asked
        )
        with pytest.raises(rl.ResumableError), stream:
            list(stream)
        assert len(server.requests) < 20


@pytest.mark.parametrize("status", [200, 400])
def test_a_deadline_holds_for_a_body_that_dribbles(http: httpx.Client, status: int) -> None:
    slow = Answer(Dribble(b" ", 400, 0.05), status=status, headers=JSON)
    with Scripted(Answer([CREATED], End.FIN), rest=lambda _: slow) as server:
        within = policy(deadline=0.5, event_timeout=0.3, first_event_timeout=0.3)
        stream = rl.connect_sse(http, "POST", f"{server.url}/v1/responses", json=BACKGROUND, policy=within)
        began = time.monotonic()
        with pytest.raises(rl.ResumableError), stream:
            list(stream)
        assert time.monotonic() - began < 10  # what the server says lasts for twenty


def test_a_redirect_on_each_poll_is_no_redirect_without_end(http: httpx.Client) -> None:
    polls = iter(range(100))

    def rest(request: Request) -> Answer:
        if not request.path.endswith("/"):
            return Answer([], status=307, headers={"location": f"{request.path}/"})
        status = "in_progress" if next(polls) < 8 else "completed"
        answer = {"id": "r", "status": status, "output": []}
        return Answer.json(json.dumps(answer), headers={"openai-poll-after-ms": "1"})

    with Scripted(Answer([CREATED], End.FIN), rest=rest) as server:
        stream = rl.connect_sse(http, "POST", f"{server.url}/v1/responses", json=BACKGROUND, policy=policy())
        with stream:
            assert [event.event for event in stream][-1] == "response.completed"


@pytest.mark.parametrize("name", [" x", "x ", "a\vb", "a\fb"])
def test_an_id_that_no_header_can_carry_is_one_of_our_errors(http: httpx.Client, name: str) -> None:
    with Scripted(Answer([sse("1", id=name)], End.FIN), rest=lambda _: Answer([])) as server:
        stream = rl.connect_sse(http, "GET", f"{server.url}/e", policy=policy())
        with pytest.raises(rl.StreamInterrupted), stream:
            list(stream)


@pytest.mark.parametrize("location", ["/a\x01b", "/a\x7fb", "/" + "a" * 65_530])
def test_a_location_that_is_no_url_is_one_of_our_errors(http: httpx.Client, location: str) -> None:
    first = Answer([sse("1", id="a")], End.FIN, headers={**EVENT_STREAM, "location": location})
    with Scripted(first, rest=lambda _: Answer([])) as server:
        stream = rl.connect_sse(http, "GET", f"{server.url}/e", policy=policy())
        with pytest.raises(rl.StreamInterrupted), stream:
            list(stream)


def test_a_long_event_is_read_in_time_proportional_to_its_length() -> None:
    dialect = recognise(RequestPlan("POST", "http://h/v1/chat/completions", (), b'{"stream": true}'))
    assert dialect is not None
    ordinary = dialect.ordinary
    assert ordinary is not None

    def seconds(count: int) -> float:
        event = b"data: {" + b'"finish_reason":null,' * count + b"}\nid: 1\n\n"
        began = time.process_time()  # what others do at the same time must not count
        assert not ordinary.fullmatch(event)
        return time.process_time() - began

    short, long = (min(seconds(count) for _ in range(3)) for count in (300, 2400))
    assert long < 24 * short  # it is eight times as long


# Wrapped twice


@pytest.mark.openai
def test_wrapped_twice_is_watched_over_once() -> None:
    """openai 3 has our error inside its own; openai 2 lets what a stream raises pass."""
    openai = importlib.import_module("openai")
    with Scripted(Answer([CREATED], End.FIN), rest=lambda _: Answer.json("{}", 404)) as server:
        api = rl.wrap(rl.wrap(_openai(server.url)), policy=policy())
        with (
            api.with_options(timeout=5) as copied,
            pytest.raises((openai.APIConnectionError, rl.StreamInterrupted)) as caught,
        ):
            list(copied.responses.create(model="m", input="?", stream=True, background=True))
        openai3 = int(openai.__version__.split(".")[0]) >= 3
        error = caught.value.__cause__ if openai3 else caught.value
        assert isinstance(error, rl.StreamInterrupted)
        assert error.report is not None
        assert error.report.attempts == len(server.requests) == 3
