"""A worker that stands still says so, and says why the group has thrown it out."""

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

from operators import MapRows
from streams import App, EventTime, Schema
from streams.app import make_worker
from streams.core.errors import LogError
from streams.core.record import Produced
from streams.log.base import TopicSpec
from streams.log.embedded import EmbeddedLog
from streams.metrics import Metrics
from streams.runtime.watchdog import EXIT_CODE, Place, Watchdog
from streams.settings import Settings

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0


class Tx(Schema):
    card: str
    at: EventTime


class Heard(logging.Handler):
    """Collects what is logged; `warned` is set at the first warning."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.warned, self.again = threading.Event(), threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())
        (self.again if self.warned.is_set() else self.warned).set()


def heard(monkeypatch) -> Heard:
    handler = Heard()
    logger = logging.getLogger("streams")
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(logger, "propagate", False)
    return handler


def fed(log: EmbeddedLog, count: int = 1) -> None:
    log.create([TopicSpec("tx", 1, {})])
    writer = log.writer("feeder", "0")
    writer.append(Produced("tx", 0, [None] * count, [b'{"card":"a","at":%d}' % i for i in range(count)], 0))
    writer.commit({}, {})


def test_a_function_that_hangs_is_named_with_its_stack_and_again_later(tmp_path, monkeypatch):
    ear, go_on = heard(monkeypatch), threading.Event()

    def hangs_here(row):
        go_on.wait(PATIENCE)
        return row

    app = App("hangs")
    app.source("tx", Tx, key="card", start="earliest") | MapRows(hangs_here, returns=Tx).named("slow") | app.sink("out")
    with EmbeddedLog(tmp_path / "log") as log:
        fed(log)
        settings = Settings(state_dir=str(tmp_path / "state"), watchdog=200, commit_interval=1)
        worker = make_worker(app, settings, log, note=lambda text: None)
        thread = threading.Thread(target=worker.run)
        thread.start()
        try:
            assert ear.again.wait(PATIENCE)
        finally:
            worker.stop()
            go_on.set()
            thread.join()
    first, second = ear.texts[:2]
    for text in (first, second):
        assert "operator 'slow' of task 0/0 is running; no commit is made until it returns" in text
        assert "in hangs_here" in text
        assert "go_on.wait(PATIENCE)" in text
    assert worker.metrics.stalls.labels("slow")._value.get() >= 2


def test_a_loop_that_turns_is_left_alone(monkeypatch):
    ear = heard(monkeypatch)
    dog = Watchdog(0.5, Metrics(), Place())
    dog.started()
    for _ in range(20):
        dog.turned()
        threading.Event().wait(0.05)
    dog.close()
    assert not ear.texts


def test_without_limits_there_is_no_thread():
    before = threading.active_count()
    dog = Watchdog(0.0, Metrics(), Place())
    dog.started()
    assert threading.active_count() == before
    dog.close()


def test_the_process_ends_if_told_so(tmp_path):
    (tmp_path / "program.py").write_text(
        "import threading\n"
        "from operators import MapRows\n"
        "from streams import App, EventTime, Schema\n"
        "class Tx(Schema):\n    card: str\n    at: EventTime\n"
        "def hangs(row):\n    threading.Event().wait()\n"
        "app = App('hangs')\n"
        "app.source('tx', Tx, key='card', start='earliest') | MapRows(hangs, returns=Tx) | app.sink('out')\n"
    )
    with EmbeddedLog(tmp_path / "log") as log:
        fed(log)
    done = subprocess.run(
        [sys.executable, "-m", "streams", "run", "program:app", "--log-dir", "log", "--state-dir", "state"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "STREAMS_WATCHDOG": "200ms", "STREAMS_WATCHDOG_EXIT": "1s"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == EXIT_CODE
    assert "operator 'map-rows-1'" in done.stderr.lower().replace("maprows", "map-rows")
    assert "in hangs" in done.stderr
    assert "error: the worker's loop has not turned for" in done.stderr


def test_a_lost_membership_names_the_operator_that_took_the_time(tmp_path):
    notes: list[str] = []

    class Clock:
        shift = 0.0

        def now(self):
            return 1_700_000_000_000

        def monotonic(self):
            return Clock.shift

        def sleep(self, seconds):
            Clock.shift += seconds

    def slow(row):
        Clock.shift += 30.0
        return row

    app = App("slow")
    app.source("tx", Tx, key="card", start="earliest") | MapRows(slow, returns=Tx).named("slow") | app.sink("out")
    with EmbeddedLog(tmp_path / "log") as log:
        fed(log)
        settings = Settings(state_dir=str(tmp_path / "state"), commit_interval=10**9, watchdog=0)
        worker = make_worker(app, settings, log, note=notes.append, clock=Clock(), wait=0.0)
        worker.start()
        while not any(t.touched for t in worker._tasks.values()):
            worker.turn()
        worker._poll_group()
        worker._on_revoke(frozenset([0]), lost=True)  # as the group does when its patience is at an end
        assert isinstance(worker._failed, LogError)
        worker.turn()
        worker.close()
    (hint,) = [n for n in notes if n.startswith("the worker did not poll its group for 30.0 s")]
    assert "operator 'slow' of task 0/0 took" in hint
    assert "poll_records smaller (it is 20,000)" in hint
