"""``fallback=`` under the SDKs: what they put together in the end is what they would have without a drop."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import pytest

import resumable_llm as rl
from tests.models import OTHER_TEXT, PROMPT, TEXT, WORDS, Anthropic, Chat, Gemini, Ollama, Provider
from tests.sdks.cuts import ENDS
from tests.sockets.clients import FOREIGN_GENERATORS, async_client, busy, client, policy
from tests.sockets.scripted import Answer, End, Request, Scripted

pytestmark = [
    pytest.mark.slow,
    FOREIGN_GENERATORS,
    # The models of Anthropic that go on from a partial answer are those that it will retire.
    pytest.mark.filterwarnings("ignore:The model 'claude-:DeprecationWarning"),
]

ASKED = [{"role": "user", "content": "?"}]
Read = tuple[Any, tuple[int, int] | None]
"""What an SDK puts together, and the tokens of the prompt and of the answer, apart."""


class Kit(ABC):
    """An SDK, and the provider whose wire format it reads."""

    name: str
    module: str
    provider: Provider
    loops: tuple[str, ...] = ("asyncio", "trio")
    mark: Any = ()

    @property
    def sdk(self) -> Any:
        return pytest.importorskip(self.module, reason=f"this environment has no {self.module}")

    @property
    def family(self) -> str:
        """The HTTP library that it stands on."""
        assert self.sdk  # or the test is skipped
        return "httpx2"

    @abstractmethod
    def made(self, url: str, http: Any) -> Any:
        """A client."""

    @abstractmethod
    def made_async(self, url: str, http: Any) -> Any:
        """An asynchronous one."""

    @abstractmethod
    def read(self, api: Any, **more: Any) -> Read:
        """Ask, and read to the end."""

    @abstractmethod
    async def aread(self, api: Any) -> Read:
        """The same."""

    @abstractmethod
    def validated(self, partial: Any) -> str:
        """The text of a partial message, if the SDK's own type takes it."""


class OpenAIKit(Kit):
    name = "openai"
    module = "openai"
    provider = Chat()
    mark = pytest.mark.openai

    @property
    def family(self) -> str:
        return "httpx2" if int(self.sdk.__version__.split(".")[0]) >= 3 else "httpx"

    def made(self, url: str, http: Any) -> Any:
        return self.sdk.OpenAI(base_url=f"{url}/v1", api_key="s3cret", http_client=http, max_retries=0)

    def made_async(self, url: str, http: Any) -> Any:
        return self.sdk.AsyncOpenAI(base_url=f"{url}/v1", api_key="s3cret", http_client=http, max_retries=0)

    def read(self, api: Any, **more: Any) -> Read:
        asked = {"model": "m", "messages": ASKED, "stream_options": {"include_usage": True}, **more}
        with api.chat.completions.stream(**asked) as stream:
            for _ in stream:
                pass
            return self._apart(stream.get_final_completion().to_dict())

    async def aread(self, api: Any) -> Read:
        asked: Any = {"model": "m", "messages": ASKED, "stream_options": {"include_usage": True}}
        async with api.chat.completions.stream(**asked) as stream:
            async for _ in stream:
                pass
            return self._apart((await stream.get_final_completion()).to_dict())

    def _apart(self, found: Any) -> Read:
        usage = found.pop("usage", None)
        return found, usage and (usage["prompt_tokens"], usage["completion_tokens"])

    def validated(self, partial: Any) -> str:
        chat = pytest.importorskip("openai.types.chat")
        (choice,) = partial["choices"]
        assert choice["finish_reason"] is None  # all that the type does not take: nobody has said why it ended
        ended = {**partial, "choices": [{**choice, "finish_reason": "length"}]}
        return str(chat.ChatCompletion.model_validate(ended).choices[0].message.content)


class AnthropicKit(Kit):
    name = "anthropic"
    module = "anthropic"
    provider = Anthropic()

    def made(self, url: str, http: Any) -> Any:
        return self.sdk.Anthropic(base_url=url, api_key="s3cret", http_client=http, max_retries=0)

    def made_async(self, url: str, http: Any) -> Any:
        return self.sdk.AsyncAnthropic(base_url=url, api_key="s3cret", http_client=http, max_retries=0)

    def read(self, api: Any, **more: Any) -> Read:
        with api.messages.stream(
            **{"model": "claude-sonnet-4-5", "max_tokens": 99, "messages": ASKED, **more}
        ) as stream:
            for _ in stream:
                pass
            return self._apart(stream.get_final_message().to_dict())

    async def aread(self, api: Any) -> Read:
        async with api.messages.stream(model="claude-sonnet-4-5", max_tokens=99, messages=ASKED) as stream:
            async for _ in stream:
                pass
            return self._apart((await stream.get_final_message()).to_dict())

    def _apart(self, found: Any) -> Read:
        usage = found.pop("usage")
        return found, (usage["input_tokens"], usage["output_tokens"])

    def validated(self, partial: Any) -> str:
        return "".join(block.text for block in self.sdk.types.Message.model_validate(partial).content)


