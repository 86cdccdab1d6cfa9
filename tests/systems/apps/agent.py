"""A Pydantic AI agent that says what the prompt tells it to, word by word.

The prompt is JSON: `{"say": "some words", "seconds": 0.01, "fail_at": 3}`. `seconds` is the pause before each word, and
`fail_at` the number of the word in whose place the model breaks down, counted from 0; both may be left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator

import anyio
from pydantic_ai import Agent, ModelMessage, ModelRequest, UserPromptPart
from pydantic_ai.models.function import AgentInfo, FunctionModel


async def speak(messages: list[ModelMessage], _: AgentInfo) -> AsyncIterator[str]:
    """Say it."""
    wanted = json.loads(_prompt(messages))
    for number, word in enumerate(re.findall(r"\s*\S+", wanted["say"])):
        await anyio.sleep(wanted.get("seconds", 0.01))
        if number == wanted.get("fail_at"):
            raise RuntimeError("the model broke down")
        yield word


def _prompt(messages: list[ModelMessage]) -> str:
    last = messages[-1]
    assert isinstance(last, ModelRequest)
    (content,) = (part.content for part in last.parts if isinstance(part, UserPromptPart))
    return content if isinstance(content, str) else "".join(part for part in content if isinstance(part, str))


agent = Agent(FunctionModel(stream_function=speak))
