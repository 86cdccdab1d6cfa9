"""A real language model that is asked to go on from a partial answer, as the example does it, over a cut socket."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import pytest

import resumable_llm as rl

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "continue_after_a_drop.py"
PROMPT = "Tell me a story."


def test_a_model_goes_on_from_where_it_was_cut(llama: str) -> None:
    url = f"{llama}/v1/chat/completions"
    command = [sys.executable, str(EXAMPLE), url, PROMPT]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    asked = {
        "messages": [{"role": "user", "content": PROMPT}],
        "stream": True,
        "max_tokens": 120,
        "temperature": 0,
    }
    with httpx.Client(timeout=60) as client, rl.connect_sse(client, "POST", url, json=asked) as stream:
        whole = "".join(stream.text_deltas())
    seam = int(done.stderr.partition("[seam] continue behind ")[2].partition(" ")[0])
    assert 0 < seam < len(whole)
    # What comes behind the seam is the model's affair: tokens are cut otherwise where a text is read and not generated.
    assert done.stdout.startswith(whole[:seam])
    assert len(done.stdout) > 2 * seam
    assert whole[:seam].strip() not in done.stdout[seam:]
    assert "continued, 2 requests" in done.stderr