class GoogleKit(Kit):
    name = "google"
    module = "google.genai"
    provider = Gemini()
    loops = ("asyncio",)

    def made(self, url: str, http: Any) -> Any:
        options = {"base_url": url, "httpx_client": http, "httpx_async_client": async_client(self.family)}
        return self.sdk.Client(api_key="s3cret", http_options=options)

    def made_async(self, url: str, http: Any) -> Any:
        options = {"base_url": url, "httpx_client": client(self.family), "httpx_async_client": http}
        return self.sdk.Client(api_key="s3cret", http_options=options)

    def read(self, api: Any, **more: Any) -> Read:
        asked = {"model": "gemini-2.5-flash", "contents": "?", **more}
        return self._apart(list(api.models.generate_content_stream(**asked)))

    async def aread(self, api: Any) -> Read:
        stream = await api.aio.models.generate_content_stream(model="gemini-2.5-flash", contents="?")
        return self._apart([chunk async for chunk in stream])

    def _apart(self, chunks: list[Any]) -> Read:
        names = {chunk.response_id for chunk in chunks}
        ends = [each.finish_reason for chunk in chunks for each in chunk.candidates if each.finish_reason]
        usage = chunks[-1].usage_metadata
        text = "".join(chunk.text for chunk in chunks)
        return (text, names, ends), (usage.prompt_token_count, usage.candidates_token_count)

    def validated(self, partial: Any) -> str:
        return str(self.sdk.types.GenerateContentResponse.model_validate(partial).text)


class OllamaKit(Kit):
    name = "ollama"
    module = "ollama"
    provider = Ollama()

    @property
    def family(self) -> str:
        assert self.sdk
        return "httpx"

    def made(self, url: str, http: Any) -> Any:
        return self._around(self.sdk.Client(host=url, verify=False, trust_env=False), url, http)

    def made_async(self, url: str, http: Any) -> Any:
        return self._around(self.sdk.AsyncClient(host=url, verify=False, trust_env=False), url, http)

    def _around(self, api: Any, url: str, http: Any) -> Any:
        api._client._transport = http._transport  # so that the connections are those that are looked after
        return api

    def read(self, api: Any, **more: Any) -> Read:
        return self._apart(list(api.chat(**{"model": "m", "messages": ASKED, "stream": True, **more})))

    async def aread(self, api: Any) -> Read:
        return self._apart([part async for part in await api.chat(model="m", messages=ASKED, stream=True)])

    def _apart(self, parts: list[Any]) -> Read:
        text = "".join(part.message.content for part in parts)
        last = parts[-1]
        return (text, last.model, last.done_reason), (last.prompt_eval_count, last.eval_count)

    def validated(self, partial: Any) -> str:
        return str(self.sdk.ChatResponse.model_validate(partial).message.content)


KITS = (OpenAIKit(), AnthropicKit(), GoogleKit(), OllamaKit())
of_each = pytest.mark.parametrize("kit", [pytest.param(kit, marks=kit.mark, id=kit.name) for kit in KITS])


def model(provider: Provider, name: str = "another", **how: Any) -> Callable[[Request], Answer]:
    """A server on which a model answers."""

    def answer(request: Request) -> Answer:
        body = json.loads(request.body)
        if provider.is_tried and body.get("stream") is not True:
            return Answer.json(json.dumps(provider.tried(" 47, 48")))
        return Answer(provider.say(body, name, **how).blocks, headers=provider.headers)

    return answer


def broken(provider: Provider, events: int, end: End = End.RST) -> Answer:
    """The first answer, as far as it comes."""
    return Answer(provider.say(provider.body, "first").blocks[:events], end, headers=provider.headers)


def in_the_middle(provider: Provider) -> Answer:
    """Five words of it."""
    return broken(provider, provider.opening + 5)


HEAD = "".join(WORDS[:5])


def cuts(provider: Provider) -> Iterator[tuple[int, Answer]]:
    """Behind each event but the last, in all ways in turn."""
    blocks = provider.say(provider.body, "first").blocks
    for count, end in zip(range(1, len(blocks)), cycle(ENDS)):
        yield count, broken(provider, count, end)


def is_complete(provider: Provider, count: int) -> bool:
    """Whether so many events say all but what nobody would generate again for: usage, and that it is the end."""
    said = provider.say(provider.body, "first")
    return count >= said.opening + len(WORDS) + {"chat": 1, "anthropic": 2, "gemini": 0, "ollama": 1}[provider.name]


