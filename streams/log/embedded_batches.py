"""Batches of records as the embedded log stores them: Arrow columns, lz4, in blobs of about a megabyte."""

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
import polars as pl

from streams.core.errors import LogError
from streams.core.record import Headers, Produced, TopicPartition

MOST_BYTES = 1_000_000
"""Bytes of keys and values in a batch, if no single record is larger."""
MOST_RECORDS = 50_000
LARGEST = 900_000_000
"""Bytes of a record: SQLite's own limit is a blob of a thousand million."""

_HEADERS = msgspec.msgpack.Decoder(list[tuple[str, bytes]])


def to_frame(records: Produced) -> pl.DataFrame:
    """The records as columns key, value, timestamp, headers; keys and headers are left out where there are none.

    >>> to_frame(Produced("t", 0, [None], [b"v"], 5)).to_dicts()
    [{'value': b'v', 'timestamp': 5}]
    """
    count, stamps = len(records.values), records.timestamps
    columns = {"value": pl.Series("value", records.values, dtype=pl.Binary)}
    if isinstance(stamps, int):
        columns["timestamp"] = pl.repeat(stamps, count, dtype=pl.Int64, eager=True)
    else:
        columns["timestamp"] = pl.Series("timestamp", stamps, dtype=pl.Int64)
    keys = pl.Series("key", records.keys, dtype=pl.Binary)
    if keys.null_count() < len(keys):
        columns["key"] = keys
    if records.headers is not None and any(records.headers):
        packed = [msgspec.msgpack.encode(h) if h else None for h in records.headers]
        columns["headers"] = pl.Series("headers", packed, dtype=pl.Binary)
    if any(len(c) != count for c in (keys, *columns.values())):
        raise ValueError("keys, values, timestamps and headers must be equally many")
    return pl.DataFrame(columns)


def sizes(frame: pl.DataFrame) -> pl.Series:
    """Bytes of each record."""
    parts = [pl.col(c).bin.size().fill_null(0) for c in ("key", "value", "headers") if c in frame.columns]
    return frame.select(pl.sum_horizontal(parts).cast(pl.Int64)).to_series()


def cut(frames: Sequence[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """The records in the same order, cut into batches of at most `MOST_BYTES` (or one record) and `MOST_RECORDS`.

    >>> [f.height for f in cut([to_frame(Produced("t", 0, [None] * 3, [b"x" * 600_000] * 3, 0))])]
    [1, 1, 1]
    """
    frame = pl.concat(frames, how="diagonal") if len(frames) > 1 else frames[0]
    if frame.height <= MOST_RECORDS and frame.estimated_size() <= MOST_BYTES:
        yield frame  # the common case: weighing each record would cost more than storing a small batch
        return
    each = sizes(frame).to_numpy()
    if each.max() > LARGEST:
        raise LogError(f"a record of {each.max():,} bytes is too large for the embedded log, which takes {LARGEST:,}")
    bytes_before = np.concatenate([[0], np.cumsum(each)])
    start = 0
    while start < frame.height:
        stop = int(np.searchsorted(bytes_before, bytes_before[start] + MOST_BYTES, "right")) - 1
        stop = min(max(stop, start + 1), start + MOST_RECORDS)
        yield frame[start:stop]
        start = stop


class StoredRecords:
    """A run of stored records; the lists are made when they are asked for, and once.

    >>> run = StoredRecords(TopicPartition("t", 0), 7, to_frame(Produced("t", 0, [b"k", None], [b"v", None], 5)))
    >>> run.values(), run.keys(), list(run.offsets()), run.next_offset, run.headers()
    ([b'v', None], [b'k', None], [7, 8], 9, [None, None])
    """

    __slots__ = ("_headers", "_keys", "_timestamps", "_values", "base", "frame", "source")

    def __init__(self, source: TopicPartition, base: int, frame: pl.DataFrame) -> None:
        self.source, self.base, self.frame = source, base, frame
        self._values: list[bytes | None] | None = None
        self._keys: list[bytes | None] | None = None
        self._timestamps: list[int] | None = None
        self._headers: list[Headers | None] | None = None

    @property
    def next_offset(self) -> int:
        return self.base + self.frame.height

    def __len__(self) -> int:
        return self.frame.height

    def values(self) -> Sequence[bytes | None]:
        if self._values is None:
            self._values = self.frame["value"].to_list()
        return self._values

    def keys(self) -> Sequence[bytes | None]:
        if self._keys is None:
            self._keys = self.frame["key"].to_list() if "key" in self.frame.columns else [None] * self.frame.height
        return self._keys

    def timestamps(self) -> Sequence[int]:
        if self._timestamps is None:
            self._timestamps = self.frame["timestamp"].to_list()
        return self._timestamps

    def first_timestamp(self) -> int:
        return int(self.frame["timestamp"][0])

    def offsets(self) -> Sequence[int]:
        return range(self.base, self.next_offset)

    def headers(self) -> Sequence[Headers | None]:
        if self._headers is None:
            if "headers" in self.frame.columns:
                packed = self.frame["headers"].to_list()
                self._headers = [None if h is None else _HEADERS.decode(h) for h in packed]
            else:
                self._headers = [None] * self.frame.height
        return self._headers
