"""Gemini's generateContent: two generations of an answer that are one, or a reason why not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from resumable_llm.core.events import Fields
from resumable_llm.core.model import RequestPlan
from resumable_llm.core.seam import TextSeam
from resumable_llm.core.speech import Answer, Usage, listen
from resumable_llm.dialects import named
from resumable_llm.dialects.speech.gemini import GeminiSpeech
from tests.core.generations import Joined, fallbacks, join

GEMINI = named("gemini_generate")
SPEECH = GeminiSpeech()
URL = "https://generativelanguage.googleapis.com/v1beta/models/{}:streamGenerateContent?alt=sse"
USER = {"role": "user", "parts": [{"text": "What is a log?"}]}
WORDS = ("A log", " is ", "a  list;\n", "naïve", " \U0001f642 ", "readers ", "like it.")
TEXT = "".join(WORDS)
SIGNATURES = {"one": "b25l", "two": "dHdv"}


def validated(response: Any) -> Any:
    """A response as the SDK reads it."""
    types = pytest.importorskip("google.genai.types", reason="google-genai needs Python 3.11")
    return types.GenerateContentResponse.model_validate(response)


def asked(model: str = "gemini-2.5-flash", **body: Any) -> RequestPlan:
    return RequestPlan("POST", URL.format(model), (), json.dumps({"contents": [USER], **body}).encode())


def event(**payload: Any) -> Fields:
    return Fields(None, json.dumps(payload, separators=(",", ":")), None, None)


def response(*parts: dict[str, Any], id: str = "one", usage: Any = None, **candidate: Any) -> Fields:
    content = {"content": {"parts": list(parts), "role": "model"}} if parts else {}
    told = {} if usage is None else {"usageMetadata": usage}
    return event(candidates=[{**content, **candidate}], **told, modelVersion="gemini-2.5-flash", responseId=id)


def used(prompt: int, said: int, thoughts: int = 0) -> dict[str, int]:
    return {
        "promptTokenCount": prompt,
        "candidatesTokenCount": said,
        "thoughtsTokenCount": thoughts,
        "totalTokenCount": prompt + said + thoughts,
    }


def generation(words: Sequence[str] = WORDS, id: str = "one", prompt: int = 4) -> list[Fields]:
    """As the server writes it: usage runs along, and the last event has text, the end and the total."""
    found = [response({"text": word}, id=id, usage=used(prompt, n)) for n, word in enumerate(words[:-1], 1)]
    return [*found, response({"text": words[-1]}, id=id, usage=used(prompt, len(words)), finishReason="STOP", index=0)]


def rich(text: Sequence[str] = ("He", "llo ", "there"), id: str = "one", call: str = "c1") -> list[Fields]:
    """Thoughts, text, code, tool calls, an image, signatures."""
    function = {"name": "f", "args": {"b": 1, "a": [2]}}
    return [
        response({"text": "Gre", "thought": True}, id=id),
        response({"text": "et.", "thought": True}, {"text": text[0]}, id=id),
        *(response({"text": word}, id=id) for word in text[1:]),
        response({"executableCode": {"code": "1", "language": "PYTHON", "id": call}}, id=id),
        response({"functionCall": {"id": call, **function}, "thoughtSignature": SIGNATURES[id]}, id=id),
        response({"functionCall": {"id": call, **function}}, {"functionCall": {"name": "g"}}, id=id),
        response({"inlineData": {"mimeType": "image/png", "data": "AA=="}}, id=id),
        response({"fileData": {"mimeType": "audio/wav", "fileUri": "u"}}, id=id),
        response({"text": "", "thoughtSignature": SIGNATURES[id]}, id=id),
        response(id=id, finishReason="STOP"),
        event(usageMetadata=used(4, 9), responseId=id),
    ]


def fold(events: Sequence[Fields]) -> tuple[list[Any], set[str | None], Any, list[Any]]:
    """What a reader of the SDK's chunks has in the end: parts, ids, the last usage, finish reasons."""
    chunks = [validated(json.loads(each.data or "")) for each in events]
    parts: list[Any] = []
    ends: list[Any] = []
    for candidate in (candidate for chunk in chunks for candidate in chunk.candidates or []):
        ends += [candidate.finish_reason] if candidate.finish_reason else []
        for part in (candidate.content and candidate.content.parts) or []:
            last = parts[-1] if parts else None
            if part.text is None or last is None or last.text is None or last.thought != part.thought:
                parts.append(part)
            else:
                last.text += part.text
                last.thought_signature = part.thought_signature or last.thought_signature
    for part in parts:
        if part.function_call:
            part.function_call.id = None
        if part.executable_code:
            part.executable_code.id = None
        part.thought_signature = bool(part.thought_signature)
    return parts, {chunk.response_id for chunk in chunks}, chunks[-1].usage_metadata, ends


