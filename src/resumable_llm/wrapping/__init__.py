"""`wrap`: finds the HTTP client inside an SDK's client and puts a resumable transport into a copy of it.

The copies share connections, cookies and everything else with the originals, which stay as they were. What an SDK
does with its HTTP client was read in the SDKs named in the modules beside, one for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, cast

from resumable_llm.core.model import Fallback
from resumable_llm.drivers.exchange import OnEvent
from resumable_llm.drivers.handle import AsyncHandle, Handle
from resumable_llm.policy import RetryPolicy
from resumable_llm.transports.call import HANDLE, Owner, ways_of
from resumable_llm.transports.shelf import AnyJournal
from resumable_llm.wrapping import clients, http, langchain, pydantic_ai

ClientT = TypeVar("ClientT")


def wrap(
    client: ClientT,
    *,
    policy: RetryPolicy | None = None,
    fallback: Fallback | Sequence[Fallback] | None = None,
    can_continue: bool | None = None,
    upgrade: bool = False,
    relay: str | None = None,
    journal: AnyJournal = None,
    on_event: OnEvent | None = None,
) -> ClientT:
    """Return a copy of a client whose event streams survive dropped connections.

    Args:
        client: An SDK's client: of openai, anthropic, groq and others that Stainless generated, of mistralai,
            google-genai, cohere, ollama, langgraph-sdk or huggingface_hub; a chat model of LangChain or a model of
            Pydantic AI; or a bare ``Client`` or ``AsyncClient`` of httpx or httpx2.
        policy: When to try again, and how long to wait for what; default: `RetryPolicy()`.
        fallback: What to do when an answer breaks off that the server did not keep: ``"replay"`` sends the same request
            again and compares, ``"continue"`` has the model go on from what it said, a tuple of both tries them in
            order. Each is paid for; the report's ``fidelity`` says what came of it. None: `CannotResume`.
        can_continue: For ``"continue"``: whether the model goes on from a partial answer that it is given. None: go by
            a table of models, and where that says nothing, try only where a server that does not would be recognised.
        upgrade: Make requests resumable before they are sent, where their protocol knows how; the table of dialects
            says what that adds to a request, what the provider then keeps, and for how long. A request that asks for
            the opposite is refused with `UpgradeRefused`; others pass as they are.
        relay: The URL of a relay that stands in front of the client's provider: calls for event streams are sent there,
            as they are, with the caller's credentials, and survive there; all else goes directly. ``"local"``: one of
            your own, on this machine, started when it is needed. There is no way around a relay that cannot be reached.
        journal: A path, or a store of `resumable_llm.log`, where answers are kept on this side. A call that is made
            again, with an ``Idempotency-Key`` of its caller's and the same request, in this process or another, is
            given what was received, and then the rest. Calls without a key of their own are not kept.
        on_event: Called with a `Notice` when something happens to a stream: a drop, a way back, the end.

    Returns:
        A client of the same type. The original is untouched and shares its connections with the copy. Closing the copy
        closes them if the original is used no more; closing the original closes them at once.

    Raises:
        ValueError: ``fallback`` names no way that there is, or ``relay`` is no URL of a relay.
        ModuleNotFoundError: A local relay needs packages that are not installed.
        TypeError: It is no client that this version knows, or one that cannot be watched over, or ``policy`` is no
            `RetryPolicy`, or ``journal`` neither a path nor a store; the message says what to do.
        LogError: The journal cannot be opened, or another process has it open; of `resumable_llm.log`.
    """
    options = {
        "policy": policy,
        "fallback": ways_of(fallback),
        "can_continue": can_continue,
        "upgrade": upgrade,
        "relay": relay,
        "journal": journal,
        "on_event": on_event,
    }

    if isinstance(client, type):
        raise TypeError(f"cannot wrap the class {client.__qualname__}: pass an instance of it, a client that is made")

    def around(http_client: Any, owner: Owner | None = None) -> Any:
        return http.copied(http_client, options, owner)

    for library in (langchain, pydantic_ai):
        if library.wraps(client):
            return cast(ClientT, library.copied(client, around))
    return cast(ClientT, clients.copied(client, around))


def inspect(stream: Any) -> Handle | AsyncHandle:
    """The handle of a stream that a wrapped client opened: checkpoint, report, cancel.

    Args:
        stream: An SDK's stream or response, or a response of httpx or httpx2.

    Raises:
        TypeError: No response is found in it, or nothing watches over that response.
    """
    for path in ("", "response", "_response", "_raw_stream.response", "http_response"):
        found = stream
        for name in filter(None, path.split(".")):
            found = getattr(found, name, None)
        handle = getattr(found, "extensions", {}).get(HANDLE)
        if isinstance(handle, (Handle, AsyncHandle)):
            return handle
    raise TypeError(
        f"nothing watches over this {type(stream).__name__}: it must come from a client that rl.wrap returned, and "
        "show its response; where an SDK hides that, use on_event="
    )
