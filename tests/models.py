"""Models that know one text by heart, each behind a provider's wire format: they say it, and go on from a part of it.

Every word is a token, so that what a provider would charge is known. Pure: a request in, bytes out.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

Json = dict[str, Any]

TEXT = "An answer is a log;\n naïve 🙂 readers begin anew."
_WORD = re.compile(r"\s*\S+\n?|\s+")
WORDS = tuple(_WORD.findall(TEXT))
OTHER_TEXT = "An answer is another one, said by lot."
PROMPT = 5
"""Tokens of the question alone."""


class Said(NamedTuple):
    """A whole answer, and what it cost."""

    blocks: list[bytes]
    prompt: int
    """Tokens that were read."""
    output: int
    """Tokens that were said."""
    opening: int
    """Events before the first that says something new."""


@dataclass
class Heard:
    """What a client makes of an answer.

    Attributes:
        text: What was said.
        names: The ids, each once for every event that tells it.
        starts: How often it began.
        ends: The reasons for which it ended.
        usage: Tokens of the prompt and of the answer; None: not told.
    """

    text: str = ""
    names: list[str] = field(default_factory=list)
    starts: int = 0
    ends: list[str] = field(default_factory=list)
    usage: tuple[int, int] | None = None


class Provider(ABC):
    """A wire format, and where in a request a partial answer stands."""

    name: str
    dialect: str
    url: str
    headers: ClassVar[Json] = {"content-type": "text/event-stream"}
    body: ClassVar[Json]
    transient: bytes
    """A failure in the stream that passes."""
    lasting: bytes
    """One that does not."""
    opening = 0
    """Events before the first that says something."""
    is_tried = False
    """Whether nothing is known of the model, so that it is given a trial before it is asked to go on."""

    @abstractmethod
    def events(self, pieces: Sequence[str], name: str, usage: tuple[int, int]) -> list[bytes]:
        """A whole answer in so many pieces."""

    @abstractmethod
    def begun(self, body: Json) -> str:
        """The partial answer that a request brings along."""

    @abstractmethod
    def hear(self, payloads: Iterable[Json]) -> Heard:
        """Put an answer together, as an SDK does."""

    @abstractmethod
    def told(self, partial: Json) -> str:
        """The text in a partial message."""

    def tried(self, said: str) -> Json:
        """The answer to a trial."""
        raise NotImplementedError

    def say(self, body: Json, name: str, *, size: int = 1, text: str = TEXT, echo: bool = False) -> Said:
        """What the model answers.

        Args:
            body: The request's.
            name: The id of this generation.
            size: Words in a piece.
            text: What it knows by heart.
            echo: Say what the request brings along again.
        """
        begun = self.begun(body)
        assert text.startswith(begun), f"the model never said {begun!r}"
        rest, prompt = words(text, len(begun)), PROMPT + len(words(begun))
        pieces = ["".join(rest[at : at + size]) for at in range(0, len(rest), size)]
        if echo and begun:
            pieces.insert(0, begun)
        opening = self.opening + (echo and begun != "")
        return Said(self.events(pieces, name, (prompt, len(rest))), prompt, len(rest), opening)


def words(text: str, start: int = 0) -> list[str]:
    """The tokens of a text from a place on; of one in the middle of which that is, what is left."""
    return _WORD.findall(text[start:])


def block(payload: Json | str, event: str | None = None) -> bytes:
    """A server-sent event."""
    data = payload if isinstance(payload, str) else _dump(payload)
    return (f"event: {event}\n" if event else "").encode() + f"data: {data}\n\n".encode()


def _dump(payload: Json) -> str:
    return json.dumps(payload, separators=(",", ":"), ensure_ascii=False)


class Chat(Provider):
    """Chat completions of a server that nobody knows."""

    name = "chat"
    dialect = "openai_chat"
    opening = 1
    url = "https://made-up.example/v1/chat/completions"
    body: ClassVar[Json] = {
        "model": "m",
        "messages": [{"role": "user", "content": "?"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    transient = block({"error": {"code": "overloaded", "message": "no room"}})
    lasting = block({"error": {"code": "invalid_prompt", "message": "no"}})
    is_tried = True

    def tried(self, said: str) -> Json:
        return {"choices": [{"index": 0, "message": {"role": "assistant", "content": said}}]}

    def events(self, pieces: Sequence[str], name: str, usage: tuple[int, int]) -> list[bytes]:
        base = {"id": name, "object": "chat.completion.chunk", "created": 1795000000 + len(name), "model": "m"}

        def chunk(delta: Json, finish: str | None = None) -> bytes:
            return block({**base, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

        counts = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
        return [
            chunk({"role": "assistant", "content": ""}),
            *(chunk({"content": piece}) for piece in pieces),
            chunk({}, "stop"),
            block({**base, "choices": [], "usage": counts}),
            block("[DONE]"),
        ]

    def begun(self, body: Json) -> str:
        last = body["messages"][-1]
        return str(last["content"]) if last["role"] == "assistant" else ""

    def hear(self, payloads: Iterable[Json]) -> Heard:
        heard = Heard()
        for payload in payloads:
            heard.names.append(payload["id"])
            if payload.get("usage"):
                heard.usage = payload["usage"]["prompt_tokens"], payload["usage"]["completion_tokens"]
                assert payload["usage"]["total_tokens"] == sum(heard.usage)
            for choice in payload["choices"]:
                heard.starts += "role" in choice["delta"]
                heard.text += choice["delta"].get("content") or ""
                heard.ends += [choice["finish_reason"]] if choice["finish_reason"] else []
        return heard

    def told(self, partial: Json) -> str:
        return "".join(choice["message"]["content"] or "" for choice in partial["choices"])


class Mistral(Chat):
    """The same of Mistral, which says the partial answer again."""

    name = "mistral"
    dialect = "mistral_chat"
    url = "https://api.mistral.ai/v1/chat/completions"
    is_tried = False

    def say(self, body: Json, name: str, *, size: int = 1, text: str = TEXT, echo: bool = True) -> Said:
        assert not self.begun(body) or body["messages"][-1]["prefix"] is True
        return super().say(body, name, size=size, text=text, echo=echo)


class Anthropic(Provider):
    """Messages, of a model that goes on."""

    name = "anthropic"
    dialect = "anthropic_messages"
    always_block = False
    """Whether there is a block even where there is nothing to say."""
    opening = 3
    url = "https://api.anthropic.com/v1/messages"
    body: ClassVar[Json] = {
        "model": "claude-sonnet-4-5",
        "max_tokens": 99,
        "messages": [{"role": "user", "content": "?"}],
        "stream": True,
    }
    transient = block({"type": "error", "error": {"type": "overloaded_error", "message": "no room"}}, "error")
    lasting = block({"type": "error", "error": {"type": "invalid_request_error", "message": "no"}}, "error")

    def events(self, pieces: Sequence[str], name: str, usage: tuple[int, int]) -> list[bytes]:
        message: Json = {
            "id": name,
            "type": "message",
            "role": "assistant",
            "model": self.body["model"],
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": usage[0], "output_tokens": 1},
        }
        said: list[Json] = [
            {"type": "message_start", "message": message},
            *(self.block(pieces) if pieces or self.always_block else []),
            {
                "type": "message_delta",
                "delta": {"stop_reason": "end_turn", "stop_sequence": None},
                "usage": {"output_tokens": usage[1]},
            },
            {"type": "message_stop"},
        ]
        return [block(payload, payload["type"]) for payload in said]

    def block(self, pieces: Sequence[str]) -> list[Json]:
        """A block of text."""
        said = [{"type": "text_delta", "text": piece} for piece in pieces]
        return [
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "ping"},
            *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in said),
            {"type": "content_block_stop", "index": 0},
        ]

    def begun(self, body: Json) -> str:
        last = body["messages"][-1]
        return str(last["content"]) if last["role"] == "assistant" else ""

    def hear(self, payloads: Iterable[Json]) -> Heard:
        heard, open_blocks, prompt = Heard(), set(), 0
        for payload in payloads:
            kind = payload["type"]
            if kind == "message_start":
                heard.starts += 1
                heard.names.append(payload["message"]["id"])
                prompt = payload["message"]["usage"]["input_tokens"]
            elif kind == "content_block_start":
                open_blocks.add(payload["index"])
                assert payload["index"] == len(open_blocks) - 1
            elif kind == "content_block_delta":
                assert payload["index"] in open_blocks
                heard.text += payload["delta"]["text"]
            elif kind == "message_delta":
                heard.ends.append(payload["delta"]["stop_reason"])
                usage = payload["usage"]
                heard.usage = usage.get("input_tokens", prompt), usage["output_tokens"]
        return heard

    def told(self, partial: Json) -> str:
        return "".join(each["text"] for each in partial["content"])


class Gemini(Provider):
    """`generateContent`, of a model that goes on."""

    name = "gemini"
    dialect = "gemini_generate"
    url = "https://made-up.example/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse"
    body: ClassVar[Json] = {"contents": [{"role": "user", "parts": [{"text": "?"}]}]}
    transient = block({"error": {"code": 503, "status": "UNAVAILABLE", "message": "no room"}})
    lasting = block({"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "no"}})

    def events(self, pieces: Sequence[str], name: str, usage: tuple[int, int]) -> list[bytes]:
        found: list[bytes] = []
        for number, piece in enumerate(pieces, 1):
            candidate: Json = {"content": {"parts": [{"text": piece}], "role": "model"}, "index": 0}
            if number == len(pieces):
                candidate["finishReason"] = "STOP"
            said = usage[1] * number // len(pieces)
            counts = {"promptTokenCount": usage[0], "candidatesTokenCount": said, "totalTokenCount": usage[0] + said}
            payload = {"candidates": [candidate], "usageMetadata": counts, "modelVersion": "m", "responseId": name}
            found.append(block(payload))
        return found

    def begun(self, body: Json) -> str:
        last = body["contents"][-1]
        return str(last["parts"][0]["text"]) if last["role"] == "model" else ""

    def hear(self, payloads: Iterable[Json]) -> Heard:
        heard = Heard()
        for payload in payloads:
            heard.names.append(payload["responseId"])
            counts = payload["usageMetadata"]
            heard.usage = counts["promptTokenCount"], counts["candidatesTokenCount"]
            assert counts["totalTokenCount"] == sum(heard.usage)
            for candidate in payload["candidates"]:
                heard.text += "".join(part["text"] for part in candidate["content"]["parts"])
                heard.ends += [candidate["finishReason"]] if "finishReason" in candidate else []
        heard.starts = 1 if heard.names else 0
        return heard

    def told(self, partial: Json) -> str:
        return "".join(part["text"] for each in partial["candidates"] for part in each["content"]["parts"])


class Ollama(Provider):
    """Ollama's own lines of JSON, which name no generation."""

    name = "ollama"
    dialect = "ollama"
    url = "https://made-up.example/api/chat"
    headers: ClassVar[Json] = {"content-type": "application/x-ndjson"}
    body: ClassVar[Json] = {"model": "m", "messages": [{"role": "user", "content": "?"}], "stream": True}
    transient = b'{"error":{"code":"overloaded","message":"no room"}}\n'
    lasting = b'{"error":"model runner has unexpectedly stopped"}\n'
    is_tried = True

    def tried(self, said: str) -> Json:
        return {"message": {"role": "assistant", "content": said}, "done": True}

    def events(self, pieces: Sequence[str], name: str, usage: tuple[int, int]) -> list[bytes]:
        base: Json = {"model": "m", "created_at": f"2026-11-22T12:00:00.{len(name)}Z"}
        said: list[Json] = [{"message": {"role": "assistant", "content": piece}, "done": False} for piece in pieces]
        counts = {"prompt_eval_count": usage[0], "eval_count": usage[1]}
        said.append({"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop", **counts})
        return [_dump({**base, **payload}).encode() + b"\n" for payload in said]

    def begun(self, body: Json) -> str:
        last = body["messages"][-1]
        return str(last["content"]) if last["role"] == "assistant" else ""

    def hear(self, payloads: Iterable[Json]) -> Heard:
        heard = Heard()
        for payload in payloads:
            heard.starts = 1
            heard.text += payload["message"]["content"]
            if payload["done"]:
                heard.ends.append(payload["done_reason"])
                heard.usage = payload["prompt_eval_count"], payload["eval_count"]
        return heard

    def told(self, partial: Json) -> str:
        return str(partial["message"]["content"])


PROVIDERS: tuple[Provider, ...] = (Chat(), Mistral(), Anthropic(), Gemini(), Ollama())
