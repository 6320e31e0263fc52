"""Ctrl-C and SIGTERM: the first asks for a clean end, a second Ctrl-C ends at once.

Python runs signal handlers in the main thread, between two of its instructions; while that thread waits inside a
library (a commit on a broker that does not answer) nothing happens. So signals are taken from the wakeup pipe by a
thread of its own.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

_SAME = 0.3  # seconds: what starts us (make, a shell script) may pass a Ctrl-C on that we had from the terminal already
_AT_ONCE = (
    "\nended at once. Nothing is lost: what was committed stays, and the commit that was open is done again at the "
    "next start.\n"
)


class Interrupts:
    """While the block runs, `stop` is called on the first SIGINT or SIGTERM, from another thread, with the reason.

    A second SIGINT ends the process with exit code 130, after `at_once`. `resumed` is called on SIGCONT. With
    `ctrl_c=False` SIGINT is ignored: another process passes the end on.
    """

    def __init__(
        self,
        stop: Callable[[str], None],
        *,
        ctrl_c: bool = True,
        at_once: Callable[[], None] = lambda: None,
        resumed: Callable[[], None] = lambda: None,
    ) -> None:
        self._stop, self._ctrl_c, self._at_once, self._resumed = stop, ctrl_c, at_once, resumed
        self._first: float | None = None

    def __enter__(self) -> Self:
        self._ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        self._theirs = theirs
        self._old_fd = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        self._old = {
            signal.SIGTERM: signal.signal(signal.SIGTERM, _nothing),
            signal.SIGCONT: signal.signal(signal.SIGCONT, _nothing),
            signal.SIGINT: signal.signal(signal.SIGINT, _nothing if self._ctrl_c else signal.SIG_IGN),
        }
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, where: TracebackType | None) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_fd)
        self._theirs.close()
        self._thread.join()
        self._ours.close()

    def _listen(self) -> None:
        while numbers := self._ours.recv(64):
            for number in numbers:
                self._take(number)

    def _take(self, number: int) -> None:
        now = time.monotonic()
        if number == signal.SIGCONT:
            self._resumed()
        elif self._first is None:
            if number in (signal.SIGINT, signal.SIGTERM):
                self._first = now
                self._stop("SIGTERM" if number == signal.SIGTERM else "Ctrl-C; once more ends at once")
        elif number == signal.SIGINT and now - self._first > _SAME:
            self._at_once()
            end_at_once()


def end_at_once() -> None:
    """Say what it means, show the cursor, and end without another step."""
    shown = "\x1b[?25h" if sys.stdout.isatty() else ""
    os.write(2, f"{shown}{_AT_ONCE}".encode())
    os._exit(130)


def _nothing(*_: object) -> None:
    """The signal is taken from the pipe."""
