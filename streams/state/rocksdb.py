"""The state of a task in RocksDB: one database a task, one column family a map, uncommitted writes in memory.

What is on disk is always the state right after some commit, together with that commit's mark, whatever happens to the
process. Traps of rocksdict that shape this module, all measured; tests/state/test_rocksdb.py keeps them shut:

- Raw mode everywhere: the default mode unpickles what it reads.
- The write-ahead log stays on, or a killed process tears the maps apart. Flushes are atomic, so that what has left the
  log is one cut through all maps too: a lost end of the log or of the manifest takes data and mark alike.
- Iterators are asked for their status: the convenient ones take damage for the end. They hold a bare pointer to their
  upper bound: it is kept alive with them, or a scan ends anywhere.
- The LOCK is held while a column family's handle, an iterator or a checkpoint object lives. So handles are not kept,
  not even in a frame that a traceback could keep, and the store knows its open scans.
- `write` holds the GIL: a write that would stall is refused (no_slowdown) and tried again, so that the process goes on.
- A damaged record type makes RocksDB read a log for ever, holding the GIL: the types are looked at before.
- A manifest without its end passes for a whole one: its length and checksum are kept with the mark.
- Indexes and filters live in the block cache, so that memory is bounded, and are partitioned: whole ones do not fit
  into a shard of the cache and are read anew for each key (12 us instead of 3).
"""

import re
import shutil
import time
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any
from weakref import WeakSet
from zlib import crc32

import msgspec
from rocksdict import (
    BlockBasedIndexType,
    BlockBasedOptions,
    Cache,
    Checkpoint,
    DBCompressionType,
    Options,
    Rdict,
    ReadOptions,
    WriteBatch,
    WriteOptions,
)

from streams.core.errors import DiskFull, StateCorrupt, StateError, StateInUse, StateMismatch
from streams.core.store import KeyValueStore, StoreSpec
from streams.state.base import Change, Mark, StateStore

FORMAT = 1
"""The version of the layout: a column family `map:<name>` for each map, and `meta` with one record."""

ENTRY_BYTES = 140
"""What an entry takes in memory beside its bytes: the heads of two objects and their place in a dictionary."""

_META, _MAP, _RECORD, _DAMAGED = "meta", "map:", b"mark", "DAMAGED"
_MB = 1 << 20
_READ = 1000  # keys in one read: sorted runs of this size are the fastest
_STALL_SECONDS = 60.0
_UNKNOWN: Any = object()


class _Meta(msgspec.Struct, array_like=True):
    """The record in `meta`: the mark, and what of the manifest was there when it was written (`_Manifest.seen`)."""

    format: int
    sequence: int
    topic_id: str
    offset: int
    position: bytes
    manifest: tuple[str, int, int]


class _Manifest:
    """The manifest in use: its name, and length and CRC32 of what was seen of it."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._name, self._size, self._crc = directory, "", 0, 0

    def seen(self) -> tuple[str, int, int]:
        """Read on: it only grows, and RocksDB starts another one when writing it has failed."""
        with suppress(OSError):
            name = (self._directory / "CURRENT").read_text().strip()
            if name != self._name:
                self._name, self._size, self._crc = name, 0, 0
            with (self._directory / name).open("rb") as file:
                file.seek(self._size)
                added = file.read()
            self._size, self._crc = self._size + len(added), crc32(added, self._crc)
        return self._name, self._size, self._crc


@cache
def _block_cache() -> Cache:
    return Cache(64 * _MB)


def limit_block_cache(size: int) -> None:
    """Bound what all stores of this process together keep of RocksDB's blocks, in bytes (64 MB if never called)."""
    _block_cache().set_capacity(size)


