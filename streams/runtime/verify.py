"""Does everything that an application keeps agree? Leases, changelogs, positions, stores, snapshots, topics."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from streams.checkpoint.collect import verify as verify_location
from streams.checkpoint.location import Location
from streams.core.errors import StateInUse, StreamsError
from streams.core.record import TopicPartition
from streams.core.topology import TaskId
from streams.log.base import Log
from streams.protocol import Lease
from streams.runtime.offline import LocalStore, copy_of, local_stores, replayed
from streams.runtime.plan import Plan, internal_topics
from streams.runtime.position import TaskPosition
from streams.state.base import StateStore

_CHUNK = 4 << 20


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be: where, what, and what to do."""

    where: str
    what: str
    fix: str


_LOST = "restore the topic from a backup of the cluster, or start the application anew: streams reset"
_REBUILD = "stop the worker and delete the directory: it is only a cache, and is rebuilt from the changelog"


class Verification:
    """Reads all of it; `findings` yields what is wrong, `checked` says what was looked at.

    Beside working workers a lease may move on between two looks: then it is read again, and nothing is told of a task
    whose lease goes on moving. A store that a worker has open is not compared, and `checked` says so.
    """

    def __init__(self, plan: Plan, log: Log, state_dir: Path | None, location: Location | None) -> None:
        self._plan, self._log, self._state_dir, self._location = plan, log, state_dir, location
        self.checked: list[str] = []

    def findings(self) -> Iterator[Finding]:
        """In the order: topics, tasks with their stores, snapshots."""
        yield from self._topics()
        stores = local_stores(self._state_dir, self._plan.app) if self._state_dir is not None else []
        for task in self._plan.tasks:
            yield from self._task(task, [s for s in stores if s.task == str(task)])
        if self._location is not None:
            count = 0
            for found in verify_location(self._location, self._plan.app):
                count += 1
                yield Finding(
                    f"{self._location.url}/{found.key}",
                    found.what,
                    "workers pass this snapshot over, older ones serve; the next snapshots of the task mend it",
                )
            self.checked.append(f"snapshots in {self._location.url}: {count} findings")

    # ---- topics

    def _topics(self) -> Iterator[Finding]:
        specs = internal_topics(self._plan.app, self._plan.topology, self._plan.partitions)
        there = [spec for spec in specs if spec.name in self._plan.topics]
        for spec in specs:
            info = self._plan.topics.get(spec.name)
            where = f"topic {spec.name}"
            if info is None:
                if there:
                    yield Finding(where, "it is missing, but other internal topics are there", _LOST)
                continue
            if info.partitions != spec.partitions:
                yield Finding(
                    where,
                    f"it has {info.partitions} partitions, the program needs {spec.partitions}",
                    "run the program (or give its source the partitions) that it was made for, or streams reset",
                )
            if info.retention_ms >= 0:
                yield Finding(
                    where,
                    f"its records are deleted after {info.retention_ms} ms: state is lost then",
                    f"kafka-configs.sh --alter --topic {spec.name} --add-config retention.ms=-1",
                )
        self.checked.append(f"{len(there)} of {len(specs)} internal topics")

    # ---- tasks

    def _task(self, task: TaskId, stores: list[LocalStore]) -> Iterator[Finding]:
        where = f"task {task}"
        lease = self._lease(task)
        sub = self._plan.topology.subs[task.sub]
        if not sub.stateful or self._plan.changelog(task.sub) not in self._plan.topics:
            if lease is not None and lease.sequence and sub.stateful:
                yield Finding(where, f"its lease says {lease.sequence} commits, but it has no changelog", _LOST)
            self.checked.append(f"{where}: lease at commit {lease.sequence if lease else 0}, no changelog to compare")
            return
        for _ in range(3):
            lease = self._lease(task)
            found = list(self._against_log(task, where, lease, stores))
            if self._lease(task) == lease:
                yield from found
                return
        self.checked.append(f"{where}: not compared, it is working (its lease moves on)")

    def _lease(self, task: TaskId) -> Lease | None:
        return self._log.leases(self._plan.app, [task.number])[task.number]

    def _against_log(
        self, task: TaskId, where: str, lease: Lease | None, stores: list[LocalStore]
    ) -> Iterator[Finding]:
        sequence = lease.sequence if lease is not None else 0
        looked = f"{where}: lease and changelog at commit {sequence}"
        try:
            with replayed(self._log, self._plan, task, self._location, least=sequence) as made:
                if made.last_sequence != sequence:
                    yield Finding(
                        where,
                        f"its lease says commit {sequence}, the last block of its changelog is of commit "
                        f"{made.last_sequence}",
                        _LOST,
                    )
                yield from self._positions(task, where, made.store)
                for each in stores:
                    finding, compared = self._store(task, each, made.store, sequence)
                    looked += compared
                    yield from finding
        except StreamsError as error:
            yield Finding(where, f"its state cannot be made from the log: {error.what}", error.fix or _LOST)
        self.checked.append(looked)

    def _positions(self, task: TaskId, where: str, store: StateStore) -> Iterator[Finding]:
        if not store.mark.position:
            return
        sub, plan = self._plan.topology.subs[task.sub], self._plan
        position = TaskPosition.decode(store.mark.position)
        for index, item in enumerate(sub.inputs):
            partition = TopicPartition(plan.input_topic(sub, index), task.partition)
            inside = position.inputs.get(item.topic)
            committed = self._log.committed(plan.app, [partition])[partition]
            if inside is None or committed is None:
                if (inside is None) != (committed is None):
                    yield Finding(
                        where, f"only one of the changelog and the group has a position of {partition.topic}", _LOST
                    )
            elif inside.offset != committed.offset:
                yield Finding(
                    where,
                    f"{partition.topic}: the group's position is {committed.offset}, the changelog's {inside.offset}",
                    "a worker goes by the changelog's; somebody has moved the group's offsets with another tool: "
                    "the next commit writes them anew",
                )

    def _store(self, task: TaskId, local: LocalStore, truth: StateStore, sequence: int) -> tuple[list[Finding], str]:
        where = f"task {task}, {local.directory}"
        try:
            with copy_of(local.directory) as store:
                mark, changelog = store.mark, self._plan.changelog(task.sub)
                topic_id = self._plan.topics[changelog].id
                if not mark.sequence:
                    return [], f"; the store of slot {local.slot} is empty"
                if mark.topic_id != topic_id or mark.sequence > sequence:
                    why = "of a changelog that was deleted" if mark.topic_id != topic_id else "ahead of the lease"
                    return [], f"; the store of slot {local.slot} (commit {mark.sequence}) is {why}: it is made anew"
                other = (
                    f"; the store of slot {local.slot} (commit {mark.sequence}) is at a commit that the log does not "
                )
                other += "have: it is made anew"
                if mark.sequence == truth.mark.sequence:
                    if mark.position != truth.mark.position:
                        return [], other
                    differs = difference(store, truth)
                else:
                    try:
                        with replayed(self._log, self._plan, task, self._location, upto=mark.sequence) as then:
                            if then.store.mark.sequence != mark.sequence:
                                return [], f"; the store of slot {local.slot} is older than what the log can rebuild"
                            if mark.position != then.store.mark.position:
                                return [], other
                            differs = difference(store, then.store)
                    except StreamsError:
                        return [], f"; the store of slot {local.slot} is older than what the log can rebuild"
                text = f"; the store of slot {local.slot} equals the log at commit {mark.sequence}"
                return ([Finding(where, differs, _REBUILD)], "") if differs else ([], text)
        except StateInUse as error:
            return [], f"; the store of slot {local.slot} was not compared ({error.what})"
        except StreamsError as error:
            return [Finding(where, error.what, error.fix or _REBUILD)], ""


def difference(store: StateStore, truth: StateStore) -> str:
    """The first difference between two stores, entry by entry; "" if they are equal. A map without entries is none."""
    for name in sorted({*store.names(), *truth.names()}):
        for (key, here), (other, there) in _pairs(_entries(store, name), _entries(truth, name)):
            if key != other or here != there:
                if key is not None and (other is None or key < other):
                    return f"store {name} has the key {key!r}, which the log does not have"
                if key == other:
                    return f"store {name} has another value at the key {key!r} than the log"
                return f"store {name} lacks the key {other!r}, which the log has"
    return ""


_Entry = tuple[bytes | None, bytes | None]


def _pairs(
    left: Iterator[tuple[bytes, bytes]], right: Iterator[tuple[bytes, bytes]]
) -> Iterator[tuple[_Entry, _Entry]]:
    while True:
        a, b = next(left, (None, None)), next(right, (None, None))
        if a[0] is None and b[0] is None:
            return
        yield a, b


def _entries(store: StateStore, name: str) -> Iterator[tuple[bytes, bytes]]:
    if name not in store.names():
        return
    start: bytes | None = b""
    while start is not None:
        keys, values, start = store.entries(name, start, _CHUNK)
        yield from zip(keys, values, strict=True)
