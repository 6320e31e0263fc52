"""Several aggregators bound to a stream: the columns they read, how they are stored, the columns they give."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from operators.aggregators import Aggregator, Argument, Part
from operators.expressions import guarded, metadata, outputs
from operators.folds import Array, Segments
from streams.core.batch import Batch
from streams.core.errors import WrongType
from streams.core.operator import Context, Operator
from streams.core.schema import Field, StreamType

Rows = npt.NDArray[np.void]


class Aggregating(Operator):
    """Base of the operators that aggregate. Their aggregators are bound to a stream once, not anew in each task."""

    aggregations: Sequence[Aggregator]
    _bound: "tuple[StreamType, str, Aggregation] | None" = None

    def aggregation(self, type: StreamType) -> "Aggregation":
        where = self.id or self.__class__.__name__
        if self._bound is None or self._bound[0] is not type or self._bound[1] != where:
            self._bound = type, where, Aggregation(type, self.aggregations, where)
        return self._bound[2]


class Aggregation:
    """Aggregators bound to a stream.

    `layout` is how their parts are stored: a packed structured type whose fields are the parts. `initial` is one row of
    it that nothing has been folded into.
    """

    def __init__(self, type: StreamType, aggregators: Sequence[Aggregator], where: str) -> None:
        if isinstance(aggregators, Aggregator) or not all(isinstance(a, Aggregator) for a in aggregators):
            raise WrongType(
                "aggregations are a list of aggregators", where=where, fix='[agg.count(), agg.sum("amount")]'
            )
        self.aggregators = list(aggregators)
        self._key = [(k, type.fields[k].dtype) for k in type.key]
        self.fields: dict[str, Field] = {}
        self.reads: set[str] = set()
        self._computed: dict[str, pl.Expr] = {}
        self._parts: dict[str, Part] = {}
        self._parts_of: list[list[str]] = []
        self._first: dict[str, str] = {}  # the column of each part's first argument, "" if it has none
        for number, aggregator in enumerate(self.aggregators):
            self._add(type, aggregator, number, where)
        self.layout: np.dtype[Any] = np.dtype([(name, part.dtype) for name, part in self._parts.items()])
        initial = np.zeros(1, self.layout)
        for name, part in self._parts.items():
            initial[name] = part.fold.identity(self.layout[name])
        self.initial = initial.tobytes()

    def _add(self, type: StreamType, aggregator: Aggregator, number: int, where: str) -> None:
        place = f"{where}, {aggregator!r}"
        arguments = []
        for position, value in enumerate(aggregator.arguments):
            made = outputs(type, [value], {}, place)
            if len(made) != 1:
                raise WrongType(f"{len(made)} columns for one argument", where=place, fix="name one column")
            self.reads |= made[0].roots
            expr = made[0].expr.meta.undo_aliases()
            if not made[0].plain:
                name = f"$argument-{number}-{position}"
                self._computed[name] = expr
                expr = pl.col(name)
            arguments.append(Argument(expr, made[0].field.dtype))
        name = aggregator.output
        if name in self.fields:
            raise WrongType(f"two aggregations are called {name!r}", where=where, fix='name one: .alias("name")')
        if name.startswith("$"):
            raise WrongType(f"a column cannot be called {name!r}", where=where, fix="names with $ are the engine's own")
        self.fields[name] = aggregator.field(*arguments)
        parts = {f"{number}.{part.name}": part for part in aggregator.parts(*arguments)}
        for part in parts.values():
            if part.dtype not in _POLARS:
                raise WrongType(f"a part of type {part.dtype!r}", where=place, fix=f"one of: {', '.join(_POLARS)}")
        self._parts.update(parts)
        self._parts_of.append(list(parts))
        self._first |= {p: arguments[0].expr.meta.output_name() if arguments else "" for p in parts}

    @property
    def parts(self) -> list[str]:
        """The names of the parts: the layout's fields, and the columns of partial results."""
        return list(self._parts)

    @cached_property
    def signature(self) -> str:
        """What stored rows mean: key, aggregators and layout. State of another signature is refused, never misread."""
        made = [f"{n}:{t}" for n, t in self._key]
        for aggregator, parts in zip(self.aggregators, self._parts_of, strict=True):
            stored = ",".join(f"{self._parts[p].name}{self.layout[p].str}" for p in parts)
            made.append(f"{aggregator.unnamed}[{stored}]")
        return "; ".join(made)

    def needs(self) -> set[str]:
        """The columns of the stream that are read."""
        return metadata(self.reads)

    @cached_property
    def sources(self) -> list[str]:
        """The columns that the parts' expressions read once `prepared`."""
        expressions = [e for p in self._parts.values() for e in (p.rows, p.group) if e is not None]
        return sorted({root for e in expressions for root in e.meta.root_names()})

    def prepared(self, batch: Batch, context: Context) -> Batch:
        """The batch with the arguments that must be computed; rows on which that fails are dead letters."""
        if not self._computed:
            return batch
        computed = [e.alias(n) for n, e in self._computed.items()]
        return batch.with_frame(guarded(batch, lambda frame: frame.with_columns(computed), context))

    # ---- groups of rows

    @cached_property
    def group(self) -> list[pl.Expr]:
        """What `group_by(...).agg(...)` makes of prepared rows: a column a part."""
        return [
            (part.group if part.group is not None else part.fold.group(part.rows))
            .fill_null(pl.lit(self._identity(name), dtype=_POLARS[self.layout[name].str]))
            .alias(name)
            for name, part in self._parts.items()
        ]

    @cached_property
    def regroup(self) -> list[pl.Expr]:
        """What `group_by(...).agg(...)` makes of partial results."""
        return [part.fold.group(pl.col(name)).alias(name) for name, part in self._parts.items()]

    def pack(self, partial: pl.DataFrame) -> Rows:
        """Partial results as rows of the layout."""
        rows = np.empty(partial.height, self.layout)
        for name in self._parts:
            rows[name] = partial[name].to_numpy()
        return rows

    def merge(self, left: Rows, right: Rows) -> Rows:
        """Row by row, the fold of both."""
        rows = np.empty(len(left), self.layout)
        for name, part in self._parts.items():
            rows[name] = part.fold.combine(left[name], right[name])
        return rows

    # ---- running values

    def running(
        self, frame: pl.DataFrame, base: Rows, segments: Segments, chosen: npt.NDArray[np.int64]
    ) -> tuple[dict[str, Array], Rows]:
        """For each row (prepared, taken in the order `chosen`, in which keys lie in segments) the parts folded with
        those of all rows before it in its segment and with the segment's row of `base`; and the last ones of each
        segment."""
        columns, ends, last = {}, segments.ends, np.empty(len(base), self.layout)
        for name, values in self._numbers(frame).items():
            values = values.astype(self.layout[name], copy=False)
            folded = self._parts[name].fold.running(values[chosen], np.ascontiguousarray(base[name]), segments)
            last[name] = folded[ends]
            columns[name] = np.empty_like(folded)
            columns[name][chosen] = folded
        return columns, last

    def _numbers(self, frame: pl.DataFrame) -> dict[str, Array]:
        """The parts of each row, in NumPy where the parts can, else by Polars."""
        out: dict[str, Array] = {}
        rest: list[pl.Expr] = []
        seen: dict[str, tuple[Array, Array | None]] = {}
        for name, part in self._parts.items():
            if part.numbers is None:
                rest.append(part.rows.alias(name))
                continue
            column = self._first[name]
            if column not in seen:
                seen[column] = _with_nulls(frame[column]) if column else (np.zeros(frame.height, np.int64), None)
            out[name] = part.numbers(*seen[column])
        if rest:
            for series in frame.select(rest):
                made = series.to_numpy()
                out[series.name] = made if len(made) == frame.height else np.repeat(made, frame.height)  # a constant
        return out

    # ---- results

    def results(self, rows: Rows | Mapping[str, Array]) -> list[pl.Series]:
        """The output columns, from rows of the layout or a column a part."""
        made = []
        for (name, field), aggregator, parts in zip(self.fields.items(), self.aggregators, self._parts_of, strict=True):
            series = aggregator.result(*_arrays(rows, parts)).alias(name)
            made.append(series if series.dtype == field.dtype else series.cast(field.dtype))
        return made

    def wrong(self, rows: Rows | Mapping[str, Array]) -> Mapping[int, str]:
        """Rows without a result, and the cause."""
        causes: dict[int, str] = {}
        for aggregator, parts in zip(self.aggregators, self._parts_of, strict=True):
            wrong = aggregator.wrong(*_arrays(rows, parts))
            if wrong is not None and wrong.any():
                why = aggregator.why()
                for row in np.flatnonzero(wrong).tolist():
                    causes.setdefault(row, why)
        return causes

    def _identity(self, name: str) -> Any:
        return self._parts[name].fold.identity(self.layout[name])


_POLARS: dict[str, Any] = {
    "<i8": pl.Int64,
    "<f8": pl.Float64,
    "|u1": pl.UInt8,
    "<i4": pl.Int32,
    "<u4": pl.UInt32,
    "<f4": pl.Float32,
}


def _arrays(rows: Rows | Mapping[str, Array], parts: Sequence[str]) -> list[Array]:
    return [np.ascontiguousarray(rows[name]) for name in parts]


def _with_nulls(series: pl.Series) -> tuple[Array, Array | None]:
    """Values, 0 where null, and where they are not null (None: all are not)."""
    if not series.null_count():
        return series.to_numpy(), None
    return series.fill_null(False if series.dtype == pl.Boolean else 0).to_numpy(), series.is_not_null().to_numpy()