@cache
def _options() -> Options:
    """For many small databases in one process: at most 16 MB unflushed each, one block cache, few threads and files."""
    blocks = BlockBasedOptions()
    blocks.set_block_cache(_block_cache())
    blocks.set_bloom_filter(10, False)
    blocks.set_index_type(BlockBasedIndexType.two_level_index_search())
    blocks.set_partition_filters(True)
    blocks.set_cache_index_and_filter_blocks(True)
    blocks.set_pin_top_level_index_and_filter(True)
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    options.set_block_based_table_factory(blocks)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_atomic_flush(True)
    options.set_write_buffer_size(16 * _MB)
    options.set_db_write_buffer_size(16 * _MB)  # of all maps together
    options.set_max_total_wal_size(16 * _MB)  # what an open after a crash has to replay: about 0.15 s
    options.set_arena_block_size(128 << 10)
    options.set_target_file_size_base(16 * _MB)
    options.set_max_bytes_for_level_base(64 * _MB)
    options.set_level_zero_slowdown_writes_trigger(40)
    options.set_level_zero_stop_writes_trigger(60)
    options.set_max_background_jobs(2)
    options.set_max_open_files(512)
    options.set_manifest_preallocation_size(64 << 10)
    options.set_skip_stats_update_on_db_open(True)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    options.set_keep_log_file_num(2)
    options.set_max_log_file_size(_MB)
    return options


@cache
def _no_slowdown() -> WriteOptions:
    options = WriteOptions()
    options.no_slowdown = True
    return options


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


class _Cache:
    """The clean entries of all maps of a task, at most `limit` bytes, in two generations: when the young one is full,
    it becomes the old one, and what was not used since the last time goes at once. So a hit costs one look-up."""

    def __init__(self, limit: int) -> None:
        self._half = limit // 2
        self.maps: list[RocksMap] = []

    def keep(self, where: "RocksMap", fresh: dict[bytes, bytes | None]) -> None:
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


class RocksMap(KeyValueStore):
    """One map: the overlay over clean entries (young, old) over a column family."""

    def __init__(self, store: "RocksStore", name: str) -> None:
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


class _Cursor:
    """A place in a column family. The only holder of a RocksDB iterator, so that closing the store can drop it."""

    def __init__(self, directory: Path, iterator: Any, options: ReadOptions, start: bytes) -> None:
        self._directory, self._iterator = directory, iterator
        self._options = options  # the iterator has a bare pointer to the bound in them
        self._iterator.seek(start)

    def read(self, most: int) -> list[tuple[bytes, bytes | None]]:
        """The next entries; fewer than `most` at the end."""
        iterator = self._iterator
        if iterator is None:
            raise StateError("the store was closed while a scan of it ran", where=str(self._directory))
        entries: list[tuple[bytes, bytes | None]] = []
        try:
            while len(entries) < most and iterator.valid():
                entries.append((iterator.key(), iterator.value()))
                iterator.next()
            if len(entries) < most:
                iterator.status()
        except Exception as error:
            self.close()
            del iterator  # the traceback keeps this frame, the frame would keep the LOCK
            raise _named(error, self._directory, "reading") from error
        return entries

    def close(self) -> None:
        self._iterator = None


def _merged(keys: list[bytes], values: list[bytes | None], cursor: _Cursor) -> Iterator[tuple[bytes, bytes]]:
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


