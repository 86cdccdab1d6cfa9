"""How each SDK reads one answer of each server: its events and the object that it makes of them, as plain data.

The SDKs are imported where they are used, so that the table can be written without any of them. Knows no faults and no
expectations.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import threading
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx
import tenacity

import resumable_llm as rl
from tests.sockets.clients import async_client, client

POLICY = rl.RetryPolicy(
    wait=tenacity.wait_fixed(0.1),
    stop=tenacity.stop_after_attempt(8),
    first_event_timeout=60,
    event_timeout=30,
)
"""Quick, and patient enough for a server that has not yet noticed that a connection is gone."""

PROMPT = "Write a few lines about a lighthouse keeper."
TOKENS = 9
SHORT: dict[str, Any] = {"max_tokens": 64, "stop": [" a"]}
"""For helpers that take an answer which stops at its limit for a failure: it stops at a word that is sure to come."""
TEXT = "The quick brown fox jumps over the lazy dog.\nŽluťoučký kůň, 日本語 🦊, twice."
SAY = json.dumps({"say": TEXT})


def _nothing() -> None:
    pass


@dataclass
class Seen:
    """What a reader came to see, also if it broke off.

    Attributes:
        watched: Whether the client is to be wrapped.
        upgrade: Whether the client is to be wrapped with ``upgrade=True``.
        begin: Called when the question itself is about to be asked, where others are asked before it.
        on_drop: Called, once, when a drop has been noticed and nothing been done about it.
        on_event: Called when the SDK has given something.
        events: What the SDK gave, in order.
        text: What a person would have read of it.
        final: What the SDK made of all of it.
        error: What it raised.
        notices: What our library said that it did.
        report: How our library sums it up, where the SDK lets its stream be inspected.
    """

    watched: bool = False
    begin: Callable[[], None] = _nothing
    on_drop: Callable[[], None] = _nothing
    on_event: Callable[[], None] = _nothing
    events: list[Any] = field(default_factory=list)
    text: str = ""
    final: Any = None
    error: Exception | None = None
    notices: list[rl.Notice] = field(default_factory=list)
    report: rl.Report | None = None

    def wrapped(self, sdk: Any) -> Any:
        """The client to use."""
        return rl.wrap(sdk, policy=POLICY, on_event=self.note) if self.watched else sdk

    def add(self, event: Any, text: str = "") -> None:
        """The SDK gave this."""
        self.events.append(event)
        self.text += text
        self.on_event()

    def look(self, stream: Any) -> None:
        """The stream is over."""
        if self.watched:
            self.report = rl.inspect(stream).report

    def count(self, kind: str) -> int:
        """How often our library said that it did this."""
        return sum(notice.kind == kind for notice in self.notices)

    def note(self, notice: rl.Notice) -> None:
        """Our library did this."""
        self.notices.append(notice)
        if notice.kind == "drop":
            act, self.on_drop = self.on_drop, _nothing
            act()


Reader = Callable[[str, Seen], "Awaitable[None] | None"]
"""Asks the server at a URL and reads the answer."""


def read(reader: Reader, url: str, seen: Seen | None = None) -> Seen:
    """Read one answer, and keep what is raised."""
    seen = seen or Seen()

    async def on_a_loop() -> None:
        reading = reader(url, seen)
        if reading is not None:
            await reading

    try:
        if asyncio.iscoroutinefunction(getattr(reader, "func", reader)):
            asyncio.run(on_a_loop())
        else:
            reader(url, seen)
    except Exception as error:  # noqa: BLE001 - which it is, is for the test to say
        seen.error = error
    return seen


def ours(error: BaseException | None) -> BaseException | None:
    """Our error, in an SDK's or as it is."""
    while error is not None and not isinstance(error, rl.ResumableError):
        error = error.__cause__
    return error


# openai


def _openai(url: str, http: Any, name: str = "OpenAI", path: str = "/v1") -> Any:
    return getattr(importlib.import_module("openai"), name)(base_url=url + path, api_key="none", http_client=http)


def _chat(prompt: str = PROMPT, **options: Any) -> dict[str, Any]:
    asked = {"temperature": 0, "seed": 7, "max_tokens": TOKENS}
    return {"model": "smollm2", "messages": [{"role": "user", "content": prompt}], **asked, **options}


