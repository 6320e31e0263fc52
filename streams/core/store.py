"""What operators see of state: a map of bytes to bytes, uncommitted writes included."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class StoreSpec:
    """A store that an operator declares. `cache`: keep clean entries in memory (False where the operator does)."""

    name: str
    cache: bool = True


class KeyValueStore(ABC):
    """One map of a task. Writes stay in an overlay in memory until the commit; reads see them at once."""

    @abstractmethod
    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of the keys, in their order; None where there is none."""

    @abstractmethod
    def put_many(self, keys: Sequence[bytes], values: Sequence[bytes | None]) -> None:
        """Write the values; None deletes. Of a key given twice the last one counts."""

    @abstractmethod
    def scan(self, start: bytes = b"", stop: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Entries with start <= key < stop in the order of the bytes (stop None: to the end).

        The iterator sees the state at its start; do not write while it runs.
        """

    def get(self, key: bytes) -> bytes | None:
        return self.get_many((key,))[0]

    def put(self, key: bytes, value: bytes | None) -> None:
        self.put_many((key,), (value,))


class DictStore(KeyValueStore):
    """A map in memory: for unit tests of operators, never for a worker."""

    def __init__(self) -> None:
        self.data: dict[bytes, bytes] = {}

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self.data.get(k) for k in keys]

    def put_many(self, keys: Sequence[bytes], values: Sequence[bytes | None]) -> None:
        for key, value in zip(keys, values, strict=True):
            if value is None:
                self.data.pop(key, None)
            else:
                self.data[key] = value

    def scan(self, start: bytes = b"", stop: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        for key in sorted(k for k in self.data if k >= start and (stop is None or k < stop)):
            yield key, self.data[key]
