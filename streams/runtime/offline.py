"""State as it lies on disk or in the log, opened to look at: nothing of it is changed, no lease is taken.

A store on disk is looked at in a copy: tables, which RocksDB never changes, are hard links; its log and its manifest,
which it writes at every open, are copied. The store's lock is held while that is done.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from streams import protocol
from streams.checkpoint.location import Location
from streams.checkpoint.restore import Restore
from streams.core.errors import LogError, StateCorrupt, StateError, StateInUse, StateMismatch
from streams.core.record import TopicPartition
from streams.core.topology import TaskId
from streams.log.base import Log
from streams.protocol import Lease
from streams.runtime.plan import Plan
from streams.runtime.position import TaskPosition, goes_on, mark_of
from streams.state.changelog import NotThatHistory, Replay
from streams.state.files import holder_of
from streams.state.rocksdb import RocksStore

_CACHE = 1 << 20
_ANY = 2**62  # no commit is later
_STUCK = 30.0  # seconds without progress of a replay
_GRACE = 5.0  # seconds: Kafka says that a commit is done, and writes its markers then


@dataclass(frozen=True)
class LocalStore:
    """A task's directory under a state directory: which worker slot it is of."""

    task: str
    slot: str
    directory: Path

    @property
    def changed(self) -> float:
        """When its files were written last, seconds since the epoch."""
        return max((f.stat().st_mtime for f in self.directory.iterdir()), default=0.0)


