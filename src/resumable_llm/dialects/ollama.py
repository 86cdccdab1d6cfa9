"""Ollama's own API: a JSON object a line.

Streams unless the request says ``"stream": false``. Ends with the line that says ``"done": true``, or with one that
has nothing but an ``error``. Nothing is kept on the server, and generation stops when the connection is closed. Its
chat completions are those of `openai_chat`.
Sources: ollama 0.6.3 (`_client.py`, `_types.py`), ollama/ollama `server/routes.go`, `api/types.go`; read 2026-11-22.
"""

from __future__ import annotations

import re

from resumable_llm.core.dialect import Dialect, Facts
from resumable_llm.core.events import Fields
from resumable_llm.core.framing import EVENT_STREAM, JSON_LINES
from resumable_llm.core.model import NOTHING, Headers, Reading, RequestPlan
from resumable_llm.dialects.event_stream import AnyEventStream, EventStream, json_object, object_in
from resumable_llm.dialects.failures import failure
from resumable_llm.dialects.speech.ollama import OllamaSpeech

_PATHS = ("/api/chat", "/api/generate")
_MODEL = re.compile(rb'"model"\s*:\s*"')
_NO_STREAM = re.compile(rb'"stream"\s*:\s*false')
# Inside a JSON string the quotes would be escaped; an object nested in the line could have a field of these names.
_TELLING = re.compile(r'"(?:done"\s*:\s*true|error")')


class Ollama(EventStream):
    """``POST …/api/chat`` and ``POST …/api/generate``."""

    name = "ollama"
    facts = Facts(
        systems="Ollama's own API",
        resume="it cannot be",
        end='the line with `"done": true`',
        closing="generation stops",
        sources=(
            "ollama 0.6.3, _client.py, 2026-11-22",
            "https://github.com/ollama/ollama, server/routes.go, 2026-11-22",
        ),
    )
    framing = JSON_LINES
    proves_end = True
    speech = OllamaSpeech()
    # As the server writes them: what ends in two braces is nested, and is read.
    ordinary = re.compile(rb'(?:\{"model":(?!.*"error").*,"done":false\}\n)+')
    keeps = "Ollama keeps nothing of an answer"

    def recognises(self, request: RequestPlan) -> bool:
        """By path, unless the request asks for no stream; it must name a model, for other servers have such paths."""
        body = request.body
        if request.method != "POST" or not request.path.endswith(_PATHS) or not body or not _MODEL.search(body):
            return False
        # The search spares parsing bodies with images; a tool's arguments could have a field of this name.
        return _NO_STREAM.search(body) is None or json_object(body).get("stream") is not False

    def answered_by(self, request: RequestPlan, headers: Headers) -> Dialect:
        """Another product, with such a path of its own, if it answers with an event stream."""
        other = EVENT_STREAM.announced_by(headers.get("content-type", ""))
        return AnyEventStream() if other else self

    def read(self, event: Fields) -> Reading:
        """``"done": true``, or an error."""
        if not _TELLING.search(event.data or ""):
            return NOTHING
        line = json_object(event.data)
        if line.get("error"):
            return failure(line["error"])
        return Reading(terminal=line.get("done") is True)

    def text(self, event: Fields) -> str:
        """The message's content, or the response; neither thinking nor tool calls."""
        line = json_object(event.data)
        return str(object_in(line, "message").get("content") or line.get("response") or "")
