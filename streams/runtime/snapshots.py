"""When a task's store is copied to the checkpoint location, and how it comes back from there.

A snapshot of a task, none of it waited for by the worker's thread:

1. flush     aside: what is committed goes into tables, again where a commit came in between
2. copy      between two turns, at once, so that nothing is left to be flushed: hard links of the store's files, which
             stand at the last commit
3. verify    aside, the first time after a task was opened: its files may have been damaged while nobody ran
4. upload    aside: files that the location lacks, then the manifest; every few hours, a sweep of what is needed no more
5. trim      with the next look: the changelog is not needed below the oldest snapshot that is kept
"""

import logging
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from streams.checkpoint.identity import Identity
from streams.checkpoint.location import Location
from streams.checkpoint.restore import Restore
from streams.checkpoint.snapshotter import Job, Outcome, Snapshotter
from streams.core.clock import Clock
from streams.core.errors import CheckpointError, LocationUnreachable, StateCorrupt, StateError
from streams.core.topology import TaskId
from streams.core.wording import counted, size
from streams.metrics import Metrics
from streams.runtime.notes import Note
from streams.runtime.progress import Progress
from streams.runtime.task import State, Task
from streams.state.base import StateStore

_LOOK = 1.0  # seconds at most between two looks
_TELL = 10.0  # seconds between two lines about an upload that takes long
_ASK = 5.0  # seconds from one question to a location that does not answer to the next one
_FLUSHES = 4  # aside, until no commit comes between the flush and the copy
_PUT_OFF = 20  # times that a snapshot is put off by a tenth of the interval, while compactions are behind


@dataclass
class _Opening:
    """A task since it was opened here, at commit `at`; `name` tells it from other openings.

    `due`: when the next snapshot is; `flushes`: for this one; `put_off`: how often it was; `verified`: the store's
    files were read whole; `done`: the commit of the last snapshot; `floor`: where the changelog is needed from;
    `foreign`: manifests of another history, seen when the task stood at `seen_at`; `deleting`: how many of them are
    being deleted.
    """

    name: str
    at: int
    due: float
    flushes: int = 0
    put_off: int = 0
    verified: bool = False
    done: int = -1
    floor: int | None = None
    foreign: Sequence[str] = ()
    seen_at: int = 0
    deleting: tuple[int, Future[None]] | None = None
    flushing: Future[None] | None = None


