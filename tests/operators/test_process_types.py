"""Keyed classes: keys, values and types; what does not build, and state that does not fit."""

import msgspec
import pytest

from operators import KeyBy, Keyed, Value
from streams.core.errors import NoEventTime, NoKey, OperatorError, StateMismatch, UnknownColumn, WrongType
from streams.core.schema import Schema
from tests.operators.checks import Task, check, cut, drive, frame_of, run, stream
from tests.operators.keyed_examples import LABELS, PAYMENTS, Expiring, Payment, Risk, Seen, Story, TimedSeen


def test_a_changed_key_is_an_error_where_the_class_says_it_keeps_it():
    class Moves(Keyed[Payment, Seen]):
        key = ("card",)

        def on_row(self, row, ctx):
            return [Seen("x", row.card if row.amount else "z", 1)]

    made = run(Moves(), PAYMENTS, [Payment("a", 1, 0), Payment("a", 1, 1)])
    assert made.column("card") == ["a"]
    assert "key= says" in made.dead[0][1]
    both = KeyBy("amount", "card").bind(PAYMENTS)

    class Both(Keyed[Payment, Payment]):
        key = ("amount", "card")

        def on_row(self, row, ctx):
            assert ctx.key == (row.amount, row.card)
            yield row

    made = check(Both(), both, [Payment("a", i, i % 3) for i in range(20)])
    assert len(made.rows) == 20


class Point(msgspec.Struct):
    x: int


@pytest.mark.parametrize(
    ("type_", "good", "bad"),
    [
        (int, 5, "5"), (int, -(2**63), 2**63), (int, 0, True), (float, 1, "x"), (str, "a", b"a"), (bytes, b"", ""),
        (bool, True, 1), (list[int], [1], ["a"]), (dict[str, int], {"a": 1}, [1]), (Point, Point(1), Point("x")),
        (tuple[int, str], (1, "a"), (1, 2)),
    ],
)  # fmt: skip
def test_values_of_a_wrong_type_fail_at_set(type_, good, bad):
    class Holds(Keyed[Payment, Seen]):
        held = Value(type_)

        def on_row(self, row, ctx):
            if row.amount == 0:
                self.held.set(good)
            elif row.amount == 1:
                self.held.set(bad)
            yield Seen(repr(self.held.get()), row.card, row.amount)

    rows = [Payment("a", i, i) for i in range(3)]
    made = run(Holds(), PAYMENTS, rows, size=1, every=1, reopen=True)
    good_text = repr(float(good) if type_ is float else good)
    assert made.column("what") == [good_text, good_text]
    ((about, cause),) = made.dead
    assert about == "record 1"
    assert cause.startswith("op: TypeError: held")


def test_state_that_does_not_fit_the_class_is_refused():
    class One(Keyed[Payment, Seen]):
        n = Value(int)

        def on_row(self, row, ctx):
            self.n.set(1)

    class Two(Keyed[Payment, Seen]):
        n = Value(str)
        more = Value(int, default=7)

        def on_row(self, row, ctx):
            yield Seen("x", row.card, self.more.get())

    class Three(Two):
        n = Value(int)

    task = Task(One(), PAYMENTS)
    drive(task, cut(frame_of(PAYMENTS, [Payment("a", 1, 1)]), 1))
    other = Task(Two(), PAYMENTS)
    other.stores = task.stores
    other.open()
    with pytest.raises(StateMismatch, match="another name"):
        other.give([(0, frame_of(PAYMENTS, [Payment("a", 2, 1)]))], 2)
    third = Task(Three(), PAYMENTS)
    third.stores = task.stores
    third.open()
    third.give([(0, frame_of(PAYMENTS, [Payment("a", 2, 1)]))], 2)
    third.commit()
    assert third.committed.column("number") == [7]


def test_timers_need_a_method_and_sense():
    class NoMethod(Keyed[Payment, Seen]):
        def on_row(self, row, ctx):
            ctx.timer(5)

    made = run(NoMethod(), PAYMENTS, [Payment("a", 1, 1)])
    assert "needs a method on_timer" in made.dead[0][1]

    class Endless(Keyed[Payment, Seen]):
        def on_row(self, row, ctx):
            ctx.timer(row.at if row.amount else "soon")

        def on_timer(self, at, ctx):
            ctx.timer(at)

    made = run(Endless(), PAYMENTS, [Payment("a", 1, 1), Payment("a", 3, 0)])
    assert sorted(made.dead) == [
        ("record 1", "op: TypeError: a timer's instant is an int (milliseconds), got str 'soon'"),
        ("{'card': 'a', 'timer': 1}", "op: ValueError: a timer at 1, set by one at 1, would never end: set it later"),
    ]


