"""Where rows leave a task: sinks and shuffles become records of the open commit."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from streams.codec.blocks import ShuffleBlock, encode_block
from streams.codec.json import encode
from streams.core.batch import ROW, TIME, Batch, Letter
from streams.core.keys import key_bytes, partitions
from streams.core.record import Produced
from streams.core.stream import Node
from streams.core.time import NEVER

Append = Callable[[Produced], None]
Dead = Callable[[Letter, str, str], None]

_CLOCKS = 60_000  # milliseconds by which the brokers' clocks may differ from ours
_BLOCK_ROWS = 100_000  # rows that a shuffle holds back at the most before it writes a block
_BLOCK_BYTES = 4_000_000  # of a block, uncompressed; a single row may be larger


def latest_taken(now: int, ahead_ms: int) -> int | None:
    """The latest timestamp that a topic takes which lets records lie so far ahead of the brokers' clocks (-1: any)."""
    return now + max(0, ahead_ms - _CLOCKS) if ahead_ms >= 0 else None


def letters_of(batch: Batch, rows: Sequence[int]) -> list[Letter]:
    """The records that rows come from; the rows themselves as JSON where they come from none (a window's results)."""
    part = Batch(batch.frame[pl.Series(rows, dtype=pl.UInt32)])
    if batch.origin is not None and ROW in part.frame.columns:
        return batch.origin.letters(part.frame[ROW].to_list())
    times = part.frame[TIME].to_list() if TIME in part.frame.columns else [-1] * len(rows)
    return [Letter(value, None, "", -1, -1, time) for value, time in zip(encode(part.visible()), times, strict=True)]


class SinkEdge:
    """Writes rows to a topic as JSON. Without a key, a task writes to one partition: its own number's.

    A row whose record would have more than `most_bytes`, key and value, becomes a dead letter: the log would refuse
    it, and the commit with it, again and again. For the same reason a record's timestamp, which is the row's event
    time, is no further ahead of the clock than `ahead_ms` (-1: no limit).
    """

    def __init__(self, node: Node, partition: int, count: int, most_bytes: int, ahead_ms: int = -1) -> None:
        assert node.sink is not None
        self._id, self._most, self._ahead = node.id, most_bytes, ahead_ms
        self.topic, self.key = node.sink.topic, node.sink.key
        self._columns = list(node.type.fields)
        self._raw = node.type.schema is None and self._columns == ["value"]
        self._partition = partition % count
        self.records = 0

    def write(self, batch: Batch, append: Append, dead: Dead, now: int) -> None:
        frame = batch.frame
        values = frame["value"].to_list() if self._raw else encode(frame[self._columns])
        keys: Sequence[bytes | None] = key_bytes(frame, self.key).to_list() if self.key else [None] * frame.height
        longest = max(map(len, filter(None, keys)), default=0) if self.key else 0
        if max(map(len, values), default=0) + longest > self._most:
            sizes = [len(value) + len(key or b"") for value, key in zip(values, keys, strict=True)]
            large = [i for i, size in enumerate(sizes) if size > self._most]
            for letter, i in zip(letters_of(batch, large), large, strict=True):
                cause = f"the record for topic {self.topic!r} has {sizes[i]:,} bytes, more than {self._most:,}"
                dead(letter, cause, self._id)
            small = [i for i, size in enumerate(sizes) if size <= self._most]
            frame, values, keys = frame[small], [values[i] for i in small], [keys[i] for i in small]
        times: Sequence[int] | int = self._times(frame[TIME], now) if TIME in frame.columns else now
        append(Produced(self.topic, None if self.key else self._partition, keys, values, times))
        self.records += frame.height

    def _times(self, column: pl.Series, now: int) -> Sequence[int]:
        limit = latest_taken(now, self._ahead)
        if limit is not None and (column.max() or 0) > limit:  # type: ignore[operator]
            return np.minimum(column.to_numpy(), limit).tolist()  # type: ignore[no-any-return]
        return column.to_list()


