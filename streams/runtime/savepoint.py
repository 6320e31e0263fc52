"""Taking a savepoint: the whole application at one commit of each task, under a name.

1. taken    no worker lives; all leases are taken as a worker takes them
2. drained  shuffles are worked to their ends, sources are not read; all of it is committed
3. state    each task's state, and the rows that still wait for rows of sources, are written to the location
4. named    the savepoint itself is written, last and if absent
5. left     the leases are given back

What a killed attempt leaves counts for nothing: leases that the next worker takes over as any dead worker's, and data
that no savepoint names. Committed work of step 2 is work that any worker would have done.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from streams.checkpoint.location import Location
from streams.checkpoint.savepoint import (
    SavedInput,
    SavedStore,
    SavedSub,
    SavedTask,
    Savepoint,
    Stored,
    Writing,
    check_name,
    exists,
    load,
)
from streams.codec.blocks import ShuffleBlock, encode_block
from streams.core.drawing import as_text
from streams.core.errors import StateMismatch, StreamsError
from streams.core.time import NEVER
from streams.core.topology import SubTopology
from streams.log.base import Log
from streams.runtime.drain import SLOT, DrainWorker
from streams.runtime.plan import Plan, lease_topic
from streams.runtime.task import Task
from streams.state.base import Change
from streams.state.changelog import encode

if TYPE_CHECKING:
    from streams.core.clock import Clock

CREATE_STEPS = ("taken", "drained", "state", "named", "left")
"""The named steps; a test can crash after each of them (`state` comes once a task)."""

OBJECT = 4 << 20
"""About how many bytes of entries an object holds."""


def check_stopped(log: Log, app: str, tasks: int, takeover: bool) -> None:
    """StateMismatch if the application has never run, or if workers hold its tasks.

    `takeover`: leases of workers that were killed are taken over, as the next worker would.
    """
    if lease_topic(app) not in log.topics([lease_topic(app)]):
        raise StateMismatch(f"{app!r} has never run here: there is nothing to save", where=log.name)
    leases = log.leases(app, range(tasks)).values()
    if not any(lease is not None for lease in leases):
        raise StateMismatch(f"{app!r} has never run here: there is nothing to save", where=log.name)
    holders = sorted({x.slot for x in leases if x is not None and x.held and x.slot != SLOT})
    if holders and not takeover:
        raise StateMismatch(
            f"tasks of {app!r} are held by workers: {', '.join(holders)}",
            where=log.name,
            fix="stop all workers (SIGTERM or Ctrl-C) and wait until they have ended; if they were killed and are gone "
            "for certain, give --takeover",
        )


def create(
    name: str,
    worker: DrainWorker,
    location: Location,
    *,
    clock: "Clock",
    takeover: bool = False,
    hook: Callable[[str], None] = lambda step: None,
) -> Savepoint:
    """Take a savepoint of the worker's application; the worker is one that was not started yet.

    Raises CheckpointError (there is one of this name; the location fails), StateMismatch (workers live).
    """
    plan = worker.plan
    try:
        check_name(name)
        if load(location, plan.app, name) is not None:
            raise exists(location, plan.app, name)
        check_stopped(worker.log, plan.app, len(plan.tasks), takeover)
    except StreamsError:
        worker.close()
        raise
    worker.start()
    try:
        # 1. Take the leases. 2. Work shuffles to their ends.
        told = False
        while not worker.drained():
            worker.turn()
            if worker.complete and not told:
                told = True
                hook("taken")
        hook("drained")
        # 3. Nothing moves now: what is in the stores stands at the last commit of each task.
        writing, tasks = Writing(location, plan.app, name), []
        for task in worker.tasks:
            tasks.append(_saved(task, writing))
            hook("state")
        # 4. The savepoint exists from here on.
        made = Savepoint(
            app=plan.app,
            name=name,
            time=clock.now(),
            fingerprint=plan.fingerprint,
            topology=as_text(plan.topology),
            subs=tuple(described(plan, sub) for sub in plan.topology.subs),
            tasks=tuple(tasks),
        )
        writing.finish(made)
        hook("named")
        # 5. Give the leases back.
        worker.leave()
        hook("left")
    except StreamsError:
        with suppress(StreamsError):
            worker.leave()  # nobody need take our tasks over
        raise
    finally:
        worker.close()
    return made


def described(plan: Plan, sub: SubTopology) -> SavedSub:
    """What a savepoint says of a sub-topology."""
    inputs = tuple(SavedInput(i.topic, i.shuffle, plan.channels(sub, n)) for n, i in enumerate(sub.inputs))
    types = plan.types[sub.index]
    stores = tuple(SavedStore(name, types[name]) for name in sub.stores)
    return SavedSub(sub.index, plan.partitions[sub.index], inputs, stores)


def _saved(task: Task, writing: Writing) -> SavedTask:
    position = task.release.position()
    position.stores = list(task.sub.stores)
    state: list[Stored] = []
    entries = 0
    if task.store is not None:
        for name in task.sub.stores:
            if name not in task.store.names():
                continue
            place: bytes | None = b""
            while place is not None:
                keys, values, place = task.store.entries(name, place, OBJECT)
                if keys:
                    changes = [Change(name, keys, list(values))]
                    state += [writing.put(block) for block in encode(changes, 1, b"", 4 * OBJECT)]
                    entries += len(keys)
    waiting: dict[str, tuple[Stored, ...]] = {}
    rows = 0
    for index, item in enumerate(task.inputs):
        if item.source is not None:
            continue  # they are read from their topic again
        blocks = []
        for channel, frame in task.release.waiting(index):
            rows += frame.height
            blocks.append(writing.put(encode_block(ShuffleBlock(channel, NEVER, False, frame))))
        if blocks:
            waiting[item.spec.node] = tuple(blocks)
    return SavedTask(
        task.id.sub,
        task.id.partition,
        task.lease.sequence,
        position.encode(),
        entries,
        tuple(state),
        waiting,
        rows,
    )
