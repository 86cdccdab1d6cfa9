from __future__ import annotations

import logging
import socket

import pytest

from resumable_llm.core.model import Notice
from resumable_llm.drivers.exchange import Exchange, tell


def _exchange(connection: socket.socket | None) -> Exchange:
    return Exchange(200, {}, iter(()), lambda: None, connection)


def test_abort_ends_a_read_at_both_ends() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        _exchange(ours).abort()
        assert ours.recv(1) == b""
        assert theirs.recv(1) == b""


def test_abort_is_content_with_a_socket_that_is_gone() -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    theirs.close()
    _exchange(ours).abort()


def test_abort_without_a_socket_has_nothing_to_do() -> None:
    _exchange(None).abort()


def test_tell_tells() -> None:
    told: list[Notice] = []
    tell(told.append, Notice("end", 1))
    tell(None, Notice("end", 1))
    assert told == [Notice("end", 1)]


def test_a_callback_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fail(notice: Notice) -> None:
        raise ZeroDivisionError

    tell(fail, Notice("drop", 1))
    (record,) = caplog.records
    assert (record.levelno, record.name) == (logging.ERROR, "resumable_llm")
    assert "drop" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


def test_a_callback_may_end_the_program() -> None:
    def interrupt(notice: Notice) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tell(interrupt, Notice("drop", 1))