def joined(way: Any, head: Sequence[Fields], tail: Sequence[Fields], request: RequestPlan | None = None) -> Joined:
    found = join(fallbacks(way), GEMINI, request or asked(), head, tail)
    assert isinstance(found, Joined), found
    return found


def text(events: Sequence[Fields]) -> str:
    return "".join(map(GEMINI.text, events))


class TestListen:
    def test_a_whole_answer(self) -> None:
        answer = listen(SPEECH, generation())
        assert answer.text((0, "text")) == TEXT
        assert answer.closed == {0}
        assert answer.usage == Usage(4, len(WORDS))

    def test_a_blocked_prompt_closes_everything(self) -> None:
        answer = listen(SPEECH, [event(promptFeedback={"blockReason": "SAFETY"})])
        assert answer.is_closed(0)
        assert SPEECH.partial(answer)["promptFeedback"] == {"blockReason": "SAFETY"}

    def test_continuation_closes_nothing(self) -> None:
        assert not listen(SPEECH, [response({"text": "Hel"}, finishReason="CONTINUATION")]).closed

    def test_thoughts_alone_count_as_said(self) -> None:
        assert SPEECH.usage({"usageMetadata": {"promptTokenCount": 4, "thoughtsTokenCount": 3}}) == Usage(4, 3)
        assert SPEECH.usage({"usageMetadata": used(4, 2, 3)}) == Usage(4, 5)

    @pytest.mark.parametrize(
        ("part", "kind"),
        [
            ({"inlineData": {"mimeType": "audio/pcm", "data": ""}}, "audio"),
            ({"inlineData": {"mimeType": "image/png", "data": ""}}, "image"),
            ({"inlineData": {"mimeType": "application/pdf", "data": ""}}, "other"),
            ({"codeExecutionResult": {"outcome": "OK"}}, "other"),
            ({"functionCall": {"name": "f"}}, "tool"),
            ({"text": "x", "thought": True}, "thinking"),
            ({"odd": 1}, "other"),
        ],
    )
    def test_kinds(self, part: Any, kind: Any) -> None:
        answer = listen(SPEECH, [response(part, index="odd")])
        assert answer.has(kind)
        found = join(fallbacks("continue"), GEMINI, asked(), [response(part)], [])
        assert isinstance(found, str)
        assert "cannot be continued" in found

    def test_an_empty_part_says_nothing(self) -> None:
        assert not listen(SPEECH, [response({}), response({"thought": True})]).kinds


