"""One look at a worker: its status, and how fast it is moving."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from streams.core.wording import counted, size, span
from streams.runtime.reporter import Status

_OLD = 30 * 86_400.0  # seconds
_WINDOW = 5.0  # seconds: commits come in steps, and a rate over less would jump


@dataclass(frozen=True)
class Figures:
    """What is shown: the status at one moment, and rates in records a second over the last five seconds."""

    app: str
    slot: str
    log: str
    seconds: float
    """Since the start of this process."""
    status: Status
    rate_in: float
    rate_out: float

    @property
    def outputs(self) -> dict[str, int]:
        """Records written by topic, without the changelogs and shuffles of the application itself."""
        return {t: n for t, n in sorted(self.status.records_out.items()) if not is_internal(self.app, t)}

    @property
    def tasks(self) -> dict[str, int]:
        """How many tasks there are by state."""
        states = list(self.status.tasks.values())
        return {state: states.count(state) for state in sorted(set(states), reverse=True)}


class Meter:
    """Makes figures of what a worker's status is now, and remembers what it was a moment ago.

    >>> now = iter([0.0, 1.0, 2.0])
    >>> meter = Meter("spending", "0", "a log", now=lambda: next(now))
    >>> meter.look(Status(records_in=100)).rate_in
    100.0
    >>> meter.look(Status(records_in=400)).rate_in
    200.0
    """

    def __init__(self, app: str, slot: str, log: str, *, now: Callable[[], float] = time.monotonic) -> None:
        self.app, self.slot, self.log, self._now = app, slot, log, now
        self._started = now()
        self._before: deque[tuple[float, int, int]] = deque([(self._started, 0, 0)])

    def look(self, status: Status) -> Figures:
        """Figures of this moment. The status may be one that another thread is changing."""
        now = self._now()
        taken = snapshot(status)
        out = sum(n for t, n in taken.records_out.items() if not is_internal(self.app, t))
        self._before.append((now, taken.records_in, out))
        while len(self._before) > 2 and self._before[1][0] <= now - _WINDOW:
            self._before.popleft()
        at, records_in, records_out = self._before[0]
        spent = max(now - at, 1e-9)
        return Figures(
            self.app,
            self.slot,
            self.log,
            now - self._started,
            taken,
            max(0.0, (taken.records_in - records_in) / spent),
            max(0.0, (out - records_out) / spent),
        )


def snapshot(status: Status) -> Status:
    """The status as it stands, when another thread may be changing it."""
    taken = copy(status)
    for name, value in vars(taken).items():
        if isinstance(value, dict):
            setattr(taken, name, dict(value))
    return taken


def is_internal(app: str, topic: str) -> bool:
    """Is it one of the application's own topics?

    >>> is_internal("fraud", "fraud-0-changelog"), is_internal("fraud", "fraud.alerts")
    (True, False)
    """
    return topic.startswith(f"{app}-") and topic.endswith(("-changelog", "-shuffle"))


def merged(statuses: Sequence[Status]) -> Status:
    """The status of several workers as one: counts added up, the earliest event time, the slowest commit.

    >>> merged([Status(records_in=1, watermark=5), Status(records_in=2, watermark=3), Status()]).watermark
    3
    """
    out = Status()
    for status in statuses:
        out.records_in += status.records_in
        out.late += status.late
        out.dead += status.dead
        out.commits += status.commits
        out.aborts += status.aborts
        out.state_bytes += status.state_bytes
        out.lag += status.lag
        for topic, count in status.records_out.items():
            out.records_out[topic] = out.records_out.get(topic, 0) + count
        out.tasks.update(status.tasks)
    out.last_commit_seconds = max((s.last_commit_seconds for s in statuses), default=0.0)
    out.watermark = min((s.watermark for s in statuses if s.watermark is not None), default=None)
    out.watermark_delay = max((s.watermark_delay for s in statuses if s.watermark_delay is not None), default=None)
    return out


# ---------------------------------------------------------------- as text


def near(log: str) -> str:
    """A log's name; a path below the working directory without that.

    >>> near(str(Path.cwd() / "log" / "log.db")), near("localhost:9092")
    ('log/log.db', 'localhost:9092')
    """
    path = Path(log)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else log


def instant(milliseconds: int | None) -> str:
    """Event time to the minute, UTC.

    >>> instant(1_522_540_800_000), instant(None)
    ('2018-04-01 00:00', '-')
    """
    if milliseconds is None:
        return "-"
    try:
        return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M}"
    except (OverflowError, ValueError, OSError):
        return str(milliseconds)  # beyond the year 9999


def behind(seconds: float | None) -> str:
    """How far event time is behind the clock; beyond a month it is old data that is read, and no delay.

    >>> behind(3.21), behind(86_400 * 1104), behind(None)
    ('3.2 s', 'old data', '-')
    """
    return "old data" if seconds is not None and seconds > _OLD else span(seconds)


def as_line(figures: Figures) -> str:
    """All figures on a line, for a file or a pipe."""
    status = figures.status
    outputs = ", ".join(f"{topic} {count:,}" for topic, count in figures.outputs.items())
    delay = behind(status.watermark_delay)
    parts = [
        f"in {status.records_in:,} ({figures.rate_in:,.0f}/s)",
        f"out {outputs or 0} ({figures.rate_out:,.0f}/s)",
        f"left {status.lag:,}",
        f"late {status.late:,}",
        f"dead {status.dead:,}",
        f"event time {instant(status.watermark)}" + (" (old data)" if delay == "old data" else f"  delay {delay}"),
        f"state {size(status.state_bytes)}",
        f"commit {span(status.last_commit_seconds)}",
        f"aborted {status.aborts}",
        "tasks " + (", ".join(f"{count} {state}" for state, count in figures.tasks.items()) or "none"),
    ]
    return "  ".join(parts)


def as_fields(figures: Figures) -> Mapping[str, Any]:
    """The same for machines: numbers in seconds, bytes and records."""
    status = figures.status
    return {
        "seconds": round(figures.seconds, 3),
        "records_in": status.records_in,
        "records_in_per_second": round(figures.rate_in, 1),
        "records_out": figures.outputs,
        "records_out_per_second": round(figures.rate_out, 1),
        "lag": status.lag,
        "late": status.late,
        "dead": status.dead,
        "watermark": status.watermark,
        "watermark_delay_seconds": status.watermark_delay,
        "state_bytes": status.state_bytes,
        "commits": status.commits,
        "aborts": status.aborts,
        "last_commit_seconds": round(status.last_commit_seconds, 6),
        "tasks": figures.tasks,
    }


def summary(figures: Figures) -> str:
    """What was done, in one line, when all has ended."""
    status = figures.status
    out = sum(figures.outputs.values())
    mean = status.records_in / figures.seconds if figures.seconds else 0.0
    return (
        f"done: {counted(status.records_in, 'record')} in, {out:,} out, {counted(status.commits, 'commit')} "
        f"in {span(figures.seconds)} ({mean:,.0f} records/s)"
    )
