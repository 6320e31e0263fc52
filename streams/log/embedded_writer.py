"""Writing to the embedded log: buffered appends, one short write transaction a commit."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from streams.codec.blocks import to_ipc
from streams.core.errors import Fenced, LogError
from streams.core.keys import partitions as partitions_of
from streams.core.record import Produced
from streams.log.base import Claim, LogWriter, Positions
from streams.log.embedded_batches import MOST_BYTES, MOST_RECORDS, cut, to_frame
from streams.log.embedded_file import Lines, LogFile
from streams.protocol import Lease

MOST_NOTE = 2048
"""Bytes of the note of a committed position (base.Committed)."""

SAVE_LEASE = (
    "INSERT INTO leases (app, task, sequence, record) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (app, task) DO UPDATE SET sequence = excluded.sequence, record = excluded.record"
)
_SAVE_POSITION = (
    "INSERT INTO positions (app, topic, partition, next_offset, note) VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (app, topic, partition) DO UPDATE SET next_offset = excluded.next_offset, note = excluded.note"
)
SLOT = (
    "INSERT INTO slots (app, slot, epoch) VALUES (?, ?, 1) ON CONFLICT (app, slot) DO UPDATE SET epoch = epoch + 1",
    "SELECT epoch FROM slots WHERE app = ? AND slot = ?",
)
CLAIM = (
    "INSERT INTO claims (app, task, epoch) VALUES (?, ?, 1) ON CONFLICT (app, task) DO UPDATE SET epoch = epoch + 1",
    "SELECT epoch FROM claims WHERE app = ? AND task = ?",
)


@dataclass(frozen=True, slots=True)
class _Blob:
    """A batch, ready to be stored."""

    records: int
    checksum: int
    data: bytes


@dataclass(slots=True)
class _Buffer:
    """What the open commit has for one partition: batches that are ready, and frames that will be."""

    ready: list[_Blob] = field(default_factory=list)
    frames: list[pl.DataFrame] = field(default_factory=list)
    records: int = 0
    bytes: int = 0

    def add(self, frame: pl.DataFrame) -> None:
        self.frames.append(frame)
        self.records += frame.height
        self.bytes += int(frame.estimated_size())
        if self.records >= MOST_RECORDS or self.bytes >= MOST_BYTES:
            self.seal()  # compressed at once: less memory, and a commit that is soon done

    def seal(self) -> None:
        if self.frames:
            for frame in cut(self.frames):
                data = to_ipc(frame)
                self.ready.append(_Blob(frame.height, zlib.crc32(data), data))
        self.frames, self.records, self.bytes = [], 0, 0


class EmbeddedWriter(LogWriter):
    """The writer of a slot in the embedded log.

    A commit, in one write transaction:
    1. encode what is buffered (before the transaction, so that it stays short);
    2. check that the slot is still ours, else Fenced;
    3. store the batches behind their partitions' ends;
    4. store positions and lease records.

    Guarantees: the contract's; besides, offsets have no gaps. Records without partition go by their key's hash; those
    without a key to one partition an `append`, the next one each time.

    Raises Fenced, TopicMissing, TopicMismatch (no such partition), LogLocked, DiskFull. After a commit that failed the
    writer refuses all but `abort` and `close`.

    >>> from streams.core.record import TopicPartition
    >>> from streams.log.base import Committed
    >>> from streams.log.embedded import EmbeddedLog
    >>> with EmbeddedLog.temporary({"t": 1}) as log:
    ...     writer = log.writer("app", "w1")
    ...     writer.append(Produced("t", 0, [b"k"], [b"v"], 5))
    ...     print(writer.pending, log.ends([TopicPartition("t", 0)]))
    ...     writer.commit({TopicPartition("in", 0): Committed(9)}, {0: Lease("w1", True, "f00d", 1)})
    ...     print(writer.pending, log.ends([TopicPartition("t", 0)]))
    1 {TopicPartition(topic='t', partition=0): 0}
    0 {TopicPartition(topic='t', partition=0): 1}
    """

    def __init__(self, file: LogFile, app: str, slot: str, lines: Lines) -> None:
        self._file, self._app, self._slot, self._lines = file, app, slot, lines
        self._buffers: dict[int, _Buffer] = {}
        self._turns: dict[str, int] = {}
        self._pending = 0
        self._ended = ""
        with file.writing():
            self._epoch = next_epoch(file, SLOT, app, slot)

    def append(self, records: Produced) -> None:
        self._check_usable()
        self._check_epoch()
        count = len(records.values)
        lines = self._lines(records.topic, () if records.partition is None else (records.partition,))
        frame = to_frame(records)
        if not count:
            return
        if records.partition is None:
            self._spread(records.topic, lines, frame)
        else:
            self._buffer(lines[records.partition]).add(frame)
        self._pending += count

    def commit(self, positions: Positions, leases: Mapping[int, Lease]) -> None:
        self._check_usable()
        for (topic, partition), position in positions.items():
            if len(position.note.encode()) > MOST_NOTE:
                raise LogError(f"the note of {topic}/{partition} is longer than {MOST_NOTE} bytes")
        try:
            # 1. Encode.
            for buffer in self._buffers.values():
                buffer.seal()
            if not self._buffers and not positions and not leases:
                self._check_epoch()
                return
            with self._file.writing():
                # 2. Check that the slot is ours.
                self._check_epoch()
                # 3. Store the batches.
                for line, buffer in self._buffers.items():
                    self._store(line, buffer.ready)
                # 4. Store positions and lease records.
                for (topic, partition), position in positions.items():
                    self._file.run(_SAVE_POSITION, (self._app, topic, partition, int(position.offset), position.note))
                for task, lease in leases.items():
                    self._file.run(SAVE_LEASE, (self._app, int(task), int(lease.sequence), lease.encode()))
        except Fenced:
            raise  # and so will every later call: an epoch never comes back
        except BaseException:
            self._ended = self._ended or "a commit of this writer failed: its outcome is settled by opening a new one"
            raise
        finally:
            self._drop()

    def abort(self) -> None:
        self._drop()

    @property
    def pending(self) -> int:
        return self._pending

    def close(self) -> None:
        self._drop()
        self._ended = self._ended or "the writer was closed"

    def _spread(self, topic: str, lines: list[int], frame: pl.DataFrame) -> None:
        """Each record to its key's partition; those without key to the next one in turn. Order is kept."""
        if "key" in frame.columns:
            keyless = frame["key"].is_null()
            targets = np.empty(frame.height, np.int64)
            targets[~keyless.to_numpy()] = partitions_of(frame["key"].drop_nulls(), len(lines))
        else:
            keyless, targets = pl.repeat(True, frame.height, eager=True), np.empty(frame.height, np.int64)
        if keyless.any():
            turn = self._turns.get(topic, 0)
            self._turns[topic] = turn + 1
            targets[keyless.to_numpy()] = turn % len(lines)
        found = np.unique(targets).tolist()
        if len(found) == 1:
            self._buffer(lines[found[0]]).add(frame)
            return
        order = np.argsort(targets, kind="stable")
        moved, bounds = frame[order], np.searchsorted(targets[order], [*found, len(lines)]).tolist()
        for target, start, stop in zip(found, bounds, bounds[1:], strict=False):
            self._buffer(lines[target]).add(moved[start:stop])

    def _buffer(self, line: int) -> _Buffer:
        return self._buffers.setdefault(line, _Buffer())

    def _store(self, line: int, blobs: list[_Blob]) -> None:
        run = self._file.run
        end = int(run("SELECT end_offset FROM partitions WHERE id = ?", (line,))[0][0])
        for blob in blobs:
            run("INSERT INTO batches VALUES (?, ?, ?, ?, ?)", (line, end, blob.records, blob.checksum, blob.data))
            end += blob.records
        run("UPDATE partitions SET end_offset = ? WHERE id = ?", (end, line))

    def _check_usable(self) -> None:
        if self._ended:
            raise LogError(self._ended, where=f"{self._file.path}, slot {self._slot!r} of {self._app!r}")

    def _check_epoch(self) -> None:
        if self._file.run(SLOT[1], (self._app, self._slot)) != [(self._epoch,)]:
            self._drop()
            raise Fenced(
                f"a newer writer of slot {self._slot!r} was opened, or the slot was fenced",
                where=f"{self._file.path}, application {self._app!r}",
                fix="nothing: the worker takes its leases anew; if it goes on, give each worker a --slot of its own",
            )

    def _drop(self) -> None:
        self._buffers, self._pending = {}, 0


