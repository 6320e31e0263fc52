"""State by key as columns: a dictionary from key to slot, one array an accumulator, and a dirty mask.

Built-in operators keep their hot state here instead of a bytes value a key. A batch interns its keys once and works on
arrays; missing keys are read with one `get_many`; changed rows are handed over, sorted by key, once a commit.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from streams.core.store import KeyValueStore


class KeyedColumns:
    """Columns of state over a store.

    `dtype` is a structured type; a key's row is stored as its bytes. A row that was never stored is `initial`.
    `limit` is how many rows may stay in memory after a drain.

    >>> from streams.core.store import DictStore
    >>> state = KeyedColumns(DictStore(), np.dtype([("n", "<i8")]))
    >>> slots = state.slots([b"a", b"b", b"a"]); slots.tolist()
    [0, 1, 0]
    >>> state.rows["n"][slots] += 1; state.touch(slots); state.drain(); state.store.get(b"a")
    b'\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00'
    """

    def __init__(
        self, store: KeyValueStore, dtype: np.dtype[np.void], initial: bytes | None = None, limit: int = 1_000_000
    ) -> None:
        self.store, self.dtype, self.limit = store, dtype, limit
        self._initial = initial if initial is not None else bytes(dtype.itemsize)
        self._slot: dict[bytes, int] = {}
        self._keys: list[bytes] = []
        self.rows: npt.NDArray[np.void] = np.empty(0, dtype)
        self._dirty = np.zeros(0, bool)

    def __len__(self) -> int:
        return len(self._keys)

    def slots(self, keys: Sequence[bytes]) -> npt.NDArray[np.int64]:
        """The slot of each key; rows of keys that are not in memory are read from the store at once."""
        get = self._slot.get
        found = np.array([get(k, -1) for k in keys], dtype=np.int64)
        missing = np.flatnonzero(found < 0)
        if len(missing):
            self._load(list(dict.fromkeys([keys[i] for i in missing.tolist()])))
            found[missing] = [self._slot[keys[i]] for i in missing.tolist()]
        return found

    def touch(self, slots: npt.NDArray[np.int64]) -> None:
        """The rows in these slots have changed."""
        self._dirty[slots] = True

    def drain(self) -> None:
        """Hand the changed rows to the store; afterwards nothing lives here alone."""
        count = len(self._keys)
        changed = np.flatnonzero(self._dirty[:count])
        if len(changed):
            raw, size, keys = self.rows[changed].tobytes(), self.dtype.itemsize, self._keys
            pairs = sorted((keys[slot], raw[i * size : i * size + size]) for i, slot in enumerate(changed.tolist()))
            self.store.put_many([k for k, _ in pairs], [v for _, v in pairs])
        if count > self.limit:
            self._keep(changed[-(self.limit // 2) :])
        else:
            self._dirty[changed] = False

    def _load(self, keys: Sequence[bytes]) -> None:
        start, values = len(self._keys), self.store.get_many(keys)
        self._grow(start + len(keys))
        initial = self._initial
        raw = b"".join([v if v is not None else initial for v in values])
        self.rows[start : start + len(keys)] = np.frombuffer(raw, self.dtype)
        self._slot.update(zip(keys, range(start, start + len(keys)), strict=True))
        self._keys.extend(keys)

    def _grow(self, needed: int) -> None:
        if needed <= len(self.rows):
            return
        room = max(1024, needed, 2 * len(self.rows))
        rows, dirty = np.empty(room, self.dtype), np.zeros(room, bool)
        rows[: len(self._keys)] = self.rows[: len(self._keys)]
        dirty[: len(self._keys)] = self._dirty[: len(self._keys)]
        self.rows, self._dirty = rows, dirty

    def _keep(self, slots: Iterable[int]) -> None:
        kept = list(slots)
        self._keys = [self._keys[i] for i in kept]
        self._slot = dict(zip(self._keys, range(len(kept)), strict=True))
        self.rows = self.rows[kept].copy()
        self._dirty = np.zeros(len(kept), bool)
