"""The worker's loop through `app.test()`: metrics, first positions, idle sources, programs that have changed."""

from types import SimpleNamespace

import pytest

from operators import Filter, KeyBy, Keyed, Value, Window, agg, tumbling, union
from streams import App, EventTime, Schema, col, connect
from streams.app import make_worker
from streams.core.clock import ManualClock
from streams.core.errors import LogError, StateCorrupt, StateMismatch
from streams.log.base import TopicSpec
from streams.log.embedded import EmbeddedLog
from streams.runtime.opening import Opening
from streams.runtime.task import Task
from streams.settings import Settings


class Tx(Schema):
    card: str
    at: EventTime
    amount: int


class Seen(Schema):
    card: str
    n: int


class Count(Keyed[Tx, Seen]):
    n = Value(int, default=0)

    def on_row(self, row, ctx):
        self.n.set((self.n.get() or 0) + 1)
        yield Seen(row.card, self.n.get() or 0)


def program(**more):
    app = App("shop")
    return app, app.source("tx", Tx, **{"key": "card", "start": "earliest", **more})


def test_metrics_tell_what_was_committed():
    app, tx = program()
    windows = tx | Window(tumbling("1m"), [agg.count().alias("n")])
    windows | app.sink("minutes")
    windows.late | app.sink("late")
    with app.test() as t:
        t.send("tx", [Tx("a", 0, 1), Tx("a", 200_000, 1), Tx("a", 1, 1), b"bad"])
        text = t._worker.metrics.expose().decode()
    for line in (
        'streams_records_in_total{topic="tx"} 4.0',
        'streams_records_out_total{topic="minutes"} 1.0',
        'streams_late_total{operator="window-1"} 1.0',
        'streams_dead_total{operator="source-tx"} 1.0',
        'streams_operator_rows_total{operator="window-1"} 3.0',
        "streams_latency_seconds_count",
        "streams_commit_seconds_count",
    ):
        assert line in text


def test_a_task_that_another_worker_has_now_leaves_no_gauges_behind():
    app, tx = program()
    tx | Count() | app.sink("out")
    with app.test() as t:
        t.send("tx", [Tx("a", 0, 1)])
        reporter, metrics = t._worker._reporter, t._worker.metrics
        reporter.gauge(t._worker.running, t._worker._reader)
        assert 'streams_lag{partition="0",topic="tx"} 0.0' in metrics.expose().decode()
        reporter.gauge([], t._worker._reader)
        text = metrics.expose().decode()
    for gone in ("streams_lag{", "streams_state_bytes{", "streams_overlay_bytes{", "streams_watermark_delay_seconds{"):
        assert gone not in text


def test_latest_is_chosen_once():
    app, tx = program(start="latest", key=())
    tx | Filter(col("amount") > 0) | app.sink("out")
    with app.test() as t:
        t.work()
        t.restart()  # before any record came
        t.send("tx", [Tx("a", 0, 1)])
        assert len(t.read("out")) == 1


def test_a_quiet_partition_does_not_hold_back_a_busy_one():
    app, tx = program(idle="2s")
    tx | KeyBy("amount") | Count() | app.sink("out")
    with app.test(partitions=2) as t:
        for i in range(40):
            t.send("tx", [Tx("a", i * 1000, 1)], partition=0)
            t.clock.sleep(0.5)
        assert len(t.read("out")) > 20


def test_what_an_idle_source_lets_go_is_committed():
    app, tx = program(idle="2s", key=())
    other = app.source("other", Tx, start="earliest", idle="2s")
    both = union(tx, other, ordered=False) | KeyBy("card")
    both | Window(tumbling("1m"), [agg.count().alias("n")]) | app.sink("out")
    with app.test() as t:
        t.send("tx", [Tx("a", 0, 1), Tx("a", 500_000, 1)])
        t.sleep(5)
        assert len(t.read("out")) == 1


def test_a_program_that_no_longer_fits_what_it_committed_is_refused():
    app, tx = program()
    tx | Count().named("counts") | app.sink("out")
    with app.test() as t:
        t.send("tx", [Tx("a", 0, 1)])
        t.restart()
        changed, tx = program()
        tx | Window(tumbling("1m"), [agg.count().alias("n")]) | changed.sink("out")
        t.app = changed
        with pytest.raises(StateMismatch, match="kept state that no operator of it wants"):
            t.work()


def test_a_store_may_be_added():
    app, tx = program()
    tx | Count().named("counts") | app.sink("out")
    with app.test() as t:
        t.send("tx", [Tx("a", 0, 1)])
        t.restart()
        changed, tx = program()
        tx | Count().named("counts") | changed.sink("out")
        tx | Count().named("more") | changed.sink("more")
        t.app = changed
        t.send("tx", [Tx("a", 1, 1)])
        assert t.read("out") == [Seen("a", 1), Seen("a", 2)]
        assert t.read("more") == [Seen("a", 1)]


def test_a_store_that_is_damaged_in_the_last_commit_does_not_keep_the_worker_in_the_group(tmp_path, monkeypatch):
    app, tx = program()
    tx | Count().named("counts") | app.sink("out")
    said = []
    with EmbeddedLog(tmp_path / "log") as log:
        log.create([TopicSpec("tx", 1, {})])
        settings = Settings(state_dir=str(tmp_path / "state"))
        worker = make_worker(app, settings, log, note=lambda text, *_, **__: said.append(text))
        worker.start()
        while not worker.complete:
            worker.turn()
        monkeypatch.setattr(Task, "drain", _damaged)
        for task in worker.running:
            task.touched = True
        worker.leave()
        worker.close()
        assert not log.living(app.name)
    assert any("the last commit failed (a block is damaged)" in text for text in said)


