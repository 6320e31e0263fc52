"""What must hold at the end: outputs as the model says (I1), store = changelog = lease = positions (I2), and every
record can be read by a reader that sees committed ones alone (I4)."""

import tempfile
from pathlib import Path

from streams.checkpoint.collect import verify
from streams.checkpoint.location import Location
from streams.checkpoint.restore import Restore
from streams.core.record import TopicPartition
from streams.log.base import Log
from streams.protocol import Lease
from streams.runtime.plan import changelog_topic, shuffle_topic
from streams.runtime.position import TaskPosition
from streams.state.base import StateStore
from streams.state.changelog import Replay
from streams.state.rocksdb import RocksStore
from tests.chaos import model
from tests.kill import data, program
from tests.kill.harness import Runner

CACHE = 8 << 20


def outputs(runner: Runner, log: Log, app: str) -> tuple[dict[str, int], list[str]]:
    """How many records each output must have, and what is wrong with it."""
    expected = model.expected(runner.read(log, data.TX), runner.read(log, data.LABELS))
    wrong = []
    for name in (*model.IN_ORDER, *model.AS_MULTISET):
        try:
            found = runner.output_of(log, app, name)
        except AssertionError as error:
            wrong.append(f"I4 {name}: {error}")
            continue
        if text := model.difference(expected, name, found):
            wrong.append(f"I1 {name}: {text}")
    return expected.counts(), wrong


def states(runner: Runner, log: Log, app: str, slot: str, location: Location) -> list[str]:
    """Of each task with state, after its worker has ended: its store, and one made anew from snapshot and changelog.

    Only tasks of `slot` can be asked, which must have held all of them.
    """
    wrong = []
    topology = program.app.topology()
    numbers = range(len(topology.subs) * data.PARTITIONS)
    leases = log.leases(app, numbers)
    for number in numbers:
        sub, partition = topology.subs[number // data.PARTITIONS], number % data.PARTITIONS
        lease, task = leases[number], f"{sub.index}-{partition}"
        if lease is None:
            wrong.append(f"I2 task {task}: it has no lease record")
        elif sub.stateful:
            own = runner.directory / "state" / app / slot / task
            with tempfile.TemporaryDirectory(prefix="streams-chaos-") as temporary:
                wrong += _state(log, app, task, lease, own, Path(temporary) / "store", location)
    return wrong


def snapshots(location: Location, app: str, damaged: set[str]) -> list[str]:
    """What is wrong with them, damage on purpose aside."""
    return [f"snapshot {finding}" for finding in verify(location, app) if finding.key not in damaged]


def _state(log: Log, app: str, task: str, lease: Lease, own: Path, scratch: Path, location: Location) -> list[str]:
    sub, partition = map(int, task.split("-"))
    topic = changelog_topic(app, sub)
    changelog, topic_id = TopicPartition(topic, partition), log.topics([topic])[topic].id
    mine, anew = (
        RocksStore(own, cache_bytes=CACHE),
        _anew(log, app, task, lease, changelog, topic_id, scratch, location),
    )
    try:
        wrong = []
        if mine.mark.sequence != lease.sequence:
            wrong.append(f"the store stands at commit {mine.mark.sequence}, its lease at {lease.sequence}")
        if anew.mark.sequence != lease.sequence:
            wrong.append(f"the changelog ends at commit {anew.mark.sequence}, its lease at {lease.sequence}")
        if mine.mark.position != anew.mark.position:
            wrong.append("the positions in store and changelog differ")
        if differing := [n for n in sorted({*mine.names(), *anew.names()}) if entries(mine, n) != entries(anew, n)]:
            wrong.append(f"the entries of {differing} in the store are not those of the changelog")
        position = TaskPosition.decode(anew.mark.position)
        shuffles = {item.topic for item in program.app.topology().subs[sub].inputs if item.shuffle}
        names = {name: shuffle_topic(app, name) if name in shuffles else name for name in position.inputs}
        places = {TopicPartition(names[name], partition): item for name, item in position.inputs.items()}
        for place, committed in log.committed(app, list(places)).items():
            if committed is None or committed.offset != places[place].offset:
                wrong.append(f"{place} is committed at {committed}, the changelog says {places[place].offset}")
    finally:
        mine.close()
        anew.close()
    return [f"I2 task {task}: {each}" for each in wrong]


def _anew(
    log: Log,
    app: str,
    task: str,
    lease: Lease,
    changelog: TopicPartition,
    topic_id: str,
    directory: Path,
    location: Location,
) -> RocksStore:
    """A store from the changelog, and where that was trimmed, from the snapshot that fits."""
    start, end = log.starts([changelog])[changelog], log.ends([changelog])[changelog]
    if start > 0:
        limits = {"max_sequence": lease.sequence, "topic_id": topic_id, "min_offset": start}
        Restore(location, app, task, directory, **limits).wait()  # type: ignore[arg-type]
    store = RocksStore(directory, cache_bytes=CACHE)
    replay = Replay(store, topic_id, trimmed=True)
    reader = log.reader()
    try:
        reader.assign({changelog: max(store.mark.offset, start)})
        while reader.position(changelog) < end and store.mark.sequence < lease.sequence:
            for records in reader.poll(5000, 0.1):
                for value, at in zip(records.values(), records.offsets(), strict=True):
                    replay.add(value or b"", at + 1)
            replay.flush()
    finally:
        reader.close()
    return store


def entries(store: StateStore, name: str) -> dict[bytes, bytes]:
    """All entries of a map; none where there is no such map."""
    if name not in store.names():
        return {}
    found: dict[bytes, bytes] = {}
    start: bytes | None = b""
    while start is not None:
        keys, values, start = store.entries(name, start, 4 << 20)
        found.update(zip(keys, values, strict=True))
    return found
