"""Polars expressions of a program, checked while it is built.

An expression of a stream must be row-wise: the value of a row may depend on that row alone, since where a stream is cut
into batches is nobody's business. That is tried out on a small frame: as a whole and row by row it must give the same.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import polars as pl
from polars.exceptions import ColumnNotFoundError, PolarsError, SchemaError, ShapeError

from streams.core.batch import HIDDEN, METADATA, ROW, TIME, WATERMARK, Batch
from streams.core.errors import UnknownColumn, WrongType
from streams.core.failures import FAILURES
from streams.core.operator import Context
from streams.core.schema import INT64, Field, StreamType, nearest
from streams.core.watching import report

_ACROSS = (
    "it looks across rows (an aggregate, a shift, a sort ...), and where a stream is cut into batches would show",
    "use Window([...]) or Running([...])",
)


@dataclass(frozen=True)
class Output:
    """A column that an expression makes. `roots`: the columns it reads; `plain`: it is a column as it stands."""

    name: str
    expr: pl.Expr
    field: Field
    roots: frozenset[str]
    plain: bool


def field_of(dtype: pl.DataType, nullable: bool = True) -> Field:
    """The field of a computed column.

    >>> field_of(pl.Float64()).python
    float | None
    """
    python: Any = Any
    if isinstance(dtype, pl.List):
        inner = field_of(dtype.inner if isinstance(dtype.inner, pl.DataType) else dtype.inner(), False).python
        python = list.__class_getitem__(inner)
    elif dtype.is_integer():
        python = Annotated[int, INT64]
    elif dtype.is_float():
        python = float
    else:
        python = {pl.String(): str, pl.Binary(): bytes, pl.Boolean(): bool}.get(dtype, Any)
    return Field(dtype, nullable, python | None if nullable and python is not Any else python)


def parse(value: Any, where: str) -> pl.Expr:
    """An expression, or the name of a column."""
    if isinstance(value, str):
        return pl.col(value)
    if isinstance(value, pl.Expr):
        return value
    what = "a function" if callable(value) else repr(value)
    raise WrongType(
        f"{what} is not an expression",
        where=where,
        fix='write e.g. col("amount") * 2; for a Python function use MapRows',
    )


def outputs(type: StreamType, exprs: Iterable[Any], named: Mapping[str, Any], where: str) -> list[Output]:
    """The columns that expressions make of a stream, checked.

    Raises UnknownColumn (with the nearest name) and WrongType.

    >>> stream = StreamType({"amount": Field(pl.Int64())})
    >>> [(o.name, o.field.dtype, o.plain) for o in outputs(stream, ["amount"], {"twice": pl.col("amount") * 2}, "here")]
    [('amount', Int64, True), ('twice', Int64, False)]
    """
    made: list[Output] = []
    parsed = [parse(e, where) for e in exprs]
    parsed += [(parse(e, where) if isinstance(e, (str, pl.Expr)) else pl.lit(e)).alias(n) for n, e in named.items()]
    for expr in parsed:
        for single in _single(type, expr, where):
            made.append(_output(type, single, where))
    names = [o.name for o in made]
    for name in names:
        if names.count(name) > 1:
            raise WrongType(f"two columns are called {name!r}", where=where, fix='rename one: .alias("name")')
        if name.startswith("$"):
            raise WrongType(f"a column cannot be called {name!r}", where=where, fix="names with $ are the engine's own")
    return made


def _single(type: StreamType, expr: pl.Expr, where: str) -> Sequence[pl.Expr]:
    if not expr.meta.has_multiple_outputs():
        return [expr]
    if not expr.meta.is_column_selection():
        raise WrongType("one expression for several columns", where=where, fix="write one expression a column")
    type.require([r for r in expr.meta.root_names() if not r.startswith("$")], where)
    return [pl.col(n) for n in type.frame().lazy().select(expr).collect_schema().names()]


def _output(type: StreamType, expr: pl.Expr, where: str) -> Output:
    frame = _checking(type)
    roots = frozenset(expr.meta.root_names())
    _require(type, roots, frame.columns, where)
    try:
        schema = frame.select(expr).schema  # evaluated: the schema alone does not tell all wrong types
    except ColumnNotFoundError as error:
        raise UnknownColumn(_text(error), where=where, fix=f"the stream has: {', '.join(type.fields)}") from None
    except (PolarsError, TypeError, ValueError) as error:
        raise WrongType(_text(error), where=where, fix=f"the stream has: {_types(type)}") from None
    (name, dtype), *_ = schema.items()
    if not _rowwise(expr, frame):
        raise WrongType(f"the expression for {name!r} is not row-wise: {_ACROSS[0]}", where=where, fix=_ACROSS[1])
    bare = expr.meta.undo_aliases()
    plain = bare.meta.is_column()
    root = next(iter(roots)) if plain else ""
    field = type.fields[root] if root in type.fields else field_of(dtype)
    return Output(name, expr, field, roots, plain)


def _checking(type: StreamType) -> pl.DataFrame:
    """An empty frame with all that an expression may name."""
    times = {TIME: pl.Int64(), WATERMARK: pl.Int64()} if type.time else {}
    return pl.DataFrame(schema={**{n: f.dtype for n, f in type.fields.items()}, **METADATA, **times})


def _require(type: StreamType, roots: Iterable[str], known: Sequence[str], where: str) -> None:
    type.require(sorted(roots), where)
    for name in sorted(roots):
        if name not in known:
            raise UnknownColumn(
                f"no metadata column {name!r}{nearest(name, known)}",
                where=where,
                fix=f"there are: {', '.join(c for c in known if c.startswith('$'))}",
            )


def _types(type: StreamType) -> str:
    return ", ".join(f"{n}: {f.dtype}" for n, f in type.fields.items()) or "no columns"


def _text(error: Exception) -> str:
    """The first paragraph: Polars goes on with plans and hints."""
    return str(error).strip().split("\n\n", 1)[0] or type(error).__name__


def check_boolean(type: StreamType, expr: Any, where: str) -> Output:
    """A row-wise expression that is true or false."""
    made = outputs(type, [], {"value": parse(expr, where)}, where)[0]
    if made.field.dtype != pl.Boolean:
        raise WrongType(
            f"a filter must be true or false, this is {made.field.dtype}", where=where, fix='compare: col("amount") > 0'
        )
    return made


# ---------------------------------------------------------------- row-wise?


def _rowwise(expr: pl.Expr, frame: pl.DataFrame) -> bool:
    """Whether the expression gives the same for a frame as a whole and row by row, tried on a few rows."""
    sample = _sample(frame)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            whole = sample.with_columns(expr.alias("$made"))["$made"]
            apart = [sample.slice(i, 1).with_columns(expr.alias("$made"))["$made"] for i in range(sample.height)]
            return whole.equals(pl.concat(apart), null_equal=True)
    except ShapeError:
        return False
    except Exception:  # the sample's values do not suit it (a date in a text ...): what Polars knows of it must do
        try:
            return expr.meta.is_length_preserving() or expr.meta.is_literal()
        except PolarsError:
            return True


def _sample(frame: pl.DataFrame) -> pl.DataFrame:
    """Rows with ties, nulls, and no order."""
    pattern = [3, 1, 1, None, 2, 5, 3, None, 4]
    rows = [
        pl.Series(n, [None if p is None else _value(t, p) for p in pattern], dtype=t) for n, t in frame.schema.items()
    ]
    return pl.DataFrame(rows)


def _value(dtype: Any, number: int) -> Any:
    if dtype == pl.String:
        return "abcdef"[number] * number
    if dtype == pl.Binary:
        return bytes([64 + number])
    if dtype == pl.Boolean:
        return number % 2 == 0
    if isinstance(dtype, pl.List):
        return [_value(dtype.inner, number), _value(dtype.inner, 6 - number)]
    if isinstance(dtype, pl.Struct):
        return {f.name: _value(f.dtype, number) for f in dtype.fields}
    if dtype.is_float():
        return number / 4
    return number if dtype.is_integer() else None


# ---------------------------------------------------------------- rows on which an expression fails

_OURS = (ColumnNotFoundError, SchemaError, ShapeError)
"""Errors that no value of a row causes."""


def cause(context: Context, error: BaseException) -> str:
    """A dead letter's cause: `operator-id: ExceptionType: text`. Whoever watches is told of the exception itself."""
    report(context.operator_id, error)
    return f"{context.operator_id}: {type(error).__name__}: {_text(error) if isinstance(error, PolarsError) else error}"


