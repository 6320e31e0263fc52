"""Whether source topics are still those that the worker has started with."""

from streams.core.clock import Clock
from streams.core.errors import LogError, TopicMismatch
from streams.log.base import Log
from streams.runtime.plan import Plan, check_grown

_EVERY = 10.0  # seconds


class Growth:
    """Looks at the source topics now and then."""

    def __init__(self, log: Log, plan: Plan, clock: Clock, every: float | None = None) -> None:
        self._log, self._plan, self._clock = log, plan, clock
        self._every = _EVERY if every is None else every
        self._looked = clock.monotonic()

    def look(self) -> None:
        """TopicMismatch where a source topic has been given more partitions, or was made again. What else is wrong with
        the log is found elsewhere, where the worker begins anew: to look is no reason to end."""
        now = self._clock.monotonic()
        if now - self._looked < self._every:
            return
        self._looked = now
        try:
            check_grown(self._plan, self._log)
        except TopicMismatch:
            raise
        except LogError:
            return
