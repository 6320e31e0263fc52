"""The worker: one thread that polls the leases, reads, processes and commits.

    poll group -> take leases -> restore -> poll records -> process -> (commit) -> poll group ...

Everything abnormal has one answer: drop what is open, get a new writer, take every lease anew, restore the difference.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from streams.core.clock import Clock, SystemClock
from streams.core.errors import (
    Fenced,
    LocationUnreachable,
    LogError,
    LogUnreachable,
    SinkError,
    SlotTaken,
    StateCorrupt,
)
from streams.core.record import Produced, TopicPartition
from streams.log.base import Committed, Group, LogReader, LogWriter
from streams.metrics import Metrics
from streams.protocol import Lease
from streams.runtime.fences import Fences
from streams.runtime.growth import Growth
from streams.runtime.holding import Holding
from streams.runtime.opening import Opening
from streams.runtime.queries import Queries
from streams.runtime.reporter import Reporter
from streams.runtime.silence import Silences
from streams.runtime.task import State, Task
from streams.runtime.tools import Tools
from streams.runtime.trimming import Trimming
from streams.runtime.watchdog import Watchdog

if TYPE_CHECKING:
    from streams.runtime.snapshots import Snapshots

Hook = Callable[[str], None]

_IDLE_LOOK = 0.2
_RESTORING = 0.002  # seconds between two looks at restores
_ALONE = 0.2  # seconds for leases where nothing else is to be done, and a turn does not wait for records
_GAUGES = 1.0
_ENDS = 5.0
_REFRESH = 600.0  # seconds after which a task that has nothing to do commits all the same
# A damaged store is made anew when its task is taken again.
_MENDED = (LogError, StateCorrupt, LocationUnreachable, SinkError)
_HOPELESS = 12  # aborts in a row for another reason than a log that cannot be reached


class Worker:
    """Runs the tasks that the group gives to one slot, until `stop` is called."""

    def __init__(
        self,
        tools: Tools,
        *,
        metrics: Metrics | None = None,
        hook: Hook | None = None,
        clock: Clock | None = None,
        wait: float = 0.05,
        snapshots: "Snapshots | None" = None,
        watchdog: Watchdog | None = None,
    ) -> None:
        self.tools, self.log, self.plan, self.settings = tools, tools.log, tools.plan, tools.settings
        self.metrics = metrics if metrics is not None else Metrics()
        self._clock = clock if clock is not None else SystemClock()
        self._reporter = Reporter(self.metrics, tools, self._clock)
        self.status = self._reporter.status
        self._pulse = self._reporter.pulse
        self._hook: Hook = hook if hook is not None else lambda step: None
        self._wait = wait
        self._snapshots = snapshots
        self._watchdog = watchdog
        self._silences = Silences(tools.place)
        self.queries = Queries()
        """Other threads' questions about committed state."""
        self._stopping = False
        self._group: Group | None = None
        self._writer: LogWriter | None = None
        self._reader: LogReader | None = None
        self._tasks: dict[int, Task] = {}
        self._opening = Opening(tools, self._clock)
        self._by_partition: dict[TopicPartition, Task] = {}
        self._appended: dict[str, int] = {}
        self._failed: Exception | None = None
        self._last_commit = self._looked = self._gauged = self._ends_at = 0.0
        self._growth = Growth(tools.log, tools.plan, self._clock)
        self._fences = Fences(tools.log, tools.plan, tools.settings.slot)
        self._holding = Holding(self.settings.waiting_rows)
        self._committed: dict[TopicPartition, Committed] = {}
        self._trimming = Trimming(tools.log, tools.plan.app, self._reporter.once)
        self._was_busy = False
        self._aborts = 0

    @property
    def stopping(self) -> bool:
        return self._stopping

    def stop(self) -> None:
        """Ask the worker to commit, give its leases back and end. Safe to call from a signal handler."""
        self._stopping = True

    def run(self) -> None:
        """Work until stopped. Raises what cannot be mended from here."""
        self.start()
        try:
            while not self._stopping:
                self.turn()
            self.leave()
        finally:
            self.close()

    def start(self) -> None:
        """Join the group and fence earlier holders of the slot."""
        slot = self.settings.slot
        self._pulse.beat("joining the group")
        if any(node.outside is not None for node in self.plan.topology.graph.nodes.values()):
            self.log.sync_commits()
        self._group = self.log.group(self.plan.app, slot, len(self.plan.tasks))
        self._reader = self.log.reader()
        self._writer = self.log.writer(self.plan.app, slot)
        self._reporter.joined()
        if self._watchdog is not None:
            self._watchdog.started()

    @property
    def reporter(self) -> Reporter:
        """Counts, and what other threads may read of this worker."""
        return self._reporter

    @property
    def busy(self) -> bool:
        """Something is being restored, was read in the last turn, or waits for the next commit."""
        return (
            self._opening.restoring or self._opening.taking or self._was_busy or any(t.touched for t in self._running())
        )

    @property
    def complete(self) -> bool:
        """Every task of the application runs here."""
        return len(self._running()) == len(self.plan.tasks)

    @property
    def running(self) -> Sequence[Task]:
        """The tasks that have been restored."""
        return self._running()

    def turn(self) -> None:
        """One round of the loop."""
        self._pulse.beat("taking tasks")
        if self._watchdog is not None:
            self._watchdog.turned()
        self._growth.look()
        try:
            self._poll_group()
            self._pulse.doing = "restoring" if self._opening.restoring else "reading and processing"
            self._restore()
            self._was_busy = self._read()
            if self.queries.waiting:
                self.queries.serve(list(self._tasks.values()))
            now = self._clock.monotonic()
            if now - self._looked >= _IDLE_LOOK:
                self._looked = now
                self._look_idle(now)
            if self._commit_due(now):
                self._commit()
            self._check_writer()
            if now - self._gauged >= _GAUGES:
                self._gauged = now
                self._refresh(now)
                self._reporter.gauge(list(self._tasks.values()), self._reader)
            if self._snapshots is not None and self._snapshots.time_to_look(now):
                self._snapshots.look(list(self._tasks.values()), self.metrics)
            self._trimming.look(now, self._running(), self._committed, self._floor)
        except Fenced as error:
            self._fenced(error)
        except SlotTaken:
            raise
        except _MENDED as error:
            self._abort(type(error).__name__, error)

    def _check_writer(self) -> None:
        """After each commit, before anything is appended to the next one.

        A commit that was in doubt may be requested a second time, late: that request would commit whatever is open by
        then. And while it was in doubt another worker may have fenced us and taken a task, which a new writer alone
        would hide: so every lease is taken anew.
        """
        if self._writer is not None and self._writer.suspect:
            raise LogError("the last commit was in doubt for a while")

    # ---- leases

    def _poll_group(self) -> None:
        assert self._group is not None
        self._silences.before(self._clock.monotonic())
        idle = not self._tasks and not self._opening.taking
        given = self._group.poll(self._wait if idle else 0.0, self._on_revoke)
        self._silences.after(self._clock.monotonic())
        if self._failed is not None:
            failed, self._failed = self._failed, None
            raise failed
        self._check_writer()  # tasks may have been given back with a commit
        alone = not self._tasks
        taken = self._opening.take(self._group, given - set(self._tasks), self._wait or _ALONE if alone else 0.0)
        if taken:
            self._open(taken)

    def _open(self, taken: dict[int, Lease]) -> None:
        plan = self.plan
        committed = self.log.committed(plan.app, [tp for number in taken for tp in plan.inputs(plan.tasks[number])])
        for number, lease in taken.items():
            task = self._tasks[number] = Task(plan.tasks[number], lease, self.tools, self._append)
            self._opening.restore(task, task.open(committed))

    def _on_revoke(self, numbers: frozenset[int], lost: bool) -> None:
        """The group takes tasks away: commit and give the leases back, or drop all where they are lost already."""
        mine = [n for n in numbers if n in self._tasks]
        try:
            self._opening.revoke(numbers)
            if not mine:
                return
            if lost:
                raise LogError(
                    "the group does not count this worker as a member any more, and its tasks may be others' now",
                    fix="nothing: what is ours is taken anew",
                )
            self._commit(release=mine)
            for number in mine:
                self._drop(number)
        except Exception as error:
            self._failed = error

    # ---- restoring and reading

    def _restore(self) -> None:
        """Make some steps of the tasks that are restored; those that have come to the end run from now on."""
        assert self._reader is not None
        for task in self._opening.step(self._by_partition):
            if self._snapshots is not None:
                self._snapshots.check(task, task.location)
            self._by_partition.update(dict.fromkeys(task.partitions, task))
            self._reader.assign(self._starts(task))
            self._reporter.restored(task)

    def _starts(self, task: Task) -> dict[TopicPartition, int]:
        """What is read of a task that runs from now on."""
        task.check_sources()
        return task.starts()

    def _look_idle(self, now: float) -> None:
        for task in self._running():
            assert self._reader is not None
            task.look_idle(self._reader.caught_up, now)
            self._holding.look(task, self._reader)

    def _running(self) -> list[Task]:
        return [t for t in self._tasks.values() if t.state is State.RUNNING]

    def _read(self) -> bool:
        """Take records and process them; whether there was something to do. Rows that have waited go on in pieces, so a
        turn takes about the same time, however many there are; and other tasks go on meanwhile."""
        assert self._reader is not None
        touched = {t.id.number: t for t in self._running() if t.release.more}
        wait = 0.0 if touched or self.queries.waiting else self._wait
        if any(t.touched for t in self._running()):  # something waits for the commit
            wait = min(wait, max(0.001, self._until_commit()))
        if self._opening.restoring or self._opening.taking:  # a restore may wait itself, for a download or its location
            wait = min(wait, _RESTORING)
        for records in self._reader.poll(self.settings.poll_records, wait):
            task = self._by_partition[records.source]
            task.ingest(records.source, records)
            touched[task.id.number] = task
        for task in touched.values():
            task.step()
            self._holding.look(task, self._reader)
        return bool(touched)

    # ---- committing

    def _append(self, produced: Produced) -> None:
        assert self._writer is not None
        self._writer.append(produced)
        self._appended[produced.topic] = self._appended.get(produced.topic, 0) + len(produced.values)

    def _refresh(self, now: float) -> None:
        """Let quiet tasks commit now and then: brokers forget a position that nobody has committed for a week
        (`offsets.retention.minutes`), also while the group lives, and a transactional id that nobody has used."""
        for task in self._running():
            if now - task.committed_at >= _REFRESH:
                task.touched = True

    def _until_commit(self) -> float:
        return self._last_commit + self.settings.commit_interval / 1000 - self._clock.monotonic()

    def _commit_due(self, now: float) -> bool:
        running = self._running()
        if not any(t.touched for t in running):
            return False
        if self._until_commit() <= 0 or any(t.chain.unfinished for t in running):
            return True
        assert self._writer is not None
        kept = sum(t.outside.rows + t.chain.letters.count for t in running)
        if self._writer.pending + kept >= self.settings.open_records:
            return True
        return sum(t.overlay_bytes for t in running) >= self.settings.overlay_bytes

    def _commit(self, release: list[int] | None = None, *, drain: bool = True) -> None:
        """One transaction for all tasks that were touched. The steps are those of `protocol.STEPS`. Without `drain` it
        only notes that what the last one has prepared is published; nothing may have been read since.

        1. begin      a commit is due
        2. drained    drain the operators, prepare the sinks outside the log
        3. appended   outputs, shuffle blocks and dead letters are appended
        4. changelog  append each task's changes, the last block with sequence, positions and watermarks
        5. flushed    all of it has reached the log
        6. committed  lease records, positions and the transaction are committed, at once or not at all
        7. applying   each task's overlay goes to its store, with its sequence, in one atomic write
        8. applied    what was prepared is published; so are metrics
        """
        assert self._writer is not None
        releasing = release or []
        self._check_writer()  # leaving and giving tasks back commit twice with no turn in between
        self._pulse.doing = "committing"
        started = self._clock.monotonic()
        touched = [t for t in self._running() if t.touched]
        if not touched and not releasing:
            return
        self._hook("begin")
        for task in touched:
            if drain:
                task.drain(started)
            else:
                task.settle()
            for sink, rows in task.outside.prepared.items():
                self._appended[sink] = self._appended.get(sink, 0) + rows
        self._hook("drained")
        self._hook("appended")
        leases: dict[int, Lease] = {}
        positions: dict[TopicPartition, Committed] = {}
        marks: dict[int, bytes] = {}
        for task in touched:
            lease = task.lease.next()
            offsets, marks[task.id.number] = task.changelog(lease)
            positions.update(offsets)
            leases[task.id.number] = lease
        for number in releasing:
            leases[number] = leases.get(number, self._tasks[number].lease).released()
        ends = self._ends(touched, started)
        self._hook("changelog")
        self._writer.flush()
        self._hook("flushed")
        self._writer.commit(positions, leases)
        self._hook("committed")
        self._committed.update(positions)
        for index, task in enumerate(touched):
            changelog = task.changelog_partition
            offset = ends.get(changelog) if changelog is not None else None
            for operator, first in task.chain.letters.firsts().items():
                self._reporter.once(
                    f"dead {operator}", f"bad records go to {self.plan.dead_letters}: {operator}, first {first}"
                )
            self._reporter.task(task)
            task.applied(leases[task.id.number], marks[task.id.number], offset)
            if index == 0:
                self._hook("applying")
        self._last_commit = self._clock.monotonic()
        spent = self._last_commit - started
        self._reporter.commit(spent, self._appended)
        self._appended = {}
        for task in touched:
            task.outside.publish()
        self._hook("applied")
        self._aborts = 0

    def _ends(self, touched: list[Task], now: float) -> dict[TopicPartition, int]:
        """Now and then: where the changelogs end, so that the next restore need not read from far back.

        Taken before the commit: if the commit succeeds we have held the leases until then, so all that lies below
        these ends is in our stores.
        """
        if now - self._ends_at < _ENDS:
            return {}
        self._ends_at = now
        wanted = [t.changelog_partition for t in touched if t.changelog_partition is not None]
        return self.log.ends(wanted) if wanted else {}

    def _floor(self, task: Task) -> int | None:
        """Below this offset no snapshot that is kept needs the task's changelog; None if that is not known."""
        return self._snapshots.floor(task) if self._snapshots is not None else None

    # ---- when something breaks

    def _fenced(self, error: Fenced) -> None:
        """Begin anew; raise SlotTaken where a second process runs in our slot."""
        now = self._clock.monotonic()
        self._abort("fenced", error)
        self._fences.count(error, now)

    def _abort(self, reason: str, error: Exception) -> None:
        """Drop everything open, get a new writer, and let every lease be taken anew."""
        self._reporter.aborted(reason, error)
        self.tools.note(f"aborted ({reason}): {str(error).splitlines()[0]}; taking the leases anew")
        patience = self._group.patience if self._group is not None else float("inf")
        if hint := self._silences.hint(self._clock.monotonic(), patience, self.settings):
            self.tools.note(hint)
        self._opening.give_up()
        for number in list(self._tasks):
            self._drop(number)
        self._appended, self._committed = {}, {}
        self._trimming.clear()
        self._aborts = 0 if isinstance(error, LogUnreachable) else self._aborts + 1
        if self._aborts > _HOPELESS and not isinstance(error, LocationUnreachable):
            raise error  # the same trouble again and again, with no commit in between
        if self._aborts > 1:
            self._pause(min(5.0, 0.05 * 2.0**self._aborts))
        if self._reader is not None:
            self._reader.close()
        self._reader = self.log.reader()
        self._renew_writer()

    def _pause(self, seconds: float) -> None:
        end = self._clock.monotonic() + seconds
        while self._clock.monotonic() < end and not self._stopping:
            self._pulse.beat("waiting before another try, after an error of the log")
            if self._watchdog is not None:
                self._watchdog.turned()
            self._clock.sleep(0.05)

    def _renew_writer(self) -> None:
        """A new writer settles what is in doubt. While the log cannot be reached, go on trying, until stopped."""
        assert self._group is not None
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        wait = 0.05
        while self._writer is None:
            try:
                self._writer = self.log.writer(self.plan.app, self.settings.slot)
            except SlotTaken:
                raise
            except LogError as error:
                if self._stopping:
                    raise
                self.tools.note(f"{error.what}; trying again in {wait:.2g} s")
                self._pause(wait)
                wait = min(5.0, wait * 2)

    def _drop(self, number: int) -> None:
        task = self._tasks.pop(number)
        self._opening.forget(number)
        mine = [tp for tp in task.partitions if self._by_partition.pop(tp, None) is not None]
        if mine and self._reader is not None:
            self._reader.unassign(mine)
        self._holding.forget(mine)
        if self._snapshots is not None:
            self._snapshots.drop(task)
        task.close()

    def leave(self) -> None:
        """Commit, give the leases back, leave the group."""
        assert self._group is not None
        self.queries.close("the worker is ending")
        self._pulse.beat("committing for the last time, and leaving")
        self._opening.give_up()
        try:
            outside = any(task.outside for task in self._running())
            if outside:
                self._commit()
            self._commit(release=list(self._tasks), drain=not outside)
        except _MENDED as error:
            self.tools.note(
                f"the last commit failed ({str(error).splitlines()[0]}): it is done again at the next start"
            )
        for number in list(self._tasks):
            self._drop(number)
        self._opening.await_given_back()
        self._group.leave()

    def close(self) -> None:
        """Let go of everything; what is uncommitted is forgotten."""
        self.queries.close("the worker has ended")
        if self._watchdog is not None:
            self._watchdog.close()
        self._opening.give_up()
        for number in list(self._tasks):
            self._drop(number)
        for thing in (self._writer, self._reader, self._snapshots):
            if thing is not None:
                thing.close()
