"""A process that forks others, each of which makes one call and may die: without the price of its imports."""

from __future__ import annotations

import json
import subprocess
import sys
from types import TracebackType
from typing import Any

from typing_extensions import Self

_FORKS = """
import json, os, sys

for line in sys.stdin:
    got, out = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            perform(json.loads(line), out)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    os.close(out)
    with open(got, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(child, 0)
    print(json.dumps({"data": data.decode(), "code": os.waitstatus_to_exitcode(status)}), flush=True)
"""


class Zygote:
    """The process, for `with`.

    Args:
        program: Imports what calls need, and defines ``perform(job, out)``, which makes one and writes to the file
            descriptor ``out`` what came of it.
        *args: The program's arguments.
    """

    def __init__(self, program: str, *args: str) -> None:
        command = [sys.executable, "-c", program + _FORKS, *args]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.__exit__(kind, error, trace)

    def run(self, **job: Any) -> tuple[str, int]:
        """Have a call made in a process of its own: what it has written, and its exit code."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(json.dumps(job) + "\n")
        self._child.stdin.flush()
        told = json.loads(self._child.stdout.readline())
        return told["data"], told["code"]