class ShuffleEdge:
    """Collects rows for a shuffle and writes them at the commit, a block for each partition.

    What the readers have been told of the channel (its watermark, whether it is idle) is the same in all partitions.
    """

    def __init__(self, node: Node, topic: str, channel: int, count: int, wanted: Sequence[str]) -> None:
        self.topic, self.channel, self.count = topic, channel, count
        self._key = node.type.key
        self._wanted = [name for name in node.type.fields if name in wanted or name in self._key]
        self._frames: list[pl.DataFrame] = []
        self._rows = 0
        self._told = NEVER
        self._told_idle = False
        self.records = 0
        self.written = NEVER

    def write(self, batch: Batch, append: Append) -> None:
        hidden = [c for c in batch.frame.columns if c.startswith("$") and c != ROW and c in ("$time", "$watermark")]
        self._frames.append(batch.frame[[*self._wanted, *hidden]])
        self._rows += batch.count
        if self._rows >= _BLOCK_ROWS:
            self.flush(append, self._told, self._told_idle, marker=False)

    def flush(self, append: Append, watermark: int, idle: bool, marker: bool) -> bool:
        """Write what was collected, and with `marker` the channel's news to the other partitions; True if anything."""
        frame = pl.concat(self._frames) if self._frames else None
        self._frames, self._rows = [], 0
        news = marker and (watermark > self._told or idle != self._told_idle)
        if frame is None and not news:
            return False
        # Without a marker some partitions get no block: then nobody is told anything new, or those would never be.
        watermark, idle = (max(watermark, self._told), idle) if marker else (self._told, self._told_idle)
        parts = self._split(frame) if frame is not None else {}
        stamp = max(watermark, 0)
        wrote = False
        for partition in range(self.count):
            part = parts.get(partition)
            if part is None and not news:
                continue
            pieces = _pieces(part)
            # What the block tells of the channel is told with the last piece: not before all rows are there.
            told = [(self._told, self._told_idle)] * (len(pieces) - 1) + [(watermark, idle)]
            values = [
                encode_block(ShuffleBlock(self.channel, mark, quiet, piece))
                for piece, (mark, quiet) in zip(pieces, told, strict=True)
            ]
            append(Produced(self.topic, partition, [None] * len(values), values, stamp))
            wrote = True
        if frame is not None:
            self.records += frame.height
        self._told, self._told_idle = watermark, idle
        return wrote

    def untold(self, watermark: int, idle: bool) -> bool:
        """The readers have not been told how far this channel is."""
        return watermark > self._told or idle != self._told_idle

    def _split(self, frame: pl.DataFrame) -> dict[int, pl.DataFrame]:
        if self.count == 1:
            return {0: frame}
        keys = key_bytes(frame, self._key)
        places = partitions(keys.fill_null(b"") if keys.null_count() else keys, self.count)
        order = np.argsort(places, kind="stable")
        found, starts = np.unique(places[order], return_index=True)
        sorted_frame = frame[order]
        ends = [*starts[1:].tolist(), len(order)]
        return {
            int(p): sorted_frame.slice(s, e - s) for p, s, e in zip(found.tolist(), starts.tolist(), ends, strict=True)
        }


def _pieces(frame: pl.DataFrame | None) -> list[pl.DataFrame | None]:
    """The frame in pieces of about _BLOCK_BYTES, or of one row that is larger."""
    if frame is None or frame.estimated_size() <= _BLOCK_BYTES:
        return [frame]
    sizes = np.full(frame.height, 16 * frame.width, np.int64)
    for column in frame:
        sizes += _sizes(column)
    ends, pieces, start = np.cumsum(sizes), list[pl.DataFrame | None](), 0
    while start < frame.height:
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _BLOCK_BYTES, side="right")))
        pieces.append(frame.slice(start, stop - start))
        start = stop
    return pieces


def _sizes(column: pl.Series) -> npt.NDArray[np.int64]:
    """About how many bytes each value takes: one list may be as large as all others together."""
    if column.dtype == pl.String:
        return column.str.len_bytes().fill_null(0).cast(pl.Int64).to_numpy()
    if column.dtype == pl.Binary:
        return column.bin.size().fill_null(0).cast(pl.Int64).to_numpy()
    if column.dtype != pl.List:
        return np.full(len(column), int(column.estimated_size()) // max(1, len(column)), np.int64)
    lengths = column.list.len().fill_null(0).cast(pl.Int64).to_numpy()
    full, sizes = lengths > 0, 16 * lengths
    if full.any():
        ends = np.cumsum(lengths[full])
        sizes[full] += np.add.reduceat(_sizes(column.filter(pl.Series(full)).explode()), ends - lengths[full])
    return sizes
