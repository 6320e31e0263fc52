"""State as it lies on disk, opened to look at: nothing of it is changed.

A store on disk is looked at in a copy: tables, which RocksDB never changes, are hard links; its log and its manifest,
which it writes at every open, are copied. The store's lock is held while that is done. A copy lies beside the stores,
locked by whoever looks: what a killed process has left is told by that, and deleted by the next one.
"""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from streams.core.errors import StateCorrupt, StateError, StateInUse
from streams.state.files import holder_of, link
from streams.state.rocksdb import RocksStore

_CACHE = 1 << 20
_COPY = ".looked-at-"
_ABANDONED = 3600.0  # seconds after which a copy that nobody has locked is deleted; earlier it may just be made


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
    mine: int | None = None
    try:
        drop_abandoned(directory.parent)
        with locked(directory):
            try:
                scratch = Path(tempfile.mkdtemp(prefix=_COPY, dir=directory.parent))
            except OSError:  # not ours to write to: copied to elsewhere, tables too
                scratch = Path(tempfile.mkdtemp(prefix="streams-state-"))
            mine = _flock(scratch)
            copy = scratch / directory.name
            copy_files(directory, copy)
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
        if mine is not None:
            os.close(mine)


def drop_abandoned(place: Path, older: float = _ABANDONED) -> None:
    """Delete the copies in a slot's directory that killed processes have left: their links keep the space of tables
    that the store has given up."""
    for copy in place.glob(f"{_COPY}*"):
        with suppress(OSError):  # somebody else deletes it, or it is not ours to delete
            if time.time() - copy.stat().st_mtime >= older and (held := _flock(copy)) is not None:
                shutil.rmtree(copy, ignore_errors=True)
                os.close(held)


def _flock(directory: Path) -> int | None:
    """Lock a directory until this is closed, or the process ends; None if it is locked, or cannot be."""
    file = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        return None
    return file


def copy_files(directory: Path, to: Path) -> None:
    """A store's files, in the directory `to`, which is made. The store's lock must be held."""
    to.mkdir(mode=0o700)
    for file in directory.iterdir():
        if file.name == "LOCK" or file.name.startswith("LOG") or not file.is_file():
            continue
        take = link if file.suffix == ".sst" else shutil.copyfile  # tables never change
        take(file, to / file.name)
