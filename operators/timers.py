"""Timers by key: a queue in event time over a store, of which only the near end is in memory.

store    <instant, 8 bytes><key> -> which kinds of timer: a user's (empty) or another letter each
memory   all entries up to `horizon`, and those set since the last drain
"""

from heapq import heapify, heappop, heappush

from operators.stored_keys import instant_bytes, instant_of
from streams.core.store import KeyValueStore
from streams.core.time import FOREVER

USER = b"u"
"""A timer that the user's class has set."""

EXPIRY = b"e"
"""Values of the key expire."""

_END = b"\xff" * 9  # after every entry: instants are far from the edge of 64 bits


class TimerQueue:
    """Timers, in the order of (instant, key). Setting one twice is setting it once.

    `limit`: how many stay in memory after a drain, and how many are read at once.

    >>> from streams.core.store import DictStore
    >>> queue = TimerQueue(DictStore(), 100); queue.add(20, b"a", USER); queue.add(10, b"b", USER)
    >>> queue.first, queue.pop(15), queue.pop(15)
    (10, (10, b'b', b'u'), None)
    """

    def __init__(self, store: KeyValueStore, limit: int) -> None:
        self._store, self._limit = store, max(limit, 2)
        self._kinds: dict[bytes, bytes] = {}
        self._heap: list[bytes] = []
        self._dirty: dict[bytes, bytes | None] = {}
        self._unstored: set[bytes] = set()
        self._horizon = b""
        self._stale = False  # a timer was removed: `first` may be too early
        self._load()
        self.first = self._first()

    def add(self, at: int, key: bytes, kind: bytes) -> None:
        name = instant_bytes(at) + key
        known = self._kinds.get(name)
        if known is not None and kind in known:
            return
        if known is None:
            if name not in self._dirty:
                known = self._stored(name) if name > self._horizon else None
                if known is None:
                    self._unstored.add(name)
            heappush(self._heap, name)
        self._kinds[name] = self._dirty[name] = bytes(sorted({*known, *kind})) if known else kind
        if at < self.first:
            self.first = at

    def remove(self, at: int, key: bytes, kind: bytes) -> None:
        name = instant_bytes(at) + key
        known = self._kinds.get(name)
        if known is None and name > self._horizon and name not in self._dirty:
            known = self._stored(name)
        if known is None or kind not in known:
            return
        rest = known.replace(kind, b"")
        if rest:
            if name not in self._kinds:
                heappush(self._heap, name)
            self._kinds[name] = self._dirty[name] = rest
        else:
            self._kinds.pop(name, None)
            self._dirty[name] = None
            self._stale = True

    def pop(self, before: int) -> tuple[int, bytes, bytes] | None:
        """Take out the first one if it lies before an instant: (instant, key, kinds)."""
        if self._stale:
            self.first, self._stale = self._first(), False
        at = self.first
        if at >= before:
            return None
        name = heappop(self._heap)
        kinds = self._kinds.pop(name)
        self._dirty[name] = None
        self.first = self._first()
        return at, name[8:], kinds

    def drain(self) -> None:
        """Hand over what has changed, sorted, at once; keep the near end in memory."""
        changed = sorted(self._dirty)
        changed = [name for name in changed if self._dirty[name] is not None or name not in self._unstored]
        if changed:
            self._store.put_many(changed, [None if (k := self._dirty[n]) is None else _write(k) for n in changed])
        self._dirty, self._unstored = {}, set()
        if len(self._kinds) > self._limit:
            kept = sorted(self._kinds)[: self._limit // 2]
            self._kinds = {name: self._kinds[name] for name in kept}
            self._horizon = min(self._horizon, kept[-1])
        self._heap = list(self._kinds)
        heapify(self._heap)

    # ---- inside

    def _first(self) -> int:
        """The instant of the first timer; FOREVER if there is none."""
        heap, kinds = self._heap, self._kinds
        while True:
            while heap and heap[0] not in kinds:
                heappop(heap)
            if self._horizon >= _END or (heap and heap[0] <= self._horizon):
                return instant_of(heap[0]) if heap else FOREVER
            self._load()

    def _load(self) -> None:
        """Read the next entries behind the horizon."""
        start = self._horizon + b"\x00" if self._horizon else b""
        for count, (name, value) in enumerate(self._store.scan(start)):
            if count >= self._limit:
                return
            self._horizon = name
            if name not in self._kinds and name not in self._dirty:
                self._kinds[name] = _read(value)
                heappush(self._heap, name)
        self._horizon = _END

    def _stored(self, name: bytes) -> bytes | None:
        value = self._store.get(name)
        return None if value is None else _read(value)


def _write(kinds: bytes) -> bytes:
    return b"" if kinds == USER else kinds


def _read(value: bytes) -> bytes:
    return value or USER


def timer_key(entry: bytes) -> bytes:
    """The stored key in an entry's key."""
    return entry[8:]
