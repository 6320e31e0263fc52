"""Log lines about a restore, or an upload, that takes long."""

from collections.abc import Callable

from streams.core.clock import Clock
from streams.core.wording import size, span

_EVERY = 2.0  # seconds


class Progress:
    """How far it is, how quick, and how long it will go on: a line every two seconds, or as often as is said.

    >>> from streams.core.clock import ManualClock
    >>> clock = ManualClock(0)
    >>> progress = Progress("replaying the changelog", print, clock)
    >>> for _ in range(2):
    ...     progress.at(100, 1000, 5_000_000)
    ...     clock.sleep(1.0)
    >>> progress.at(300, 1000, 15_000_000)
    replaying the changelog: 30%, 15.0 MB, 7.5 MB/s, about 7.0 s left
    """

    def __init__(self, what: str, say: Callable[[str], None], clock: Clock, every: float | None = None) -> None:
        self._what, self._say, self._clock = what, say, clock
        self._every = _EVERY if every is None else every
        self._begun = self._told = clock.monotonic()
        self._first, self._done = -1, 0

    def at(self, done: int, whole: int, read: int) -> None:
        """So much is done, in any unit, and so many bytes were moved for it. `whole` is 0 while it is not known."""
        now = self._clock.monotonic()
        if self._first < 0 or done < self._done:  # it has begun, or begun anew with something else
            self._first, self._begun = done, now
        self._done = done
        if now - self._told < self._every:
            return
        self._told, spent, came = now, now - self._begun, done - self._first
        if not whole:
            self._say(f"{self._what}: looking for it")
            return
        left = f"about {span((whole - done) * spent / came)} left" if came else "nothing has come"
        rate = size(int(read / spent)) if spent else "-"
        self._say(f"{self._what}: {done / whole:.0%}, {size(read)}, {rate}/s, {left}")
