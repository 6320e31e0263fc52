"""When a worker that died is started again: a pure decision."""

from dataclasses import dataclass

HEALTHY = 60.0
FIRST_WAIT = 0.5
LONGEST_WAIT = 30.0
QUICK_DEATHS = 5


@dataclass
class Restarts:
    """Counts the deaths of one worker.

    A worker that lived for a minute was healthy: its death starts a new row. Within a row the waits double, from 0.5 s
    to 30 s; the fifth quick death in a row is the last.

    >>> restarts = Restarts()
    >>> [restarts.died(after=1.0) for _ in range(5)]
    [0.5, 1.0, 2.0, 4.0, None]
    >>> restarts.died(after=3600.0)
    0.5
    """

    row: int = 0
    """Deaths in a row, the last one included."""
    quick_deaths: int = QUICK_DEATHS

    def died(self, after: float) -> float | None:
        """It died `after` so many seconds: how long to wait before the next start, or None to give up."""
        self.row = 1 if after >= HEALTHY else self.row + 1
        if self.row >= self.quick_deaths:
            return None
        return float(min(LONGEST_WAIT, FIRST_WAIT * 2 ** (self.row - 1)))
