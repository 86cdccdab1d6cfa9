"""What is in deploy/: a real nginx with our configuration before real relays, the other files held to the command."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest
from typer.testing import CliRunner
from typing_extensions import Self
from websockets.sync.client import connect
from websockets.typing import Origin

import resumable_llm as rl
from resumable_llm.cli import relay as relays
from resumable_llm.cli.app import app
from resumable_llm.relay import RelaySettings
from tests.log import redis_server
from tests.relay.serve import AUTH, CHAT, CHAT_PATH, Gate, address_told, datas
from tests.sdks import cuts
from tests.sockets import wire
from tests.sockets.scripted import Answer, End, Request, Scripted
from tests.systems.absent import skip_and_tell

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SITE = DEPLOY / "nginx.conf"
COMPOSE = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "how-to" / "deploy-the-relay.md").read_text(encoding="utf-8")
WHOLE = wire.blocks(wire.chat())
DATA = [event.data for event in wire.chat()]
KEYED = {"idempotency-key": "k1"}
SECRET = "RESUMABLE_LLM_RELAY_SECRET"

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
        environment = {**os.environ, SECRET: "the secret of these tests"}
        self.process = subprocess.Popen(self._command, env=environment, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self.address = address_told(self.process)
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

    @property
    def running(self) -> int:
        """How many answers it generates."""
        found = httpx.get(f"http://{self.address}/_ready").json()["running"]
        assert isinstance(found, int)
        return found

    @property
    def is_ready(self) -> bool:
        """Whether it says so."""
        try:
            return httpx.get(f"http://{self.address}/_ready").status_code == 200
        except httpx.ConnectError:
            return False

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
            raise FileNotFoundError("there is no nginx; on Debian and Ubuntu: apt-get install nginx")
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


def test_websockets_of_a_page_that_has_a_cookie(front: Front) -> None:
    cookie = {"cookie": "session=alice"}
    with Scripted(Answer(WHOLE)) as upstream, Relay(upstream) as relay:
        site = front(relay.address, relay.address)
        place = httpx.post(f"{site.url}{CHAT_PATH}", json=CHAT, headers=cookie).headers["location"]
        url = f"ws{site.url.removeprefix('http')}{place}/ws?after=2"
        with connect(url, origin=Origin(site.url), additional_headers=cookie, proxy=None) as socket:
            assert [json.loads(message)["data"] for message in socket] == DATA[2:]
            assert socket.close_code == 1000


# Two relays on one Redis


@pytest.fixture
def store() -> tuple[str, str]:
    """The option for a Redis."""
    return "--store", redis_server.shared().url


@pytest.fixture
def key() -> str:
    """A provider's key that nobody else has, so that nobody else's streams are in the way."""
    return f"sk-{uuid.uuid4()}"


def owner(*relays: Relay) -> Relay:
    """The relay that generates the only answer."""
    (found,) = (each for each in relays if each.running)
    return found


def test_either_relay_serves_any_reader(store: tuple[str, str], key: str, front: Front) -> None:
    with Scripted(Answer(WHOLE)) as upstream, Relay(upstream, *store) as first, Relay(upstream, *store) as second:
        site = front(first.address, second.address)
        headers = {"authorization": f"Bearer {key}", **KEYED}
        with site.client(**headers) as client:
            answers = [client.post(CHAT_PATH, json=CHAT) for _ in range(4)]
        place = answers[0].headers["location"]
        answers += [httpx.get(f"http://{each.address}{place}", headers=headers) for each in (first, second)]
    assert datas(answers[0].content) == DATA
    assert {answer.content for answer in answers} == {answers[0].content}


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_wrapped_client_notices_nothing_when_its_relay_ends(
    how: signal.Signals, store: tuple[str, str], key: str, front: Front
) -> None:
    events = wire.responses()
    with (
        Scripted(Answer(wire.blocks(events)[:6], End.SILENT), rest=cuts.starting_after(events)) as upstream,
        Relay(upstream, *store) as first,
        Relay(upstream, *store) as second,
    ):
        site = front(first.address, second.address)
        with openai.OpenAI(base_url=f"{site.url}/v1", api_key=key) as client:
            stream = rl.wrap(client).responses.create(model="m", input="x", stream=True, background=True)
            got = [next(stream) for _ in range(6)]
            owner(first, second).process.send_signal(how)
            got += stream
        assert [event.sequence_number for event in got] == list(range(len(events)))
        assert rl.inspect(stream).report.fidelity == "exact"
    assert upstream.methods == ["POST", "GET"]


def test_reader_of_a_relay_that_was_killed_reads_on_from_the_other(
    store: tuple[str, str], key: str, front: Front
) -> None:
    events = wire.responses()
    with (
        Scripted(Answer(wire.blocks(events)[:6], End.SILENT), rest=cuts.starting_after(events)) as upstream,
        Relay(upstream, *store) as first,
        Relay(upstream, *store) as second,
    ):
        site = front(first.address, second.address)
        with site.client(authorization=f"Bearer {key}") as client:
            body = {"model": "m", "input": "x", "stream": True, "background": True}
            with client.stream("POST", "/v1/responses", json=body) as answer:
                place = answer.headers["location"]
            with rl.connect_sse(client, "GET", place) as stream:
                got = []
                for event in stream:
                    got.append(event.data)
                    if len(got) == 6:
                        owner(first, second).kill()
    assert got == [event.data for event in events]
    assert upstream.methods == ["POST", "GET"]


def test_what_cannot_be_resumed_is_told_as_cut_short(store: tuple[str, str], key: str, front: Front) -> None:
    with (
        Scripted(Answer(WHOLE[:4], End.SILENT)) as upstream,
        Relay(upstream, *store) as first,
        Relay(upstream, *store) as second,
    ):
        site = front(first.address, second.address)
        with openai.OpenAI(base_url=f"{site.url}/v1", api_key=key) as client:
            stream = rl.wrap(client).chat.completions.create(model="m", messages=[], stream=True)
            said = "".join(next(stream).choices[0].delta.content or "" for _ in range(4))
            owner(first, second).kill()
            with pytest.raises(openai.APIError, match="the rest of it is not here") as caught:
                list(stream)
    assert caught.value.code == "interrupted"
    assert said == "".join(wire.WORDS[:3])
    assert upstream.methods == ["POST"]


def test_relay_that_shuts_down_leaves_what_is_new_to_the_other(store: tuple[str, str], key: str, front: Front) -> None:
    endless = Answer(WHOLE[:4], End.SILENT)
    with (
        Scripted(endless, endless, endless, rest=lambda _: Answer(WHOLE)) as upstream,
        Relay(upstream, *store) as first,
        Relay(upstream, *store) as second,
    ):
        site = front(first.address, second.address)
        with site.client(authorization=f"Bearer {key}") as client, ExitStack() as open_streams:
            for _ in range(3):
                open_streams.enter_context(client.stream("POST", CHAT_PATH, json=CHAT))
            shuts_down = min(first, second, key=lambda each: each.running)  # the one that nginx would choose
            shuts_down.process.terminate()
            while shuts_down.is_ready:
                pass
            answers = [client.post(CHAT_PATH, json=CHAT) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200] * 4
    assert all(datas(answer.content) == DATA for answer in answers)


# The other files


def accepted(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> relays.Job:
    """What the command makes of its arguments."""
    jobs: list[relays.Job] = []

    def run(job: relays.Job, err: object) -> int:
        jobs.append(job)
        return 0

    monkeypatch.setattr(relays, "run", run)
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 0, found.output
    return jobs[0]


def settings_of_the_unit() -> dict[str, str]:
    lines = (DEPLOY / "resumable-llm-relay.service").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def test_service_runs_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    unit = settings_of_the_unit()
    stores = []
    for options in re.findall(r"^RELAY_OPTIONS=(.+)$", PAGE, re.MULTILINE):
        program, *arguments = unit["ExecStart"].replace("$RELAY_OPTIONS", options).split()
        assert program == "/opt/resumable-llm/bin/resumable-llm"
        stores.append(accepted(arguments, monkeypatch).store)
    assert stores == [f"sqlite:////var/lib/{unit['StateDirectory']}/relay.db", "redis://HOST:6379/0"]
    assert f"\n{SECRET}=" in PAGE
    assert f"{SECRET}:" in COMPOSE
    assert int(unit["RestartPreventExitStatus"]) == relays.USAGE
    assert int(unit["LimitNOFILE"]) > relays.MAX_CONNECTIONS


def test_there_is_time_to_shut_down() -> None:
    needed = RelaySettings(upstream="http://x").shutdown_seconds + relays._GRACE_SECONDS
    given = [settings_of_the_unit()["TimeoutStopSec"], *re.findall(r"stop_grace_period: (\d+)s", COMPOSE)]
    assert len(given) == 2
    assert all(int(seconds) >= 2 * needed for seconds in given)


def test_systemd_finds_no_fault_with_the_service(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd is not here")
    text = (DEPLOY / "resumable-llm-relay.service").read_text(encoding="utf-8")
    unit = tmp_path / "resumable-llm-relay.service"
    unit.write_text(text.replace("/opt/resumable-llm/bin/resumable-llm", sys.executable), encoding="utf-8")
    found = subprocess.run([analyze, "verify", str(unit)], check=False, capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "")


def test_image_runs_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    image = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    (entry,) = re.findall(r"^ENTRYPOINT (.+)$", image, re.MULTILINE)
    options = re.findall(r"^ +- (--.+)$", COMPOSE, re.MULTILINE)
    options = [re.sub(r"\$\{\w+:-(.*?)\}", r"\1", each) for each in options]
    job = accepted([*json.loads(entry)[1:], *options], monkeypatch)
    assert (job.host, job.port) == ("0.0.0.0", 8787)
    assert job.store == "redis://redis:6379/0"
    assert f"EXPOSE {job.port}" in image
    assert f"http://127.0.0.1:{job.port}/_health" in image
    site = SITE.read_text(encoding="utf-8")
    for name in ("relay-a", "relay-b"):
        assert f"\n  {name}:" in COMPOSE
        assert f"server {name}:{job.port} " in site
    (extras,) = re.findall(r"'\.\[([\w,]+)\]'", image)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert all(f"\n{extra} = [" in project for extra in extras.split(","))


def test_nothing_but_what_the_image_needs_is_sent_to_its_builder() -> None:
    copied = {"pyproject.toml", "README.md", "LICENSE", "src"}
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").split()
    assert {each.removeprefix("!") for each in ignored if each.startswith("!")} == copied
    assert re.findall(r"^COPY (?!--)(.+) \S+$", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE) == [
        "pyproject.toml README.md LICENSE",
        "src",
    ]


def test_sizes_are_what_the_formulas_say() -> None:
    table = PAGE.partition("| answers at once |")[2].partition("\n\n")[0].splitlines()[2:]
    assert len(table) == 3
    tokens, seconds, size = 50, 20, 220
    for line in table:
        at_once, *shown = (cell.strip() for cell in line.strip("|").split("|"))
        count = int(at_once.replace(",", ""))
        cores, relays = count * tokens * 150e-6, 1
        needs = f"{cores:g}"
        if cores > 1:  # several, so on Redis
            cores = count * tokens * 200e-6
            relays = math.ceil(cores) - 1
            needs = f"{cores:g}, one of them for Redis"
        memory = count * (48 * 1024 + 1.4 * tokens * seconds * size) / 2**20 + 100 * relays
        kept = [count * tokens * size * (seconds + ttl) / 1e9 for ttl in (3600, 300)]
        assert shown == [needs, f"{memory:.0f} MiB", f"{kept[0]:.1f} GB", f"{kept[1]:.2f} GB"]