def place(batch: Batch, row: int) -> str:
    """Which record a row comes from, for a message."""
    if batch.origin is None or ROW not in batch.frame.columns:
        return "a row that comes from no record"
    (letter,) = batch.origin.letters([int(batch.frame[ROW][row])])
    return f"record {letter.offset} of {letter.topic}/{letter.partition}"


def guarded(batch: Batch, compute: Callable[[pl.DataFrame], pl.DataFrame], context: Context) -> pl.DataFrame:
    """`compute(frame)`, a row-wise computation, with one dead letter for each row on which it fails.

    The culprits are found by halving, at a cost of log2(rows) computations a culprit; without any there is none.
    """
    frame = batch.frame
    try:
        return compute(frame)
    except _OURS:
        raise
    except FAILURES as error:
        first = error
    good: list[pl.DataFrame] = []
    rows: list[int] = []
    causes: list[str] = []
    _halve(frame, 0, compute, first, good, rows, causes, context)
    context.dead(batch, rows, causes)
    return pl.concat(good) if good else compute(frame.clear())


def _halve(
    frame: pl.DataFrame,
    start: int,
    compute: Callable[[pl.DataFrame], pl.DataFrame],
    error: BaseException,
    good: list[pl.DataFrame],
    rows: list[int],
    causes: list[str],
    context: Context,
) -> None:
    if frame.height == 1:
        rows.append(start)
        causes.append(cause(context, error))
        return
    half = frame.height // 2
    for part, at in ((frame.slice(0, half), start), (frame.slice(half), start + half)):
        try:
            good.append(compute(part))
        except _OURS:
            raise
        except FAILURES as again:
            _halve(part, at, compute, again, good, rows, causes, context)


def carried(frame: pl.DataFrame) -> list[str]:
    """The engine's columns of a frame, which every row-wise operator hands on."""
    return [c for c in frame.columns if c.startswith("$")]


def metadata(names: Iterable[str]) -> set[str]:
    """Without the hidden columns, which nobody needs to ask for."""
    return {n for n in names if n not in HIDDEN}
