"""A worker that works shuffles to their ends and reads no source: what a savepoint is taken of."""

import sys
from math import inf
from typing import Any

from streams.core.errors import StateMismatch
from streams.core.record import TopicPartition
from streams.runtime.growth import Growth
from streams.runtime.holding import Holding
from streams.runtime.task import Task
from streams.runtime.tools import Tools
from streams.runtime.worker import Worker

SLOT = "taking-a-savepoint"
"""The slot of the worker that takes a savepoint."""

PATIENCE = 90.0
"""Seconds after which another member of the group is taken for a living worker: dead ones stay for up to a minute."""


class DrainWorker(Worker):
    """Takes all leases and commits like any worker, so it is fenced and exact like any. What differs:

    - Sources are not read, so event time stands still, and none becomes idle. One whose topic was made again, or
      is given more partitions meanwhile, is in nobody's way, and positions stay those of the former one.
    - No input is held back: what waits for rows of another one would otherwise never be read to its end.
    """

    def __init__(self, tools: Tools, **more: Any) -> None:
        super().__init__(tools, **more)
        self._holding = Holding(sys.maxsize)
        self._growth = Growth(tools.log, tools.plan, tools.clock, every=inf)

    def _starts(self, task: Task) -> dict[TopicPartition, int]:
        shuffles = {tp for tp, item in zip(task.partitions, task.inputs, strict=True) if item.source is None}
        return {tp: offset for tp, offset in task.starts().items() if tp in shuffles}

    def _look_idle(self, now: float) -> None:
        pass

    _alone_at: float | None = None

    def drained(self) -> bool:
        """All tasks run here, all is committed, and every shuffle has been read to its end. StateMismatch if another
        worker is a member for longer than a dead one is taken for one."""
        now = self._clock.monotonic()
        if self._alone_at is None or self._group is None or self._group.members == 1:
            self._alone_at = now
        elif now - self._alone_at < PATIENCE:
            return False
        else:
            raise StateMismatch(
                f"another worker of {self.plan.app!r} lives: a savepoint is taken while none works",
                fix="stop all workers (SIGTERM or Ctrl-C) and wait until they have ended",
            )
        if not self.complete or self.busy or self._reader is None:
            return False
        read = [tp for task in self._running() for tp in self._starts(task)]
        ends = self.log.ends(read) if read else {}
        return all(self._reader.position(tp) >= end for tp, end in ends.items())

    @property
    def tasks(self) -> list[Task]:
        """The tasks that run here, by number."""
        return [self._tasks[number] for number in sorted(self._tasks)]