class TestRepeat:
    @pytest.mark.parametrize("cut", range(len(WORDS)))
    @pytest.mark.parametrize("pieces", [(TEXT,), WORDS, tuple(TEXT), (TEXT[:7], "", TEXT[7:])])
    def test_at_every_cut_with_other_pieces(self, cut: int, pieces: tuple[str, ...]) -> None:
        again = generation(pieces, "two")
        found = joined("replay", generation()[:cut], again)
        assert not found.objection
        parts, ids, _, ends = fold(found.events)
        assert [part.text for part in parts] == [TEXT]
        assert ids == {"one" if cut else "two"}
        assert ends == ["STOP"]
        assert text(found.events) == TEXT

    @pytest.mark.parametrize("cut", range(len(rich())))
    def test_of_everything_else(self, cut: int) -> None:
        first = rich()
        found = joined("replay", first[:cut], rich(("Hell", "o", " there"), "two", "c2"))
        assert not found.objection
        parts, ids, usage, ends = fold(found.events)
        assert (parts, usage, ends) == (fold(first)[0], fold(first)[2], ["STOP"])
        assert ids == {"one" if cut else "two"}

    @pytest.mark.parametrize("cut", range(1, len(WORDS)))
    def test_diverging_anywhere_delivers_nothing(self, cut: int) -> None:
        said = "".join(WORDS[:cut])
        for at in range(len(said)):
            again = generation((said[:at] + "§", TEXT), "two")
            found = joined("replay", generation()[:cut], again)
            assert found.objection
            assert not found.tail

    @pytest.mark.parametrize(
        "other",
        [
            [response({"functionCall": {"name": "f", "args": {"a": 2}}})],
            [response({"functionCall": {"name": "g"}})],
            [response({"text": "He"})],
            [response(finishReason="STOP")],
            [event(promptFeedback={"blockReason": "SAFETY"})],
        ],
    )
    def test_another_tool_call(self, other: list[Fields]) -> None:
        head = [response({"functionCall": {"name": "f", "args": {"a": 1}}})]
        found = joined("replay", head, [*other, response(finishReason="STOP")])
        assert found.objection or not found.tail

    def test_two_candidates(self) -> None:
        def chunk(*candidates: Any) -> Fields:
            return event(candidates=list(candidates))

        def says(index: int, text: str, **more: Any) -> Any:
            return {"index": index, "content": {"parts": [{"text": text}], "role": "model"}, **more}

        head = [chunk(says(0, "Hel"), says(1, "Good ")), chunk(says(0, "lo", finishReason="STOP"))]
        again = [
            chunk(says(1, "Good d")),
            chunk(says(0, "Hello", finishReason="STOP"), says(1, "ay", finishReason="STOP")),
        ]
        found = joined("replay", head, again)
        assert [json.loads(each.data or "") for each in found.tail] == [
            {"candidates": [says(1, "d")]},
            {"candidates": [says(1, "ay", finishReason="STOP")]},
        ]

    def test_a_signature_that_comes_with_text_that_was_told(self) -> None:
        signed = {"text": "Hel", "thoughtSignature": "c2ln"}
        again = [response(signed), response({"text": "lo"})]
        assert joined("replay", [response({"text": "Hel"})], again).tail == [
            response({"text": "", "thoughtSignature": "c2ln"}),
            response({"text": "lo"}),
        ]
        assert joined("replay", [response(signed)], again).tail == [response({"text": "lo"})]
        longer = {"text": "Hello", "thoughtSignature": "c2ln"}
        assert joined("replay", [response(signed)], [response(longer)]).tail == [response({**longer, "text": "lo"})]

    def test_a_new_tool_call_beside_one_that_was_told(self) -> None:
        told, new = {"functionCall": {"name": "f", "id": "1"}}, {"functionCall": {"name": "g"}}
        again = [response({"functionCall": {"name": "f", "id": "2"}}, new)]
        assert joined("replay", [response(told)], again).tail == [response(new)]

    def test_a_blocked_prompt(self) -> None:
        blocked = event(promptFeedback={"blockReason": "SAFETY"})
        assert joined("replay", [], [blocked]).tail == [blocked]
        assert not joined("replay", [blocked], [blocked]).tail


