"""Open windows in a store: one row a window and key, and how far windows have been closed.

    00                                   the end of the last closed window, 8 bytes, and the signature of the rows
    <start of window, 8 bytes><key>      the accumulators, a row of the layout

Starts are big-endian with the sign flipped, so rows lie in the order (window, key).
"""

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from operators.stored_keys import check_signature, instant_bytes, instant_of
from streams.core.store import KeyValueStore
from streams.core.time import NEVER

_CLOSED = b"\x00"  # shorter than any window's key, and before all of them


class WindowStore:
    """The rows of open windows.

    `starts` are the windows that have rows here: what is not among them need not be read. They are found on opening, by
    one seek a window.
    """

    def __init__(
        self, store: KeyValueStore, layout: np.dtype[Any], initial: bytes, signature: str = "", where: str = ""
    ) -> None:
        self._store, self._layout, self._initial, self._signature = store, layout, initial, signature.encode()
        head = store.get(_CLOSED)
        check_signature(None if head is None else head[8:], self._signature, where)
        self._signed = head is not None
        self.closed = NEVER if head is None else instant_of(head)
        self.starts: set[int] = set()
        self._place = place = _CLOSED + b"\x00"
        while (found := next(iter(store.scan(place)), None)) is not None:
            start = instant_of(found[0])
            self.starts.add(start)
            place = instant_bytes(start + 1)
        self._keys: list[bytes] = []
        self._values: list[bytes | None] = []

    def get(self, key: bytes) -> bytes | None:
        """The row of one key, if there is one."""
        return self._store.get(key)

    def read(self, keys: Sequence[bytes]) -> npt.NDArray[np.void]:
        """The rows of these keys; initial ones where there are none."""
        initial = self._initial
        values = [initial if v is None else v for v in self._store.get_many(keys)]
        return np.frombuffer(b"".join(values), self._layout)

    def over(self, start: int) -> bool:
        """Whether windows up to this one have rows here."""
        return any(s <= start for s in self.starts)

    def close(self, start: int, most: int) -> tuple[list[bytes], npt.NDArray[np.void], bytes | None]:
        """Take out the rows of all windows up to this one, in order, at most so many; and the last key if there may be
        more: no row is to be put before it from then on."""
        if not self.over(start):
            return [], np.empty(0, self._layout), None
        keys, values = [], []
        for key, value in islice(self._store.scan(self._place, instant_bytes(start + 1)), most):
            keys.append(key)
            values.append(value)
        last = keys[-1] if len(keys) == most else None
        self._place = instant_bytes(start + 1) if last is None else last + b"\x00"
        kept = start + 1 if last is None else instant_of(last)
        self.starts = {s for s in self.starts if s >= kept}
        self._keys += keys
        self._values += [None] * len(keys)
        return keys, np.frombuffer(b"".join(values), self._layout), last

    def put(self, keys: Sequence[bytes], rows: npt.NDArray[np.void], starts: npt.NDArray[np.int64]) -> None:
        """Write rows."""
        raw, size = rows.tobytes(), self._layout.itemsize
        self._keys += keys
        self._values += [raw[i : i + size] for i in range(0, len(raw), size)]
        self.starts.update(np.unique(starts).tolist())

    def flush(self, closed: int) -> None:
        """Hand everything over at once: what `close` took out, what `put` wrote, and how far windows are closed."""
        if closed > self.closed or (self._keys and not self._signed):
            self.closed, self._signed = max(closed, self.closed), True
            self._keys.append(_CLOSED)
            self._values.append(instant_bytes(self.closed) + self._signature)
        if self._keys:
            self._store.put_many(self._keys, self._values)
        self._keys, self._values = [], []


def window_key(entry: bytes) -> bytes | None:
    """The stored key in an entry's key; None for the head."""
    return None if entry == _CLOSED else entry[8:]


def combined_heads(heads: Sequence[bytes | None]) -> bytes | None:
    """The head of a store that takes rows of several: windows are closed as far as in the one that is least far (None
    has closed none). Raises StateMismatch if their rows are of several kinds."""
    found = [h for h in heads if h is not None]
    if not found:
        return None
    for head in found[1:]:
        check_signature(head[8:], found[0][8:], "the tasks of a savepoint")
    closed = min(instant_of(h) for h in found) if len(found) == len(heads) else NEVER
    return instant_bytes(closed) + found[0][8:]


def migrated_head(head: bytes, signature: str) -> bytes:
    """The head of a store whose rows have been made anew: windows are closed as far as they were."""
    return head[:8] + signature.encode()
