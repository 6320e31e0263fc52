"""What a worker tells of itself, after each commit: metrics for Prometheus, a status for the terminal, a report for
other threads."""

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import Gauge

from streams.core.clock import Clock
from streams.core.time import text
from streams.log.base import LogReader
from streams.metrics import Metrics
from streams.runtime.letters import DeadLetters
from streams.runtime.report import (
    AbortReport,
    CommitReport,
    InputReport,
    LetterReport,
    OperatorReport,
    Pulse,
    TaskReport,
    WorkerReport,
)
from streams.runtime.task import State, Task
from streams.runtime.tools import Tools
from streams.runtime.waiting import many_wait

_LAST = 50  # commits, dead letters and aborts that are remembered
_CAUSE = 300  # characters of a cause that are shown
_MOMENTS = 6  # rates are over the last five seconds
_MANY = 10  # times `waiting_rows`: so many rows that wait are told of
_SURE = 2**60  # a watermark beyond is one of NEVER and FOREVER


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


@dataclass
class _Totals:
    """What one node of the graph has done since the start."""

    rows: int = 0
    seconds: float = 0.0
    late: int = 0
    dropped: int = 0
    dead: int = 0


@dataclass(frozen=True)
class _Moment:
    """The totals at one time: two of them give the rates."""

    at: float
    records_in: int
    records_out: int
    rows: dict[str, int]
    seconds: dict[str, float]


