"""A checkpoint in a file that stays true to an output written beside it, event by event, even over kill -9.

Knows nothing of streams or commands: it is told the place behind a piece of output, and keeps the two together.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from resumable_llm.core.model import Checkpoint

_PAGE = 4096
_MARK, _NO_MARK = b"\t", b" "  # both are white space to a JSON reader
_MARK_AT = _PAGE - 2


class CheckpointFile:
    """Keeps the place behind the last piece of output in a file.

    No two writes can be one, so a kill can fall between that of the output and that of the file. Whoever reads the
    output may well kill at the very sight of it, and that must not make the piece come twice. So the place is noted
    first, with a mark that the piece is being written, and the mark is taken away after it. A mark that is found later
    tells of a kill in that instant.

    After a kill the file holds one of the last two checkpoints, whole. It is not forced onto the disk: a power cut may
    leave an older one.

    Args:
        path: Where it will be, from the first checkpoint on; None: keep nothing.

    Raises:
        OSError: The folder cannot be written.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._last = b""
        if path is not None:
            tempfile.TemporaryFile(dir=path.parent).close()  # better now than after the first token was paid for

    @property
    def holds_one(self) -> bool:
        """Whether a checkpoint was kept."""
        return bool(self._last)

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace what the file holds."""
        if self._path is not None:
            self._last = _record(checkpoint)
            self._put(self._path, self._last)

    @contextlib.contextmanager
    def noting(self, checkpoint: Checkpoint) -> Iterator[None]:
        """Replace what the file holds, for a piece of output that is written inside the `with` block.

        Args:
            checkpoint: The place behind the piece.
        """
        path = self._path
        if path is None:
            yield
            return
        before, self._last = self._last, _record(checkpoint)
        self._put(path, self._last[:-2] + _MARK + b"\n")
        try:
            yield
        except OSError:
            self._last = before  # it was not written
            self._put(path, before)
            raise
        if self._file is not None:
            self._file.seek(_MARK_AT)
            self._file.write(_NO_MARK)
        else:
            self._put(path, self._last)

    def close(self) -> None:
        """Let go of the file; it stays."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """Remove the file: nothing is left to go on with."""
        self.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _put(self, path: Path, record: bytes) -> None:
        # Within one page of memory a write is done whole or not at all, whatever becomes of the process, and costs two
        # microseconds. A new file moved into place can be of any size, but costs two hundred times as much on ext4.
        if self._file is not None and len(record) == _PAGE:
            self._file.seek(0)
            self._file.write(record)
            return
        self.close()
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as fresh:
            fresh.write(record)
        Path(fresh.name).replace(path)
        if len(record) == _PAGE:
            self._file = path.open("r+b", buffering=0)


def load(path: Path) -> tuple[Checkpoint, bool]:
    """Read a checkpoint from a file.

    Args:
        path: The file.

    Returns:
        The checkpoint, and whether its writer was killed in the instant in which the last piece was written. That
        piece is before the checkpoint, and most likely in the output.

    Raises:
        OSError: The file cannot be read.
        ValueError: It holds no checkpoint.
    """
    record = path.read_bytes()
    return Checkpoint.from_json(record), record.endswith(_MARK + b"\n")


def _record(checkpoint: Checkpoint) -> bytes:
    return checkpoint.to_json().encode().ljust(_MARK_AT) + _NO_MARK + b"\n"
