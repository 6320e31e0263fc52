"""Window: against plain Python, however the input is cut, with late rows, ties, nulls and negative times."""

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import SUM, Aggregator, MapRows, Part, Window, agg, col, nulls, tumbling
from streams.core.batch import Batch
from streams.core.errors import NoEventTime, NoKey, StateMismatch, UnknownColumn, WrongType
from streams.core.schema import EventTime, Field, Schema
from streams.core.time import FOREVER
from tests.operators.checks import Task, check, cut, drive, frame_of, run, same, stream
from tests.operators.reference import windows


class Payment(Schema):
    card: str | None
    at: EventTime
    amount: int | None
    ratio: float = 0.5
    flag: bool = True


PAYMENTS = stream(Payment, key="card")
ALL = [
    agg.count().alias("n"),
    agg.count("amount").alias("some"),
    agg.sum("amount").alias("total"),
    agg.min("amount").alias("least"),
    agg.max("amount").alias("most"),
    agg.mean("amount").alias("mean"),
]


def rows_of(times, cards="abc", amounts=(1, None, -5, 7)):
    return [
        {"card": cards[i * 7 % len(cards)], "at": t, "amount": amounts[i % len(amounts)], "ratio": 0.5, "flag": True}
        for i, t in enumerate(times)
    ]


def test_shared_checks_and_the_answer():
    times = [(i * 37) % 90 + i * 5 - 400 for i in range(200)]
    rows = rows_of(times, cards=["a", "b", None, "c"])
    window = Window(tumbling(60, offset=7), ALL, lateness=20)
    made = check(window, PAYMENTS, rows, disorder=30)
    want, late = windows(rows, 60, 7, 20, 30)
    assert made.rows == want
    assert made.side("late") == late
    assert made.late == len(late) > 0
    assert all(r["$time"] == r["$watermark"] == r["window_end"] - 1 for r in made.full)


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "card": st.sampled_from(["", "a", "b", "é", None]),
            "at": st.integers(-60, 60),
            "amount": st.one_of(st.none(), st.integers(-(2**40), 2**40), st.integers(-3, 3)),
            "ratio": st.just(0.5),
            "flag": st.just(True),
        }
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(ROWS, st.integers(1, 30), st.integers(0, 40), st.integers(0, 20), st.integers(0, 20), st.data())
def test_any_rows_any_cuts_any_commits_and_restarts(rows, size, offset, lateness, disorder, data):
    task = Task(Window(tumbling(size, offset), ALL, lateness), PAYMENTS)
    left = frame_of(PAYMENTS, rows, disorder)
    while left.height:
        take = data.draw(st.integers(1, left.height))
        (release,) = cut(left.head(take), take)
        task.give(*release)
        left = left.slice(take)
        match data.draw(st.sampled_from(["go on", "commit", "reopen"])):
            case "commit":
                task.commit()
            case "reopen":
                task.commit()
                task.open()
    task.give([], FOREVER)
    task.commit()
    want, late = windows(rows, size, offset, lateness, disorder)
    assert task.committed.rows == want
    assert task.committed.side("late") == late
    assert {k for k in task.stores["windows"].data if len(k) >= 8} == set()


def test_a_window_closes_when_the_watermark_reaches_its_end_plus_the_lateness():
    task = Task(Window(tumbling(10), [agg.count()], lateness=5), PAYMENTS)
    frame = frame_of(PAYMENTS, rows_of([3]))
    task.give([(0, frame)], 14)
    task.commit()
    assert task.committed.rows == []
    assert task.operator.hold() == 5
    task.give([], 15)
    assert task.operator.hold() == 6  # its row has not come yet: event time stands still behind it
    task.commit()
    assert task.operator.hold() == 5
    assert task.committed.rows == [{"card": "a", "window_start": 0, "window_end": 10, "count": 1}]


def test_state_that_is_born_and_dies_between_commits_never_reaches_the_store():
    task = Task(Window(tumbling(10), [agg.count()]), PAYMENTS)
    writes = []
    store = task.context.store("windows")
    put, get = store.put_many, store.get_many
    store.put_many = lambda keys, values: (writes.extend(keys), put(keys, values))
    store.get_many = lambda keys: pytest.fail("nothing is to be read") if keys else get(keys)
    for release in cut(frame_of(PAYMENTS, rows_of(range(0, 100, 3))), 5):
        task.give(*release)
    task.give([], 1000)
    task.commit()
    assert [k for k in writes if len(k) >= 8] == []
    assert len(task.committed.rows) == sum(1 for r in windows(rows_of(range(0, 100, 3)), 10, 0, 0, 0)[0])


