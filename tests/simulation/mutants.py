"""The protocol with one rule left out, each: every one of them must be caught, or the simulation proves nothing."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import Mock, patch

import polars as pl

from streams import protocol
from streams.core.batch import WATERMARK
from streams.core.errors import Fenced, LogError
from streams.core.time import NEVER
from streams.runtime.inputs import Read, TaskInput
from streams.runtime.position import Channel
from streams.runtime.recovery import Recovery
from streams.runtime.release import Release
from streams.runtime.task import Task
from streams.runtime.trimming import Trimming
from streams.runtime.worker import Worker
from streams.state.base import Mark
from streams.state.overlay import CachedMap
from streams.state.rewrite import Rewriting, Tail, chunk
from tests.simulation.cluster import Transaction
from tests.simulation.log import LogRules, SimLog, SimReader, SimWriter
from tests.simulation.schedule import Schedule
from tests.simulation.store import SimStore
from tests.simulation.test_leases import no_second_read, read_before_claim


@dataclass(frozen=True)
class Mutant:
    """What is replaced, by its dotted name or as (object, attribute), and what the log is not asked for."""

    name: str
    changes: Callable[[], list[Any]] = list
    rules: LogRules | None = None
    seed: int = 0
    """One that has caught it, tried first: it would take long to come to it."""

    @contextmanager
    def at_work(self) -> Iterator[None]:
        with ExitStack() as stack:
            for each in self.changes():
                stack.enter_context(each)
            yield


def _patched(owner: Any, name: str, make: Callable[[Any], Any]) -> Any:
    return patch.object(owner, name, make(getattr(owner, name)))


# ---- the commit


def _offsets_first(commit):
    """Positions and leases in a transaction of their own, before the outputs."""

    def mutant(self, positions, leases):
        outputs, cluster = self._opened(), self._log.cluster
        self._transaction = cluster.open[self._name] = Transaction(self._name, self._epoch)
        commit(self, positions, leases)
        self._check()
        self._transaction = cluster.open[self._name] = outputs
        commit(self, {}, {})

    return mutant


def _leases_left_out(commit):
    return lambda self, positions, leases: commit(self, positions, {})


def _doubt_taken_for_success(commit):
    def mutant(self, positions, leases):
        try:
            commit(self, positions, leases)
        except Fenced:
            raise
        except LogError:
            self._transaction = None

    return mutant


def _applied_first(changelog):
    """The store is written before the commit."""

    def mutant(self, lease):
        offsets, raw = changelog(self, lease)
        if self.store is not None:
            self.store.commit(Mark(lease.sequence, self._tools.plan.topics[self._changelog.topic].id, 0, raw))
        return offsets, raw

    return mutant


def _goes_on(self, error):
    """Only the writer is made anew."""
    self._appended = {}
    self._renew_writer()


def _keeps_tasks(self, reason, error):
    self._appended = {}
    self._renew_writer()


def _gives_back_first(revoke):
    """The lease is given back, then the work is committed."""

    def mutant(self, numbers, lost):
        mine = [n for n in numbers if n in self._tasks]
        if mine and not lost and not self._opening.restoring and not self._writer.pending:
            try:
                self._writer.commit({}, {n: self._tasks[n].lease.released() for n in mine})
            except LogError as error:
                self._failed = error
                return
        revoke(self, numbers, lost)

    return mutant


# ---- restoring


def _positions_first(poll):
    """The committed positions of tasks are read before their leases are taken."""

    def mutant(self):
        if not self._opening.taking:
            partitions = [tp for task in self.plan.tasks for tp in self.plan.inputs(task)]
            self._early = self.log.committed(self.plan.app, partitions)
        poll(self)

    return mutant


def _opened_with_those(open_):
    def mutant(self, taken):
        with patch.object(self, "log", Mock(committed=lambda app, partitions: {p: self._early[p] for p in partitions})):
            open_(self, taken)

    return mutant


def _no_replay(run):
    def mutant(self, known):
        self.store = self._open_store()
        if not self.store.mark.sequence:
            self.store.close()
            yield from run(self, known)

    return mutant


def _not_told_again(opened):
    def mutant(self, committed):
        yield from opened(self, committed)
        self.touched = False

    return mutant


def _no_frontier(restore):
    def mutant(self, position):
        restore(self, position)
        self._restored_frontier = NEVER

    return mutant


def _no_channels(restore):
    def mutant(self, position):
        restore(self, position)
        self.channels = {number: Channel() for number in self.channels}

    return mutant


def _no_marks():
    """All commits have one mark."""

    def same(position):
        return "same" if position else ""

    return [patch(f"streams.runtime.{module}.mark_of", same) for module in ("task", "recovery", "position")]


# ---- time


def _late_by_batch(take):
    def mutant(self, records):
        out = []
        for read in take(self, records):
            mark = pl.lit(read.batch.frame[WATERMARK].max(), pl.Int64).alias(WATERMARK)
            out.append(Read(read.batch.with_frame(read.batch.frame.with_columns(mark)), read.channel, read.fresh_from))
        return out

    return mutant


def _guessed_idle(self):
    live = [c.watermark for c in self.channels.values() if not c.idle and c.watermark > NEVER]
    return min(live) if live else None


def _no_resume(self, partitions):
    pass


# ---- the changelog


def _stale_chunk():
    """What is written was read at the commit before."""
    held: dict[int, Any] = {}

    def mutant(store, tail, sequence, end, most):
        if id(store) in held:
            changes, after = held.pop(id(store))
            return changes, after
        changes, after = chunk(store, tail, sequence, end, most)
        held[id(store)] = (changes, after)
        now = tail.rewriting or Rewriting(sequence, end())
        return [], Tail(tail.base, tail.offset, tail.size, now)

    return mutant


def _chunk_of_the_disk(self, name, start, most_bytes):
    """Without what is uncommitted."""
    keys, values, left = [], [], most_bytes
    for key, value in CachedMap(self, name).scan(start):
        if left <= 0 and keys:
            return keys, values, key
        keys.append(key)
        values.append(value)
        left -= len(key) + len(value)
    return keys, values, None


def _trimmed_at_the_start(store, tail, sequence, end, most):
    changes, after = chunk(store, tail, sequence, end, most)
    if after.rewriting is not None:
        now = after.rewriting
        after = Tail(now.start, now.offset, now.size, now)
    return changes, after


def _trims_what_was_read(self, now, tasks, committed, floor):
    before = {
        place: item.next
        for task in tasks
        for place, item in zip(task.partitions, task.inputs, strict=True)
        if item.source is None
    }
    if before:
        self._log.trim(before)


def _power_losses(share: float) -> Any:
    """More of them: of the mutants that need one, few would be caught otherwise."""
    return patch.object(Schedule, "losses", share)


MUTANTS = [
    Mutant(
        "an input that was held back is not read on", lambda: [patch.object(SimReader, "resume", _no_resume)], seed=4
    ),
    Mutant("offsets before outputs", lambda: [_patched(SimWriter, "commit", _offsets_first)]),
    Mutant("the lease record is not part of the commit", lambda: [_patched(SimWriter, "commit", _leases_left_out)]),
    Mutant(
        "a commit in doubt counts as done", lambda: [_patched(SimWriter, "commit", _doubt_taken_for_success)], seed=12
    ),
    Mutant(  # with the marks a store that was written too early is found when it is opened
        "apply before commit, and no marks of commits",
        lambda: [
            _patched(Task, "changelog", _applied_first),
            *_no_marks(),
        ],
        seed=226,
    ),
    Mutant(  # three checks refuse it
        "a store ahead is taken as valid",
        lambda: [
            _patched(Task, "changelog", _applied_first),
            patch.object(protocol, "local_state_usable", lambda **known: True),
            patch.object(protocol, "check_restored", lambda *known: None),
            *_no_marks(),
        ],
    ),
    Mutant(
        "no new writer after a commit in doubt",
        lambda: [patch.object(Worker, "_check_writer", lambda self: None)],
        seed=4,
    ),
    Mutant(
        "a store of a lost history is taken as valid",
        lambda: [*_no_marks(), _power_losses(0.3)],
        seed=1124,
    ),
    Mutant("no fencing of the holder", rules=LogRules(no_fencing=True)),
    Mutant("no claim id", rules=LogRules(no_claim_id=True)),
    Mutant("read before the claim id", lambda: [patch("streams.runtime.leases.take", read_before_claim)]),
    Mutant("no second read", lambda: [patch("streams.runtime.leases.take", no_second_read)]),
    Mutant("going on after being fenced", lambda: [patch.object(Worker, "_fenced", _goes_on)]),
    Mutant("no reopening after an abort", lambda: [patch.object(Worker, "_abort", _keeps_tasks)]),
    Mutant(
        "the lease is given back before the last commit", lambda: [_patched(Worker, "_on_revoke", _gives_back_first)]
    ),
    Mutant(
        "a restore does not wait for the changelog's end",
        lambda: [
            patch.object(SimReader, "position", lambda self, partition: 10**9),
            patch.object(protocol, "check_restored", lambda *known: None),
        ],
        seed=1479,
    ),
    Mutant(
        "wrong restore order: the positions are read before the lease is taken",
        lambda: [_patched(Worker, "_poll_group", _positions_first), _patched(Worker, "_open", _opened_with_those)],
        seed=65,
    ),
    Mutant("a local store is used without the changelog's tail", lambda: [_patched(Recovery, "run", _no_replay)]),
    Mutant(
        "a restarted task does not tell its shuffles again", lambda: [_patched(Task, "open", _not_told_again)], seed=29
    ),
    Mutant("the frontier is not restored", lambda: [_patched(Release, "restore", _no_frontier)]),
    Mutant(
        "the channels' watermarks are not restored", lambda: [_patched(TaskInput, "restore", _no_channels)], seed=70
    ),
    Mutant("lateness by batch", lambda: [_patched(TaskInput, "_take_source", _late_by_batch)]),
    Mutant("idleness guessed downstream", lambda: [patch.object(TaskInput, "watermark", property(_guessed_idle))]),
    Mutant(
        "idleness told before all rows have gone on",
        lambda: [patch.object(Task, "_unfinished", False)],
    ),
    Mutant("a stale rewrite chunk", lambda: [patch("streams.runtime.task.chunk", _stale_chunk())]),
    Mutant(
        "a rewrite chunk without what is uncommitted", lambda: [patch.object(SimStore, "entries", _chunk_of_the_disk)]
    ),
    Mutant(
        "the changelog is trimmed when its rewriting begins",
        lambda: [patch("streams.runtime.task.chunk", _trimmed_at_the_start)],
        seed=2,
    ),
    Mutant(
        "what is not needed is deleted at once",
        lambda: [
            patch.object(SimLog, "settled_after", 0.0),
            patch.object(Schedule, "trims", 0.0),
            _power_losses(0.12),
        ],
        seed=158,
    ),
    Mutant(
        "shuffle blocks are trimmed when they are read", lambda: [patch.object(Trimming, "look", _trims_what_was_read)]
    ),
]
