"""State as the log has it, made to look at: no lease is taken, nothing of the log is changed.

a snapshot, the newest that fits -> the changelog's tail
    -> else an older one, in the end none -> the whole changelog

This is the way of `Recovery`, without a lease to hold on to and with nothing else to do meanwhile.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from streams import protocol
from streams.checkpoint.location import Location
from streams.checkpoint.restore import Restore
from streams.core.errors import LogError, StateCorrupt, StateMismatch, StreamsError
from streams.core.record import TopicPartition
from streams.core.topology import TaskId
from streams.log.base import Log
from streams.protocol import Lease
from streams.runtime.plan import Plan
from streams.runtime.position import TaskPosition, goes_on, mark_of
from streams.state.changelog import NotThatHistory, Replay
from streams.state.rocksdb import RocksStore

_CACHE = 1 << 20
_ANY = 2**62  # no commit is later
_STUCK = 30.0  # seconds without progress of a replay
_GRACE = 5.0  # seconds: Kafka says that a commit is done, and writes its markers then


@dataclass
class Replayed:
    """A store made from the log. `time`: the timestamp of the last block, milliseconds; -1 without any."""

    store: RocksStore
    blocks: int
    time: int
    snapshot: int | None
    """The commit of the snapshot that it began with."""

    @property
    def sequence(self) -> int:
        """The last commit that is in it."""
        return self.store.mark.sequence


@contextmanager
def replayed(
    log: Log, plan: Plan, task: TaskId, location: Location | None, *, upto: int = 0, least: int = 0
) -> Iterator[Replayed]:
    """The task's state, in a directory that is deleted in the end; see `replay_into`."""
    scratch = Path(tempfile.mkdtemp(prefix="streams-state-"))
    try:
        directory = scratch / f"{task.sub}-{task.partition}"
        made = replay_into(directory, log, plan, task, location, upto=upto, least=least)
        try:
            yield made
        finally:
            made.store.close()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def replay_into(
    directory: Path,
    log: Log,
    plan: Plan,
    task: TaskId,
    location: Location | None,
    *,
    upto: int = 0,
    least: int = 0,
    note: Callable[[str], None] = lambda text: None,
) -> Replayed:
    """The task's state in `directory`, which must not exist: a snapshot, if there is a location, and the changelog.

    A snapshot fits if it is not beyond the lease, and the log goes on from it: brokers may have lost the log's end, and
    snapshots of what was lost lie in the location still. Beside working workers it is the state of some commit.

    - `upto`: go no further than this commit (0: to the end).
    - `least`: this commit is known to be done, so it is waited for.
    - `note`: is told what was passed over and why.

    Raises StateMismatch if the log does not lead to the lease's commit, CheckpointError if the location cannot be read
    and the changelog alone will not do, LogError if the log cannot be read.
    """
    return _Replaying(directory, log, plan, task, upto, least).run(location, note)


def follow(directory: Path, log: Log, plan: Plan, task: TaskId) -> Replayed:
    """A copy of a store, in `directory`, brought to what is committed now. NotThatHistory if the log does not lead from
    where it stands to there."""
    replaying = _Replaying(directory, log, plan, task, 0, 0)
    return replaying.attempt(RocksStore(directory, cache_bytes=_CACHE), None)


def last_commit(log: Log, plan: Plan, task: TaskId) -> tuple[Lease | None, str]:
    """The task's lease, and the note with which its commit was made; "" if that is not known."""
    first = plan.inputs(task)[0]
    lease = log.leases(plan.app, [task.number])[task.number]
    known = log.committed(plan.app, [first])[first]
    if known is None or log.leases(plan.app, [task.number])[task.number] != lease:
        return lease, ""
    return lease, known.note


