"""The simulated log: partitions, transactions, leases and a group, with the faults of a real one.

What is modelled after Kafka: a transaction's records lie in the partitions before it ends and hold readers back; its
end is decided at once and its marker is written to each partition later; a commit may be done although the client is
told that it failed, or not be done and arrive later; a stale commit request hits whatever transaction the same producer
has open by then; opening a producer ends its earlier transaction; the group suggests tasks and does not fence.

What is checked at once: a commit must come from the slot that the lease record names, and raise its sequence by one.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

from streams.core.errors import Fenced, LogError, TopicMissing
from streams.core.record import Headers, Produced, TopicPartition
from streams.log.base import Claim, Committed, Group, Log, LogReader, LogWriter, Member, Positions, TopicInfo, TopicSpec
from streams.protocol import Lease
from tests.simulation.world import Process, Violation, World

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


class SimReader(LogReader):
    def __init__(self, log: "SimLog") -> None:
        self._log = log
        self._next: dict[TopicPartition, int] = {}
        self._paused: set[TopicPartition] = set()

    def assign(self, start: Mapping[TopicPartition, int]) -> None:
        self._next.update(start)

    def unassign(self, partitions: Sequence[TopicPartition]) -> None:
        for source in partitions:
            self._next.pop(source, None)
            self._paused.discard(source)

    def poll(self, most: int, timeout: float) -> list["Records"]:  # type: ignore[override]
        self._log.point()
        cluster, rng = self._log.cluster, self._log.cluster.world.rng
        out = []
        for source in sorted(self._next):
            if source in self._paused:
                continue
            offset, end = self._next[source], cluster.stable_end(source)
            if offset < cluster.starts[source]:
                raise LogError(f"records of {source} were deleted before they were read")
            wanted = rng.randint(1, max(1, most))
            found: list[tuple[int, Entry]] = []
            while offset < end and len(found) < wanted:
                entry = cluster.partitions[source][offset]
                if entry.transaction.state == "committed" and not entry.marker:
                    found.append((offset, entry))
                offset += 1
            self._next[source] = offset
            if found:
                out.append(Records(source, [e for _, e in found], [o for o, _ in found]))
        return out

    def pause(self, partitions: Sequence[TopicPartition]) -> None:
        self._paused.update(partitions)

    def resume(self, partitions: Sequence[TopicPartition]) -> None:
        self._paused.difference_update(partitions)

    def caught_up(self, partition: TopicPartition) -> bool:
        return partition not in self._paused and self._next[partition] >= self._log.cluster.stable_end(partition)

    def position(self, partition: TopicPartition) -> int:
        return self._next[partition]

    def lag(self, partition: TopicPartition) -> int:
        return len(self._log.cluster.partitions[partition]) - self._next.get(partition, 0)

    def close(self) -> None:
        self._next.clear()


class SimWriter(LogWriter):
    def __init__(self, log: "SimLog", name: str) -> None:
        self._log, self._name = log, name
        log.point()
        self._epoch = log.cluster.fence(name)
        self._transaction: Transaction | None = None
        self._suspect = False
        self._count = 0
        log.point()

    def append(self, records: Produced) -> None:
        self._log.point()
        self._check()
        self._log.cluster.write(records, self._opened())
        self._count += len(records.values)

    def commit(self, positions: Positions, leases: Mapping[int, Lease]) -> None:
        log, cluster = self._log, self._log.cluster
        log.point()
        self._check()
        transaction = self._opened()
        transaction.positions.update(positions)
        transaction.leases.update(leases)
        transaction.sending = True
        log.point()
        self._check()
        world = cluster.world
        self._transaction, self._count = None, 0
        if world.chance(0.02):
            cluster.faults["commit lost"] = cluster.faults.get("commit lost", 0) + 1
            raise LogError("the outcome of the commit is not known")
        if world.chance(0.03):
            cluster.faults["commit on its way"] = cluster.faults.get("commit on its way", 0) + 1
            cluster.late.append(Late(transaction, duplicate=False))
            raise LogError("the outcome of the commit is not known")
        cluster.end(transaction, commit=True)
        if world.chance(0.03):
            cluster.faults["answer lost"] = cluster.faults.get("answer lost", 0) + 1
            raise LogError("the outcome of the commit is not known")
        if world.chance(0.05):
            cluster.faults["commit sent twice"] = cluster.faults.get("commit sent twice", 0) + 1
            cluster.late.append(Late(transaction, duplicate=True))
            self._suspect = True
        log.point()

    def abort(self) -> None:
        if self._transaction is not None and self._transaction.state == "open":
            self._log.cluster.end(self._transaction, commit=False)
        self._transaction, self._count = None, 0

    @property
    def suspect(self) -> bool:
        return self._suspect

    @property
    def pending(self) -> int:
        return self._count

    def close(self) -> None:
        """The transaction stays open, as when a connection is dropped: a new writer ends it."""
        self._transaction = None

    def _opened(self) -> Transaction:
        cluster = self._log.cluster
        if self._transaction is None or self._transaction.state != "open":
            self._transaction = cluster.open[self._name] = Transaction(self._name, self._epoch)
        return self._transaction

    def _check(self) -> None:
        if self._log.cluster.epochs[self._name] != self._epoch:
            raise Fenced(f"{self._name}: a newer holder has taken over")


class SimClaim(Claim):
    def __init__(self, log: "SimLog", task: int) -> None:
        self._log, self._task = log, task
        log.point()
        claims = log.cluster.claims
        self._epoch = claims[task] = claims.get(task, 0) + 1

    def write(self, lease: Lease) -> None:
        log, cluster = self._log, self._log.cluster
        log.point()
        if cluster.claims[self._task] != self._epoch and not log.rules.no_claim_id:
            raise Fenced(f"task {self._task}: a later claimer came")
        before = cluster.leases.get(self._task)
        if cluster.checks and lease.sequence != (before.sequence if before is not None else 0):
            raise Violation(f"a claim writes {lease} over {before}")
        cluster.leases[self._task] = lease

    def close(self) -> None:
        pass


class SimGroup(Group):
    """The member of one process."""

    def __init__(self, log: "SimLog", slot: str) -> None:
        self._log, self._slot = log, slot
        self._mine: frozenset[int] = frozenset()
        cluster = log.cluster
        cluster.members[slot] = cluster.world.time
        cluster.rebalance()

    def poll(self, timeout: float, on_revoke: Callable[[frozenset[int], bool], None]) -> frozenset[int]:
        log, cluster = self._log, self._log.cluster
        log.point()
        now, lost = cluster.world.time, False
        if now - cluster.members.get(self._slot, -9.0) > SESSION:
            lost = cluster.world.chance(0.5)  # often it is told to be revoked, although it was thrown out
            cluster.members[self._slot] = now
            cluster.rebalance()
        cluster.members[self._slot] = now
        wanted = cluster.assigned.get(self._slot, frozenset())
        gone = self._mine if lost else self._mine - wanted
        if gone:
            self._mine = self._mine - gone
            on_revoke(gone, lost)
            cluster.members[self._slot] = cluster.world.time
        self._mine = cluster.assigned.get(self._slot, frozenset()) & wanted
        return self._mine

    def leave(self) -> None:
        cluster = self._log.cluster
        cluster.members.pop(self._slot, None)
        cluster.rebalance()

    @property
    def members(self) -> int:
        return max(1, len(self._log.cluster.members))


@dataclass
class LogRules:
    """What a mutant of the log's use leaves out."""

    no_claim_id: bool = False
    no_fencing: bool = False