class RocksStore(StateStore):
    """A task's state in a directory of its own, with at most `cache_bytes` of clean entries in memory.

    >>> from tempfile import TemporaryDirectory
    >>> temporary = TemporaryDirectory(); directory = Path(temporary.name, "task")
    >>> store = RocksStore(directory, cache_bytes=1 << 20)
    >>> seen = store.map(StoreSpec("seen")); seen.put_many([b"a", b"b"], [b"1", b"2"])
    >>> store.commit(Mark(1, "topic", 5)); seen.put(b"a", None); list(seen.scan())
    [(b'b', b'2')]
    >>> store.close(); store = RocksStore(directory, cache_bytes=1 << 20); store.mark
    Mark(sequence=1, topic_id='topic', offset=5, position=b'')
    >>> list(store.map(StoreSpec("seen")).scan())
    [(b'a', b'1'), (b'b', b'2')]
    >>> store.close(); drop(directory); temporary.cleanup()

    Guarantees: a commit is on disk as a whole or not at all, also if the process is killed or the disk is full. Damage
    is never read as data nor as its absence.

    Raises, from any call: `StateInUse` (someone else has it open), `StateCorrupt` (damaged files), `DiskFull`,
    `StateMismatch` (a newer layout), `StateError` (anything else). After a failed `commit` or `apply` disk and overlay
    are as before, and the same call may be repeated: it opens the files anew, as RocksDB needs after a failed write.
    """

    def __init__(self, directory: Path, *, cache_bytes: int) -> None:
        self._directory, self.cache = directory, _Cache(cache_bytes)
        self._maps: dict[str, RocksMap] = {}
        self._cursors: WeakSet[_Cursor] = WeakSet()
        self._families: dict[str, Rdict] = {}
        self._database: Rdict | None = None
        self._manifest = _Manifest(directory)
        self._open()

    # ---- the contract

    def map(self, spec: StoreSpec) -> RocksMap:
        """A map of the task, created if it is new; the same object each time."""
        found = self._maps.get(spec.name)
        if found is None:
            self._family(_MAP + spec.name)
            found = self._maps[spec.name] = RocksMap(self, spec.name)
            self.cache.maps.append(found)
        found.cached = spec.cache
        if not spec.cache:
            found.forget()
        return found

    def changes(self) -> Sequence[Change]:
        """The overlay, sorted by map and by key."""
        return [each.change() for _, each in sorted(self._maps.items()) if each.overlay]

    @property
    def overlay_bytes(self) -> int:
        return sum(each.overlay.size for each in self._maps.values())

    @property
    def size_bytes(self) -> int:
        """The files, and what is not in them yet. Costs 1 us a map."""
        kinds = ("rocksdb.live-sst-files-size", "rocksdb.cur-size-all-mem-tables")
        return sum(each.property_int_value(kind) or 0 for each in self._families.values() for kind in kinds)

    @property
    def mark(self) -> Mark:
        return self._mark

    def commit(self, mark: Mark) -> None:
        """Write the overlay and the mark in one batch; then the overlay's entries are clean ones."""
        self._write(self.changes(), mark)
        for each in self._maps.values():
            each.settle()

    def apply(self, changes: Sequence[Change], mark: Mark) -> None:
        if any(each.overlay for each in self._maps.values()):
            raise StateError("a replay into a store that has uncommitted writes", where=str(self._directory))
        for change in changes:
            self._family(_MAP + change.store)
        for each in self._maps.values():
            each.forget()
        self._write(changes, mark)

    def rollback(self) -> None:
        for each in self._maps.values():
            each.rollback()

    def snapshot(self, directory: Path) -> None:
        """What is committed, in a new directory that opens as a store; hard links on the same file system."""
        database = self._opened()
        if directory.exists():
            raise StateError("a snapshot needs a new directory", where=str(directory))
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            for name in self._marked_last():
                self._families[name].flush()  # without the GIL, which the checkpoint would hold for it
            Checkpoint(database).create_checkpoint(str(directory))
            directory.chmod(0o700)
        except Exception as error:
            for partial in (directory, directory.with_name(directory.name + ".tmp")):
                shutil.rmtree(partial, ignore_errors=True)
            raise _named(error, self._directory, f"taking a snapshot to {directory}") from error

    def close(self) -> None:
        """Release the directory. The overlay is lost. A full disk does not matter: the log on it has everything."""
        for cursor in list(self._cursors):
            cursor.close()
        for name in self._marked_last():
            with suppress(Exception):
                self._families[name].close()
        self._families.clear()
        if self._database is not None:
            with suppress(Exception):
                self._database.close()
        self._database = None

    # ---- what maps need

    def read(self, name: str, keys: list[bytes]) -> list[bytes | None]:
        """Values on disk."""
        family = self._family(_MAP + name)
        try:
            return family.get(keys)  # type: ignore[arg-type, return-value]
        except Exception as error:
            raise _named(error, self._directory, "reading") from error

    def cursor(self, name: str, start: bytes, stop: bytes | None) -> _Cursor:
        """A cursor over what is on disk now."""
        options = ReadOptions()
        if stop is not None:
            options.set_iterate_upper_bound(stop)
        cursor = _Cursor(self._directory, self._family(_MAP + name).iter(options), options, start)
        self._cursors.add(cursor)
        return cursor

    # ---- files

    def _open(self) -> None:
        """Open the files and learn where they stand.

        1. Make the directory, for its owner alone.
        2. List the column families. End here: damage that was found before, damage on which RocksDB would hang, files
           without the one that names the manifest.
        3. Open them; from here on this process holds the LOCK.
        4. Read the mark. Refuse a newer layout, and a manifest that has lost its end.
        """
        directory, self._failed = self._directory, True
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with suppress(PermissionError):
                directory.chmod(0o700)
            listed: list[str] = []
            if (directory / _DAMAGED).exists():
                raise _corrupt(directory, (directory / _DAMAGED).read_text())
            if any(_endless(file) for file in (*directory.glob("MANIFEST-*"), *directory.glob("*.log"))):
                raise _corrupt(directory, "a record of the log or the manifest is of a wrong type")
            if (directory / "CURRENT").exists():
                listed = Rdict.list_cf(str(directory), _options())
            elif any(file.suffix in (".sst", ".log") for file in directory.iterdir()):
                raise _corrupt(directory, "CURRENT is missing")
            names, before = {*listed, _META} - {"default"}, _manifest(directory)
            self._database = Rdict(str(directory), _options(), dict.fromkeys(names, _options()))
            self._families = {name: self._database.get_column_family(name) for name in names}
            self._mark = self._read_mark(*before)
        except Exception as error:
            self.close()
            raise _named(error, directory, "opening") from error
        self._failed = False

    def _read_mark(self, name: str, manifest: bytes) -> Mark:
        """The mark, if the manifest, as it was before the open, holds all that it did when the mark was written."""
        record: bytes | None = self._families[_META].get(_RECORD)
        if record is None:
            maps = self._families.keys() - {_META}
            if any(self.cursor(each.removeprefix(_MAP), b"", None).read(1) for each in maps):
                raise _corrupt(self._directory, "the mark is lost")
            return Mark()
        try:
            version = msgspec.msgpack.decode(record)[0]
            if version > FORMAT:
                raise StateMismatch(
                    f"the store has layout {version}, this program knows up to {FORMAT}",
                    where=str(self._directory),
                    fix="run the newer program, or delete the directory: it is rebuilt from the changelog",
                )
            meta = msgspec.msgpack.decode(record, type=_Meta)
        except (msgspec.MsgspecError, TypeError, LookupError) as error:
            raise _corrupt(self._directory, f"the mark cannot be read: {error}") from error
        written, size, crc = meta.manifest
        if written > name or (written == name and (len(manifest) < size or crc32(manifest[:size]) != crc)):
            raise _corrupt(self._directory, "the manifest has lost its end")
        return Mark(meta.sequence, meta.topic_id, meta.offset, meta.position)

    def _family(self, name: str) -> Rdict:
        found = self._families.get(name)
        if found is None:
            database = self._opened()
            try:
                found = self._families[name] = database.create_column_family(name, _options())
            except Exception as error:
                raise _named(error, self._directory, f"creating {name}") from error
        return found

    def _opened(self) -> Rdict:
        if self._database is None:
            raise StateError("the store is closed", where=str(self._directory))
        return self._database

    def _marked_last(self) -> list[str]:
        """The order to flush in: data may be newer than the mark if the end of the manifest is lost, never older."""
        return sorted(self._families, key=lambda name: name == _META)

    def _write(self, changes: Sequence[Change], mark: Mark) -> None:
        """One atomic write.

        1. After a failed write open the files anew: they stand before that write, or after it.
        2. Make one batch of the changes, map by map in order of the keys, and the mark.
        3. Write it. If that would stall, wait for flushes and compactions without the GIL; then again from 2.
        """
        if self._failed:
            before = self._mark
            self.close()
            self._open()
            if self._mark not in (before, mark):
                raise StateMismatch(
                    f"the store stands at commit {self._mark.sequence}, not at {before.sequence} any more",
                    where=str(self._directory),
                    fix="restore the task: its changelog has the rest",
                )
        meta = _Meta(FORMAT, mark.sequence, mark.topic_id, mark.offset, mark.position, self._manifest.seen())
        record, database, until = msgspec.msgpack.encode(meta), self._opened(), time.monotonic() + _STALL_SECONDS
        while True:
            batch = self._batch(changes, record)
            try:
                database.write(batch, _no_slowdown())
                break
            except Exception as error:
                if "Write stall" not in str(error) or time.monotonic() > until:
                    self._failed = True
                    raise _named(error, self._directory, "writing") from error
            time.sleep(0.005)
        self._mark = mark

    def _batch(self, changes: Sequence[Change], record: bytes) -> WriteBatch:
        """A batch serves once; the handle it holds is gone when it is written."""
        database, batch = self._opened(), WriteBatch(raw_mode=True)
        try:
            for change in changes:
                batch.set_default_column_family(database.get_column_family_handle(_MAP + change.store))
                if None not in change.values:
                    deque(map(batch.put, change.keys, change.values), maxlen=0)
                    continue
                for key, value in zip(change.keys, change.values, strict=True):
                    if value is None:
                        batch.delete(key)
                    else:
                        batch.put(key, value)
            batch.set_default_column_family(database.get_column_family_handle(_META))
            batch.put(_RECORD, record)
        except BaseException:
            batch.set_default_column_family(None)
            raise
        return batch


