"""Records as they lie in a log, undecoded: what readers give and writers take."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

Headers = list[tuple[str, bytes]]


class TopicPartition(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int


class Records(Protocol):
    """A run of records of one partition, in order of their offsets (which may have gaps)."""

    @property
    def source(self) -> TopicPartition: ...

    @property
    def next_offset(self) -> int:
        """The position after the last record."""
        ...

    def __len__(self) -> int: ...

    def values(self) -> Sequence[bytes | None]: ...

    def keys(self) -> Sequence[bytes | None]: ...

    def timestamps(self) -> Sequence[int]:
        """Milliseconds since the epoch; -1 where a record has none."""
        ...

    def first_timestamp(self) -> int:
        """That of the first record."""
        ...

    def offsets(self) -> Sequence[int]: ...

    def headers(self) -> Sequence[Headers | None]: ...


@dataclass(frozen=True)
class Produced:
    """Records to append to one topic. `partition` None: by the key's hash, as Java clients do."""

    topic: str
    partition: int | None
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    timestamps: Sequence[int] | int
    headers: Sequence[Headers | None] | None = None
