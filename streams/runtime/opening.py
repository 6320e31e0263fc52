"""The way of a task from the group's word to where it runs: its lease is taken, its state restored; others go on."""

from collections.abc import Iterator

from streams.core.clock import Clock
from streams.log.base import Group
from streams.protocol import Lease
from streams.runtime.leases import Taking
from streams.runtime.recovery import STEP
from streams.runtime.task import Task
from streams.runtime.tools import Tools

_GIVING_BACK = 2.0  # seconds for leases that are no longer wanted, before the group is left
_LEFT = 0.5  # seconds for them, before they are taken again


class Opening:
    """The tasks of a worker that do not run yet. One taking of leases at a time, beside the loop; and restores, of
    which the loop makes a step now and then."""

    def __init__(self, tools: Tools, clock: Clock) -> None:
        self._tools, self._clock = tools, clock
        self._taking: Taking | None = None
        self._given_up: Taking | None = None  # the last one that was
        self._given_up_at = 0.0
        self._restoring: dict[int, tuple[Task, Iterator[None]]] = {}
        self._restored_at = clock.monotonic()

    @property
    def taking(self) -> bool:
        """Leases are being taken."""
        return self._taking is not None

    @property
    def restoring(self) -> bool:
        return bool(self._restoring)

    # ---- leases

    def take(self, group: Group, new: frozenset[int], seconds: float) -> dict[int, Lease]:
        """Take the leases of these tasks, and of no others; those that were taken, as soon as that is done, which is
        waited for no longer than this."""
        if self._taking is not None and not self._taking.tasks <= new:
            self.give_up()
        if not new or (self._taking is None and self._busy_with(new)):
            return {}
        tools = self._tools
        if self._taking is None:
            self._taking = Taking(
                tools.log, group, tools.plan.app, tools.settings.slot, tools.plan.fingerprint, new, tools.note
            )
        if not self._taking.wait(seconds):
            return {}
        done, self._taking = self._taking, None
        return done.result()

    def revoke(self, numbers: frozenset[int]) -> None:
        """The group takes these away."""
        if self._taking is not None and self._taking.tasks & numbers:
            self.give_up()

    def give_up(self) -> None:
        """No leases are taken any more; what was is given back."""
        if self._taking is not None:
            self._taking.give_up()
            self._given_up, self._given_up_at = self._taking, self._clock.monotonic()
            self._taking = None

    def await_given_back(self) -> None:
        """Before the group is left: whoever gets those tasks shall find them free."""
        if self._given_up is not None:
            self._given_up.wait(_GIVING_BACK)

    def _busy_with(self, new: frozenset[int]) -> bool:
        """A taking that was given up still is, with some of these: its claims and a new one's would fence each other.
        Not for long: it can hang in a call."""
        left = self._given_up
        if left is not None and (
            left.wait(0.0) or self._clock.monotonic() - self._given_up_at > _LEFT or not left.tasks & new
        ):
            self._given_up = None
        return self._given_up is not None

    # ---- restores

    def restore(self, task: Task, steps: Iterator[None]) -> None:
        """The task runs when these steps have been made."""
        self._restoring[task.id.number] = task, steps

    def forget(self, number: int) -> None:
        """This task is not restored any more."""
        self._restoring.pop(number, None)

    def step(self, others: object) -> Iterator[Task]:
        """A step of each task in turn; where `others` run (true), for as long as they have had since the last time, and
        at least for about a step: neither shall wait long for the other. Gives those that can run now."""
        began = self._clock.monotonic()
        share = max(STEP, began - self._restored_at)
        for number in list(self._restoring):
            if others and self._clock.monotonic() - began > share:
                break
            task, steps = self._restoring[number] = self._restoring.pop(number)  # it is the last one now
            try:
                next(steps)
            except StopIteration:
                del self._restoring[number]
                yield task
        self._restored_at = self._clock.monotonic()
