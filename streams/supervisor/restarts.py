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
    to 30 s; the fifth quick death in a row is the last. One that is not its own fault (`counts=False`) lengthens the
    waits alone.

    >>> restarts = Restarts()
    >>> [restarts.died(after=1.0) for _ in range(5)]
    [0.5, 1.0, 2.0, 4.0, None]
    >>> restarts.died(after=3600.0)
    0.5
    >>> [restarts.died(after=10.0, counts=False) for _ in range(7)]
    [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    """

    row: int = 0
    """Deaths in a row that count, the last one included."""
    others: int = 0
    """Those in the same row that do not."""
    quick_deaths: int = QUICK_DEATHS

    def died(self, after: float, *, counts: bool = True) -> float | None:
        """It died `after` so many seconds: how long to wait before the next start, or None to give up."""
        if after >= HEALTHY:
            self.row = self.others = 0
        self.row, self.others = self.row + counts, self.others + (not counts)
        if counts and self.row >= self.quick_deaths:
            return None
        return float(min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(10, self.row + self.others - 1)))