def _chunk(seen: Seen, chunk: Any) -> None:
    seen.add(chunk.to_dict(), "".join(choice.delta.content or "" for choice in chunk.choices))


def openai_chat(url: str, seen: Seen, prompt: str = PROMPT) -> None:
    """``chat.completions.create(stream=True)``."""
    with client("httpx2") as http:
        stream = seen.wrapped(_openai(url, http)).chat.completions.create(**_chat(prompt), stream=True)
        for chunk in stream:
            _chunk(seen, chunk)
        seen.final = seen.text
        seen.look(stream)


async def openai_chat_async(url: str, seen: Seen, prompt: str = PROMPT) -> None:
    """The same of ``AsyncOpenAI``."""
    async with async_client("httpx2") as http:
        sdk = seen.wrapped(_openai(url, http, "AsyncOpenAI"))
        stream = await sdk.chat.completions.create(**_chat(prompt), stream=True)
        async for chunk in stream:
            _chunk(seen, chunk)
        seen.final = seen.text
        seen.look(stream)


def openai_chat_helper(url: str, seen: Seen, prompt: str = PROMPT) -> None:
    """``chat.completions.stream()``, which accumulates."""
    with client("httpx2") as http:
        asked = _chat(prompt, **SHORT, stream_options={"include_usage": True})
        with seen.wrapped(_openai(url, http)).chat.completions.stream(**asked) as stream:
            for event in stream:
                # Each chunk event holds the whole of what was said so far.
                seen.add(event.to_dict(), event.delta if event.type == "content.delta" else "")
            seen.final = stream.get_final_completion().to_dict()
            seen.look(stream)


async def openai_chat_helper_async(url: str, seen: Seen, prompt: str = PROMPT) -> None:
    """The same of ``AsyncOpenAI``."""
    async with async_client("httpx2") as http:
        asked = _chat(prompt, **SHORT, stream_options={"include_usage": True})
        async with seen.wrapped(_openai(url, http, "AsyncOpenAI")).chat.completions.stream(**asked) as stream:
            async for event in stream:
                seen.add(event.to_dict(), event.delta if event.type == "content.delta" else "")
            seen.final = (await stream.get_final_completion()).to_dict()
            seen.look(stream)


def _delta(event: Any) -> str:
    return event.delta if event.type == "response.output_text.delta" else ""


def openai_responses(url: str, seen: Seen, prompt: str = PROMPT, **options: Any) -> None:
    """``responses.stream()``, which accumulates."""
    with client("httpx2") as http:
        asked = {"model": "smollm2", "input": prompt, **options}
        with seen.wrapped(_openai(url, http)).responses.stream(**asked) as stream:
            for event in stream:
                seen.add(event.to_dict(warnings=False), _delta(event))
            # Its own types do not fit what it parsed, of which it warns.
            seen.final = stream.get_final_response().to_dict(warnings=False)
            seen.look(stream)


async def openai_responses_async(url: str, seen: Seen, prompt: str = PROMPT, **options: Any) -> None:
    """The same of ``AsyncOpenAI``."""
    async with async_client("httpx2") as http:
        asked = {"model": "smollm2", "input": prompt, **options}
        async with seen.wrapped(_openai(url, http, "AsyncOpenAI")).responses.stream(**asked) as stream:
            async for event in stream:
                seen.add(event.to_dict(warnings=False), _delta(event))
            seen.final = (await stream.get_final_response()).to_dict(warnings=False)
            seen.look(stream)


def openai_responses_events(url: str, seen: Seen, prompt: str, **options: Any) -> None:
    """``responses.create(stream=True)``."""
    with client("httpx2") as http:
        asked = {"model": "smollm2", "input": prompt, "stream": True, **options}
        stream = seen.wrapped(_openai(url, http)).responses.create(**asked)
        for event in stream:
            seen.add(event.to_dict(), _delta(event))
            if event.type == "response.completed":
                seen.final = event.response.to_dict()
        seen.look(stream)


# Others that speak chat completions


def groq_chat(url: str, seen: Seen) -> None:
    """groq's ``chat.completions.create(stream=True)``."""
    with client("httpx") as http:
        sdk = importlib.import_module("groq").Groq(base_url=url, api_key="none", http_client=http)
        stream = seen.wrapped(sdk).chat.completions.create(**_chat(), stream=True)
        for chunk in stream:
            _chunk(seen, chunk)
        seen.final = seen.text
        seen.look(stream)


