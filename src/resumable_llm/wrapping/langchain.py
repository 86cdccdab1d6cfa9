"""LangChain's chat models of OpenAI, Anthropic and Google: copies of the models, around copies of the SDKs' clients.

Read in langchain-openai 1.7, langchain-anthropic 1.7 and langchain-google-genai 4.4, 2026-11-22.
"""

from __future__ import annotations

from typing import Any

from resumable_llm.wrapping import google, stainless
from resumable_llm.wrapping.common import Around, base_of, owner_of, prove


def wraps(client: object) -> bool:
    """Whether it is such a model, or one of a class derived from it."""
    return (
        base_of(client, "langchain_openai", "BaseChatOpenAI") is not None
        or base_of(client, "langchain_anthropic", "ChatAnthropic") is not None
        or base_of(client, "langchain_google_genai", "ChatGoogleGenerativeAI") is not None
    )


def copied(client: Any, around: Around) -> Any:
    """A copy of the model that watches over its streams."""
    if base_of(client, "langchain_openai", "BaseChatOpenAI"):
        return _openai(client, around)
    if base_of(client, "langchain_anthropic", "ChatAnthropic"):
        return _anthropic(client, around)
    return _google(client, around)


def _openai(model: Any, around: Around) -> Any:
    made = model.model_copy()
    for root, completions in (("root_client", "client"), ("root_async_client", "async_client")):
        sdk = getattr(model, root) or getattr(getattr(model, completions), "_client", None)
        if sdk is None:
            continue  # there is none of this colour: no key for it
        sdk = stainless.copied(sdk, around)
        setattr(made, root, sdk)
        setattr(made, completions, sdk.chat.completions)
        prove(made, f"{completions}._client._client", sdk._client)
    return made


def _anthropic(model: Any, around: Around) -> Any:
    made = model.model_copy()
    for name in ("_client", "_async_client"):
        sdk = stainless.copied(getattr(model, name), around)
        vars(made)[name] = sdk  # where its cached_property looks first
        prove(made, f"{name}._client", sdk._client)
    return made


def _google(model: Any, around: Around) -> Any:
    # A finalizer, not of the model but of what the models that share a client hold together, closes the client.
    sdk = google.copied(model.client, around, owner_of(model, model.client._api_client._httpx_client))
    made = model.model_copy(update={"client": sdk})
    cleanup = getattr(model, "_client_cleanup", None)
    if cleanup is not None:
        made._client_cleanup = type(cleanup)(sdk)
    prove(made, "client._api_client._httpx_client", sdk._api_client._httpx_client)
    return made
