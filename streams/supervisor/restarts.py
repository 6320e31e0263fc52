"""When a worker that died is started again: a pure decision."""

from dataclasses import dataclass

HEALTHY = 600.0
QUICK = 60.0
FIRST_WAIT = 0.5
LONGEST_WAIT = 30.0
QUICK_DEATHS = 5
DEATHS = 10


@dataclass
class Restarts:
    """Counts the deaths of one worker.

    A worker that lived for ten minutes was healthy: its death starts a new row. Within a row the waits double, from
    0.5 s to 30 s. The fifth death in a row within a minute is the last, and so is the tenth in a row within ten: a long
    restore, or a function that hangs until the watchdog ends it, does not make a program that always dies a healthy
    one. A death that is not the worker's own fault (`counts=False`) lengthens the waits alone.

    >>> restarts = Restarts()
    >>> [restarts.died(after=1.0) for _ in range(5)]
    [0.5, 1.0, 2.0, 4.0, None]
    >>> restarts.died(after=3600.0)
    0.5
    >>> [restarts.died(after=90.0) for _ in range(9)]
    [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0, None]
    >>> restarts = Restarts()
    >>> restarts.died(after=3600.0)
    0.5
    >>> [restarts.died(after=10.0, counts=False) for _ in range(7)]
    [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    """

    row: int = 0
    """Deaths in a row that count, the last one included."""
    quick: int = 0
    """How many of those, the last one included, came within a minute, one after another."""
    others: int = 0
    """Those in the same row that do not."""
    quick_deaths: int = QUICK_DEATHS

    def died(self, after: float, *, counts: bool = True) -> float | None:
        """It died `after` so many seconds: how long to wait before the next start, or None to give up."""
        if after >= HEALTHY:
            self.row = self.others = 0
        if after >= QUICK:
            self.quick = 0
        self.row, self.others = self.row + counts, self.others + (not counts)
        self.quick += counts
        if counts and (self.quick >= self.quick_deaths or self.row >= DEATHS):
            return None
        return float(min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(10, self.row + self.others - 1)))