class SimLog(Log):
    """The cluster as one process sees it."""

    name = "simulated"
    settled_after = SAVED + 0.1

    def __init__(self, cluster: Cluster, process: Process | None, rules: LogRules | None = None) -> None:
        self.cluster, self._process = cluster, process
        self.rules = rules if rules is not None else LogRules()

    def point(self) -> None:
        if self._process is not None:
            self._process.point()

    def topics(self, names: Sequence[str]) -> dict[str, TopicInfo]:
        return {n: self.cluster.infos[n] for n in names if n in self.cluster.infos}

    def all_topics(self) -> list[str]:
        return sorted(self.cluster.infos)

    def create(self, topics: Sequence[TopicSpec]) -> None:
        self.cluster.create(topics)

    def reader(self) -> LogReader:
        return SimReader(self)

    def writer(self, app: str, slot: str) -> LogWriter:
        return SimWriter(self, f"{app}/{slot}")

    def group(self, app: str, slot: str, tasks: int) -> Group:
        self.point()
        self.cluster.tasks = tasks
        return SimGroup(self, slot)

    def claim(self, app: str, task: int) -> Claim:
        return SimClaim(self, task)

    def fence(self, app: str, slot: str) -> None:
        self.point()
        if not self.rules.no_fencing:
            self.cluster.fence(f"{app}/{slot}")
        self.point()

    def leases(self, app: str, tasks: Sequence[int]) -> dict[int, Lease | None]:
        self.point()
        wanted, tries = set(tasks), 0
        while any(t.sending and wanted & set(t.leases) for t in self.cluster.open.values()):
            tries += 1
            if tries > 200:
                raise LogError("the lease records cannot be read: a commit of them is in progress")
            self.point()
        return {t: self.cluster.leases.get(t) for t in tasks}

    def committed(self, app: str, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, Committed | None]:
        self.point()
        return {p: self.cluster.positions.get((app, p)) for p in partitions}

    def ends(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        self.point()
        return {p: len(self._known(p)) for p in partitions}

    def starts(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return {p: self.cluster.starts[p] for p in partitions if self._known(p) is not None}

    def trim(self, before: Mapping[TopicPartition, int]) -> None:
        self.point()
        for source, offset in before.items():
            end = len(self._known(source))
            self.cluster.starts[source] = max(self.cluster.starts[source], min(offset, end))

    def living(self, app: str) -> list[Member]:
        return [Member(slot, "simulated") for slot in sorted(self.cluster.members)]

    def forget(self, app: str) -> None:
        raise NotImplementedError("applications of the simulation are not started anew")

    def delete(self, topics: Sequence[str]) -> None:
        raise NotImplementedError("topics of the simulation stay")

    def close(self) -> None:
        pass

    def _known(self, source: TopicPartition) -> list[Entry]:
        if source not in self.cluster.partitions:
            raise TopicMissing(f"no topic {source.topic!r}")
        return self.cluster.partitions[source]
