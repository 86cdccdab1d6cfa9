"""The answers that a relay generates at a time: there is room for so many, also for those that go on."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from resumable_llm.log.errors import LogEnded, StoreFailed
from resumable_llm.log.sqlite import SqliteLog
from tests.relay.serve import CHAT, CHAT_PATH, Served, datas, error_in, events_in
from tests.relay.test_revival import BLOCKS, DATA, EVENTS, HALF, SECRET, begun, stored
from tests.sdks import cuts
from tests.sockets import wire
from tests.sockets.scripted import Answer, End, Request, Scripted


def answer(request: Request) -> Answer:
    """Half of a background response and its rest; of a chat the beginning, and nothing more."""
    if request.path == CHAT_PATH:
        return Answer(wire.blocks(wire.chat())[:2], End.SILENT)
    if request.method == "POST":
        return Answer(BLOCKS[:HALF], End.SILENT)
    return cuts.starting_after(EVENTS)(request)


def test_what_has_no_room_to_go_on_sends_its_readers_away(tmp_path: Path) -> None:
    with Scripted(rest=answer) as upstream:
        with Served(upstream, store=stored(tmp_path), secret=SECRET) as served, served.client() as client:
            place, _ = begun(client)
        with (
            Served(upstream, store=stored(tmp_path), max_streams=1, secret=SECRET) as served,
            served.client() as client,
        ):
            with client.stream("POST", CHAT_PATH, json=CHAT) as other:
                next(other.iter_raw())
                assert error_in(client.post(CHAT_PATH, json=CHAT)) == "busy"
                with pytest.raises(httpx.RemoteProtocolError):  # neither an end nor an error: they are to come back
                    client.get(place)
                client.delete(other.headers["location"])
            served.until(lambda: not served.relay.running)
            assert datas(client.get(place).content) == DATA


@pytest.mark.parametrize(("error", "whole"), [(LogEnded("it runs"), True), (StoreFailed("the disk is full"), False)])
def test_one_of_many_reopens_it(error: Exception, whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is too late reads what the other writes; where nobody can, the answer stays interrupted."""
    reopen = SqliteLog.reopen

    def late(log: SqliteLog) -> None:
        if whole:
            reopen(log)
            log.append([BLOCKS[HALF]])
            log.end(type(log.state)("complete"))
        raise error

    with Scripted(rest=answer) as upstream:
        with Served(upstream, store=stored(tmp_path), secret=SECRET) as served, served.client() as client:
            place, _ = begun(client)
        monkeypatch.setattr(SqliteLog, "reopen", late)
        with Served(upstream, store=stored(tmp_path), secret=SECRET) as served, served.client() as client:
            data = client.get(place).content
    assert datas(data)[:HALF] == DATA[:HALF]
    assert events_in(data)[-1].data == DATA[HALF] if whole else "interrupted" in events_in(data)[-1].data
    assert upstream.methods == ["POST"]
