"""State as it lies on disk or in the log, opened to look at: nothing of it is changed, no lease is taken.

A store on disk is looked at in a copy: tables, which RocksDB never changes, are hard links; its log and its manifest,
which it writes at every open, are copied. The store's lock is held meanwhile, so no worker can open it.
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
from streams.core.errors import LogError, StateCorrupt, StateError, StateInUse
from streams.core.record import TopicPartition
from streams.core.topology import TaskId
from streams.log.base import Log
from streams.runtime.plan import Plan
from streams.runtime.position import TaskPosition
from streams.state.changelog import Replay
from streams.state.files import holder_of
from streams.state.rocksdb import RocksStore

_CACHE = 1 << 20
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
    """A copy of a store that nobody has open; the store itself stays as it is, byte for byte."""
    with locked(directory):
        try:
            scratch = Path(tempfile.mkdtemp(prefix=".looked-at-", dir=directory.parent))
        except OSError:  # not ours to write to: copied to elsewhere, tables too
            scratch = Path(tempfile.mkdtemp(prefix="streams-state-"))
        copy = scratch / directory.name
        try:
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

    No lease and no group is needed; beside working workers it is the state of some commit. `upto`: go no further than
    this commit (0: to the end). `least`: this commit is known to be done, so it is waited for. Raises what a restore
    raises.
    """
    changelog = TopicPartition(plan.changelog(task.sub), task.partition)
    scratch = Path(tempfile.mkdtemp(prefix="streams-state-"))
    directory = scratch / f"{task.sub}-{task.partition}"
    try:
        topic_id = plan.topics[changelog.topic].id
        start, end = log.starts([changelog])[changelog], log.ends([changelog])[changelog]
        snapshot = None
        if location is not None:
            restore = Restore(
                location,
                plan.app,
                directory.name,
                directory,
                max_sequence=upto or 2**62,
                topic_id=topic_id,
                min_offset=start,
            )
            found = restore.wait()
            if found.error is not None and start > 0:
                raise found.error
            snapshot = found.manifest.sequence if found.manifest is not None else None
        store = RocksStore(directory, cache_bytes=_CACHE)
        try:
            made = Replayed(store, 0, -1, store.mark.sequence, snapshot)
            _replay(log, changelog, max(start, store.mark.offset), end, made, topic_id, str(task), upto, least)
            yield made
        finally:
            store.close()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


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
    reader, replay = log.reader(), Replay(made.store, topic_id, trimmed=True)
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
            tail = TaskPosition.decode(made.store.mark.position).tail
            protocol.check_whole(task, replay.first, tail.base)
        made.last_sequence = made.store.mark.sequence
    finally:
        reader.close()
