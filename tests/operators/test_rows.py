"""MapRows, FlatMap and MapFrame."""

import numpy as np
import polars as pl
import pytest

from operators import FlatMap, MapFrame, MapRows, WithColumns, col
from streams.core.errors import UnknownColumn, WrongType
from streams.core.schema import EventTime, Schema
from tests.operators.checks import check, frame_of, run, stream


class Payment(Schema):
    card: str
    at: EventTime
    amount: int


class Out(Schema):
    card: str
    number: int
    ratio: float = 0.5
    note: str | None = None
    tags: list[int] = []  # noqa: RUF012 - msgspec copies it
    raw: bytes = b""
    flag: bool = False


class Timed(Schema):
    when: EventTime


PAYMENTS = stream(Payment, key="card")
ROWS = [Payment(f"c{i % 5}", i * 10, i) for i in range(60)]


def odd(row: Payment) -> Out | None:
    if row.amount == 13:
        raise ValueError("unlucky")
    if row.amount == 21:
        return "no row"  # type: ignore[return-value]
    if row.amount == 33:
        return Out(row.card, "three")  # type: ignore[arg-type]
    return Out(row.card, row.amount, tags=[row.amount], raw=b"\xff", flag=True) if row.amount % 2 else None


def test_map_rows():
    made = check(MapRows(odd, returns=Out), PAYMENTS, ROWS)
    assert made.column("number") == [i for i in range(60) if i % 2 and i not in (13, 21, 33)]
    assert made.dead == [
        ("record 13", "op: ValueError: unlucky"),
        ("record 21", "op: TypeError: expected Out, got str 'no row'"),
        ("record 33", "op: TypeError: number: expected int, got str 'three'"),
    ]


def test_rows_are_instances_of_the_stream_s_schema():
    seen = []
    run(MapRows(lambda row: seen.append(row), returns=Out), PAYMENTS, ROWS[:2])
    assert seen == ROWS[:2]


def test_rows_of_computed_columns():
    type_ = WithColumns(double=col("amount") * 2).bind(PAYMENTS)
    frame = frame_of(PAYMENTS, ROWS[:3]).with_columns(double=col("amount") * 2)
    made = run(MapRows(lambda r: Out(r.card, r.double), returns=Out), type_, frame)
    assert made.column("number") == [0, 2, 4]


def test_flat_map():
    def several(row: Payment):
        for i in range(row.amount % 3):
            yield Out(row.card, i if row.amount != 5 or i == 0 else None)  # type: ignore[arg-type]
            if row.amount == 8:
                raise KeyError("half way")

    made = check(FlatMap(several, returns=Out), PAYMENTS, ROWS)
    want = [i for r in ROWS for i in range(r.amount % 3) if r.amount not in (5, 8)]
    assert made.column("number") == want
    assert made.dead == [
        ("record 5", "op: TypeError: number: null in a column without nulls"),
        ("record 8", "op: KeyError: 'half way'"),
    ]


def test_map_frame():
    class Odd(Schema):
        card: str
        number: int
        tags: list[int]

    def columns(frame: pl.DataFrame) -> pl.DataFrame:
        if 13 in frame["amount"]:
            raise ValueError("unlucky")
        picked = frame.with_row_index("row").filter(pl.col("amount") % 2 == 1)
        return picked.select("row", "card", number="amount", tags=pl.concat_list("amount"))

    made = check(MapFrame(columns, returns=Odd), PAYMENTS, ROWS)
    assert made.column("number") == [i for i in range(1, 60, 2) if i != 13]
    assert made.column("tags")[0] == [1]
    assert made.full[1]["$time"] == 30
    assert made.dead == [("record 13", "op: ValueError: unlucky")]


