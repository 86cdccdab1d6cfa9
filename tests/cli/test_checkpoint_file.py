"""The file that keeps the place: whole at any moment, and marked while a piece of output is being written."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from resumable_llm import Checkpoint
from resumable_llm.cli.checkpoint_file import CheckpointFile, load

PLACE = Checkpoint("last_event_id", "GET", "http://there/answer", events=1)
LONG = replace(PLACE, url="http://there/" + 5000 * "x")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "place.json"


def after(place: Checkpoint, events: int) -> Checkpoint:
    return replace(place, events=events)


@pytest.mark.parametrize("place", [PLACE, LONG], ids=["short", "long"])
def test_a_piece_and_its_place_go_together(path: Path, place: Checkpoint) -> None:
    file = CheckpointFile(path)
    assert not file.holds_one
    file.save(place)
    assert file.holds_one
    assert load(path) == (place, False)
    for events in (2, 3, 4):
        with file.noting(after(place, events)):
            assert load(path) == (after(place, events), True)  # as a reader of the output may find it
        assert load(path) == (after(place, events), False)
    file.close()
    assert load(path) == (after(place, 4), False)


@pytest.mark.parametrize("place", [PLACE, LONG], ids=["short", "long"])
def test_a_piece_that_cannot_be_written_moves_nothing(path: Path, place: Checkpoint) -> None:
    file = CheckpointFile(path)
    file.save(place)
    with pytest.raises(BrokenPipeError), file.noting(after(place, 2)):
        raise BrokenPipeError
    assert load(path) == (place, False)
    with file.noting(after(place, 3)):
        pass
    assert load(path) == (after(place, 3), False)
    file.close()


def test_checkpoints_of_any_length_follow_each_other(path: Path) -> None:
    file = CheckpointFile(path)
    for place in (PLACE, LONG, PLACE, after(PLACE, 1_000_000), LONG, after(LONG, 2)):
        file.save(place)
        assert load(path) == (place, False)
    file.close()


def test_a_short_one_is_written_in_place_and_a_reader_never_sees_half(path: Path) -> None:
    file = CheckpointFile(path)
    file.save(PLACE)
    inode, size = path.stat().st_ino, path.stat().st_size
    file.save(after(PLACE, 123456))
    assert (path.stat().st_ino, path.stat().st_size) == (inode, size)
    file.close()


def test_it_is_for_its_owner_only(path: Path) -> None:
    file = CheckpointFile(path)
    file.save(PLACE)
    file.close()
    assert os.name == "nt" or path.stat().st_mode & 0o077 == 0


def test_it_is_removed_without_a_trace(path: Path) -> None:
    file = CheckpointFile(path)
    file.save(PLACE)
    file.save(LONG)
    file.remove()
    assert list(path.parent.iterdir()) == []
    CheckpointFile(path).remove()  # never written


def test_without_a_path_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = CheckpointFile(None)
    file.save(PLACE)
    with file.noting(PLACE):
        pass
    file.remove()
    assert not file.holds_one
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_noticed_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        CheckpointFile(tmp_path / "missing" / "place.json")


def test_what_is_no_checkpoint_is_refused(path: Path) -> None:
    path.write_text("hello")
    with pytest.raises(ValueError, match="not a checkpoint"):
        load(path)
