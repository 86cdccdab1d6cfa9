"""A server that keeps nothing, and a connection that breaks: the model is asked to go on, and where it did is shown.

    python examples/continue_after_a_drop.py http://127.0.0.1:8080/v1/chat/completions "Tell me a story."

The drop is made here, by a proxy that cuts the first connection. A llama.cpp server would keep the answer, and the
drop would be hidden; so that there is a seam to see, its name is hidden instead. What a server does not keep is asked
for a second time, and paid for: that is why it has to be allowed.
"""

from __future__ import annotations

import sys
from urllib.parse import urlsplit

import httpx

import resumable_llm as rl
from resumable_llm.testing import Fault, FaultPlan, FaultProxy


class KeepsNothing(httpx.HTTPTransport):
    """Makes llama.cpp look like any other server."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        response.headers.pop("server", None)
        return response


def tell(notice: rl.Notice) -> None:
    print(f"\n[{notice.kind}] {notice.reason}".rstrip(), file=sys.stderr)


if __name__ == "__main__":
    url, prompt = sys.argv[1:]
    parts = urlsplit(url)
    asked = {"messages": [{"role": "user", "content": prompt}], "stream": True, "max_tokens": 120, "temperature": 0}
    with (
        FaultProxy(f"{parts.scheme}://{parts.netloc}", FaultPlan(Fault.rst(at_event=20))) as proxy,
        httpx.Client(transport=KeepsNothing(), timeout=60) as client,
    ):
        stream = rl.connect_sse(
            client,
            "POST",
            proxy.url + parts.path,
            json=asked,
            fallback=("continue", "replay"),  # tried in this order
            can_continue=True,  # llama.cpp can; left out, it would be tried first
            on_event=tell,
        )
        try:
            with stream:
                for text in stream.text_deltas():
                    print(text, end="", flush=True)
        except rl.StreamInterrupted as error:
            print(f"\n\nThe answer broke off: {error}\nThe message so far: {error.partial}", file=sys.stderr)
            raise SystemExit(1) from None
    report = stream.report
    print(f"\n\n{report.fidelity}, {report.summary()}", file=sys.stderr)
    for seam in report.seams:
        print(f"{seam.way} behind {seam.characters} characters", file=sys.stderr)
