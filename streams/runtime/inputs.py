"""The edge of a task: from records of a partition to batches with event time and watermarks.

Each row carries the watermark of its own source partition at that row: the running maximum of event time, that row
included, minus the allowed disorder. So lateness does not depend on how the input is cut into batches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from streams.codec.blocks import decode_block
from streams.codec.json import BytesDecoder, JsonDecoder, encode
from streams.core.batch import METADATA, ROW, TIME, WATERMARK, Batch, Letter
from streams.core.errors import RecordError
from streams.core.record import Records
from streams.core.stream import Source
from streams.core.time import NEVER, text
from streams.core.topology import Input
from streams.runtime.position import Channel, InputPosition

Dead = Callable[[Letter, str, str], None]
Array = npt.NDArray[Any]

_NEAR = 86_400_000
_FARTHEST = 2**61


@dataclass(frozen=True)
class RecordOrigin:
    """Rows of a source: `$row` is the index of the record."""

    records: Records

    @cached_property
    def _columns(self) -> tuple[Sequence[Any], ...]:
        """Made once for all letters: a whole run of records may be bad."""
        records = self.records
        return records.values(), records.keys(), records.offsets(), records.timestamps(), records.headers()

    def letters(self, rows: Sequence[int]) -> list[Letter]:
        topic, partition = self.records.source.topic, self.records.source.partition
        return [
            Letter(value or b"", key, topic, partition, offset, timestamp, headers=headers or ())
            for value, key, offset, timestamp, headers in (tuple(c[row] for c in self._columns) for row in rows)
        ]


@dataclass(frozen=True)
class BlockOrigin:
    """Rows of a shuffle block: the row as JSON, and the block that it lies in."""

    frame: pl.DataFrame
    topic: str
    partition: int
    offset: int

    def letters(self, rows: Sequence[int]) -> list[Letter]:
        part = Batch(self.frame[pl.Series(rows, dtype=pl.UInt32)])
        times = part.frame[TIME].to_list() if TIME in part.frame.columns else [-1] * len(rows)
        return [
            Letter(value, None, self.topic, self.partition, self.offset, time, row)
            for value, time, row in zip(encode(part.visible()), times, rows, strict=True)
        ]


@dataclass
class Read:
    """What a run of records gave: a batch, its channel, and how many leading rows had been read before the restart."""

    batch: Batch
    channel: int = 0
    fresh_from: int = 0


class TaskInput:
    """One input partition of a task: its place, its channels and its decoder."""

    def __init__(self, spec: Input, source: Source | None, channels: int, dead: Dead) -> None:
        self.spec, self.source, self._dead = spec, source, dead
        self.channels: dict[int, Channel] = {c: Channel() for c in range(channels)}
        self.next = 0
        self.fresh = 0
        self.maximum = NEVER
        self.topic = ""
        """Which topic of its name a source's is: see `InputPosition`."""
        self.idle_since: float | None = None
        self._decoder: JsonDecoder | BytesDecoder | None = None
        if source is not None:
            names = [n for n in spec.type.fields if n in spec.wanted or n == source.time]
            fields = dict(spec.type.fields)
            self._decoder = BytesDecoder() if source.schema is None else JsonDecoder(fields, names, source.validate)
        self._metadata = [name for name in METADATA if name in spec.wanted]

    def restore(self, position: InputPosition) -> None:
        """Go on where a commit left off."""
        self.next, self.fresh, self.maximum = position.offset, position.read, position.maximum
        self.topic = position.topic
        for number, channel in position.channels.items():
            self.channels[number] = Channel(channel.watermark, channel.idle)

    @property
    def watermark(self) -> int | None:
        """The least watermark of the channels that are not idle; None if all are."""
        live = [c.watermark for c in self.channels.values() if not c.idle]
        return min(live) if live else None

    def take(self, records: Records) -> list[Read]:
        """Decode a run of records into batches (a source gives at most one, a shuffle one a block)."""
        made = self._take_source(records) if self.source is not None else self._take_blocks(records)
        self.next = records.next_offset
        self.fresh = max(self.fresh, self.next)
        return made

    def _take_source(self, records: Records) -> list[Read]:
        assert self.source is not None and self._decoder is not None
        values = records.values()
        columns, good, bad = self._decoder.decode(values)
        replays = self.next < self.fresh
        rows = np.arange(len(values), dtype=np.uint32) if good is None else np.array(good, dtype=np.uint32)
        if self.source.time is not None:
            times = columns[self.source.time].to_numpy()
            wrong = self._implausible(times, rows, records) if len(times) else []
            if wrong:
                bad += [(int(rows[i]), self._time_cause(int(times[i]))) for i in wrong]
                keep = np.ones(len(rows), bool)
                keep[wrong] = False
                rows, times = rows[keep], times[keep]
                columns = {n: c.filter(pl.Series(keep)) for n, c in columns.items()}
        if bad:
            offsets = records.offsets()
            # In the order of offsets, however the input is cut; what was read before the restart is reported already.
            told = [(index, cause) for index, cause in sorted(bad) if offsets[index] >= self.fresh]
            letters = RecordOrigin(records).letters([index for index, _ in told])
            for letter, (_, cause) in zip(letters, told, strict=True):
                self._dead(letter, cause, self.spec.node)
        if not len(rows):
            return []
        if self.source.time is not None:
            if self.source.time not in self.spec.wanted:
                del columns[self.source.time]
            running = np.maximum.accumulate(times)
            if running[0] < self.maximum:
                running = np.maximum(running, self.maximum)
            self.maximum = int(running[-1])
            marks = running - self.source.disorder
            columns[TIME] = pl.Series(TIME, times)
            columns[WATERMARK] = pl.Series(WATERMARK, marks)
            channel = self.channels[0]
            channel.watermark = max(channel.watermark, int(marks[-1]))
        columns[ROW] = pl.Series(ROW, rows)
        for name in self._metadata:
            columns[name] = self._meta(name, records, rows)
        fresh_from = 0
        if replays:
            offsets = records.offsets()
            fresh_from = sum(1 for i in rows.tolist() if offsets[i] < self.fresh)
        return [Read(Batch(pl.DataFrame(columns), RecordOrigin(records)), 0, fresh_from)]

    def _take_blocks(self, records: Records) -> list[Read]:
        out = []
        for index, (offset, value) in enumerate(zip(records.offsets(), records.values(), strict=True)):
            try:
                block = decode_block(value or b"")
            except RecordError as error:
                if offset >= self.fresh:
                    self._dead(RecordOrigin(records).letters([index])[0], str(error), self.spec.node)
                continue
            channel = self.channels.setdefault(block.channel, Channel())
            if offset >= self.fresh:
                channel.watermark, channel.idle = max(channel.watermark, block.watermark), block.idle
            if block.frame is not None:
                frame = block.frame.with_row_index(ROW)
                origin = BlockOrigin(frame, records.source.topic, records.source.partition, offset)
                out.append(Read(Batch(frame, origin), block.channel, frame.height if offset < self.fresh else 0))
        return out

    def _implausible(self, times: Array, rows: Array, records: Records) -> list[int]:
        """Positions of rows whose event time cannot be believed: more than a day away from the running maximum of those
        before it, and too far from the record's own timestamp (where it has one).

        Within a day of the maximum nothing is spoilt, so the timestamps, which cost a call a record, need not be read.
        """
        assert self.source is not None
        before = np.empty(len(times), np.int64)
        before[:1] = self.maximum
        np.maximum.accumulate(times[:-1], out=before[1:])
        np.maximum(before, self.maximum, out=before)
        # Halves: the distance of two 64-bit numbers may not fit into 64 bits.
        if not (np.abs(times // 2 - before // 2) > _NEAR // 2).any():
            return []
        stamps, wrong, maximum = records.timestamps(), [], self.maximum
        ahead, behind = self.source.ahead, self.source.behind
        for place, (time, row) in enumerate(zip(times.tolist(), rows.tolist(), strict=True)):
            stamp = stamps[row]
            odd = stamp >= 0 and not stamp - behind <= time <= stamp + ahead
            if abs(time) > _FARTHEST or (odd and abs(time - maximum) > _NEAR):
                wrong.append(place)
            else:
                maximum = max(maximum, time)
        return wrong

    def _time_cause(self, time: int) -> str:
        assert self.source is not None
        return (
            f"implausible event time {time}: more than {text(self.source.ahead)} after or {text(self.source.behind)} "
            "before the record's own timestamp"
        )

    def _meta(self, name: str, records: Records, rows: Array) -> pl.Series:
        count = len(rows)
        if name == "$topic":
            return pl.repeat(records.source.topic, count, dtype=pl.String, eager=True)
        if name == "$partition":
            return pl.repeat(records.source.partition, count, dtype=pl.Int32, eager=True)
        if name == "$headers":
            data = [[{"name": k, "value": v} for k, v in h] if h else [] for h in records.headers()]
            return pl.Series(name, data, dtype=METADATA[name]).gather(rows)
        get = {"$key": records.keys, "$timestamp": records.timestamps, "$offset": records.offsets}[name]
        return pl.Series(name, list(get()), dtype=METADATA[name]).gather(rows)
