"""Reading what is committed in small pieces: for those who must not hold up the thread that a store belongs to.

What makes a piece long is not what it finds but what it passes over: RocksDB steps over deleted entries (a closed
window leaves as many as it had keys) in one call, which can take a second. So a cursor gives up after some thousands of
them, and does not say where it stood; and between two entries, each of which may lie behind that many, it looks at the
clock. The gap is then crossed in stretches of the keys' range, each short enough:

1. A stretch has an end: its start, read as a number, plus a width. At first it goes to the end of all.
2. A cursor over it that gives up: the next attempt is a sixteenth as wide, from the last entry that was seen.
3. One that comes to the end of the stretch: the next stretch begins there, and is four times as wide.
4. The number is made of 32 bytes. Where a width of 1 is too much, all keys there agree in these (addresses, long ids):
   the next 32 count, as long as keys have the same ones before.
"""

from collections.abc import Callable
from typing import Protocol

from streams.core.errors import StateError

_BYTES = 32  # of a key that count for the width
_FARTHEST = 4096  # bytes of a key behind which none count


class Cursor(Protocol):
    """A place in what is on disk."""

    @property
    def tired(self) -> bool:
        """It has given up among deleted entries, and does not know where."""
        ...

    @property
    def rests(self) -> bool:
        """The last `read` ended before its time: there is more where it stands."""
        ...

    def read(self, most: int) -> list[tuple[bytes, bytes | None]]:
        """The next entries; fewer than `most` at the end, or where it is tired or rests."""
        ...


class Look:
    """Entries of one map with start <= key < stop, as they were committed when the look began.

    Only where it had to cross a gap it sees later commits, too: `first` and `last` say which. `ended`: there are no
    more. `open` makes a cursor over two bounds, `sequence` is the store's commit.
    """

    def __init__(
        self,
        open: Callable[[bytes, bytes | None], Cursor],
        sequence: Callable[[], int],
        start: bytes,
        stop: bytes | None,
    ) -> None:
        self._open, self._sequence, self._at, self._stop = open, sequence, start, stop
        self._bits: int | None = None  # of the width; None: to the end
        self._before = 0  # how many bytes of the keys lie before those that count
        self._leaves = False  # at the end of the stretch those before them are others
        self._cursor: Cursor | None = None
        self._bound: bytes | None = None
        self.ended = stop is not None and stop <= start
        self.first = self.last = sequence()
        if not self.ended:
            self._begin()

    def read(self, most: int) -> list[tuple[bytes, bytes | None]]:
        """The next entries, at most so many. None at all need not be the end: see `ended`."""
        if self.ended:
            return []
        if self._cursor is None:
            self._begin()
        assert self._cursor is not None
        entries = self._cursor.read(most)
        if entries:
            self._at = entries[-1][0] + b"\0"
        if self._cursor.tired:
            self._narrow()
        elif len(entries) < most and not self._cursor.rests:
            if self._bound == self._stop:
                self.ended = True
            else:
                assert self._bound is not None
                assert self._bits is not None
                self._at, self._bits, self._cursor = self._bound, self._bits + 2, None
                if self._leaves:
                    self._before, self._bits = self._before - _BYTES, 0
        return entries

    def _begin(self) -> None:
        self._bound, self._leaves = self._stop, False
        if self._bits is not None:
            size = self._before + _BYTES
            start = int.from_bytes(self._at[:size].ljust(size, b"\0"))
            end, leaving = start + (1 << self._bits), ((start >> 8 * _BYTES) + 1) << 8 * _BYTES
            self._leaves = self._before > 0 and end >= leaving
            end = min(end, leaving)
            if end < 1 << 8 * size:
                near = end.to_bytes(size)
                self._bound = near if self._stop is None else min(near, self._stop)
        self._cursor, self.last = self._open(self._at, self._bound), self._sequence()

    def _narrow(self) -> None:
        self._cursor = None
        bits = (8 * _BYTES if self._bits is None else self._bits) - 4
        if bits < 0 and self._before < _FARTHEST:
            self._before += _BYTES
            bits = 8 * _BYTES - 4
        if bits < 0:
            raise StateError(
                f"too many deleted entries lie behind the key 0x{self._at[:_BYTES].hex()}...",
                fix="begin behind it (--from), or look at the state in the log: --from-changelog",
            )
        self._bits = bits
