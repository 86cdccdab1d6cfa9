"""An answer that outlives its reader: kill this program while it prints, start it again, and it goes on.

    python examples/resume_in_another_process.py http://127.0.0.1:8080/v1/chat/completions checkpoint.json

The place is saved before an event is printed: if the program dies in between, that one event is not printed again. To
print it twice rather than not at all, save afterwards; to have it exactly once, save the place together with the text.
"""

from __future__ import annotations

import sys
from pathlib import Path

import httpx

import resumable_llm as rl

url, file = sys.argv[1], Path(sys.argv[2])
new = file.with_suffix(".new")
question = {"messages": [{"role": "user", "content": "Tell me a story."}], "stream": True}

with httpx.Client(timeout=60) as client:
    if file.exists():
        stream = rl.resume_sse(client, rl.Checkpoint.from_json(file.read_text()))
    else:
        stream = rl.connect_sse(client, "POST", url, json=question)
    with stream:
        for text in stream.text_deltas():
            new.write_text(stream.checkpoint.to_json())
            new.replace(file)  # at once: to be killed while the file is written costs nothing
            print(text, end="", flush=True)
print()
file.unlink()
