"""The order in which the rows of several ports are taken: what Union and keyed classes with several inputs share."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from streams.core.batch import ROW, TIME, WATERMARK, Batch, Joined, Origin

Ints = npt.NDArray[np.int64]


def join_origins(batches: Sequence[Batch]) -> tuple[Origin | None, list[int]]:
    """One origin for all batches, and what to add to the `$row` of each; None if a row comes from no record."""
    if any(b.origin is None or ROW not in b.frame.columns for b in batches):
        return None, [0] * len(batches)
    first = batches[0].origin
    if all(b.origin is first for b in batches):
        return first, [0] * len(batches)
    bases: list[int] = []
    base = 0
    for batch in batches:
        bases.append(base)
        base += int(batch.frame[ROW].max()) + 1  # type: ignore[arg-type]
    return Joined(bases, [b.origin for b in batches if b.origin is not None]), bases


def turns(frame: pl.DataFrame) -> Ints:
    """When each row's turn comes, where several channels meet: at its event time, or, if it comes late within its own
    source partition, at that partition's watermark. The engine releases rows in this order."""
    times = frame[TIME].to_numpy()
    return np.maximum(times, frame[WATERMARK].to_numpy()) if WATERMARK in frame.columns else times


def order(batches: Sequence[tuple[int, Batch]], channels: int) -> tuple[Ints, Ints]:
    """The order in which rows are taken: the batch of each, and its place in that batch.

    Where several channels meet: by their turn (`turns`), then port, then place. Where one channel branches and comes
    together again: by the record that the rows come from, then port; so it is as if records came one by one.

    >>> a = Batch(pl.DataFrame({"$time": [1, 5]})); b = Batch(pl.DataFrame({"$time": [1, 3]}))
    >>> [index.tolist() for index in order([(0, a), (1, b)], channels=2)]
    [[0, 1, 1, 0], [0, 0, 1, 1]]
    """
    counts = [b.count for _, b in batches]
    index = np.repeat(np.arange(len(batches)), counts)
    place = np.concatenate([np.arange(n) for n in counts])
    if len(batches) == 1:
        return index, place
    ports = np.repeat([port for port, _ in batches], counts)
    origin = batches[0][1].origin
    branches = channels == 1 and all(
        b.origin is origin and origin is not None and ROW in b.frame.columns for _, b in batches
    )
    by = np.concatenate([b.frame[ROW].to_numpy() if branches else turns(b.frame) for _, b in batches])
    chosen = np.lexsort((ports, by))  # stable: places stay in order
    return index[chosen], place[chosen]


def renumbered(frame: pl.DataFrame, base: int) -> pl.DataFrame:
    """The frame with `base` added to `$row`."""
    return frame.with_columns((pl.col(ROW) + base).cast(pl.UInt32)) if base else frame