class _Replaying:
    """What is committed of one task, as seen at the beginning, and the ways to a store of it."""

    def __init__(self, directory: Path, log: Log, plan: Plan, task: TaskId, upto: int, least: int) -> None:
        self._directory, self._log, self._app, self._task, self._upto = directory, log, plan.app, task, upto
        self._changelog = TopicPartition(plan.changelog(task.sub), task.partition)
        self._topic_id = plan.topics[self._changelog.topic].id
        self._lease, self._note = last_commit(log, plan, task)
        self._sequence = self._lease.sequence if self._lease is not None else 0
        self._wanted = min(upto or self._sequence, self._sequence)
        self._least = max(least, self._wanted)
        self._start = log.starts([self._changelog])[self._changelog]
        self._end = log.ends([self._changelog])[self._changelog]

    def run(self, location: Location | None, note: Callable[[str], None]) -> Replayed:
        most = self._sequence if self._lease is not None else _ANY
        if self._upto:  # before the last commit only the one behind a snapshot tells whether the log goes on from it
            most = min(self._upto - (self._upto < self._sequence), most)
        passed: StreamsError | None = None
        while True:
            snapshot = self._download(location, most, note) if location is not None else None
            try:
                return self.attempt(RocksStore(self._directory, cache_bytes=_CACHE), snapshot)
            except (NotThatHistory, StateCorrupt) as error:
                if snapshot is None:
                    raise
                note(f"the snapshot at commit {snapshot} does not fit the log: {error.what}; an older one is taken")
                passed, most = passed or error, snapshot - 1
                shutil.rmtree(self._directory)
            except StateMismatch as error:
                if passed is not None:
                    raise passed from error
                raise

    def attempt(self, store: RocksStore, snapshot: int | None) -> Replayed:
        """Bring `store` forward; it is closed if that fails. `snapshot`: its commit, if it is one of a snapshot."""
        made = Replayed(store, 0, -1, snapshot)
        found = store.mark.sequence
        try:
            self._replay(made)
            if found and self._lease is not None:
                self._check(made, found)
            return made
        except BaseException:
            store.close()
            raise

    def _download(self, location: Location, most: int, note: Callable[[str], None]) -> int | None:
        """The commit of the snapshot that is in the directory now, if there is one."""
        restore = Restore(
            location,
            self._app,
            f"{self._task.sub}-{self._task.partition}",
            self._directory,
            max_sequence=most,
            topic_id=self._topic_id,
            min_offset=self._start,
        )
        try:
            found = restore.wait()
        finally:
            restore.close()
        for text in found.notes:
            note(text)
        if found.error is not None:
            if self._start > 0:
                raise found.error
            note(f"{found.error}; the whole changelog is read instead")
        return found.manifest.sequence if found.manifest is not None else None

    def _replay(self, made: Replayed) -> None:
        if self._end <= self._start:
            return
        reader, store, upto = self._log.reader(), made.store, self._upto
        replay = Replay(store, self._topic_id, trimmed=True, follows=goes_on(store.mark.position))
        start = store.mark.offset if store.mark.topic_id == self._topic_id else 0
        try:
            at = max(start, self._start)
            reader.assign({self._changelog: at})
            moved = monotonic()
            while reader.position(self._changelog) < self._end and not (upto and made.sequence >= upto):
                got = reader.poll(200 if upto else 5000, 0.1)
                for records in got:
                    rows = zip(records.values(), records.offsets(), records.timestamps(), strict=True)
                    for value, offset, stamp in rows:
                        if upto and made.sequence >= upto:
                            break
                        replay.add(value or b"", offset + 1)
                        if upto:
                            replay.flush()
                        made.blocks, made.time = made.blocks + 1, stamp
                replay.flush()
                done = made.sequence >= self._least or monotonic() - moved > _GRACE
                if not got and reader.caught_up(self._changelog) and done:
                    break  # what is left belongs to a commit that is open
                if reader.position(self._changelog) > at:
                    moved, at = monotonic(), reader.position(self._changelog)
                elif monotonic() - moved > _STUCK:
                    raise LogError(
                        f"the changelog cannot be read on at {at} of {self._end}", where=str(self._changelog)
                    )
            if replay.first:
                position = TaskPosition.decode(store.mark.position)
                protocol.check_whole(str(self._task), replay.first, position.tail.base, bool(position.location))
        finally:
            reader.close()

    def _check(self, made: Replayed, found: int) -> None:
        """NotThatHistory if the log does not lead from commit `found`, with which the store began, to the one that is
        wanted."""
        stands = made.sequence
        if found > self._sequence:
            what = f"the store stands at commit {found}, which the log does not have (it is at {self._sequence})"
            raise NotThatHistory(what, where=f"task {self._task}")
        if stands < self._wanted:
            try:
                protocol.check_restored(str(self._task), self._wanted, stands or None, stands)
            except StateMismatch as error:
                raise NotThatHistory(error.what, where=error.where, fix=error.fix) from error
        if stands == self._sequence and self._note not in ("", mark_of(made.store.mark.position)):
            what = f"commit {stands} of the store is another one than the log's"
            raise NotThatHistory(what, where=f"task {self._task}")
