"""llama.cpp's own HTTP server, run as a separate process on a free loopback port.

`python -m resumable_llm.cli.llama MODEL` is the child; `LlamaServer` starts, awaits and ends it. Knows nothing of the
demo, of clients or of streams.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import IO, cast

from typing_extensions import Self

ALIAS = "smollm2"

_LOG_TAIL_BYTES = 2000
_GRACE_SECONDS = 2.0


class LlamaUnavailable(Exception):
    """llama.cpp's server is not installed or did not start; the message says why and what can be done."""


class LlamaServer:
    """llama.cpp's server for one model, ready for requests inside a `with` block and gone after it.

    Args:
        model: Path of the model file (GGUF).
        startup_seconds: How long it may take to load the model.
        prefill: Go on from a partial answer; if not, one is taken for a whole one, and the model begins a new turn.

    Raises:
        LlamaUnavailable: On entering, when it is not installed or did not become ready; with the end of its log.
    """

    url: str

    def __init__(self, model: Path, *, startup_seconds: float = 60.0, prefill: bool = True) -> None:
        self._arguments = [str(model), *([] if prefill else ["--no-prefill-assistant"])]
        self._startup_seconds = startup_seconds

    def __enter__(self) -> Self:
        if importlib.util.find_spec("xllamacpp") is None:
            raise LlamaUnavailable("llama.cpp's server is not installed: pip install xllamacpp")
        self._log: IO[bytes] = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "resumable_llm.cli.llama", *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,  # Ctrl-C is for the demo, which then ends this process itself
        )
        try:
            self.url = self._await_address()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def _await_address(self) -> str:
        too_late = threading.Timer(self._startup_seconds, self._process.kill)
        too_late.start()
        try:
            for line in cast(IO[bytes], self._process.stdout):  # ends with the child, by itself or by the timer
                with contextlib.suppress(ValueError, TypeError, KeyError):
                    return str(json.loads(line)["url"])
        finally:
            too_late.cancel()
        self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, self._log.tell() - _LOG_TAIL_BYTES))
        tail = self._log.read().decode("utf-8", "replace").strip()
        raise LlamaUnavailable(f"llama.cpp's server did not become ready. The end of its log:\n{tail}")

    def _end(self) -> None:
        cast(IO[bytes], self._process.stdin).close()  # the child's sign to go
        try:
            self._process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            if sys.platform == "win32":
                self._process.kill()
            else:
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        cast(IO[bytes], self._process.stdout).close()
        self._log.close()


def serve(model: str, *, prefill: bool) -> None:
    """Serve a model on a free loopback port, print the address as a line of JSON, and go when stdin ends.

    Waiting on stdin ties the server to whoever started it: the pipe closes even when that process is killed.

    Args:
        model: Path of the model file (GGUF).
        prefill: As `LlamaServer` has it.
    """
    xllamacpp = importlib.import_module("xllamacpp")
    # Its threads wait for each other at every step of every token: with one for each core, a single busy neighbour, and
    # the demo is one, makes it seven times slower (two cores, 2026-11-22). A model this small has no use for many.
    threads = min(max((os.cpu_count() or 1) - 1, 1), 4)
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.model_alias = [ALIAS]  # else the file's path is in every event
    params.hostnames = ["127.0.0.1"]
    params.port = 0  # the system picks a free port, so none can be taken in between
    params.n_ctx = 8192
    params.n_parallel = 4  # slots share n_ctx: two streams side by side, and a spare for each that was cut and goes on
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    params.warmup = False
    params.prefill_assistant = prefill
    server = xllamacpp.Server(params)
    print(json.dumps({"url": server.listening_address}), flush=True)
    sys.stdin.buffer.read()
    os._exit(0)  # the server's own shutdown waits for running generations


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m resumable_llm.cli.llama", description=serve.__doc__)
    parser.add_argument("model")
    parser.add_argument("--no-prefill-assistant", action="store_true")
    options = parser.parse_args()
    serve(options.model, prefill=not options.no_prefill_assistant)
