"""Chat completions, and the older completions: what a chunk says, and how each service is asked to go on.

A partial answer goes back as the last message, of the assistant. What tells a server to go on with it instead of
beginning a new turn differs: nothing at all (Groq, llama.cpp, Ollama), ``prefix`` (Mistral, which says it again, and
DeepSeek, under ``/beta``), ``partial`` (Qwen), or ``continue_final_message`` without ``add_generation_prompt`` (vLLM,
SGLang, Hugging Face), which is also what a server that nobody knows is sent. OpenAI begins a new turn whatever it is
sent.
Sources: https://docs.mistral.ai (prefix), https://api-docs.deepseek.com/guides/chat_prefix_completion,
    https://console.groq.com/docs/prefilling, https://www.alibabacloud.com/help/en/model-studio (partial mode),
    vllm-project/vllm 8942, sgl-project/sglang 4226, ggml-org/llama.cpp 23089; read 2026-11-22.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from resumable_llm.core.events import Fields
from resumable_llm.core.model import RequestPlan
from resumable_llm.core.speech import Answer, Ask, Key, Payload, Says, Slot, Trial, Usage
from resumable_llm.dialects.event_stream import json_object, object_in
from resumable_llm.dialects.openai_services import SERVICES
from resumable_llm.dialects.speech.common import count, event_of, number_of, objects_in, reduced, strings_in
from resumable_llm.dialects.speech.prefill import (
    BEGUN,
    CLAUDE,
    GEMINI,
    OVERRIDE,
    QUESTION,
    TRIAL_TOKENS,
    is_known,
    went_on,
    why_not,
)

_THOUGHTS = ("reasoning_content", "reasoning", "reasoning_text", "thinking")
_CONSTRAINTS = ("grammar", "json_schema", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "regex")
_CUT_SHORT = ("length", "model_length", "content_filter", "error")
_LIMITS = ("max_tokens", "max_completion_tokens", "n_predict")


@dataclass(frozen=True)
class Form:
    """How a service is asked to go on.

    Attributes:
        message: What is added to the last message.
        body: What is added to the request.
        echoes: Whether the service says the partial answer again; None: not known.
        path: What must stand before the path's ``/chat/completions``; None: as it is.
        refuses: Why it is not asked at all, unless the caller knows better.
        is_sure: Whether it is documented that every model goes on; otherwise those that are not known are tried.
    """

    message: tuple[tuple[str, Any], ...] = ()
    body: tuple[tuple[str, Any], ...] = ()
    echoes: bool | None = False
    path: str | None = None
    refuses: str = ""
    is_sure: bool = True


_UNTRIED = Form(echoes=None, refuses="nothing is known of how this service goes on from a partial answer")
_ANYBODY = Form(body=(("continue_final_message", True), ("add_generation_prompt", False)), echoes=None, is_sure=False)
LLAMA_CPP = replace(_ANYBODY, echoes=False)
"""llama.cpp, which goes on with this form even where it was started with ``--no-prefill-assistant``."""
_FORMS = {
    "mistral": Form((("prefix", True),), echoes=True),
    "deepseek": Form((("prefix", True),), echoes=None, path="/beta"),
    "groq": Form(),
    "azure": replace(_UNTRIED, refuses="Azure OpenAI begins a new turn instead of going on from a partial answer"),
}
_HOSTS = {
    "openai.com": replace(_UNTRIED, refuses="OpenAI begins a new turn instead of going on from a partial answer"),
    "aliyuncs.com": Form((("partial", True),)),
}


class ChatSpeech:
    """``POST …/chat/completions`` and ``POST …/completions``.

    Args:
        form: How the server is asked to go on, where its answer has shown what it is; None: by the request's host.
    """

    def __init__(self, form: Form | None = None) -> None:
        self._form = form

    def slots(self, event: Fields, payload: Payload) -> list[Slot]:
        """Per choice: role, content, refusal, thoughts, tool calls, sound, finish_reason."""
        return [slot for choice in objects_in(payload, "choices") for slot in _slots(choice)]

    def note(self, event: Fields, payload: Payload, answer: Answer) -> None:
        """The names of the first chunk that has them."""
        for name in ("id", "object", "created", "model"):
            if payload.get(name) is not None:
                answer.names.setdefault(name, payload[name])

    def usage(self, payload: Payload) -> Usage | None:
        """Where ``stream_options`` asked for it, and in Groq's own place."""
        found = _usage(payload)
        return Usage(count(found, "prompt_tokens"), count(found, "completion_tokens")) if found else None

    def set_usage(self, payload: Payload, usage: Usage) -> None:
        """With the total."""
        found = _usage(payload)
        for name, tokens in (("prompt_tokens", usage.input), ("completion_tokens", usage.output)):
            if tokens is not None and name in found:
                found[name] = tokens
        if "total_tokens" in found:
            found["total_tokens"] = (count(found, "prompt_tokens") or 0) + (count(found, "completion_tokens") or 0)

    def adopt(self, event: Fields, payload: Payload, answer: Answer) -> list[tuple[Fields, Payload]]:
        """One id and one time for all. A chunk without choices or usage tells of the prompt, which was told."""
        if not payload.get("choices") and not _usage(payload) and "error" not in payload:
            return []
        for name in ("id", "created"):
            if name in answer.names and name in payload:
                payload[name] = answer.names[name]
        return [(event, payload)]

    def tidy(self, event: Fields, payload: Payload, spent: list[Slot]) -> bool:
        """Choices of which nothing is left are taken out."""
        choices = objects_in(payload, "choices")
        for slot in spent:
            if slot.name == "finish_reason":
                slot.holder[slot.name] = None
            elif any(slot.holder is choice for choice in choices):
                slot.holder[slot.name] = ""  # a choice of the older completions has a text
            else:
                del slot.holder[slot.name]
        payload["choices"] = choices = [choice for choice in choices if _says_more(choice)]
        return bool(choices) or bool(_usage(payload))

    def open_part(self, answer: Answer) -> Key:
        """The first choice's text."""
        return (0, "text")

    def go_on(self, request: RequestPlan, answer: Answer, text: str, *, can_continue: bool | None) -> Ask:
        """The text as the last message, or behind the prompt."""
        body = json_object(request.body)
        form = self._form or _form_of(request)
        is_chat = isinstance(body.get("messages"), list)
        reason = _constraint(body) or why_not(str(body.get("model") or ""), CLAUDE + GEMINI, can_continue)
        if form.refuses and can_continue is None and is_chat:
            reason = reason or f"{form.refuses}; {OVERRIDE}"
        if answer.is_closed(0):
            reason = "the model had ended it"
        if reason:
            return Ask(None, reason)
        if not text:
            return Ask(request)
        if not is_chat:
            return _behind_the_prompt(request, body, answer, text)
        changed = {**body, "messages": _with_last(body["messages"], text, form), **dict(form.body)}
        plan = request.with_body(json.dumps(reduced(changed, _LIMITS, answer.text_events)).encode())
        if form.path is not None:
            plan = replace(plan, url=_moved(plan.url, form.path))
        known = form.is_sure or is_known(str(body.get("model") or ""), CLAUDE + GEMINI, can_continue)
        return Ask(plan, echoes=form.echoes, trial=None if known else _trial(plan, body, form))

    def stops(self, request: RequestPlan) -> list[str]:
        """``stop``, one or several."""
        return strings_in(json_object(request.body).get("stop"))

    def say(self, answer: Answer, text: str) -> tuple[Fields, Payload]:
        """A chunk with more of the first choice's text."""
        return event_of(None), _chunk(answer, text, None)

    def finish(self, answer: Answer, stop: str) -> list[tuple[Fields, Payload | None]]:
        """``finish_reason: stop``, then ``[DONE]``."""
        return [(event_of(None), _chunk(answer, None, "stop")), (event_of(None, "[DONE]"), None)]

    def partial(self, answer: Answer) -> Any:
        """A ``ChatCompletion``, or a ``Completion``."""
        choices, incomplete = [], []
        for index in sorted({key[0] for key in (*answer.texts, *answer.marks) if isinstance(key[0], int)}):
            choice, torn = _partial_choice(answer, index)
            choices.append(choice)
            incomplete += torn
        found = {**answer.names, "object": _whole(answer.names.get("object")), "choices": choices}
        if answer.usage.output is not None:
            prompt, completion = answer.usage.input or 0, answer.usage.output
            found["usage"] = {
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
            }
        return {**found, "incomplete_tool_calls": incomplete} if incomplete else found


