"""The file of the embedded log: its schema, its transactions, and what its failures mean."""

import errno
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from streams.core.errors import DiskFull, LogError, LogLocked, LogUnreachable, StreamsError
from streams.log.embedded_process import describe, gone, lock_holders

Row = tuple[Any, ...]
T = TypeVar("T")
Lines = Callable[[str, Iterable[int]], list[int]]
"""The numbers of a topic's partitions in the file; raises if there is no such topic, or not these partitions."""

_APPLICATION = 0x53_74_72_6D  # "Strm": says that an SQLite file is ours
_VERSION = 1
_PAGE = 8192
_CHECKPOINT = 8 << 20  # bytes of WAL after which a commit copies it into the file: what a commit may have to wait for
_RUNAWAY = 16 * _CHECKPOINT  # bytes of WAL at which readers are waited for, so that it starts anew
_FULL = (errno.ENOSPC, errno.EDQUOT)

_SCHEMA = """
CREATE TABLE topics (name TEXT PRIMARY KEY, partitions INTEGER NOT NULL, id TEXT NOT NULL, settings TEXT NOT NULL);
CREATE TABLE partitions (id INTEGER PRIMARY KEY, topic TEXT NOT NULL, partition INTEGER NOT NULL,
    start_offset INTEGER NOT NULL DEFAULT 0, end_offset INTEGER NOT NULL DEFAULT 0, UNIQUE (topic, partition));
CREATE TABLE batches (partition_id INTEGER NOT NULL, base_offset INTEGER NOT NULL, records INTEGER NOT NULL,
    checksum INTEGER NOT NULL, blob BLOB NOT NULL, UNIQUE (partition_id, base_offset));
CREATE TABLE slots (app TEXT NOT NULL, slot TEXT NOT NULL, epoch INTEGER NOT NULL,
    PRIMARY KEY (app, slot)) WITHOUT ROWID;
CREATE TABLE claims (app TEXT NOT NULL, task INTEGER NOT NULL, epoch INTEGER NOT NULL,
    PRIMARY KEY (app, task)) WITHOUT ROWID;
CREATE TABLE leases (app TEXT NOT NULL, task INTEGER NOT NULL, sequence INTEGER NOT NULL, record TEXT NOT NULL,
    PRIMARY KEY (app, task)) WITHOUT ROWID;
CREATE TABLE positions (app TEXT NOT NULL, topic TEXT NOT NULL, partition INTEGER NOT NULL,
    next_offset INTEGER NOT NULL, note TEXT NOT NULL, PRIMARY KEY (app, topic, partition)) WITHOUT ROWID;
CREATE TABLE members (app TEXT NOT NULL, slot TEXT NOT NULL, token TEXT NOT NULL, pid INTEGER NOT NULL,
    born TEXT NOT NULL, heartbeat INTEGER NOT NULL, tasks TEXT NOT NULL, PRIMARY KEY (app, slot)) WITHOUT ROWID;
"""


