"""A relay of the user's own, on loopback: found, or started. One for each upstream, for all processes of the user.

It is a process of its own that ends by itself when it is idle, so it outlives whoever has started it. That there is but
one is for its store to see to, which has one owner: of several that are started at once all but one end, and whoever
has started them finds the one that is left. Its file stays when it ends; it is held for true only if the relay proves
itself (`announcement`).
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from resumable_llm.local import announcement
from resumable_llm.local.announcement import HOST, Announcement
from resumable_llm.local.folder import private_folder

IN_USE = 4
"""The exit code of a relay whose store another one owns."""

IDLE_SECONDS = 600
"""How long it has nothing to do before it ends."""

TTL_SECONDS = 24 * 3600
"""How long it keeps an answer behind its end."""

START_SECONDS = 20.0
"""How long to wait for it to start."""

_PROOF_SECONDS = 5.0
_POLL_SECONDS = 0.05
_MAX_LOG_BYTES = 1024 * 1024
_MAX_SAID = 2000
_NEEDS = ("aiohttp", "rich", "typer", "uvicorn")
_EXTRAS = "relay='local' needs more packages: pip install 'resumable-llm[cli,relay]'"

# Apart from whoever starts it: neither Ctrl-C nor the end of a terminal or of a notebook's kernel is meant for it.
_DETACHED = getattr(subprocess, "DETACHED_PROCESS", 0) | getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)

_starting = threading.Lock()


class Unavailable(Exception):
    """There is no relay, and none can be started; the message says why."""


def require_extras() -> None:
    """See that the packages are there which a relay needs.

    Raises:
        ModuleNotFoundError: They are not.
    """
    for name in _NEEDS:
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(_EXTRAS, name=name)


def address(upstream: str) -> str:
    """Where the relay for an upstream is, which has just proved itself; started if need be. Blocks.

    Args:
        upstream: Scheme, host and port.

    Raises:
        Unavailable: It cannot be had.
    """
    try:
        place = _Place(upstream)
        found = place.find()
        if found is None:
            with _starting:
                found = place.find() or place.start()
    except OSError as error:
        raise Unavailable(f"the local relay cannot be started: {error}") from error
    return found.url


class _Place:
    """The files of a relay: its store, and what it says."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        host = re.sub(r"[^a-z0-9.-]", "_", (urlsplit(upstream).hostname or "").lower())
        self._folder = private_folder("relay")
        self._name = f"{host}-{hashlib.sha256(upstream.encode()).hexdigest()[:8]}"

    def find(self) -> Announcement | None:
        """The relay, if it is there."""
        told = announcement.read(self._path("json"))
        return told if told is not None and told.holds(_PROOF_SECONDS) else None

    def start(self) -> Announcement:
        """Start it, unless somebody else does."""
        until = time.monotonic() + START_SECONDS
        before = announcement.read(self._path("json"))
        port = 0 if before is None else before.port  # the same again, for whoever has its address
        told = self._told()
        while True:
            process = self._launch(port)
            while process.poll() is None and time.monotonic() < until:
                now = announcement.read(self._path("json"))
                if now is not None and now != before and now.holds(_PROOF_SECONDS):
                    return now
                time.sleep(_POLL_SECONDS)
            found = self.find()
            if found is not None:
                return found
            if time.monotonic() >= until:
                raise Unavailable(f"the local relay has not started within {START_SECONDS:g} s: {self._said(told)}")
            if process.returncode == IN_USE:  # the owner is just starting, or ending
                time.sleep(_POLL_SECONDS)
            elif port:
                port = 0  # another program may have it by now
            else:
                raise Unavailable(f"the local relay cannot be started: {self._said(told)}")

    def _launch(self, port: int) -> subprocess.Popen[bytes]:
        if not sys.executable:
            raise FileNotFoundError("where this Python's executable is, is not known")
        command = [sys.executable, "-m", "resumable_llm", "relay", "--upstream", self._upstream]
        command += ["--host", HOST, "--port", str(port), "--store", f"sqlite:///{self._path('db')}"]
        command += ["--ttl", str(TTL_SECONDS), "--on-disconnect", "continue"]
        command += ["--idle-exit", str(IDLE_SECONDS), "--announce", str(self._path("json"))]
        log = os.open(self._path("log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            if os.fstat(log).st_size > _MAX_LOG_BYTES:
                os.ftruncate(log, 0)
            process = subprocess.Popen(  # noqa: S603 - a command of this very package
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,  # where no file of the user's could be taken for a module
                creationflags=_DETACHED,
                start_new_session=True,
            )
        finally:
            os.close(log)
        # Should it end before this process does, somebody must take note. It must not wait for it to end.
        threading.Thread(target=process.wait, name="resumable-llm local relay", daemon=True).start()
        return process

    def _told(self) -> int:
        """How much has been said so far."""
        try:
            return self._path("log").stat().st_size
        except OSError:
            return 0

    def _said(self, before: int) -> str:
        """What has been said since then, and where."""
        log = self._path("log")
        said = log.read_bytes()
        said = said[before:] if len(said) >= before else said
        return f"{said[-_MAX_SAID:].decode(errors='replace').strip() or 'it said nothing'} (from {log})"

    def _path(self, kind: str) -> Path:
        return self._folder / f"{self._name}.{kind}"