def local_stores(state_dir: Path, app: str, slot: str | None = None) -> list[LocalStore]:
    """The stores on this machine, of one slot or of all."""
    found = []
    root = state_dir / app
    slots = sorted(p for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
    for place in slots:
        if slot is not None and place.name != slot:
            continue
        for directory in sorted(place.iterdir()):
            sub, _, partition = directory.name.partition("-")
            if sub.isdigit() and partition.isdigit() and (directory / "CURRENT").exists():
                found.append(LocalStore(f"{sub}/{partition}", place.name, directory))
    return found


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a store's lock; StateInUse, with the holder's pid, if a worker has it open."""
    if holder_of(directory):  # also if that is this very process, whose lock we would lose by closing the file
        raise _in_use(directory)
    try:
        file = (directory / "LOCK").open("r+b")
    except FileNotFoundError:  # never opened since it was copied here
        yield
        return
    except OSError as error:
        raise StateError(
            f"the store cannot be locked: {error}", where=str(directory), fix="run this as the workers' user"
        ) from None
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise _in_use(directory) from None
        yield


def _in_use(directory: Path) -> StateInUse:
    pid = holder_of(directory)
    return StateInUse(
        f"{f'process {pid}' if pid else 'another process'} has this store open",
        where=str(directory),
        fix="stop that worker; or ask it, if it serves: --http HOST:PORT; or look into the log: --from-changelog",
    )


@contextmanager
def copy_of(directory: Path) -> Iterator[RocksStore]:
    """A copy of a store that nobody has open; the store itself stays as it is, byte for byte.

    Its lock is held while it is copied, and no longer: a worker that is given the task meanwhile would end.
    """
    scratch: Path | None = None
    try:
        with locked(directory):
            try:
                scratch = Path(tempfile.mkdtemp(prefix=".looked-at-", dir=directory.parent))
            except OSError:  # not ours to write to: copied to elsewhere, tables too
                scratch = Path(tempfile.mkdtemp(prefix="streams-state-"))
            copy = scratch / directory.name
            copy.mkdir(mode=0o700)
            for file in directory.iterdir():
                if file.name == "LOCK" or file.name.startswith("LOG") or not file.is_file():
                    continue
                if file.suffix == ".sst":
                    with suppress(OSError):
                        os.link(file, copy / file.name)
                        continue
                shutil.copyfile(file, copy / file.name)
        try:
            store = RocksStore(copy, cache_bytes=_CACHE)
        except StateCorrupt as error:
            raise StateCorrupt(error.what, where=str(directory), fix=error.fix) from error
        try:
            yield store
        finally:
            store.close()
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


@dataclass
class Replayed:
    """A store made from the log alone. `time`: the timestamp of the last block, milliseconds; -1 without any."""

    store: RocksStore
    blocks: int
    time: int
    last_sequence: int
    """Of the changelog's last block; 0 without any."""
    snapshot: int | None
    """The commit of the snapshot that it began with."""


@contextmanager
def replayed(
    log: Log, plan: Plan, task: TaskId, location: Location | None, *, upto: int = 0, least: int = 0
) -> Iterator[Replayed]:
    """The state as the log has it: the newest snapshot that fits, if there is a location, and the changelog behind it.

    A snapshot fits if it is not beyond the lease, and the log goes on from it: brokers may have lost the log's end, and
    snapshots of what was lost lie in the location still. Then an older one is taken, in the end the changelog alone.
    No lease and no group is needed; beside working workers it is the state of some commit. `upto`: go no further than
    this commit (0: to the end). `least`: this commit is known to be done, so it is waited for. Raises what a restore
    raises.
    """
    scratch = Path(tempfile.mkdtemp(prefix="streams-state-"))
    try:
        made = _made(log, plan, task, location, scratch / f"{task.sub}-{task.partition}", upto, least)
        try:
            yield made
        finally:
            made.store.close()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _made(
    log: Log, plan: Plan, task: TaskId, location: Location | None, directory: Path, upto: int, least: int
) -> Replayed:
    changelog = TopicPartition(plan.changelog(task.sub), task.partition)
    topic_id = plan.topics[changelog.topic].id
    lease, note = last_commit(log, plan, task)
    sequence = lease.sequence if lease is not None else 0
    wanted = min(upto or sequence, sequence)
    most = sequence if lease is not None else _ANY
    if upto:  # before the last commit only the commit behind a snapshot tells whether the log goes on from it
        most = min(upto - (upto < sequence), most)
    start, end = log.starts([changelog])[changelog], log.ends([changelog])[changelog]
    passed: NotThatHistory | None = None
    while True:
        snapshot = _download(location, plan.app, directory, most, topic_id, start) if location is not None else None
        store = RocksStore(directory, cache_bytes=_CACHE)
        try:
            made = Replayed(store, 0, -1, store.mark.sequence, snapshot)
            _replay(
                log, changelog, max(start, store.mark.offset), end, made, topic_id, str(task), upto, max(least, wanted)
            )
            if snapshot is not None and lease is not None:
                _check(task, made, wanted, sequence, note)
            return made
        except NotThatHistory as error:
            store.close()
            if snapshot is None:
                raise
            passed, most = passed or error, snapshot - 1
            shutil.rmtree(directory)
        except StateMismatch as error:
            store.close()
            if passed is not None:
                raise passed from error
            raise
        except BaseException:
            store.close()
            raise


def last_commit(log: Log, plan: Plan, task: TaskId) -> tuple[Lease | None, str]:
    """The task's lease, and the note with which its commit was made; "" if that is not known."""
    first = TopicPartition(plan.input_topic(plan.topology.subs[task.sub], 0), task.partition)
    lease = log.leases(plan.app, [task.number])[task.number]
    known = log.committed(plan.app, [first])[first]
    if known is None or log.leases(plan.app, [task.number])[task.number] != lease:
        return lease, ""
    return lease, known.note


def _download(location: Location, app: str, directory: Path, most: int, topic_id: str, start: int) -> int | None:
    """The commit of the snapshot that is in the directory now, if there is one."""
    restore = Restore(location, app, directory.name, directory, max_sequence=most, topic_id=topic_id, min_offset=start)
    found = restore.wait()
    if found.error is not None and start > 0:
        raise found.error
    return found.manifest.sequence if found.manifest is not None else None


def _check(task: TaskId, made: Replayed, wanted: int, sequence: int, note: str) -> None:
    """NotThatHistory if the log does not lead from the snapshot to the commit that is wanted. `sequence` and `note` are
    the last commit's."""
    stands = made.store.mark.sequence
    if stands < wanted:
        try:
            protocol.check_restored(str(task), wanted, made.last_sequence or None, stands)
        except StateMismatch as error:
            raise NotThatHistory(error.what, where=error.where, fix=error.fix) from error
    if stands == sequence and note not in ("", mark_of(made.store.mark.position)):
        raise NotThatHistory(f"commit {stands} of the snapshot is another one than the log's", where=f"task {task}")


def _replay(
    log: Log,
    changelog: TopicPartition,
    start: int,
    end: int,
    made: Replayed,
    topic_id: str,
    task: str,
    upto: int,
    least: int,
) -> None:
    reader = log.reader()
    replay = Replay(made.store, topic_id, trimmed=True, follows=goes_on(made.store.mark.position))
    try:
        reader.assign({changelog: start})
        moved, at = monotonic(), start
        while reader.position(changelog) < end and not (upto and made.store.mark.sequence >= upto):
            got = reader.poll(200 if upto else 5000, 0.1)
            for records in got:
                rows = zip(records.values(), records.offsets(), records.timestamps(), strict=True)
                for value, offset, stamp in rows:
                    if upto and made.store.mark.sequence >= upto:
                        break
                    replay.add(value or b"", offset + 1)
                    if upto:
                        replay.flush()
                    made.blocks, made.time = made.blocks + 1, stamp
            replay.flush()
            done = made.store.mark.sequence >= least or monotonic() - moved > _GRACE
            if not got and reader.caught_up(changelog) and done:
                break  # what is left belongs to a commit that is open
            if reader.position(changelog) > at:
                moved, at = monotonic(), reader.position(changelog)
            elif monotonic() - moved > _STUCK:
                raise LogError(f"the changelog cannot be read on at {at} of {end}", where=str(changelog))
        if replay.first:
            position = TaskPosition.decode(made.store.mark.position)
            protocol.check_whole(task, replay.first, position.tail.base, bool(position.location))
        made.last_sequence = made.store.mark.sequence
    finally:
        reader.close()
