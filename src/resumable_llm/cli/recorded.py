"""A recorded answer of llama.cpp and a small local server that plays it back, for the demo without a model.

The files in recording/ are whole answers of llama.cpp's server as it sent them. The player keeps each conversation and
hands out its bytes from any offset, as that server does. Knows nothing of clients or of the demo.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
import time
import urllib.parse
from dataclasses import dataclass
from importlib import resources
from types import TracebackType
from typing import cast

from typing_extensions import Self

RECORDINGS = {"/v1/chat/completions": "chat.sse", "/v1/responses": "responses.sse"}

_EVENT_SECONDS = 0.02


@dataclass(frozen=True)
class _Conversation:
    events: list[bytes]
    began: float

    def due(self, number: int) -> float:
        """When this event, counted from 0, becomes readable, on the monotonic clock."""
        return self.began + (number + 1) * _EVENT_SECONDS


def recorded_events(path: str) -> list[bytes]:
    """The recorded answer for a request path, as whole SSE events."""
    body = resources.files("resumable_llm.cli").joinpath("recording").joinpath(RECORDINGS[path]).read_bytes()
    return [event + b"\n\n" for event in body.split(b"\n\n")[:-1]]


class RecordedServer:
    """Plays the recordings on a loopback port inside a `with` block; `url` is its address."""

    url: str

    def __enter__(self) -> Self:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[http.server.BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self.conversations: dict[str, _Conversation] = {}


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # The recording is that server's, and clients know its way to resume by this name.
    server_version, sys_version = "llama.cpp", ""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path in RECORDINGS:
            conversation = _Conversation(recorded_events(self.path), time.monotonic())
            if name := self.headers.get("X-Conversation-Id"):
                self.conversations[name] = conversation
            self._play(conversation, start=0)
        else:
            self._answer_json(404, {"error": {"code": 404, "message": "File Not Found"}})

    def do_GET(self) -> None:
        target = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(target.query))
        if target.path == "/v1/models":
            self._answer_json(200, {"object": "list", "data": [{"id": "recording", "object": "model"}]})
        elif target.path == "/v1/stream" and (kept := self.conversations.get(query.get("conv_id", ""))):
            self._play(kept, start=int(query.get("from", 0)))
        else:
            self._answer_json(404, {"error": {"code": 404, "message": "Stream not found or expired"}})

    def _answer_json(self, status: int, answer: object) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _play(self, conversation: _Conversation, *, start: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        skip = start
        for number, event in enumerate(conversation.events):
            if rest := event[skip:]:
                time.sleep(max(0.0, conversation.due(number) - time.monotonic()))
                self.wfile.write(b"%x\r\n%s\r\n" % (len(rest), rest))
            skip = max(0, skip - len(event))
        self.wfile.write(b"0\r\n\r\n")

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # the reader has gone; the conversation stays
            super().handle()

    @property
    def conversations(self) -> dict[str, _Conversation]:
        return cast(_Server, self.server).conversations

    def version_string(self) -> str:
        return self.server_version

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: stdout and stderr belong to the demo."""
