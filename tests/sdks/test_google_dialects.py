"""Google's own ways back, as the google-genai SDK sees them: not at all.

What `wrap` does with the SDK's HTTP clients is `test_google`'s subject.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import resumable_llm as rl
from tests.sdks.wrapped import check
from tests.sockets import wire
from tests.sockets.clients import FOREIGN_GENERATORS, async_client, busy, client, policy
from tests.sockets.scripted import Answer, End, Request, Scripted
from tests.sockets.wire import TEXT, WORDS, Event, Json

genai = pytest.importorskip("google.genai", reason="google-genai needs Python 3.11, and the first environment")

pytestmark = [pytest.mark.slow, FOREIGN_GENERATORS]

ENDS = (End.FIN, End.RST, End.CLEAN)
USAGE = {"total_input_tokens": 3, "total_output_tokens": len(WORDS), "total_tokens": 3 + len(WORDS)}


def _event(payload: Json) -> Event:
    return Event(json.dumps(payload, separators=(",", ":"), ensure_ascii=False), payload.get("event_type"))


def _interaction(status: str, **more: Any) -> Json:
    return {"id": "v1_7", "object": "interaction", "status": status, "model": "m", **more}


def _delta(text: str, **more: Any) -> Json:
    return {"index": 1, "delta": {"type": "text", "text": text}, **more, "event_type": "step.delta"}


def _interactions() -> list[Event]:
    """As Google sends them: only some events have an id."""
    texts = [_delta(word, **({"event_id": f"v1_e{at}"} if at % 3 == 1 else {})) for at, word in enumerate(WORDS)]
    said: list[Json] = [
        {"interaction": _interaction("in_progress"), "event_type": "interaction.created"},
        {"interaction_id": "v1_7", "status": "in_progress", "event_type": "interaction.status_update"},
        {"index": 0, "step": {"type": "thought"}, "event_type": "step.start"},
        {"index": 0, "delta": {"type": "thought_signature", "signature": "c2ln"}, "event_type": "step.delta"},
        {"index": 0, "event_type": "step.stop"},
        {"index": 1, "step": {"type": "model_output"}, "event_type": "step.start"},
        *texts,
        {"index": 1, "event_type": "step.stop"},
        {"interaction": _interaction("completed", usage=USAGE), "event_type": "interaction.completed"},
    ]
    return [*map(_event, said), Event("[DONE]", "done")]


EVENTS = _interactions()
STEPS = [
    {"type": "thought", "signature": "c2ln"},
    {"type": "model_output", "content": [{"type": "text", "text": TEXT}]},
]
FINISHED = json.dumps(_interaction("completed", usage=USAGE, steps=STEPS))
NOT_FOUND = Answer.json('{"error":{"code":"not_found","message":"Not found"}}', status=404)


def kept(request: Request) -> Answer:
    """A server that keeps the interaction."""
    if request.method == "GET":
        assert request.path.endswith("/interactions/v1_7")
        if request.query.get("stream") != "true":
            return Answer.json(FINISHED)
    named = request.query.get("last_event_id")
    places = [at for at, event in enumerate(EVENTS) if named and f'"event_id":"{named}"' in event.data]
    return Answer(wire.blocks(EVENTS[places[0] + 1 if named else 0 :]))


def not_streamed(request: Request) -> Answer:
    """A server that keeps no more of it than what came of it."""
    return NOT_FOUND if request.query.get("stream") == "true" else kept(request)


def cut_behind(events: list[Event], counts: Iterator[int] | range) -> Iterator[Answer]:
    """Answers cut behind so many events, in each way, and in the middle of the next."""
    blocks = wire.blocks(events)
    for count in counts:
        for end in ENDS:
            yield Answer(blocks[:count], end)
        yield Answer([*blocks[:count], blocks[count][: len(blocks[count]) // 2]], End.FIN)


@pytest.fixture(scope="module")
def http() -> Iterator[Any]:
    with client("httpx2") as made:
        yield made


def sdk(url: str, http: Any, async_http: Any = None) -> Any:
    options = {"base_url": url, "httpx_client": http, "httpx_async_client": async_http or async_client("httpx2")}
    return genai.Client(api_key="s3cret", http_options=options)


def wrapped(url: str, http: Any, **options: Any) -> Any:
    return rl.wrap(sdk(url, http), policy=policy(), **options)


def _run(
    run: Callable[[Any], Any], arun: Callable[[Any], Any], server: Scripted, http: Any, *, asynchronous: bool
) -> Any:
    """What one answer comes to, read by either kind of client."""
    if not asynchronous:
        return run(wrapped(server.url, http))

    async def read() -> Any:
        async with async_client("httpx2") as async_http:
            return await arun(rl.wrap(sdk(server.url, http, async_http), policy=policy()))

    return asyncio.run(read())


both = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


class TestInteractions:
    @staticmethod
    def read(api: Any, **asked: Any) -> Any:
        stream = api.interactions.create(**{"model": "m", "input": "?", "stream": True, **asked})
        return [event.model_dump() for event in stream]

    @staticmethod
    async def aread(api: Any) -> Any:
        stream = await api.aio.interactions.create(model="m", input="?", stream=True)
        return [event.model_dump() async for event in stream]

    @staticmethod
    def put_together(events: list[Json]) -> tuple[str, Json]:
        text = "".join(
            event["delta"]["text"]
            for event in events
            if event["event_type"] == "step.delta" and event["delta"]["type"] == "text"
        )
        assert events[-1]["event_type"] == "interaction.completed"
        return text, events[-1]["interaction"]

    def test_cut_anywhere(self, http: Any) -> None:
        cut = cut_behind(EVENTS, range(len(EVENTS)))
        check(lambda url: sdk(url, http), self.read, EVENTS, http, rest=kept, cut=cut)

    @both
    @pytest.mark.parametrize("count", range(1, len(EVENTS)))
    def test_the_way_back(self, http: Any, count: int, asynchronous: bool) -> None:
        with Scripted(rest=kept) as whole:
            unbroken = self.read(sdk(whole.url, http))
        with Scripted(Answer(wire.blocks(EVENTS[:count]), ENDS[count % 3]), rest=kept) as server:
            assert _run(self.read, self.aread, server, http, asynchronous=asynchronous) == unbroken
            behind_the_end = count == len(EVENTS) - 1
            assert server.methods == (["POST"] if behind_the_end else ["POST", "GET"])
            assert all(request.headers["x-goog-api-key"] == "s3cret" for request in server.requests)

    @both
    @pytest.mark.parametrize("count", range(1, len(EVENTS) - 1))
    def test_the_finished_interaction(self, http: Any, count: int, asynchronous: bool) -> None:
        """The rest is streamed no more: what is put together is the same."""
        with Scripted(rest=kept) as whole:
            unbroken = self.read(sdk(whole.url, http))
        with Scripted(Answer(wire.blocks(EVENTS[:count]), ENDS[count % 3]), rest=not_streamed) as server:
            events = _run(self.read, self.aread, server, http, asynchronous=asynchronous)
            assert self.put_together(events) == self.put_together(unbroken)
            assert events[:count] == unbroken[:count]
            stops = [event["index"] for event in events if event["event_type"] == "step.stop"]
            assert stops == [0, 1]

    def test_a_hung_replay(self, http: Any) -> None:
        hung = Answer(wire.blocks(EVENTS[8:9]), End.PINGS)

        def rest(request: Request) -> Answer:
            return hung if request.query.get("stream") == "true" else kept(request)

        with Scripted(Answer(wire.blocks(EVENTS[:9]), End.RST), rest=rest) as server:
            api = rl.wrap(sdk(server.url, http), policy=policy(event_timeout=1.0))
            text, _ = self.put_together(self.read(api))
            assert text == TEXT
            assert server.methods == ["POST", "GET", "GET"]

    def test_retrieve(self, http: Any) -> None:
        def read(api: Any) -> Any:
            return [event.model_dump() for event in api.interactions.get(id="v1_7", stream=True)]

        check(lambda url: sdk(url, http), read, EVENTS, http, rest=kept, cut=cut_behind(EVENTS, range(8, 10)))

    def test_calls_that_do_not_stream_are_untouched(self, http: Any) -> None:
        with Scripted(rest=lambda request: Answer.json(FINISHED)) as server:
            for api in (sdk(server.url, http), wrapped(server.url, http)):
                assert api.interactions.get(id="v1_7").output_text == TEXT
                assert api.interactions.create(model="m", input="?").output_text == TEXT
            first, second, third, fourth = server.requests
            assert (first.raw_head, first.body, second.body) == (third.raw_head, third.body, fourth.body)

    def test_a_background_interaction_is_not_started_twice(self, http: Any) -> None:
        with Scripted(Answer([], End.RST)) as server:
            with pytest.raises(Exception) as caught:  # noqa: PT011 - the SDK has a class of its own for it
                self.read(wrapped(server.url, http), background=True)
            assert len(server.requests) == 1
            causes = [caught.value, caught.value.__cause__, caught.value.__context__]
            assert any(isinstance(each, rl.StreamInterrupted) for each in causes)

    def test_upgrade(self, http: Any) -> None:
        with Scripted(Answer(wire.blocks(EVENTS[:9]), End.RST), rest=kept) as server:
            events = self.read(wrapped(server.url, http, upgrade=True))
            assert self.put_together(events)[0] == TEXT
            body = json.loads(server.requests[0].body)
            assert (body["background"], body["store"]) == (True, True)

    @pytest.mark.parametrize("refused", ["background", "store"])
    def test_upgrade_refused(self, http: Any, refused: str) -> None:
        with Scripted() as server:
            api = wrapped(server.url, http, upgrade=True)
            with pytest.raises(Exception, match=f"says {refused}=False"):
                self.read(api, **{refused: False})

    def test_the_sdks_own_continuation_is_not_needed(self, http: Any) -> None:
        """It would send a request of its own from the token, and the answer would be charged for twice."""
        token: Json = {
            "interaction_id": "v1_7",
            "status": "in_progress",
            "continuation_token": "dG9r",
            "event_id": "v1_token",
            "event_type": "interaction.status_update",
        }
        events = [*EVENTS[:9], _event(token), *EVENTS[9:]]

        def rest(request: Request) -> Answer:
            assert request.query["last_event_id"] == "v1_token"
            return Answer(wire.blocks(EVENTS[9:]))

        with Scripted(rest=lambda request: Answer(wire.blocks(events))) as whole:
            unbroken = self.read(sdk(whole.url, http))
        with Scripted(Answer(wire.blocks(events[:10]), End.FIN), rest) as server:
            assert self.read(wrapped(server.url, http)) == unbroken
            assert server.methods == ["POST", "GET"]

    def test_the_sdk_goes_on_where_one_request_may_not(self, http: Any) -> None:
        first = _interaction("requires_continuation", continuation_token="dG9r")
        hop = [*EVENTS[:8], _event({"interaction": first, "event_type": "interaction.completed"}), EVENTS[-1]]
        # The second hop is an interaction of its own, and may be cut like any other.
        other = [Event(event.data.replace("v1_7", "v1_8"), event.name) for event in EVENTS]

        def rest(request: Request) -> Answer:
            assert request.path.endswith("/v1_8")
            at = next(at for at, event in enumerate(other) if request.query["last_event_id"] in event.data)
            return Answer(wire.blocks(other[at + 1 :]))

        with Scripted(Answer(wire.blocks(hop)), Answer(wire.blocks(other))) as whole:
            unbroken = self.read(sdk(whole.url, http))
        with Scripted(Answer(wire.blocks(hop)), Answer(wire.blocks(other[:9]), End.RST), rest) as server:
            assert self.read(wrapped(server.url, http)) == unbroken
            assert server.methods == ["POST", "POST", "GET"]
            body = json.loads(server.requests[1].body)
            assert (body["continuation_token"], body["previous_interaction_id"]) == ("dG9r", "v1_7")


def _chunk(text: str, response_id: str = "gen-7", **candidate: Any) -> Event:
    content = {"role": "model", "parts": [{"text": text}]}
    usage = {"promptTokenCount": 3, "totalTokenCount": 3 + len(WORDS)}
    chunk = {"candidates": [{"content": content, **candidate}], "usageMetadata": usage, "responseId": response_id}
    return Event(json.dumps(chunk, ensure_ascii=False))


CHUNKS = [*map(_chunk, WORDS[:-1]), _chunk(WORDS[-1], finishReason="STOP"), Event('{"usageMetadata":{}}')]
TOKEN = [_chunk(WORDS[0]), _chunk(WORDS[1], continuationToken="dG9r")]
HOP = [*(_chunk(word, "gen-8") for word in WORDS[2:-1]), _chunk(WORDS[-1], "gen-8", finishReason="STOP")]
ERROR = Event('{"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}}')


class TestGenerateContent:
    @staticmethod
    def read(api: Any, **config: Any) -> Any:
        stream = api.models.generate_content_stream(model="m", contents="?", config=config or None)
        return [chunk.model_dump(exclude={"sdk_http_response"}) for chunk in stream]

    @staticmethod
    async def aread(api: Any) -> Any:
        stream = await api.aio.models.generate_content_stream(model="m", contents="?")
        return [chunk.model_dump(exclude={"sdk_http_response"}) async for chunk in stream]

    @both
    @pytest.mark.parametrize("end", ENDS)
    def test_cut_behind_the_finish_reason(self, http: Any, end: End, asynchronous: bool) -> None:
        with Scripted(Answer(wire.blocks(CHUNKS[:-1]))) as whole:
            unbroken = self.read(sdk(whole.url, http))
        with Scripted(Answer(wire.blocks(CHUNKS[:-1]), end)) as server:
            assert _run(self.read, self.aread, server, http, asynchronous=asynchronous) == unbroken
        assert not busy(http)

    @both
    @pytest.mark.parametrize("end", ENDS)
    def test_cut_before_the_finish_reason(self, http: Any, end: End, asynchronous: bool) -> None:
        """Nothing is kept: an error that has what was said, not an answer that looks complete."""
        with Scripted(Answer(wire.blocks(CHUNKS[:4]), end)) as server:
            with pytest.raises(rl.CannotResume, match="generateContent keeps nothing") as caught:
                _run(self.read, self.aread, server, http, asynchronous=asynchronous)
            assert caught.value.partial_text == "".join(WORDS[:4])
            assert len(server.requests) == 1
        assert not busy(http)

    def test_from_the_token(self, http: Any) -> None:
        with Scripted(Answer(wire.blocks([*TOKEN, *HOP]))) as whole:
            unbroken = self.read(sdk(whole.url, http), automatic_continuation=False)
        with Scripted(Answer(wire.blocks(TOKEN), End.RST), Answer(wire.blocks(HOP))) as server:
            assert self.read(wrapped(server.url, http), automatic_continuation=False) == unbroken
            first, second = (json.loads(request.body) for request in server.requests)
            assert second == {**first, "continuationToken": "dG9r"}

    def test_the_token_is_sent_as_the_sdk_sends_it(self, http: Any) -> None:
        for api in (sdk, wrapped):
            with Scripted(Answer(wire.blocks(TOKEN), End.RST), Answer(wire.blocks(HOP))) as server:
                chunks = self.read(api(server.url, http))
                said = [chunk["candidates"][0]["content"]["parts"][0]["text"] for chunk in chunks]
                assert "".join(said) == TEXT
                assert json.loads(server.requests[1].body)["continuationToken"] == "dG9r"

    def test_the_sdk_goes_on_where_one_request_may_not(self, http: Any) -> None:
        end = _chunk(WORDS[1], continuationToken="dG9r", finishReason="CONTINUATION")
        with Scripted(Answer(wire.blocks([TOKEN[0], end])), Answer(wire.blocks(HOP))) as whole:
            unbroken = self.read(sdk(whole.url, http))
        for how in ENDS:
            with Scripted(Answer(wire.blocks([TOKEN[0], end]), how), Answer(wire.blocks(HOP))) as server:
                assert self.read(wrapped(server.url, http)) == unbroken
                assert len(server.requests) == 2

    def test_an_error_before_anything(self, http: Any) -> None:
        with Scripted(Answer(wire.blocks([ERROR])), Answer(wire.blocks(CHUNKS))) as server:
            texts = [chunk for chunk in self.read(wrapped(server.url, http)) if chunk["candidates"]]
            assert len(texts) == len(WORDS)
            assert len(server.requests) == 2

    def test_an_error_behind_something_is_the_sdks(self, http: Any) -> None:
        for api in (sdk, wrapped):
            with Scripted(Answer(wire.blocks([*CHUNKS[:3], ERROR]))) as server:
                with pytest.raises(genai.errors.ServerError, match="overloaded"):
                    self.read(api(server.url, http))
                assert len(server.requests) == 1
