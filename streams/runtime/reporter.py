"""What a worker tells of itself, after each commit: metrics for Prometheus and a status for the terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import Gauge

from streams.core.clock import Clock
from streams.core.time import text
from streams.log.base import LogReader
from streams.metrics import Metrics
from streams.runtime.task import State, Task, Tools


@dataclass
class Status:
    """What the worker tells the terminal and the web page."""

    records_in: int = 0
    records_out: dict[str, int] = field(default_factory=dict)
    late: int = 0
    dead: int = 0
    commits: int = 0
    aborts: int = 0
    last_commit_seconds: float = 0.0
    watermark: int | None = None
    watermark_delay: float | None = None
    """Seconds by which the slowest task's event time is behind the clock."""
    state_bytes: int = 0
    lag: int = 0
    tasks: dict[str, str] = field(default_factory=dict)


class Reporter:
    """Counts for one worker."""

    def __init__(self, metrics: Metrics, tools: Tools, clock: Clock) -> None:
        self.metrics, self.status = metrics, Status()
        self._tools, self._clock = tools, clock
        self._warned: set[str] = set()
        self._shown: set[tuple[Gauge, tuple[str, ...]]] = set()

    def task(self, task: Task) -> None:
        """What a task counted since its last commit, which has just succeeded."""
        m, status, counts = self.metrics, self.status, task.chain.counts
        for topic, count in task.records_in.items():
            m.records_in.labels(topic).inc(count)
            if topic in task.sub.sources:
                status.records_in += count
        task.records_in = {}
        for operator, count in counts.late.items():
            m.late.labels(operator).inc(count)
            status.late += count
        for (operator, why), count in counts.dropped.items():
            m.dropped.labels(operator, why).inc(count)
        for operator, seconds in counts.seconds.items():
            m.operator_seconds.labels(operator).inc(seconds)
        for operator, rows in counts.rows.items():
            m.operator_rows.labels(operator).inc(rows)
        for operator, _ in task.chain.letters.causes():
            m.dead.labels(operator).inc()
            status.dead += 1
        task.chain.letters.clear()
        counts.late, counts.dropped, counts.seconds, counts.rows = {}, {}, {}, {}
        if task.oldest is not None:
            m.latency.observe(max(0.0, (self._clock.now() - task.oldest) / 1000))

    def commit(self, seconds: float, appended: Mapping[str, int]) -> None:
        """A commit has succeeded, with so many records by topic."""
        self.metrics.commits.inc()
        self.metrics.commit_seconds.observe(seconds)
        for topic, count in appended.items():
            self.metrics.records_out.labels(topic).inc(count)
            self.status.records_out[topic] = self.status.records_out.get(topic, 0) + count
        self.status.commits += 1
        self.status.last_commit_seconds = seconds

    def gauge(self, tasks: Sequence[Task], reader: LogReader | None) -> None:
        """What stands now: tasks by state, sizes, watermarks, lag."""
        m = self.metrics
        states: dict[str, int] = {}
        self.status.tasks = {str(t.id): t.state.value for t in tasks}
        for task in tasks:
            states[task.state.value] = states.get(task.state.value, 0) + 1
        for state in State:
            m.tasks.labels(state.value).set(states.get(state.value, 0))
        marks = []
        shown: set[tuple[Gauge, tuple[str, ...]]] = set()
        self.status.state_bytes = self.status.lag = 0
        for task in (t for t in tasks if t.state is State.RUNNING):
            name = str(task.id)
            if task.store is not None:
                size = task.store.size_bytes
                _set(m.state_bytes, size, shown, name)
                self.status.state_bytes += size
                _set(m.overlay_bytes, task.overlay_bytes, shown, name)
            if abs(task.release.watermark) < 2**60:
                marks.append(task.release.watermark)
                _set(m.watermark_delay, (self._clock.now() - task.release.watermark) / 1000, shown, name)
            for tp in task.partitions if reader is not None else ():
                left = reader.lag(tp)  # type: ignore[union-attr]
                _set(m.lag, left, shown, tp.topic, str(tp.partition))
                self.status.lag += left
        for gauge, labels in self._shown - shown:  # of tasks that another worker has now: it tells of them
            gauge.remove(*labels)
        self._shown = shown
        self.status.watermark = min(marks) if marks else None
        self.status.watermark_delay = (self._clock.now() - min(marks)) / 1000 if marks else None
        if marks:
            self._look_at_retention(min(marks))

    def once(self, about: str, note: str) -> None:
        """Say it the first time only."""
        if about not in self._warned:
            self._warned.add(about)
            self._tools.note(note)

    def _look_at_retention(self, watermark: int) -> None:
        """Say once if a topic is cleaned by a retention that is shorter than the events are old: brokers go by the
        records' timestamps, so what is read or written may be deleted within minutes."""
        age = self._clock.now() - watermark
        for topic in self._tools.plan.topics.values():
            if 0 <= topic.retention_ms < age:
                self.once(
                    topic.name,
                    f"topic {topic.name!r} keeps records for {text(topic.retention_ms)}, but event time is {text(age)} "
                    "back: its records may be deleted at once; set its retention.ms to -1",
                )


def _set(gauge: Gauge, value: float, shown: set[tuple[Gauge, tuple[str, ...]]], *labels: str) -> None:
    gauge.labels(*labels).set(value)
    shown.add((gauge, labels))
