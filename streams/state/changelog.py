"""The changelog of a task: what each commit changed, as blocks of columns in the values of records.

A commit's blocks lie one after the other in one partition; the last one closes the commit. Block = head + meta + body:

    offset  bytes
    0       3     magic "SCL"
    3       1     version of the format
    4       4     CRC32 of everything else, big-endian like all numbers here
    8       4     length of the meta data
    12            meta data: MessagePack array [sequence, part, last, position, [[store, entries], ...]]
    ...           body: Arrow IPC stream (lz4) of `key` and `value` (LargeBinary); empty without entries

The meta data say how many entries belong to which store, one store after the other: a run-length code of the column
`store`. A value of null deletes. The position is on the last block alone.
"""

import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import accumulate, chain
from zlib import crc32

import msgspec
import polars as pl

from streams.core.errors import StateCorrupt, StateError, StateMismatch
from streams.state.base import Change, Mark, StateStore

FORMAT = 1
"""The version of blocks that this program writes, and the newest one it reads."""

MOST_ENTRY_BYTES = 64 << 20
"""Key and value of one entry together may not be larger."""

_MAGIC = b"SCL"
_HEAD = struct.Struct(">3sBII")
_FIXED = 1500  # head, Arrow's schema and frames
_ENTRY = 20  # offsets and validity of an entry
_LOST = (
    "blocks were lost: restore the topic from a backup of the cluster, or start the application anew under another id"
)
_SCHEMA = {"key": pl.Binary, "value": pl.Binary}


class _Meta(msgspec.Struct, array_like=True):
    sequence: int
    part: int
    last: bool
    position: bytes
    runs: list[tuple[str, int]]


@dataclass(frozen=True)
class Block:
    """One record of a changelog: the part `part` of the commit `sequence`."""

    sequence: int
    part: int
    last: bool
    position: bytes
    changes: list[Change]


def encode(changes: Sequence[Change], sequence: int, position: bytes, most_bytes: int = 900_000) -> list[bytes]:
    """A commit as values of records, in their order: at least one, also without changes.

    No block is larger than `most_bytes`, save one that holds a single entry (or just a position) that is: a log with a
    limit for records refuses it. An entry above `MOST_ENTRY_BYTES` raises StateError.

    >>> values = encode([Change("seen", [b"a", b"b"], [b"1", None])], 7, b"here")
    >>> [decode(value) for value in values]  # doctest: +NORMALIZE_WHITESPACE
    [Block(sequence=7, part=0, last=True, position=b'here',
        changes=[Change(store='seen', keys=[b'a', b'b'])])]
    """
    pieces = list(_cut(changes, most_bytes - _FIXED - len(position))) or [[]]
    end = len(pieces) - 1
    return [_block(each, sequence, n, n == end, position if n == end else b"") for n, each in enumerate(pieces)]


def decode(value: bytes, where: str = "") -> Block:
    """The block in a record's value. `where` names the record in errors.

    Raises StateCorrupt if a byte of it has changed or it is no block, StateMismatch if it is of a newer format.
    """
    meta, body = _split(value, where)
    return Block(meta.sequence, meta.part, meta.last, meta.position, _changes(meta, body, where))


def _cut(changes: Sequence[Change], room: int) -> Iterator[list[Change]]:
    """Runs of changes of at most about `room` bytes each, uncompressed."""
    piece: list[Change] = []
    left = room
    for change in changes:
        count, head = len(change.keys), len(change.store.encode()) + 16
        total = sum(map(len, change.keys)) + sum(map(len, filter(None, change.values))) + count * _ENTRY + head
        if count and total <= min(left, MOST_ENTRY_BYTES):
            piece.append(change)
            left -= total
            continue
        sizes = [len(k) + len(v or b"") + _ENTRY for k, v in zip(change.keys, change.values, strict=True)]
        if max(sizes, default=0) > MOST_ENTRY_BYTES:
            index = sizes.index(max(sizes))
            raise StateError(
                f"an entry of {sizes[index]:,} bytes is too large for a changelog (at most {MOST_ENTRY_BYTES:,})",
                where=f"store {change.store!r}, key {change.keys[index][:80]!r}",
                fix="keep large values as several smaller entries, or elsewhere and only their name in the state",
            )
        ends, start = list(accumulate(sizes)), 0
        while start < count:
            before = ends[start - 1] if start else 0
            stop = bisect_right(ends, before + left - head)
            if stop <= start:
                if piece:
                    yield piece
                    piece, left = [], room
                    continue
                stop = start + 1
            piece.append(Change(change.store, change.keys[start:stop], change.values[start:stop]))
            left -= ends[stop - 1] - before + head
            start = stop
    if piece:
        yield piece