def drop(directory: Path) -> None:
    """Delete a store, damaged or not; nothing happens if there is none. `StateInUse` if someone has it open."""
    if not directory.exists():
        return
    try:
        Rdict.destroy(str(directory), _options())
    except Exception as error:
        named = _named(error, directory, "deleting")
        if isinstance(named, StateInUse):
            raise named from error
    try:
        if directory.exists():
            shutil.rmtree(directory)
    except OSError as error:
        raise _named(error, directory, "deleting") from error


def _manifest(directory: Path) -> tuple[str, bytes]:
    """The name and the content of the manifest."""
    with suppress(OSError, UnicodeDecodeError):
        name = (directory / "CURRENT").read_text().strip()
        return name, (directory / name).read_bytes()
    return "", b""


def _endless(file: Path) -> bool:
    """Whether RocksDB would read this log or manifest for ever, holding the GIL: it does if the type of a record is
    one that only files in reuse have. Records: CRC (4 bytes), size (2), type (1), data; blocks of 32 KB."""
    data, at = file.read_bytes(), 0
    while at + 7 <= len(data):
        size, kind, left = data[at + 4] | data[at + 5] << 8, data[at + 6], 32768 - at % 32768
        if left < 7 or size == kind == 0:
            at += left
        elif kind in (5, 6, 7, 8, 11):
            return True
        else:
            at += 7 + size
    return False


