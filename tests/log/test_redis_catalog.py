from __future__ import annotations

import gc

from resumable_llm.log.redis_catalog import Catalog
from resumable_llm.log.redis_log import RedisLog
from tests.log.conftest import head
from tests.log.test_redis_log import Store


def log_of(stream: str, id: str, *, owned: bool = True, key: str = "") -> RedisLog:
    return RedisLog(Store(), stream, head(id, key=key), owned=owned)


def test_names_of_different_scopes_differ() -> None:
    catalog = Catalog("{x}:")
    pairs = [("a", "b:c"), ("a:b", "c"), ("", "a:b:c"), ("1:a", "b:c")]
    assert len({catalog.id_name(*pair) for pair in pairs} | {catalog.key_name(*pair) for pair in pairs}) == 8
    assert catalog.key_name("a", "") == ""
    assert catalog.stream_of(catalog.events_name("s1")) == "s1"


def test_a_log_is_found_by_all_its_names_as_long_as_somebody_holds_it() -> None:
    catalog = Catalog("")
    one, two = log_of("s1", "one", key="k"), log_of("s2", "two", owned=False)
    catalog.enter(one)
    catalog.enter(two)
    assert catalog.find("s1") is catalog.by_id("alice", "one") is catalog.by_key("alice", "k") is one
    assert catalog.by_id("bob", "one") is None
    assert catalog.by_key("alice", "") is None
    assert catalog.copies() == [two]
    del one
    gc.collect()
    assert catalog.find("s1") is None


def test_who_has_taken_a_name_keeps_it() -> None:
    catalog = Catalog("")
    old, new = log_of("s1", "one", key="k"), log_of("s2", "one", key="k")
    catalog.enter(old)
    catalog.enter(new)
    catalog.drop("s1")
    catalog.drop("s1")
    assert catalog.find("s1") is None
    assert catalog.by_id("alice", "one") is catalog.by_key("alice", "k") is new
    catalog.drop("s2")
    assert catalog.by_id("alice", "one") is None