def _block(changes: list[Change], sequence: int, part: int, last: bool, position: bytes) -> bytes:
    meta = _Meta(sequence, part, last, position, [(each.store, len(each.keys)) for each in changes])
    head, body = msgspec.msgpack.encode(meta), b""
    if changes:
        keys = list(chain.from_iterable(each.keys for each in changes))
        values = list(chain.from_iterable(each.values for each in changes))
        out = BytesIO()
        frame = pl.DataFrame({"key": keys, "value": values}, schema=_SCHEMA)
        frame.write_ipc_stream(out, compression="lz4", compat_level=pl.CompatLevel.oldest())
        body = out.getvalue()
    rest = b"".join((len(head).to_bytes(4, "big"), head, body))
    crc = crc32(rest, crc32(_MAGIC + bytes([FORMAT])))
    return _HEAD.pack(_MAGIC, FORMAT, crc, len(head)) + rest[4:]


def _split(value: bytes, where: str) -> tuple[_Meta, bytes]:
    """Meta data and body of a block that is whole."""
    if len(value) < _HEAD.size:
        raise _damaged(f"{len(value)} bytes are too few", where)
    magic, version, crc, length = _HEAD.unpack_from(value)
    if magic != _MAGIC:
        raise _damaged("it does not begin as a block does", where)
    if crc32(memoryview(value)[8:], crc32(value[:4])) != crc:
        raise _damaged("its checksum is wrong", where)
    if version > FORMAT:
        raise StateMismatch(
            f"a changelog block has format {version}, this program knows up to {FORMAT}",
            where=where,
            fix="run the version of the program that wrote it, or a newer one",
        )
    try:
        meta = msgspec.msgpack.decode(value[_HEAD.size : _HEAD.size + length], type=_Meta)
    except msgspec.MsgspecError as error:
        raise _damaged(f"its meta data cannot be read: {error}", where) from error
    return meta, value[_HEAD.size + length :]


def _changes(meta: _Meta, body: bytes, where: str) -> list[Change]:
    if not meta.runs:
        return []
    try:
        frame = pl.read_ipc_stream(body)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise _damaged(f"its body cannot be read: {error}", where) from error
    if frame.schema != _SCHEMA or frame.height != sum(count for _, count in meta.runs) or frame["key"].null_count():
        raise _damaged(f"its body has {frame.height} rows of {dict(frame.schema)}", where)
    keys, values = frame["key"].to_list(), frame["value"].to_list()
    stops = list(accumulate(count for _, count in meta.runs))
    return [
        Change(store, keys[stop - count : stop], values[stop - count : stop])
        for (store, count), stop in zip(meta.runs, stops, strict=True)
    ]


def _damaged(what: str, where: str) -> StateCorrupt:
    fix = "restore the changelog topic from a backup of the cluster, or start the application anew under another id"
    return StateCorrupt(f"a changelog block is damaged: {what}", where=where, fix=fix)


class NotThatHistory(StateMismatch):
    """The store stands at a commit that is not the one before the first block that it lacks: brokers have lost the
    log's end and gone on from there (a power loss). Whoever restores makes the store anew."""