class TestContinue:
    @pytest.mark.parametrize("cut", range(1, len(WORDS)))
    @pytest.mark.parametrize("size", [1, 5, 100])
    def test_at_every_cut(self, cut: int, size: int) -> None:
        said = "".join(WORDS[:cut])
        rest = TEXT[len(TextSeam(said).sent) :]
        pieces = [rest[at : at + size] for at in range(0, len(rest), size)]
        found = joined("continue", generation()[:cut], generation(pieces, "two", prompt=4 + cut))
        assert not found.objection
        parts, ids, usage, ends = fold(found.events)
        assert [part.text for part in parts] == [TEXT]
        assert ids == {"one"}
        assert ends == ["STOP"]
        assert usage.prompt_token_count == 4 + 4 + cut
        assert usage.candidates_token_count == cut + len(pieces)
        assert usage.total_token_count == 8 + cut + cut + len(pieces)

    def test_one_time(self) -> None:
        head = [event(candidates=[], createTime="1"), response({"text": "Hello"})]
        tail = [event(candidates=[{"content": {"parts": [{"text": " there"}]}}], createTime="2")]
        assert json.loads(joined("continue", head, tail).tail[0].data or "")["createTime"] == "1"

    def test_ends_at_a_stop_sequence_across_the_seam(self) -> None:
        request = asked(generationConfig={"stopSequences": ["END"]})
        found = joined("continue", [response({"text": "Hello E"})], [response({"text": "ND of it"})], request)
        assert fold(found.events)[3] == ["STOP"]
        assert text(found.events) == "Hello E"
        assert found.way.splice.finished

    def test_what_was_held_back_comes_before_the_end(self) -> None:
        head, end = [response({"text": "Hello "})], response(finishReason="STOP")
        found = joined("continue", head, [response({"text": "H"}), end])
        assert text(found.events) == "Hello H"
        found = joined("continue", head, [response({"text": "Hello"}), end])
        assert found.objection
        assert not found.tail

    def test_the_same_request_if_nothing_was_said(self) -> None:
        assert joined("continue", [], []).way.plan.body == asked().body

    def test_the_request(self) -> None:
        config = {"maxOutputTokens": 100, "temperature": 0}
        plan = joined("continue", generation()[:3], [], asked(generationConfig=config)).way.plan
        assert plan.url == asked().url
        assert json.loads(plan.body or b"") == {
            "contents": [USER, {"role": "model", "parts": [{"text": "A log is a  list;"}]}],
            "generationConfig": {"maxOutputTokens": 97, "temperature": 0},
        }

    def test_the_limit_where_no_usage_was_told_and_names_with_underscores(self) -> None:
        config = {"max_output_tokens": 3, "stop_sequences": ["x"]}
        request = asked(generation_config=config)
        plan = joined("continue", [response({"text": "Hel"}), response({"text": "lo"})], [], request).way.plan
        assert json.loads(plan.body or b"")["generation_config"]["max_output_tokens"] == 1
        assert SPEECH.stops(request) == ["x"]

    @pytest.mark.parametrize(
        ("turn", "sent"),
        [
            ([{"text": "Well, "}], [{"text": "Well, Hello"}]),
            ([{"inlineData": {}}], [{"inlineData": {}}, {"text": "Hello"}]),
        ],
    )
    def test_behind_what_the_caller_had_put_there(self, turn: Any, sent: Any) -> None:
        request = asked(contents=[USER, {"role": "model", "parts": turn}])
        plan = joined("continue", [response({"text": "Hello"})], [], request).way.plan
        assert json.loads(plan.body or b"")["contents"] == [USER, {"role": "model", "parts": sent}]

    def test_no_contents_at_all(self) -> None:
        plan = joined("continue", [response({"text": "Hello"})], [], asked(contents=[])).way.plan
        assert json.loads(plan.body or b"")["contents"] == [{"role": "model", "parts": [{"text": "Hello"}]}]

    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            ({"contents": "Hello"}, "no list of contents"),
            ({"continuationToken": "dG9rZW4="}, "continuation token"),
            ({"toolConfig": {"functionCallingConfig": {"mode": "ANY"}}}, "forces the model to call a tool"),
            ({"tool_config": {"function_calling_config": {"mode": "ANY"}}}, "forces the model to call a tool"),
            ({"generationConfig": {"candidateCount": 2}}, "more than one candidate"),
            ({"generationConfig": {"responseMimeType": "application/json"}}, "application/json"),
            ({"generation_config": {"response_mime_type": "text/x.enum"}}, "text/x.enum"),
            ({"generationConfig": {"responseSchema": {"type": "STRING"}}}, "responseSchema"),
            ({"generationConfig": {"responseJsonSchema": {"type": "string"}}}, "responseJsonSchema"),
            ({"generationConfig": {"responseModalities": ["TEXT", "IMAGE"]}}, "more than text"),
        ],
    )
    def test_refused(self, body: Any, reason: str) -> None:
        found = join(fallbacks("continue", can_continue=True), GEMINI, asked(**body), generation()[:2], [])
        assert isinstance(found, str)
        assert reason in found

    @pytest.mark.parametrize(
        ("model", "goes_on"),
        [
            ("gemini-2.5-pro", True),
            ("gemini-3.5-flash", True),
            ("gemini-3.5-flash-lite", False),
            ("gemini-3.8-flash", False),
            ("somebody-elses", True),
        ],
    )
    @pytest.mark.parametrize("says", [None, True, False])
    @pytest.mark.parametrize("prefix", ["", "publishers/google/models/"])
    def test_models(self, model: str, goes_on: bool, says: bool | None, prefix: str) -> None:
        allowed = fallbacks("continue", can_continue=says)
        found = join(allowed, GEMINI, asked(prefix + model), generation()[:2], [])
        assert isinstance(found, Joined) is (goes_on if says is None else says)

    def test_plain_forms_are_none(self) -> None:
        config = {"responseMimeType": "text/plain", "responseModalities": ["TEXT"], "candidateCount": 1}
        tools = {"functionCallingConfig": {"mode": "AUTO"}}
        joined("continue", generation()[:2], [], asked(generationConfig=config, toolConfig=tools))