def _damaged(self, now):
    raise StateCorrupt("a block is damaged")


class Text(Keyed[Tx, Seen]):
    n = Value(str, default="")

    def on_row(self, row, ctx):
        self.n.set(self.n.get() + "x")
        yield Seen(row.card, len(self.n.get()))


class Renamed(Keyed[Tx, Seen]):
    count = Value(int, default=0)

    def on_row(self, row, ctx):
        self.count.set(self.count.get() + 1)
        yield Seen(row.card, self.count.get())


class More(Count):
    least = Value(int, default=0)


@pytest.mark.parametrize(("other", "which"), [(Text, "value n: is now str"), (Renamed, "value n: is gone")])
def test_a_value_of_another_type_or_gone_is_refused_before_a_record_is_read(other, which):
    app, tx = program()
    tx | Count().named("counts") | app.sink("out")
    with app.test() as t:
        t.send("tx", [Tx("a", 0, 1)])
        t.restart()
        changed, tx = program()
        tx | other().named("counts") | changed.sink("out")
        t.app = changed
        with pytest.raises(StateMismatch, match=f"'counts/values' is of another type(.|\n)*{which}"):
            t.work()
        assert t.read("out") == [Seen("a", 1)]


def test_a_value_may_be_added_and_then_not_be_taken_away():
    app, tx = program()
    tx | Count().named("counts") | app.sink("out")
    added, tx = program()
    tx | More().named("counts") | added.sink("out")
    with app.test() as t:
        t.send("tx", [Tx("a", 0, 1)])
        t.restart()
        t.app = added
        t.send("tx", [Tx("a", 1, 1)])
        assert t.read("out") == [Seen("a", 1), Seen("a", 2)]
        t.restart()
        t.app = app
        with pytest.raises(StateMismatch, match="value least: is gone"):
            t.work()


class Both(Keyed[Tx, Seen]):
    inputs = ("one", "other")
    calls = 0

    def on_one(self, row, ctx):
        Both.calls += 1
        yield Seen(row.card, row.at)

    on_other = on_one


def test_many_rows_that_waited_go_on_in_pieces_with_commits_in_between():
    """On Kafka one long turn would outlast the transaction's timeout, and be done again for ever."""
    app, tx = program(idle="1h")
    other = app.source("other", Tx, key="card", start="earliest", idle="1h")
    connect(tx, other) | Both() | app.sink("out")
    with app.test(poll_records=50) as t:
        t.send("tx", [Tx("a", i, 1) for i in range(1000)])
        assert t.read("out") == []
        worker, turn, done = t._worker, t._worker.turn, []

        def counted():
            before = Both.calls
            turn()
            done.append(Both.calls - before)

        worker.turn, commits = counted, worker.status.commits
        t.send("other", [Tx("a", 10_000, 1)])
        assert [row.n for row in t.read("out")] == list(range(999))  # the last one waits for the other input
        assert max(done) == 100
        assert worker.status.commits - commits >= 9


def test_while_rows_that_waited_go_on_other_tasks_go_on_too():
    """Nothing was read meanwhile: with slow commits other tasks stood still for minutes. Found by chaos."""
    app, tx = program(idle="1h")
    other = app.source("other", Tx, key="card", start="earliest", idle="1h")
    connect(tx, other) | Both() | app.sink("out")
    app.source("third", Tx, key="card", start="earliest") | Filter(col("card") == "c") | app.sink("cs")
    with app.test(poll_records=10) as t:
        t.send("tx", [Tx("a", i, 1) for i in range(1000)])
        worker, turn, seen = t._worker, t._worker.turn, []

        def counted():
            turn()
            seen.append((worker.status.records_out.get("out", 0), worker.status.records_out.get("cs", 0)))

        work, t.work = t.work, lambda: None
        t.send("other", [Tx("a", 10_000, 1)])
        worker.turn, t.work = counted, work
        t.send("third", [Tx("c", 1, 1)] * 100)
        assert next(out for out, cs in seen if cs == 100) < 900
        assert len(t.read("out")) == 999


def test_a_look_at_topics_that_fails_does_not_end_the_worker(monkeypatch):
    app, tx = program()
    tx | Count() | app.sink("out")
    with app.test() as t:
        t.send("tx", [Tx("a", 0, 1)])

        def fails(names):
            raise LogError("Kafka failed while topic 'tx' is looked up (UNKNOWN_SERVER_ERROR)")

        monkeypatch.setattr(t._worker.log, "topics", fails)
        t._worker._growth._looked = float("-inf")
        t._worker.turn()
        assert t._worker.status.aborts == 0


def test_a_restore_gets_as_long_as_the_other_tasks_have_had():
    app, tx = program()
    tx | Count() | app.sink("out")
    with app.test(partitions=8) as t:
        t.send("tx", [Tx("a", 0, 1)])
        worker, clock, stepped = t._worker, ManualClock(0), []
        worker._opening = opening = Opening(worker.tools, clock)

        def steps(number):
            while True:
                stepped.append(number)
                clock.sleep(0.04)
                yield

        for number in range(1, 8):
            opening.restore(SimpleNamespace(id=SimpleNamespace(number=number)), steps(number))
        clock.sleep(0.005)
        worker._restore()  # the others had next to nothing: one step
        assert stepped == [1]
        clock.sleep(0.5)
        worker._restore()  # a long turn, as in catching up: every task gets on
        assert stepped[1:8] == [2, 3, 4, 5, 6, 7, 1]
        for number in range(1, 8):
            opening.forget(number)