class Snapshots:
    """The snapshots of one worker's tasks. Used by the worker's thread; no call waits for the location.

    `interval`: seconds from one snapshot of a task to the next one. `kept`: the file for a copy of the location's token
    (`Identity`); every position that is committed names the token, so that workers with different locations are found.
    """

    def __init__(
        self,
        location: Location,
        app: str,
        fingerprint: str,
        scratch: Path,
        kept: Path,
        clock: Clock,
        note: Note,
        *,
        interval: float,
        keep: int,
        bytes_per_second: int = 0,
        durable_after: float = 0.0,
    ) -> None:
        self._identity = Identity(location, app, kept)
        self._asked = clock.monotonic()
        self._location, self._app, self._fingerprint = location, app, fingerprint
        self._scratch, self._clock, self._note, self._interval = scratch, clock, note, interval
        self._snapshotter = Snapshotter(
            location, app, keep=keep, bytes_per_second=bytes_per_second, clock=clock, durable_after=durable_after
        )
        self._looked = -_LOOK
        self._openings: dict[str, _Opening] = {}
        self._under_way: dict[str, _Opening] = {}  # of which opening the job is that was submitted
        self._made_from: dict[
            str, tuple[int, str]
        ] = {}  # which snapshot a store was restored from here, until verified
        self._doubted: dict[str, set[tuple[int, str]]] = {}
        self._again: dict[str, frozenset[str]] = {}
        self._uploads: dict[str, Progress] = {}
        self._told = ""
        self._told_strange = False
        shutil.rmtree(scratch, ignore_errors=True)  # copies that a killed worker has left
        if not self._identity.confirmed:
            why = self._told = self._identity.error.what if self._identity.error is not None else "it is slow"
            note(f"no answer from the checkpoint location: {why}; what is local is used, and snapshots wait")

    def token(self) -> str:
        """What commits name; empty as long as the location has not confirmed it."""
        return self._identity.token if self._identity.confirmed else ""

    def time_to_look(self, now: float) -> bool:
        """A tenth of the interval has passed, or a second; or a store was flushed aside, and is copied at once."""
        return now - self._looked >= min(_LOOK, self._interval / 10) or any(
            opening.flushing is not None and opening.flushing.done() for opening in self._openings.values()
        )

    def look(self, tasks: Sequence[Task], metrics: Metrics) -> None:
        """Take what has become of snapshots, and go on with those that are due."""
        outcomes = self._snapshotter.poll()
        sequences = {str(t.id): t.lease.sequence for t in tasks} if outcomes else {}
        damaged: dict[str, StateCorrupt] = {}
        for outcome in outcomes:
            same = self._take(outcome, sequences, metrics)
            if same and isinstance(outcome.error, StateCorrupt):
                damaged[outcome.task.replace("-", "/")] = outcome.error
        self._tell_uploads(metrics)
        self._condemn(damaged, tasks)
        now = self._looked = self._clock.monotonic()
        if not self._known(tasks, now):
            return
        running = {str(t.id): t for t in tasks if t.state is State.RUNNING and t.store is not None}
        for name, task in running.items():
            assert task.store is not None
            if name not in self._openings:
                # The first one at a random time within the interval: tasks do not all upload at once.
                first = now + self._interval * secrets.randbelow(1000) / 1000
                self._openings[name] = _Opening(secrets.token_hex(4), task.opened_at, first)
            opening = self._openings[name]
            self._delete_foreign(name, task, opening)
            if opening.flushing is not None:
                if opening.flushing.done():
                    self._copy(name, task, opening, metrics)
            elif now >= opening.due:
                if task.store.mark.sequence == opening.done or self._snapshotter.busy(name_of(task.id)):
                    continue
                if not self._put_off(task.store, opening):
                    self._flush(task.store, opening)

    def _flush(self, store: StateStore, opening: _Opening) -> None:
        opening.flushes += 1
        opening.flushing = self._snapshotter.flush(store.flush)

    def _put_off(self, store: StateStore, opening: _Opening) -> bool:
        """Not now: a flush would wait for compactions, and whoever closes the store for the flush."""
        if store.calm or opening.put_off >= _PUT_OFF:
            return False
        opening.put_off += 1
        opening.due = self._clock.monotonic() + self._interval / 10
        return True

    def _tell_uploads(self, metrics: Metrics) -> None:
        under_way = self._snapshotter.progress()
        metrics.snapshot_left_bytes.set(sum(whole - done for done, whole in under_way.values()))
        self._uploads = {name: progress for name, progress in self._uploads.items() if name in under_way}
        for name, (done, whole) in under_way.items():
            if name not in self._uploads:
                self._uploads[name] = self._telling(name.replace("-", "/"), "uploading a snapshot", _TELL)
            if whole:
                self._uploads[name].at(done, whole, done)

    def _telling(self, task: str, what: str, every: float | None = None) -> Progress:
        return Progress(
            what, lambda text: self._note(f"task {task}: {text}", logging.INFO, task=task), self._clock, every
        )

    def _known(self, tasks: Sequence[Task], now: float) -> bool:
        """Whether the location is known to be the one that was used before; only then are snapshots made."""
        if self._identity.confirmed:
            return True
        if self._identity.confirm():
            self._note("the checkpoint location answers: snapshots are made again", logging.INFO)
            for task in tasks:
                if task.state is State.RUNNING:
                    self.check(task, task.location)
        elif now - self._asked >= _ASK:
            self._asked = now
            self._tell_why()
            self._identity.ask_again()
        return self._identity.confirmed

    def _tell_why(self) -> None:
        """That the location still does not answer, where the reason is another one than was told."""
        error = self._identity.error
        if error is not None and error.what != self._told:
            self._told = error.what
            self._note(f"still no answer from the checkpoint location, and snapshots wait: {error}")

    def _condemn(self, damaged: Mapping[str, StateCorrupt], tasks: Sequence[Task]) -> None:
        """The copies are damaged, so their stores are, too: they are made anew, from snapshots that are whole."""
        found = [(task.store, damaged[str(task.id)]) for task in tasks if task.store and str(task.id) in damaged]
        for raised, error in [(store.condemn(error.what), error) for store, error in found]:
            raise raised from error  # one for all: every task is opened again

    def _delete_foreign(self, name: str, task: Task, opening: "_Opening") -> None:
        """We have committed under our lease since these manifests were seen, so nobody has held the task meanwhile, and
        they cannot be of another worker of this log: it has lost their commits."""
        if opening.deleting is not None and opening.deleting[1].done():
            (count, deleted), opening.deleting = opening.deleting, None
            if deleted.exception() is None:  # else they are seen again with the next snapshot
                self._note(f"task {name}: {counted(count, 'snapshot')} of commits that the log does not have deleted")
        if opening.foreign and opening.deleting is None and task.lease.sequence > opening.seen_at:
            opening.deleting = len(opening.foreign), self._snapshotter.delete(opening.foreign)
            opening.foreign = ()

    def _copy(self, name: str, task: Task, opening: "_Opening", metrics: Metrics) -> None:
        assert task.store is not None and opening.flushing is not None
        flushed, opening.flushing = opening.flushing, None
        unflushed = task.store.unflushed
        if unflushed and opening.flushes < _FLUSHES:
            self._flush(task.store, opening)
            return
        opening.flushes = 0
        if unflushed and self._put_off(task.store, opening):
            return
        opening.put_off = 0
        opening.due = self._clock.monotonic() + self._interval
        directory = self._scratch / f"{name_of(task.id)}-{secrets.token_hex(4)}"
        try:
            flushed.result()
            begun = self._clock.monotonic()
            task.store.snapshot(directory)
            metrics.snapshot_copy_seconds.observe(self._clock.monotonic() - begun)
        except StateError as error:
            self._note(f"task {name}: no snapshot now: {error.what}")
            return
        job = Job(
            name_of(task.id),
            directory,
            task.store.mark,
            self._fingerprint,
            again=self._again.pop(name, ()),
            # What this process has written since is trusted: reading all of it for each snapshot would cost too much.
            verify=None if opening.verified else task.store.verify,
            opened=opening.at,
            writer=opening.name,
        )
        if self._snapshotter.submit(job):
            self._under_way[name] = opening

    def _take(self, outcome: Outcome, sequences: Mapping[str, int], metrics: Metrics) -> bool:
        """`sequences`: the tasks' last commits. False if the task was closed since the copy, and perhaps opened again,
        with another store."""
        task = outcome.task.replace("-", "/")
        opening = self._under_way.pop(task, None)
        same = opening is not None and opening is self._openings.get(task)
        if outcome.error is not None:
            metrics.snapshots.labels("failed").inc()
            self._note(f"task {task}: the snapshot failed: {outcome.error}")
        elif outcome.number is None:
            metrics.snapshots.labels("abandoned").inc()
        else:
            metrics.snapshots.labels("done").inc()
            metrics.snapshot_seconds.observe(outcome.seconds)
            metrics.snapshot_bytes.inc(outcome.uploaded)
            metrics.snapshot_time.labels(task).set(self._clock.now() / 1000)
            self._note(
                f"task {task}: snapshot {outcome.number} at commit {outcome.mark.sequence}: {outcome.uploaded:,} bytes "
                f"uploaded of {outcome.size:,} in {outcome.seconds:.1f} s",
                logging.INFO,
                task=task,
            )
            if outcome.strange and not self._told_strange:
                self._told_strange = True
                self._note(
                    f"task {task}: {counted(outcome.strange, 'snapshot')} of another changelog topic kept beside its "
                    "own: if an application of the same name on another log uses this checkpoint location, give it one "
                    "of its own; if they were left by a reset, they only take space"
                )
            if opening is not None and same:
                self._made_from.pop(task, None)
                self._doubted.pop(task, None)
                opening.done, opening.verified = outcome.mark.sequence, True
                opening.floor = outcome.trim if outcome.trim is not None else opening.floor
                opening.foreign, opening.seen_at = outcome.foreign, sequences.get(task, 0)
        self._take_sweep(task, outcome, metrics)
        return same

    def _take_sweep(self, task: str, outcome: Outcome, metrics: Metrics) -> None:
        found, why = outcome.swept, ""
        if outcome.sweep_error is not None:
            why = str(outcome.sweep_error)
        elif found is not None:
            why = found.problem
            if found.deleted:
                self._note(
                    f"task {task}: {counted(found.deleted, 'object')} ({size(found.bytes)}) that no snapshot needs any "
                    f"more deleted, {found.kept:,} kept",
                    logging.INFO,
                    task=task,
                )
        if why:
            metrics.snapshot_sweeps.labels("failed").inc()
            self._note(f"task {task}: old objects of snapshots were not deleted, which is tried again in hours: {why}")
        elif found is not None:
            metrics.snapshot_sweeps.labels("done").inc()
        if found is not None:
            metrics.snapshot_swept_bytes.inc(found.bytes)

    def corrupted(self, id: TaskId) -> None:
        """The task's store is damaged. The snapshot that it was made from, unless verified since, is doubted: its
        files are as they were uploaded, but may have been damaged before. Others are tried first."""
        made_from = self._made_from.pop(str(id), None)
        if made_from is not None:
            self._doubted.setdefault(str(id), set()).add(made_from)

    def floor(self, task: Task) -> int | None:
        """The changelog's offset below which no snapshot that is kept needs it; None if that is not known."""
        opening = self._openings.get(str(task.id))
        return opening.floor if opening is not None else None

    def drop(self, task: Task) -> None:
        """The task is closed here: its job is given up."""
        self._openings.pop(str(task.id), None)
        self._snapshotter.abandon(name_of(task.id))

    def restore(self, id: TaskId, directory: Path, topic_id: str, start: int, most: int) -> Iterator[None]:
        """Bring the newest snapshot that fits, of commit `most` or before, into `directory`; yields until it is there,
        or none is.

        While the location does not answer, and the changelog alone would not do, it is asked again and again. Raises
        CheckpointError if waiting does not help.
        """
        while True:
            restore = Restore(
                self._location,
                self._app,
                name_of(id),
                directory,
                max_sequence=most,
                topic_id=topic_id,
                min_offset=start,
                doubted=self._doubted.get(str(id), ()),
            )
            try:
                yield from self._progress(id, restore)
            finally:
                restore.close()
            result = restore.wait()
            for text in result.notes:
                self._note(f"task {id}: {text}")
            if result.manifest is not None:
                self._made_from[str(id)] = result.manifest.number, result.manifest.writer
            if result.damaged:
                self._again[str(id)] = result.damaged
            if result.error is None:
                return
            if start == 0:
                self._note(f"task {id}: the changelog is replayed from its start, since {result.error.what}")
                return
            if not isinstance(result.error, LocationUnreachable):
                raise result.error
            self._note(f"task {id}: it waits for its snapshot: {result.error.what}")
            again = self._clock.monotonic() + _ASK
            while self._clock.monotonic() < again:
                yield

    def _progress(self, id: TaskId, restore: Restore) -> Iterator[None]:
        progress = self._telling(str(id), "restoring a snapshot")
        while restore.poll() is None:
            done, whole = restore.progress
            progress.at(done, whole, done)
            yield

    def check(self, task: Task, named: str) -> None:
        """`named`: the token of the location that the task's last commit names; another one than ours is refused."""
        if named not in ("", self._identity.token):
            if not self._identity.confirmed:
                raise LocationUnreachable(
                    f"the checkpoint location has not told yet whether it is the one of task {task.id}",
                    where=self._location.url,
                    fix="nothing is lost and it is tried again; check network and endpoint if it lasts",
                )
            raise CheckpointError(
                f"this checkpoint location is not the one that task {task.id} was last run with",
                where=self._location.url,
                fix="give all workers the same location; to move it, stop the workers and copy all of the old one, the "
                "token included, to the new one",
            )

    def close(self) -> None:
        """Give up what is under way."""
        self._snapshotter.close()
        shutil.rmtree(self._scratch, ignore_errors=True)


def name_of(id: TaskId) -> str:
    """The task's name in the location."""
    return f"{id.sub}-{id.partition}"
