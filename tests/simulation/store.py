"""State in memory that outlives its process, with the promises that RocksDB gives: a commit is there as a whole or not
at all, and after a crash the store may stand at an earlier commit (the tail of its log is lost)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from streams.core.errors import StateInUse
from streams.core.store import StoreSpec
from streams.state.base import Change, Mark, StateStore
from streams.state.look import Look
from streams.state.overlay import CachedMap, CleanEntries
from tests.simulation.world import Process

Entries = dict[str, dict[bytes, bytes]]
_KEPT = 3


@dataclass
class Disk:
    """A directory: the state after each of the last few commits, and who has it open."""

    states: list[tuple[Mark, Entries]] = field(default_factory=lambda: [(Mark(), {})])
    owner: Process | None = None

    @property
    def now(self) -> tuple[Mark, Entries]:
        return self.states[-1]


class _Cursor:
    tired = rests = False

    def __init__(self, entries: list[tuple[bytes, bytes | None]]) -> None:
        self._entries = iter(entries)

    def read(self, most: int) -> list[tuple[bytes, bytes | None]]:
        return [entry for _, entry in zip(range(most), self._entries, strict=False)]


class SimStore(StateStore):
    """The real overlay and cache over a simulated disk."""

    def __init__(self, process: Process, directory: Path) -> None:
        self._process, self.cache = process, CleanEntries(10_000)
        disk = process.world.disks.setdefault(directory, Disk())
        assert isinstance(disk, Disk)
        if disk.owner is not None and disk.owner.alive and disk.owner is not process:
            raise StateInUse("another process has it open", where=str(directory))
        if disk.owner is not None and not disk.owner.alive and len(disk.states) > 1 and process.world.chance(0.2):
            disk.states.pop()  # the tail of the write-ahead log is lost with the process
        disk.owner, self.disk = process, disk
        self._maps: dict[str, CachedMap] = {}

    def map(self, spec: StoreSpec) -> CachedMap:
        if spec.name not in self._maps:
            self._maps[spec.name] = CachedMap(self, spec.name)
            self.cache.maps.append(self._maps[spec.name])
            self.disk.now[1].setdefault(spec.name, {})
        return self._maps[spec.name]

    def names(self) -> list[str]:
        return sorted(self.disk.now[1])

    def entries(self, name: str, start: bytes, most_bytes: int) -> tuple[list[bytes], list[bytes], bytes | None]:
        keys, values, left = list[bytes](), list[bytes](), most_bytes
        for key, value in (self._maps.get(name) or CachedMap(self, name)).scan(start):
            if left <= 0 and keys:
                return keys, values, key
            keys.append(key)
            values.append(value)
            left -= len(key) + len(value)
        return keys, values, None

    def committed(self, name: str, start: bytes = b"", stop: bytes | None = None) -> Look:
        return Look(lambda begin, end: self.cursor(name, begin, end), lambda: self.mark.sequence, start, stop)

    def changes(self) -> Sequence[Change]:
        return [each.change() for _, each in sorted(self._maps.items()) if each.overlay]

    @property
    def overlay_bytes(self) -> int:
        return sum(each.overlay.size for each in self._maps.values())

    @property
    def size_bytes(self) -> int:
        return sum(len(k) + len(v) for entries in self.disk.now[1].values() for k, v in entries.items())

    @property
    def mark(self) -> Mark:
        return self.disk.now[0]

    def commit(self, mark: Mark) -> None:
        self._write(self.changes(), mark)
        for each in self._maps.values():
            each.settle()

    def apply(self, changes: Sequence[Change], mark: Mark) -> None:
        for each in self._maps.values():
            each.forget()
        self._write(changes, mark)

    def rollback(self) -> None:
        for each in self._maps.values():
            each.rollback()

    def flush(self) -> None:
        pass

    def snapshot(self, directory: Path) -> None:
        raise NotImplementedError

    def close(self) -> None:
        if self.disk.owner is self._process:
            self.disk.owner = None

    # ---- what the overlay needs

    def read(self, name: str, keys: list[bytes]) -> list[bytes | None]:
        found = self.disk.now[1].get(name, {})
        return [found.get(key) for key in keys]

    def cursor(self, name: str, start: bytes, stop: bytes | None) -> _Cursor:
        found = self.disk.now[1].get(name, {})
        return _Cursor([(k, found[k]) for k in sorted(found) if k >= start and (stop is None or k < stop)])

    def _write(self, changes: Sequence[Change], mark: Mark) -> None:
        entries = {name: dict(found) for name, found in self.disk.now[1].items()}
        for change in changes:
            found = entries.setdefault(change.store, {})
            for key, value in zip(change.keys, change.values, strict=True):
                if value is None:
                    found.pop(key, None)
                else:
                    found[key] = value
        self.disk.states = [*self.disk.states[-_KEPT:], (mark, entries)]
