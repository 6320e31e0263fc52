"""A copy of a task's state, in a directory of its own, without a lease."""

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path

from streams.core.errors import StateInUse
from streams.core.record import TopicPartition
from streams.core.topology import TaskId
from streams.log.base import Log
from streams.log.reading import read_all
from streams.protocol import check_whole
from streams.runtime.plan import Plan
from streams.runtime.position import TaskPosition
from streams.state.base import StateStore
from streams.state.changelog import Replay

OpenState = Callable[[Path], StateStore]


def restore_copy(log: Log, plan: Plan, task: TaskId, directory: Path, open_state: OpenState, local: Path | None) -> int:
    """Make the task's state in `directory` from its changelog, as of what is committed now; returns its sequence.

    `local`: the directory of a worker that is stopped. Its files are copied, and only the changelog's rest is read.
    Raises StateInUse if a worker has it open, StateMismatch if the changelog does not lead from there to its end.
    """
    changelog = plan.changelog(task.sub)
    if local is not None and local.exists():
        _check_unused(local)
        shutil.copytree(local, directory, ignore=shutil.ignore_patterns("LOCK"))
    store = open_state(directory)
    try:
        info, partition = plan.topics[changelog], TopicPartition(changelog, task.partition)
        start = log.starts([partition])[partition]
        begin = max(store.mark.offset if store.mark.topic_id == info.id else 0, start)
        if log.ends([partition])[partition] > start:
            replay = Replay(store, info.id, trimmed=True)
            for records in read_all(log, changelog, partitions=[task.partition], start={task.partition: begin}):
                for value, offset in zip(records.values(), records.offsets(), strict=True):
                    replay.add(value or b"", offset + 1)
                replay.flush()
            if replay.first:
                check_whole(str(task), replay.first, TaskPosition.decode(store.mark.position).tail.base)
        return store.mark.sequence
    finally:
        store.close()


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
