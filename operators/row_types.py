"""Rows as Python objects, for operators that call a user's function row by row."""

import inspect
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
import polars as pl

from streams.core.errors import WrongType
from streams.core.schema import Field, Schema, StreamType, describe

_SCALARS: dict[Any, type] = {pl.Int64: int, pl.Float64: float, pl.String: str, pl.Boolean: bool, pl.Binary: bytes}

FARTHEST = 2**61
"""Event times beyond this many milliseconds are implausible (and sums with them might wrap)."""


def row_class(type: StreamType) -> type[Any]:
    """What rows of a stream are to a function: the stream's schema while its columns are the stream's; else a made
    class with the stream's columns as its fields."""
    schema = type.schema
    if schema is not None and list(schema.__struct_fields__) == type.columns:
        return schema
    for name in type.fields:
        if not name.isidentifier():
            raise WrongType(f"the column {name!r} cannot be an attribute of a row", fix="rename it with Select")
    return msgspec.defstruct("Row", [(n, f.python or Any) for n, f in type.fields.items()], frozen=True, gc=False)


class RowReader:
    """Makes row objects of a frame's columns.

    >>> class Payment(Schema):
    ...     card: str
    >>> RowReader(Payment, ["card"]).rows(pl.DataFrame({"card": ["a"]}))
    [Payment(card='a')]
    """

    def __init__(self, made: type[Any], columns: Sequence[str]) -> None:
        self._made, self._columns = made, list(columns)
        parameters = inspect.signature(made).parameters.values()
        self._named = any(p.kind is p.KEYWORD_ONLY for p in parameters)

    def rows(self, frame: pl.DataFrame) -> list[Any]:
        made, columns = self._made, [frame.get_column(c).to_list() for c in self._columns]
        if self._named:
            return [made(**dict(zip(self._columns, values, strict=True))) for values in zip(*columns, strict=True)]
        return list(map(made, *columns))


class RowWriter:
    """Makes columns of the objects that a function has returned, and finds the objects that do not fit.

    Nothing is bent into shape silently: a str in an int column, an int beyond 64 bits, a null where none may be, are
    errors of that object. An int in a float column is taken as a float, a NumPy scalar as the number it is.

    >>> class Alert(Schema):
    ...     card: str
    ...     score: float
    >>> writer = RowWriter(Alert)
    >>> columns, good, bad = writer.columns([Alert("a", 1), Alert("b", "high")])
    >>> columns["score"].to_list(), good, bad
    ([1.0], [0], {1: "score: expected float, got str 'high'"})
    """

    def __init__(self, schema: type[Schema]) -> None:
        self.fields, self.time = describe(schema)
        self.schema = schema
        self._getters = [attrgetter(n) for n in self.fields]
        self._converters = [_converter(n, f, n == self.time) for n, f in self.fields.items()]
        self._exact = [_exact(f) for f in self.fields.values()]
        self._time_at = list(self.fields).index(self.time) if self.time else -1

    def convert(self, made: Any) -> list[Any]:
        """The object's values, checked; raises TypeError or ValueError."""
        if not isinstance(made, self.schema):
            raise TypeError(f"expected {self.schema.__name__}, got {type(made).__name__} {_short(made)}")
        return [convert(get(made)) for get, convert in zip(self._getters, self._converters, strict=True)]

    def time_of(self, values: Sequence[Any]) -> int | None:
        """The event time among the values that `convert` gave; None if the schema has none."""
        return None if self._time_at < 0 else int(values[self._time_at])

    def frame_columns(self, rows: Sequence[Sequence[Any]]) -> dict[str, pl.Series]:
        """Columns of rows that `convert` gave."""
        columns: Sequence[Sequence[Any]] = list(zip(*rows, strict=True)) if rows else [()] * len(self.fields)
        return {
            n: pl.Series(n, c, dtype=f.dtype, strict=True)
            for (n, f), c in zip(self.fields.items(), columns, strict=True)
        }

    def columns(self, made: Sequence[Any]) -> tuple[dict[str, pl.Series], Sequence[int] | None, dict[int, str]]:
        """Columns of the objects that fit, their positions (None: all), and why each of the others does not."""
        fast = self._fast(made)
        if fast is not None:
            return fast, None, {}
        rows, good, bad = [], [], {}
        for i, one in enumerate(made):
            try:
                rows.append(self.convert(one))
                good.append(i)
            except (TypeError, ValueError) as error:
                bad[i] = str(error)
        return self.frame_columns(rows), good, bad

    def _fast(self, made: Sequence[Any]) -> dict[str, pl.Series] | None:
        """All columns at once, if every value has exactly its column's type."""
        if set(map(type, made)) - {self.schema}:
            return None
        out = {}
        for (name, field), get, exact in zip(self.fields.items(), self._getters, self._exact, strict=True):
            values = list(map(get, made))
            if exact is None or not exact.issuperset(map(type, values)):
                return None
            try:
                column = pl.Series(name, values, dtype=field.dtype, strict=True)
            except (TypeError, ValueError, OverflowError):
                return None
            if name == self.time and len(column) and not (column.min() > -FARTHEST and column.max() < FARTHEST):  # type: ignore[operator]
                return None
            out[name] = column
        return out


def _exact(field: Field) -> set[type] | None:
    scalar = _SCALARS.get(type(field.dtype))
    if scalar is None:
        return None
    return {scalar, type(None)} if field.nullable else {scalar}


def _converter(name: str, field: Field, is_time: bool) -> Callable[[Any], Any]:
    inner = _convert_time if is_time else _of_type(field.dtype)

    def convert(value: Any) -> Any:
        if value is None:
            if field.nullable:
                return None
            raise TypeError(f"{name}: null in a column without nulls")
        try:
            return inner(value)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {error}") from None

    return convert


def _of_type(dtype: pl.DataType) -> Callable[[Any], Any]:
    if isinstance(dtype, pl.List):
        item = _of_type(dtype.inner if isinstance(dtype.inner, pl.DataType) else dtype.inner())

        def convert_list(value: Any) -> list[Any]:
            if type(value) is not list:
                raise _wrong("list", value)
            return [item(v) for v in value]

        return convert_list
    return _CONVERT[_SCALARS[type(dtype)]]


def _wrong(expected: str, value: Any) -> TypeError:
    return TypeError(f"expected {expected}, got {type(value).__name__} {_short(value)}")


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _convert_int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise _wrong("int", value)
    number = int(value)
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{_short(number)} is over 64 bits")
    return number


def _convert_time(value: Any) -> int:
    number = _convert_int(value)
    if not -FARTHEST < number < FARTHEST:
        raise ValueError(f"implausible event time {number}")
    return number


def _convert_float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (float, int, np.floating, np.integer)):
        raise _wrong("float", value)
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{_short(value)} is too large for a float") from None


def _convert_str(value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong("str", value)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{_short(value)} is no text: {error.reason}") from None
    return str(value)


def _convert_bool(value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise _wrong("bool", value)
    return bool(value)


def _convert_bytes(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise _wrong("bytes", value)
    return value


_CONVERT: dict[type, Callable[[Any], Any]] = {
    int: _convert_int,
    float: _convert_float,
    str: _convert_str,
    bool: _convert_bool,
    bytes: _convert_bytes,
}
