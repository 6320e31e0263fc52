"""Blocks: what a shuffle carries. One record holds many rows as columns (Arrow IPC, lz4).

A block says which channel (the writing task's partition) it comes from, the channel's watermark, and whether the
channel is idle. A block without rows is a marker.
"""

import io
import struct
import zlib
from dataclasses import dataclass

import msgspec
import polars as pl

from streams.core.errors import RecordError

_HEAD = struct.Struct("<2sIH")
_MAGIC = b"S1"


class _Head(msgspec.Struct, array_like=True):
    channel: int
    watermark: int
    idle: bool


@dataclass(frozen=True)
class ShuffleBlock:
    """Rows of one channel, and the channel's watermark after them."""

    channel: int
    watermark: int
    idle: bool
    frame: pl.DataFrame | None


def encode_block(block: ShuffleBlock) -> bytes:
    """The bytes of a block, with a checksum.

    >>> decode_block(encode_block(ShuffleBlock(1, 5, False, None)))
    ShuffleBlock(channel=1, watermark=5, idle=False, frame=None)
    """
    head = msgspec.msgpack.encode(_Head(block.channel, block.watermark, block.idle))
    body = to_ipc(block.frame) if block.frame is not None and block.frame.height else b""
    rest = head + body
    return _HEAD.pack(_MAGIC, zlib.crc32(rest), len(head)) + rest


def decode_block(value: bytes) -> ShuffleBlock:
    """The block, or RecordError if the bytes are damaged."""
    if len(value) < _HEAD.size or value[:2] != _MAGIC:
        raise RecordError("not a block of a shuffle topic", fix="nothing but this application may write to it")
    _, checksum, size = _HEAD.unpack_from(value)
    rest = value[_HEAD.size :]
    if zlib.crc32(rest) != checksum:
        raise RecordError("a block of a shuffle topic is damaged (checksum)")
    head = msgspec.msgpack.decode(rest[:size], type=_Head)
    frame = from_ipc(rest[size:]) if len(rest) > size else None
    return ShuffleBlock(head.channel, head.watermark, head.idle, frame)


def to_ipc(frame: pl.DataFrame) -> bytes:
    """A frame as an Arrow IPC stream.

    Polars writes the texts within lists with all buffers that they share with the frame of which this one is a part:
    a single row of 20,000 took 15 MB. So these columns are copied before.
    """
    nested = [_copied(column) for column in frame if _shares(column.dtype)]
    out = io.BytesIO()
    (frame.with_columns(nested) if nested else frame).write_ipc_stream(out, compression="lz4")
    return out.getvalue()


def _shares(dtype: object) -> bool:
    """Whether it is a list that has texts or bytes at its bottom."""
    if not isinstance(dtype, pl.List):
        return False
    return dtype.inner in (pl.String, pl.Binary) or _shares(dtype.inner)


def _copied(column: pl.Series) -> pl.Series:
    element, inner = pl.element(), column.dtype.inner  # type: ignore[attr-defined]
    if isinstance(inner, pl.List):
        return column.list.eval(element.map_batches(_copied, return_dtype=inner))
    return column.list.eval(element.gather(pl.int_range(pl.len())))


def from_ipc(data: bytes) -> pl.DataFrame:
    return pl.read_ipc_stream(io.BytesIO(data))
