"""Our relay as an application that somebody serves with uvicorn's own defaults: WebSockets deflate."""

from __future__ import annotations

import os

from resumable_llm.log.memory import MemoryStore
from resumable_llm.relay import Relay, RelaySettings

app = Relay(RelaySettings(upstream=os.environ["UPSTREAM"]), MemoryStore())
