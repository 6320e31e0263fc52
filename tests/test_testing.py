"""app.test() as its user meets it."""

import msgspec
import pytest

from operators import Filter, KeyBy, Keyed, MapRows, Running, Value, Window, agg, tumbling
from streams import App, EventTime, Operator, Schema, StoreSpec, StreamsError, col
from streams.testing import CRASHES

MINUTE = 60_000


class Payment(Schema):
    card: str
    at: EventTime
    amount: int


class Alert(Schema):
    card: str
    at: EventTime
    reason: str


class Silence(Keyed[Payment, Alert]):
    """An alert when nothing has come of a card for a minute."""

    last = Value(int)
    seen = Value(list[int], default=[])

    def on_row(self, row, ctx):
        if row.amount == 13:
            raise ValueError("unlucky")
        self.last.set(row.at)
        self.seen.set([*self.seen.get(), row.amount])
        ctx.timer(row.at + MINUTE)

    def on_timer(self, at, ctx):
        if self.last.get() == at - MINUTE:
            yield Alert(ctx.key, at, "SILENT")
            self.last.clear()


def make() -> App:
    app = App("shop")
    payments = app.source("payments", Payment, key="card", disorder="1s", start="earliest")
    minutes = payments | Window(tumbling("1m"), [agg.sum("amount").alias("spent")]).named("minutes")
    minutes | app.sink("minutes")
    minutes.late | app.sink("late")
    payments | KeyBy("amount") | KeyBy("card") | Silence().named("silence") | app.sink("silent")
    payments | Running([agg.count().alias("n")]).named("running") | Filter(col("n") > 2) | app.sink("many")
    return app


ROWS = [Payment("a", 0, 5), Payment("b", 1000, 13), Payment("a", 20_000, 1), Payment("a", 30_000, 7)]


@pytest.mark.parametrize("partitions", [1, 2])
@pytest.mark.parametrize("step", CRASHES)
def test_the_same_with_a_crash_at_every_step(step, partitions):
    with make().test(partitions=partitions, crash_at=step) as t:
        t.send("payments", ROWS)
        t.advance_to(95_000)
        t.send("payments", [Payment("c", 10, 100), Payment("a", 96_000, 1)])
        minute = {"card": "a", "window_start": 0, "window_end": MINUTE, "spent": 13}
        t.expect("minutes", [minute, {**minute, "card": "b"}], in_order=partitions == 1)
        t.finish()
        t.expect(
            "minutes",
            [minute, {**minute, "card": "b"}, {**minute, "window_start": 60_000, "window_end": 120_000, "spent": 1}],
            in_order=False,
        )
        t.expect("late", [Payment("c", 10, 100)])
        alerts = [Alert("a", 90_000, "SILENT"), Alert("c", MINUTE + 10, "SILENT"), Alert("a", 156_000, "SILENT")]
        t.expect("silent", alerts, in_order=partitions == 1)
        assert t.late() == {"minutes": 1}
        assert [(each.operator, each.cause) for each in t.dead_letters()] == [
            ("silence", "silence: ValueError: unlucky")
        ]
        assert t.dead() == [(b'{"card":"b","at":1000,"amount":13}', "silence: ValueError: unlucky")]
        assert (t.crashes > 3) == (step is not None)


def test_advance_to_fires_what_is_due_and_no_more():
    with make().test() as t:
        t.send("payments", ROWS[:1])
        t.advance_to(MINUTE)
        assert t.read("silent") == []  # a timer at T fires once the watermark is above T
        t.advance_to(MINUTE + 1)
        assert t.read("silent") == [Alert("a", MINUTE, "SILENT")]
        t.advance_to(0)
        t.expect("minutes", [{"card": "a", "window_start": 0, "window_end": MINUTE, "spent": 5}])


def test_finish_without_a_record_does_nothing():
    with make().test() as t:
        t.finish()
        assert t.read("minutes") == []


