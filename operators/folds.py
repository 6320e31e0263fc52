"""Folds: how many values become one, over a group at once and as a running value. Plain numbers, no nulls.

A fold is associative and commutative, so results of parts can be folded again, in any order: of a batch, of a commit
interval, of what a store holds. (With sums of floats this holds but for rounding.)
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]

_LONG = 64  # a segment of so many rows is worth a NumPy call of its own


@dataclass(frozen=True)
class Segments:
    """Rows sorted by key: where each key's rows start, and of each row its segment and its place within it.

    >>> s = Segments.of(np.array([3, 3, 8])); s.starts.tolist(), s.index.tolist(), s.place.tolist(), s.ends.tolist()
    ([0, 2], [0, 0, 1], [0, 1, 0], [1, 2])
    """

    starts: Ints
    index: Ints
    place: Ints
    lengths: Ints

    @staticmethod
    def of(keys: Ints) -> "Segments":
        """Of keys that are sorted; at least one."""
        count = len(keys)
        first = np.empty(count, bool)
        first[0] = True
        np.not_equal(keys[1:], keys[:-1], out=first[1:])
        starts = np.flatnonzero(first)
        index = np.cumsum(first) - 1
        return Segments(starts, index, np.arange(count) - starts[index], np.diff(starts, append=count))

    @property
    def ends(self) -> Ints:
        """The last row of each segment."""
        return self.starts + self.lengths - 1


class Fold(ABC):
    """How values become one. Subclass it for a fold of your own."""

    @abstractmethod
    def identity(self, dtype: np.dtype[Any]) -> Any:
        """The value that changes nothing: what a fold of no values gives."""

    @abstractmethod
    def combine(self, left: Array, right: Array) -> Array:
        """Element by element; must be associative and commutative."""

    @abstractmethod
    def group(self, values: pl.Expr) -> pl.Expr:
        """The fold of a group's values, inside `group_by(...).agg(...)`."""

    def running(self, values: Array, base: Array, segments: Segments) -> Array:
        """The fold of each row with all rows before it in its segment and with the segment's `base`.

        A scan in log2(longest segment) steps: Hillis and Steele, "Data parallel algorithms", CACM 29 (1986).
        """
        out = values.copy()
        out[segments.starts] = self.combine(base, out[segments.starts])
        step, longest = 1, int(segments.lengths.max())
        while step < longest:
            reach = np.flatnonzero(segments.place >= step)
            out[reach] = self.combine(out[reach - step], out[reach])
            step *= 2
        return out


class Sum(Fold):
    """Addition. Integers wrap around at 64 bits; running sums of floats add strictly one after the other."""

    def identity(self, dtype: np.dtype[Any]) -> Any:
        return dtype.type(0)

    def combine(self, left: Array, right: Array) -> Array:
        return left + right

    def group(self, values: pl.Expr) -> pl.Expr:
        return values.sum()

    def running(self, values: Array, base: Array, segments: Segments) -> Array:
        """Integers: one cumulative sum over all segments, less what came before (exact, also when it wraps).

        Floats: each segment by itself from left to right, since a difference of sums would round otherwise in another
        batch. Long segments take one call each, short ones go on in step.
        """
        if values.dtype.kind != "f":
            total = np.cumsum(values, dtype=values.dtype)
            starts = segments.starts
            out: Array = total + (base - total[starts] + values[starts])[segments.index]
            return out
        out = np.empty_like(values)
        for segment in np.flatnonzero(segments.lengths > _LONG).tolist():
            start, stop = segments.starts[segment], segments.starts[segment] + segments.lengths[segment]
            row = values[start:stop].copy()
            row[0] += base[segment]
            np.cumsum(row, out=out[start:stop])
        short = np.flatnonzero(segments.lengths <= _LONG)
        short = short[np.argsort(-segments.lengths[short], kind="stable")]
        lengths, starts, sums = segments.lengths[short], segments.starts[short], base[short].copy()
        for step in range(int(lengths[0]) if len(short) else 0):
            going = int(np.searchsorted(-lengths, -step))  # segments longer than `step`
            at = starts[:going] + step
            sums[:going] += values[at]
            out[at] = sums[:going]
        return out


class Least(Fold):
    """The minimum."""

    def identity(self, dtype: np.dtype[Any]) -> Any:
        return np.inf if dtype.kind == "f" else np.iinfo(dtype).max

    def combine(self, left: Array, right: Array) -> Array:
        return np.minimum(left, right)

    def group(self, values: pl.Expr) -> pl.Expr:
        return values.min()

    def running(self, values: Array, base: Array, segments: Segments) -> Array:
        return _extreme(self, np.minimum, values, base, segments)


class Greatest(Fold):
    """The maximum."""

    def identity(self, dtype: np.dtype[Any]) -> Any:
        return -np.inf if dtype.kind == "f" else np.iinfo(dtype).min

    def combine(self, left: Array, right: Array) -> Array:
        return np.maximum(left, right)

    def group(self, values: pl.Expr) -> pl.Expr:
        return values.max()

    def running(self, values: Array, base: Array, segments: Segments) -> Array:
        return _extreme(self, np.maximum, values, base, segments)


def _extreme(fold: Fold, ufunc: np.ufunc, values: Array, base: Array, segments: Segments) -> Array:
    if len(segments.starts) > 1:
        return Fold.running(fold, values, base, segments)
    out = values.copy()
    out[0] = fold.combine(base, out[:1])[0]
    ufunc.accumulate(out, out=out)
    return out


SUM, LEAST, GREATEST = Sum(), Least(), Greatest()