class TestUsage:
    def test_without_what_was_not_told(self) -> None:
        payload: Any = {"usageMetadata": {"promptTokenCount": 4}}
        SPEECH.set_usage(payload, Usage(9, 9))
        assert payload == {"usageMetadata": {"promptTokenCount": 9}}
        SPEECH.set_usage(payload, Usage(None, None))
        assert payload == {"usageMetadata": {"promptTokenCount": 9}}

    def test_thoughts_stay(self) -> None:
        payload: Any = {"usageMetadata": used(4, 2, 3)}
        SPEECH.set_usage(payload, Usage(10, 9))
        assert payload == {"usageMetadata": used(10, 6, 3)}


class TestPartial:
    @pytest.mark.parametrize("cut", range(len(rich()) + 1))
    def test_at_every_cut(self, cut: int) -> None:
        partial = SPEECH.partial(listen(SPEECH, rich()[:cut]))
        seen = validated(partial)
        event = Fields(None, json.dumps(partial), None, None)
        assert fold([event])[0] == fold(rich()[:cut])[0] if cut else not seen.candidates
        assert "incomplete_tool_calls" not in partial

    def test_all_of_it(self) -> None:
        first = [response({"text": "Hel"}, usage=used(4, 1)), response({"text": "lo"}, finishReason="STOP")]
        assert SPEECH.partial(listen(SPEECH, first)) == {
            "candidates": [
                {"content": {"parts": [{"text": "Hello"}], "role": "model"}, "index": 0, "finishReason": "STOP"}
            ],
            "responseId": "one",
            "modelVersion": "gemini-2.5-flash",
            "usageMetadata": used(4, 1),
        }

    def test_half_a_character_becomes_whole(self) -> None:
        halves = [response({"text": "\ud83d"}), response({"text": "\ude42"})]
        partial = SPEECH.partial(listen(SPEECH, halves))
        assert partial["candidates"][0]["content"]["parts"] == [{"text": "\U0001f642"}]

    def test_a_tool_call_in_pieces(self) -> None:
        def piece(**call: Any) -> Fields:
            return response({"functionCall": call})

        one, two = {"jsonPath": "$.a", "stringValue": "x"}, {"jsonPath": "$.a", "stringValue": "y"}
        pieces = [
            piece(name="f", willContinue=True),
            piece(partialArgs=[one], willContinue=True),
            piece(partialArgs=[two], willContinue=True),
            piece(),
            response({"text": "Done."}),
        ]
        for cut in range(1, 4):
            partial = SPEECH.partial(listen(SPEECH, pieces[:cut]))
            assert partial["candidates"][0]["content"]["parts"] == []
            assert partial["incomplete_tool_calls"][0]["name"] == "f"
        whole = SPEECH.partial(listen(SPEECH, pieces))
        assert whole["candidates"][0]["content"]["parts"] == [
            {"functionCall": {"name": "f", "partialArgs": [one, two]}},
            {"text": "Done."},
        ]
        assert "incomplete_tool_calls" not in whole

    def test_of_nothing(self) -> None:
        assert SPEECH.partial(Answer()) == {"candidates": []}