def test_nothing_touches_the_store_in_process():
    task = Task(Window(tumbling(10), [agg.count()]), PAYMENTS)
    store = task.context.store("windows")
    store.put_many = store.get_many = store.scan = None  # type: ignore[assignment]
    for release in cut(frame_of(PAYMENTS, rows_of(range(100))), 5):
        task.give(*release)


def test_rows_for_a_window_that_was_closed_are_late_whatever_their_own_watermark():
    """A channel that was idle comes back: its rows carry an old watermark."""
    for restart in (False, True):
        task = Task(Window(tumbling(10), [agg.count()]), PAYMENTS)
        task.give([(0, frame_of(PAYMENTS, rows_of([5])))], 30)
        task.commit()
        if restart:
            task.open()
        task.give([(0, frame_of(PAYMENTS, rows_of([25, 35]), disorder=50))], 30)
        task.commit()
        assert [r["at"] for r in task.committed.side("late")] == [25]
        task.give([], FOREVER)
        task.commit()
        assert [r["window_start"] for r in task.committed.rows] == [0, 30]


def test_many_rows_are_compacted(monkeypatch):
    monkeypatch.setattr("operators.aggregate._ROWS", 50)
    monkeypatch.setattr("operators.aggregate._PARTIAL", 20)
    rows = rows_of([i // 3 for i in range(3000)], cards=[f"c{i}" for i in range(97)])
    assert run(Window(tumbling(100), ALL), PAYMENTS, rows, size=40, end=True).rows == windows(rows, 100, 0, 0, 0)[0]


def last(made):
    """The promise of emit="commit": the last row of each key and window."""
    rows = {(r["window_start"], r["card"]): r for r in made.rows}
    return {"rows": [rows[k] for k in sorted(rows, key=str)], "late": made.late, "dead": made.dead}


def test_emit_at_commits():
    rows = rows_of([(i * 37) % 90 + i * 5 for i in range(200)])
    window = Window(tumbling(60), ALL, lateness=20, emit="commit")
    made = check(window, PAYMENTS, rows, disorder=30, summary=last)
    want, _ = windows(rows, 60, 0, 20, 30)
    assert last(made)["rows"] == sorted(want, key=lambda r: str((r["window_start"], r["card"])))

    task = Task(Window(tumbling(10), [agg.count()], emit="commit"), PAYMENTS)
    counts = []
    for at, watermark in ((1, 1), (2, 2), (None, 5), (3, 12), (None, 50)):
        task.give([(0, frame_of(PAYMENTS, rows_of([at], "a"), disorder=9))] if at else [], watermark)
        task.commit()
        counts.append(task.committed.column("count"))
        task.open()
    assert counts == [[1], [1, 2], [1, 2], [1, 2, 3], [1, 2, 3]]  # unchanged ones are not repeated
    assert [k for k in task.stores["windows"].data if len(k) >= 8] == []


def test_sums_over_64_bits_are_dead_letters_and_others_go_on():
    big = 2**62
    rows = rows_of([1, 2, 3, 4, 5, 6, 7], "a", [big, big, big, -big, big, -big, -big])
    rows += rows_of([8, 9], "b", [big, big])
    made = check(Window(tumbling(10), [agg.sum("amount"), agg.mean("amount")]), PAYMENTS, rows)
    assert made.column("sum_amount") == [2**62]
    ((about, cause),) = made.dead
    assert "'card': 'b'" in about
    assert cause == "op: OverflowError: sum('amount') is over 64 bits"


def test_extreme_values_and_floats():
    rows = rows_of([1, 2, 3], "a", [-(2**63), None, 2**63 - 1])
    rows[0]["ratio"], rows[1]["ratio"], rows[2]["ratio"] = float("nan"), -0.5, 1e308
    made = run(
        Window(
            tumbling(10),
            [
                agg.min("amount"), agg.max("amount"), agg.sum("amount"), agg.min("ratio"), agg.max("ratio"),
                agg.sum("flag"), agg.sum("ratio"), agg.mean(col("amount") * 0 + 3),
            ],
        ),
        PAYMENTS, rows, end=True,
    )  # fmt: skip
    (row,) = made.rows
    assert (row["min_amount"], row["max_amount"], row["sum_amount"]) == (-(2**63), 2**63 - 1, -1)
    assert (row["min_ratio"], row["max_ratio"], row["sum_flag"], row["mean_amount"]) == (-0.5, 1e308, 3, 3.0)
    assert row["sum_ratio"] != row["sum_ratio"]


def test_arguments_that_fail_are_dead_letters():
    class Note(Schema):
        card: str
        at: EventTime
        text: str

    rows = [Note("a", i, "oops" if i == 3 else str(i)) for i in range(9)]
    window = Window(tumbling(10), [agg.sum(col("text").str.to_integer()).alias("total")])
    made = check(window, stream(Note, key="card"), rows)
    assert made.column("total") == [33]
    assert [about for about, _ in made.dead] == ["record 3"]


class Variance(Aggregator):
    """An aggregator as a user writes it."""

    def parts(self, value):
        x = value.expr.cast(pl.Float64)
        return [
            Part("n", value.expr.is_not_null().cast(pl.Int64), SUM, "<i8"),
            Part("sum", x.fill_null(0.0), SUM, "<f8"),
            Part("squares", (x * x).fill_null(0.0), SUM, "<f8"),
        ]

    def field(self, value):
        return Field(pl.Float64(), nullable=True, python=float | None)

    def result(self, n, total, squares):
        count = n.clip(1)
        return nulls(squares / count - (total / count) ** 2, n > 0)


def test_an_aggregator_of_one_s_own():
    rows = rows_of(range(8), "a", [2, 4, 4, 4, 5, 5, 7, 9]) + rows_of([9], "b", [None])
    made = check(Window(tumbling(10), [Variance("amount").alias("spread")]), PAYMENTS, rows)
    assert made.column("spread") == [4.0, None]


def test_composite_keys_and_types():
    class Event(Schema):
        user: int
        shop: bytes
        card: str | None
        at: EventTime

    rows = [Event(i % 3 - 1, b"\x00\xff"[: i % 2 + 1], ["x", None][i % 2], i) for i in range(50)]
    for key in (("user", "shop", "card"), ("user",), ("shop",), ("card",)):
        made = check(Window(tumbling(7), [agg.count()]), stream(Event, key=key), rows)
        want = {}
        for r in rows:
            k = (*(getattr(r, c) for c in key), r.at // 7 * 7)
            want[k] = want.get(k, 0) + 1
        assert {(*(r[c] for c in key), r["window_start"]): r["count"] for r in made.rows} == want


def test_types():
    type_ = Window(tumbling("1m"), ALL).bind(PAYMENTS)
    assert type_.columns == ["card", "window_start", "window_end", "n", "some", "total", "least", "most", "mean"]
    assert type_.key == ("card",)
    assert type_.time
    assert [f.nullable for f in type_.fields.values()] == [True, False, False, False, False, False, True, True, True]
    window = Window(tumbling("1m"), [agg.sum(col("amount") * 2).alias("x"), agg.sum("ratio")])
    assert window.needs({"x"}, 0, [PAYMENTS]) == {"card", "amount", "ratio"}
    assert window.needs({"x", "flag"}, 0, [PAYMENTS]) == {"card", "amount", "ratio", "flag"}
    assert window.bind_side("late", PAYMENTS) is PAYMENTS
    assert [a.output for a in window.aggregations] == ["x", "sum_ratio"]
    assert repr(window.aggregations[1]) == "sum('ratio')"


class Untimed(Schema):
    card: str
    amount: int


@pytest.mark.parametrize(
    ("make", "type_", "error", "text"),
    [
        (lambda: Window(tumbling("1m"), [agg.sum("amuont")]), PAYMENTS, UnknownColumn, "did you mean 'amount'"),
        (lambda: Window(tumbling("1m"), [agg.sum("card")]), PAYMENTS, WrongType, "takes numbers, this is String"),
        (lambda: Window(tumbling("1m"), [agg.min("flag")]), PAYMENTS, WrongType, "takes numbers"),
        (lambda: Window(tumbling("1m"), [agg.sum(col("card").hash())]), PAYMENTS, WrongType, "cast it"),
        (lambda: Window(tumbling("1m"), [agg.sum(col("amount").max())]), PAYMENTS, WrongType, "not row-wise"),
        (lambda: Window(tumbling("1m"), [agg.count(), agg.count()]), PAYMENTS, WrongType, "two aggregations"),
        (lambda: Window(tumbling("1m"), [agg.count().alias("card")]), PAYMENTS, WrongType, "one name"),
        (lambda: Window(tumbling("1m"), agg.count()), PAYMENTS, WrongType, "a list of aggregators"),
        (lambda: Window(tumbling("1m"), [agg.count]), PAYMENTS, WrongType, "a list of aggregators"),
        (lambda: Window(tumbling("1m"), [agg.count()]), stream(Payment), NoKey, "KeyBy"),
        (lambda: Window(tumbling("1m"), [agg.count()]), stream(Untimed, key="card"), NoEventTime, "EventTime"),
        (lambda: Window(tumbling("0s"), [agg.count()]), PAYMENTS, WrongType, "above 0"),
        (lambda: Window("1m", [agg.count()]), PAYMENTS, WrongType, "no windows"),
        (lambda: Window(tumbling("1m"), [agg.count()], emit="now"), PAYMENTS, WrongType, "commit"),
        (lambda: Window(tumbling("1m"), [agg.count()], lateness="soon"), PAYMENTS, WrongType, "duration"),
    ],
)
def test_wrong_programs_do_not_build(make, type_, error, text):
    with pytest.raises(error, match=text):
        make().bind(type_)


def test_windows_behind_windows_lose_nothing():
    """The second window gets its rows at commits, wherever these fall, and none of them is late."""
    rows = rows_of([(i * 37) % 90 + i * 5 for i in range(200)])
    first = Window(tumbling(20), [agg.sum("amount").alias("total")], lateness=10)
    second = Window(tumbling(100), [agg.sum("total").alias("all"), agg.count()])
    results = []
    for size, every in ((1, 1), (7, 3), (13, 1), (1000, 1)):
        upper = Task(first, PAYMENTS)
        lower = Task(second, upper.output)
        for number, (frames, watermark) in enumerate(cut(frame_of(PAYMENTS, rows, 30), size)):
            _both(upper, lower, frames, watermark, number % every == 0)
        _both(upper, lower, [], FOREVER, True)
        assert lower.committed.late == 0
        results.append(lower.committed.rows)
    for other in results[1:]:
        same(results[0], other, "windows behind windows")


def _both(upper, lower, frames, watermark, commit):
    """As a chain does it: rows, then the watermark less what is held, then the commit."""
    upper.give(frames, watermark)
    lower.give([], watermark - upper.operator.hold())
    if commit:
        drained = upper.operator.drain()
        if drained is not None:
            lower.give([(0, drained.frame)], None)
        lower.commit()


def test_open_finds_the_windows_that_are_stored():
    task = Task(Window(tumbling(10), [agg.count()]), PAYMENTS)
    drive(task, cut(frame_of(PAYMENTS, rows_of([-25, 5, 7, 31]), 100), 10))
    assert task.operator._store.starts == {-30, 0, 30}
    task.open()
    assert task.operator._store.starts == {-30, 0, 30}


@pytest.mark.parametrize(
    "other",
    [
        Window(tumbling(20), [agg.count().alias("x")]),
        Window(tumbling(10, offset=1), [agg.count().alias("x")]),
        Window(tumbling(10), [agg.sum("amount").alias("x")]),
        Window(tumbling(10), [agg.count("amount").alias("x")]),
    ],
)
def test_state_of_another_program_is_refused(other):
    task = Task(Window(tumbling(10), [agg.count().alias("y")]), PAYMENTS)
    drive(task, cut(frame_of(PAYMENTS, rows_of([5])), 1))
    same_rows = Task(Window(tumbling(10), [agg.count().alias("x")]), PAYMENTS)
    same_rows.stores = task.stores
    same_rows.open()
    wrong = Task(other, PAYMENTS)
    wrong.stores = task.stores
    with pytest.raises(StateMismatch, match="the operator has changed"):
        wrong.open()


def test_a_batch_of_which_every_row_fails():
    window = Window(tumbling(10), [agg.sum(col("card").str.to_integer()).alias("x")])
    made = check(window, PAYMENTS, rows_of([1, 2, 30, 31], "ab"))
    assert made.rows == []
    assert len(made.dead) == 4


def test_rows_behind_a_window_are_objects_too():
    class Busy(Schema):
        card: str

    type_ = Window(tumbling(10), ALL).bind(PAYMENTS)
    values = dict.fromkeys(type_.columns, 1) | {"card": "a", "mean": 1.0}
    frame = pl.DataFrame({n: pl.Series(n, [values[n]], dtype=f.dtype) for n, f in type_.fields.items()})
    frame = frame.with_columns(pl.lit(0, pl.Int64).alias("$time"), pl.lit(0, pl.Int64).alias("$watermark"))
    assert run(MapRows(lambda r: Busy(f"{r.card}{r.window_end}"), returns=Busy), type_, frame).column("card") == ["a1"]


def test_process_of_late_rows_only():
    task = Task(Window(tumbling(10), [agg.count()]), PAYMENTS)
    frame = frame_of(PAYMENTS, rows_of([5])).with_columns(pl.lit(10).alias("$watermark"))
    assert task.operator.process(Batch(frame)) is None
    assert task.operator.drain() is None