def test_values_belong_to_a_key():
    with pytest.raises(OperatorError, match="belongs to a key"):
        Expiring().last  # noqa: B018


def test_a_class_may_have_arguments_and_no_event_time():
    class Untimed(Schema):
        card: str
        amount: int

    class Above(Keyed[Untimed, Seen]):
        count = Value(int, default=0)

        def __init__(self, limit):
            self.limit = limit

        def on_row(self, row, ctx):
            if row.amount > self.limit:
                self.count.set(self.count.get() + 1)
                yield Seen("above", row.card, self.count.get())

    made = check(Above(5), stream(Untimed, key="card"), [Untimed("a", i) for i in range(20)])
    assert made.column("number") == list(range(1, 15))


def test_types_and_needs():
    class Narrow(Schema):
        amount: int

    class Takes(Keyed[Narrow, Seen]):
        def on_row(self, row, ctx):
            yield Seen("n", ctx.key, row.amount)

    assert Takes().needs({"what"}, 0, [PAYMENTS]) == {"amount", "card"}
    assert Takes().bind(PAYMENTS).key == ()
    assert Takes().bind(PAYMENTS).time
    assert Takes.stores == []
    assert [s.name for s in Story.stores] == ["values", "timers"]
    assert Risk().needs(set(), 1, [LABELS, PAYMENTS]) == {"card", "at", "amount"}
    assert run(Takes(), PAYMENTS, frame_of(PAYMENTS, [Payment("a", 1, 5)]).drop("at")).rows[0]["number"] == 5


def test_classes_built_on_classes_and_schemas_with_keywords():
    class Worded(Schema, kw_only=True):
        card: str
        amount: int = 0

    class Base(Keyed[Worded, Seen]):
        count = Value(int, default=0)
        returns = TimedSeen

        def on_row(self, row, ctx):
            self.count.set(self.count.get() + row.amount)
            yield TimedSeen(self.count.get(), row.amount)

    class Derived(Base):
        more = Value(int, default=5)

    assert Derived.returns is TimedSeen
    assert [v.name for v in Derived._values] == ["count", "more"]
    assert run(Derived(), stream(Worded, key="card"), [Worded(card="a", amount=3)] * 2).column("number") == [3, 6]
    with pytest.raises(WrongType, match="cannot be called 'key'"):

        class Reserved(Keyed[Worded, Seen]):
            key = Value(int)


def test_wrong_classes_do_not_build():
    class Nothing(Keyed):
        def on_row(self, row, ctx): ...

    class NoRow(Keyed[Payment, Seen]): ...

    class NoHandler(Keyed):
        inputs = ("a", "b")
        returns = Seen

    class Missing(Schema):
        amuont: int

    class TakesMissing(Keyed[Missing, Seen]):
        def on_row(self, row, ctx): ...

    class Other(Schema):
        amount: float

    class TakesOther(Keyed[Other, Seen]):
        def on_row(self, row, ctx): ...

    class BadKey(Keyed[Payment, Seen]):
        key = ("number", "card")

        def on_row(self, row, ctx): ...

    for make, types, error, text in [
        (Nothing, [PAYMENTS], WrongType, "returns = MySchema"),
        (NoRow, [PAYMENTS], WrongType, "no method on_row"),
        (NoHandler, [PAYMENTS, PAYMENTS], WrongType, "no method on_a"),
        (TakesMissing, [PAYMENTS], UnknownColumn, "did you mean 'amount'"),
        (TakesOther, [PAYMENTS], WrongType, "Float64"),
        (BadKey, [PAYMENTS], WrongType, "KeyBy"),
        (Story, [stream(Payment)], NoKey, "KeyBy"),
        (Expiring, [stream(Payment, key="card", time=False)], NoEventTime, "EventTime"),
        (Risk, [LABELS, stream(Payment, key="amount")], WrongType, "different types"),
    ]:
        with pytest.raises(error, match=text):
            make().bind(*types)
    with pytest.raises(WrongType, match="default"):
        Value(int, default="x")
    with pytest.raises(WrongType, match="cannot be kept"):
        Value(set[list[int]] | dict[int, str] | list[str] | tuple[int])
    with pytest.raises(WrongType, match="inputs"):
        type("Twice", (Keyed,), {"inputs": ("a", "a")})
