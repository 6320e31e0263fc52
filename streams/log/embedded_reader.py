"""Reading the embedded log: whole batches from the file, slices of them to the caller."""

import math
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from streams.codec.blocks import from_ipc
from streams.core.errors import LogError
from streams.core.record import Records, TopicPartition
from streams.log.base import LogReader
from streams.log.embedded_batches import StoredRecords
from streams.log.embedded_file import Lines, LogFile, Row, damaged

_MOST_BYTES = 16_000_000  # compressed bytes taken from a partition at once: large values must not fill the memory
_NAPS = (0.001, 0.005)  # seconds between looks for new data: the first, the longest

# From the batch in which the position lies, or the first one after it.
_FROM = (
    "SELECT base_offset, records, checksum, blob FROM batches WHERE partition_id = ? AND base_offset >= coalesce("
    "(SELECT max(base_offset) FROM batches WHERE partition_id = ? AND base_offset <= ?), 0) "
    "ORDER BY base_offset"
)


@dataclass(slots=True)
class _Place:
    """Where the reader stands in one partition. `rest`: what is read and not yet returned; it starts at `position`."""

    line: int
    position: int
    start: int = 0
    end: int = 0
    rest: pl.DataFrame | None = None
    paused: bool = False


class EmbeddedReader(LogReader):
    """Reads partitions of the embedded log.

    Guarantees: the contract's; besides, offsets have no gaps, and no partition waits for ever behind a busy one: each
    poll divides `most` among those that have something, and the first to be served changes.

    Raises TopicMissing, TopicMismatch (no such partition), and LogError where a position lies outside of what the log
    has (deleted by `trim`, or lost), or where the file is damaged: records are never left out silently.

    >>> from streams.core.record import Produced
    >>> from streams.log.embedded import EmbeddedLog
    >>> with EmbeddedLog.temporary({"t": 1}) as log:
    ...     writer, reader = log.writer("app", "w1"), log.reader()
    ...     writer.append(Produced("t", 0, [None] * 3, [b"a", b"b", b"c"], 5))
    ...     writer.commit({}, {})
    ...     reader.assign({TopicPartition("t", 0): 1})
    ...     for records in reader.poll(10, 1.0):
    ...         print(list(records.offsets()), records.values())
    ...     print(reader.caught_up(TopicPartition("t", 0)))
    [1, 2] [b'b', b'c']
    True
    """

    def __init__(self, file: LogFile, lines: Lines, on_close: Callable[["EmbeddedReader"], None]) -> None:
        self._file, self._lines, self._on_close = file, lines, on_close
        self._places: dict[TopicPartition, _Place] = {}
        self._seen: int | None = None
        self._turn = 0

    def assign(self, start: Mapping[TopicPartition, int]) -> None:
        lines = {source: self._lines(source.topic, (source.partition,)) for source in start}
        for source, position in start.items():
            self._places[source] = _Place(lines[source][source.partition], int(position))
        self._seen = None

    def unassign(self, partitions: Sequence[TopicPartition]) -> None:
        for source in partitions:
            self._places.pop(source, None)

    def poll(self, most: int, timeout: float) -> list[Records]:
        deadline = time.monotonic() + timeout
        nap = _NAPS[0]
        while True:
            if self._look():
                found = self._take(most)
                if found:
                    return found
            left = deadline - time.monotonic()
            if left <= 0:
                return []
            time.sleep(min(nap, left))
            nap = min(nap * 1.5, _NAPS[1])

    def pause(self, partitions: Sequence[TopicPartition]) -> None:
        self._set_paused(partitions, True)

    def resume(self, partitions: Sequence[TopicPartition]) -> None:
        self._set_paused(partitions, False)

    def caught_up(self, partition: TopicPartition) -> bool:
        place = self._places.get(partition)
        if place is None or place.paused:
            return False
        self._look()
        return place.position == place.end

    def position(self, partition: TopicPartition) -> int:
        return self._places[partition].position

    def lag(self, partition: TopicPartition) -> int:
        place = self._places.get(partition)
        if place is None:
            return 0
        self._look()
        return max(place.end - place.position, 0)

    def close(self) -> None:
        self._places.clear()
        self._file.close()
        self._on_close(self)

    def _set_paused(self, partitions: Sequence[TopicPartition], paused: bool) -> None:
        for source in partitions:
            if source in self._places:
                self._places[source].paused = paused

    def _look(self) -> bool:
        """Bring the known ends up to date if anything was committed; whether there is anything to return."""
        self._file.check_present()
        version = self._file.data_version()  # before the ends: what is committed in between is seen next time
        if version != self._seen:
            rows = self._file.run("SELECT id, start_offset, end_offset FROM partitions")
            bounds = {int(line): (int(start), int(end)) for line, start, end in rows}
            for place in self._places.values():
                place.start, place.end = bounds[place.line]
            self._seen = version
        return any(p.position != p.end and not p.paused for p in self._places.values())

    def _take(self, most: int) -> list[Records]:
        sources = [s for s, p in self._places.items() if p.position != p.end and not p.paused]
        self._turn = (self._turn + 1) % len(sources)
        left, found = most, list[Records]()
        for index, source in enumerate(sources[self._turn :] + sources[: self._turn]):
            if left <= 0:
                break
            records = self._read(source, self._places[source], math.ceil(left / (len(sources) - index)))
            left -= len(records)
            found.append(records)
        return found

    def _read(self, source: TopicPartition, place: _Place, most: int) -> StoredRecords:
        """At most `most` records from the place on, at least one."""
        self._check_inside(source, place)
        frames = [] if place.rest is None else [place.rest]
        have = sum(f.height for f in frames)
        if have < most and place.position + have < place.end:
            frames += self._load(source, place, place.position + have, most - have)
        frame = pl.concat(frames, how="diagonal") if len(frames) > 1 else frames[0]
        taken = StoredRecords(source, place.position, frame[:most])
        place.rest = frame[most:] if frame.height > most else None
        place.position = taken.next_offset
        return taken

    def _load(self, source: TopicPartition, place: _Place, position: int, wanted: int) -> list[pl.DataFrame]:
        """Whole batches from this position on: as many as are wanted, or few large ones."""
        records = size = 0

        def enough(row: Row) -> bool:
            nonlocal records, size
            records, size = records + row[1], size + len(row[3])
            return records >= wanted or size >= _MOST_BYTES

        frames = []
        for base, count, checksum, blob in self._file.run_until(_FROM, (place.line, place.line, position), enough):
            if zlib.crc32(blob) != checksum:
                raise damaged(self._file.path, f"offset {base} of {source.topic}/{source.partition}, checksum")
            if not base <= position < base + count:
                break
            frame = from_ipc(blob)
            frames.append(frame[position - base :] if position > base else frame)
            position = base + count
        if not frames:
            self._look()  # deleted since we looked?
            self._check_inside(source, place)
            raise damaged(self._file.path, f"offset {position} of {source.topic}/{source.partition} is missing")
        return frames

    def _check_inside(self, source: TopicPartition, place: _Place) -> None:
        if not place.start <= place.position < place.end:
            raise LogError(
                f"offset {place.position} of {source.topic}/{source.partition} does not exist (any more)",
                where=f"{self._file.path}: offsets {place.start} to {place.end - 1}",
                fix="the records were deleted, or the file was replaced by an older one: start from another position",
            )
