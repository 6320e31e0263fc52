"""What the worker publishes: cheap, and safe to read from any thread."""

import threading
import time
from types import SimpleNamespace

import msgspec

from operators import KeyBy, Keyed, Value
from streams import App, EventTime, Schema
from streams.runtime.inspect import Holding
from streams.runtime.report import TaskReport, WorkerReport
from streams.runtime.reporter import report_of
from streams.settings import Settings
from streams.web import health
from streams.web.status import redacted


class Tx(Schema):
    card: str
    shop: str
    at: EventTime


class Seen(Schema):
    shop: str
    n: int


class Count(Keyed[Tx, Seen]):
    n = Value(int, default=0)

    def on_row(self, row, ctx):
        self.n.set(self.n.get() + 1)
        yield Seen(row.shop, self.n.get())


def program() -> App:
    app = App("other")
    app.source("tx", Tx, key="card", start="earliest") | KeyBy("shop") | Count() | app.sink("seen-too")
    return app


def test_reports_are_whole_while_another_thread_reads_them() -> None:
    with program().test(partitions=2) as t:
        t.send("tx", [Tx("c", "s", 0)])
        reporter, wrong, ended, read = t._worker.reporter, [], threading.Event(), []

        def watch() -> None:
            last = 0
            while not ended.is_set():
                report = msgspec.json.decode(msgspec.json.encode(reporter.report), type=WorkerReport)
                if report.records_in < last or report.operators["source-tx"].rows != report.records_in:
                    wrong.append(report)
                last = report.records_in
                read.append(last)

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            for number in range(30):
                t.send("tx", [Tx(f"c{i}", "s", number * 100 + i) for i in range(50)])
                t.clock.sleep(1.1)
                t.work()
        finally:
            ended.set()
            thread.join()
        assert wrong == []
        assert len(read) > 10
        assert reporter.report.records_in == 1501


def test_publishing_64_tasks_costs_little() -> None:
    with program().test(partitions=32) as t:
        t.send("tx", [Tx(f"c{i}", f"s{i}", i) for i in range(500)])
        worker = t._worker
        tasks = list(worker._tasks.values())
        assert len(tasks) == 64
        spent = []
        for _ in range(200):
            started = time.perf_counter()
            worker.reporter.publish([report_of(task, None, 0) for task in tasks])
            spent.append(time.perf_counter() - started)
        assert min(spent) < 0.01  # it takes 0.6 ms, the least of many; more than that under load
        assert len(worker.reporter.report.tasks) == 64


def of(*tasks: TaskReport, joined: bool = True) -> WorkerReport:
    return WorkerReport(joined=joined, tasks=tasks)


def test_ready_says_how_far_restoring_is() -> None:
    fine = health.Health(True, "", "", 0.0)
    running = TaskReport("0/0", 0, 0, "running", 9)
    restoring = TaskReport("1/0", 1, 1, "restoring", 480, restored_to=120, restored_blocks=7)
    assert health.ready(of(running), fine, "a", ()).ok
    told = health.ready(of(running, restoring), fine, "a", ())
    assert not told.ok
    assert told.reason == "1 of 2 tasks run; task 1/0 has come to commit 120 of 480 (7 changelog blocks read)"
    assert "joining" in health.ready(of(joined=False), fine, "a", ()).reason
    assert not health.ready(of(), fine, "a", ()).ok


def test_a_worker_without_tasks_stands_by_where_others_hold_them_all() -> None:
    fine = health.Health(True, "", "", 0.0)
    held = Holding("0/0", ("tx",), "b", True, 3, 0)
    assert "stands by" in health.ready(of(), fine, "a", [held]).reason
    assert not health.ready(of(), fine, "a", [held, Holding("0/1", ("tx",), None, False, 0, 0)]).ok


def test_a_loop_that_turns_no_more_is_not_alive() -> None:
    pulse = SimpleNamespace(age=lambda: 99.0, doing="committing", thread=threading.get_ident())
    told = health.alive(pulse)  # type: ignore[arg-type]
    assert not told.ok
    assert "committing" in told.reason
    assert any("test_a_loop_that_turns_no_more" in call for call in told.calls)


def test_secrets_are_not_shown() -> None:
    shown = redacted(
        Settings(kafka={"sasl.password": "hush", "ssl.key.pem": "hush", "url": "http://me:hush@registry:8081"})
    )
    assert "hush" not in str(shown)
    assert shown["kafka url"] == "http://me:***@registry:8081"
