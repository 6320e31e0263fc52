"""When records of internal topics are deleted that nobody needs any more."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from streams.core.errors import LogError, LogUnreachable
from streams.core.record import TopicPartition
from streams.log.base import Committed, Log
from streams.runtime.task import Task

_EVERY = 30.0  # seconds
_SOON = 1.0  # seconds, while there is nothing


@dataclass(frozen=True)
class _Unneeded:
    """What `tasks` did not need any more at a time: of each partition the records before an offset; of each task's
    changelog, too."""

    at: float
    tasks: Sequence[Task]
    before: Mapping[TopicPartition, int]
    changelogs: Mapping[int, int]


class Trimming:
    """Deletes shuffle blocks that were consumed, and changelogs below their last rewriting or oldest snapshot.

    Only what was not needed any more some time ago (`Log.settled_after`): a deletion lasts, but brokers that all lose
    power lose the last commits, and with them the reason for it. And only where the log still has the task where it
    stands here. `once` tells a person something the first time only.
    """

    def __init__(self, log: Log, app: str, once: Callable[[str, str], None]) -> None:
        self._log, self._app, self._once = log, app, once
        self._next = 0.0
        self._waiting: deque[_Unneeded] = deque()

    def clear(self) -> None:
        """What was committed is in doubt: forget what waits."""
        self._waiting.clear()

    def look(
        self,
        now: float,
        tasks: Sequence[Task],
        committed: Mapping[TopicPartition, Committed],
        floor: Callable[[Task], int | None],
    ) -> None:
        """Delete what is due, if it is time. `tasks` run here; `floor`: where a task's snapshots need its changelog.

        LogError if the log has one of them at another commit than it has here: it must be opened again.
        """
        if now < self._next:
            return
        changelogs = {task.id.number: found for task in tasks if (found := task.unneeded(floor(task)))}
        before = {
            place: committed[place].offset
            for task in tasks
            for place, item in zip(task.partitions, task.inputs, strict=True)
            if item.source is None and place in committed
        }
        before.update(changelogs.values())
        if before:
            offsets = {number: offset for number, (_, offset) in changelogs.items()}
            self._waiting.append(_Unneeded(now, tasks, before, offsets))
        self._next = now + (_EVERY if self._waiting else _SOON)
        settled: _Unneeded | None = None
        while self._waiting and now - self._waiting[0].at >= self._log.settled_after:
            settled = self._waiting.popleft()
        if settled is not None:
            self._delete(settled, tasks)

    def _delete(self, settled: _Unneeded, tasks: Sequence[Task]) -> None:
        # One that was away meanwhile may have come back to an earlier commit.
        tasks = [task for task in tasks if any(task is before for before in settled.tasks)]
        mine = {place for task in tasks for place in (*task.partitions, task.changelog_partition)}
        if not tasks:
            return
        try:
            found = self._log.leases(self._app, [task.id.number for task in tasks])
            moved = next((task for task in tasks if found[task.id.number] != task.lease), None)
            if moved is None:
                self._log.trim({place: offset for place, offset in settled.before.items() if place in mine})
        except LogUnreachable:
            return  # the next time
        except LogError as error:  # nothing is lost but space
            cause = str(error).splitlines()[0]
            self._once("trim", f"internal topics grow, since their records cannot be deleted: {cause}")
            return
        if moved is not None:
            raise LogError(
                f"task {moved.id} is at {moved.lease} here, but at {found[moved.id.number]} in the log: another worker "
                "has taken it, or brokers lost the log's end while it was quiet",
                fix="nothing: what is ours is taken anew",
            )
        for task in tasks:
            if task.id.number in settled.changelogs:
                task.trimmed(settled.changelogs[task.id.number])
