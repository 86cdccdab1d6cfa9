"""The logs of a Redis store that somebody in this process holds, by all their names. Holds none of them itself."""

from __future__ import annotations

import threading
from weakref import WeakValueDictionary

from resumable_llm.log.redis_log import RedisLog

Names = WeakValueDictionary[tuple[str, str], RedisLog]


class Catalog:
    """Logs by stream, by id and by key. May be used from any thread.

    Args:
        root: What all keys of Redis begin with.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._streams: WeakValueDictionary[str, RedisLog] = WeakValueDictionary()
        self._ids: Names = WeakValueDictionary()
        self._keys: Names = WeakValueDictionary()

    def id_name(self, scope: str, id: str) -> str:
        """What Redis knows an id by. No two scopes and ids share one."""
        return f"{self._root}id:{len(scope)}:{scope}:{id}"

    def key_name(self, scope: str, key: str) -> str:
        """What Redis knows an idempotency key by; "" for none."""
        return f"{self._root}key:{len(scope)}:{scope}:{key}" if key else ""

    def claim_name(self, scope: str, key: str) -> str:
        """Where it is said who has the right to begin the log of an idempotency key; "" for none."""
        return f"{self._root}claim:{len(scope)}:{scope}:{key}" if key else ""

    def events_name(self, stream: str) -> str:
        """Where the entries of a log are."""
        return f"{self._root}events:{stream}"

    def stream_of(self, events_name: str) -> str:
        """Whose entries these are."""
        return events_name.removeprefix(self.events_name(""))

    def enter(self, log: RedisLog) -> None:
        """Know a log from now on."""
        head = log.head
        with self._lock:
            self._streams[log.stream] = log
            self._ids[head.scope, head.id] = log
            if head.key:
                self._keys[head.scope, head.key] = log

    def find(self, stream: str) -> RedisLog | None:
        """By its stream."""
        with self._lock:
            return self._streams.get(stream)

    def by_id(self, scope: str, id: str) -> RedisLog | None:
        """By its id."""
        with self._lock:
            return self._ids.get((scope, id))

    def by_key(self, scope: str, key: str) -> RedisLog | None:
        """By its idempotency key."""
        with self._lock:
            return self._keys.get((scope, key))

    def copies(self) -> list[RedisLog]:
        """All that are not ours to write."""
        with self._lock:
            return [log for log in self._streams.values() if not log.owned]

    def drop(self, stream: str) -> None:
        """The log is no more; whoever holds it is told."""
        with self._lock:
            log = self._streams.pop(stream, None)
            if log is None:
                return
            for names, name in ((self._ids, log.head.id), (self._keys, log.head.key)):
                if names.get((log.head.scope, name)) is log:
                    del names[log.head.scope, name]
        log.drop()
