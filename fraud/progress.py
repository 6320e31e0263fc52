"""What the demo has found so far, and how far it has come in event time."""

from collections import Counter
from dataclasses import dataclass, field

from fraud.feed import DAY_MS
from streams.terminal import figures
from streams.terminal.figures import Figures


@dataclass
class Found:
    """Alerts by reason in the whole log, those of earlier runs too; `first`: seconds from the start to the first one.

    >>> found = Found(days=183, start=1_522_540_800_000)
    >>> found.day(None), found.day(1_522_540_800_000), found.day(1_522_540_800_000 + 200 * DAY_MS)
    (0, 1, 183)
    """

    days: int
    start: int
    alerts: Counter[str] = field(default_factory=Counter)
    first: float | None = None

    def day(self, watermark: int | None) -> int:
        """The day that event time is in, from 1 on; 0 before the first one."""
        if watermark is None:
            return 0
        return min(max((watermark - self.start) // DAY_MS + 1, 0), self.days)


def as_line(now: Figures, found: Found) -> str:
    """Event time, alerts by reason of all runs, and the worker's figures of this run, on one line."""
    alerts = dict(found.alerts)
    reasons = ", ".join(f"{code} {count:,}" for code, count in sorted(alerts.items()))
    day = f"day {found.day(now.status.watermark) or '-':>3} of {found.days}"
    return f"{day}  alerts of all runs {sum(alerts.values()):,} ({reasons or 'none'})  this run: {figures.as_line(now)}"