def _corrupt(directory: Path, what: str) -> StateCorrupt:
    """The error; also a note in the directory, so that damage met while reading is known at the next open."""
    with suppress(OSError):
        (directory / _DAMAGED).write_text(what)
    fix = "delete the directory: it is only a cache, and is rebuilt from the changelog"
    return StateCorrupt(f"the files of a store are damaged: {what}", where=str(directory), fix=fix)


def _named(error: Exception, directory: Path, doing: str) -> StateError:
    """RocksDB's errors are texts: what each means to an operator."""
    text, where = str(error), str(directory)
    if isinstance(error, StateError):
        return error
    if "lock hold by current process" in text:
        return StateInUse("this process has the store open already", where=where, fix="close it first")
    if "While lock file" in text:
        pid = _holder(directory)
        who = f"process {pid}" if pid else "another process"
        fix = "stop it, or give each worker a slot and a state directory of its own"
        return StateInUse(f"{who} holds the state directory", where=where, fix=fix)
    if re.search("No space left|File too large|quota exceeded", text):
        fix = "make room; nothing is lost, the store goes on from its last commit"
        return DiskFull(f"no space left ({doing}): {text}", where=where, fix=fix)
    if "Write stall" in text:
        what = f"no write was possible for {_STALL_SECONDS:.0f} s: flushes and compactions wait for the disk"
        return StateError(what, where=where, fix="give the state directory a faster disk")
    if re.search("Permission denied|Read-only file system|not permitted", text):
        return StateError(f"no permission ({doing}): {text}", where=where, fix="let this user own the directory")
    if re.search("Corruption|No such file|checksum", text):
        return _corrupt(directory, f"{doing}: {text}")
    return StateError(f"{doing} failed: {text}", where=where)


def _holder(directory: Path) -> int:
    """The process that holds the LOCK, 0 if unknown (Linux only). The file itself is not opened: closing it would drop
    the lock of a store that this very process has open."""
    with suppress(OSError, ValueError, LookupError):
        lock = (directory / "LOCK").stat().st_ino
        for fields in map(str.split, Path("/proc/locks").read_text().splitlines()):
            if fields[1] == "POSIX" and int(fields[5].rpartition(":")[2]) == lock:
                return max(0, int(fields[4]))
    return 0
