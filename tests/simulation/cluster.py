"""What the processes of a simulation share: partitions, transactions, leases, members; and how brokers lose the end."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

from streams.core.record import Headers, Produced, TopicPartition
from streams.log.base import Committed, TopicInfo, TopicSpec
from streams.protocol import Lease
from tests.simulation.world import Violation, World

SESSION = 2.0  # seconds
SAVED = 0.5  # seconds after which brokers have written to their disks what they have


@dataclass
class Entry:
    """A record, or a marker (without a transaction's data)."""

    transaction: "Transaction"
    key: bytes | None = None
    value: bytes | None = None
    timestamp: int = -1
    headers: Headers | None = None
    marker: bool = False


@dataclass
class Transaction:
    """`state`: open, committed or aborted. `hidden`: partitions whose marker is not written yet."""

    slot: str
    epoch: int
    state: str = "open"
    touched: set[TopicPartition] = field(default_factory=set)
    hidden: set[TopicPartition] = field(default_factory=set)
    positions: dict[TopicPartition, Committed] = field(default_factory=dict)
    leases: dict[int, Lease] = field(default_factory=dict)
    hidden_until: float = 0.0
    sending: bool = False  # positions and leases are in it: stable reads wait


@dataclass
class Records:
    source: TopicPartition
    entries: list[Entry]
    numbers: list[int]

    @property
    def next_offset(self) -> int:
        return self.numbers[-1] + 1

    def __len__(self) -> int:
        return len(self.entries)

    def values(self) -> list[bytes | None]:
        return [e.value for e in self.entries]

    def keys(self) -> list[bytes | None]:
        return [e.key for e in self.entries]

    def timestamps(self) -> list[int]:
        return [e.timestamp for e in self.entries]

    def first_timestamp(self) -> int:
        return self.entries[0].timestamp

    def offsets(self) -> list[int]:
        return self.numbers

    def headers(self) -> list[Headers | None]:
        return [e.headers for e in self.entries]


@dataclass
class Late:
    """A commit request that is still on its way."""

    transaction: Transaction
    duplicate: bool


class Cluster:
    """What all processes share."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.infos: dict[str, TopicInfo] = {}
        self.partitions: dict[TopicPartition, list[Entry]] = {}
        self.starts: dict[TopicPartition, int] = {}
        self.positions: dict[tuple[str, TopicPartition], Committed] = {}
        self.leases: dict[int, Lease] = {}
        self.epochs: dict[str, int] = {}
        self.open: dict[str, Transaction] = {}
        self.claims: dict[int, int] = {}
        self.late: list[Late] = []
        self.transactions: list[Transaction] = []
        self.members: dict[str, float] = {}
        self.assigned: dict[str, frozenset[int]] = {}
        self.tasks = 0
        self.checks = True
        self._saved: tuple[dict[TopicPartition, int], set[int], Any, Any] | None = None
        self.saved_at = 0.0
        self.commits = 0
        self.faults: dict[str, int] = {}

    # ---- power

    def save(self) -> None:
        """What is on the brokers' disks for sure."""
        lengths = {source: len(entries) for source, entries in self.partitions.items()}
        unfinished = {id(t) for t in self.open.values()}
        self._saved = (lengths, unfinished, dict(self.positions), dict(self.leases))
        self.saved_at = self.world.time

    def lose_the_end(self) -> bool:
        """All brokers lose power: what was not on their disks is gone. No process lives on with what it has seen.

        What was deleted stays deleted: brokers sync where their logs begin, not the commits that were the reason.
        """
        if self._saved is None:
            return False
        lengths, unfinished, positions, leases = self._saved
        for source, entries in self.partitions.items():
            del entries[lengths.get(source, 0) :]
            for entry in entries:
                if id(entry.transaction) in unfinished or entry.transaction.state == "open":
                    entry.transaction.state = "aborted"
                entry.transaction.hidden.clear()
        self.starts = {source: min(start, len(self.partitions[source])) for source, start in self.starts.items()}
        self.positions, self.leases = dict(positions), dict(leases)
        self.open.clear()
        self.late.clear()
        self.transactions.clear()
        return True

    # ---- topics and records

    def create(self, specs: Iterable[TopicSpec]) -> None:
        for spec in specs:
            if spec.name not in self.infos:
                self.infos[spec.name] = TopicInfo(spec.name, spec.partitions, f"id-{spec.name}")
                for p in range(spec.partitions):
                    self.partitions[TopicPartition(spec.name, p)] = []
                    self.starts[TopicPartition(spec.name, p)] = 0

    def write(self, records: Produced, transaction: Transaction) -> None:
        count = self.infos[records.topic].partitions
        stamps = records.timestamps
        for i, value in enumerate(records.values):
            number = records.partition
            if number is None:
                number = crc32(records.keys[i] or b"") % count
            source = TopicPartition(records.topic, number)
            stamp = stamps if isinstance(stamps, int) else stamps[i]
            headers = records.headers[i] if records.headers else None
            self.partitions[source].append(Entry(transaction, records.keys[i], value, stamp, headers))
            transaction.touched.add(source)

    def stable_end(self, source: TopicPartition) -> int:
        """Readers get no further: the first record of a transaction that is open, or whose marker is not there."""
        entries = self.partitions[source]
        for offset in range(self.starts[source], len(entries)):
            transaction = entries[offset].transaction
            if transaction.state == "open" or source in transaction.hidden:
                return offset
        return len(entries)

    # ---- transactions

    def end(self, transaction: Transaction, commit: bool) -> None:
        """Decide a transaction. Its markers are written now, or some of them later."""
        transaction.state = "committed" if commit else "aborted"
        if self.open.get(transaction.slot) is transaction:
            del self.open[transaction.slot]
        if commit:
            self._check(transaction)
            app = transaction.slot.rpartition("/")[0]
            self.positions.update({(app, tp): c for tp, c in transaction.positions.items()})
            self.leases.update(transaction.leases)
            self.commits += bool(transaction.leases)
        for source in sorted(transaction.touched):
            if self.world.chance(0.1):
                transaction.hidden.add(source)
                transaction.hidden_until = self.world.time + self.world.rng.choice((0.0, 0.1, 0.6))
            else:
                self._mark(transaction, source)
        self.transactions.append(transaction)

    def settle(self, transaction: Transaction) -> None:
        """Write the markers that are missing."""
        for source in sorted(transaction.hidden):
            self._mark(transaction, source)
        transaction.hidden.clear()

    def _mark(self, transaction: Transaction, source: TopicPartition) -> None:
        self.partitions[source].append(Entry(transaction, marker=True))

    def _check(self, transaction: Transaction) -> None:
        slot = transaction.slot.rpartition("/")[2]
        for task, lease in transaction.leases.items():
            before = self.leases.get(task)
            if not self.checks:
                continue
            if before is None or before.slot != slot or not before.held:
                raise Violation(f"slot {slot} commits task {task} although its lease record says {before}")
            if lease.sequence not in (before.sequence, before.sequence + 1):
                raise Violation(f"task {task} goes from commit {before.sequence} to {lease.sequence}")

    def fence(self, name: str) -> int:
        """A new producer under this id: the earlier one's transaction ends, its late requests are void."""
        self.epochs[name] = self.epochs.get(name, 0) + 1
        transaction = self.open.get(name)
        if transaction is not None:
            self.end(transaction, commit=False)
        for each in self.transactions:
            if each.slot == name:
                self.settle(each)
        return self.epochs[name]

    def deliver(self) -> None:
        """Something that was on its way arrives: a late commit request, or a marker."""
        rng = self.world.rng
        if self.late and rng.random() < 0.5:
            late = rng.choice(self.late)
            transaction = late.transaction
            if late.duplicate:  # a request that was sent again: it ends what the same producer has open now
                now = self.open.get(transaction.slot)
                hits = now is not None and now.epoch == transaction.epoch == self.epochs[transaction.slot]
                if not hits and rng.random() < 0.9:
                    return  # where it can do no harm it mostly comes later
                self.late.remove(late)
                if hits:
                    self.end(now, commit=True)
                return
            self.late.remove(late)
            if transaction.state == "open" and self.epochs[transaction.slot] == transaction.epoch:
                self.end(transaction, commit=True)
        else:
            waiting = [t for t in self.transactions if t.hidden and t.hidden_until <= self.world.time]
            if waiting:
                self.settle(rng.choice(waiting))

    # ---- the group

    def rebalance(self) -> None:
        """Spread the tasks over the members; now and then wrongly, since the group only suggests."""
        rng = self.world.rng
        members = sorted(self.members)
        if not members:
            return
        spread: dict[str, set[int]] = {m: set() for m in members}
        for task in range(self.tasks):
            spread[rng.choice(members)].add(task)
            if self.world.chance(0.1):
                spread[rng.choice(members)].add(task)
        self.assigned = {m: frozenset(tasks) for m, tasks in spread.items()}