def test_map_frame_that_keeps_rows_or_gives_nonsense():
    class N(Schema):
        n: int

    def make(function):
        return run(MapFrame(function, returns=N), PAYMENTS, ROWS[:4])

    assert make(lambda f: f.select(n=pl.col("amount").cast(pl.Int32))).column("n") == [0, 1, 2, 3]
    assert make(lambda f: f.select(n="amount", row=pl.Series(range(f.height), dtype=pl.UInt32))).dead == []
    doubled = make(lambda f: pl.concat([f, f]).select(n="amount", row=pl.lit(0, pl.UInt32)).head(2))
    assert doubled.column("n") == [0, 1]
    for wrong in (
        lambda f: f.select(m="amount"),
        lambda f: f.select(n="card"),
        lambda f: f.select(n=pl.col("amount") / 2),
        lambda f: f.select(n=pl.lit(None, pl.Int64)),
        lambda f: 5,
        lambda f: f.select(n="amount", row=pl.lit(7, pl.UInt32)),
        lambda f: f.select(n="amount", row=pl.lit(0)),
    ):
        made = make(wrong)
        assert made.rows == []
        assert [about for about, _ in made.dead] == [f"record {i}" for i in range(4)]


def test_event_time_comes_from_the_output_s_schema():
    made = run(MapRows(lambda r: Timed(r.at + 5), returns=Timed), PAYMENTS, ROWS[:2], disorder=3)
    assert made.full == [
        {"when": 5, "$time": 5, "$watermark": -3},
        {"when": 15, "$time": 15, "$watermark": 7},
    ]
    made = run(MapRows(lambda r: Timed(2**62), returns=Timed), PAYMENTS, ROWS[:1])
    assert made.dead == [("record 0", f"op: TypeError: when: implausible event time {2**62}")]


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("number", True, "expected int, got bool"),
        ("number", 1.0, "expected int, got float"),
        ("number", 2**63, "over 64 bits"),
        ("number", None, "null in a column without nulls"),
        ("ratio", "1", "expected float"),
        ("ratio", 10**400, "too large"),
        ("card", b"x", "expected str"),
        ("card", "\ud800", "is no text"),
        ("note", 5, "expected str"),
        ("tags", (1,), "expected list"),
        ("tags", [1, "a"], "expected int"),
        ("raw", "x", "expected bytes"),
        ("flag", 1, "expected bool"),
    ],
)
def test_outputs_are_checked(name, value, text):
    def make(row):
        values = {"card": row.card, "number": row.amount}
        return Out(**{**values, name: value} if row.amount == 1 else values)

    made = run(MapRows(make, returns=Out), PAYMENTS, ROWS[:3])
    assert made.column("number") == [0, 2]
    ((about, cause),) = made.dead
    assert about == "record 1"
    assert text in cause


def test_numbers_of_other_kinds_are_taken():
    made = run(MapRows(lambda r: Out(r.card, np.int32(7), ratio=3), returns=Out), PAYMENTS, ROWS[:1])
    assert made.rows[0]["number"] == 7
    assert made.rows[0]["ratio"] == 3.0


def test_the_key_is_lost_or_declared():
    assert MapRows(odd, returns=Out).bind(PAYMENTS).key == ()
    assert MapRows(odd, returns=Out, key="card").bind(PAYMENTS).key == ("card",)
    moved = FlatMap(lambda r: [Out(r.card, 1), Out("c9" if r.amount == 2 else r.card, 2)], returns=Out, key="card")
    made = run(moved, PAYMENTS, ROWS[:4])
    assert made.column("card") == ["c0", "c0", "c1", "c1", "c3", "c3"]
    assert [about for about, cause in made.dead if "changed the key" in cause] == ["record 2"]


def annotated_wrong(row: Payment) -> Payment:
    return row


@pytest.mark.parametrize(
    ("operator", "error", "text"),
    [
        (MapRows(odd), WrongType, "returns=MySchema"),
        (MapRows(odd, returns=dict), WrongType, "is not a schema"),
        (MapRows(lambda: None, returns=Out), WrongType, "one argument"),
        (MapRows(lambda a, b: None, returns=Out), WrongType, "one argument"),
        (MapRows(annotated_wrong, returns=Out), WrongType, "annotated to return Payment"),
        (MapRows(5, returns=Out), WrongType, "not a function"),
        (MapRows(odd, returns=Out, key="crad"), UnknownColumn, "did you mean 'card'"),
        (MapRows(odd, returns=Out, key=("card", "number")), WrongType, "KeyBy"),
    ],
)
def test_wrong_programs_do_not_build(operator, error, text):
    with pytest.raises(error, match=text):
        operator.bind(PAYMENTS)
