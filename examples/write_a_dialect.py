"""A dialect for a gateway of your own, here one that numbers its events in their data and keeps them under an id.

    python examples/write_a_dialect.py http://127.0.0.1:9000/answers "Tell me a story."

The gateway answers POST /answers with events such as {"answer": "a1", "n": 0, "text": "Once"}, the last of them with
"done": true; and GET /answers/a1?after=4 with what follows number 4. DELETE /answers/a1 stops it.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import httpx

import resumable_llm as rl
from resumable_llm.dialects import EventStream, Fields, Progress, Reading, RequestPlan


class Gateway(EventStream):
    name = "my_gateway"
    proves_end = True  # an end without the event that `read` calls terminal is a drop
    ordinary = re.compile(
        rb'(?:data: \{"answer": "\w+", "n": \d+, "text": "[^"]*"\}\n\n)+'
    )  # `read` is spared these ...
    sequence_key = b'"n": '  # ... but for their number
    keeps = "the gateway keeps an answer for an hour"

    def recognises(self, request: RequestPlan) -> bool:
        return request.method == "POST" and request.path.endswith("/answers")

    def read(self, event: Fields) -> Reading:
        said: dict[str, Any] = json.loads(event.data or "{}")
        return Reading(sequence=said.get("n"), handle=said.get("answer"), terminal=said.get("done", False))

    def resume(self, progress: Progress) -> RequestPlan | None:
        if progress.handle is None or progress.position.sequence is None:
            return None
        return progress.request.get(f"{progress.request.path}/{progress.handle}", after=progress.position.sequence)

    def cancel(self, progress: Progress) -> RequestPlan | None:
        if progress.handle is None:
            return None
        url = f"{progress.request.url}/{progress.handle}"
        return RequestPlan("DELETE", url, progress.request.get(url).headers)

    def text(self, event: Fields) -> str:
        return str(json.loads(event.data or "{}").get("text", ""))


if __name__ == "__main__":
    url, prompt = sys.argv[1:]
    asked = {"json": {"prompt": prompt}}
    with httpx.Client() as client, rl.connect_sse(client, "POST", url, **asked, dialect=Gateway()) as sse:
        for text in sse.text_deltas():
            print(text, end="", flush=True)
    print(f"\n{sse.report.summary()}", file=sys.stderr)
