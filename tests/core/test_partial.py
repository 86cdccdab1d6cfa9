"""What was delivered before an answer broke off: as the dialect puts it together, and otherwise as it came."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resumable_llm.core.dialect import Dialect
from resumable_llm.core.events import Fields
from resumable_llm.core.partial import partial_of
from resumable_llm.core.speech import Speech, listen
from resumable_llm.core.transcript import Transcript
from resumable_llm.dialects import ANY_EVENT_STREAM, DIALECTS, EventStream, named
from resumable_llm.dialects.event_stream import json_object
from tests.core.generations import transcript_of

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2) | st.floats() | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=6,
)
VECTORS = Path(__file__).parents[1] / "vectors"
FOLDERS = {"llama_completion": "llama_cpp"}
"""Where a dialect's vectors are, if not under its name."""

SPEAKING = [each for each in DIALECTS if each.speech is not None]


def wire(*blocks: str) -> Transcript:
    transcript = Transcript(10**6, lambda: None)
    for block in blocks:
        transcript.keep(block.encode() + b"\n\n", 1)
    return transcript


def test_nothing() -> None:
    assert partial_of(ANY_EVENT_STREAM, wire()) is None
    assert partial_of(named("openai_chat"), wire(": comment", "id: 7")) is None


def test_events_as_they_came() -> None:
    transcript = wire('event: values\nid: 3\ndata: {"a":[1]}', "id: 4", "data: [DONE]", "data")
    assert partial_of(ANY_EVENT_STREAM, transcript) == [
        {"event": "values", "data": {"a": [1]}, "id": "3"},
        {"event": "message", "data": "[DONE]", "id": None},
        {"event": "message", "data": "", "id": None},
    ]


def test_json_too_deep_to_be_read_is_text() -> None:
    deep = "[" * 200_000
    assert partial_of(ANY_EVENT_STREAM, wire(f"data: {deep}")) == [{"event": "message", "data": deep, "id": None}]


def test_as_the_dialect_puts_it_together() -> None:
    found = partial_of(named("openai_chat"), wire('data: {"id":"c","choices":[{"index":0,"delta":{"content":"Hi"}}]}'))
    assert found["choices"][0]["message"]["content"] == "Hi"


class _Stumbling:
    def __getattr__(self, name: str) -> Any:
        raise TypeError(name)


class _Odd(EventStream):
    speech: Speech | None = _Stumbling()


def test_what_cannot_be_put_together_is_told_as_it_came() -> None:
    assert partial_of(_Odd(), wire('data: {"a":1}')) == [{"event": "message", "data": {"a": 1}, "id": None}]


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
@given(events=st.lists(st.tuples(st.none() | st.text("abc.", max_size=5), JSON), min_size=1, max_size=4))
def test_nothing_that_is_said_hides_the_error(dialect: Dialect, events: list[tuple[str | None, Any]]) -> None:
    told = [Fields(name, json.dumps(data), None, None) for name, data in events]
    assert partial_of(dialect, transcript_of(dialect.framing, told)) is not None


ODD: tuple[Any, ...] = (None, True, 0, -1, 1.5, "", "x", [], {}, [None], [0], ["x"], [{}], {"x": None}, {"text": []})
"""What may stand where something else is expected."""


def _shapes(dialect: Dialect) -> Iterator[tuple[str | None, Any]]:
    """The events of the dialect's vectors, one of each shape."""
    seen = set()
    for path in sorted(VECTORS.joinpath(FOLDERS.get(dialect.name, dialect.name)).glob("*/wire.*")):
        for block in dialect.framing.splitter(10**9).feed(path.read_bytes()):
            event = dialect.framing.parse(block)
            payload = json_object(event.data)
            shape = json.dumps(
                [event.event, [[str(name), type(held[name]).__name__] for held, name in _places(payload)]]
            )
            if payload and shape not in seen:
                seen.add(shape)
                yield event.event, payload


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every place in a payload: what holds it, and under what name or number."""
    inside = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    return [*((value, name) for name, _ in inside), *(place for _, each in inside for place in _places(each))]


def _bent(payload: Any) -> Iterator[Any]:
    """The payload with something else in every one of its places, one at a time."""
    for number, _ in enumerate(_places(payload)):
        for odd in ODD:
            changed = json.loads(json.dumps(payload))
            holder, name = _places(changed)[number]
            holder[name] = odd
            yield changed


def _stumbles(speech: Speech, told: list[Fields]) -> str | None:
    try:
        json.dumps(speech.partial(listen(speech, told)))
    except Exception as error:  # noqa: BLE001 - whatever it is
        return f"{error!r}: {told[0].data}"
    return None


@pytest.mark.parametrize("dialect", SPEAKING, ids=lambda dialect: dialect.name)
def test_no_speech_stumbles_over_an_odd_event(dialect: Dialect) -> None:
    assert dialect.speech is not None
    shapes = list(_shapes(dialect))
    assert shapes
    behind = [Fields(name, json.dumps(payload), None, None) for name, payload in shapes]
    odd = [Fields(name, json.dumps(bent), None, None) for name, payload in shapes for bent in _bent(payload)]
    found = {_stumbles(dialect.speech, told) for each in odd for told in ([each], [each, *behind])}
    assert sorted(found - {None}, key=str) == []
