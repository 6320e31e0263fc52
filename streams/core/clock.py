"""Wall-clock time, injected, so that tests and simulations can move it."""

import time
from typing import Protocol


class Clock(Protocol):
    """Where the engine reads the time. Event time never comes from here."""

    def now(self) -> int:
        """Milliseconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...

    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class ManualClock:
    """A clock that moves when told to.

    >>> clock = ManualClock(); clock.sleep(1.5); clock.now()
    1500
    """

    def __init__(self, start: int = 0) -> None:
        self._now = float(start)

    def now(self) -> int:
        return int(self._now)

    def monotonic(self) -> float:
        return self._now / 1000

    def sleep(self, seconds: float) -> None:
        self._now += seconds * 1000