class LogFile:
    """One connection to the log's file; may be shared by threads.

    Guarantees: what runs within `writing()` becomes visible at once or not at all, also when the process is killed, and
    nothing of others lies between. Every failure is an error of `streams.core.errors`; a busy file is tried again until
    `patience` seconds have passed.

    >>> import tempfile
    >>> directory = tempfile.TemporaryDirectory()
    >>> file = LogFile(Path(directory.name) / "log.db", patience=10.0)
    >>> with file.writing():
    ...     _ = file.run("INSERT INTO slots VALUES (?, ?, ?)", ("app", "w1", 1))
    >>> file.run("SELECT epoch FROM slots")
    [(1,)]
    >>> file.close(); directory.cleanup()
    """

    def __init__(self, path: Path, patience: float) -> None:
        self.path = path
        self._patience = patience
        self._runaway = _RUNAWAY
        self._lock = threading.RLock()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Only a new file is opened here: closing one that SQLite has open would drop its locks.
            with suppress(FileExistsError):
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            self._inode = os.stat(path).st_ino
            self._db = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            self._fail(error)
        try:
            self._prepare()
        except BaseException:
            self._db.close()
            raise

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Run one statement; all rows."""
        with self._lock:
            return self._patiently(lambda: self._db.execute(sql, parameters).fetchall())

    def run_until(self, sql: str, parameters: Sequence[Any], enough: Callable[[Row], bool]) -> list[Row]:
        """Run one query; the rows up to the first for which `enough` is true."""

        def read() -> list[Row]:
            rows: list[Row] = []
            cursor = self._db.execute(sql, parameters)
            try:
                for row in cursor:
                    rows.append(row)
                    if enough(row):
                        break
            finally:
                cursor.close()
            return rows

        with self._lock:
            return self._patiently(read)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A write transaction: all that runs inside, or nothing; alone on the file. Keep it short."""
        with self._lock:
            self.check_present()
            try:
                self._patiently(lambda: self._db.execute("BEGIN IMMEDIATE"))
                yield
                self._patiently(lambda: self._db.execute("COMMIT"))
            except BaseException:
                with suppress(sqlite3.Error):
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                raise
            self._contain()

    def stable(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Run one query after waiting for a write transaction that is in progress."""
        with self.writing():
            return self.run(sql, parameters)

    def data_version(self) -> int:
        """Another number once another connection has committed."""
        return int(self.run("PRAGMA data_version")[0][0])

    def check_present(self) -> None:
        """The file that is open is still the one under its name: else writes would go nowhere."""
        try:
            present = os.stat(self.path).st_ino == self._inode
        except OSError:
            present = False
        if not present:
            raise LogError(
                "the embedded log was deleted or replaced while it was in use",
                where=str(self.path),
                fix="stop all processes that use it, put the file back (or accept a new, empty log), start them again",
            )

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def sync_commits(self) -> None:
        """Each commit of this connection, and all before it, reaches the disk before it returns."""
        self.run("PRAGMA synchronous = FULL")

    # ---- opening

    def _prepare(self) -> None:
        """Settings of the connection; the schema where the file is new."""
        self.run(f"PRAGMA page_size = {_PAGE}")  # takes effect in a new file only
        if self.run("PRAGMA journal_mode = WAL") != [("wal",)]:
            raise LogUnreachable(
                "the file system of the embedded log cannot share memory between processes (SQLite's WAL mode)",
                where=str(self.path),
                fix="use a directory on a local disk",
            )
        # A power loss may take the last commits, but all of a commit and in order; a kill takes nothing.
        self.run("PRAGMA synchronous = NORMAL")
        self.run(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT // _PAGE}")
        self.run(f"PRAGMA journal_size_limit = {_CHECKPOINT}")
        if not self._ours():
            # Alone on the file: what it is takes several reads, between which another process may make the log.
            with self.writing():
                if self._ours():
                    return
                self._check_new()
                for statement in _SCHEMA.split(";"):
                    self.run(statement)
                self.run(f"PRAGMA application_id = {_APPLICATION}")
                self.run(f"PRAGMA user_version = {_VERSION}")

    def _stamps(self) -> tuple[int, int]:
        """What the file says of itself: whose it is, and of which format. Zeros in a new file."""
        return self.run("PRAGMA application_id")[0][0], self.run("PRAGMA user_version")[0][0]

    def _ours(self) -> bool:
        return self._stamps() == (_APPLICATION, _VERSION)

    def _check_new(self) -> None:
        """The file is empty; an error otherwise."""
        application, version = self._stamps()
        if application == _APPLICATION:
            raise LogError(
                f"the embedded log has format {version}, this version of streams reads format {_VERSION}",
                where=str(self.path),
                fix="use the version of streams that made it, or another directory",
            )
        if application or version or self.run("SELECT count(*) FROM sqlite_master") != [(0,)]:
            raise LogError("an SQLite file, but not an embedded log", where=str(self.path), fix="use another directory")

    # ---- failures

    def _patiently(self, do: Callable[[], T]) -> T:
        """Do it; where the file is busy, again and again until the patience is at its end."""
        deadline: float | None = None
        while True:
            try:
                return do()
            except sqlite3.Error as error:
                if _code(error) not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                    self._fail(error)
                deadline = deadline or time.monotonic() + self._patience
                if time.monotonic() >= deadline:
                    self._fail(error)
                # Short and uneven, so that several waiting writers do not meet again and again.
                time.sleep(random.uniform(0.0002, 0.002))

    def _contain(self) -> None:
        """Make a WAL that grew too far start anew: it cannot while one reader or another is always in it."""
        try:
            size = os.stat(f"{self.path}-wal").st_size
        except OSError:
            return
        if size < self._runaway:
            return
        with suppress(sqlite3.Error):
            self._db.execute("PRAGMA busy_timeout = 250")  # so long SQLite waits for readers
            stuck = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            # A reader that never ends (a stopped process) must not slow every commit: it costs disk space only.
            self._runaway = 2 * size if stuck else _RUNAWAY
        with suppress(sqlite3.Error):
            self._db.execute("PRAGMA busy_timeout = 0")

    def _fail(self, error: Exception) -> NoReturn:
        raise self._translated(error) from error

    def _translated(self, error: Exception) -> StreamsError:
        """The error that says what happened to the file and what to do."""
        where, code = str(self.path), _code(error)
        if code == sqlite3.SQLITE_FULL or self._no_space(error, code):
            return DiskFull(
                "no space is left for the embedded log", where=where, fix="free some space, or move the directory"
            )
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return self._locked()
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return damaged(self.path, str(error))
        if isinstance(error, OSError) or code in (
            sqlite3.SQLITE_CANTOPEN,
            sqlite3.SQLITE_READONLY,
            sqlite3.SQLITE_PERM,
            sqlite3.SQLITE_AUTH,
        ):
            return LogUnreachable(
                f"the embedded log cannot be opened for writing: {error}",
                where=where,
                fix="choose a directory that this user may write to",
            )
        return LogError(
            f"the embedded log failed: {error}",
            where=where,
            fix="look at the disk, its quota and this user's limits (ulimit -f), then start again: nothing is lost",
        )

    def _no_space(self, error: Exception, code: int) -> bool:
        if isinstance(error, OSError):
            return error.errno in _FULL
        if code != sqlite3.SQLITE_IOERR:
            return False
        # Growing the shared index on a full disk is reported as an input/output error.
        with suppress(OSError):
            disk = os.statvfs(self.path.parent)
            return disk.f_bavail * disk.f_frsize < 1 << 20
        return False

    def _locked(self) -> LogLocked:
        holders = lock_holders(self.path)
        if holders:
            who = "held by " + ", ".join(map(describe, holders))
        else:
            with suppress(sqlite3.Error):
                rows = self._db.execute("SELECT DISTINCT pid, born FROM members").fetchall()
                holders = [int(pid) for pid, born in rows if not gone(int(pid), str(born))]
            who = "used by " + ", ".join(map(describe, holders)) if holders else "the holder is unknown"
        names = " ".join(map(str, holders)) or "PID"
        return LogLocked(
            f"the embedded log was locked for {self._patience:g} seconds, {who}",
            where=str(self.path),
            fix=f"let it go on (kill -CONT {names}) or end it (kill -9 {names}): nothing half-written remains",
        )


def damaged(path: Path, cause: str) -> LogError:
    """The error of a file whose content is not what was written."""
    return LogError(
        f"the embedded log is damaged: {cause}",
        where=str(path),
        fix="stop all processes that use it; restore the directory from a backup, or save what is readable with "
        f"`sqlite3 {path} .recover`; to begin anew, move the directory away together with the application's state",
    )


def _code(error: Exception) -> int:
    """SQLite's primary result code; -1 for errors that are not its own."""
    code = getattr(error, "sqlite_errorcode", None)
    return -1 if code is None else int(code) & 0xFF
