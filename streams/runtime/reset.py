"""Starting an application anew: what there is of it, and how it is forgotten, in an order that can be begun again."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from streams.checkpoint.location import Location
from streams.checkpoint.manifest import place
from streams.core.errors import LogError
from streams.core.record import TopicPartition
from streams.core.wording import counted
from streams.log.base import Log
from streams.protocol import Lease
from streams.runtime.offline import LocalStore, drop_abandoned, local_stores, locked
from streams.runtime.plan import Plan, internal_topics, lease_topic
from streams.state.rocksdb import drop

_LOOK = 0.5  # seconds between looks at the members


@dataclass
class Remains:
    """What there is of an application."""

    leases: dict[int, Lease] = field(default_factory=dict)
    positions: int = 0
    """Committed positions of its inputs."""
    topics: list[str] = field(default_factory=list)
    """Internal ones, that exist."""
    stores: list[LocalStore] = field(default_factory=list)
    """On this machine."""
    snapshots: list[tuple[str, int]] = field(default_factory=list)
    """Objects in the checkpoint location but savepoints: key and bytes."""

    def __bool__(self) -> bool:
        return bool(self.leases or self.positions or self.topics or self.stores or self.snapshots)


def remains(plan: Plan, log: Log, state_dir: Path, location: Location | None) -> Remains:
    """What there is of the application, as a reset would delete it. Changes nothing."""
    made = Remains(stores=local_stores(state_dir, plan.app))
    specs = internal_topics(plan.app, plan.topology, plan.partitions)
    made.topics = [spec.name for spec in specs if spec.name in plan.topics]
    if lease_topic(plan.app) in plan.topics:
        count = max(len(plan.tasks), plan.topics[lease_topic(plan.app)].partitions)
        made.leases = {n: lease for n, lease in log.leases(plan.app, range(count)).items() if lease is not None}
        inputs = [
            TopicPartition(plan.input_topic(sub, i), partition)
            for sub in plan.topology.subs
            for i in range(len(sub.inputs))
            if plan.input_topic(sub, i) in plan.topics
            for partition in range(plan.partitions[sub.index])
        ]
        made.positions = sum(found is not None for found in log.committed(plan.app, inputs).values())
    if location is not None:
        kept = (
            f"{place(plan.app)}/savepoints/"  # they are for what comes after a reset, and have a command of their own
        )
        found = location.objects(place(plan.app))
        made.snapshots = [(each.key, each.size) for each in found if not each.key.startswith(kept)]
    return made


def await_the_end(log: Log, app: str, seconds: float, say: Callable[[str], None]) -> None:
    """Wait until no member lives; LogError with their names if some still do after so many seconds.

    A worker that was stopped or killed counts on Kafka until its session is over (6 s).
    """
    deadline, told = time.monotonic() + seconds, False
    while members := log.living(app):
        if time.monotonic() >= deadline:
            raise LogError(
                f"{app} is working: {', '.join(map(str, members))}",
                where=log.name,
                fix="stop its workers first (they end at Ctrl-C or SIGTERM); one that was killed counts until its "
                "session has timed out",
            )
        if not told:
            told = True
            say(f"{app} is working: {', '.join(map(str, members))}; waiting {seconds:.0f} s for its end")
        time.sleep(min(_LOOK, max(0.0, deadline - time.monotonic())))


def reset(
    plan: Plan,
    log: Log,
    found: Remains,
    location: Location | None,
    say: Callable[[str], None],
    *,
    wait: float = 10.0,
) -> None:
    """Forget the application. Begun again after a failure it goes on; in between the application refuses to start.

    1. No member lives, and nobody on this machine has a store open.
    2. Fence every slot that a lease names: what a stopped process has open is ended, and it cannot commit any more.
    3. Forget leases and positions.
    4. Delete the internal topics.
    5. Delete the stores on this machine.
    6. Delete the snapshots, if a location is given; savepoints stay.
    """
    # 1. Nobody lives.
    await_the_end(log, plan.app, wait, say)
    for each in found.stores:
        with locked(each.directory):
            pass
    # 2. Fence.
    for slot in sorted({lease.slot for lease in found.leases.values()}):
        log.fence(plan.app, slot)
        say(f"fenced slot {slot}")
    # 3. Forget.
    log.forget(plan.app)
    say(f"forgot {counted(len(found.leases), 'lease')} and {counted(found.positions, 'committed position')}")
    # 4. Topics.
    log.delete(found.topics)
    for topic in found.topics:
        say(f"deleted topic {topic}")
    # 5. Stores.
    for each in found.stores:
        drop(each.directory)
        say(f"deleted {each.directory}")
    for slot_dir in {each.directory.parent for each in found.stores}:
        drop_abandoned(slot_dir, 0.0)
    # 6. Snapshots.
    if location is not None and found.snapshots:
        location.delete([key for key, _ in found.snapshots])
        say(f"deleted {len(found.snapshots)} objects from {location.url}")


def sources_of(plan: Plan) -> Sequence[tuple[str, str]]:
    """Each source topic, and where its first run begins."""
    nodes = [n for n in plan.topology.graph.nodes.values() if n.source is not None]
    return sorted({(n.source.topic, n.source.start) for n in nodes if n.source is not None})