def _mistral(url: str, **clients: Any) -> Any:
    return importlib.import_module("mistralai.client").Mistral(server_url=url, api_key="none", **clients)


def _mistral_chat() -> dict[str, Any]:
    return {"model": "smollm2", "messages": [{"role": "user", "content": PROMPT}], **_MISTRAL}


_MISTRAL = {"temperature": 0, "random_seed": 7, "max_tokens": TOKENS}


def _mistral_event(seen: Seen, event: Any) -> None:
    text = "".join(choice.delta.content or "" for choice in event.data.choices)
    seen.add(event.model_dump(), text)


def mistral_chat(url: str, seen: Seen) -> None:
    """mistralai's ``chat.stream()``."""
    # Given only one, it makes the other, which takes long.
    sdk = seen.wrapped(_mistral(url, client=client("httpx2"), async_client=async_client("httpx2")))
    with sdk.sdk_configuration.client, sdk.chat.stream(**_mistral_chat()) as stream:
        for event in stream:
            _mistral_event(seen, event)
        seen.final = seen.text
        seen.look(stream)


async def mistral_chat_async(url: str, seen: Seen) -> None:
    """mistralai's ``chat.stream_async()``."""
    async with async_client("httpx2") as http:
        sdk = seen.wrapped(_mistral(url, client=client("httpx2"), async_client=http))
        async with await sdk.chat.stream_async(**_mistral_chat()) as stream:
            async for event in stream:
                _mistral_event(seen, event)
            seen.final = seen.text
            seen.look(stream)


def _langchain(url: str, http: Any, async_http: Any) -> Any:
    return importlib.import_module("langchain_openai").ChatOpenAI(
        model="smollm2",
        base_url=f"{url}/v1",
        api_key="none",
        temperature=0,
        seed=7,
        max_completion_tokens=TOKENS,
        http_client=http,
        http_async_client=async_http,
    )


def _message(seen: Seen, chunk: Any) -> None:
    # Where the provider's id has not come yet, LangChain makes one up.
    seen.add(chunk.model_dump(exclude={"id"}), chunk.text)
    seen.final = chunk if seen.final is None else seen.final + chunk


def langchain_chat(url: str, seen: Seen) -> None:
    """LangChain's ``ChatOpenAI.stream()``; the sum of the chunks."""
    with client("httpx2") as http:
        for chunk in seen.wrapped(_langchain(url, http, async_client("httpx2"))).stream(PROMPT):
            _message(seen, chunk)
    seen.final = seen.final.model_dump(exclude={"id"})


async def langchain_chat_async(url: str, seen: Seen) -> None:
    """LangChain's ``ChatOpenAI.astream()``; the sum of the chunks."""
    async with async_client("httpx2") as http:
        async for chunk in seen.wrapped(_langchain(url, client("httpx2"), http)).astream(PROMPT):
            _message(seen, chunk)
    seen.final = seen.final.model_dump(exclude={"id"})


async def pydantic_ai_chat(url: str, seen: Seen) -> None:
    """Pydantic AI's ``model_request_stream()`` on ``OpenAIChatModel``; the ``ModelResponse``."""
    load = importlib.import_module
    async with async_client("httpx2") as http:
        provider = load("pydantic_ai.providers.openai").OpenAIProvider(
            base_url=f"{url}/v1", api_key="none", http_client=http
        )
        settings = {"temperature": 0, "seed": 7, "max_tokens": TOKENS}
        model = seen.wrapped(
            load("pydantic_ai.models.openai").OpenAIChatModel("smollm2", provider=provider, settings=settings)
        )
        messages = load("pydantic_ai.messages")
        prompt = messages.ModelRequest.user_text_prompt(PROMPT)
        async with load("pydantic_ai.direct").model_request_stream(model, [prompt]) as stream:
            async for event in stream:
                seen.add(repr(event))
            answer = stream.get()
        dumped = messages.ModelMessagesTypeAdapter.dump_python([answer], mode="json")
        for own in ("timestamp", "provider_url"):  # its own clock, and where the server is
            dumped[0].pop(own)
        seen.final = dumped


# anthropic


def _anthropic(url: str, http: Any, name: str = "Anthropic") -> Any:
    return getattr(importlib.import_module("anthropic"), name)(base_url=url, api_key="none", http_client=http)


