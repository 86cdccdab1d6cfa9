"""MCP over streamable HTTP: a POST with a JSON-RPC request, answered as an event stream that ends with the response.

Up to version 2025-11-25 a session's server may keep the events of such a stream. It then gives them ids, the first of
which stands in an event with empty data, and a GET of the same URL with ``Last-Event-ID`` goes on with that very
stream. It may close the connection whenever it likes and be asked again; closing is not cancelling. A stream that was
resumed has another such event where what was kept ends; what happened before it need not have been told, so it is no
place to go on from where there is one. Behind the response it stays open. The POST is never sent again: the tool would
run twice.

From version 2026-07-28 on there are neither sessions nor ids: closing the stream is how a request is cancelled, so one
that breaks off is lost.

A session's own GET stream, which carries what belongs to no request, is one of `last_event_id`, and so are the batches
of version 2025-03-26.
Sources: https://modelcontextprotocol.io/specification/2025-11-25/basic/transports and the same of 2026-07-28;
    mcp 2.3.0 (`client/streamable_http.py`, `server/streamable_http.py`); read and run 2026-11-22.
"""

from __future__ import annotations

import json
import re
from typing import Any

from resumable_llm.core.dialect import Facts
from resumable_llm.core.events import Fields
from resumable_llm.core.model import NOTHING, Headers, Progress, Reading, RequestPlan, to_header
from resumable_llm.dialects.event_stream import EventStream, error_text, json_object, object_in

_VERSION = "mcp-protocol-version"
_SESSION = "mcp-session-id"
_STATELESS_SINCE = "2026-07-28"
# What a client may ask for before it has a session, or without one. Others speak JSON-RPC over event streams too, and
# end them otherwise.
_METHOD = re.compile(rb'"method"\s*:\s*"(?:initialize"|(?:tools|resources|prompts|completion)/)')


class Mcp(EventStream):
    """A request of version 2025-11-25 or before."""

    name = "mcp"
    facts = Facts(
        systems="MCP servers, up to version 2025-11-25",
        resume="GET of the same URL with `Last-Event-ID` and the session's headers",
        end="the JSON-RPC response",
        closing="nothing: the request goes on",
        cancel="`notifications/cancelled`",
        kept="what the server's event store keeps; many have none",
        sources=(
            "https://modelcontextprotocol.io/specification/2025-11-25/basic/transports, 2026-11-22",
            "mcp 2.3.0, run with an event store 2026-11-22",
        ),
    )
    proves_end = True
    honours_ids = False  # the way back is a GET, whatever was asked
    keeps = (
        "an MCP server keeps a request's stream only if it has an event store, which shows in event ids, and only "
        "within a session; the answer to initialize comes before there is one"
    )

    def recognises(self, request: RequestPlan) -> bool:
        """By the headers of the protocol; without them, by the method in the body."""
        return _is_request(request) and not _is_stateless(request)

    def handle(self, request: RequestPlan, headers: Headers) -> str | None:
        """The request's JSON-RPC id, as JSON."""
        number = json_object(request.body).get("id")
        return None if number is None else json.dumps(number)

    def read(self, event: Fields) -> Reading:
        """The response."""
        if not event.data:
            return Reading(keepalive=True, resting=True)  # from here on it may close, and be asked again
        if '"result"' not in event.data and '"error"' not in event.data:
            return NOTHING
        message = json_object(event.data)
        if "method" in message or not ("result" in message or "error" in message):
            return NOTHING
        error = message.get("error")
        return Reading(terminal=True, error=None if error is None else error_text(error))

    def resume(self, progress: Progress) -> RequestPlan | None:
        """A GET, but not before the session has begun: its id was told in the answer's head."""
        request, cursor = progress.request, progress.position.last_event_id
        if not cursor or json_object(request.body).get("method") == "initialize":
            return None
        return request.get(request.url).with_headers(
            ("Accept", "text/event-stream"), ("Accept-Encoding", "identity"), ("Last-Event-ID", to_header(cursor))
        )

    def may_repeat(self, progress: Progress) -> bool:
        """Never: a tool may have been called."""
        return False

    def cancel(self, progress: Progress) -> RequestPlan | None:
        """``notifications/cancelled``, but for initialize, which must not be cancelled."""
        request = progress.request
        if progress.handle is None or json_object(request.body).get("method") == "initialize":
            return None
        params = {"requestId": json.loads(progress.handle), "reason": "the caller has cancelled it"}
        notification = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
        return request.post(request.url, json.dumps(notification).encode(), "application/json")

    def text(self, event: Fields) -> str:
        """The text of a tool's result."""
        content = object_in(json_object(event.data), "result").get("content")
        parts: list[Any] = content if isinstance(content, list) else []
        texts = (part.get("text") for part in parts if isinstance(part, dict))
        return "".join(text for text in texts if isinstance(text, str))


class McpStateless(Mcp):
    """A request of version 2026-07-28 or later."""

    name = "mcp_stateless"
    facts = Facts(
        systems="MCP servers, from version 2026-07-28 on",
        resume="it cannot be",
        end="the JSON-RPC response",
        closing="the request is cancelled",
        sources=("https://modelcontextprotocol.io/specification/2026-07-28/basic/transports, 2026-11-22",),
    )
    keeps = (
        "since version 2026-07-28 an MCP server cancels a request when its connection closes, and keeps nothing of it"
    )

    def recognises(self, request: RequestPlan) -> bool:
        """By the version in the headers."""
        return _is_request(request) and _is_stateless(request)

    def resume(self, progress: Progress) -> RequestPlan | None:
        """None."""
        return None

    def cancel(self, progress: Progress) -> RequestPlan | None:
        """None: closing the connection cancels the request."""
        return None


def _is_request(request: RequestPlan) -> bool:
    if request.method != "POST" or "text/event-stream" not in (request.header("accept") or ""):
        return False
    body = request.body or b""
    if body.lstrip()[:1] == b"[":
        return False
    if request.header(_VERSION) is not None or request.header(_SESSION) is not None:
        return True
    # The search spares parsing large bodies; an object nested in one could look the same.
    return b'"jsonrpc"' in body and _METHOD.search(body) is not None and "jsonrpc" in json_object(body)


def _is_stateless(request: RequestPlan) -> bool:
    return (request.header(_VERSION) or "") >= _STATELESS_SINCE
