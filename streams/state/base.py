"""The contract of a task's state: several maps, one overlay of uncommitted writes, one atomic commit."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from streams.core.errors import StateCorrupt, StateError
from streams.core.store import KeyValueStore, StoreSpec
from streams.state.look import Look


@dataclass(frozen=True)
class Mark:
    """Where a store stands: written atomically with the data it belongs to.

    `sequence`: the task's commit sequence; `topic_id` and `offset`: the changelog and the next offset to replay;
    `position`: the last block's positions and watermarks, as the task wrote them.
    """

    sequence: int = 0
    topic_id: str = ""
    offset: int = 0
    position: bytes = b""


@dataclass(frozen=True)
class Change:
    """Changed entries of one map, sorted by key; None deletes."""

    store: str
    keys: list[bytes]
    values: list[bytes | None] = field(repr=False)


class StateStore(ABC):
    """The state of one task. Used by one thread.

    Clean entries (a cache, bounded by a limit in bytes) and uncommitted ones (the overlay) are in one map; only
    `commit` writes to disk, everything at once with the mark.
    """

    @abstractmethod
    def map(self, spec: StoreSpec) -> KeyValueStore:
        """A map of the task, created if it is new."""

    @abstractmethod
    def names(self) -> list[str]:
        """The maps that there are, those that no operator has asked for since the start included."""

    @abstractmethod
    def entries(self, name: str, start: bytes, most_bytes: int) -> tuple[list[bytes], list[bytes], bytes | None]:
        """Keys and values of a map from `start` on, uncommitted writes included, until they reach `most_bytes` (at
        least one entry); and the next key, None at the end."""

    @abstractmethod
    def committed(self, name: str, start: bytes = b"", stop: bytes | None = None) -> Look:
        """Entries with start <= key < stop of a map that there is, as the last commit left them: what is uncommitted is
        not in it, nor is what is committed while it is read. It ends with a StateError when the store is closed."""

    @abstractmethod
    def changes(self) -> Sequence[Change]:
        """The overlay: what `commit` will write."""

    @property
    @abstractmethod
    def overlay_bytes(self) -> int:
        """About how large the overlay is."""

    @property
    @abstractmethod
    def size_bytes(self) -> int:
        """About how large the store is on disk."""

    @property
    @abstractmethod
    def mark(self) -> Mark:
        """Where the store stands on disk."""

    @abstractmethod
    def commit(self, mark: Mark) -> None:
        """Write the overlay and the mark in one atomic write. After a crash both are there, or neither is."""

    @abstractmethod
    def apply(self, changes: Sequence[Change], mark: Mark) -> None:
        """Replay: write changes that come from the changelog, atomically with the mark."""

    @abstractmethod
    def rollback(self) -> None:
        """Forget the overlay."""

    @abstractmethod
    def flush(self) -> None:
        """Do what would hold up a `snapshot`. The one method that any thread may call."""

    @property
    def unflushed(self) -> bool:
        """Something was committed since the last `flush` began, so that a `snapshot` would have to flush it."""
        return False

    @property
    def calm(self) -> bool:
        """A snapshot now would not wait for work in the background."""
        return True

    @abstractmethod
    def snapshot(self, directory: Path) -> None:
        """A consistent copy of the files (hard links where the file system allows)."""

    @staticmethod  # noqa: B027 - a store whose files cannot be damaged unnoticed
    def verify(directory: Path, wanted: Callable[[], None]) -> None:
        """Read all of a snapshot; `StateCorrupt` if part of it is damaged. `wanted` is called now and then, and may
        raise. For any thread."""

    def condemn(self, what: str) -> StateError:
        """Note that the files are damaged, so that nobody opens them again; the error to raise."""
        return StateCorrupt(f"the files of a store are damaged: {what}")

    @abstractmethod
    def close(self) -> None: ...
