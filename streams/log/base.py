"""The contract of a log: atomic append-and-advance under a fenced slot.

A `Log` opens readers, one writer a worker slot, and the group through which workers share tasks. Kafka and the
embedded log implement it; tests/contract runs one suite over both.

Facts that hold for every implementation:
- Readers see committed records only, in offset order. Offsets may have gaps.
- `LogWriter.commit` makes all appends, all positions and all lease records of one commit visible at once, or none.
- Opening a writer for a slot, or calling `Log.fence`, ends the open commit of the slot's earlier holder; from then on
  each of its calls raises `Fenced`.
- A slot's and a claim's fencing are counted apart.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from streams.core.record import Produced, Records, TopicPartition
from streams.protocol import Lease, holders


@dataclass(frozen=True)
class TopicInfo:
    """What the log knows of a topic. `id` changes when it is deleted and made again; `retention` -1 is for ever;
    `ahead_ms`: how far a record's timestamp may lie ahead of the clock, -1 without a limit."""

    name: str
    partitions: int
    id: str
    retention_ms: int = -1
    ahead_ms: int = -1


@dataclass(frozen=True)
class TopicSpec:
    """A topic to create if it is missing. Internal topics are never deleted by time; `settings` are the broker's."""

    name: str
    partitions: int
    settings: Mapping[str, str]


@dataclass(frozen=True)
class Committed:
    """A committed position: the next offset to read, and a note of at most 2 KB that was committed with it."""

    offset: int
    note: str = ""


Positions = Mapping[TopicPartition, Committed]


@dataclass(frozen=True)
class Member:
    """A member of an application's group: its slot, and its process or host as a text.

    >>> str(Member("a", "process 7"))
    "slot 'a' (process 7)"
    """

    slot: str
    at: str

    def __str__(self) -> str:
        return f"slot {self.slot!r} ({self.at})"


class LogReader(ABC):
    """Reads partitions that it was told to, each from an explicit offset. Used by one thread."""

    @abstractmethod
    def assign(self, start: Mapping[TopicPartition, int]) -> None:
        """Read these partitions too, each from the given offset."""

    @abstractmethod
    def unassign(self, partitions: Sequence[TopicPartition]) -> None:
        """Stop reading these; nothing of them is returned afterwards."""

    @abstractmethod
    def poll(self, most: int, timeout: float) -> list[Records]:
        """At most about `most` records, grouped by partition; waits up to `timeout` seconds for the first one."""

    @abstractmethod
    def pause(self, partitions: Sequence[TopicPartition]) -> None: ...

    @abstractmethod
    def resume(self, partitions: Sequence[TopicPartition]) -> None: ...

    @abstractmethod
    def caught_up(self, partition: TopicPartition) -> bool:
        """The reader is connected, has read to the partition's end, and it is not paused."""

    @abstractmethod
    def position(self, partition: TopicPartition) -> int:
        """The offset that reading has come to: behind the last record that was returned, or behind what lies between it
        and the next one (markers of transactions). A restore compares it with `Log.ends`."""

    @abstractmethod
    def lag(self, partition: TopicPartition) -> int:
        """About how many offsets are left to read; 0 if not known yet."""

    @abstractmethod
    def close(self) -> None: ...


class LogWriter(ABC):
    """The one writer of a slot. Used by one thread; `append` opens a commit where none is open."""

    @abstractmethod
    def append(self, records: Produced) -> None:
        """Append within the open commit."""

    @abstractmethod
    def commit(self, positions: Positions, leases: Mapping[int, Lease]) -> None:
        """All appends since the last commit, these positions and these lease records (by task number), or nothing.

        Raises Fenced if a newer holder exists; any other LogError leaves the outcome open: open a new writer (which
        settles it) and read the lease records.
        """

    @abstractmethod
    def abort(self) -> None:
        """Drop what is open. Never raises Fenced."""

    def flush(self) -> None:  # noqa: B027 - a log that commits in one write has nothing to do
        """Bring what was appended to the log, uncommitted. A log that commits in one write has nothing to do."""

    @property
    def suspect(self) -> bool:
        """The last commit was in doubt or slow: it succeeded, but a new writer should be opened now."""
        return False

    @property
    @abstractmethod
    def pending(self) -> int:
        """Records appended to the open commit."""

    @abstractmethod
    def close(self) -> None: ...


