"""The memory of a map: uncommitted entries (the overlay) over clean ones (the cache) over what lies on disk."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

from streams.core.store import KeyValueStore
from streams.state.base import Change
from streams.state.look import Cursor

ENTRY_BYTES = 140
"""What an entry takes in memory beside its bytes: the heads of two objects and their place in a dictionary."""

_READ = 1000  # keys in one read: sorted runs of this size are the fastest
_UNKNOWN: Any = object()


class Disk(Protocol):
    """What maps need of their store."""

    @property
    def cache(self) -> "CleanEntries": ...

    def read(self, name: str, keys: list[bytes]) -> list[bytes | None]:
        """Values on disk."""
        ...

    def cursor(self, name: str, start: bytes, stop: bytes | None) -> Cursor:
        """A cursor over what is on disk now."""
        ...


def _lengths(items: Iterable[bytes | None]) -> int:
    return sum(map(len, filter(None, items)))


class _Entries(dict[bytes, bytes | None]):
    """Entries that know about how many bytes they take in memory."""

    size = 0

    def merge(self, fresh: dict[bytes, bytes | None]) -> None:
        if fresh:
            before, replaced = len(self), _lengths(map(self.get, fresh))
            self.update(fresh)
            added = len(self) - before
            self.size += _lengths(fresh.values()) - replaced + added * (ENTRY_BYTES + _lengths(fresh) // len(fresh))


class CleanEntries:
    """The clean entries of all maps of a task, at most `limit` bytes, in two generations: when the young one is full,
    it becomes the old one, and what was not used since the last time goes at once. So a hit costs one look-up."""

    def __init__(self, limit: int) -> None:
        self._half = limit // 2
        self.maps: list[CachedMap] = []

    def keep(self, where: "CachedMap", fresh: dict[bytes, bytes | None]) -> None:
        """Remember what is on disk now; of more than fits, a part. No entry of the map is stale afterwards."""
        size = self._size(fresh)
        if size > self._half:
            where.forget()
            fresh = dict(islice(fresh.items(), len(fresh) * self._half // size))
            size = self._size(fresh)
            if size > self._half:
                return
        if sum(each.young.size for each in self.maps) + size > self._half:
            for each in self.maps:
                each.young, each.old = _Entries(), each.young
        where.young.merge(fresh)

    def _size(self, entries: dict[bytes, bytes | None]) -> int:
        return len(entries) * ENTRY_BYTES + _lengths(entries) + _lengths(entries.values())


class CachedMap(KeyValueStore):
    """One map: the overlay over clean entries (young, old) over what is on disk."""

    def __init__(self, store: Disk, name: str) -> None:
        self._store, self._name, self.cached = store, name, True
        self.overlay, self.young, self.old = _Entries(), _Entries(), _Entries()
        self._order: list[bytes] = []  # the overlay's keys sorted, but for those put since the last look

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        over, young = self.overlay, self.young
        found: list[bytes | None] = [over[k] if k in over else young.get(k, _UNKNOWN) for k in keys]
        missing = [i for i, value in enumerate(found) if value is _UNKNOWN]
        if missing:
            read = self._read({keys[i] for i in missing})
            for i in missing:
                found[i] = read[keys[i]]
        return found

    def put_many(self, keys: Sequence[bytes], values: Sequence[bytes | None]) -> None:
        self.overlay.merge(dict(zip(keys, values, strict=True)))

    def scan(self, start: bytes = b"", stop: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """What the contract says. Damage found on the way is raised, never taken for the end."""
        if stop is not None and stop <= start:
            return iter(())
        order = self._sorted()
        keys = order[bisect_left(order, start) : len(order) if stop is None else bisect_left(order, stop)]
        return _merged(keys, [self.overlay[key] for key in keys], self._store.cursor(self._name, start, stop))

    def change(self) -> Change:
        """The overlay, sorted."""
        keys = list(self._sorted())
        return Change(self._name, keys, [self.overlay[key] for key in keys])

    def settle(self) -> None:
        """The overlay is on disk: from now on its entries are clean."""
        if self.cached:
            self._store.cache.keep(self, self.overlay)
        self.rollback()

    def rollback(self) -> None:
        """Forget the overlay. Clean entries were never mixed with it."""
        self.overlay, self._order = _Entries(), []

    def forget(self) -> None:
        """Forget the clean entries."""
        self.young, self.old = _Entries(), _Entries()

    def _read(self, wanted: set[bytes]) -> dict[bytes, bytes | None]:
        """Entries of the old generation and from disk; they are young from now on."""
        old = self.old
        read: dict[bytes, bytes | None] = {key: old[key] for key in wanted if key in old} if old else {}
        absent = sorted(wanted.difference(read))
        for i in range(0, len(absent), _READ):
            run = absent[i : i + _READ]
            read.update(zip(run, self._store.read(self._name, run), strict=True))
        if self.cached:
            self._store.cache.keep(self, read)
        return read

    def _sorted(self) -> list[bytes]:
        """The overlay's keys in order; cheap if few are new, since a scan may follow each put."""
        order = self._order
        fresh = list(islice(reversed(self.overlay), len(self.overlay) - len(order)))
        if len(fresh) < 32:
            for key in fresh:
                insort(order, key)
        else:
            order.extend(fresh)
            order.sort()
        return order


def _merged(keys: list[bytes], values: list[bytes | None], cursor: Cursor) -> Iterator[tuple[bytes, bytes]]:
    """The entries of a cursor with those of an overlay laid over them."""
    done, most = 0, 16
    while True:
        entries = cursor.read(most)
        ended, most = len(entries) < most, min(2 * most, 1024)
        reach = len(keys) if ended else bisect_right(keys, entries[-1][0], done)
        if reach > done:
            both = dict(entries)
            both.update(zip(keys[done:reach], values[done:reach], strict=True))
            entries, done = [(key, both[key]) for key in sorted(both)], reach
        for key, value in entries:
            if value is not None:
                yield key, value
        if ended:
            return
