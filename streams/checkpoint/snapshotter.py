"""Snapshots in the background: a worker's thread hands over a copy of a store, this thread uploads it."""

import queue
import secrets
import shutil
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

from msgspec import structs

from streams.checkpoint.location import CHUNK, Location, Stored
from streams.checkpoint.manifest import (
    OBJECT,
    File,
    History,
    Manifest,
    encode,
    list_manifests,
    load,
    manifest_key,
    object_key,
    place,
    stored,
)
from streams.checkpoint.sweep import LONGEST, SWEEP, Collected, Sweeper
from streams.core.clock import Clock, SystemClock
from streams.core.errors import CheckpointError, StreamsError
from streams.state.base import Mark

_YOUNG = 3600.0
_ATTEMPTS = 5


@dataclass(frozen=True)
class Job:
    """A copy of a task's store that is to be uploaded, then deleted.

    `directory`: what `StateStore.snapshot` made; `again`: hashes of objects that a restore found damaged, uploaded even
    if they are there; `name`: makes it a savepoint; `verify`: reads the copy before anything else and raises if it is
    damaged (`StateStore.verify`); `opened`: the commit at which the task was opened; `writer`: names that opening.
    """

    task: str
    directory: Path
    mark: Mark
    fingerprint: str
    store_format: int = 1
    name: str = ""
    again: Collection[str] = ()
    verify: Callable[[Path, Callable[[], None]], None] | None = None
    opened: int = 1 << 62
    writer: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of a job. `number` is None if there is no manifest; then `error` says why, or it was abandoned.

    `trim`: the offset before which the snapshots kept (savepoints apart) do not need the changelog; None while there
    are fewer than `keep`.
    `foreign`: keys of manifests of another history (see `manifest.History`), which are left alone here; `strange`: how
    many there are of another changelog topic, which are left alone by everybody.
    `uploaded` and `size`: bytes sent, and of the whole snapshot; `seconds`: from the submit on.
    `swept`: what was deleted after it, None if no sweep was due, or it failed; then `sweep_error` says why.
    """

    task: str
    mark: Mark
    number: int | None
    trim: int | None = None
    foreign: tuple[str, ...] = ()
    strange: int = 0
    error: StreamsError | None = None
    uploaded: int = 0
    files: int = 0
    size: int = 0
    seconds: float = 0.0
    swept: Collected | None = None
    sweep_error: StreamsError | None = None


class Abandoned(Exception):
    """The job is not wanted any more."""


class _BaseGone(Exception):
    """Another writer was faster: begin again from the newest manifest."""


@dataclass
class _Run:
    """A job under way. `started`: on the clock that never goes back, and on the wall's, in milliseconds; `written`: the
    objects that it has uploaded; `offered`: others may have seen a manifest of it; `objects`: what was there before,
    with its age when the base was written."""

    job: Job
    started: float
    started_at: int
    written: set[str] = field(default_factory=set)
    offered: bool = False
    foreign: tuple[str, ...] = ()
    strange: int = 0
    objects: list[Stored] | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    done: int = 0
    total: int = 0
    files: int = 0


@dataclass(frozen=True)
class _Deletion:
    keys: list[str]
    done: Future[None] = field(default_factory=Future)


class Snapshotter:
    """Uploads snapshots of a worker's tasks, one after another, in a thread of its own.

    No call waits for the location: all may be made from the thread that processes records. At most one job a task.

    A job:

    1. Verify the copy, if asked. Hash the files (again only if they changed since the last time).
    2. Take the manifest with the highest number as the base, and list what objects there are. An object is not uploaded
       if the base names it, or if it is young, and it is there with its size.
    3. Upload the others, under names that nobody has used. An object is seen whole or not at all.
    4. Write the manifest under the base's number + 1, if absent. Lost: from 2.
    5. The base must still be there, byte for byte; else delete what was written, and from 2. And all this must not have
       taken too long; else delete it and give up.
    6. Delete the manifests that are neither savepoints nor among the `keep` best, nor needed if brokers without power
       lose the commits of those (`durable_after`: seconds after which they cannot, see `Log`); never the one of the
       highest number.
    7. Now and then, sweep: delete those of the objects that were listed in 2. which no manifest names, and that were a
       day old when the base was written. Both times are the location's, so this machine's clock does not matter.

    Why a sweep, this one or another's, cannot take an object that a new manifest names: until the manifest is written
    the base is the one with the highest number, so nobody deletes it; 5. makes sure of that for a writer that stood
    still in between. What the base does not name was uploaded in the last hours, and only older objects are swept. And
    what a sweep has found, by whomever, is not uploaded again under its name, so the sweep may stand still, too. (An
    object that the base names and that is damaged is written over: no sweep has found it.)

    A worker that has lost the task does no harm by writing late: manifests are never changed, its one stands at an
    older sequence, restores take the newest, and retention goes by sequence.

    Errors come out as outcomes; the copy is deleted, and the next snapshot is the next attempt.
    """

    def __init__(
        self,
        location: Location,
        app: str,
        *,
        keep: int = 3,
        bytes_per_second: int = 0,
        clock: Clock | None = None,
        sweep_every: float = SWEEP,
        durable_after: float = 0.0,
    ) -> None:
        if keep < 1:
            raise CheckpointError("at least one snapshot must be kept", fix="set it to 1 or more")
        place(app)
        self._location, self._app, self._keep, self._rate = location, app, keep, bytes_per_second
        self._clock, self._durable_after = clock or SystemClock(), durable_after
        self._writer = secrets.token_hex(8)
        self._sweeper = Sweeper(location, app, self._clock, sweep_every)
        self._jobs: queue.SimpleQueue[_Run | _Deletion | None] = queue.SimpleQueue()
        self._outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._runs: dict[str, _Run] = {}
        self._hashes: dict[str, dict[tuple[str, int, int, int], str]] = {}
        # Since when at least a task's manifests have been there, as seen by one opening of it.
        self._seen: dict[str, tuple[str, dict[tuple[int, str], float]]] = {}
        self._flusher = ThreadPoolExecutor(1, "flush")
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="snapshots", daemon=True)
        self._thread.start()

    # ---- for the worker's thread

    def flush(self, store_flush: Callable[[], None]) -> "Future[None]":
        """Run `RocksStore.flush` aside. When it is done (`done()`) the store's `snapshot` takes a few milliseconds."""
        return self._flusher.submit(store_flush)

    def delete(self, keys: Sequence[str]) -> "Future[None]":
        """Delete manifests that are known to be of no use, in the thread that uploads: the location may not answer for
        long. If it fails, the next outcome names them again."""
        deletion = _Deletion(list(keys))
        self._jobs.put(deletion)
        return deletion.done

    def submit(self, job: Job) -> bool:
        """Upload a copy. False, and the copy deleted, if a job of the task is under way or this is closed."""
        place(self._app, job.task)
        if self._closed or job.task in self._runs:
            shutil.rmtree(job.directory, ignore_errors=True)
            return False
        run = self._runs[job.task] = _Run(job, self._clock.monotonic(), self._clock.now())
        self._jobs.put(run)
        return True

    def busy(self, task: str) -> bool:
        """Whether a job of the task is under way, or its outcome was not polled yet."""
        return task in self._runs

    def progress(self) -> dict[str, tuple[int, int]]:
        """Of each job under way: bytes that are there, and bytes in all (0 while that is not known)."""
        return {task: (run.done, run.total) for task, run in self._runs.items()}

    def poll(self) -> list[Outcome]:
        """The outcomes since the last call. Never waits."""
        found: list[Outcome] = []
        while True:
            try:
                found.append(self._outcomes.get_nowait())
            except queue.Empty:
                return found
            self._runs.pop(found[-1].task, None)

    def abandon(self, task: str) -> None:
        """Give a task's job up, at the next chunk or request. Its outcome has neither a number nor an error."""
        if run := self._runs.get(task):
            run.stop.set()

    def close(self, timeout: float = 5.0) -> bool:
        """Abandon all jobs; whether the thread ended in time. One that hangs in a request ends with the process."""
        self._closed = True
        for run in self._runs.values():
            run.stop.set()
        self._jobs.put(None)
        self._thread.join(timeout)
        self._flusher.shutdown(wait=False, cancel_futures=True)
        return not self._thread.is_alive()

    # ---- the thread

    def _work(self) -> None:
        while (run := self._jobs.get()) is not None:
            if isinstance(run, _Deletion):
                try:
                    self._location.delete(run.keys)
                    run.done.set_result(None)
                except Exception as failed:
                    run.done.set_exception(failed)
                continue
            job, number, trim, error = run.job, None, None, None
            sent = [0]
            try:
                number, trim = self._run(run, sent)
            except Abandoned:
                pass
            except StreamsError as failed:
                error = failed
            except Exception as failed:
                error = CheckpointError(f"a snapshot failed: {failed!r}", where=f"task {job.task}")
            shutil.rmtree(job.directory, ignore_errors=True)
            seconds = self._clock.monotonic() - run.started
            made = Outcome(
                job.task,
                job.mark,
                number,
                trim,
                run.foreign,
                run.strange,
                error,
                sent[0],
                run.files,
                run.total,
                seconds,
            )
            self._outcomes.put(self._swept(run, made))

    def _run(self, run: _Run, sent: list[int]) -> tuple[int, int | None]:
        job = run.job
        if job.verify is not None:
            job.verify(job.directory, lambda: self._wanted(run))
        files = self._files(run)
        run.total = sum(file.size for file in files)
        mine: dict[str, File] = {}
        for _ in range(_ATTEMPTS):
            try:
                number = self._attempt(run, files, mine, sent)
            except _BaseGone:
                continue
            except Exception:
                self._take_back(run, mine)
                raise
            try:
                return number, self._retain(run)
            except CheckpointError:
                return number, None  # the snapshot is there; what is too old is deleted after the next one
        raise CheckpointError(
            f"another worker writes snapshots of task {job.task} all the time",
            where=self._location.url,
            fix="see to it that each application has a name of its own",
        )

    def _attempt(self, run: _Run, files: tuple[File, ...], mine: dict[str, File], sent: list[int]) -> int:
        location, app, job = self._location, self._app, run.job
        self._wanted(run)
        before = stored(location, app, job.task)
        newest = max(before, default=0)
        base = load(location, app, job.task, newest) if before else None
        if before and base is None:
            raise _BaseGone
        named = {file.hash: file for file in base.manifest.files} if base and base.manifest else {}
        listed = location.objects(f"{place(app, job.task)}/objects")
        run.objects = [replace(o, age=o.age - before[newest].age) for o in listed] if before else None
        sizes = {o.key: o.size for o in listed}
        young = self._young(listed)
        run.done = 0
        placed: dict[str, File] = {}
        for file in {file.hash: file for file in files}.values():
            known = (each[file.hash] for each in (named, mine, young) if file.hash in each)
            whole = (f for f in known if sizes.get(object_key(app, job.task, f)) == file.size)
            usable = next((f for f in whole if file.hash not in job.again or f.object in run.written), None)
            if usable is not None:
                run.done += file.size
            else:
                # One that is damaged is mended where it lies: older snapshots may name it, too.
                usable = named.get(file.hash) or structs.replace(file, upload=secrets.token_hex(8))
                chunks = self._chunks(run, job.directory / file.name, file, sent)
                location.write(object_key(app, job.task, usable), chunks, file.size)
                run.written.add(usable.object)
                run.files += 1
                if file.hash not in named:
                    mine[file.hash] = usable
            placed[file.hash] = usable
        self._wanted(run)
        key = manifest_key(app, job.task, newest + 1)
        files = tuple(structs.replace(file, upload=placed[file.hash].upload) for file in files)
        run.offered = True
        if not location.create(key, encode(self._manifest(job, newest + 1, files))):
            raise _BaseGone
        try:
            if base is not None:
                now = load(location, app, job.task, base.number)
                if now is None or now.data != base.data:
                    raise _BaseGone
            self._in_time(run)
        except (_BaseGone, CheckpointError):
            location.delete([key])
            raise
        return newest + 1

    def _young(self, listed: list[Stored]) -> dict[str, File]:
        """What was uploaded in the last hour, by hash. None in a directory: there a young file could be torn by a power
        loss before it was named."""
        found: dict[str, File] = {}
        for each in listed if self._location.directory is None else ():
            match = OBJECT.fullmatch(each.key.rpartition("/")[2])
            if match is not None and match[2] and -_YOUNG < each.age < _YOUNG:
                found[match[1]] = File("", each.size, match[1], match[2])
        return found

    def _take_back(self, run: _Run, mine: dict[str, File]) -> None:
        """Delete what a job that failed has uploaded to a directory, where nobody else uses it: it may be full."""
        if self._location.directory is not None and not run.offered:
            with suppress(CheckpointError):
                self._location.delete([object_key(self._app, run.job.task, file) for file in mine.values()])

    def _swept(self, run: _Run, made: Outcome) -> Outcome:
        """The outcome, with that of a sweep if there was one. What goes wrong there is no fault of the snapshot."""
        if made.number is None or run.objects is None:
            return made
        found, error = self._sweeper.turn(run.job.task, run.objects, run.stop.is_set)
        return replace(made, swept=found, sweep_error=error)

    def _manifest(self, job: Job, number: int, files: tuple[File, ...]) -> Manifest:
        return Manifest(
            app=self._app,
            task=job.task,
            number=number,
            fingerprint=job.fingerprint,
            store_format=job.store_format,
            sequence=job.mark.sequence,
            topic_id=job.mark.topic_id,
            offset=job.mark.offset,
            position=job.mark.position,
            time=self._clock.now(),
            writer=self._signed(job),
            name=job.name,
            files=files,
        )

    def _retain(self, run: _Run) -> int | None:
        """Delete what is not kept; up to where the changelog is not needed by what is.

        Manifests of another history are left alone: whether the log has lost their commits, or another worker has made
        them, is not known here. They count for nothing, or they would push out those that the log still has. Those of
        another changelog topic may be all that an application of the same name on another log has.
        """
        job = run.job
        history = History(job.mark, job.opened, self._signed(job))
        listed = list_manifests(self._location, self._app, job.task)
        usable = [each.manifest for each in listed if each.manifest is not None]
        now, (opening, before) = self._clock.monotonic(), self._seen.get(job.task, ("", {}))
        # By what was seen from here: clocks of machines differ. And by what was seen since the task was opened: before
        # that the log may have lost the commits of what had been there for long, and nobody may have told it so far.
        before = before if opening == job.writer else {}
        seen = {(m.number, m.writer): before.get((m.number, m.writer), now) for m in usable}
        self._seen[job.task] = job.writer, seen
        kept = history.retained(usable, self._keep, lambda m: now - seen[m.number, m.writer] >= self._durable_after)
        stay = {m.number for m in kept} | {m.number for m in usable if m.name} | {listed[-1].number}
        strange = {m.number for m in usable if m.topic_id != job.mark.topic_id} - stay
        foreign = {m.number for m in usable if not history.has(m.topic_id, m.sequence, m.writer)} - stay - strange
        stay |= strange
        # One that cannot be read may be of a newer program, so it stays until it is older than all that are kept.
        oldest = min((m.number for m in kept), default=0)
        gone = [e for e in listed if e.number not in stay | foreign and (e.manifest is not None or e.number < oldest)]
        self._location.delete([each.key for each in gone])
        run.strange = len(strange)
        run.foreign = tuple(each.key for each in listed if each.number in foreign)
        # With fewer than `keep` there is nothing to fall back on but the changelog itself.
        return min(m.offset for m in kept) if len(kept) >= self._keep else None

    def _signed(self, job: Job) -> str:
        return f"{self._writer}{job.writer}"

    def _files(self, run: _Run) -> tuple[File, ...]:
        """The files of the copy with their hashes. Tables never change: what was hashed is known by inode and time."""
        before, known, found = self._hashes.get(run.job.task, {}), {}, []
        for path in sorted(run.job.directory.iterdir()):
            stat = path.stat()
            key = (path.name, stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if not (path.suffix == ".sst" and key in before):
                with path.open("rb") as file:
                    hash = sha256()
                    while data := file.read(CHUNK):
                        self._wanted(run)
                        hash.update(data)
                before = {**before, key: hash.hexdigest()}
            known[key] = before[key]
            found.append(File(path.name, stat.st_size, before[key]))
        self._hashes[run.job.task] = known
        return tuple(found)

    def _chunks(self, run: _Run, path: Path, file: File, sent: list[int]) -> Iterator[bytes]:
        """The content, no faster than allowed; an error instead of the end if it is not what was hashed."""
        hash, size = sha256(), 0
        at_once = CHUNK if not self._rate else min(CHUNK, max(self._rate // 4, 4096))
        try:
            opened = path.open("rb")
        except OSError as error:
            raise CheckpointError(f"the copy of a store is gone: {error}", where=str(path)) from error
        with opened:
            while data := opened.read(at_once):
                self._wanted(run)
                hash.update(data)
                size += len(data)
                if size == file.size and hash.hexdigest() != file.hash:
                    break
                yield data
                run.done += len(data)
                sent[0] += len(data)
                if self._rate and run.stop.wait(len(data) / self._rate):
                    raise Abandoned
        if size != file.size or hash.hexdigest() != file.hash:
            self._hashes.pop(run.job.task, None)
            raise CheckpointError("a file changed while it was uploaded", where=str(path), fix="check the disk")

    def _wanted(self, run: _Run) -> None:
        if run.stop.is_set():
            raise Abandoned
        self._in_time(run)

    def _in_time(self, run: _Run) -> None:
        # The clock that never goes back stands still while the machine is suspended (Linux); the wall's may be set
        # back. One that is set hours ahead costs a snapshot.
        passed = max(self._clock.monotonic() - run.started, (self._clock.now() - run.started_at) / 1000)
        if passed > LONGEST:
            raise CheckpointError(
                f"a snapshot took longer than {LONGEST / 3600:.0f} hours and was given up",
                where=f"{self._location.url}, task {run.job.task}",
                fix="raise the bandwidth limit, use a faster location, or more partitions",
            )
