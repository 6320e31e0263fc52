"""Does everything that an application keeps agree? Leases, changelogs, positions, stores, snapshots, topics."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from streams.checkpoint.collect import token_key
from streams.checkpoint.collect import verify as verify_location
from streams.checkpoint.location import Location
from streams.checkpoint.manifest import list_manifests
from streams.checkpoint.savepoint import damages, list_savepoints, savepoint_key
from streams.core.errors import StateInUse, StreamsError
from streams.core.topology import TaskId
from streams.core.wording import counted
from streams.log.base import Log
from streams.protocol import Lease
from streams.runtime.offline import LocalStore, copy_of, local_stores
from streams.runtime.plan import Plan, internal_topics
from streams.runtime.position import TaskPosition
from streams.runtime.replayed import replayed
from streams.state.base import StateStore

_CHUNK = 4 << 20


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be: where, what, and what to do."""

    where: str
    what: str
    fix: str


_LOST = "restore the topic from a backup of the cluster, or start the application anew: streams reset"
_MENDED = "the next snapshots of the task mend it"
_UPLOADED = "the next snapshot that needs it uploads it again"
_NO_SAVEPOINT = "it cannot be restored: take another one, or bring its objects back from a backup; then delete it: "
_TOKEN = (
    "name the location that the workers use (--checkpoints), or bring the token back from a copy: a worker without "
    "local state is refused at another location"
)
_REBUILD = "stop the worker and delete the directory: it is only a cache, and is rebuilt from the changelog"


def _unsaved(task: str, stores: list[LocalStore]) -> str:
    """What to do for a task without a snapshot to go back to."""
    slots = [each.slot for each in stores if each.task == task]
    if slots:
        start = f"start slot {' or '.join(slots)}, whose store of it is on this machine"
    else:
        start = "start the slot that has its store (another machine, another --state-dir)"
    return (
        "do not delete local state: delete the objects that are named above with a wrong content, then "
        f"{start}; its next snapshots mend it. If no slot has it, the whole changelog must be there: where it is not, "
        "a finding says that the state cannot be made from the log"
    )


class Verification:
    """Reads all of it; `findings` yields what is wrong, `checked` says what was looked at.

    Beside working workers a lease may move on between two looks: then it is read again, and nothing is told of a task
    whose lease goes on moving. A store that a worker has open is not compared, and `checked` says so.
    """

    def __init__(self, plan: Plan, log: Log, state_dir: Path | None, location: Location | None) -> None:
        self._plan, self._log, self._state_dir, self._location = plan, log, state_dir, location
        self.checked: list[str] = []
        self._token: str | None = None

    def findings(self) -> Iterator[Finding]:
        """In the order: topics, tasks with their stores, snapshots, savepoints."""
        yield from self._topics()
        if self._location is not None:
            kept = self._location.read(token_key(self._plan.app))
            self._token = kept.decode("ascii", "replace") if kept is not None else ""
        stores = local_stores(self._state_dir, self._plan.app) if self._state_dir is not None else []
        for task in self._plan.tasks:
            yield from self._task(task, [s for s in stores if s.task == str(task)])
        if self._location is not None:
            yield from self._snapshots(self._location, stores)
            yield from self._savepoints(self._location)

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
            if info.retention_ms >= 0:
                yield Finding(
                    where,
                    f"its records are deleted after {info.retention_ms} ms: state is lost then",
                    f"kafka-configs.sh --alter --topic {spec.name} --add-config retention.ms=-1",
                )
        self.checked.append(f"{len(there)} of {len(specs)} internal topics")

    # ---- snapshots

    def _snapshots(self, location: Location, stores: list[LocalStore]) -> Iterator[Finding]:
        count = 0
        for name, group in groupby(verify_location(location, self._plan.app), key=lambda found: found.task):
            damaged = list(group)
            count += len(damaged)
            task, bad = name.replace("-", "/"), {found.snapshot for found in damaged}
            listed = list_manifests(location, self._plan.app, name)
            whole = any(each.manifest is not None and each.key not in bad for each in listed)
            for found in damaged:
                fix = "workers pass this snapshot over, older ones serve; "
                fix = fix if whole else f"see task {task} below: no snapshot of it is whole; "
                fix += _MENDED if not found.hidden else "delete this object, which serves nobody: " + _UPLOADED
                yield Finding(f"{location.url}/{found.key}", found.what, fix)
            if not whole:
                yield Finding(f"task {task}", "no snapshot of this task is whole", _unsaved(task, stores))
        self.checked.append(f"snapshots in {location.url}: {count} findings")

    def _savepoints(self, location: Location) -> Iterator[Finding]:
        app, count, bad = self._plan.app, 0, 0
        for listed in list_savepoints(location, app):
            damaged = [(savepoint_key(app, listed.name), listed.problem)]
            if listed.savepoint is not None:
                damaged = list(damages(location, listed.savepoint))
            count, bad = count + 1, bad + bool(damaged)
            for key, what in damaged:
                fix = f"{_NO_SAVEPOINT}streams savepoint delete {listed.name} --app {app}"
                yield Finding(f"{location.url}/{key}", f"savepoint {listed.name!r}: {what}", fix)
        self.checked.append(f"{counted(count, 'savepoint')}, {bad} damaged")

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
            found, looked = self._against_log(task, where, lease, stores)
            if self._lease(task) == lease:
                self.checked.append(looked)
                yield from found
                return
        self.checked.append(f"{where}: not compared, it is working (its lease moves on)")

    def _lease(self, task: TaskId) -> Lease | None:
        return self._log.leases(self._plan.app, [task.number])[task.number]

    def _against_log(
        self, task: TaskId, where: str, lease: Lease | None, stores: list[LocalStore]
    ) -> tuple[list[Finding], str]:
        """What is wrong, and what was looked at."""
        sequence = lease.sequence if lease is not None else 0
        looked, found = f"{where}: lease and changelog at commit {sequence}", list[Finding]()
        try:
            with replayed(self._log, self._plan, task, self._location, least=sequence) as made:
                if made.sequence != sequence:
                    what = f"its lease says commit {sequence}, the last block of its changelog is of commit "
                    found.append(Finding(where, f"{what}{made.sequence}", _LOST))
                found += self._positions(task, where, made.store)
                for each in stores:
                    wrong, compared = self._store(task, each, made.store, sequence)
                    looked += compared
                    found += wrong
        except StreamsError as error:
            fix = error.fix or _LOST
            if stores:
                slots = " or ".join(each.slot for each in stores)
                fix = f"do not delete local state: start slot {slots}, whose store of it may do; if it does not: {fix}"
            found.append(Finding(where, f"its state cannot be made from the log: {error.what}", fix))
        return found, looked

    def _positions(self, task: TaskId, where: str, store: StateStore) -> Iterator[Finding]:
        if not store.mark.position:
            return
        sub, plan = self._plan.topology.subs[task.sub], self._plan
        position = TaskPosition.decode(store.mark.position)
        if self._token is not None and position.location and position.location != self._token:
            what = (
                f"its last commit was made with the checkpoint location of token {position.location[:8]}..., this one "
            )
            yield Finding(where, what + (f"has {self._token[:8]}..." if self._token else "has no token"), _TOKEN)
        for item, partition in zip(sub.inputs, plan.inputs(task), strict=True):
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
