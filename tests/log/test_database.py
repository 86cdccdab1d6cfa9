from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path

import pytest

from resumable_llm.log import StoreInUse, StoreUnusable
from resumable_llm.log.database import Change, Database, Record
from resumable_llm.log.extents import Extents
from resumable_llm.log.model import State
from tests.log.conftest import head


def change(number: int, extents: Extents, frames: list[bytes], *, begins: bool = False, last: int = 0) -> Change:
    record = Record(number, head(str(number)), "", State.RUNNING, "", None, last, len(b"".join(frames)), (), extents)
    return Change(number, extents, last, frames, None, record if begins else None, begins=begins)


def test_the_file_has_one_owner(tmp_path: Path) -> None:
    first = Database(tmp_path / "log.db")
    with pytest.raises(StoreInUse, match="in use"):
        Database(tmp_path / "log.db")
    first.close()
    Database(tmp_path / "log.db").close()


def test_it_is_for_its_user_alone(tmp_path: Path) -> None:
    database = Database(tmp_path / "log.db")
    database.write([change(1, Extents(), [b"x"], begins=True, last=1)], [])
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    database.close()
    if os.name == "posix":
        assert modes == dict.fromkeys(["log.db", "log.db-owner", "log.db-shm", "log.db-wal"], 0o600)


def test_a_file_of_another_application_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE streams (x)")
    other.commit()
    other.close()
    before = path.read_bytes()
    with pytest.raises(StoreUnusable, match="another application"):
        Database(path)
    assert path.read_bytes() == before


def test_a_file_of_another_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    Database(path).close()
    other = sqlite3.connect(path)
    other.execute("PRAGMA user_version = 2")
    other.close()
    with pytest.raises(StoreUnusable, match="version 2"):
        Database(path)


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("nothing to do with this. " * 100)
    with pytest.raises(StoreUnusable, match=r"notes\.txt"):
        Database(path)
    assert path.read_text().startswith("nothing")


@pytest.mark.parametrize("name", ["missing/log.db", "."])
def test_a_place_that_cannot_be_used_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreUnusable, match="cannot be used"):
        Database(tmp_path / name)


def test_an_owner_file_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "log.db-owner").write_text("not a database at all " * 100)
    with pytest.raises(StoreUnusable, match="cannot be used"):
        Database(tmp_path / "log.db")


def test_a_commit_is_all_or_nothing(tmp_path: Path) -> None:
    database = Database(tmp_path / "log.db")
    one, two = Extents(), Extents()
    database.write([change(1, one, [b"x"], begins=True, last=1)], [])
    with pytest.raises(sqlite3.IntegrityError):
        database.write([change(1, one, [b"y"], last=2), change(1, two, [b"z"], begins=True, last=1)], [])
    assert (len(one), len(two)) == (1, 0)
    database.write([change(1, one, [b"y", b""], last=3)], [])
    with database.reading() as block:
        assert [block(place) for place in one] == [(b"x", (1,)), (b"y", (1, 0))]
        assert block(99) is None
    database.close()


@pytest.mark.parametrize("count", [1, 7, 8, 9, 63, 160, 161, 345])
def test_all_blocks_of_a_commit_are_written_in_their_order(tmp_path: Path, count: int) -> None:
    database = Database(tmp_path / "log.db")
    extents = [Extents() for _ in range(count)]
    database.write(
        [change(number, each, [b"%d" % number], begins=True, last=1) for number, each in enumerate(extents)], []
    )
    told = database._writer.execute("SELECT place, stream, last, note, data FROM blocks ORDER BY place").fetchall()
    assert told == [(number + 1, number, 1, None, b"%d" % number) for number in range(count)]
    assert [list(each) for each in extents] == [[number + 1] for number in range(count)]
    database.close()


@pytest.mark.parametrize("note", [None, "", "0", "n"])
@pytest.mark.parametrize("frames", [[], [b"x"], [b""], [b"x", b"", b"yy"]])
def test_a_block_is_read_as_it_was_written(tmp_path: Path, note: str | None, frames: list[bytes]) -> None:
    database, extents = Database(tmp_path / "log.db"), Extents()
    database.write([change(1, extents, [b"a"], begins=True, last=1)], [])
    database.write([change(1, extents, frames, last=1 + len(frames))._replace(note=note)], [])
    if frames:
        with database.reading() as block:
            assert block(2) == (b"".join(frames), tuple(map(len, frames)))
    rows = database._writer.execute("SELECT note FROM blocks WHERE place > 1").fetchall()
    assert rows == ([(note,)] if frames or note is not None else [])
    database.close()


def test_a_transaction_that_sqlite_has_rolled_back_fails_all_the_same(tmp_path: Path) -> None:
    database = Database(tmp_path / "log.db")
    database._writer.execute("PRAGMA max_page_count = 40")
    with pytest.raises(sqlite3.OperationalError, match="full"):
        database.write([change(1, Extents(), [bytes(100_000)], begins=True, last=1)], [])
    assert not database._writer.in_transaction
    database._writer.execute("PRAGMA max_page_count = 1000")
    database.write([change(1, Extents(), [bytes(100_000)], begins=True, last=1)], [])
    database.close()


def test_space_is_used_again(tmp_path: Path) -> None:
    database = Database(tmp_path / "log.db")
    sizes = []
    for number in range(1, 9):
        extents = Extents()
        database.write([change(number, extents, [bytes(1000)] * 100, begins=True, last=100)], [])
        database.write([], [(number, extents if number % 2 else None)])
        sizes.append(database._writer.execute("PRAGMA page_count").fetchone()[0])
    assert sizes[-1] == sizes[1]
    assert database._writer.execute("SELECT count(*) FROM blocks").fetchone() == (0,)
    database.close()


def test_of_a_stream_that_is_not_there_nothing_is_deleted(tmp_path: Path) -> None:
    database = Database(tmp_path / "log.db")
    database.write([], [(17, None)])
    database.close()


def test_only_what_ran_is_recovered_with_what_was_written_since(tmp_path: Path) -> None:
    database = Database(tmp_path / "log.db")
    runs, over = Extents(), Extents()
    database.write([change(1, over, [b"a"], begins=True, last=1), change(2, runs, [b"b"], begins=True, last=1)], [])
    database.write([change(2, runs, [b"cc", b"dd"], last=3), change(1, over, [b"e"], last=2)], [])
    end = Record(1, head("1"), "", State.COMPLETE, "", 5.0, 2, 2, (), over)
    database.write([Change(1, over, 2, [], None, end, begins=False)], [])
    database.write([Change(2, runs, 3, [], "noted", None, begins=False)], [])
    database.close()
    database = Database(tmp_path / "log.db")
    assert database.recover(9.0) == 1
    assert database.recover(9.0) == 0
    record = database.find("alice", "2")
    assert record is not None
    assert (record.state, record.last, record.size, record.note) == (State.INTERRUPTED, 3, 5, "noted")
    assert (record.ended_at, list(record.extents)) == (9.0, list(runs))
    ended = database.find("alice", "1")
    assert ended is not None
    assert (ended.state, ended.ended_at, list(ended.extents)) == (State.COMPLETE, 5.0, list(over))
    database.close()
