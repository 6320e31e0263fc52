"""The state of a task in RocksDB: one database a task, one column family a map, uncommitted writes in memory.

What is on disk is always the state right after some commit, together with that commit's mark, whatever happens to the
process. Traps of rocksdict that shape this module, all measured; tests/state/test_*.py keep them shut:

- Raw mode everywhere: the default mode unpickles what it reads.
- The write-ahead log stays on, or a killed process tears the maps apart. Flushes are atomic, so that what has left the
  log is one cut through all maps too: a lost end of the log or of the manifest takes data and mark alike.
- Iterators are asked for their status: the convenient ones take damage for the end. They hold a bare pointer to their
  upper bound: it is kept alive with them, or a scan ends anywhere. They hold the GIL, and one step over deleted entries
  takes as long as these are many (0.2 s for 300,000): who may not wait bounds that. A snapshot does not hold for an
  iterator that is given options.
- The LOCK is held while a column family's handle, an iterator or a checkpoint object lives. So handles are not kept,
  not even in a frame that a traceback could keep, and the store knows its open scans.
- `write` holds the GIL: a write that would stall is refused (no_slowdown) and tried again, so that the process goes on.
- A damaged record type makes RocksDB read a log for ever, holding the GIL: the types are looked at before.
- A manifest without its end passes for a whole one: its length and checksum are kept with the mark.
- Indexes and filters live in the block cache, so that memory is bounded, and are partitioned: whole ones do not fit
  into a shard of the cache and are read anew for each key (12 us instead of 3).
"""

import math
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import WeakSet
from zlib import crc32

