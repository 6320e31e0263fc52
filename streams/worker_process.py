"""The life of one worker process: start, work with a display, end when asked."""

import logging
import os
import threading
from pathlib import Path

from streams.core.wording import counted, span
from streams.runtime.watchdog import leave
from streams.runtime.worker import Worker
from streams.supervisor.parent import Parent
from streams.terminal.display import Display
from streams.terminal.figures import Meter, near
from streams.terminal.interrupts import Interrupts

_log = logging.getLogger("streams")


def work(worker: Worker, display: Display, parent: Parent | None = None, *, stop_timeout: float = 30.0) -> None:
    """Run the worker until SIGTERM or Ctrl-C, and let go of everything. The worker must not have been started.

    If that takes longer than `stop_timeout` seconds (a function that does not return, brokers that do not answer) the
    process ends all the same, with exit code 70, as if it had been killed.

    With a `parent` (a supervisor) Ctrl-C and the limit are left to that, and the worker ends when it is gone.

    The file that STREAMS_READY_FILE names is made when the worker has joined, for scripts and tests that wait for it.
    """
    ctrl_c = parent is None  # the terminal sends it to all of us
    settings, plan = worker.settings, worker.plan
    meter = Meter(plan.app, settings.slot, near(worker.log.name))
    limit = threading.Timer(stop_timeout, lambda: _end(worker, display, stop_timeout))
    limit.daemon = True

    def stop(why: str) -> None:
        worker.stop()
        _log.info("committing and giving the tasks back (%s)", why)
        if parent is None:
            limit.start()

    with Interrupts(stop, ctrl_c=ctrl_c, at_once=display.close, resumed=display.anew):
        try:
            worker.start()
            _log.info("%s: slot %s on %s, %s", plan.app, settings.slot, meter.log, counted(len(plan.tasks), "task"))
            if parent is not None:
                parent.watch(worker)
            if ready := os.environ.get("STREAMS_READY_FILE"):
                Path(ready).touch()
            display.show(lambda: meter.look(worker.status))
            while not worker.stopping:
                worker.turn()
            worker.leave()
            if parent is not None:
                parent.tell(worker)
        finally:
            worker.close()
            limit.cancel()
        display.done()


def _end(worker: Worker, display: Display, seconds: float) -> None:
    display.close()
    leave(
        f"slot {worker.settings.slot} did not end within {span(seconds)} ({worker.tools.place}): the process "
        "ends as --stop-timeout says; nothing is lost, its open commit is done again"
    )
