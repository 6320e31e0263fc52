"""A worker that stands still says so: which operator of which task, and where in its code.

The worker's one thread runs users' functions, too. What does not return stops everything, and silently: no commit, no
error. So a thread of its own looks whether the worker's loop turns.
"""

import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from streams.metrics import Metrics

log = logging.getLogger("streams")

EXIT_CODE = 70
"""The process's exit code when something in it does not return, and a thread beside ends it (EX_SOFTWARE)."""

_LONGEST_PAUSE = 600.0  # seconds between two warnings of one stall, at most
_DEEPEST = 30  # frames of the stack that are shown


@dataclass
class Place:
    """What the worker's thread is doing: written by it alone, read by the watchdog.

    `doing`: the part of its loop. `spent`: seconds by (task, operator) since the group was polled last; a source or a
    sink counts as an operator.
    """

    task: str = ""
    operator: str = ""
    doing: str = "starting"
    spent: dict[tuple[str, str], float] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"operator {self.operator!r} of task {self.task} is running" if self.operator else f"it is {self.doing}"

    @contextmanager
    def running(self, task: str, operator: str, seconds: dict[str, float] | None = None) -> Iterator[None]:
        """The operator's code runs; what it took is added to its `seconds`, too."""
        started = time.perf_counter()
        self.task, self.operator = task, operator
        try:
            yield
        finally:
            took = time.perf_counter() - started
            self.spent[task, operator] = self.spent.get((task, operator), 0.0) + took
            self.operator = ""
            if seconds is not None:
                seconds[operator] = seconds.get(operator, 0.0) + took

    def slowest(self) -> str:
        """The operator that has taken most since the group was polled; "" if none has run."""
        if not self.spent:
            return ""
        (task, operator), seconds = max(self.spent.items(), key=lambda item: item[1])
        return f"operator {operator!r} of task {task} took {seconds:.1f} s of it"


def leave(text: str) -> None:
    """End the process at once, from any thread."""
    sys.stderr.write(f"error: {text}\n")
    sys.stderr.flush()
    os._exit(EXIT_CODE)


class Watchdog:
    """Warns when the worker's loop has not turned for `seconds`; again after pauses that double, while it lasts.

    A warning names the operator that runs, and shows the Python stack of the worker's thread; the metric
    `streams_stalls` counts them. With `exit_after` (seconds, 0: never) the process ends when the loop has not turned
    for that long, with exit code 70: what was uncommitted is done again by whoever takes over, as after a kill.

    It cannot see a loop that hangs in native code which holds the interpreter's lock: then no Python thread runs, and
    this one neither. The group then gives the tasks to others, and /metrics does not answer.

    `started` is called by the worker's thread, `turned` from it in each turn (costs 0.1 us).
    """

    def __init__(
        self,
        seconds: float,
        metrics: Metrics,
        place: Place,
        *,
        exit_after: float = 0.0,
        leave: Callable[[str], None] = leave,
    ) -> None:
        self._seconds, self._exit_after, self._metrics, self._place = seconds, exit_after, metrics, place
        self._leave = leave
        self._turned = time.monotonic()
        self._thread_id = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def started(self) -> None:
        """The worker begins to turn, in the calling thread."""
        self._thread_id, self._turned = threading.get_ident(), time.monotonic()
        if self._thread is None and (self._seconds or self._exit_after):
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()

    def turned(self) -> None:
        """The worker's loop lives."""
        self._turned = time.monotonic()

    def close(self) -> None:
        """Stop watching."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._thread = None

    # ---- in the watchdog's thread

    def _watch(self) -> None:
        limits = [limit for limit in (self._seconds, self._exit_after) if limit]
        step = min(1.0, min(limits) / 4)
        stall, due, pause = 0.0, self._seconds, self._seconds
        while not self._stop.wait(step):
            turned = self._turned
            silent = time.monotonic() - turned
            if turned != stall:
                if stall and due > self._seconds:
                    log.warning("the worker's loop turns again")
                stall, due, pause = turned, self._seconds, self._seconds
            if self._exit_after and silent >= self._exit_after:
                text = (
                    f"the worker's loop has not turned for {silent:.0f} s ({self._place}): the process ends, as the "
                    "setting watchdog_exit says; nothing is lost, its uncommitted work is done again"
                )
                log.error("%s\n%s", text, self._stack())
                self._leave(text)
                return
            if self._seconds and silent >= due:
                self._metrics.stalls.labels(self._place.operator).inc()
                log.warning(
                    "the worker's loop has not turned for %.0f s: %s; no commit is made until it returns\n%s",
                    silent,
                    self._place,
                    self._stack(),
                )
                due, pause = silent + pause, min(2 * pause, _LONGEST_PAUSE)

    def _stack(self) -> str:
        """Where the worker's thread is."""
        frame = sys._current_frames().get(self._thread_id)
        if frame is None:
            return "  (the worker's thread has ended)"
        return "".join(traceback.format_list(traceback.extract_stack(frame)[-_DEEPEST:])).rstrip()
