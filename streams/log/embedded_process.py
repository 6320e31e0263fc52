"""Processes of this machine, as the embedded log needs them: who lives, and who holds a lock.

All of it is best effort: where the system does not tell (no /proc, another container), the answer is "unknown" and the
caller falls back on heartbeats.
"""

import os
from pathlib import Path

_PROC = Path("/proc")
_WRITE_LOCK = 120  # the byte of SQLite's WAL index that a writer locks: sqlite.org/walformat.html, "WAL locks"


def birth(pid: int) -> str:
    """What tells a process from a later one of the same number: its pid namespace and its start time.

    Empty where the system does not say, and for a process that is gone or has ended without being waited for.

    >>> birth(os.getpid()) == birth(os.getpid())
    True
    """
    try:
        # The name stands in brackets and may itself hold blanks and brackets.
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        if fields[0] in "ZX":
            return ""
        return f"{os.readlink(_PROC / 'self' / 'ns' / 'pid')} {fields[19]}"
    except (OSError, IndexError):
        return ""


def gone(pid: int, born: str) -> bool:
    """Whether the process is certainly gone; False if it lives or nobody can say.

    >>> gone(os.getpid(), birth(os.getpid()))
    False
    """
    ours = birth(os.getpid())
    if born.split(" ")[0] != ours.split(" ")[0]:
        return False  # another pid namespace: its numbers mean nothing here
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False  # another user's
    if not ours:
        return False  # no /proc: only the number can be looked up
    now = birth(pid)
    return now != born if now else not _hidden(pid)


def _hidden(pid: int) -> bool:
    """Whether /proc withholds a process that exists (it may be mounted so)."""
    return not (_PROC / str(pid)).exists()


def lock_holders(database: Path) -> list[int]:
    """The processes that hold the database's write lock, by /proc/locks; none where it does not say.

    The files are never opened for this: closing a file drops all locks that this process has on it.
    """
    try:
        index = os.stat(f"{database}-shm")
        table = (_PROC / "locks").read_text()
    except OSError:
        return []
    found: list[tuple[bool, int]] = []
    for line in table.splitlines():
        fields = line.split()  # number: POSIX ADVISORY WRITE pid major:minor:inode first last
        if len(fields) != 8 or fields[1] != "POSIX" or fields[3] != "WRITE":
            continue
        device, _, inode = fields[5].rpartition(":")
        last = float("inf") if fields[7] == "EOF" else int(fields[7])
        if int(inode) == index.st_ino and int(fields[6]) <= _WRITE_LOCK <= last and int(fields[4]) > 0:
            found.append((device == f"{os.major(index.st_dev):02x}:{os.minor(index.st_dev):02x}", int(fields[4])))
    # Some file systems report another device to stat than to the table of locks: then the inode must do.
    exact = [pid for same, pid in found if same]
    return exact or [pid for _, pid in found]


def describe(pid: int) -> str:
    """A process for a message: number, name, and whether it is stopped.

    >>> describe(os.getpid()).startswith(f"process {os.getpid()}")
    True
    """
    text = f"process {pid}"
    if pid == os.getpid():
        return f"{text} (this one)"
    try:
        name, _, rest = (_PROC / str(pid) / "stat").read_text().partition("(")[2].rpartition(")")
    except OSError:
        return text
    return f"{text} ({name}{', stopped' if rest.split()[0] in 'Tt' else ''})"
