"""Aggregators: what Window and Running compute of many rows. `agg.sum("amount").alias("spent")`.

An aggregator is made of parts. A part is a number a row gives, folded by a sum, a minimum or a maximum; the result is
computed from the folded parts. So a mean is two sums, and a variance three:

    class Variance(Aggregator):
        def parts(self, value):
            x = value.expr.cast(pl.Float64)
            return [Part("n", value.expr.is_not_null().cast(pl.Int64), SUM, "<i8"),
                    Part("sum", x.fill_null(0.0), SUM, "<f8"),
                    Part("squares", (x * x).fill_null(0.0), SUM, "<f8")]

        def field(self, value):
            return Field(pl.Float64(), nullable=True, python=float | None)

        def result(self, n, sum, squares):
            return nulls(squares / np.maximum(n, 1) - (sum / np.maximum(n, 1)) ** 2, n > 0)

    Window(tumbling("1m"), [Variance("amount").alias("spread")])

Parts are what is folded within a batch, across a commit interval, with what a store holds, and as a running value; a
store keeps their numbers and nothing else.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

import numpy as np
import polars as pl

from operators.folds import GREATEST, LEAST, SUM, Array, Fold
from streams.core.errors import WrongType
from streams.core.schema import INT64, Field

__all__ = ["Aggregator", "Argument", "Part", "count", "max", "mean", "min", "nulls", "sum"]

_OVER = 2.0**62  # further from each other than rounding can bring a sum and its estimate


@dataclass(frozen=True)
class Argument:
    """What an aggregator aggregates: an expression and its type."""

    expr: pl.Expr
    dtype: pl.DataType


@dataclass(frozen=True)
class Part:
    """A number of each row, and how the numbers are folded.

    `rows`: a row-wise expression without nulls, of the type `dtype` (NumPy's name of a number: "<i8", "<f8", "|u1").

    Where the same can be had more cheaply: `group` is what a group folds to, inside `group_by(...).agg(...)`, instead
    of `fold.group(rows)` (nulls in it are the fold's identity); `numbers` gives what `rows` does from the first
    argument's values (0 where null) and where they are not null (None: all are not), in NumPy.
    """

    name: str
    rows: pl.Expr
    fold: Fold
    dtype: str
    group: pl.Expr | None = None
    numbers: Callable[[Array, Array | None], Array] | None = None


class Aggregator(ABC):
    """Base of all aggregators, your own included: see the module's text. Its arguments are columns or expressions."""

    stem: str = ""
    """Begins the name of the output column where there is no alias; the class's name where empty."""

    def __init__(self, *arguments: str | pl.Expr) -> None:
        self.arguments = arguments
        self.name: str | None = None

    def alias(self, name: str) -> Self:
        """The same with this name of its output column.

        >>> sum("amount").alias("spent")
        sum('amount').alias('spent')
        """
        made = copy.copy(self)
        made.name = name
        return made

    @property
    def output(self) -> str:
        """The name of the output column: the alias, else made of the function's and the argument's names."""
        return self.unnamed if self.name is None else self.name

    @property
    def unnamed(self) -> str:
        """The name without an alias."""
        stem = self.stem or type(self).__name__.lower()
        names = [a if isinstance(a, str) else a.meta.output_name(raise_if_undetermined=False) for a in self.arguments]
        return "_".join([stem, *(n for n in names if n)])

    @abstractmethod
    def parts(self, *arguments: Argument) -> Sequence[Part]:
        """What is folded. Raise WrongType for an argument of a wrong type."""

    @abstractmethod
    def field(self, *arguments: Argument) -> Field:
        """The result's type."""

    @abstractmethod
    def result(self, *parts: Array) -> pl.Series:
        """The results, from the folded parts in the order of `parts`; see `nulls`."""

    def wrong(self, *parts: Array) -> Array | None:
        """Which results cannot be told (True): the rows become dead letters. None: all can."""
        return None

    def why(self) -> str:
        """The cause in those dead letters."""
        return f"{self!r} has no result"

    def __repr__(self) -> str:
        stem = self.stem or type(self).__name__
        arguments = ", ".join(repr(a) if isinstance(a, str) else str(a) for a in self.arguments)
        return f"{stem}({arguments})" + (f".alias({self.name!r})" if self.name is not None else "")


def nulls(values: Array, valid: Array) -> pl.Series:
    """A series of the values, null where they are not valid.

    >>> nulls(np.array([1, 2]), np.array([True, False])).to_list()
    [1, None]
    """
    series = pl.Series(values)
    mask = np.asarray(valid, bool)
    return series if mask.all() else series.set(pl.Series(~mask), None)


# ---------------------------------------------------------------- the built-in ones

_INT: Any = Annotated[int, INT64]


def _is_whole(argument: Argument, aggregator: Aggregator, booleans: bool = False) -> bool:
    """Whether the argument is an int (else it is a float); WrongType if it is neither."""
    dtype = argument.dtype
    if dtype == pl.Boolean and booleans:
        return True
    if dtype.is_float():
        return False
    if dtype.is_integer() and dtype not in (pl.UInt64, pl.Int128, pl.UInt128):
        return True
    raise WrongType(
        f"{aggregator!r} takes numbers, this is {dtype}",
        where=aggregator.output,
        fix="cast it to pl.Int64 or pl.Float64" if dtype.is_numeric() else "name a column of type int or float",
    )


def _sum_parts(value: pl.Expr, whole: bool) -> list[Part]:
    """The sum as a float, and before it, for integers, the sum modulo 2^64."""
    real = value.cast(pl.Float64)
    estimate = Part("estimate", real.fill_null(0.0), SUM, "<f8", real.sum(), _values)
    if not whole:
        return [estimate]
    number = value.cast(pl.Int64)
    return [Part("sum", number.fill_null(0), SUM, "<i8", number.sum(), _values), estimate]


def _count_part(value: pl.Expr) -> Part:
    return Part("n", value.is_not_null().cast(pl.Int64), SUM, "<i8", value.count().cast(pl.Int64), _known)


def _values(values: Array, known: Array | None) -> Array:
    return values


def _known(values: Array, known: Array | None) -> Array:
    return np.ones(len(values), np.uint8) if known is None else known


def _number(values: Array, known: Array | None) -> Array | None:
    """Where the values are numbers: neither null nor NaN (None: everywhere)."""
    if values.dtype.kind != "f" or not (nan := np.isnan(values)).any():
        return known
    number: Array = ~nan if known is None else known & ~nan
    return number


def _wrapped(total: Array, estimate: Array) -> Array:
    """Where an integer sum has left its 64 bits: it is exact modulo 2^64, the estimate to a few bits."""
    wrapped: Array = np.abs(total.astype(np.float64) - estimate) > _OVER
    return wrapped


class _Count(Aggregator):
    stem = "count"

    def parts(self, *arguments: Argument) -> Sequence[Part]:
        if arguments:
            return [_count_part(arguments[0].expr)]
        return [Part("n", pl.lit(1, pl.Int64), SUM, "<i8", pl.len().cast(pl.Int64), _known)]

    def field(self, *arguments: Argument) -> Field:
        return Field(pl.Int64(), python=_INT)

    def result(self, *parts: Array) -> pl.Series:
        return pl.Series(parts[0])


class _Sum(Aggregator):
    stem = "sum"

    def parts(self, *arguments: Argument) -> Sequence[Part]:
        return _sum_parts(arguments[0].expr, _is_whole(arguments[0], self, booleans=True))

    def field(self, *arguments: Argument) -> Field:
        whole = _is_whole(arguments[0], self, booleans=True)
        return Field(pl.Int64(), python=_INT) if whole else Field(pl.Float64(), python=float)

    def result(self, *parts: Array) -> pl.Series:
        return pl.Series(parts[0])

    def wrong(self, *parts: Array) -> Array | None:
        return _wrapped(*parts) if len(parts) == 2 else None

    def why(self) -> str:
        return f"{self!r} is over 64 bits"


class _Extreme(Aggregator):
    def __init__(self, stem: str, fold: Fold, *arguments: str | pl.Expr) -> None:
        super().__init__(*arguments)
        self.stem, self._fold = stem, fold

    def parts(self, *arguments: Argument) -> Sequence[Part]:
        whole = _is_whole(arguments[0], self)
        dtype = np.dtype("<i8" if whole else "<f8")
        value = arguments[0].expr.cast(pl.Int64) if whole else arguments[0].expr.cast(pl.Float64).fill_nan(None)
        nothing = self._fold.identity(dtype)
        filled = value.fill_null(pl.lit(nothing, pl.Int64 if whole else pl.Float64))

        def fill(values: Array, known: Array | None) -> Array:
            number = _number(values, known)
            return values if number is None else np.where(number, values, dtype.type(nothing))

        def some(values: Array, known: Array | None) -> Array:
            return _known(values, _number(values, known))

        group = (value.count() > 0).cast(pl.UInt8)
        return [
            Part("value", filled, self._fold, dtype.str, self._fold.group(value), fill),
            Part("some", value.is_not_null().cast(pl.UInt8), GREATEST, "|u1", group, some),
        ]

    def field(self, *arguments: Argument) -> Field:
        whole = _is_whole(arguments[0], self)
        return Field(pl.Int64(), True, _INT | None) if whole else Field(pl.Float64(), True, float | None)

    def result(self, *parts: Array) -> pl.Series:
        return nulls(parts[0], parts[1] > 0)


class _Mean(Aggregator):
    stem = "mean"

    def parts(self, *arguments: Argument) -> Sequence[Part]:
        value = arguments[0].expr
        return [*_sum_parts(value, _is_whole(arguments[0], self)), _count_part(value)]

    def field(self, *arguments: Argument) -> Field:
        _is_whole(arguments[0], self)
        return Field(pl.Float64(), True, float | None)

    def result(self, *parts: Array) -> pl.Series:
        total, count = parts[0].astype(np.float64), parts[-1]
        if len(parts) == 3:
            total = np.where(_wrapped(parts[0], parts[1]), parts[1], total)
        return nulls(total / np.maximum(count, 1), count > 0)


def count(column: str | pl.Expr | None = None) -> Aggregator:
    """How many rows; of a column or expression: how many values that are not null. Int64."""
    return _Count() if column is None else _Count(column)


def sum(column: str | pl.Expr) -> Aggregator:
    """The sum; nulls are ignored, of no values it is 0. A bool counts as 0 or 1.

    Of integers: Int64 and exact. Where a result is over 64 bits, the row it belongs to is a dead letter (with Window
    the window's row, with Running the record's), and a later sum that fits again is right.

    Of floats: Float64. Running adds in the order of the rows. Window adds in the order of batches and commits, so the
    last bits may differ from run to run: keep money in integers.
    """
    return _Sum(column)


def min(column: str | pl.Expr) -> Aggregator:
    """The least value; nulls and NaN are ignored, of no values it is null. Int64 or Float64."""
    return _Extreme("min", LEAST, column)


def max(column: str | pl.Expr) -> Aggregator:
    """The greatest value; nulls and NaN are ignored, of no values it is null. Int64 or Float64."""
    return _Extreme("max", GREATEST, column)


def mean(column: str | pl.Expr) -> Aggregator:
    """The mean, Float64; nulls are ignored, of no values it is null. Of integers it is computed from their exact
    sum."""
    return _Mean(column)
