from __future__ import annotations

import pytest

from resumable_llm.log import MemoryStore, State, StoreFull
from tests.log.conftest import Clock, head


def test_no_more_logs_than_agreed_but_the_expired_make_room() -> None:
    clock = Clock()
    store = MemoryStore(max_logs=2, clock=clock)
    store.begin(head("one"))[0].end(State.COMPLETE)
    store.begin(head("two"))
    with pytest.raises(StoreFull):
        store.begin(head("three"))
    assert not store.begin(head("two"))[1]
    clock.now += 60
    assert store.begin(head("three"))[1]
    with pytest.raises(StoreFull):
        store.begin(head("four"))


def test_a_log_in_hand_can_be_read_when_the_store_is_closed() -> None:
    store = MemoryStore()
    log, _ = store.begin(head())
    log.append([b"data: a\n\n"])
    store.close()
    assert log.read(0).last == 1
