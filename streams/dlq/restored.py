"""A copy of a task's state, in a directory of its own, without a lease."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from streams.core.errors import StateCorrupt, StateInUse
from streams.core.topology import TaskId
from streams.log.base import Log
from streams.runtime.offline import copy_files, locked
from streams.runtime.plan import Plan
from streams.runtime.replayed import follow, replay_into
from streams.state.changelog import NotThatHistory

if TYPE_CHECKING:
    from streams.checkpoint.location import Location


def restore_copy(
    log: Log,
    plan: Plan,
    task: TaskId,
    directory: Path,
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
    if local is not None and local.exists():
        try:
            with locked(local):
                copy_files(local, directory)
            made = follow(directory, log, plan, task)
        except (StateInUse, NotThatHistory, StateCorrupt) as error:
            fix = "leave --state-dir out: snapshots and the changelog are read instead"
            raise type(error)(error.what, where=str(local), fix=fix) from error
    else:
        made = replay_into(directory, log, plan, task, location, note=note)
    sequence = made.sequence
    made.store.close()
    return sequence
