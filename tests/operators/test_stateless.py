"""Filter, Select and WithColumns."""

import re

import polars as pl
import pytest

from operators import Filter, Select, WithColumns, col, lit
from streams.core.errors import UnknownColumn, WrongType
from streams.core.schema import EventTime, Schema
from tests.operators.checks import check, frame_of, run, stream


class Payment(Schema):
    card: str
    at: EventTime
    amount: int
    note: str | None = None
    tags: list[int] = []  # noqa: RUF012 - msgspec copies it


def shown(value):
    """Without addresses: processes that share the tests must call them by the same names."""
    return re.sub(r" object at 0x\w+", "", repr(value))


PAYMENTS = stream(Payment, key="card")
ROWS = [Payment(f"c{i % 5}", i * 10 - 300, i * 7 % 50 - 10, None if i % 3 else str(i), [i, 2]) for i in range(100)]


@pytest.mark.parametrize(
    "operator",
    [
        Filter(col("amount") > 5),
        Filter(col("note").is_not_null() & col("card").is_in(["c1", "c2"])),
        Filter(lit(True)),
        Select("card", twice=col("amount") * 2),
        Select(col("amount"), one=lit(1)),
        Select(nothing=lit(None)),
        Select(pl.all()),
        WithColumns(large=col("amount") > 10, total=col("tags").list.sum()),
        WithColumns(col("amount").cast(pl.Float64)),
    ],
    ids=shown,
)
def test_shared_checks(operator):
    check(operator, PAYMENTS, ROWS)


def test_values_and_hidden_columns():
    made = run(Select("amount", half=col("amount") / 2), PAYMENTS, [Payment("a", 5, 3)], disorder=2)
    assert made.full == [{"amount": 3, "half": 1.5, "$time": 5, "$watermark": 3}]
    assert run(Filter(col("note") == "x"), PAYMENTS, [Payment("a", 5, 3), Payment("a", 5, 3, "x")]).column("note") == [
        "x"
    ]


def test_expressions_may_name_metadata_and_event_time():
    operator = Filter((col("$offset") > 5) & (col("$time") > col("$watermark")))
    assert operator.bind(PAYMENTS) is PAYMENTS
    assert operator.needs({"card"}, 0, [PAYMENTS]) == {"card", "$offset"}
    frame = frame_of(PAYMENTS, ROWS[:9], disorder=1).with_columns(pl.int_range(9).alias("$offset"))
    assert run(operator, PAYMENTS, frame).column("at") == [r.at for r in ROWS[6:9]]
    kept = Select(where=col("$partition"), key=col("$key"))
    assert kept.bind(PAYMENTS).fields["key"].dtype == pl.Binary
    assert kept.needs({"where"}, 0, [PAYMENTS]) == {"$partition"}


def test_key_is_kept_while_its_columns_are():
    assert Select("card", "amount").bind(PAYMENTS).key == ("card",)
    assert Select(pl.exclude("amount")).bind(PAYMENTS).key == ("card",)
    assert Select("amount").bind(PAYMENTS).key == ()
    assert Select(col("card").str.to_lowercase()).bind(PAYMENTS).key == ()
    assert Select(col("note").alias("card")).bind(PAYMENTS).key == ()
    assert Select(number=col("card")).bind(PAYMENTS).key == ()
    assert WithColumns(card=col("note")).bind(PAYMENTS).key == ()
    assert WithColumns(card=col("card")).bind(PAYMENTS).key == ("card",)
    assert WithColumns(other=col("card")).bind(PAYMENTS).key == ("card",)
    assert WithColumns(other=col("card")).bind(PAYMENTS).time


def test_needs_are_exact():
    select = Select("card", spent=col("amount") * 2, noted=col("note").is_null())
    assert select.needs({"spent"}, 0, [PAYMENTS]) == {"amount"}
    assert select.needs({"card", "noted", "$key"}, 0, [PAYMENTS]) == {"card", "note", "$key"}
    extended = WithColumns(amount=col("amount") + 1, noted=col("note").is_null())
    assert extended.needs({"card"}, 0, [PAYMENTS]) == {"card"}
    assert extended.needs({"amount", "noted"}, 0, [PAYMENTS]) == {"amount", "note"}
    assert Filter(col("amount") > 0).needs({"card"}, 0, [PAYMENTS]) == {"card", "amount"}