class Claim(ABC):
    """A claimer of one task: opening it has fenced whoever was claiming the same task."""

    @abstractmethod
    def write(self, lease: Lease) -> None:
        """Write the lease record; Fenced if a later claimer came."""

    @abstractmethod
    def close(self) -> None: ...


class Group(ABC):
    """The members of an application: it suggests who works on which task. Used by one thread."""

    @abstractmethod
    def poll(self, timeout: float, on_revoke: Callable[[frozenset[int], bool], None]) -> frozenset[int]:
        """The tasks that the group has given us now. Before tasks are given up, `on_revoke(tasks, lost)` is called."""

    @abstractmethod
    def leave(self) -> None:
        """Leave at once, so that others need not wait for a timeout."""

    @property
    def patience(self) -> float:
        """Seconds for which a living member may not poll before its tasks are given to others."""
        return float("inf")

    @property
    @abstractmethod
    def members(self) -> int:
        """Living members, as far as known (at least 1). May be asked by another thread."""


class Log(ABC):
    """A log: topics, readers, writers, leases."""

    name: str
    """For messages: the brokers' addresses or the file."""

    option: str = ""
    """For commands in messages: what names this log on the command line, with a blank before it."""

    durable_after: float = 60.0
    """Seconds after which a power failure cannot take a commit any more: systems write to their disks within 35 s.
    Snapshots that a commit makes superfluous are not deleted before."""
    settled_after: float = 0.0
    """The same for what lies in the log itself. 0 where a power failure takes commit and deletion together."""

    @abstractmethod
    def topics(self, names: Sequence[str]) -> dict[str, TopicInfo]:
        """Those of the topics that exist."""

    @abstractmethod
    def all_topics(self) -> list[str]:
        """Names of all topics, for error messages."""

    @abstractmethod
    def create(self, topics: Sequence[TopicSpec]) -> None:
        """Create the topics that do not exist yet."""

    def sync_commits(self) -> None:
        """From now on a commit through this object survives a power failure once it has returned, where the log can
        see to it: what is published outside must not be ahead of the log. By default nothing (Kafka replicates)."""
        return None

    @abstractmethod
    def reader(self) -> LogReader: ...

    @abstractmethod
    def writer(self, app: str, slot: str) -> LogWriter:
        """The writer of a slot; fences earlier holders."""

    @abstractmethod
    def group(self, app: str, slot: str, tasks: int) -> Group:
        """Join the application's members under a slot."""

    @abstractmethod
    def claim(self, app: str, task: int) -> Claim:
        """Begin to claim a task: fences other claimers of it."""

    @abstractmethod
    def fence(self, app: str, slot: str) -> None:
        """End the open commit of this slot and fence its holder."""

    @abstractmethod
    def leases(self, app: str, tasks: Sequence[int]) -> dict[int, Lease | None]:
        """The lease records, stable: waits for a commit of them that is in progress."""

    def holders(self, app: str, tasks: Sequence[int]) -> dict[int, str]:
        """The slots that hold these tasks, as far as commits have ended: a hint, for which a log should not wait for
        one that is in progress."""
        return holders(self.leases(app, tasks))

    @abstractmethod
    def committed(self, app: str, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, Committed | None]:
        """The committed positions of an application, stable."""

    @abstractmethod
    def ends(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """The end offsets, open commits included."""

    @abstractmethod
    def starts(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """The first offsets that can still be read."""

    @abstractmethod
    def trim(self, before: Mapping[TopicPartition, int]) -> None:
        """Delete records before these offsets."""

    # ---- starting an application anew

    @abstractmethod
    def living(self, app: str) -> list[Member]:
        """The members of an application's group that are not known to be dead."""

    @abstractmethod
    def forget(self, app: str) -> None:
        """Forget the lease records and committed positions of an application that has no living member.

        LogError while members live. Fencing is not forgotten: a holder that was fenced before stays so. It may be
        called again after a failure.
        """

    @abstractmethod
    def delete(self, topics: Sequence[str]) -> None:
        """Delete topics, those of them that exist; on return they can be created anew, with another `TopicInfo.id`."""

    @abstractmethod
    def close(self) -> None: ...