def _slots(choice: Payload) -> Iterator[Slot]:
    index = number_of(choice, 0)
    delta = object_in(choice, "delta")
    if delta.get("role"):
        yield Slot((index, "role"), "text", delta, "role", Says.NAMES)
    for name in _THOUGHTS:
        if isinstance(delta.get(name), str):
            yield Slot((index, "thinking", name), "thinking", delta, name)
    yield from _content(index, delta)
    if isinstance(delta.get("refusal"), str):
        yield Slot((index, "refusal"), "refusal", delta, "refusal")
    for position, call in enumerate(objects_in(delta, "tool_calls")):
        yield from _call((index, "tool", number_of(call, position)), call, object_in(call, "function"))
    if "function_call" in delta:
        function = object_in(delta, "function_call")
        yield from _call((index, "tool", "function_call"), {}, function)
    yield from _audio(index, object_in(delta, "audio"))
    if isinstance(choice.get("text"), str):
        yield Slot((index, "text"), "text", choice, "text")
    if choice.get("finish_reason"):
        yield Slot((index, "finish"), "text", choice, "finish_reason", Says.SETTLES, closes=True)


def _content(index: int, delta: Payload) -> Iterator[Slot]:
    if isinstance(delta.get("content"), str):
        yield Slot((index, "text"), "text", delta, "content")
    for part in objects_in(delta, "content"):  # Mistral, when it thinks aloud
        if isinstance(part.get("text"), str):
            yield Slot((index, "text"), "text", part, "text")
        for thought in objects_in(part, "thinking"):
            if isinstance(thought.get("text"), str):
                yield Slot((index, "thinking", "thinking"), "thinking", thought, "text")


