"""Answers of a real model, cut at random tokens and put together again from two generations.

``python -m benchmarks.seams`` cuts answers of the demo's model (llama.cpp, temperature 0) behind a token chosen at
random, over real sockets, on a server that keeps nothing; has them repeated or continued; and compares the whole with
the same answer uncut. What is counted is how many are the same to the character, and what became of the others.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import httpx

import resumable_llm as rl
from resumable_llm.cli.llama import LlamaServer
from resumable_llm.cli.model import ensure_model
from resumable_llm.testing import Fault, FaultPlan, FaultProxy

_RESULTS = Path(__file__).parent / "SEAMS.md"
_POLICY = rl.RetryPolicy(read_timeout=60)
_TOKENS = 60
_PROMPTS = (
    "Write a few lines about a lighthouse keeper.",
    "Explain how rain forms.",
    "Write a Python function that reverses a list.",
    "List five fruits with one fact each.",
    "Tell a short story about a fox.",
    "What is 17 times 23? Explain.",
    "Write a haiku about snow.",
    "Describe the city of Paris.",
    "Give me a recipe for pancakes.",
    "Write a JSON object describing a cat.",
)


@dataclass(frozen=True)
class Case:
    """What is done.

    Attributes:
        name: In words.
        fallback: The way back.
        known: Let the server show that it is llama.cpp; otherwise it is asked in the form for servers nobody knows.
        prefill: Whether the server goes on from a partial answer.
        path: Where it is asked.
        share: How many of the answers are asked of it.
    """

    name: str
    fallback: Literal["replay", "continue"]
    known: bool = True
    prefill: bool = True
    path: str = "/v1/chat/completions"
    share: float = 0.3


CASES = (
    Case("continue, llama.cpp", "continue", share=1),
    Case("continue, as any server", "continue", known=False),
    Case("replay", "replay"),
    Case("continue, Anthropic's messages", "continue", path="/v1/messages"),
    Case("continue, a server that begins a new turn", "continue", prefill=False, path="/v1/messages"),
)


def main() -> None:
    """Measure, print, and write SEAMS.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.seams", description=__doc__)
    parser.add_argument("--answers", type=int, default=200, help="answers of the first case; of the others, a part")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", default="", help="only the cases with this in their names")
    options = parser.parse_args()
    lines = [
        "# Seams",
        "",
        f"Written by `python -m benchmarks.seams`: seed {options.seed}, "
        f"{datetime.now(tz=timezone.utc):%Y-%m-%d}. {(__doc__ or '').split(chr(10) * 2)[1]}".replace("\n", " "),
        "",
        "| case | answers | the same to the character | refused, nothing delivered of it | spliced otherwise |",
        "|---|--:|--:|--:|--:|",
    ]
    others: list[str] = []
    for case in CASES:
        if options.case in case.name:
            tally, odd = measure(case, round(options.answers * case.share), options.seed)
            refused = ", ".join(f"{count} {name}" for name, count in tally.items() if name not in ("same", "other"))
            lines.append(
                f"| {case.name} | {sum(tally.values())} | {tally['same']} | {refused or 0} | {tally['other']} |"
            )
            others += [f"- {case.name}: {each}" for each in odd]
    text = (
        "\n".join(
            [
                *lines,
                "",
                "Those that were spliced otherwise, or refused although the server goes on:",
                "",
                *(others or ["- none"]),
            ]
        )
        + "\n"
    )
    print(text)
    if not options.case:
        _RESULTS.write_text(text, encoding="utf-8")


def measure(case: Case, answers: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Cut so many answers and have them put together again.

    Returns:
        How many are the same to the character (``same``), spliced otherwise (``other``), or refused, by the error's
        name; and of those spliced otherwise, where they part.
    """
    chance, tally, odd = random.Random(seed), Counter[str](), list[str]()
    with LlamaServer(ensure_model(), prefill=case.prefill) as server:
        for number in range(answers):
            prompt = _PROMPTS[number % len(_PROMPTS)]
            whole = _ask(server.url, prompt, case)
            assert not isinstance(whole, rl.ResumableError)
            cut = chance.randrange(2, len(whole) - 2)
            with FaultProxy(server.url, FaultPlan(Fault.rst(at_event=cut))) as proxy:
                found = _ask(proxy.url, prompt, case)
            if isinstance(found, rl.ResumableError):
                assert _text(whole).startswith(found.partial_text), "something of another generation was delivered"
                tally[type(found).__mro__[1].__name__] += 1
                if case.prefill:
                    odd.append(f"refused behind {_text(whole[:cut])[-24:]!r}: {found}")
            elif _text(found) == _text(whole):
                tally["same"] += 1
            else:
                tally["other"] += 1
                odd.append(_difference(server.url, prompt, whole, found, cut))
            print(f"\r{case.name}: {dict(tally)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return tally, odd


def _ask(url: str, prompt: str, case: Case) -> list[str] | rl.ResumableError:
    """The data of an answer's events."""
    body = {
        "model": "smollm2",
        "messages": [{"role": "user", "content": prompt}],
        "stream": True,
        "max_tokens": _TOKENS,
        "temperature": 0,
    }

    def forget(request: httpx.Request) -> None:
        request.headers.pop("x-conversation-id", None)  # then the server keeps nothing

    def hide(response: httpx.Response) -> None:
        if not case.known:
            response.headers.pop("server", None)

    hooks: dict[str, list[Any]] = {"request": [forget], "response": [hide]}
    with ExitStack() as stack:
        client = stack.enter_context(httpx.Client(timeout=60, event_hooks=hooks))
        try:
            stream = stack.enter_context(
                rl.connect_sse(client, "POST", f"{url}{case.path}", json=body, policy=_POLICY, fallback=case.fallback)
            )
            return [event.data for event in stream]
        except rl.ResumableError as error:
            return error


def _deltas(data: list[str]) -> Iterator[str]:
    for each in data:
        if not each.startswith("[DONE]"):
            event = json.loads(each)
            for said in (event, *event.get("choices", ())):
                delta = said.get("delta") or {}
                yield delta.get("content") or delta.get("text") or ""


def _text(data: list[str]) -> str:
    return "".join(_deltas(data))


def _difference(url: str, prompt: str, whole: list[str], found: list[str], cut: int) -> str:
    """Where two answers part, on which side of the seam, and how close the model's choice was there."""
    one, other, before = _text(whole), _text(found), _text(whole[:cut])
    at = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    parted = f"{one[at : at + 24]!r} became {other[at : at + 24]!r} behind {one[max(at - 24, 0) : at]!r}"
    if at < len(before):
        return f"{parted}, before the seam: the server itself gave another answer"
    return f"{parted}, {at - len(before)} characters behind the seam; {_odds(url, prompt, one[:at])}"


def _odds(url: str, prompt: str, said: str) -> str:
    """The two likeliest tokens behind a text.

    A prompt that is read at once and one that is read token by token give slightly different numbers, so that a near
    tie can fall either way.
    """
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": said}]
    asked = {"messages": messages, "max_tokens": 1, "temperature": 0, "logprobs": True, "top_logprobs": 2}
    answer = httpx.post(f"{url}/v1/chat/completions", json=asked, timeout=60).json()
    first, second = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"][:2]
    ratio = math.exp(first["logprob"] - second["logprob"])
    return f"there {first['token']!r} is {ratio:.2f} times as likely as {second['token']!r}"


if __name__ == "__main__":
    main()
