"""A store that another process holds for a while, as a tool does that copies it, when a worker is given its task."""

from dataclasses import replace

import pytest

from operators import Running, agg
from streams import App, EventTime, Schema
from streams.app import make_worker
from streams.core.clock import ManualClock
from streams.core.errors import StateInUse
from streams.core.record import Produced
from streams.log.base import TopicSpec
from streams.log.embedded import EmbeddedLog
from streams.settings import Settings


class Tx(Schema):
    card: str
    at: EventTime


class Held:
    """A worker with two tasks; the store of the first is in use for so many tries."""

    def __init__(self, directory, log, tries):
        log.create([TopicSpec("tx", 2, {})])
        app, self.clock, self.left, self.first = App("shop"), ManualClock(0), tries, None
        app.source("tx", Tx, key="card", start="earliest") | Running([agg.count().alias("n")]) | app.sink("out")
        settings = Settings(state_dir=str(directory), commit_interval=1, watchdog=0)
        self.worker = make_worker(app, settings, log, clock=self.clock, note=lambda *_, **__: None, wait=0.0)
        self.open = self.worker.tools.open_state
        self.worker.tools = replace(self.worker.tools, open_state=self._open_state)

    def _open_state(self, directory):
        if directory.name == "0-0" and self.left:
            self.left -= 1
            self.first = self.first or self.clock.monotonic()  # leases are taken in a thread, which takes some turns
            raise StateInUse("process 7 holds the state directory")
        return self.open(directory)

    def turn(self, times=1):
        for _ in range(times):
            self.clock.sleep(0.05)
            self.worker.turn()


def feed(log):
    writer = log.writer("feeder", "0")
    for partition in (0, 1):
        writer.append(Produced("tx", partition, [None], [b'{"card":"c","at":1}'], 0))
    writer.commit({}, {})
    writer.close()


def test_the_worker_tries_again_and_other_tasks_go_on(tmp_path):
    """It ended at once."""
    with EmbeddedLog(tmp_path / "log") as log:
        held = Held(tmp_path / "state", log, tries=50)
        feed(log)
        worker = held.worker
        worker.start()
        try:
            alone = 0
            while not worker.complete:
                alone = worker.status.records_in
                held.turn()
            assert (held.left, alone) == (0, 1)
            while worker.status.records_in < 2:
                worker.turn()
            worker.leave()
        finally:
            worker.close()


def test_one_that_stays_in_use_ends_it(tmp_path):
    with EmbeddedLog(tmp_path / "log") as log:
        held = Held(tmp_path / "state", log, tries=10**9)
        held.worker.start()
        try:
            while held.first is None:
                held.turn()
            with pytest.raises(StateInUse, match="process 7"):
                held.turn(1000)
            assert 10 <= held.clock.monotonic() - held.first < 11
        finally:
            held.worker.close()
