"""KeyBy and Union: which rows meet where."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from operators.order import join_origins, order, renumbered
from streams.core.batch import ROW, Batch
from streams.core.errors import BuildError, NoEventTime, UnknownColumn, WrongType
from streams.core.operator import Operator
from streams.core.schema import StreamType
from streams.core.stream import Repartition, Stream, connect


class KeyBy(Repartition):
    """Brings the rows of one key together: a shuffle, unless the stream has this key already.

    The columns may be of type str, bytes, int or bool; a null is a key like any other. The order of rows of one key
    from one input partition is kept. Rows go where a Java client of Kafka would send a record of that key. Raises,
    while the program is built: UnknownColumn; WrongType for a column that cannot be a key.

    `partitions`: into how many, which is how many tasks can work behind it; by default as many as the source topic with
    the most. Once the program has run, the number changes through a savepoint only.

    >>> from streams.core.schema import Field
    >>> KeyBy("card").bind(StreamType({"card": Field(pl.String())})).key
    ('card',)
    """

    def __init__(self, *columns: str, partitions: int | None = None) -> None:
        where = "KeyBy"
        if partitions is not None and (type(partitions) is not int or partitions < 1):
            raise WrongType(f"partitions={partitions!r}", where=where, fix="a number from 1 on")
        for column in columns:
            if not isinstance(column, str):
                raise WrongType(
                    f"{column!r} is not the name of a column", where=where, fix="make the column with WithColumns first"
                )
        super().__init__(columns, partitions)

    def bind(self, *inputs: StreamType) -> StreamType:
        where = self.id or "KeyBy"
        if not self.columns:
            raise UnknownColumn("a key without columns", where=where, fix='KeyBy("column")')
        fields = inputs[0].fields
        for name in self.columns:
            inputs[0].require([name], where)
            if name not in fields:
                raise WrongType(f"a key of metadata: {name!r}", where=where, fix="copy it: WithColumns(mine=col(...))")
            dtype = fields[name].dtype
            if not (dtype in (pl.String, pl.Binary, pl.Boolean) or dtype.is_integer()):
                raise WrongType(
                    f"a key cannot be of type {dtype}", where=f"{where}, {name!r}", fix="use str, bytes, int or bool"
                )
        if len(set(self.columns)) < len(self.columns):
            raise WrongType(f"a column twice in one key: {', '.join(self.columns)}", where=where)
        return replace(inputs[0], key=self.columns)

    def needs(self, wanted: set[str], port: int, inputs: Sequence[StreamType]) -> set[str]:
        return wanted | set(self.columns)


class Union(Operator):
    """The rows of several streams with the same columns as one stream; `union(a, b)` makes it.

    `ordered`: rows go on in the order of event time (at equal times the earlier stream first), as soon as no stream can
    bring an earlier one; so the result is the same after a restart. Without it rows go on as they come. The stream
    keeps the key that all of its inputs have.
    """

    def __init__(self, count: int, ordered: bool = True) -> None:
        if count < 2:
            raise BuildError("a union of fewer than two streams", fix="union(a, b)")
        self.ports = count
        self.ordered = ordered

    def bind(self, *inputs: StreamType) -> StreamType:
        where, first = self.id or "Union", inputs[0]
        fields = dict(first.fields)
        for number, other in enumerate(inputs[1:], 2):
            for name in [*first.fields, *(n for n in other.fields if n not in first.fields)]:
                mine, its = first.fields.get(name), other.fields.get(name)
                if mine is None or its is None or mine.dtype != its.dtype:
                    raise WrongType(
                        f"stream 1 has {_column(name, mine)}, stream {number} has {_column(name, its)}",
                        where=where,
                        fix="make the columns agree with Select",
                    )
                if its.nullable and not fields[name].nullable:
                    fields[name] = its
            if other.time != first.time:
                raise NoEventTime("one of the streams has event time, another has none", where=where)
        if self.ordered and not first.time:
            raise NoEventTime("streams without event time have no order", where=where, fix="union(a, b, ordered=False)")
        same_key = all(t.key == first.key for t in inputs)
        same_schema = all(t.schema is first.schema for t in inputs)
        return StreamType(fields, first.key if same_key else (), first.time, first.schema if same_schema else None)

    def needs(self, wanted: set[str], port: int, inputs: Sequence[StreamType]) -> set[str]:
        return set(wanted)

    def process(self, batch: Batch, port: int = 0) -> Batch:
        columns = [c for c in self.context.output.fields if c in batch.frame.columns]
        hidden = [c for c in batch.frame.columns if c.startswith("$")]
        return batch.with_frame(batch.frame.select(columns + hidden))

    def process_ordered(self, batches: Sequence[tuple[int, Batch]]) -> Batch:
        if len(batches) == 1:
            return self.process(batches[0][1], batches[0][0])
        origin, bases = join_origins([b for _, b in batches])
        index, place = order(batches, self.context.channels)
        first = self.process(batches[0][1]).frame.columns
        frames = [b.frame for _, b in batches]
        common = [c for c in first if all(c in f.columns for f in frames) and (c != ROW or origin is not None)]
        stacked = pl.concat([renumbered(f.select(common), base) for f, base in zip(frames, bases, strict=True)])
        starts = [0, *(f.height for f in frames)]
        for i in range(1, len(starts)):
            starts[i] += starts[i - 1]
        at = place + pl.Series(starts[:-1]).to_numpy()[index]
        return Batch(stacked[at], origin)


def union(*streams: Stream, ordered: bool | None = None) -> Stream:
    """Several streams with the same columns as one: `union(cards, transfers) | Window(...)`.

    `ordered` (by default: where all of them have event time) makes the order of rows the same in every run, and waits
    for the slowest stream; see `Union`. Raises WrongType where the columns differ.
    """
    if ordered is None:
        ordered = all(s.type.time for s in streams)
    if len(streams) < 2:
        raise BuildError("a union of fewer than two streams", fix="union(a, b)")
    return connect(*streams) | Union(len(streams), ordered)


def _column(name: str, field: Any) -> str:
    return f"no column {name!r}" if field is None else f"{name}: {field.dtype}"
