"""The life of one worker process: start, work with a display, end when asked."""

import logging
import os
from pathlib import Path

from streams.core.wording import counted
from streams.runtime.worker import Worker
from streams.supervisor.parent import Parent
from streams.terminal.display import Display
from streams.terminal.figures import Meter, near
from streams.terminal.interrupts import Interrupts

_log = logging.getLogger("streams")


def work(worker: Worker, display: Display, parent: Parent | None = None) -> None:
    """Run the worker until SIGTERM or Ctrl-C, and let go of everything. The worker must not have been started.

    With a `parent` (a supervisor) Ctrl-C is left to that, and the worker ends when it is gone.

    The file that STREAMS_READY_FILE names is made when the worker has joined, for scripts and tests that wait for it.
    """
    ctrl_c = parent is None  # the terminal sends it to all of us
    settings, plan = worker.settings, worker.plan
    meter = Meter(plan.app, settings.slot, near(worker.log.name))

    def stop(why: str) -> None:
        worker.stop()
        _log.info("committing and giving the tasks back (%s)", why)

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
        display.done()
