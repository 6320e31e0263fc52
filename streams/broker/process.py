"""Processes that outlive calls: started, looked at and ended by pid and birth, so that a recycled pid is never hit."""

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

BOOT = Path("/proc/sys/kernel/random/boot_id")
NULL = (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)

# Waits for its input to end. A line says that all is well; an end without one that the process which held the other
# side is gone, however it went: then $1, if it still is the process that began at $2, and the directory $3 go too.
WATCH = """
read -r _ && exit
[ "$(cut -d ' ' -f 22 "/proc/$1/stat")" = "$2" ] && kill -KILL "$1"
rm -rf -- "$3"
"""


@dataclass(frozen=True)
class Process:
    """A process, told apart from any other that had or will have its pid.

    >>> me = Process.of(os.getpid())
    >>> me.alive
    True
    >>> Process(me.pid, "another time").alive
    False
    """

    pid: int
    birth: str
    """When it began, as the system tells it."""

    @classmethod
    def of(cls, pid: int) -> "Process":
        """The process that has this pid now."""
        return cls(pid, _look(pid)[1])

    @property
    def alive(self) -> bool:
        """Whether it runs (one that has ended and was not waited for does not)."""
        state, birth = _look(self.pid)
        if not birth or birth != self.birth:
            return False
        if state == "Z":
            try:
                return os.waitpid(self.pid, os.WNOHANG)[0] == 0
            except ChildProcessError:
                return _has_threads(self.pid)
        return True

    def end(self, number: signal.Signals, seconds: float) -> bool:
        """Send the signal and wait; whether it has ended. Harmless where it ended before."""
        self._send(number)
        deadline = time.monotonic() + seconds
        while self.alive:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def _send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            try:
                handle = os.pidfd_open(self.pid)
            except (AttributeError, PermissionError, NotImplementedError):  # not Linux, or an old one
                if self.alive:
                    os.kill(self.pid, number)
                return
            try:
                if self.alive:  # the handle keeps meaning the process that was looked at here
                    signal.pidfd_send_signal(handle, number)
            finally:
                os.close(handle)


@dataclass(frozen=True)
class Lifeline:
    """Ends a process and removes its directory when this Python process ends, by SIGKILL too."""

    watcher: int
    held: int

    @classmethod
    def tie(cls, process: Process, directory: Path) -> "Lifeline | None":
        """None where the system cannot tell when a process began."""
        if not BOOT.exists():
            return None
        ticks = process.birth.rpartition(" ")[2]
        read, held = os.pipe()
        try:
            watcher = os.posix_spawn(
                "/bin/sh",
                ["sh", "-c", WATCH, "sh", str(process.pid), ticks, str(directory)],
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, read, 0),
                    (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                ],
                setsid=True,
            )
        finally:
            os.close(read)
        return cls(watcher, held)

    def cut(self) -> None:
        """The process has ended in an orderly way, or may live on."""
        with suppress(BrokenPipeError):
            os.write(self.held, b"\n")
        os.close(self.held)
        with suppress(ChildProcessError):
            os.waitpid(self.watcher, 0)


def spawn(command: Sequence[str], directory: Path, log: Path, environment: Mapping[str, str]) -> Process:
    """Start a program in `directory`, in a session of its own, all that it prints appended to `log`."""
    pid = os.posix_spawn(
        "/bin/sh",
        ["sh", "-c", 'cd "$0" && exec "$@"', str(directory), *command],
        environment,
        file_actions=[
            NULL,
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    return Process.of(pid)


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """One process at a time in that directory; the lock goes with the process that holds it."""
    with (directory / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _has_threads(pid: int) -> bool:
    """Z is the state of its first thread: when that one has ended others can still hold the ports and files."""
    try:
        return len(os.listdir(f"/proc/{pid}/task")) > 1
    except (FileNotFoundError, ProcessLookupError):
        return False


def _look(pid: int) -> tuple[str, str]:
    """State (Z: its first thread has ended) and birth; both empty where no process has that pid."""
    if BOOT.exists():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return "", ""
        return fields[0], f"{BOOT.read_text().strip()} {fields[19]}"
    shown = subprocess.run(["ps", "-o", "state=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    state, _, birth = shown.stdout.strip().partition(" ")
    return state[:1], birth.strip()
