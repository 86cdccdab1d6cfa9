"""The user's folder for caches, and folders in it that nobody else can look into."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """The folder for what can be had again: below XDG_CACHE_HOME if set, else where this platform keeps caches."""
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "resumable-llm"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "resumable-llm" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "resumable-llm"
    return Path.home() / ".cache" / "resumable-llm"


def private_folder(name: str) -> Path:
    """A folder in the user's folder for caches, made if need be, for this user alone.

    Args:
        name: Its name.

    Raises:
        OSError: It cannot be made, or it is somebody else's.
    """
    folder = cache_folder() / name
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if sys.platform != "win32":  # where what is below a user's own folders is theirs alone
        found = folder.stat()
        if found.st_uid != os.getuid():
            raise PermissionError(f"{folder} belongs to another user")
        if found.st_mode & 0o077:
            folder.chmod(0o700)
    return folder
