"""The SDKs whose clients are known, one module each. Adding one: a module, and a line in `CLIENTS`."""

from __future__ import annotations

from typing import Any, Protocol

from resumable_llm.wrapping import cohere, google, http, huggingface, langgraph, mistral, ollama, stainless
from resumable_llm.wrapping.common import Around, kind_of


class _Known(Protocol):
    def wraps(self, client: object) -> bool: ...

    def copied(self, client: Any, around: Around) -> Any: ...


# Stainless last: it goes by looks, not by name.
CLIENTS: tuple[_Known, ...] = (mistral, google, cohere, ollama, langgraph, huggingface, stainless)
"""In the order in which they are asked whether they know a client."""


def copied(client: Any, around: Around) -> Any:
    """A copy of a client that watches over its streams.

    Raises:
        TypeError: It is no client that is known, or one that cannot be wrapped.
    """
    if http.wraps(client):
        return around(client)
    for sdk in CLIENTS:
        if sdk.wraps(client):
            return sdk.copied(client, around)
    raise TypeError(
        f"cannot wrap {kind_of(client)}: pass a client of openai, anthropic, groq or another SDK made by Stainless, of "
        "mistralai, google-genai, cohere, ollama, langgraph-sdk or huggingface_hub, a model of LangChain or Pydantic "
        "AI, or an httpx or httpx2 client. An SDK that takes an HTTP client or a transport can be given one: "
        "rl.wrap(httpx.Client()), rl.httpx.ResumableTransport(httpx.HTTPTransport())"
    )