class EmbeddedClaim(Claim):
    """A claimer of one task in the embedded log: opening it outdates the claims of this task before it.

    >>> from streams.log.embedded import EmbeddedLog
    >>> with EmbeddedLog.temporary() as log:
    ...     first, second = log.claim("app", 0), log.claim("app", 0)
    ...     second.write(Lease("w2", True, "f00d", 3))
    ...     print(log.leases("app", [0]))
    ...     first.write(Lease("w1", True, "f00d", 3))
    Traceback (most recent call last):
    ...
    streams.core.errors.Fenced: a later claimer of task 0 of 'app' came
    """

    def __init__(self, file: LogFile, app: str, task: int) -> None:
        self._file, self._app, self._task = file, app, int(task)
        with file.writing():
            self._epoch = next_epoch(file, CLAIM, app, self._task)

    def write(self, lease: Lease) -> None:
        with self._file.writing():
            if self._file.run(CLAIM[1], (self._app, self._task)) != [(self._epoch,)]:
                raise Fenced(f"a later claimer of task {self._task} of {self._app!r} came")
            self._file.run(SAVE_LEASE, (self._app, self._task, int(lease.sequence), lease.encode()))

    def close(self) -> None:
        pass


def next_epoch(file: LogFile, holder: tuple[str, str], app: str, name: str | int) -> int:
    """Within a transaction: outdate the present holder of a slot (`SLOT`) or of a task's claim (`CLAIM`)."""
    outdate, read = holder
    file.run(outdate, (app, name))
    return int(file.run(read, (app, name))[0][0])
