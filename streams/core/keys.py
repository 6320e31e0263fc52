"""Keys: from columns to bytes, and from bytes to a partition, as Kafka's Java clients do it."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from streams.core.errors import WrongType

_TEXT = (pl.String, pl.Binary)


def key_bytes(frame: pl.DataFrame, columns: Sequence[str]) -> pl.Series:
    """The key of each row as a Binary series: text as UTF-8, bytes as they are, numbers as decimal text, several
    columns as a JSON array of them. A null key column makes a null key (one column) or a JSON null.

    >>> key_bytes(pl.DataFrame({"card": ["c1"], "n": [7]}), ["card", "n"]).to_list()
    [b'["c1",7]']
    >>> key_bytes(pl.DataFrame({"n": [7]}), ["n"]).to_list()
    [b'7']
    """
    if len(columns) == 1:
        series = frame[columns[0]]
        if series.dtype in _TEXT:
            return series.cast(pl.Binary)
        if series.dtype == pl.Boolean or series.dtype.is_integer():
            return series.cast(pl.String).cast(pl.Binary)
        raise WrongType(f"a key cannot be of type {series.dtype}", where=columns[0], fix="use str, bytes, int or bool")
    named = frame.select(pl.concat_list([_json(frame[c]).alias(c) for c in columns]).list.join(","))
    return ("[" + named.to_series() + "]").cast(pl.Binary)


def _json(series: pl.Series) -> pl.Series:
    if series.dtype == pl.Binary:
        series = series.bin.encode("hex")
    elif series.dtype.is_float():
        raise WrongType("a key cannot be a float", where=series.name, fix="use str, bytes, int or bool")
    encoded = series.to_frame("v").select(pl.struct("v").struct.json_encode()).to_series()
    return encoded.str.slice(5, None).str.head(-1)


def murmur2(keys: pl.Series) -> npt.NDArray[np.uint32]:
    """Kafka's murmur2 of each value of a Binary series (no nulls), without a Python loop over the values.

    >>> [hex(h) for h in murmur2(pl.Series([b"21", b"foobar", b"a-little-bit-long-string"]))]
    ['0xc5f2f8ec', '0xd0e47bbe', '0xc53b1da0']
    """
    values = keys.to_list()
    lengths = np.fromiter(map(len, values), np.int64, len(values))
    order = np.argsort(lengths, kind="stable")  # keys of one length lie together
    raw = np.frombuffer(b"".join(map(values.__getitem__, order.tolist())), np.uint8)
    distinct, counts = np.unique(lengths, return_counts=True)
    out, at, begin = np.empty(len(values), np.uint32), 0, 0
    m = np.uint32(0x5BD1E995)
    with np.errstate(over="ignore"):
        for length, count in zip(distinct.tolist(), counts.tolist(), strict=True):
            where, at = order[at : at + count], at + count
            data, begin = raw[begin : begin + count * length].reshape(count, length), begin + count * length
            h = np.full(len(where), np.uint32(0x9747B28C) ^ np.uint32(length), np.uint32)
            whole = length // 4
            words = np.ascontiguousarray(data[:, : whole * 4]).view("<u4") if whole else None
            for i in range(whole):
                k = words[:, i] * m  # type: ignore[index]
                k ^= k >> np.uint32(24)
                k *= m
                h *= m
                h ^= k
            tail = data[:, whole * 4 :]
            for i in range(tail.shape[1] - 1, -1, -1):
                h ^= tail[:, i].astype(np.uint32) << np.uint32(8 * i)
            if tail.shape[1]:
                h *= m
            h ^= h >> np.uint32(13)
            h *= m
            h ^= h >> np.uint32(15)
            out[where] = h
    return out


def partitions(keys: pl.Series, count: int) -> npt.NDArray[np.int64]:
    """The partition of each key: what Java clients and librdkafka's `murmur2_random` choose for it."""
    return ((murmur2(keys) & np.uint32(0x7FFFFFFF)) % np.uint32(count)).astype(np.int64)
