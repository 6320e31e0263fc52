"""Keys in stores: from a row's key columns to bytes, and back with the columns' values and types."""

from collections.abc import Sequence
from typing import Any

import msgspec
import polars as pl

from streams.core.errors import StateMismatch, WrongType
from streams.core.keys import key_bytes
from streams.core.schema import StreamType

_NULL = b"\xff"  # no text in UTF-8, no number and no JSON begins with this byte
_INSTANT = 1 << 63

SIGNATURE = b"\xff\xffsignature"
"""Where a store of rows by key tells what they are; no key of `StoredKeys` begins so."""


class StoredKeys:
    """The key of a stream as bytes: those of `key_bytes`, but FF for a null, and "=" before a key of bytes. So none
    begins with two bytes FF.

    >>> from streams.core.schema import Field
    >>> keys = StoredKeys(StreamType({"card": Field(pl.String()), "n": Field(pl.Int64())}, key=("card", "n")))
    >>> made = keys.encode(pl.DataFrame({"card": ["a", None], "n": [1, 2]})); made.to_list()
    [b'["a",1]', b'[null,2]']
    >>> keys.decode(made.to_list())
    [('a', 1), (None, 2)]
    """

    def __init__(self, type: StreamType) -> None:
        self.columns = type.key
        fields = [type.fields[k] for k in type.key]
        self.dtypes = [f.dtype for f in fields]
        self._marked = len(fields) == 1 and fields[0].dtype == pl.Binary
        self._json = msgspec.json.Decoder(list[Any])
        self._hex = [i for i, t in enumerate(self.dtypes) if t == pl.Binary] if len(fields) > 1 else []

    def encode(self, frame: pl.DataFrame) -> pl.Series:
        """The key of each row, a Binary series without nulls."""
        keys = key_bytes(frame, self.columns)
        if self._marked:
            marked = pl.select(pl.lit(b"=") + keys).to_series() if len(keys) else keys
            return marked.fill_null(_NULL)
        return keys.fill_null(_NULL) if keys.null_count() else keys

    def encode_one(self, key: Sequence[Any]) -> bytes:
        """The bytes of the key with these values."""
        if len(key) != len(self.columns):
            raise WrongType(
                f"a key of {len(key)} values, the stream's has {len(self.columns)}",
                fix=f"give {', '.join(self.columns)}",
            )
        made: bytes = self.encode(
            pl.DataFrame([pl.Series(n, [v], dtype=t) for n, v, t in zip(self.columns, key, self.dtypes, strict=True)])
        ).item()
        return made

    def decode(self, keys: Sequence[bytes]) -> list[tuple[Any, ...]]:
        """The values of the key columns of each key."""
        return [self.decode_one(key) for key in keys]

    def decode_one(self, key: bytes) -> tuple[Any, ...]:
        """The values of the key columns."""
        if len(self.dtypes) > 1:
            values = self._json.decode(key)
            for i in self._hex:
                if values[i] is not None:
                    values[i] = bytes.fromhex(values[i])
            return tuple(values)
        if self._marked:
            return (None if key == _NULL else key[1:],)
        if key == _NULL:
            return (None,)
        dtype = self.dtypes[0]
        if dtype == pl.String:
            return (key.decode(),)
        return (key == b"true",) if dtype == pl.Boolean else (int(key),)

    @property
    def type(self) -> str:
        """The key's columns and their types, as text."""
        return ", ".join(f"{n}: {t}" for n, t in zip(self.columns, self.dtypes, strict=True))

    def hashed(self, key: bytes) -> bytes:
        """The bytes of which shuffles and producers take the partition of this key.

        >>> from streams.core.schema import Field
        >>> keys = StoredKeys(StreamType({"raw": Field(pl.Binary())}, key=("raw",)))
        >>> [keys.hashed(k) for k in keys.encode(pl.DataFrame({"raw": [b"a", None]})).to_list()]
        [b'a', b'']
        """
        if len(self.dtypes) == 1 and key == _NULL:
            return b""
        return key[1:] if self._marked else key

    def frame(self, keys: Sequence[bytes]) -> pl.DataFrame:
        """The key columns of these keys."""
        if len(self.dtypes) == 1 and not self._marked:
            series = pl.Series(self.columns[0], keys, dtype=pl.Binary)
            dtype = self.dtypes[0]
            if (series == pl.Series([_NULL])).any():
                series = pl.Series(self.columns[0], [None if k == _NULL else k for k in keys], dtype=pl.Binary)
            if dtype == pl.Boolean:
                return (series == pl.Series([b"true"])).alias(self.columns[0]).to_frame()
            return series.cast(pl.String).cast(dtype).to_frame()
        columns = zip(*self.decode(keys), strict=True) if keys else [[] for _ in self.dtypes]
        return pl.DataFrame(
            [pl.Series(n, c, dtype=t) for n, c, t in zip(self.columns, columns, self.dtypes, strict=True)]
        )


def check_signature(found: bytes | None, signature: bytes, where: str) -> None:
    """Stored rows have this signature (or there are none); else StateMismatch."""
    if found is not None and found != signature:
        raise StateMismatch(
            "the operator has changed: what it keeps is not what was stored by the program before",
            where=f"{where}; stored: {found.decode(errors='replace')}; now: {signature.decode()}",
            fix="run the program as it was; or give this operator another id, and so new state: "
            '.named("other"); or begin anew with all state and positions: streams reset PROGRAM',
        )


def instant_bytes(at: int) -> bytes:
    """An instant as 8 bytes that sort as the instants do, negative ones too.

    >>> sorted([instant_bytes(5), instant_bytes(-5), instant_bytes(0)]) == [instant_bytes(n) for n in (-5, 0, 5)]
    True
    """
    return (at + _INSTANT).to_bytes(8, "big")


def instant_of(key: bytes) -> int:
    """The instant in the first 8 bytes.

    >>> instant_of(instant_bytes(-7) + b"card")
    -7
    """
    return int.from_bytes(key[:8], "big") - _INSTANT