class Replay:
    """Brings a store forward by the blocks of its changelog, given in the order of their offsets.

    Commits that the store has already are skipped, also if the first one is met in its middle. From there on each
    commit's sequence is one above the last one's: every commit that touches a stateful task writes a block, if only
    an empty one, and nothing else raises the lease's sequence. A gap, a part that is missing or a sequence that goes
    back mean that blocks were lost, and raise StateMismatch. One exception, for who says `trimmed`: a store without
    any commit may begin anywhere, since the changelog's beginning was trimmed after all entries were written again.

    `follows` is asked with the position of the first commit that the store lacks: whether it goes on from the store's.

    Small commits are gathered into one write of about `most_bytes`: each write leaves the store at a commit's end. The
    blocks of one commit are held in memory until its last one.

    >>> from unittest.mock import Mock
    >>> store = Mock(mark=Mark()); replay = Replay(store, "topic-id")
    >>> replay.add(encode([Change("seen", [b"a"], [b"1"])], 1, b"p1")[0], 11)
    >>> replay.add(encode([Change("seen", [b"a"], [b"2"])], 2, b"p2")[0], 13)
    >>> replay.flush(); store.apply.call_args.args  # doctest: +NORMALIZE_WHITESPACE
    ([Change(store='seen', keys=[b'a'])],
     Mark(sequence=2, topic_id='topic-id', offset=13, position=b'p2'))
    """

    def __init__(
        self,
        store: StateStore,
        topic_id: str,
        *,
        trimmed: bool = False,
        follows: Callable[[bytes], bool] | None = None,
        most_bytes: int = 8 << 20,
    ) -> None:
        mark = store.mark
        if mark.sequence and mark.topic_id != topic_id:
            raise StateMismatch(
                f"the store belongs to the changelog {mark.topic_id!r}, not to {topic_id!r}",
                fix="the topic was deleted and made again: delete the state directory",
            )
        self._store, self._topic_id, self._most = store, topic_id, most_bytes
        self._anywhere = trimmed and not mark.sequence
        self._follows = follows if mark.sequence else None
        self.first = 0
        """The first commit that was replayed, if the store had none before."""
        self._sequence = mark.sequence  # of the last whole commit
        self._advanced = False  # a commit of this replay is among them
        self._open: list[Block] = []  # the parts of a commit without its end
        self._merged: dict[str, dict[bytes, bytes | None]] = {}
        self._bytes = 0
        self._mark: Mark | None = None  # of what is merged

    def add(self, value: bytes, next_offset: int) -> None:
        """The next record's value, and the offset after it.

        1. Check that the block is whole.
        2. Skip it if the store has its commit.
        3. Check that it goes on where the last block ended.
        4. The last one of its commit: merge the commit into the pending write.
        5. Write if much is pending.
        """
        where = f"changelog {self._topic_id}, offset before {next_offset}"
        meta, body = _split(value, where)
        if meta.sequence <= self._sequence and not self._advanced and not self._open:
            return
        if self._anywhere and not self._advanced and not self._open:
            self._sequence, self.first = meta.sequence - 1, meta.sequence
        self._check(meta, where)
        self._open.append(Block(meta.sequence, meta.part, meta.last, meta.position, _changes(meta, body, where)))
        self._bytes += len(value)
        if meta.last:
            if self._follows is not None and not self._follows(meta.position):
                raise NotThatHistory(
                    f"commit {meta.sequence} of the changelog does not go on from commit {self._sequence} of the store",
                    where=where,
                    fix=_LOST,
                )
            self._follows = None
            self._merge()
            self._mark = Mark(meta.sequence, self._topic_id, next_offset, meta.position)
            self._sequence, self._advanced = meta.sequence, True
            if self._bytes >= self._most:
                self.flush()

    def flush(self) -> None:
        """Write every whole commit that was added. Parts of a commit whose end has not come yet are kept."""
        if self._mark is not None:
            changes = []
            for store, entries in sorted(self._merged.items()):
                keys = sorted(entries)
                changes.append(Change(store, keys, [entries[key] for key in keys]))
            self._store.apply(changes, self._mark)
            self._merged, self._mark, self._bytes = {}, None, 0

    def _check(self, meta: _Meta, where: str) -> None:
        expected, part = self._sequence + 1, len(self._open)
        if (meta.sequence, meta.part) != (expected, part):
            first = bool(self._sequence) and not self._advanced and not self._open
            raise (NotThatHistory if first else StateMismatch)(
                f"the changelog goes on with part {meta.part} of commit {meta.sequence}, not with {part} of {expected}",
                where=where,
                fix=_LOST,
            )

    def _merge(self) -> None:
        for block in self._open:
            for change in block.changes:
                self._merged.setdefault(change.store, {}).update(zip(change.keys, change.values, strict=True))
        self._open = []
