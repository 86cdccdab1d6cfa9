"""What one would write first: Starlette in front of httpx. Keeps nothing."""

from __future__ import annotations

import os

import httpx
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

_UPSTREAM = os.environ["UPSTREAM"]
_client = httpx.AsyncClient(timeout=None, limits=httpx.Limits(max_connections=None))


async def _forward(request: Request) -> StreamingResponse:
    headers = {name: value for name, value in request.headers.items() if name not in ("host", "content-length")}
    upward = _client.build_request(
        request.method, _UPSTREAM + request.url.path, content=await request.body(), headers=headers
    )
    response = await _client.send(upward, stream=True)
    return StreamingResponse(
        response.aiter_raw(),
        status_code=response.status_code,
        media_type=response.headers["content-type"],
        background=BackgroundTask(response.aclose),
    )


app = Starlette(routes=[Route("/{path:path}", _forward, methods=["GET", "POST"])])
