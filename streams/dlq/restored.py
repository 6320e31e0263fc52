"""A copy of a task's state, in a directory of its own, without a lease."""

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from streams.core.errors import StateInUse
from streams.core.record import TopicPartition
from streams.core.topology import TaskId
from streams.log.base import Log
from streams.log.reading import read_all
from streams.protocol import check_whole
from streams.runtime.offline import last_commit
from streams.runtime.plan import Plan
from streams.runtime.position import TaskPosition, goes_on, mark_of
from streams.state.base import StateStore
from streams.state.changelog import NotThatHistory, Replay

if TYPE_CHECKING:
    from streams.checkpoint.location import Location

OpenState = Callable[[Path], StateStore]


def restore_copy(
    log: Log,
    plan: Plan,
    task: TaskId,
    directory: Path,
    open_state: OpenState,
    *,
    local: Path | None = None,
    location: "Location | None" = None,
    note: Callable[[str], None] = lambda text: None,
) -> int:
    """Make the task's state in `directory`, as of what is committed now; returns its sequence.

    `local`: the directory of a worker that is stopped. Its files are copied, and only the changelog's rest is read.
    `location`: a checkpoint location, whose newest snapshot is taken. Without either, the whole changelog is read.
    Raises StateInUse if a worker has `local` open, StateMismatch if the changelog does not lead from there to its end,
    CheckpointError if the location cannot be read.
    """
    changelog = plan.changelog(task.sub)
    info, partition = plan.topics[changelog], TopicPartition(changelog, task.partition)
    lease, known = last_commit(log, plan, task)
    wanted = most = lease.sequence if lease is not None else 0
    here = local if local is not None and local.exists() else None
    while True:
        if here is not None:
            _check_unused(here)
            shutil.copytree(here, directory, ignore=shutil.ignore_patterns("LOCK"))
        elif location is not None:
            _download(log, plan, task, directory, location, most, note)
        store = open_state(directory)
        found = store.mark.sequence
        try:
            start = log.starts([partition])[partition]
            if not found and start and location is None:
                note("the changelog's beginning was trimmed; if workers have a checkpoint location, name it here, too")
            begin = max(store.mark.offset if store.mark.topic_id == info.id else 0, start)
            if log.ends([partition])[partition] > start:
                replay = Replay(store, info.id, trimmed=True, follows=goes_on(store.mark.position))
                for records in read_all(log, changelog, partitions=[task.partition], start={task.partition: begin}):
                    for value, offset in zip(records.values(), records.offsets(), strict=True):
                        replay.add(value or b"", offset + 1)
                    replay.flush()
                if replay.first:
                    position = TaskPosition.decode(store.mark.position)
                    check_whole(str(task), replay.first, position.tail.base, bool(position.location))
            if store.mark.sequence == found and 0 < found < wanted:
                raise NotThatHistory(f"the changelog does not lead from commit {found} to the lease's, {wanted}")
            if found and store.mark.sequence == wanted and known not in ("", mark_of(store.mark.position)):
                raise NotThatHistory(f"commit {wanted} of the store is another one than the log's")
            return store.mark.sequence
        except NotThatHistory as error:
            if here is not None:
                fix = "leave --state-dir out: snapshots and the changelog are read instead"
                raise NotThatHistory(error.what, where=str(here), fix=fix) from error
            note(f"the snapshot at commit {found} does not fit the log: {error.what}; an older one is taken")
            most = found - 1
        finally:
            store.close()
        shutil.rmtree(directory)


def _download(
    log: Log,
    plan: Plan,
    task: TaskId,
    directory: Path,
    location: "Location",
    most: int,
    note: Callable[[str], None],
) -> None:
    """The newest snapshot up to commit `most` that fits the log as it is now."""
    from streams.checkpoint.restore import Restore

    changelog = TopicPartition(plan.changelog(task.sub), task.partition)
    restore = Restore(
        location,
        plan.app,
        f"{task.sub}-{task.partition}",
        directory,
        max_sequence=most,
        topic_id=plan.topics[changelog.topic].id,
        min_offset=log.starts([changelog])[changelog],
    )
    try:
        result = restore.wait()
    finally:
        restore.close()
    for text in result.notes:
        note(text)
    if result.error is not None:
        raise result.error


def _check_unused(directory: Path) -> None:
    """Nobody has the store open: RocksDB holds a lock on its file LOCK while it does."""
    lock = directory / "LOCK"
    if not lock.exists():
        return
    with lock.open("r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StateInUse(
                "a worker has this state open: a copy of it would be torn",
                where=str(directory),
                fix="stop the worker, or leave --state-dir out: then the changelog is read instead",
            ) from None
        fcntl.lockf(file, fcntl.LOCK_UN)
