"""Waiting on non-blocking sockets without taking anything from them.

It knows TCP and the event loop, no HTTP. `loop.sock_recv` would not do: cancelled at the wrong moment, it loses what it
has read. Here a wait can be given up at any time, and the data stay in the kernel for whoever asks next.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

READ_SIZE = 65536  # bytes


class TimeUp(Exception):
    """The moment until which a caller was willing to wait has come."""


async def accept(listener: socket.socket) -> socket.socket:
    """Return the next connection made to a non-blocking listener.

    Raises:
        OSError: no connection can be taken, for want of file descriptors perhaps.
    """
    while True:
        await readable(listener)
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):  # it left before its turn
            connection, _ = listener.accept()
            return connection


def prepare(connection: socket.socket) -> None:
    """Make a connection non-blocking, and let it send small pieces at once."""
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def connect(addresses: Sequence[tuple[int, Any]]) -> socket.socket:
    """Return a non-blocking connection to the first address that answers.

    Args:
        addresses: pairs of an address family and what `socket.connect` takes.

    Raises:
        ConnectionRefusedError: no address answers.
    """
    for family, address in addresses:
        with contextlib.ExitStack() as unless_connected, contextlib.suppress(OSError):
            connection = unless_connected.enter_context(socket.socket(family, socket.SOCK_STREAM))
            prepare(connection)
            await asyncio.get_running_loop().sock_connect(connection, address)
            unless_connected.pop_all()
            return connection
    raise ConnectionRefusedError(f"no answer from any of {addresses}")


async def readable(connection: socket.socket, until: float | None = None) -> None:
    """Wait until there is something to read: data, the end, an error, or a connection to accept.

    Args:
        connection: the socket.
        until: give up at this moment of the event loop's clock, in seconds.

    Raises:
        TimeUp: the moment has come.
    """
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    timer = None if until is None else loop.call_at(until, _settle, ready, TimeUp())
    loop.add_reader(connection, _settle, ready)
    try:
        await ready
    finally:
        loop.remove_reader(connection)
        if timer is not None:
            timer.cancel()


async def receive(connection: socket.socket, until: float | None = None) -> bytes:
    """Return the next bytes, none at the end.

    Args:
        connection: the socket.
        until: give up at this moment of the event loop's clock, in seconds.

    Raises:
        TimeUp: the moment has come.
        OSError: the connection is broken.
    """
    while True:
        await readable(connection, until)
        with contextlib.suppress(BlockingIOError):
            return connection.recv(READ_SIZE)


async def send(connection: socket.socket, data: bytes | None) -> None:
    """Return when the kernel has taken all of the data, so that nothing piles up here.

    Raises:
        OSError: the connection is broken.
    """
    if data:
        await asyncio.get_running_loop().sock_sendall(connection, data)


async def gone(connection: socket.socket) -> None:
    """Return when the peer has closed or reset the connection; a peer that sends something is taken to stay.

    What it sends remains in the kernel. A peer that closes only its own direction counts as gone, as with most servers.
    """
    while True:
        await readable(connection)
        try:
            stays = connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            continue  # a false alarm
        except OSError:
            return
        if not stays:
            return
        await for_ever()


async def for_ever() -> None:
    """Wait until cancelled."""
    await asyncio.Event().wait()


async def arm_reset(connection: socket.socket) -> None:
    """See to it that closing the socket will reset the connection, but not before all that was sent is on its way."""
    # A reset throws away what the kernel has not sent yet; under this mark, writable means that there is no such thing.
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        loop = asyncio.get_running_loop()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 1)
        ready: asyncio.Future[None] = loop.create_future()
        loop.add_writer(connection, _settle, ready)
        try:
            await ready
        finally:
            loop.remove_writer(connection)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _settle(future: asyncio.Future[None], error: Exception | None = None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