def _call(key: Key, call: Payload, function: Payload) -> Iterator[Slot]:
    for name in ("id", "type"):
        if call.get(name):
            yield Slot((*key, name), "tool", call, name, Says.NAMES)
    if function.get("name"):
        yield Slot((*key, "name"), "tool", function, "name", Says.SETTLES)
    if isinstance(function.get("arguments"), str):
        yield Slot((*key, "arguments"), "tool", function, "arguments")


def _audio(index: int, audio: Payload) -> Iterator[Slot]:
    for name in ("id", "expires_at"):
        if audio.get(name) is not None:
            yield Slot((index, "audio", name), "audio", audio, name, Says.NAMES)
    for name in ("data", "transcript"):
        if isinstance(audio.get(name), str):
            yield Slot((index, "audio", name), "audio", audio, name)


def _says_more(choice: Payload) -> bool:
    """Whether anything is left of a choice; what is empty of it is taken out."""
    delta = object_in(choice, "delta")
    calls = [
        call for call in objects_in(delta, "tool_calls") if call.get("id") or any(object_in(call, "function").values())
    ]
    if "tool_calls" in delta:
        if calls:
            delta["tool_calls"] = calls
        else:
            del delta["tool_calls"]
    parts = delta.get("content")
    if isinstance(parts, list):
        delta["content"] = [part for part in parts if not isinstance(part, dict) or set(part) - {"type"}]
    return bool(choice.get("finish_reason")) or any(delta.values()) or bool(choice.get("text"))


def _usage(payload: Payload) -> Payload:
    return object_in(payload, "usage") or object_in(object_in(payload, "x_groq"), "usage")


def _constraint(body: Payload) -> str:
    """What of a request makes a continuation impossible, whoever is asked."""
    if (body.get("n") or 1) != 1:
        return "the request asks for more than one choice"
    kind = object_in(body, "response_format").get("type", "text")
    found = next((name for name in _CONSTRAINTS if body.get(name)), None)
    if kind != "text" or found:
        return f"the request constrains the form of the answer ({found or f'response_format {kind}'})"
    choice = body.get("tool_choice")
    if isinstance(choice, dict) or choice in ("required", "any"):
        return "the request forces the model to call a tool"
    if "audio" in strings_in(body.get("modalities")):
        return "the request asks for sound"
    return ""


def _form_of(request: RequestPlan) -> Form:
    service = next((each for each in SERVICES if each.has(request.url)), None)
    if service is not None:
        return _FORMS.get(service.name, _UNTRIED)
    host = urlsplit(request.url).hostname or ""
    return next((form for name, form in _HOSTS.items() if host == name or host.endswith(f".{name}")), _ANYBODY)


