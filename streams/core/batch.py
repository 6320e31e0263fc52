"""The unit of work: a run of records of one partition, held as columns."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import polars as pl

TIME = "$time"
"""Event time of the row, Int64 milliseconds. Present where the stream has event time."""

WATERMARK = "$watermark"
"""The watermark of the row's own source partition at that row. Lateness is decided by it and by nothing else."""

ROW = "$row"
"""Index of the input row that this row comes from, UInt32; only the task's edge maps it to a record."""

HIDDEN = (TIME, WATERMARK, ROW)
METADATA = {
    "$key": pl.Binary(),
    "$timestamp": pl.Int64(),
    "$topic": pl.String(),
    "$partition": pl.Int32(),
    "$offset": pl.Int64(),
    "$headers": pl.List(pl.Struct({"name": pl.String(), "value": pl.Binary()})),
}
"""Columns that every source has; they are filled only where an expression names them."""


@dataclass(frozen=True)
class Letter:
    """What a dead letter says of the record that it holds."""

    value: bytes
    key: bytes | None
    topic: str
    partition: int
    offset: int
    timestamp: int
    row: int = -1
    """Past a shuffle: the row within the block that `offset` names."""
    headers: Sequence[tuple[str, bytes]] = ()
    """The record's own; none past a shuffle."""


class Origin(Protocol):
    """Maps the `$row` of a batch back to the record it came from."""

    def letters(self, rows: Sequence[int]) -> list[Letter]:
        """Many at once: a whole run of records may be bad."""
        ...


@dataclass(frozen=True)
class Joined:
    """Several origins behind each other; `$row` is numbered through them, from `bases` on."""

    bases: Sequence[int]
    origins: Sequence[Origin]

    def letters(self, rows: Sequence[int]) -> list[Letter]:
        parts: dict[int, list[int]] = {}
        for place, row in enumerate(rows):
            parts.setdefault(bisect_right(self.bases, row) - 1, []).append(place)
        made: dict[int, Letter] = {}
        for index, places in parts.items():
            letters = self.origins[index].letters([rows[place] - self.bases[index] for place in places])
            made.update(zip(places, letters, strict=True))
        return [made[place] for place in range(len(rows))]


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows as columns. `frame` has the stream's columns and the hidden ones; `origin` explains `$row`.

    >>> Batch(pl.DataFrame({"amount": [1, 2]})).count
    2
    """

    frame: pl.DataFrame
    origin: Origin | None = None

    @property
    def count(self) -> int:
        return self.frame.height

    def visible(self) -> pl.DataFrame:
        """The user's columns alone."""
        return self.frame.select(c for c in self.frame.columns if not c.startswith("$"))

    def with_frame(self, frame: pl.DataFrame) -> "Batch":
        return Batch(frame, self.origin)


def hidden(frame: pl.DataFrame) -> list[str]:
    """The hidden columns that the frame has, metadata included."""
    return [c for c in frame.columns if c.startswith("$")]


def concat(batches: Sequence[Batch]) -> Batch | None:
    """One batch of several that share an origin; None of none."""
    full = [b for b in batches if b.count]
    if not full:
        return None
    if len(full) == 1:
        return full[0]
    return Batch(pl.concat([b.frame for b in full]), full[0].origin)
