"""The embedded log: topics, commits, leases and the group in one SQLite file, with no server at all."""

import json
import secrets
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from streams.core import topic_names
from streams.core.clock import Clock, SystemClock
from streams.core.errors import LogError, TopicMismatch, TopicMissing
from streams.core.record import TopicPartition
from streams.core.schema import nearest
from streams.log.base import Claim, Committed, Group, Log, LogReader, LogWriter, Member, TopicInfo, TopicSpec
from streams.log.embedded_file import LogFile
from streams.log.embedded_group import EmbeddedGroup, living
from streams.log.embedded_reader import EmbeddedReader
from streams.log.embedded_writer import SLOT, EmbeddedClaim, EmbeddedWriter, deleted, next_epoch
from streams.protocol import Lease

_TRIMMED_AT_ONCE = 64  # batches deleted in one transaction: others must get their turn


class EmbeddedLog(Log):
    """The log of one machine: a file `log.db` in `directory`, used by any number of processes at once.

    - `patience`: seconds that a call waits for the file before it raises LogLocked;
    - `session`: seconds after which a silent member of a group counts as dead (one whose process is gone: at once).

    Guarantees: those of `streams.log.base`. Commits survive the kill of any process; a loss of power may take the last
    commits, always whole ones and the latest. Nothing is deleted but by `trim`, whose space is used again.

    One log may be shared by threads; its readers, writers and groups each belong to one. Closing it closes its readers.

    Raises LogUnreachable (the directory cannot be written to, or does not share memory between processes), LogError
    (another format, damaged, or not a log), DiskFull, LogLocked.

    >>> from streams.core.record import Produced
    >>> with EmbeddedLog.temporary({"payments": 2}) as log:
    ...     writer = log.writer("app", "w1")
    ...     writer.append(Produced("payments", 1, [b"c1", b"c2"], [b"5", b"7"], 1_700_000_000_000))
    ...     writer.commit({}, {})
    ...     print(log.ends([TopicPartition("payments", 0), TopicPartition("payments", 1)]))
    ...     log.ends([TopicPartition("paymnts", 0)])
    Traceback (most recent call last):
    ...
    streams.core.errors.TopicMissing: topic 'paymnts' does not exist; did you mean 'payments'?
    ...
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        patience: float = 10.0,
        session: float = 10.0,
        clock: Clock | None = None,
    ) -> None:
        self._path = Path(directory).absolute() / "log.db"
        self._patience, self._session, self._clock = patience, session, clock or SystemClock()
        self._file = LogFile(self._path, patience)
        self._known: dict[str, list[int]] = {}
        self._readers: set[EmbeddedReader] = set()
        self._on_close: Callable[[], None] | None = None
        self.name = str(self._path)

    @staticmethod
    def temporary(topics: Mapping[str, int] | None = None) -> "EmbeddedLog":
        """A log with these topics (name: partitions) in a directory that goes with it: for tests and examples."""
        directory = tempfile.TemporaryDirectory(prefix="streams-")
        log = EmbeddedLog(directory.name)
        log._on_close = directory.cleanup
        log.create([TopicSpec(name, partitions, {}) for name, partitions in (topics or {}).items()])
        return log

    # ---- topics

    def topics(self, names: Sequence[str]) -> dict[str, TopicInfo]:
        wanted = set(names)
        rows = self._file.run("SELECT name, partitions, id FROM topics ORDER BY name")
        return {name: TopicInfo(name, int(count), id) for name, count, id in rows if name in wanted}

    def all_topics(self) -> list[str]:
        return [str(name) for (name,) in self._file.run("SELECT name FROM topics ORDER BY name")]

    def create(self, topics: Sequence[TopicSpec]) -> None:
        missing = [spec for spec in topics if spec.name not in self.topics([spec.name])]
        if not missing:
            return
        for spec in missing:
            if spec.partitions < 1:
                raise TopicMismatch(f"topic {spec.name!r} needs at least one partition", where=self.name)
            if wrong := topic_names.fault(spec.name):
                raise TopicMismatch(wrong, where=self.name, fix=topic_names.FIX)
        with self._file.writing():
            for spec in missing:
                if spec.name in self.topics([spec.name]):
                    continue  # another process was quicker, or it is named twice
                row = (spec.name, int(spec.partitions), secrets.token_hex(8), json.dumps(dict(spec.settings)))
                self._file.run("INSERT INTO topics (name, partitions, id, settings) VALUES (?, ?, ?, ?)", row)
                for partition in range(spec.partitions):
                    sql = "INSERT INTO partitions (topic, partition) VALUES (?, ?)"
                    self._file.run(sql, (spec.name, partition))

    # ---- those who read, write and share

    def reader(self) -> LogReader:
        # A connection of its own: only then does the file tell it that somebody else has committed.
        reader = EmbeddedReader(LogFile(self._path, self._patience), self._lines, self._readers.discard)
        self._readers.add(reader)
        return reader

    def sync_commits(self) -> None:
        self._file.sync_commits()

    def writer(self, app: str, slot: str) -> LogWriter:
        return EmbeddedWriter(self._file, app, slot, self._lines)

    def group(self, app: str, slot: str, tasks: int) -> Group:
        return EmbeddedGroup(self._file, app, slot, tasks, self._session, self._clock)

    def claim(self, app: str, task: int) -> Claim:
        return EmbeddedClaim(self._file, app, task)

    def fence(self, app: str, slot: str) -> None:
        with self._file.writing():
            next_epoch(self._file, SLOT, app, slot)

    # ---- what is committed

    def leases(self, app: str, tasks: Sequence[int]) -> dict[int, Lease | None]:
        rows = self._file.stable("SELECT task, sequence, record FROM leases WHERE app = ?", (app,))
        found = {int(task): Lease.decode(record, int(sequence)) for task, sequence, record in rows}
        return {task: found.get(task) for task in tasks}

    def committed(self, app: str, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, Committed | None]:
        sql = "SELECT topic, partition, next_offset, note FROM positions WHERE app = ?"
        rows = self._file.stable(sql, (app,))
        found = {TopicPartition(topic, int(n)): Committed(int(offset), note) for topic, n, offset, note in rows}
        return {partition: found.get(partition) for partition in partitions}

    def ends(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        # Waits for a commit in progress: an open commit has no offsets before it is that far.
        sql = "SELECT id, end_offset FROM partitions WHERE partition >= 0"
        return self._bounds(partitions, self._file.stable(sql))

    def starts(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        sql = "SELECT id, start_offset FROM partitions WHERE partition >= 0"
        return self._bounds(partitions, self._file.run(sql))

    def trim(self, before: Mapping[TopicPartition, int]) -> None:
        """Delete records before these offsets; what lies beyond the end is taken as the end."""
        for partition, offset in before.items():
            line = self._line(partition)
            sql = "UPDATE partitions SET start_offset = min(?, end_offset) WHERE id = ? AND start_offset < ?"
            with self._file.writing():
                self._file.run(sql, (int(offset), line, int(offset)))
            # Records below the start are gone for readers; their batches go if all of a batch is below.
            while self._delete_batches(line):
                pass

    # ---- starting an application anew

    def living(self, app: str) -> list[Member]:
        return living(self._file, app, self._session, self._clock)

    def forget(self, app: str) -> None:
        with self._file.writing():
            members = self.living(app)
            if members:
                raise LogError(
                    f"application {app!r} is working: {', '.join(map(str, members))}",
                    where=self.name,
                    fix="stop its workers first",
                )
            for table in ("members", "leases", "positions"):  # epochs of slots and claims stay: who was fenced is
                self._file.run(f"DELETE FROM {table} WHERE app = ?", (app,))

    def delete(self, topics: Sequence[str]) -> None:
        for topic in topics:
            lines = [int(row[0]) for row in self._file.run("SELECT id FROM partitions WHERE topic = ?", (topic,))]
            with self._file.writing():
                self._file.run("DELETE FROM topics WHERE name = ?", (topic,))
                # The row stays, under no topic's name: its number must never mean another partition to a process that
                # remembers it, and what such a process does with it must fail.
                sql = "UPDATE partitions SET topic = '', partition = -1 - id, start_offset = end_offset WHERE topic = ?"
                self._file.run(sql, (topic,))
            self._known.pop(topic, None)
            for line in lines:
                while self._delete_batches(line):
                    pass

    def close(self) -> None:
        for reader in list(self._readers):
            reader.close()
        self._file.close()
        if self._on_close is not None:
            self._on_close()
            self._on_close = None

    def __enter__(self) -> "EmbeddedLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # ---- inside

    def _delete_batches(self, line: int) -> bool:
        """Delete some batches below the start; whether there may be more."""
        sql = (
            "SELECT b.base_offset FROM batches b JOIN partitions p ON p.id = b.partition_id "
            "WHERE b.partition_id = ? AND b.base_offset + b.records <= p.start_offset ORDER BY b.base_offset LIMIT ?"
        )
        with self._file.writing():
            bases = [int(base) for (base,) in self._file.run(sql, (line, _TRIMMED_AT_ONCE))]
            if bases:
                sql = "DELETE FROM batches WHERE partition_id = ? AND base_offset <= ?"
                self._file.run(sql, (line, bases[-1]))
        return len(bases) == _TRIMMED_AT_ONCE

    def _bounds(
        self, partitions: Sequence[TopicPartition], rows: Sequence[tuple[Any, ...]]
    ) -> dict[TopicPartition, int]:
        bounds = {int(line): int(offset) for line, offset in rows}
        lines = {partition: self._line(partition) for partition in partitions}
        for partition, line in lines.items():
            if line not in bounds:
                raise deleted(partition.topic, self.name)
        return {partition: bounds[line] for partition, line in lines.items()}

    def _line(self, partition: TopicPartition) -> int:
        return self._lines(partition.topic, [partition.partition])[partition.partition]

    def _lines(self, topic: str, needed: Iterable[int] = ()) -> list[int]:
        """The numbers of a topic's partitions in the file; TopicMissing if there is no such topic or partition."""
        lines = self._known.get(topic)
        if lines is None:
            rows = self._file.run("SELECT id FROM partitions WHERE topic = ? ORDER BY partition", (topic,))
            if not rows:
                raise TopicMissing(
                    f"topic {topic!r} does not exist{nearest(topic, self.all_topics())}",
                    where=self.name,
                    fix="create it first, or correct the name",
                )
            # It stays as it is: topics are given no more partitions, and a deleted one's numbers are never used again.
            lines = self._known[topic] = [int(line) for (line,) in rows]
        for number in needed:
            if not 0 <= number < len(lines):
                raise TopicMismatch(
                    f"topic {topic!r} has {len(lines)} partitions, numbered from 0: there is no partition {number}",
                    where=self.name,
                    fix="read or write the partitions that it has",
                )
        return lines