def test_a_timer_that_sets_itself_again_ends():
    class Tick(Keyed[Payment, Alert]):
        def on_row(self, row, ctx):
            ctx.timer(row.at + MINUTE)

        def on_timer(self, at, ctx):
            ctx.timer(at + MINUTE)
            yield Alert(ctx.key, at, "TICK")

    app = App("ticks")
    app.source("payments", Payment, key="card", start="earliest") | Tick() | app.sink("ticks")
    with app.test() as t:
        t.send("payments", ROWS[:1])
        t.finish(after="3m")
        assert [row.at for row in t.read("ticks")] == [MINUTE, 2 * MINUTE]


def test_state():
    with make().test(partitions=2) as t:
        t.send("payments", [*ROWS, Payment("a", MINUTE + 5, 2)])
        t.sleep(11)
        assert t.state("running", "a") == {"n": 4}
        assert t.state("minutes", "a") == [
            {"card": "a", "window_start": 0, "window_end": MINUTE, "spent": 13},
            {"card": "a", "window_start": MINUTE, "window_end": 2 * MINUTE, "spent": 2},
        ]
        assert t.state("silence", "a") == {"last": MINUTE + 5, "seen": [5, 1, 7, 2]}
        for operator in ("running", "minutes", "silence"):
            assert t.state(operator, "nobody") is None
        with pytest.raises(StreamsError, match="did you mean 'running'"):
            t.state("runing", "a")
        with pytest.raises(StreamsError, match="a key of 2 values"):
            t.state("running", "a", 1)


def test_state_of_an_operator_that_does_not_tell():
    class Mine(Operator):
        stores = (StoreSpec("mine"),)

        def process(self, batch, port=0):
            return batch

    app = App("mine")
    app.source("payments", Payment, key="card", start="earliest") | Mine() | app.sink("out")
    with app.test() as t, pytest.raises(NotImplementedError, match="Mine does not tell"):
        t.state("mine-1", "a")


def test_crashes_in_a_row_and_later():
    with make().test() as t:
        t.crash(at="flushed", count=3)
        t.send("payments", ROWS)
        assert t.crashes == 3
        t.crash(at="after_commit", skip=100)
        t.send("payments", ROWS)
        assert t.crashes == 3
        t.crash(at="after_commit", skip=1)
        t.send("payments", ROWS)
        assert t.crashes == 4
        t.crash(at=None)
        t.send("payments", ROWS)
        assert t.crashes == 4
        with pytest.raises(StreamsError, match="did you mean 'flushed'"):
            t.crash(at="flush")


def test_reading_as_what_one_wants():
    class Short(Schema):
        card: str

    with make().test() as t:
        t.send("payments", [ROWS[0]])
        t.finish()
        assert t.read("silent") == [Alert("a", MINUTE, "SILENT")]
        assert t.read("silent", dict) == [{"card": "a", "at": MINUTE, "reason": "SILENT"}]
        assert t.read("minutes", Short) == [Short("a")]
        assert t.read("payments", dict) == [msgspec.structs.asdict(ROWS[0])]


def test_a_wrong_expectation_says_how_the_rows_differ():
    with make().test() as t:
        t.send("payments", ROWS)
        t.finish()
        with pytest.raises(AssertionError) as caught:
            t.expect("silent", [Alert("a", 91_000, "SILENT"), {"card": "c", "at": 1, "reason": "OTHER"}])
    assert str(caught.value).splitlines() == [
        "topic 'silent' has 1 rows, 2 were expected:",
        '  differs     {"card": "a", "at": 90000, "reason": "SILENT"}: at is 90000, expected 91000',
        '  missing     {"card": "c", "at": 1, "reason": "OTHER"}',
        "1 dead letter:",
        "  shop-keyby-2-shuffle/0/0 row 1, silence: silence: ValueError: unlucky",
    ]


def test_the_report_of_a_run():
    app = App("plain")
    app.source("payments", Payment, start="earliest") | MapRows(lambda row: None, returns=Alert) | app.sink("none")
    with app.test() as t:
        t.crash()
        t.send("payments", [b"oops"])
        assert t.report().splitlines() == [
            "none: 0 rows",
            "1 dead letter:",
            "  payments/0/0, source-payments: not JSON: JSON is malformed: invalid character (byte 0)",
            "the worker died 1 times",
        ]