def _messages(prompt: str) -> dict[str, Any]:
    asked = {"max_tokens": TOKENS, "extra_body": {"temperature": 0, "seed": 7}}
    return {"model": "smollm2", "messages": [{"role": "user", "content": prompt}], **asked}


def anthropic_messages(url: str, seen: Seen, prompt: str = PROMPT) -> None:
    """``messages.stream()``, which accumulates."""
    with client("httpx2") as http, seen.wrapped(_anthropic(url, http)).messages.stream(**_messages(prompt)) as stream:
        for event in stream:
            seen.add(event.to_dict(), event.text if event.type == "text" else "")
        seen.final = stream.get_final_message().to_dict()
        seen.look(stream)


async def anthropic_messages_async(url: str, seen: Seen, prompt: str = PROMPT) -> None:
    """The same of ``AsyncAnthropic``."""
    async with async_client("httpx2") as http:
        sdk = seen.wrapped(_anthropic(url, http, "AsyncAnthropic"))
        async with sdk.messages.stream(**_messages(prompt)) as stream:
            async for event in stream:
                seen.add(event.to_dict(), event.text if event.type == "text" else "")
            seen.final = (await stream.get_final_message()).to_dict()
            seen.look(stream)


def anthropic_events(url: str, seen: Seen, prompt: str) -> None:
    """``messages.create(stream=True)``."""
    with client("httpx2") as http:
        stream = seen.wrapped(_anthropic(url, http)).messages.create(**_messages(prompt), stream=True)
        for event in stream:
            seen.add(event.to_dict(), getattr(event.delta, "text", "") if event.type == "content_block_delta" else "")
        seen.final = seen.text
        seen.look(stream)


# google-genai


def _genai(url: str, http: Any, async_http: Any) -> Any:
    options = {
        "base_url": url,
        "api_version": "v1beta",  # aimock knows no other
        "httpx_client": http,
        "httpx_async_client": async_http,
    }
    return importlib.import_module("google.genai").Client(api_key="none", http_options=options)


def genai_chat(url: str, seen: Seen, prompt: str) -> None:
    """A chat's ``send_message_stream()``; the history that it keeps."""
    with client("httpx2") as http:
        chat = seen.wrapped(_genai(url, http, async_client("httpx2"))).chats.create(model="gemini-any")
        for chunk in chat.send_message_stream(prompt):
            seen.add(chunk.model_dump(exclude={"sdk_http_response"}), chunk.text or "")
        seen.final = [content.model_dump() for content in chat.get_history()]


async def genai_chat_async(url: str, seen: Seen, prompt: str) -> None:
    """The same of ``aio``."""
    async with async_client("httpx2") as http:
        chat = seen.wrapped(_genai(url, client("httpx2"), http)).aio.chats.create(model="gemini-any")
        async for chunk in await chat.send_message_stream(prompt):
            seen.add(chunk.model_dump(exclude={"sdk_http_response"}), chunk.text or "")
        seen.final = [content.model_dump() for content in chat.get_history()]


def genai_interactions(url: str, seen: Seen, prompt: str) -> None:
    """``interactions.create(stream=True)``."""
    with client("httpx2") as http:
        sdk = seen.wrapped(_genai(url, http, async_client("httpx2")))
        for event in sdk.interactions.create(model="gemini-any", input=prompt, stream=True):
            dumped = event.model_dump()
            seen.add(dumped, (dumped.get("delta") or {}).get("text") or "")
        seen.final = seen.text


# LangGraph


def run(modes: list[str], text: str = TEXT, *, resumable: bool = True, **state: Any) -> dict[str, Any]:
    """The arguments of a run that says a text."""
    return {
        "input": {"messages": [{"role": "user", "content": text, "id": "asked"}], "seconds": 0.005, **state},
        "stream_mode": modes,
        "stream_resumable": resumable,
        "if_not_exists": "create",
    }


def _part(seen: Seen, part: Any) -> None:
    said = part.data[0]["content"] if part.event == "messages" else ""
    seen.add((part.event, part.data, part.id), said)
    seen.final = part.data if part.event == "values" else seen.final


def langgraph(url: str, seen: Seen, **asked: Any) -> None:
    """langgraph-sdk's ``runs.stream()``."""
    with client("httpx", base_url=url, timeout=60) as http:
        sdk = seen.wrapped(importlib.import_module("langgraph_sdk.client").SyncLangGraphClient(http))
        for part in sdk.runs.stream(str(uuid.uuid4()), "speaker", **asked):
            _part(seen, part)


