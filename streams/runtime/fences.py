"""Whether a worker that is fenced again and again shares its slot with another process."""

from streams.core.errors import Fenced, LogError, SlotTaken
from streams.log.base import Log
from streams.protocol import holders
from streams.runtime.plan import Plan

_AGAIN = 60.0
_MOST = 3


class Fences:
    """Counts the times that a worker was fenced, lately."""

    def __init__(self, log: Log, plan: Plan, slot: str) -> None:
        self._log, self._plan, self._slot = log, plan, slot
        self._at: list[float] = []

    def count(self, error: Fenced, now: float) -> None:
        """SlotTaken where nothing but a second process in our slot explains the fences.

        Others can fence us several times in a row, in good order: an abort drops leases without giving them back, and
        whoever gets such a task from the group fences us then. Leases that other slots hold show that it is this.
        """
        self._at = [at for at in self._at if now - at < _AGAIN] + [now]
        if self._others_hold() or (len(self._at) >= _MOST and self._others_hold(for_sure=True)):
            self._at.clear()
        elif len(self._at) >= _MOST:
            raise SlotTaken(
                f"fenced {_MOST} times within a minute without a takeover: two processes run as slot {self._slot!r}",
                where=str(error).splitlines()[0],
                fix="give each worker its own --slot",
            ) from error

    def _others_hold(self, *, for_sure: bool = False) -> bool:
        """Another slot holds a lease; False if that cannot be read now. For sure: after commits in progress."""
        tasks = range(len(self._plan.tasks))
        try:
            app = self._plan.app
            found = holders(self._log.leases(app, tasks)) if for_sure else self._log.holders(app, tasks)
        except LogError:
            return False
        return any(slot != self._slot for slot in found.values())