class Reporter:
    """Counts for one worker. `report` is the newest immutable picture of it: any thread may read that."""

    def __init__(self, metrics: Metrics, tools: Tools, clock: Clock) -> None:
        self.metrics, self.status = metrics, Status()
        self.pulse = Pulse(tools.place)
        self._tools, self._clock = tools, clock
        self._warned: set[str] = set()
        self._nodes = {id: _Totals() for id in tools.plan.topology.graph.nodes}
        self._out = {n.sink.topic for n in tools.plan.topology.graph.nodes.values() if n.sink is not None}
        self._out.update(n.id for n in tools.plan.topology.graph.nodes.values() if n.outside is not None)
        self._out.add(tools.plan.dead_letters)
        self._records_out = self._dropped = 0
        self._in_commit: tuple[int, int] = (0, 0)  # records of sources and tasks of the commit that is being reported
        self._commits: deque[CommitReport] = deque(maxlen=_LAST)
        self._letters: deque[LetterReport] = deque(maxlen=_LAST)
        self._aborts: deque[AbortReport] = deque(maxlen=_LAST)
        self._moments: deque[_Moment] = deque(maxlen=_MOMENTS)
        self._since = clock.now()
        self._joined = False
        self._shown: set[tuple[Gauge, tuple[str, ...]]] = set()
        self.report = WorkerReport(at=self._since, since=self._since)

    def joined(self) -> None:
        """The worker is a member of the group."""
        self._joined = True
        self.publish(())

    def restored(self, task: Task) -> None:
        """The task runs from now on."""
        self.metrics.restore_seconds.observe(task.restore_seconds)
        if task.restored_entries:
            self._tools.note(
                f"task {task.id}: restored {task.restored_entries} blocks in {task.restore_seconds:.2f} s",
                logging.INFO,
                task=str(task.id),
            )

    def task(self, task: Task) -> None:
        """What a task counted since its last commit, which has just succeeded."""
        m, status, counts, nodes = self.metrics, self.status, task.chain.counts, self._nodes
        read = 0
        for topic, count in task.records_in.items():
            m.records_in.labels(topic).inc(count)
            if topic in task.sub.sources:
                read += count
        status.records_in += read
        for item in task.inputs:
            if item.source is not None:
                nodes[item.spec.node].rows += task.records_in.get(item.spec.topic, 0)
        task.records_in = {}
        for operator, count in counts.late.items():
            m.late.labels(operator).inc(count)
            nodes[operator].late += count
            status.late += count
        for (operator, why), count in counts.dropped.items():
            m.dropped.labels(operator, why).inc(count)
            nodes[operator].dropped += count
            self._dropped += count
        for operator, seconds in counts.seconds.items():
            m.operator_seconds.labels(operator).inc(seconds)
            nodes[operator].seconds += seconds
        for sink, seconds in task.outside.seconds.items():
            m.operator_seconds.labels(sink).inc(seconds)
            nodes[sink].seconds += seconds
        task.outside.seconds = {}
        for operator, rows in counts.rows.items():
            m.operator_rows.labels(operator).inc(rows)
            nodes[operator].rows += rows
        for exit, rows in counts.exits.items():
            nodes[exit].rows += rows
        self._dead(task.chain.letters)
        counts.late, counts.dropped, counts.seconds, counts.rows, counts.exits = {}, {}, {}, {}, {}
        if task.oldest is not None:
            m.latency.observe(max(0.0, (self._clock.now() - task.oldest) / 1000))
        self._in_commit = (self._in_commit[0] + read, self._in_commit[1] + 1)

    def _dead(self, letters: DeadLetters) -> None:
        for operator, count in letters.by_operator().items():
            self.metrics.dead.labels(operator).inc(count)
            self._nodes[operator].dead += count
            self.status.dead += count
        if letters.count:
            now = self._clock.now()
            for letter, cause, operator in letters.last(_LAST):
                where = letter.topic, letter.partition, letter.offset
                self._letters.append(LetterReport(now, operator, cause[:_CAUSE], *where))
        letters.clear()

    def commit(self, seconds: float, appended: Mapping[str, int]) -> None:
        """A commit has succeeded, with so many records by topic."""
        self.metrics.commits.inc()
        self.metrics.commit_seconds.observe(seconds)
        written = 0
        for topic, count in appended.items():
            self.metrics.records_out.labels(topic).inc(count)
            self.status.records_out[topic] = self.status.records_out.get(topic, 0) + count
            written += count if topic in self._out else 0
        self._records_out += written
        self.status.commits += 1
        self.status.last_commit_seconds = seconds
        read, tasks = self._in_commit
        self._commits.append(CommitReport(self._clock.now(), seconds, read, written, tasks))
        self._in_commit = (0, 0)

    def aborted(self, reason: str, error: Exception) -> None:
        """What was open is dropped, and every task is taken anew."""
        self.metrics.aborts.labels(reason).inc()
        self.status.aborts += 1
        self._in_commit = (0, 0)
        self._aborts.append(AbortReport(self._clock.now(), reason, str(error).splitlines()[0][:_CAUSE]))
        self.publish(())

    def gauge(self, tasks: Sequence[Task], reader: LogReader | None) -> None:
        """What stands now: tasks by state, sizes, watermarks, lag."""
        m, now = self.metrics, self._clock.now()
        states: dict[str, int] = {}
        self.status.tasks = {str(t.id): t.state.value for t in tasks}
        for task in tasks:
            states[task.state.value] = states.get(task.state.value, 0) + 1
        for state in State:
            m.tasks.labels(state.value).set(states.get(state.value, 0))
        reports = [report_of(task, reader, now) for task in tasks]
        running = [r for r in reports if r.state == State.RUNNING.value]
        shown: set[tuple[Gauge, tuple[str, ...]]] = set()
        for task, report in zip(tasks, reports, strict=True):
            if task.state is not State.RUNNING:
                continue
            if task.store is not None:
                _set(m.state_bytes, report.state_bytes, shown, report.task)
                _set(m.overlay_bytes, report.overlay_bytes, shown, report.task)
            if report.watermark_delay is not None:
                _set(m.watermark_delay, report.watermark_delay, shown, report.task)
            if task.release.merging:
                _set(m.waiting_rows, report.waiting_rows, shown, report.task)
                if report.waiting_rows >= _MANY * self._tools.settings.waiting_rows:
                    self.once(f"waiting {report.task}", many_wait(task, report.waiting_rows, self._tools.plan.topology))
            for item in report.inputs if reader is not None else ():
                _set(m.lag, item.lag, shown, item.topic, str(item.partition))
        for gauge, labels in self._shown - shown:  # of tasks that another worker has now: it tells of them
            gauge.remove(*labels)
        self._shown = shown
        marks = [r.watermark for r in running if r.watermark is not None]
        self.status.state_bytes = sum(r.state_bytes for r in running)
        self.status.lag = sum(r.lag for r in running)
        known = min(marks) if marks and len(running) == len(reports) else None  # one that is restored may be behind
        self.status.watermark = known
        self.status.watermark_delay = (now - known) / 1000 if known is not None else None
        self.publish(reports)
        if marks:
            self._look_at_retention(min(marks))

    def publish(self, tasks: Sequence[TaskReport]) -> None:
        """Put a new report in the place of the last one."""
        status, now = self.status, self._clock.monotonic()
        self._moments.append(
            _Moment(
                now,
                status.records_in,
                self._records_out,
                {id: t.rows for id, t in self._nodes.items()},
                {id: t.seconds for id, t in self._nodes.items()},
            )
        )
        first = self._moments[0]
        per = 1 / (now - first.at) if now > first.at else 0.0
        self.report = WorkerReport(
            at=self._clock.now(),
            since=self._since,
            joined=self._joined,
            records_in=status.records_in,
            records_in_per_second=(status.records_in - first.records_in) * per,
            records_out={topic: status.records_out.get(topic, 0) for topic in sorted(self._out)},
            records_out_per_second=(self._records_out - first.records_out) * per,
            late=status.late,
            dropped=self._dropped,
            dead=status.dead,
            commits=status.commits,
            aborts=status.aborts,
            last_commit_seconds=status.last_commit_seconds,
            watermark=status.watermark,
            watermark_delay=status.watermark_delay,
            state_bytes=status.state_bytes,
            overlay_bytes=sum(t.overlay_bytes for t in tasks),
            lag=status.lag,
            operators={
                id: OperatorReport(
                    t.rows,
                    (t.rows - first.rows[id]) * per,
                    t.seconds,
                    (t.seconds - first.seconds[id]) * per,
                    t.late,
                    t.dropped,
                    t.dead,
                )
                for id, t in self._nodes.items()
            },
            tasks=tuple(tasks),
            last_commits=tuple(self._commits),
            last_letters=tuple(self._letters),
            last_aborts=tuple(self._aborts),
        )

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


