"""The official openai client, wrapped: drops are told on stderr, the answer on stdout never shows them.

    OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=none python examples/wrap_openai.py "Tell me a story."

A llama.cpp server keeps its answers, so every drop is hidden; with a server that keeps nothing, a drop ends with what
was received.
"""

from __future__ import annotations

import sys

from openai import APIConnectionError, OpenAI

import resumable_llm as rl

client = rl.wrap(OpenAI(), on_event=lambda notice: print(f"[{notice.kind}] {notice.reason}".rstrip(), file=sys.stderr))
stream = client.chat.completions.create(
    model="default", messages=[{"role": "user", "content": " ".join(sys.argv[1:]) or "Hello!"}], stream=True
)
handle = rl.inspect(stream)
try:
    for chunk in stream:
        for choice in chunk.choices:
            print(choice.delta.content or "", end="", flush=True)
except APIConnectionError as error:
    if not isinstance(error.__cause__, rl.StreamInterrupted):
        raise
    print(f"\n\nThe answer broke off: {error.__cause__}", file=sys.stderr)
print()
print(handle.report, file=sys.stderr)
