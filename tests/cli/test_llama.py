"""llama.cpp's server as a child process: ready, gone, and plain words when it cannot start."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import httpx
import pytest

from resumable_llm.cli.llama import LlamaServer, LlamaUnavailable
from resumable_llm.cli.model import ensure_model


@pytest.fixture(scope="module")
def model() -> Path:
    return ensure_model()


def is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_it_serves_two_streams_at_once_and_is_gone_after(model: Path) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3, "stream": True}
    with LlamaServer(model) as server, httpx.Client(base_url=server.url, trust_env=False) as client:
        assert client.get("/v1/models").json()["data"][0]["id"] == "smollm2"
        with (
            client.stream("POST", "/v1/chat/completions", json=body) as first,
            client.stream("POST", "/v1/chat/completions", json=body) as second,
        ):
            assert first.headers["server"] == "llama.cpp"
            assert str(model) not in first.read().decode()
            assert second.read().endswith(b"data: [DONE]\n\n")
        process = server._process
        assert is_alive(process.pid)
    assert process.poll() is not None
    assert not answers(server.url)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is POSIX's")
def test_it_does_not_outlive_a_killed_parent(model: Path) -> None:
    parent = textwrap.dedent("""
        import json, pathlib, sys, time
        from resumable_llm.cli.llama import LlamaServer
        with LlamaServer(pathlib.Path(sys.argv[1])) as server:
            print(json.dumps({"url": server.url}), flush=True)
            time.sleep(60)
    """)
    with subprocess.Popen([sys.executable, "-c", parent, str(model)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        assert answers(url)
        process.kill()
    deadline = time.monotonic() + 30
    while answers(url) and time.monotonic() < deadline:
        pass
    assert not answers(url)


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_shows_the_log(tmp_path: Path) -> None:
    with pytest.raises(LlamaUnavailable) as caught, LlamaServer(tmp_path / "missing.gguf"):
        pytest.fail("it started")
    assert "did not become ready. The end of its log:" in str(caught.value)
    assert "missing.gguf" in str(caught.value)


def fake_child(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    start = subprocess.Popen

    def popen(command: list[str], **settings: object) -> object:
        return start([sys.executable, "-c", textwrap.dedent(code)], **settings)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "Popen", popen)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)


@pytest.mark.slow
def test_one_that_never_gets_ready_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_child(monkeypatch, "import sys; print('still loading', file=sys.stderr, flush=True); sys.stdin.read()")
    server = LlamaServer(tmp_path, startup_seconds=1)
    with pytest.raises(LlamaUnavailable, match="still loading"), server:
        pytest.fail("it started")
    assert server._process.poll() is not None


@pytest.mark.slow
def test_what_else_it_says_on_stdout_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = 'print("hello"); print("[1]"); print("{\\"url\\": \\"http://there\\"}", flush=True)'
    fake_child(monkeypatch, f"import sys; {said}; sys.stdin.read()")
    with LlamaServer(tmp_path) as server:
        assert server.url == "http://there"


@pytest.mark.slow
def test_one_that_does_not_go_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resumable_llm.cli.llama._GRACE_SECONDS", 0.1)
    fake_child(monkeypatch, 'print("{\\"url\\": \\"http://there\\"}", flush=True); import time; time.sleep(60)')
    with LlamaServer(tmp_path) as server:
        pass
    assert server._process.poll() == -9


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LlamaUnavailable, match="pip install xllamacpp"), LlamaServer(tmp_path):
        pytest.fail("it started")