def report_of(task: Task, reader: LogReader | None, now: int) -> TaskReport:
    """What there is to tell of a task. Runs in the worker's loop: no records, and no call that could wait."""
    running, store = task.state is State.RUNNING, task.store
    watermark = _mark(task.release.watermark) if running else None
    inputs = tuple(
        InputReport(
            item.spec.node,
            tp.topic,
            tp.partition,
            item.next,
            reader.lag(tp) if running and reader is not None else 0,
            _mark(item.watermark),
            item.watermark is None,
        )
        for tp, item in zip(task.partitions, task.inputs, strict=True)
    )
    return TaskReport(
        task=str(task.id),
        number=task.id.number,
        sub=task.id.sub,
        state=task.state.value,
        sequence=task.lease.sequence,
        watermark=watermark,
        watermark_delay=(now - watermark) / 1000 if watermark is not None else None,
        inputs=inputs,
        waiting_rows=sum(task.release.rows()) if running and task.release.merging else 0,
        state_bytes=store.size_bytes if running and store is not None else 0,
        overlay_bytes=task.overlay_bytes if running else 0,
        restored_from=task.restored_from,
        restored_to=store.mark.sequence if store is not None else 0,
        restored_blocks=task.restored_entries,
        restore_seconds=task.restore_seconds,
    )


def _mark(watermark: int | None) -> int | None:
    return watermark if watermark is not None and abs(watermark) < _SURE else None


def _set(gauge: Gauge, value: float, shown: set[tuple[Gauge, tuple[str, ...]]], *labels: str) -> None:
    gauge.labels(*labels).set(value)
    shown.add((gauge, labels))