def check(kit: Kit, way: str, count: int, whole: Read, found: Read, requests: list[Request]) -> None:
    """The same object; and the usage of the generation that was read, or of all that were joined."""
    assert found[0] == whole[0]
    if is_complete(kit.provider, count):
        assert len(requests) == 1
        assert found[1] in (None, whole[1])
        return
    first, second = requests
    body = json.loads(second.body)
    assert (first.method, first.target, first.headers.get("authorization")) == (
        second.method,
        second.target,
        second.headers.get("authorization"),
    )
    same_key = first.headers["idempotency-key"] == second.headers["idempotency-key"]
    if way == "replay":
        assert body == json.loads(first.body)
        assert same_key
        assert found[1] == whole[1]
    else:
        said = kit.provider.say(body, "")
        assert not same_key
        assert found[1] == (PROMPT + said.prompt, said.prompt - PROMPT + said.output)


@pytest.mark.parametrize("way", ["replay", "continue"])
@of_each
def test_cut_between_any_two_events(kit: Kit, way: Any) -> None:
    with client(kit.family) as http:
        with Scripted(model(kit.provider, "first")) as server:
            whole = kit.read(kit.made(server.url, http))
        for count, cut in cuts(kit.provider):
            with Scripted(cut, rest=model(kit.provider, size=1 + count % 3)) as server:
                api = rl.wrap(kit.made(server.url, http), policy=policy(), fallback=way, can_continue=True)
                check(kit, way, count, whole, kit.read(api), server.requests)
                assert not busy(http)


@pytest.mark.parametrize("way", ["replay", "continue"])
@of_each
async def test_cut_between_any_two_events_async(kit: Kit, way: Any, anyio_backend: str) -> None:
    if anyio_backend not in kit.loops:
        pytest.skip("the SDK itself is bound to asyncio")
    async with async_client(kit.family) as http:
        with Scripted(model(kit.provider, "first")) as server:
            whole = await kit.aread(kit.made_async(server.url, http))
        for count, cut in cuts(kit.provider):
            with Scripted(cut, rest=model(kit.provider, size=1 + count % 3)) as server:
                api = rl.wrap(kit.made_async(server.url, http), policy=policy(), fallback=way, can_continue=True)
                check(kit, way, count, whole, await kit.aread(api), server.requests)
                assert not busy(http)


@of_each
def test_cut_again_and_again(kit: Kit) -> None:
    """The one way, refused, and then the other, over three generations."""
    provider = kit.provider
    with client(kit.family) as http:
        with Scripted(model(provider, "first")) as server:
            whole = kit.read(kit.made(server.url, http))
        refused = Answer.json("{}", 400)
        again = broken(provider, provider.opening + 7)
        with Scripted(in_the_middle(provider), refused, again, rest=model(provider)) as server:
            notices: list[str] = []
            api = rl.wrap(
                kit.made(server.url, http),
                policy=policy(),
                fallback=("continue", "replay"),
                can_continue=True,
                on_event=lambda notice: notices.append(notice.kind),
            )
            assert kit.read(api) == whole
            assert [kind for kind in notices if kind != "wait"] == [
                *("drop", "continue", "drop", "replay", "seam"),
                *("drop", "replay", "seam", "end"),
            ]
            assert not busy(http)


# What does not fit


def error_of(caught: BaseException) -> rl.ResumableError:
    """Ours, or what the SDK has put around it."""
    found = caught if isinstance(caught, rl.ResumableError) else caught.__cause__
    assert isinstance(found, rl.ResumableError)
    return found


def refusals(provider: Provider) -> Iterator[tuple[str, Any, type[rl.ResumableError], list[Any]]]:
    """Way, ``can_continue=``, error, and the answers to all but the first request."""
    yield "replay", None, rl.ReplayDiverged, [model(provider, text=OTHER_TEXT)]
    yield "replay", None, rl.CannotResume, [Answer.json("{}", 400)]
    yield "continue", True, rl.ContinuationRefused, [Answer.json('{"error":{"message":"no prefill"}}', 400)]
    yield "continue", True, rl.ContinuationRefused, [lambda request: model(provider)(_forgetting(provider, request))]
    yield "continue", False, rl.ContinuationRefused, []


def _forgetting(provider: Provider, request: Request) -> Request:
    content = json.dumps(provider.body).encode()
    return Request(request.method, request.target, request.headers, content, request.raw_head)


@of_each
def test_what_does_not_fit_is_an_error_with_what_was_said(kit: Kit) -> None:
    with client(kit.family) as http:
        for way, can_continue, kind, script in refusals(kit.provider):
            with Scripted(in_the_middle(kit.provider), *script) as server:
                allowed: Any = way
                made = kit.made(server.url, http)
                api = rl.wrap(made, policy=policy(), fallback=allowed, can_continue=can_continue)
                with pytest.raises(Exception) as caught:  # noqa: PT011 - what the SDK makes of it is its own affair
                    kit.read(api)
                error = error_of(caught.value)
                assert isinstance(error, kind)
                assert error.partial_text == HEAD
                assert kit.validated(error.partial) == HEAD
                assert error.report is not None
                assert error.report.attempts == len(server.requests) == 1 + len(script)
                assert not busy(http)


