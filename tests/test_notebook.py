"""The notebook among the examples, run by a real Jupyter kernel, which is restarted in the middle of the answer."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

from tests.local import own
from tests.relay.serve import Gate
from tests.sockets import wire
from tests.sockets.scripted import Scripted

pytestmark = pytest.mark.slow

NOTEBOOK = Path(__file__).parent.parent / "examples" / "answer_that_outlives_its_kernel.ipynb"
CELLS = [
    "".join(cell["source"])
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    if cell["cell_type"] == "code"
]
SAID = wire.blocks(wire.chat())
PATIENCE = 60


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KernelManager]:
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    with own.cache(tmp_path / "caches"):
        manager = KernelManager()
        yield manager
        if manager.has_kernel:
            manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


def outputs(client: BlockingKernelClient, code: str) -> Iterator[tuple[str, str]]:
    """Run it, and yield what comes of it: the kind of each output, and its text."""
    request = client.execute(code)
    deadline = time.monotonic() + PATIENCE
    while True:
        message = client.get_iopub_msg(timeout=deadline - time.monotonic())
        if message["parent_header"].get("msg_id") != request:
            continue
        kind, content = message["msg_type"], message["content"]
        if kind == "error":
            raise AssertionError("\n".join(content["traceback"]))
        if kind == "stream":
            yield content["name"], content["text"]
        elif kind in ("execute_result", "display_data"):
            yield from content["data"].items()
        elif kind == "status" and content["execution_state"] == "idle":
            return


def test_a_kernel_that_is_restarted_has_its_answer(kernel: KernelManager, monkeypatch: pytest.MonkeyPatch) -> None:
    setup, ask, told = CELLS
    with Gate() as gate, Scripted(gate.between(SAID[:5], SAID[5:])) as upstream:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{upstream.url}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "s3cret")
        kernel.start_kernel()
        client = kernel.blocking_client()
        client.start_channels()
        client.wait_for_ready(timeout=PATIENCE)
        assert list(outputs(client, setup)) == []
        begun = ""
        for _, text in outputs(client, ask):
            begun += text
            if begun == "".join(wire.WORDS[:4]):
                break
        kernel.restart_kernel(now=True)  # with SIGKILL, as the button does it
        gate.open()
        client.wait_for_ready(timeout=PATIENCE)
        assert list(outputs(client, setup)) == []
        assert "".join(text for _, text in outputs(client, ask)) == "".join(wire.WORDS)
        shown = dict(outputs(client, told))
        client.stop_channels()
        assert len(upstream.requests) == 1
    assert shown["text/html"].startswith("<table")
