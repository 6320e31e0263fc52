"""Schemas: typed records. A schema is a class; its fields become columns."""

import difflib
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec
import polars as pl

from streams.core.errors import NoEventTime, NoKey, UnknownColumn, WrongType

INT64 = msgspec.Meta(ge=-(2**63), le=2**63 - 1)

EventTime = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1, extra={"event_time": True})]
"""The field that holds a record's event time: integer milliseconds since the epoch, UTC."""


class Schema(msgspec.Struct, gc=False):
    """A record's type. Fields: str, int (64 bits), float, bool, bytes, lists of these, each optionally `| None`.

    At most one field is the `EventTime`.

    >>> class Payment(Schema):
    ...     card_id: str
    ...     at: EventTime
    ...     amount: int = 0
    >>> Payment("c1", 5).amount
    0
    """


_DTYPES: dict[Any, pl.DataType] = {
    str: pl.String(),
    int: pl.Int64(),
    float: pl.Float64(),
    bool: pl.Boolean(),
    bytes: pl.Binary(),
}


@dataclass(frozen=True)
class Field:
    """One column: its Polars type, whether it may be null, and the Python type that decodes it."""

    dtype: pl.DataType
    nullable: bool = False
    python: Any = None
    default: Any = msgspec.NODEFAULT


@dataclass(frozen=True)
class StreamType:
    """What is known of a stream while a program is built.

    `key` names the columns that the stream is partitioned by (empty: no key); `time` says whether rows have event
    time.
    """

    fields: Mapping[str, Field]
    key: tuple[str, ...] = ()
    time: bool = False
    schema: type[Schema] | None = field(default=None, compare=False)

    @property
    def columns(self) -> list[str]:
        return list(self.fields)

    def frame(self) -> pl.DataFrame:
        """An empty frame of this type: expressions are checked against it."""
        return pl.DataFrame(schema={name: f.dtype for name, f in self.fields.items()})

    def require(self, names: Iterable[str], where: str) -> None:
        """Every name is a column, or UnknownColumn with the nearest name."""
        for name in names:
            if name not in self.fields and not name.startswith("$"):
                raise UnknownColumn(
                    f"no column {name!r}{nearest(name, self.fields)}",
                    where=where,
                    fix=f"the stream has: {', '.join(self.fields) or 'no columns'}",
                )

    def require_key(self, where: str) -> None:
        if not self.key:
            raise NoKey(
                "state by key on a stream without a key",
                where=where,
                fix='put `KeyBy("column")` before it, or declare how the topic is keyed: app.source(..., key="column")',
            )

    def require_time(self, where: str) -> None:
        if not self.time:
            raise NoEventTime(
                "the stream has no event time",
                where=where,
                fix="give its schema a field `at: EventTime` (milliseconds since the epoch)",
            )

    def with_fields(self, fields: Mapping[str, Field], *, keep_key: bool = True) -> "StreamType":
        """The same stream with other columns; the key is kept while all of its columns are."""
        key = self.key if keep_key and all(k in fields for k in self.key) else ()
        return replace(self, fields=dict(fields), key=key, schema=None)


def nearest(name: str, names: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or nothing.

    >>> nearest("amuont", ["amount", "card"])
    "; did you mean 'amount'?"
    """
    found = difflib.get_close_matches(name, list(names), 1, 0.5)
    return f"; did you mean {found[0]!r}?" if found else ""


def _within_64_bits(metas: Iterable[Any]) -> msgspec.Meta:
    """The user's own bounds of an int, and 64 bits where there are none: msgspec takes one Meta alone."""
    given = next((m for m in metas if isinstance(m, msgspec.Meta)), INT64)
    bounds = {n: getattr(given, n) for n in ("ge", "gt", "le", "lt", "multiple_of") if getattr(given, n) is not None}
    if "gt" not in bounds:
        bounds.setdefault("ge", INT64.ge)
    if "lt" not in bounds:
        bounds.setdefault("le", INT64.le)
    return msgspec.Meta(**bounds)


def _field(owner: str, name: str, hint: Any) -> tuple[Field, bool]:
    is_time = False
    if get_origin(hint) is Annotated:
        base, *metas = get_args(hint)
        is_time = any(isinstance(m, msgspec.Meta) and (m.extra or {}).get("event_time") for m in metas)
        if is_time and base is not int:
            raise WrongType("event time must be an int", where=f"{owner}.{name}", fix="use `EventTime`")
        inner, _ = _field(owner, name, base)
        python = Annotated[base, _within_64_bits(metas)] if base is int else hint
        return replace(inner, python=python), is_time
    nullable = False
    if get_origin(hint) in (Union, types.UnionType):
        rest = [a for a in get_args(hint) if a is not type(None)]
        if len(rest) != 1 or len(rest) == len(get_args(hint)):
            raise WrongType(
                f"{hint} is not a column type", where=f"{owner}.{name}", fix="one type, or one type `| None`"
            )
        inner, is_time = _field(owner, name, rest[0])
        if is_time:
            raise WrongType("event time cannot be null", where=f"{owner}.{name}", fix="use `EventTime` alone")
        return replace(inner, nullable=True, python=inner.python | None), False
    if get_origin(hint) is list and len(get_args(hint)) == 1:
        item, _ = _field(owner, name, get_args(hint)[0])
        return Field(pl.List(item.dtype), nullable, types.GenericAlias(list, (item.python,))), False
    if hint in _DTYPES:
        return Field(_DTYPES[hint], nullable, Annotated[int, INT64] if hint is int else hint), False
    raise WrongType(
        f"{getattr(hint, '__name__', hint)} is not a column type",
        where=f"{owner}.{name}",
        fix="use str, int, float, bool, bytes, EventTime, a list of these, or one of them `| None`",
    )


def describe(schema: type[Schema]) -> tuple[dict[str, Field], str | None]:
    """The fields of a schema, and the name of its event-time field (None if it has none)."""
    if not (isinstance(schema, type) and issubclass(schema, Schema)):  # type: ignore[redundant-expr]
        raise WrongType(f"{schema!r} is not a schema", fix="write `class Name(Schema): ...` with annotated fields")
    hints = get_type_hints(schema, include_extras=True)
    defaults = {f.name: f.default for f in msgspec.structs.fields(schema)}
    fields: dict[str, Field] = {}
    time: str | None = None
    for name in schema.__struct_fields__:
        made, is_time = _field(schema.__name__, name, hints[name])
        fields[name] = replace(made, default=defaults[name])
        if is_time:
            if time is not None:
                raise WrongType(
                    "two fields are EventTime", where=f"{schema.__name__}.{name}", fix=f"keep {time!r} only"
                )
            time = name
    if not fields:
        raise WrongType("a schema without fields", where=schema.__name__, fix="annotate at least one field")
    return fields, time
