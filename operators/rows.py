"""MapRows, FlatMap and MapFrame: a plain Python function in the stream, without state.

A function that raises, or that returns what does not fit its schema, makes one dead letter of that row, with the cause
`operator-id: ExceptionType: text`; the other rows go on. `on_error` (else the app's) chooses another way: "stop" ends
the worker instead, "retry" or `Retry(...)` calls a function that raises again, some times, before.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, get_args, get_type_hints

import numpy as np
import polars as pl

from operators.expressions import carried, cause, guarded, place
from operators.row_types import FARTHEST, RowReader, RowWriter, row_class
from streams.core.batch import TIME, Batch
from streams.core.errors import WrongType
from streams.core.failures import FAILURES, Policy, checked
from streams.core.keys import key_bytes
from streams.core.operator import Context, Operator
from streams.core.schema import Field, Schema, StreamType


class _Function(Operator):
    """What operators around one user's function share."""

    def __init__(
        self,
        function: Callable[..., Any],
        returns: type[Schema] | None = None,
        key: str | Sequence[str] = (),
        *,
        on_error: Policy | None = None,
    ) -> None:
        self.on_error = None if on_error is None else checked(on_error, type(self).__name__)
        self.function = function
        self.returns = returns
        self.key = (key,) if isinstance(key, str) else tuple(key)

    def bind(self, *inputs: StreamType) -> StreamType:
        where = self.id or type(self).__name__
        _takes_one(self.function, where)
        schema = self.returns
        if schema is None:
            raise WrongType("what does the function return?", where=where, fix="say returns=MySchema")
        fields = RowWriter(schema).fields
        _annotated(self.function, schema, where)
        made = StreamType(fields, self.key, inputs[0].time, schema)
        made.require(self.key, f"{where}, key=")
        if self.key and len(self.key) != len(inputs[0].key):
            raise WrongType(
                f"key={self.key} says where the key of the input is found, which has {inputs[0].key or 'no key'}",
                where=where,
                fix='for another key put KeyBy("column") behind it',
            )
        return made

    def open(self, context: Context) -> None:
        super().open(context)
        assert self.returns is not None
        self._writer = RowWriter(self.returns)
        self._key_of_input = context.inputs[0].key
        self._failures = context.failures(self.on_error)

    def _dead(self, batch: Batch, rows: Sequence[int], causes: Sequence[str]) -> None:
        """Dead letters, or the worker stops."""
        self._failures.give_up(causes[0], place(batch, rows[0]))
        self.context.dead(batch, rows, causes)

    def _finish(self, batch: Batch, columns: Mapping[str, pl.Series], source: Sequence[int] | None) -> Batch | None:
        """The output: the columns, and the engine's own of the input rows that they come from (None: all, in order).

        Rows whose key is not the input row's are dead letters: they would lie on a wrong partition.
        """
        hidden = batch.frame.select(carried(batch.frame))
        if source is not None:
            hidden = hidden[np.array(source, dtype=np.uint32)]
        made = pl.DataFrame(list(columns.values()))
        if hidden.width:
            made = made.hstack(hidden)
        time = self._writer.time
        if time is not None and TIME in made.columns:
            made = made.with_columns(pl.col(time).alias(TIME))
        if self.key and made.height:
            made = self._check_key(batch, made, source)
        return batch.with_frame(made) if made.height else None

    def _check_key(self, batch: Batch, made: pl.DataFrame, source: Sequence[int] | None) -> pl.DataFrame:
        places = np.arange(batch.count, dtype=np.uint32) if source is None else np.array(source, dtype=np.uint32)
        same = key_bytes(made, self.key).eq_missing(key_bytes(batch.frame, self._key_of_input).gather(places))
        if same.all():
            return made
        wrong = np.unique(places[~same.to_numpy()])
        text = f"{self.context.operator_id}: ValueError: the function changed the key, key={self.key} says it does not"
        self._dead(batch, wrong.tolist(), [text] * len(wrong))
        return made.filter(pl.Series(~np.isin(places, wrong)))


