"""JSON records to columns and back.

Each record is decoded by itself: several records are never joined to one document, where damaged neighbours can add up
to a valid whole. Only the fields that the topology reads are decoded and judged, or all of them with `validate="all"`.
"""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import msgspec
import polars as pl

from streams.core.schema import Field

_CHUNK = 1000  # records decoded in one call: small enough for the processor's caches


class JsonDecoder:
    """Decodes the values of records into columns.

    >>> from streams.core.schema import Field, INT64
    >>> decoder = JsonDecoder({"n": Field(pl.Int64(), python=int)}, ["n"], "used")
    >>> columns, good, bad = decoder.decode([b'{"n": 1}', b'oops'])
    >>> columns["n"].to_list(), good, bad
    ([1], [0], [(1, 'not JSON: JSON is malformed: invalid character (byte 0)')])
    """

    def __init__(self, fields: dict[str, Field], wanted: Sequence[str], validate: str) -> None:
        self._wanted = {name: fields[name] for name in fields if name in wanted}
        read = fields if validate == "all" else self._wanted
        members: list[Any] = []
        rename: dict[str, str] = {}
        for slot, (name, f) in enumerate(sorted(read.items(), key=lambda item: item[0] not in self._wanted)):
            rename[f"f{slot}"] = name
            default = None if f.nullable and f.default is msgspec.NODEFAULT else f.default
            members.append((f"f{slot}", f.python) if default is msgspec.NODEFAULT else (f"f{slot}", f.python, default))
        self._order = [rename[f"f{slot}"] for slot in range(len(self._wanted))]
        self._struct = msgspec.defstruct("Record", members, gc=False, kw_only=True, rename=rename)
        self._decode = msgspec.json.Decoder(self._struct).decode

    def decode(
        self, values: Sequence[bytes | None]
    ) -> tuple[dict[str, pl.Series], Sequence[int] | None, list[tuple[int, str]]]:
        """Columns of the good records, their indices (None: all are good), and (index, cause) of the bad ones."""
        rows: list[Any] = []
        good: list[int] | None = None
        bad: list[tuple[int, str]] = []
        for start in range(0, len(values), _CHUNK):
            chunk = values[start : start + _CHUNK]
            try:
                made = list(map(self._decode, chunk))  # type: ignore[arg-type]
            except Exception:
                if good is None:
                    good = list(range(start))
                self._one_by_one(chunk, start, rows, good, bad)
            else:
                rows += made
                if good is not None:
                    good.extend(range(start, start + len(chunk)))
        return self._columns(rows), good, bad

    def _one_by_one(
        self, chunk: Sequence[bytes | None], start: int, rows: list[Any], good: list[int], bad: list[tuple[int, str]]
    ) -> None:
        for index, value in enumerate(chunk, start):
            if not value:
                bad.append((index, "empty value"))
                continue
            try:
                rows.append(self._decode(value))
                good.append(index)
            except Exception as error:
                bad.append((index, cause(error)))

    def _columns(self, rows: list[Any]) -> dict[str, pl.Series]:
        out = {}
        for slot, name in enumerate(self._order):
            column = _COLUMN[slot](rows) if slot < len(_COLUMN) else list(map(attrgetter(f"f{slot}"), rows))
            out[name] = pl.Series(name, column, dtype=self._wanted[name].dtype)
        return out


# An attribute in a comprehension is read three times as fast as through attrgetter (0.017 against 0.046 us), which
# needs its name in the code: so the fields of the decoded struct are called f0, f1, ... and renamed to the record's.
_COLUMN: tuple[Callable[[list[Any]], list[Any]], ...] = (
    lambda rows: [r.f0 for r in rows],
    lambda rows: [r.f1 for r in rows],
    lambda rows: [r.f2 for r in rows],
    lambda rows: [r.f3 for r in rows],
    lambda rows: [r.f4 for r in rows],
    lambda rows: [r.f5 for r in rows],
    lambda rows: [r.f6 for r in rows],
    lambda rows: [r.f7 for r in rows],
    lambda rows: [r.f8 for r in rows],
    lambda rows: [r.f9 for r in rows],
)


def cause(error: Exception) -> str:
    """Why a record cannot be decoded, in words."""
    text = str(error)
    if isinstance(error, UnicodeDecodeError):
        return f"invalid UTF-8: {text}"
    if isinstance(error, msgspec.ValidationError):
        if "missing required field" in text:
            return f"missing field: {text}"
        if "<= 9223372036854775807" in text or ">= -9223372036854775808" in text:
            return f"integer over 64 bits: {text}"
        return f"wrong type: {text}"
    if "trailing characters" in text:
        return f"more than one document: {text}"
    if isinstance(error, msgspec.DecodeError):
        return f"not JSON: {text}"
    return f"{type(error).__name__}: {text}"


def encode(frame: pl.DataFrame) -> list[bytes]:
    """One JSON object a row; NaN and infinities become null, bytes are written as base64 text.

    >>> encode(pl.DataFrame({"a": [1], "b": ["x"]}))
    [b'{"a":1,"b":"x"}']
    """
    if not frame.width:
        return [b"{}"] * frame.height
    columns = [pl.col(n).bin.encode("base64") if t == pl.Binary else pl.col(n) for n, t in frame.schema.items()]
    return frame.select(pl.struct(columns).struct.json_encode().cast(pl.Binary)).to_series().to_list()


class BytesDecoder:
    """Records as they are: one Binary column `value`. A record without a value is bad."""

    def decode(
        self, values: Sequence[bytes | None]
    ) -> tuple[dict[str, pl.Series], Sequence[int] | None, list[tuple[int, str]]]:
        bad = [(i, "empty value") for i, v in enumerate(values) if v is None]
        good = [i for i, v in enumerate(values) if v is not None] if bad else None
        data = [v for v in values if v is not None] if bad else list(values)
        return {"value": pl.Series("value", data, dtype=pl.Binary)}, good, bad