def test_columns_that_nobody_reads_may_be_missing():
    frame = frame_of(PAYMENTS, ROWS[:3]).drop("note", "card")
    assert run(Select("card", "amount", noted=col("note").is_null()), PAYMENTS, frame).frames[0].columns[0] == "amount"
    made = run(WithColumns(noted=col("note").is_null(), more=col("amount") + 1), PAYMENTS, frame)
    assert made.column("more") == [r.amount + 1 for r in ROWS[:3]]


@pytest.mark.parametrize(
    ("operator", "error", "text"),
    [
        (Filter(col("amuont") > 0), UnknownColumn, "did you mean 'amount'"),
        (Filter(col("$ofset") > 0), UnknownColumn, "did you mean '\\$offset'"),
        (Filter(col("amount") + 1), WrongType, "true or false"),
        (Filter(col("amount") > "x"), WrongType, "."),
        (Filter(lambda row: row.amount > 0), WrongType, "MapRows"),
        (Filter(col("amount") == col("amount").max()), WrongType, "not row-wise"),
        (Select("amuont"), UnknownColumn, "did you mean 'amount'"),
        (Select(col("amount").sum()), WrongType, "use Window"),
        (Select(x=col("amount") / col("amount").sum()), WrongType, "not row-wise"),
        (Select(pl.len()), WrongType, "not row-wise"),
        (Select(col("amount").filter(col("amount") > 1)), WrongType, "not row-wise"),
        (Select(col("tags").explode()), WrongType, "not row-wise"),
        (Select(col("amount"), col("card").alias("amount")), WrongType, "two columns are called 'amount'"),
        (Select(col("amount").alias("$x")), WrongType, r"\$x"),
        (Select(pl.all() * 2), WrongType, "one expression a column"),
        (Select(5), WrongType, "5 is not an expression"),
        (WithColumns(x=col("amount").shift()), WrongType, "not row-wise"),
        (WithColumns(x=col("amount").cum_sum()), WrongType, "not row-wise"),
        (WithColumns(x=col("amount").sum().over("card")), WrongType, "not row-wise"),
        (WithColumns(x=col("note").fill_null(strategy="forward")), WrongType, "not row-wise"),
        (WithColumns(x=col("amount").rank()), WrongType, "not row-wise"),
        (WithColumns(x=col("amount").str.to_uppercase()), WrongType, "."),
    ],
    ids=shown,
)
def test_wrong_programs_do_not_build(operator, error, text):
    with pytest.raises(error, match=text):
        operator.bind(PAYMENTS)


@pytest.mark.parametrize(
    "expr",
    [
        col("note").str.to_datetime("%Y-%m-%d"),
        col("note").str.to_integer(strict=False),
        pl.when(col("amount") > 1).then(col("card")).otherwise(lit("x")),
        pl.concat_str("card", "note"),
        pl.max_horizontal("amount", "at"),
        pl.fold(lit(0), lambda a, b: a + b, [col("amount"), col("at")]),
        col("tags").list.eval(pl.element() * 2),
        col("card").map_elements(lambda v: str(hash(v)), return_dtype=pl.String),
        pl.struct("card", "amount"),
        col("card").hash(),
    ],
    ids=str,
)
def test_row_wise_expressions_build(expr):
    assert list(Select(x=expr).bind(PAYMENTS).fields) == ["x"]


def test_rows_on_which_an_expression_fails_are_dead_letters():
    rows = [Payment("a", i, i, "oops" if i in (3, 64, 65) else str(i)) for i in range(100)]
    for operator in (
        Filter(col("note").str.to_integer() >= 0),
        Select(n=col("note").str.to_integer()),
        WithColumns(n=col("note").str.to_integer()),
    ):
        made = check(operator, PAYMENTS, rows)
        assert len(made.rows) == 97
        assert [(about, text.split(":")[:2]) for about, text in sorted(made.dead)] == [
            (f"record {i}", ["op", " ComputeError"]) for i in (3, 64, 65)
        ]


def test_one_instance_serves_two_streams():
    class Other(Schema):
        amount: float

    both = Select(pl.all())
    assert both.bind(PAYMENTS).columns == PAYMENTS.columns
    assert run(both, stream(Other), [Other(1.5)]).rows == [{"amount": 1.5}]
    assert len(run(both, PAYMENTS, ROWS[:2]).rows[0]) == 5