class MapRows(_Function):
    """Calls a Python function for each row; it returns an instance of `returns`, or None to drop the row.

    The function gets an object with the stream's columns as attributes: an instance of the stream's schema where its
    columns are still the stream's, else of a class made for it. The output has the event time of the returned schema's
    `EventTime` field if it has one, else the input row's; lateness goes on being decided by the input row's watermark.

    `key`: the output columns that hold the input's key unchanged; without them the stream has no key afterwards.

    Costs one Python call a row, and the making of two objects: 1 to 2 microseconds. Filter, Select and WithColumns cost
    a hundredth of it. Raises WrongType, while the program is built, for a function that does not take one argument or
    is annotated to return something else.

    >>> class Payment(Schema):
    ...     card: str
    ...     cents: int
    >>> class Euros(Schema):
    ...     card: str
    ...     euros: float
    >>> from tests.operators.checks import stream, run
    >>> euros = MapRows(lambda row: Euros(row.card, row.cents / 100) if row.cents > 0 else None, returns=Euros)
    >>> run(euros, stream(Payment), [Payment("a", 250), Payment("b", 0)]).rows
    [{'card': 'a', 'euros': 2.5}]
    """

    def open(self, context: Context) -> None:
        super().open(context)
        self._reader = RowReader(row_class(context.inputs[0]), context.inputs[0].columns)

    def process(self, batch: Batch, port: int = 0) -> Batch | None:
        made: list[Any] = []
        source: list[int] = []
        causes: dict[int, str] = {}
        self._call_all(self._reader.rows(batch.frame), made, source, causes)
        columns, good, bad = self._writer.columns(made)
        if bad:
            name = self.context.operator_id
            causes.update({source[i]: f"{name}: TypeError: {text}" for i, text in reversed(bad.items())})
            assert good is not None
            source = [source[i] for i in good]
            torn = np.array([s in causes for s in source], bool)
            if torn.any():  # of a row with a wrong output nothing goes on
                columns = {n: c.filter(pl.Series(~torn)) for n, c in columns.items()}
                source = [s for s, t in zip(source, torn.tolist(), strict=True) if not t]
        if causes:
            rows = sorted(causes)
            self._dead(batch, rows, [causes[r] for r in rows])
        return self._finish(batch, columns, source)

    def _call_all(self, rows: Sequence[Any], made: list[Any], source: list[int], causes: dict[int, str]) -> None:
        function = self.function
        for i, row in enumerate(rows):
            try:
                one = function(row)
            except FAILURES as error:
                one, last = self._failures.mend(lambda row=row: function(row), error)  # type: ignore[misc]
                if last is not None:
                    causes[i] = cause(self.context, last)
                    continue
            if one is not None:
                made.append(one)
                source.append(i)


class FlatMap(MapRows):
    """Calls a Python function for each row; it yields (or returns a list of) any number of instances of `returns`.

    All else is as with MapRows. A row of which one output is wrong has no output but its dead letter.

    >>> class Basket(Schema):
    ...     items: list[str]
    >>> class Item(Schema):
    ...     name: str
    >>> from tests.operators.checks import stream, run
    >>> run(FlatMap(lambda row: map(Item, row.items), returns=Item), stream(Basket), [Basket(["pen", "ink"])]).rows
    [{'name': 'pen'}, {'name': 'ink'}]
    """

    def _call_all(self, rows: Sequence[Any], made: list[Any], source: list[int], causes: dict[int, str]) -> None:
        function = self.function
        for i, row in enumerate(rows):
            try:
                several = function(row)
                found = list(several) if several is not None else []
            except FAILURES as error:
                found, last = self._failures.mend(lambda row=row: list(function(row) or ()), error)  # type: ignore[misc]
                if last is not None:
                    causes[i] = cause(self.context, last)
                    continue
            made += found
            source += [i] * len(found)


