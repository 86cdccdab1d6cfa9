"""What is in deploy/: a real nginx with our configuration before real relays, the other files held to the command."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from typing_extensions import Self

from tests.relay.serve import AUTH, CHAT, CHAT_PATH, Gate, datas
from tests.sockets import wire
from tests.sockets.scripted import Answer, Request, Scripted
from tests.systems.absent import skip_and_tell

DEPLOY = Path(__file__).parents[2] / "deploy"
SITE = DEPLOY / "nginx.conf"
WHOLE = wire.blocks(wire.chat())
DATA = [event.data for event in wire.chat()]
KEYED = {"idempotency-key": "k1"}

_AROUND = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/errors.log crit;
{user}
events {{ worker_connections 256; }}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/site.conf;
}}
"""


class Relay:
    """The command `relay` in a process of its own, for `with`.

    Args:
        upstream: What it stands in front of.
        options: More options.
    """

    def __init__(self, upstream: Scripted, *options: str) -> None:
        self._command = [sys.executable, "-m", "resumable_llm", "relay", "--port", "0", "--upstream", upstream.url]
        self._command += options

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        said = self.process.stderr.readline()
        found = re.search(r"http://(\S+:\d+)", said)
        assert found, said + self.process.stderr.read()
        self.address = found[1]
        self._drain = ThreadPoolExecutor(1)
        self._said = self._drain.submit(self.process.stderr.read)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.said = self._said.result(30)
        self._drain.shutdown()
        self.process.wait(30)
        assert self.process.stderr is not None
        self.process.stderr.close()

    def kill(self) -> None:
        """End it without a word."""
        self.process.kill()
        self.process.wait(30)


@dataclass
class Site:
    """nginx, and what it writes."""

    url: str
    folder: Path

    def client(self, **headers: str) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={**AUTH, **headers}, timeout=20)


Front = Callable[[str, str], Site]


@pytest.fixture
def front(tmp_path: Path, pytestconfig: pytest.Config) -> Iterator[Front]:
    """Starts nginx with our configuration in front of two addresses."""
    with skip_and_tell(pytestconfig, "nginx", FileNotFoundError):
        program = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
        if program is None:
            raise FileNotFoundError("there is no nginx; on Debian and Ubuntu: apt-get install nginx-light")
    with ExitStack() as stack:
        yield lambda first, second: stack.enter_context(served(program, tmp_path, first, second))


@contextmanager
def served(program: str, folder: Path, first: str, second: str) -> Iterator[Site]:
    listener = listening()
    host, port = listener.getsockname()
    text = SITE.read_text(encoding="utf-8")
    changes = {"relay-a:8787": first, "relay-b:8787": second, "listen 8080": f"listen {host}:{port}"}
    for old, new in {**changes, "/var/log/nginx": str(folder)}.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "site.conf").write_text(text, encoding="utf-8")
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(_AROUND.format(folder=folder, user=user), encoding="utf-8")
    command = [program, "-p", str(folder), "-c", str(folder / "nginx.conf")]
    # It takes over a socket that listens already, so nobody has to wait until it does.
    environment = {**os.environ, "NGINX": f"{listener.fileno()};"}
    with listener:
        process = subprocess.Popen(command, env=environment, pass_fds=[listener.fileno()])
    try:
        yield Site(f"http://{host}:{port}", folder)
    finally:
        process.terminate()
        process.wait(20)


def listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0), backlog=128)


def nobody() -> str:
    """An address at which nobody listens."""
    with listening() as taken:
        return f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.parametrize("headers", [{}, KEYED, {"cache-control": "no-store"}], ids=["plain", "keyed", "not kept"])
def test_events_come_as_they_are_said(headers: dict[str, str], front: Front) -> None:
    with Gate() as gate, Scripted(lambda _: gate.between(WHOLE[:2], WHOLE[2:])) as upstream, Relay(upstream) as relay:
        site = front(relay.address, nobody())
        with site.client(**headers) as client, client.stream("POST", CHAT_PATH, json=CHAT) as answer:
            pieces = answer.iter_raw()
            said = b""
            while len(datas(said)) < 2:
                said += next(pieces)
            gate.open()
            assert datas(said + b"".join(pieces)) == DATA


def test_relay_that_cannot_be_reached_costs_nobody_an_answer(front: Front) -> None:
    with Scripted(rest=lambda _: Answer(WHOLE)) as upstream, Relay(upstream) as relay:
        site = front(nobody(), relay.address)
        with site.client() as client:
            for _ in range(4):
                assert datas(client.post(CHAT_PATH, json=CHAT).content) == DATA
    assert len(upstream.requests) == 4


@pytest.mark.parametrize("headers", [{}, KEYED], ids=["without a key", "with a key"])
def test_relay_that_dies_before_it_answers(headers: dict[str, str], front: Front) -> None:
    began = threading.Event()

    def answer_never(request: Request) -> Answer:
        began.set()
        return gate.answer(request)

    with (
        Gate(WHOLE) as gate,
        Scripted(answer_never) as first,
        Scripted(rest=lambda _: Answer(WHOLE)) as second,
        Relay(first) as dies,
        Relay(second) as lives,
        ThreadPoolExecutor(1) as pool,
    ):
        site = front(dies.address, lives.address)
        with site.client(**headers) as client:
            asked = pool.submit(client.post, CHAT_PATH, json=CHAT)
            assert began.wait(20)
            dies.kill()
            answer = asked.result(20)
        gate.open()
    if headers:
        assert datas(answer.content) == DATA
    else:
        assert answer.status_code == 502
    assert len(second.requests) == bool(headers)


@pytest.mark.parametrize("headers", [{}, KEYED], ids=["without a key", "with a key"])
def test_target_and_body_are_not_touched(headers: dict[str, str], front: Front) -> None:
    target = "/v1/a%2Fb%20c/%C3%A4//d?x=1%2F2&key=s3cret"
    with Scripted(Answer(WHOLE)) as upstream, Relay(upstream) as relay:
        site = front(relay.address, relay.address)
        with site.client(**headers) as client:
            answer = client.post(target, content=b"x" * 1_000_000)
            client.get("/_health")  # on the same connection: what was before is in the log by now
        assert answer.headers["location"].startswith("/_streams/")
        log = (site.folder / "access.log").read_text(encoding="utf-8")
    (request,) = upstream.requests
    assert request.target == target
    assert request.body == b"x" * 1_000_000
    assert "POST /v1/a/b c" in log
    assert "s3cret" not in log


def test_metrics_are_not_for_callers(front: Front) -> None:
    with Scripted() as upstream, Relay(upstream) as relay:
        site = front(relay.address, relay.address)
        with site.client() as client:
            assert client.get("/metrics").status_code == 404
            assert client.get("/_health").json() == {"status": "ok"}
