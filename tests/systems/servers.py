"""Real servers of streams, written by others, each a process of its own on a free loopback port.

`with aimock() as server:` gives a server that accepts connections at `server.url` and is gone after the block, with all
processes that it started. The programs that they run are in `apps/`. Knows nothing of pytest or of our library.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from typing_extensions import Self

from tests.systems import node

APPS = Path(__file__).parent / "apps"

_ADDRESS = re.compile(rb"http://127\.0\.0\.1:[1-9]\d*")
_STARTUP_SECONDS = 60.0
_POLL_SECONDS = 0.02
_LATE = f"did not become ready within {_STARTUP_SECONDS:.0f} s"
_TAIL_LINES = 20


class ServerUnavailable(Exception):
    """A server could not be installed or did not start; the message says why, with the end of its output."""


@dataclass(frozen=True)
class Server:
    """A server that accepts connections.

    Attributes:
        url: Its address, without a slash at the end.
        pid: The process that leads its process group.
    """

    url: str
    pid: int


@contextlib.contextmanager
def langgraph() -> Iterator[Server]:
    """LangGraph's development server with the graph "speaker" of `apps/graph.py`.

    Raises:
        ServerUnavailable: It is not installed or did not start.
    """
    with tempfile.TemporaryDirectory() as folder:  # it writes its state into the folder where it is started
        graphs = {"speaker": f"{APPS / 'graph.py'}:graph"}
        Path(folder, "langgraph.json").write_text(json.dumps({"dependencies": ["."], "graphs": graphs}))
        with socket.create_server(("127.0.0.1", 0)) as free:  # it takes no port 0
            place = ["--host", "127.0.0.1", "--port", str(free.getsockname()[1])]
        options = ["--no-browser", "--no-reload", "--n-jobs-per-worker", "8", *place]
        quiet = {"LANGSMITH_TRACING": "false", "LANGGRAPH_CLI_NO_ANALYTICS": "1"}
        with _running([sys.executable, "-m", "langgraph_cli", "dev", *options], folder, quiet) as server:
            yield server


@contextlib.contextmanager
def fastresponses() -> Iterator[Server]:
    """Fastresponses, which serves the agent of `apps/agent.py` as OpenAI's Responses API.

    Raises:
        ServerUnavailable: It is not installed or did not start.
    """
    command = [sys.executable, "-m", "fastresponses.cli", "serve", f"{APPS / 'agent.py'}:agent", "--port", "0"]
    with _running(command) as server:
        yield server


@contextlib.contextmanager
def mcp() -> Iterator[Server]:
    """The MCP server of `apps/mcp_tools.py`; its endpoint is `/mcp`.

    Raises:
        ServerUnavailable: It is not installed or did not start.
    """
    with _running([sys.executable, str(APPS / "mcp_tools.py")]) as server:
        yield server


@contextlib.contextmanager
def durable_streams() -> Iterator[Server]:
    """The Durable Streams reference server, in memory; an idle reader hears from it every three seconds.

    Raises:
        ServerUnavailable: It could not be installed or did not start.
    """
    with _running_node(str(APPS / "durable.mjs")) as server:
        yield server


@contextlib.contextmanager
def aimock() -> Iterator[Server]:
    """Aimock with the answers of `apps/aimock.json`, eight characters every 20 ms.

    Raises:
        ServerUnavailable: It could not be installed or did not start.
    """
    program = "node_modules/@copilotkit/aimock/dist/cli.js"
    options = ["--port", "0", "--fixtures", str(APPS / "aimock.json"), "--latency", "20", "--chunk-size", "8"]
    with _running_node(program, *options) as server:
        yield server


@contextlib.contextmanager
def _running_node(*arguments: str) -> Iterator[Server]:
    try:
        command, folder = [str(node.find_node().program), *arguments], node.packages()
    except node.NodeUnavailable as error:
        raise ServerUnavailable(str(error)) from error
    with _running(command, str(folder)) as server:
        yield server


@contextlib.contextmanager
def _running(
    command: list[str], folder: str | None = None, environment: dict[str, str] | None = None
) -> Iterator[Server]:
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # a process group, so that whatever it starts can be ended with it
    )
    assert process.stdout is not None
    problem = None
    with process.stdout, _Output(process.stdout) as output:
        try:
            url = output.address()
            _await_listener(url, process)
            yield Server(url, process.pid)
        except _NotReady as error:
            problem = error
        finally:
            _end(process)
    if problem is not None:
        raise ServerUnavailable(f"the server {problem}. The end of its output:\n{output.tail()}") from problem


class _NotReady(Exception):
    """What a server did instead of becoming ready, as the end of a sentence."""


class _Output:
    """Reads a server's output, for a full pipe would stop it; finds the first address in it and keeps its end."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._lines: collections.deque[bytes] = collections.deque(maxlen=_TAIL_LINES)
        self._address: concurrent.futures.Future[str] = concurrent.futures.Future()
        self._thread = threading.Thread(target=self._read, name="server output", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()

    def address(self) -> str:
        """Wait until it has said where it listens."""
        try:
            return self._address.result(_STARTUP_SECONDS)
        except concurrent.futures.TimeoutError:
            raise _NotReady(_LATE) from None

    def tail(self) -> str:
        """Its last lines, once it has ended."""
        return b"".join(self._lines).decode("utf-8", "replace").strip()

    def _read(self) -> None:
        for line in self._stream:
            self._lines.append(line)
            found = _ADDRESS.search(line)
            if found and not self._address.done():
                self._address.set_result(found[0].decode())
        if not self._address.done():
            self._address.set_exception(_NotReady("ended before it was ready"))


def _await_listener(url: str, process: subprocess.Popen[bytes]) -> None:
    # Some say where they will be before they are there.
    address = urlsplit(url)
    late = time.monotonic() + _STARTUP_SECONDS
    while time.monotonic() < late:
        if process.poll() is not None:
            raise _NotReady(f"ended with status {process.returncode} before it was ready")
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection((str(address.hostname), address.port or 0), timeout=_STARTUP_SECONDS).close()
            return
        time.sleep(_POLL_SECONDS)
    raise _NotReady(_LATE)


def _end(process: subprocess.Popen[bytes]) -> None:
    if sys.platform == "win32":
        process.kill()
    else:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