def _with_last(messages: list[Any], text: str, form: Form) -> list[Any]:
    """The messages with the partial answer as the last one, behind what the caller had put there of it."""
    last = messages[-1] if messages else None
    if isinstance(last, dict) and last.get("role") == "assistant" and isinstance(last.get("content"), str):
        begun = last["content"]
        if form.echoes is not False and begun and (text.startswith(begun) or begun.startswith(text)):
            whole = max(begun, text, key=len)  # the service has said again what the caller had put there
        else:
            whole = begun + text
        return [*messages[:-1], {**last, "content": whole, **dict(form.message)}]
    return [*messages, {"role": "assistant", "content": text, **dict(form.message)}]


def _trial(plan: RequestPlan, body: Payload, form: Form) -> Trial:
    limit = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
    messages = _with_last([{"role": "user", "content": QUESTION}], BEGUN, form)
    named = {"model": body["model"]} if "model" in body else {}
    asked = {**named, "messages": messages, limit: TRIAL_TOKENS, "temperature": 0, **dict(form.body)}
    return Trial(plan.with_body(json.dumps(asked).encode()), _passed)


def _passed(body: bytes) -> bool:
    choice = next(iter(objects_in(json_object(body), "choices")), {})
    return went_on(object_in(choice, "message").get("content"))


def _behind_the_prompt(request: RequestPlan, body: Payload, answer: Answer, text: str) -> Ask:
    prompt = body.get("prompt")
    if not isinstance(prompt, str) or body.get("suffix") or body.get("echo"):
        return Ask(None, "only a single prompt, without suffix and echo, can be gone on from")
    changed = reduced({**body, "prompt": prompt + text}, _LIMITS, answer.text_events)
    return Ask(request.with_body(json.dumps(changed).encode()), echoes=False)


def _moved(url: str, path: str) -> str:
    parts = urlsplit(url)
    rest = parts.path.removeprefix("/v1").removeprefix(path)
    return urlunsplit(parts._replace(path=path + rest))


def _chunk(answer: Answer, text: str | None, finish: str | None) -> Payload:
    said: Payload = {"delta": {} if text is None else {"content": text}}
    if answer.names.get("object") == "text_completion":
        said = {"text": text or ""}
    return {**answer.names, "choices": [{"index": 0, **said, "finish_reason": finish}]}


def _whole(kind: object) -> str:
    return str(kind or "chat.completion.chunk").removesuffix(".chunk")


def _partial_choice(answer: Answer, index: int) -> tuple[Payload, list[Payload]]:
    """One choice, and its tool calls that may not be whole."""
    finish = answer.marks.get((index, "finish"))
    text = answer.text((index, "text"))
    if answer.names.get("object") == "text_completion":
        return {"index": index, "text": text, "finish_reason": finish, "logprobs": None}, []
    message: Payload = {"role": answer.marks.get((index, "role"), "assistant"), "content": text or None}
    for key in answer.texts:
        if key[:1] == (index,) and key[1] in ("thinking", "refusal") and answer.text(key):
            message[str(key[-1])] = answer.text(key)
    sound = {name: answer.marks.get((index, "audio", name)) for name in ("id", "expires_at")}
    sound |= {name: answer.text((index, "audio", name)) for name in ("data", "transcript")}
    if any(sound.values()):
        message["audio"] = sound
    numbers = list(dict.fromkeys(key[2] for key in (*answer.marks, *answer.texts) if key[:2] == (index, "tool")))
    calls = [_partial_call(answer, (index, "tool", number)) for number in numbers]
    # A call is whole when the next one begins; the last one, when the model was not cut short.
    whole = calls if finish and finish not in _CUT_SHORT else calls[:-1]
    if whole:
        message["tool_calls"] = whole
    return {"index": index, "message": message, "finish_reason": finish, "logprobs": None}, calls[len(whole) :]


def _partial_call(answer: Answer, key: Key) -> Payload:
    function = {"name": answer.marks.get((*key, "name")), "arguments": answer.text((*key, "arguments"))}
    return {
        "id": answer.marks.get((*key, "id")),
        "type": answer.marks.get((*key, "type"), "function"),
        "function": function,
    }
