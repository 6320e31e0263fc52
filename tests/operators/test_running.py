"""Running: against plain Python, with ties, nulls, huge and tiny numbers, however the input is cut."""

import random

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import Running, agg, col
from streams.core.errors import NoKey, StateMismatch, UnknownColumn, WrongType
from streams.core.schema import EventTime, Schema
from tests.operators.checks import Task, check, cut, drive, frame_of, merge, stream
from tests.operators.reference import running


class Payment(Schema):
    card: str | None
    at: EventTime
    amount: int | None
    ratio: float | None = 0.5


PAYMENTS = stream(Payment, key="card")
ALL = [
    agg.count().alias("n"),
    agg.count("amount").alias("some"),
    agg.sum("amount").alias("total"),
    agg.min("amount").alias("least"),
    agg.max("amount").alias("most"),
    agg.mean("amount").alias("mean"),
]


def rows_of(count, cards=5):
    draw = random.Random(7)
    return [
        {
            "card": draw.choice([*(f"c{i}" for i in range(cards)), None]),
            "at": i,
            "amount": draw.choice([None, draw.randint(-9, 9), draw.randint(-(2**50), 2**50)]),
            "ratio": draw.choice([None, draw.uniform(-1e6, 1e6), draw.uniform(-1e-6, 1e-6)]),
        }
        for i in range(count)
    ]


def test_shared_checks_and_the_answer():
    rows = rows_of(300)
    assert check(Running(ALL), PAYMENTS, rows).rows == running(rows)


def test_floats_are_added_in_the_order_of_rows_to_the_last_bit():
    rows = rows_of(400, cards=2)
    made = check(Running([agg.sum("ratio").alias("s"), agg.min("ratio").alias("m")]), PAYMENTS, rows)
    sums, least = {}, {}
    for row, got in zip(rows, made.rows, strict=True):
        value = row["ratio"]
        if value is not None:
            sums[row["card"]] = sums.get(row["card"], 0.0) + value
            least[row["card"]] = min(least.get(row["card"], value), value)
        assert (got["s"], got["m"]) == (sums.get(row["card"], 0.0), least.get(row["card"]))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "card": st.sampled_from(["a", "b", "", None]),
                "at": st.integers(-5, 5),
                "amount": st.none() | st.integers(-(2**57), 2**57) | st.integers(-2, 2),
                "ratio": st.none(),
            }
        ),
        max_size=40,
    ),
    st.data(),
)
def test_any_rows_any_cuts(rows, data):
    task = Task(Running(ALL), PAYMENTS, cache=data.draw(st.integers(0, 5)))
    left = frame_of(PAYMENTS, rows)
    while left.height:
        take = data.draw(st.integers(1, left.height))
        task.give(*cut(left.head(take), take)[0])
        left = left.slice(take)
        if data.draw(st.booleans()):
            task.commit()
            if data.draw(st.booleans()):
                task.open()
    task.commit()
    assert task.committed.rows == running(rows)


def test_extreme_integers():
    least, most = -(2**63), 2**63 - 1
    rows = [
        {"card": c, "at": i, "amount": a, "ratio": 0.5}
        for i, (c, a) in enumerate([("a", least), ("b", most), ("a", most)])
    ]
    made = check(Running([agg.min("amount"), agg.max("amount"), agg.sum("amount")]), PAYMENTS, rows)
    assert [(r["min_amount"], r["max_amount"], r["sum_amount"]) for r in made.rows] == [
        (least, least, least), (most, most, most), (least, most, -1),
    ]  # fmt: skip


def test_a_sum_over_64_bits_is_a_dead_letter_and_a_later_one_that_fits_is_right():
    big = 2**62
    rows = [{"card": "a", "at": i, "amount": a, "ratio": 0.5} for i, a in enumerate([big, big, big, -big, -big])]
    rows.insert(2, {"card": "b", "at": 2, "amount": 1, "ratio": 0.5})
    made = check(Running([agg.sum("amount").alias("s"), agg.mean("amount").alias("m")]), PAYMENTS, rows)
    assert made.column("s") == [big, 1, big]
    assert [about for about, _ in made.dead] == ["record 1", "record 3", "record 4"]
    assert made.dead[0][1] == "op: OverflowError: sum('amount').alias('s') is over 64 bits"