@of_each
async def test_what_does_not_fit_is_an_error_with_what_was_said_async(kit: Kit, anyio_backend: str) -> None:
    if anyio_backend not in kit.loops:
        pytest.skip("the SDK itself is bound to asyncio")
    async with async_client(kit.family) as http:
        for way, can_continue, kind, script in refusals(kit.provider):
            with Scripted(in_the_middle(kit.provider), *script) as server:
                allowed: Any = way
                made = kit.made_async(server.url, http)
                api = rl.wrap(made, policy=policy(), fallback=allowed, can_continue=can_continue)
                with pytest.raises(Exception) as caught:  # noqa: PT011 - as above
                    await kit.aread(api)
                error = error_of(caught.value)
                assert isinstance(error, kind)
                assert kit.validated(error.partial) == error.partial_text == HEAD
                assert not busy(http)


# What is known of the model


@pytest.mark.parametrize(
    "kit", [pytest.param(kit, marks=kit.mark, id=kit.name) for kit in KITS if kit.provider.is_tried]
)
def test_a_model_that_nobody_knows_is_tried_once(kit: Kit) -> None:
    answer = model(kit.provider)
    with client(kit.family) as http, Scripted(in_the_middle(kit.provider), answer, answer, rest=answer) as server:
        api = rl.wrap(kit.made(server.url, http), policy=policy(), fallback="continue")
        kit.read(api)
        assert [json.loads(request.body).get("stream") is True for request in server.requests] == [True, False, True]
        kit.read(api)
        assert len(server.requests) == 4, "there was no drop"
    with client(kit.family) as http, Scripted(in_the_middle(kit.provider), _begins_anew(kit.provider)) as server:
        api = rl.wrap(kit.made(server.url, http), policy=policy(), fallback="continue")
        with pytest.raises(Exception) as caught:  # noqa: PT011 - as above
            kit.read(api)
        assert isinstance(error_of(caught.value), rl.ContinuationRefused)
        assert "it begins anew" in str(error_of(caught.value))


def _begins_anew(provider: Provider) -> Answer:
    return Answer.json(json.dumps(provider.tried("Sure: 41, 42")))


@pytest.mark.openai
def test_the_trial_is_remembered() -> None:
    kit = OpenAIKit()
    cut, answer = in_the_middle(kit.provider), model(kit.provider)
    with client(kit.family) as http, Scripted(cut, answer, answer, cut, rest=answer) as server:
        api = rl.wrap(kit.made(server.url, http), policy=policy(), fallback="continue")
        assert kit.read(api)[0]["choices"][0]["message"]["content"] == TEXT
        assert kit.read(api)[0]["choices"][0]["message"]["content"] == TEXT
        assert [json.loads(request.body).get("stream") is True for request in server.requests] == [
            *(True, False, True),
            *(True, True),
        ]


def test_the_caller_knows_better_than_the_table() -> None:
    kit = AnthropicKit()
    new: Any = {"model": "claude-opus-4-6"}
    with client(kit.family) as http:
        with Scripted(in_the_middle(kit.provider)) as server:
            api = rl.wrap(kit.made(server.url, http), policy=policy(), fallback="continue")
            with pytest.raises(rl.ContinuationRefused, match="can_continue=True") as caught:
                kit.read(api, **new)
            assert kit.validated(caught.value.partial) == HEAD
        with Scripted(in_the_middle(kit.provider), rest=model(kit.provider)) as server:
            api = rl.wrap(kit.made(server.url, http), policy=policy(), fallback="continue", can_continue=True)
            assert kit.read(api, **new)[0]["content"][0]["text"] == TEXT


@pytest.mark.openai
def test_the_report_tells_of_the_seam() -> None:
    kit = OpenAIKit()
    with (
        client(kit.family) as http,
        Scripted(in_the_middle(kit.provider), rest=model(kit.provider)) as server,
    ):
        api = rl.wrap(kit.made(server.url, http), policy=policy(), fallback="continue", can_continue=True)
        with api.chat.completions.create(model="m", messages=ASKED, stream=True) as stream:
            text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
        report = rl.inspect(stream).report
        assert text == TEXT
        assert (report.fidelity, report.attempts) == ("continued", 2)
        assert report.seams == (rl.Seam("continue", 6, len(HEAD), 0),)
        assert report.tokens_not_paid_twice == 5
        assert report.input_tokens_sent_again == PROMPT + 5
