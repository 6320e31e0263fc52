"""A place in a store on disk, from which entries are read on."""

import math
import time
from pathlib import Path
from typing import Any

from streams.core.errors import StateError
from streams.state.files import named


class RocksCursor:
    """A place in a column family. The only holder of a RocksDB iterator, so that closing the store can drop it."""

    tired = rests = False

    def __init__(
        self, directory: Path, iterator: Any, options: object, start: bytes, seconds: float = math.inf
    ) -> None:
        self._directory, self._iterator, self._seconds = directory, iterator, seconds
        self._options = options  # the iterator has a bare pointer to the bound in them
        self._start: bytes | None = start  # what it sees is settled already; the way there can take time

    def read(self, most: int) -> list[tuple[bytes, bytes | None]]:
        """The next entries; fewer than `most` at the end, or where it is `tired` or `rests`."""
        iterator = self._iterator
        if iterator is None:
            raise StateError("the store was closed while a scan of it ran", where=str(self._directory))
        entries: list[tuple[bytes, bytes | None]] = []
        until, self.rests = time.monotonic() + self._seconds, False
        try:
            if self._start is not None:
                start, self._start = self._start, None
                iterator.seek(start)
            while len(entries) < most and iterator.valid():
                entries.append((iterator.key(), iterator.value()))
                iterator.next()
                if time.monotonic() > until:
                    self.rests = iterator.valid()
                    break
            if len(entries) < most:
                iterator.status()
        except Exception as error:
            self.close()
            del iterator  # the traceback keeps this frame, the frame would keep the LOCK
            if "Result incomplete" not in str(error):
                raise named(error, self._directory, "reading") from error
            self.tired = True
        return entries

    def close(self) -> None:
        self._iterator = None
