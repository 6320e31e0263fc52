"""Filter, Select and WithColumns: row by row, without state."""

from collections.abc import Sequence
from typing import Any

import polars as pl

from operators.expressions import Output, carried, check_boolean, guarded, metadata, outputs
from streams.core.batch import Batch
from streams.core.failures import FAILURES
from streams.core.operator import Context, Operator
from streams.core.schema import StreamType


class Filter(Operator):
    """Keeps the rows for which a boolean Polars expression is true (not those where it is false or null).

    The rows keep their order, their key and their event time. A row on which the expression fails (a strict cast, say)
    becomes a dead letter. Raises, while the program is built: UnknownColumn; WrongType if the expression is not boolean
    or looks across rows.

    >>> payments = Batch(pl.DataFrame({"card": ["a", "b"], "amount": [5, -1]}))
    >>> Filter(pl.col("amount") > 0).process(payments).frame.rows()
    [('a', 5)]
    """

    def __init__(self, expr: pl.Expr | str | bool) -> None:
        self.expr = pl.lit(expr) if isinstance(expr, bool) else pl.col(expr) if isinstance(expr, str) else expr

    def bind(self, *inputs: StreamType) -> StreamType:
        check_boolean(inputs[0], self.expr, self.id or "Filter")
        return inputs[0]

    def needs(self, wanted: set[str], port: int, inputs: Sequence[StreamType]) -> set[str]:
        return wanted | metadata(self.expr.meta.root_names())

    def process(self, batch: Batch, port: int = 0) -> Batch | None:
        try:
            kept = batch.frame.filter(self.expr)
        except FAILURES:
            kept = guarded(batch, lambda frame: frame.filter(self.expr), self.context)
        return batch.with_frame(kept) if kept.height else None


class _Columns(Operator):
    """Expressions that make columns, one value a row."""

    def __init__(self, *exprs: Any, **named: Any) -> None:
        self._exprs, self._named = exprs, named
        self._type: StreamType | None = None
        self._outputs: list[Output] = []

    def _bind(self, type: StreamType) -> list[Output]:
        if type is not self._type:
            self._outputs = outputs(type, self._exprs, self._named, self.id or self.__class__.__name__)
            self._type = type
        return self._outputs

    def open(self, context: Context) -> None:
        super().open(context)
        self._bind(context.inputs[0])

    def _made(self, frame: pl.DataFrame) -> list[Output]:
        """What can be made: an output that nobody reads lacks its inputs."""
        have = set(frame.columns)
        return [o for o in self._outputs if o.roots <= have]


class Select(_Columns):
    """The stream with these columns only: names, and row-wise Polars expressions.

    Rows, order and event time stay. The stream keeps its key while the key's columns are among the outputs unchanged.
    A row on which an expression fails becomes a dead letter. Raises, while the program is built: UnknownColumn;
    WrongType for an expression that Polars refuses or that looks across rows.

    >>> from streams.core.schema import Field
    >>> euros = Select("card", euros=pl.col("cents") / 100)
    >>> euros.bind(StreamType({"card": Field(pl.String()), "cents": Field(pl.Int64())}, key=("card",)))
    ... # doctest: +ELLIPSIS
    StreamType(fields={'card': ..., 'euros': ...}, key=('card',), time=False, schema=None)
    >>> euros.process(Batch(pl.DataFrame({"card": ["a"], "cents": [250]}))).frame.rows()
    [('a', 2.5)]
    """

    def bind(self, *inputs: StreamType) -> StreamType:
        made = self._bind(inputs[0])
        same = {o.name for o in made if o.plain and o.roots == {o.name}}
        fields = {o.name: o.field for o in made}
        return inputs[0].with_fields(fields, keep_key=same.issuperset(inputs[0].key))

    def needs(self, wanted: set[str], port: int, inputs: Sequence[StreamType]) -> set[str]:
        made = self._bind(inputs[0])
        roots = {root for o in made if o.name in wanted for root in o.roots}
        return metadata(roots | {n for n in wanted if n.startswith("$")})

    def process(self, batch: Batch, port: int = 0) -> Batch:
        frame = batch.frame
        made = self._made(frame)
        exprs = [o.expr for o in made]
        hidden = carried(frame)
        if hidden and all(o.plain and o.roots == {o.name} for o in made):
            return batch.with_frame(frame[[*(o.name for o in made), *hidden]])

        def compute(frame: pl.DataFrame) -> pl.DataFrame:
            if hidden:
                return frame.select(*exprs, *hidden)
            return frame.with_columns(exprs).select(o.name for o in made)  # constants alone have no length

        try:
            return batch.with_frame(compute(frame))
        except FAILURES:
            return batch.with_frame(guarded(batch, compute, self.context))


class WithColumns(_Columns):
    """The stream with further columns, or with columns replaced, by row-wise Polars expressions.

    Rows, order and event time stay. The stream loses its key if a column of the key is replaced. A row on which an
    expression fails becomes a dead letter. Raises, while the program is built: UnknownColumn; WrongType for an
    expression that Polars refuses or that looks across rows.

    >>> from streams.core.schema import Field
    >>> large = WithColumns(large=pl.col("cents") > 100)
    >>> large.bind(StreamType({"cents": Field(pl.Int64())})).columns
    ['cents', 'large']
    >>> large.process(Batch(pl.DataFrame({"cents": [250, 1]}))).frame.rows()
    [(250, True), (1, False)]
    """

    def bind(self, *inputs: StreamType) -> StreamType:
        made = self._bind(inputs[0])
        changed = {o.name for o in made if not (o.plain and o.roots == {o.name})}
        fields = {**inputs[0].fields, **{o.name: o.field for o in made}}
        return inputs[0].with_fields(fields, keep_key=changed.isdisjoint(inputs[0].key))

    def needs(self, wanted: set[str], port: int, inputs: Sequence[StreamType]) -> set[str]:
        made = self._bind(inputs[0])
        roots = {root for o in made if o.name in wanted for root in o.roots}
        return metadata(wanted - {o.name for o in made} | roots)

    def process(self, batch: Batch, port: int = 0) -> Batch:
        exprs = [o.expr for o in self._made(batch.frame)]
        try:
            return batch.with_frame(batch.frame.with_columns(exprs))
        except FAILURES:
            return batch.with_frame(guarded(batch, lambda frame: frame.with_columns(exprs), self.context))