class MapFrame(_Function):
    """Calls a Python function with the columns of many rows at once: a Polars frame in, a Polars frame out.

    The function must be row-wise: how many rows it is given is no business of its own. It returns the columns of
    `returns`, one row for each that it was given, in the same order; or any number of rows with a UInt32 column `row`
    that tells which of the given rows (0, 1, ...) each comes from, in rising order. Event time and `key` are as with
    MapRows. Where the function raises, or gives a wrong frame, the rows at fault are found by halving.

    >>> class Payment(Schema):
    ...     cents: int
    >>> class Euros(Schema):
    ...     euros: float
    >>> from tests.operators.checks import stream, run
    >>> euros = MapFrame(lambda frame: frame.select(euros=pl.col("cents") / 100), returns=Euros)
    >>> run(euros, stream(Payment), [Payment(250)]).rows
    [{'euros': 2.5}]
    """

    def open(self, context: Context) -> None:
        super().open(context)
        self._columns = context.inputs[0].columns

    def process(self, batch: Batch, port: int = 0) -> Batch | None:
        numbered = batch.frame.select(self._columns).with_row_index("$index")
        relayed = _Relayed(self.context, batch, self._dead)
        try:
            made = self._call(numbered)
        except FAILURES as error:  # the whole frame again, then its halves: none of those is tried twice
            made, last = self._failures.mend(lambda: self._call(numbered), error)
            if last is not None:
                first = [last]

                def compute(frame: pl.DataFrame) -> pl.DataFrame:
                    if first:
                        raise first.pop()  # of the whole frame that is known already
                    return self._call(frame)

                made = guarded(Batch(numbered, batch.origin), compute, relayed)
        if not made.height:
            return None
        source = made["$index"].to_list()
        return self._finish(batch, {n: made[n] for n in self._writer.fields}, source)

    def _call(self, numbered: pl.DataFrame) -> pl.DataFrame:
        fields = self._writer.fields
        if not numbered.height:
            return pl.DataFrame(schema={"$index": pl.UInt32(), **{n: f.dtype for n, f in fields.items()}})
        made = self.function(numbered.select(self._columns))
        index = numbered["$index"]
        if not isinstance(made, pl.DataFrame):
            raise TypeError(f"expected a polars.DataFrame, got {type(made).__name__}")
        missing = [n for n in fields if n not in made.columns]
        if missing:
            raise TypeError(f"the frame lacks the column {missing[0]!r} (it has: {', '.join(made.columns)})")
        if "row" in made.columns and "row" not in fields:
            rows = made["row"]
            if rows.dtype != pl.UInt32 or rows.null_count() or not rows.is_sorted() or (rows >= len(index)).any():
                raise TypeError("the column `row` must be UInt32, sorted, and tell positions of the given rows")
            index = index.gather(rows)
        elif made.height != len(index):
            raise TypeError(f"{made.height} rows for {len(index)}: return one for each, or a UInt32 column `row`")
        return pl.DataFrame([index, *(_fitted(made[n], n, f, n == self._writer.time) for n, f in fields.items())])


class _Relayed:
    """A context whose dead letters are told of the whole batch, metadata included."""

    def __init__(self, context: Context, batch: Batch, dead: Callable[..., None]) -> None:
        self._context, self._batch, self._dead = context, batch, dead

    def dead(self, batch: Batch, rows: Sequence[int], causes: Sequence[str]) -> None:
        if rows:
            self._dead(self._batch, rows, causes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


def _fitted(series: pl.Series, name: str, field: Field, is_time: bool) -> pl.Series:
    """The column in its declared type, or TypeError."""
    if series.dtype != field.dtype:
        number = field.dtype.is_numeric() and series.dtype.is_numeric()
        if not (number and (field.dtype.is_float() or series.dtype.is_integer())) and series.dtype != pl.Null:
            raise TypeError(f"{name}: expected {field.dtype}, got {series.dtype}")
        series = series.cast(field.dtype)
    if not field.nullable and series.null_count():
        raise TypeError(f"{name}: null in a column without nulls")
    if is_time and ((series >= FARTHEST) | (series <= -FARTHEST)).any():
        raise ValueError(f"{name}: implausible event time")
    return series.alias(name)


def _takes_one(function: Any, where: str) -> None:
    if not callable(function):
        raise WrongType(f"{function!r} is not a function", where=where, fix="give a function of one argument")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # a builtin: it will be seen when it is called
    try:
        signature.bind(None)
    except TypeError:
        raise WrongType(f"the function takes {signature}", where=where, fix="it is called with one argument") from None


def _annotated(function: Any, schema: type[Schema], where: str) -> None:
    """An annotated return type must name the schema, where it names any."""
    try:
        hint = get_type_hints(function).get("return")
    except Exception:
        return
    named = [t for t in _types(hint) if isinstance(t, type) and issubclass(t, (Schema, str, int, float, bytes, dict))]
    if named and not any(issubclass(t, schema) for t in named):
        raise WrongType(
            f"the function is annotated to return {named[0].__name__}, returns= says {schema.__name__}",
            where=where,
            fix="make them agree",
        )


def _types(hint: Any) -> Iterable[Any]:
    yield hint
    for inner in get_args(hint):
        yield from _types(inner)
