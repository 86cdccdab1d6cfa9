from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import TYPE_CHECKING

import pytest

from resumable_llm.testing import sockets

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]


class FalseAlarm(socket.socket):
    """A socket of which the kernel says wrongly, once, that there is something to take."""

    alarms = 1

    def _alarm(self) -> None:
        if self.alarms:
            self.alarms -= 1
            raise BlockingIOError

    def recv(self, *args: int) -> bytes:
        self._alarm()
        return super().recv(*args)

    def accept(self) -> tuple[socket.socket, object]:
        self._alarm()
        return super().accept()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with FalseAlarm() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        yield listener


@pytest.fixture
def pair(listener: socket.socket) -> Iterator[tuple[FalseAlarm, socket.socket]]:
    with FalseAlarm() as ours:
        ours.connect(listener.getsockname())
        sockets.prepare(ours)
        theirs, _ = socket.socket.accept(listener)
        with theirs:
            yield ours, theirs


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


async def test_connections_are_made_and_taken(listener: socket.socket) -> None:
    address = listener.getsockname()
    with await sockets.connect([(socket.AF_INET, address)]) as ours, await sockets.accept(listener) as theirs:
        assert ours.getsockname() == theirs.getpeername()
        assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_each_address_is_tried(listener: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = closed.getsockname()
    good = await sockets.connect([(socket.AF_INET, nobody), (socket.AF_INET, listener.getsockname())])
    good.close()
    with pytest.raises(ConnectionRefusedError, match="no answer"):
        await sockets.connect([(socket.AF_INET, nobody)])


async def test_data_wait_for_whoever_asks(pair: tuple[FalseAlarm, socket.socket]) -> None:
    ours, theirs = pair
    theirs.sendall(b"abc")
    await sockets.readable(ours)
    assert await sockets.receive(ours) == b"abc"
    theirs.close()
    assert await sockets.receive(ours, until=asyncio.get_running_loop().time() + 5) == b""


async def test_a_wait_ends_when_its_time_is_up(pair: tuple[FalseAlarm, socket.socket]) -> None:
    ours, theirs = pair
    with pytest.raises(sockets.TimeUp):
        await sockets.receive(ours, until=asyncio.get_running_loop().time() + 0.01)
    theirs.sendall(b"abc")
    assert await sockets.receive(ours) == b"abc"


async def test_data_and_time_may_come_together(pair: tuple[FalseAlarm, socket.socket]) -> None:
    ours, theirs = pair
    theirs.sendall(b"abc")
    with contextlib.suppress(sockets.TimeUp):
        await sockets.readable(ours, until=asyncio.get_running_loop().time())
    assert await sockets.receive(ours) == b"abc"


async def test_nothing_is_sent_as_nothing(pair: tuple[FalseAlarm, socket.socket]) -> None:
    ours, theirs = pair
    await sockets.send(ours, None)
    await sockets.send(ours, b"")
    await sockets.send(ours, b"abc")
    assert theirs.recv(10) == b"abc"


@pytest.mark.parametrize("close", [socket.socket.close, reset])
async def test_a_peer_that_closes_or_resets_has_gone(pair: tuple[FalseAlarm, socket.socket], close: object) -> None:
    ours, theirs = pair
    leaving = asyncio.create_task(sockets.gone(ours))
    await asyncio.sleep(0)
    assert not leaving.done()
    assert callable(close)
    close(theirs)
    await asyncio.wait_for(leaving, 5)


async def test_a_peer_that_speaks_is_still_there(pair: tuple[FalseAlarm, socket.socket]) -> None:
    ours, theirs = pair
    theirs.sendall(b"abc")
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(sockets.gone(ours), 0.02)
    assert await sockets.receive(ours) == b"abc"


async def test_an_armed_socket_resets_after_what_was_sent(pair: tuple[FalseAlarm, socket.socket]) -> None:
    ours, theirs = pair
    await sockets.send(ours, b"abc")
    await sockets.arm_reset(ours)
    ours.close()
    assert theirs.recv(10) == b"abc"
    with pytest.raises(ConnectionResetError):
        theirs.recv(10)


async def test_where_the_kernel_has_no_such_mark_the_reset_comes_at_once(
    pair: tuple[FalseAlarm, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(socket, "TCP_NOTSENT_LOWAT", raising=False)
    ours, theirs = pair
    await sockets.arm_reset(ours)
    ours.close()
    with pytest.raises(ConnectionResetError):
        theirs.recv(10)
