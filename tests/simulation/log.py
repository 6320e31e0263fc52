"""The simulated log: partitions, transactions, leases and a group, with the faults of a real one.

What is modelled after Kafka: a transaction's records lie in the partitions before it ends and hold readers back; its
end is decided at once and its marker is written to each partition later; a commit may be done although the client is
told that it failed, or not be done and arrive later; a stale commit request hits whatever transaction the same producer
has open by then; opening a producer ends its earlier transaction; the group suggests tasks and does not fence.

What is checked at once: a commit must come from the slot that the lease record names, and raise its sequence by one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from streams.core.errors import Fenced, LogError, TopicMissing
from streams.core.record import Produced, TopicPartition
from streams.log.base import Claim, Committed, Group, Log, LogReader, LogWriter, Member, Positions, TopicInfo, TopicSpec
from streams.protocol import Lease, holders
from tests.simulation.cluster import SAVED, SESSION, Cluster, Entry, Late, Records, Transaction
from tests.simulation.world import Process, Violation


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
        for _ in range(cluster.world.rng.choice((1, 1, 1, 1, 1, 1, 1, 1, 4, 16))):
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
        if cluster.world.chance(0.01):
            raise LogError("the lease record was not written")
        before = cluster.leases.get(self._task)
        if cluster.checks and lease.sequence != (before.sequence if before is not None else 0):
            raise Violation(f"a claim writes {lease} over {before}")
        cluster.leases[self._task] = lease
        if cluster.world.chance(0.01):
            raise LogError("the outcome of the lease record is not known")

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

    def holders(self, app: str, tasks: Sequence[int]) -> dict[int, str]:
        self.point()
        return holders({task: self.cluster.leases.get(task) for task in tasks})

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