import msgspec
from rocksdict import (
    AccessType,
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

from streams.core.errors import StateCorrupt, StateError, StateInUse, StateMismatch
from streams.core.store import StoreSpec
from streams.state.base import Change, Mark, StateStore
from streams.state.cursor import RocksCursor
from streams.state.files import DAMAGED, Manifest, corrupt, endless, link, manifest_of, named
from streams.state.look import Look
from streams.state.overlay import CachedMap, CleanEntries

FORMAT = 1
"""The version of the layout: a column family `map:<name>` for each map, and `meta` with one record."""

_META, _MAP, _RECORD = "meta", "map:", b"mark"
_MB = 1 << 20
_STALL_SECONDS = 60.0
_SKIPPED = 5000  # deleted entries that a look steps over at a time: about 2 ms
_READING = 0.001  # seconds after which a look's cursor rests, be there as many entries as are wanted or not


class _Meta(msgspec.Struct, array_like=True):
    """The record in `meta`: the mark, and what of the manifest was there when it was written (`Manifest.seen`)."""

    format: int
    sequence: int
    topic_id: str
    offset: int
    position: bytes
    manifest: tuple[str, int, int]


@cache
def _options() -> Options:
    """For many small databases in one process: at most 16 MB unflushed each, one block cache, few threads and files."""
    blocks = BlockBasedOptions()
    blocks.set_block_cache(Cache(64 * _MB))  # one for all stores of the process
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
        self._directory, self.cache = directory, CleanEntries(cache_bytes)
        self._maps: dict[str, CachedMap] = {}
        self._cursors: WeakSet[RocksCursor] = WeakSet()
        self._families: dict[str, Rdict] = {}
        self._flushing = Lock()
        self._database: Rdict | None = None
        self._manifest = Manifest(directory)
        self._open()

    # ---- the contract

    def map(self, spec: StoreSpec) -> CachedMap:
        """A map of the task, created if it is new; the same object each time."""
        found = self._maps.get(spec.name)
        if found is None:
            self._family(_MAP + spec.name)
            found = self._maps[spec.name] = CachedMap(self, spec.name)
            self.cache.maps.append(found)
        found.cached = spec.cache
        if not spec.cache:
            found.forget()
        return found

    def names(self) -> list[str]:
        return sorted(name.removeprefix(_MAP) for name in self._families if name != _META)

    def entries(self, name: str, start: bytes, most_bytes: int) -> tuple[list[bytes], list[bytes], bytes | None]:
        found = self._maps.get(name) or CachedMap(self, name)
        keys, values, left = list[bytes](), list[bytes](), most_bytes
        scan = found.scan(start)
        for key, value in scan:
            if left <= 0 and keys:
                return keys, values, key
            keys.append(key)
            values.append(value)
            left -= len(key) + len(value)
        return keys, values, None

    def committed(self, name: str, start: bytes = b"", stop: bytes | None = None) -> Look:
        return Look(
            lambda begin, end: self.cursor(name, begin, end, _SKIPPED), lambda: self._mark.sequence, start, stop
        )

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

    def flush(self) -> None:
        """Bring what is committed into tables, so that a `snapshot` right after finds nothing left to do: it waits 20
        to 140 ms for 10 MB in memory, and seconds behind compactions. The one method for any thread; needs no GIL."""
        with self._flushing:
            try:
                self._flush()
            except Exception as error:
                raise named(error, self._directory, "flushing") from error

    def _flush(self) -> None:
        for name in self._marked_last():
            self._families[name].flush()

    @property
    def unflushed(self) -> bool:
        """Costs 1 us a map."""
        kinds = ("rocksdb.num-entries-active-mem-table", "rocksdb.num-immutable-mem-table")
        return any(each.property_int_value(kind) for each in self._families.values() for kind in kinds)

    @property
    def calm(self) -> bool:
        """Measured at 1 GB: with 25 tables in level 0 a flush waited 1 to 2.5 s for compactions."""
        kind = "rocksdb.num-files-at-level0"
        return all((each.property_int_value(kind) or 0) < 12 for each in self._families.values())

    def snapshot(self, directory: Path) -> None:
        """What is committed, in a new directory that opens as a store; hard links on the same file system."""
        database = self._opened()
        if directory.exists():
            raise StateError(
                "a snapshot needs a new directory", where=str(directory), fix="name one that does not exist yet"
            )
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            if self.unflushed:  # else the flush would wait for compactions all the same
                self._flush()  # without the GIL, which the checkpoint would hold for it
            Checkpoint(database).create_checkpoint(str(directory))
            directory.chmod(0o700)
        except Exception as error:
            for partial in (directory, directory.with_name(directory.name + ".tmp")):
                shutil.rmtree(partial, ignore_errors=True)
            raise named(error, self._directory, f"taking a snapshot to {directory}") from error

    @staticmethod
    def verify(directory: Path, wanted: Callable[[], None]) -> None:
        """Every block of data and index is read from the disk, past the cache; damaged filters do no harm.

        Without this a damaged table that nobody reads would be copied into snapshot after snapshot until none is whole,
        while the changelog is trimmed behind them.
        """
        linked = directory.with_name(f"{directory.name}.verified")  # RocksDB writes its LOG into what it opens
        try:
            shutil.copytree(directory, linked, copy_function=link)
            for _ in _read_all(linked):
                wanted()
        except OSError as error:
            raise named(error, directory, "verifying") from error
        finally:
            shutil.rmtree(linked, ignore_errors=True)

    def condemn(self, what: str) -> StateCorrupt:
        return corrupt(self._directory, what)

    def close(self) -> None:
        """Release the directory. The overlay is lost. A full disk does not matter: the log on it has everything."""
        with self._flushing:
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
            raise named(error, self._directory, "reading") from error

    def cursor(self, name: str, start: bytes, stop: bytes | None, skipped: int = 0) -> RocksCursor:
        """A cursor over what is on disk now. It steps over at most so many deleted entries at once, and rests after a
        millisecond (0: over all, and does not rest)."""
        options = ReadOptions()
        options.set_max_skippable_internal_keys(skipped)
        if stop is not None:
            options.set_iterate_upper_bound(stop)
        seconds = _READING if skipped else math.inf
        cursor = RocksCursor(self._directory, self._family(_MAP + name).iter(options), options, start, seconds)
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
            if (directory / DAMAGED).exists():
                raise corrupt(directory, (directory / DAMAGED).read_text())
            if any(endless(file) for file in (*directory.glob("MANIFEST-*"), *directory.glob("*.log"))):
                raise corrupt(directory, "a record of the log or the manifest is of a wrong type")
            if (directory / "CURRENT").exists():
                listed = Rdict.list_cf(str(directory), _options())
            elif any(file.suffix in (".sst", ".log") for file in directory.iterdir()):
                raise corrupt(directory, "CURRENT is missing")
            names, before = {*listed, _META} - {"default"}, manifest_of(directory)
            self._database = Rdict(str(directory), _options(), dict.fromkeys(names, _options()))
            self._families = {name: self._database.get_column_family(name) for name in names}
            self._mark = self._read_mark(*before)
        except Exception as error:
            self.close()
            raise named(error, directory, "opening") from error
        self._failed = False

    def _read_mark(self, name: str, manifest: bytes) -> Mark:
        """The mark, if the manifest, as it was before the open, holds all that it did when the mark was written."""
        record: bytes | None = self._families[_META].get(_RECORD)
        if record is None:
            maps = self._families.keys() - {_META}
            if any(self.cursor(each.removeprefix(_MAP), b"", None).read(1) for each in maps):
                raise corrupt(self._directory, "the mark is lost")
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
            raise corrupt(self._directory, f"the mark cannot be read: {error}") from error
        written, size, crc = meta.manifest
        if written > name or (written == name and (len(manifest) < size or crc32(manifest[:size]) != crc)):
            raise corrupt(self._directory, "the manifest has lost its end")
        return Mark(meta.sequence, meta.topic_id, meta.offset, meta.position)

    def _family(self, name: str) -> Rdict:
        found = self._families.get(name)
        if found is None:
            database = self._opened()
            try:
                found = self._families[name] = database.create_column_family(name, _options())
            except Exception as error:
                raise named(error, self._directory, f"creating {name}") from error
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
                    raise named(error, self._directory, "writing") from error
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


def _read_all(directory: Path) -> Iterator[None]:
    """Walk through every column family of a store that nobody else has open; yields now and then."""
    blocks, options = BlockBasedOptions(), Options(raw_mode=True)
    blocks.disable_cache()  # blocks of the store that runs are in the other one
    options.set_block_based_table_factory(blocks)
    options.set_max_open_files(64)
    database: Any = None
    iterator: Any = None
    try:
        names = Rdict.list_cf(str(directory), options)
        database = Rdict(str(directory), options, dict.fromkeys(names, options), access_type=AccessType.read_only())
        for name in names:
            iterator = database.get_column_family(name).iter(ReadOptions())
            iterator.seek_to_first()
            while iterator.valid():
                for _ in range(4096):
                    if not iterator.valid():
                        break
                    iterator.next()
                yield
            iterator.status()
    except Exception as error:
        raise named(error, directory, "verifying") from error
    finally:
        iterator = None  # it would keep the files open
        if database is not None:
            database.close()


def drop(directory: Path) -> None:
    """Delete a store, damaged or not; nothing happens if there is none. `StateInUse` if someone has it open."""
    if not directory.exists():
        return
    try:
        Rdict.destroy(str(directory), _options())
    except Exception as error:
        found = named(error, directory, "deleting")
        if isinstance(found, StateInUse):
            raise found from error
    try:
        if directory.exists():
            shutil.rmtree(directory)
    except OSError as error:
        raise named(error, directory, "deleting") from error