def test_expressions_and_failures():
    class Note(Schema):
        card: str
        text: str

    rows = [Note("a", "oops" if i == 3 else str(i)) for i in range(9)]
    made = check(Running([agg.sum(col("text").str.to_integer()).alias("s")]), stream(Note, key="card"), rows)
    assert made.column("s") == [0, 1, 3, 7, 12, 18, 25, 33]
    assert [about for about, _ in made.dead] == ["record 3"]
    assert list(made.rows[0]) == ["card", "text", "s"]


def test_count_alone_and_columns_that_nobody_reads():
    frame = frame_of(PAYMENTS, rows_of(10)).select("card", "$row")
    task = Task(Running([agg.count()]), PAYMENTS)
    task.give([(0, frame)], None)
    task.commit()
    assert task.committed.rows[-1].keys() == {"card", "count"}
    operator = Running([agg.sum("amount").alias("s")])
    assert operator.needs({"s", "ratio"}, 0, [PAYMENTS]) == {"amount", "card", "ratio"}
    assert operator.ordered


def test_state_of_keys_that_do_not_fit_in_memory():
    rows = rows_of(500, cards=60)
    task = Task(Running(ALL), PAYMENTS, cache=10)
    made = drive(task, cut(frame_of(PAYMENTS, rows), 23), every=1)
    assert made.rows == running(rows)
    assert len(task.operator._state) <= 10


def test_state_of_another_program_is_refused():
    task = Task(Running([agg.count()]), PAYMENTS)
    drive(task, cut(frame_of(PAYMENTS, rows_of(5)), 5))
    task.open()
    wrong = Task(Running([agg.sum("amount")]), PAYMENTS)
    wrong.stores = task.stores
    with pytest.raises(StateMismatch, match=r"count\[n<i8\]"):
        wrong.open()


def test_many_keys_of_one_batch_sort_by_wide_slots():
    rows = [{"card": f"c{i % 70_000}", "at": i, "amount": i % 7, "ratio": 0.5} for i in range(140_000)]
    frame = frame_of(PAYMENTS, rows)
    task = Task(Running([agg.count(), agg.sum("amount")]), PAYMENTS)
    made = drive(task, cut(frame, 140_000))
    assert made.column("count") == [1 + (i >= 70_000) for i in range(140_000)]
    assert made.column("sum_amount")[-1] == 69_999 % 7 + 139_999 % 7


def test_order_where_channels_meet_is_the_release_s():
    rows = rows_of(50)
    frames = [frame_of(PAYMENTS, rows[0::2]), frame_of(PAYMENTS, rows[1::2])]
    results = []
    for sizes in ((3, 5), (1, 1), (100, 7)):
        task = Task(Running(ALL), PAYMENTS, channels=2)
        for frames_, watermark in merge(frames, sizes):
            going = [f for _, f in frames_]
            joined = pl.concat(going).sort("$time", maintain_order=True) if going else None
            task.give([(0, joined)] if joined is not None else [], watermark)
        task.commit()
        results.append(task.committed.rows)
    assert results[0] == results[1] == results[2] == running(rows)


@pytest.mark.parametrize(
    ("aggregations", "type_", "error", "text"),
    [
        ([agg.sum("amuont")], PAYMENTS, UnknownColumn, "did you mean 'amount'"),
        ([agg.sum("card")], PAYMENTS, WrongType, "takes numbers"),
        ([agg.sum("amount").alias("card")], PAYMENTS, WrongType, "a column 'card' already"),
        ([agg.count()], stream(Payment), NoKey, "KeyBy"),
    ],
)
def test_wrong_programs_do_not_build(aggregations, type_, error, text):
    with pytest.raises(error, match=text):
        Running(aggregations).bind(type_)