async def langgraph_async(url: str, seen: Seen, **asked: Any) -> None:
    """The same of the asynchronous client."""
    async with async_client("httpx", base_url=url, timeout=60) as http:
        sdk = seen.wrapped(importlib.import_module("langgraph_sdk.client").LangGraphClient(http))
        async for part in sdk.runs.stream(str(uuid.uuid4()), "speaker", **asked):
            _part(seen, part)


# MCP


async def mcp_tool(url: str, seen: Seen, **arguments: Any) -> None:
    """The SDK's ``call_tool()``: what it reports on the way, and the result."""
    streams = importlib.import_module("mcp.client.streamable_http").streamable_http_client
    session_class = importlib.import_module("mcp").ClientSession

    async def progress(done: float, total: float | None, message: str | None) -> None:
        seen.add((done, total, message))

    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(async_client("httpx2", timeout=30, follow_redirects=True))
        read_stream, write_stream, *_ = await stack.enter_async_context(
            streams(f"{url}/mcp", http_client=seen.wrapped(http))
        )
        session = await stack.enter_async_context(session_class(read_stream, write_stream))
        await session.initialize()
        await asyncio.to_thread(seen.begin)
        try:
            result = await session.call_tool("count", arguments, progress_callback=progress)
            seen.final = result.model_dump(mode="json")
        except Exception as error:  # noqa: BLE001 - outside it would be in a group
            seen.error = error


# connect_sse, which is ours; unwatched, the events are read by httpx-sse, which knows nothing of drops.


def source(seen: Seen, http: httpx.Client, method: str, url: str, **asked: Any) -> Any:
    """A context with an iterator of events."""
    if seen.watched:
        return rl.connect_sse(http, method, url, policy=POLICY, on_event=seen.note, **asked)
    return importlib.import_module("httpx_sse").connect_sse(http, method, url, **asked)


APPENDED = [{"delta": word} for word in TEXT.split(" ")]


def fastresponses_events(url: str, seen: Seen) -> None:
    """Its own path, from the start of a response that is on its way."""
    with client("httpx", timeout=60) as http:
        request = {"model": "any", "input": SAY, "background": True}
        number = http.post(f"{url}/v1/responses", json=request).json()["id"]
        seen.begin()
        with source(seen, http, "GET", f"{url}/v1/responses/{number}/events") as stream:
            for event in stream.iter_sse():
                if event.data == "[DONE]":  # behind the end, so of no interest to us
                    break
                said = event.json()
                seen.add((event.event, said), said["delta"] if event.event == "response.output_text.delta" else "")
                seen.final = said.get("response", seen.final)
        seen.report = getattr(stream, "report", None)


def langgraph_events(url: str, seen: Seen, **asked: Any) -> None:
    """A run, read without its SDK."""
    place = f"{url}/threads/{uuid.uuid4()}/runs/stream"
    with (
        client("httpx", timeout=60) as http,
        source(seen, http, "POST", place, json={"assistant_id": "speaker", **asked}) as stream,
    ):
        for event in stream.iter_sse():
            said = event.json()
            text = said[0]["content"] if event.event == "messages" else ""
            seen.add((event.event, said, event.id), text)
    seen.final = seen.text


def durable_stream(url: str, seen: Seen) -> None:
    """A stream of which half is there already, and half comes while it is read."""
    with client("httpx", timeout=60) as http, client("httpx", timeout=60) as other:
        place = f"{url}/v1/stream/{uuid.uuid4()}"
        other.put(place, headers={"Content-Type": "application/json"})

        def append(messages: list[dict[str, str]]) -> None:
            for message in messages:
                closes = {"Stream-Closed": "true"} if message is APPENDED[-1] else {}
                other.post(place, headers=closes, json=message)

        half = len(APPENDED) // 2
        append(APPENDED[:half])
        seen.begin()
        rest = threading.Thread(target=append, args=[APPENDED[half:]])
        rest.start()
        seen.final = []
        with source(seen, http, "GET", place, params={"offset": "-1", "live": "sse"}) as stream:
            for event in stream.iter_sse():
                if event.event == "data":  # how often the offset is told depends on who is faster
                    seen.add(event.data)
                    seen.final += event.json()
        rest.join()
        seen.report = getattr(stream, "report", None)
