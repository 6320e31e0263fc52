"""Keyed classes: values, timers, several inputs, failures; against a model that takes one row after the other."""

import heapq

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import KeyBy, Keyed, Value
from streams.core.batch import Batch
from streams.core.errors import NoEventTime, NoKey, OperatorError, StateMismatch, UnknownColumn, WrongType
from streams.core.schema import EventTime, Schema
from streams.core.time import FOREVER
from tests.operators.checks import Numbered, Task, check, cut, drive, frame_of, run, same, stream


class Payment(Schema):
    card: str
    at: EventTime
    amount: int


class Seen(Schema):
    what: str
    card: str
    number: int


class TimedSeen(Schema):
    number: int
    when: EventTime


PAYMENTS = stream(Payment, key="card")


class Story(Keyed[Payment, Seen]):
    """Tells all that happens: counts rows, sets timers, cancels some."""

    count = Value(int, default=0)
    due = Value(int)

    def on_row(self, row, ctx):
        assert (ctx.key, ctx.time) == (row.card, row.at)
        number = (self.count.get() or 0) + 1
        self.count.set(number)
        yield Seen("row", row.card, number)
        if row.amount % 5 == 4:
            raise ValueError(f"bad {row.amount}")
        if row.amount % 3 == 0 and self.due.get() is not None:
            ctx.cancel(self.due.get())
            self.due.clear()
        if row.amount % 2:
            self.due.set(row.at + row.amount - 10)
            ctx.timer(row.at + row.amount - 10)

    def on_timer(self, at, ctx):
        assert (ctx.time, ctx.watermark) == (at, at)
        if at % 7 == 0:
            raise KeyError(at)
        yield Seen("timer", ctx.key, at)
        self.count.set(self.count.get() + 100)
        if at % 2:
            ctx.timer(at + 8)
        else:
            self.count.clear()


def story(rows, marks):
    """What Story must tell, and its dead letters: a timer fires before the first row whose watermark is above it."""
    count, due, timers, out, dead = {}, {}, set(), [], []

    def fire(before):
        while timers and min(timers)[0] < before:
            at, key = min(timers)
            timers.discard((at, key))
            card = key.decode()
            if at % 7 == 0:
                dead.append((str({"card": card, "timer": at}), f"op: KeyError: {at}"))
                continue
            out.append(("timer", card, at))
            if card not in count:
                count[card] = 0
            count[card] += 100
            if at % 2:
                timers.add((at + 8, key))
            else:
                del count[card]

    for i, (row, mark) in enumerate(zip(rows, marks, strict=True)):
        fire(mark)
        card = row["card"]
        if row["amount"] % 5 == 4:
            dead.append((f"record {i}", f"op: ValueError: bad {row['amount']}"))
            continue
        count[card] = count.get(card, 0) + 1
        out.append(("row", card, count[card]))
        if row["amount"] % 3 == 0 and card in due:
            timers.discard((due.pop(card), card.encode()))
        if row["amount"] % 2:
            due[card] = row["at"] + row["amount"] - 10
            timers.add((due[card], card.encode()))
    fire(FOREVER)
    return out, dead


def told(made):
    return [(r["what"], r["card"], r["number"]) for r in made.rows], sorted(made.dead)


def rows_of(count, cards="abé"):
    return [
        {"card": cards[i * 5 % len(cards)], "at": (i * 13) % 40 + i * 2 - 90, "amount": i * 11 % 31}
        for i in range(count)
    ]


def test_shared_checks_and_the_answer():
    rows = rows_of(150)
    frame = frame_of(PAYMENTS, rows, disorder=20)
    made = check(Story(), PAYMENTS, frame)
    out, dead = story(rows, frame["$watermark"].to_list())
    assert told(made) == (out, sorted(dead))
    assert any(what == "timer" for what, _, _ in out)
    assert len(dead) > 3


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"card": st.sampled_from("ab"), "at": st.integers(-30, 30), "amount": st.integers(0, 30)}
        ),
        max_size=25,
    ),
    st.integers(0, 30),
    st.integers(0, 3),
    st.data(),
)
def test_any_rows_any_cuts_any_commits_and_restarts(rows, disorder, cache, data):
    frame = left = frame_of(PAYMENTS, rows, disorder)
    task = Task(Story(), PAYMENTS, cache=cache)
    while left.height:
        take = data.draw(st.integers(1, left.height))
        task.give(*cut(left.head(take), take)[0])
        left = left.slice(take)
        match data.draw(st.sampled_from(["go on", "commit", "reopen"])):
            case "commit":
                task.commit()
            case "reopen":
                task.commit()
                task.open()
    task.give([], FOREVER)
    task.commit()
    out, dead = story(rows, frame["$watermark"].to_list())
    assert told(task.committed) == (out, sorted(dead))
    assert task.stores["timers"].data == {}


def test_hidden_columns_and_origins():
    made = []

    class Late(Keyed[Payment, TimedSeen]):
        def on_row(self, row, ctx):
            made.append((ctx.watermark, ctx.time))
            ctx.timer(row.at + 5)
            return [TimedSeen(row.amount, row.at + 1)]

        def on_timer(self, at, ctx):
            return TimedSeen(0, at)

    task = Task(Late(), PAYMENTS)
    frame = frame_of(PAYMENTS, [{"card": "a", "at": t, "amount": t} for t in (1, 20)], disorder=2)
    task.give([(0, frame)], 18)
    (out,) = task.context.made.frames
    assert out.select("when", "$time", "$watermark").rows() == [(2, 2, -1), (6, 6, 6), (21, 21, 18)]
    assert made == [(-1, 1), (18, 20)]
    task.give([], 100)
    assert task.context.made.frames[1].select("when", "$row").rows() == [(25, 0)]


def test_origins_tell_records_and_timers():
    class Late(Keyed[Payment, TimedSeen]):
        def on_row(self, row, ctx):
            ctx.timer(row.at + 5)
            yield TimedSeen(1, row.at)

        def on_timer(self, at, ctx):
            yield TimedSeen(2, at)

    task = Task(Late(), PAYMENTS)
    frame = frame_of(PAYMENTS, [{"card": "a", "at": t, "amount": t} for t in (1, 20)], first=40)
    batch = task.operator.process(Batch(frame, Numbered()))
    letters = [batch.origin.letter(r) for r in batch.frame["$row"]]
    assert [(x.topic, x.offset, x.value) for x in letters] == [
        ("in", 40, b""), ("", -1, b'{"timer":6,"key":"a"}'), ("in", 41, b""),
    ]  # fmt: skip
    batch = task.operator.advance(50)
    assert batch.origin.letter(batch.frame["$row"][0]).timestamp == 25


class Expiring(Keyed[Payment, Seen]):
    last = Value(int, ttl="20ms")
    words = Value(list[str], ttl=35, default=["none"])

    def on_row(self, row, ctx):
        words = self.words.get()
        words.append("lost unless it is set")
        yield Seen(",".join(self.words.get()), row.card, self.last.get() or -1)
        if row.amount % 3:
            self.last.set(row.at)
        if row.amount % 4 == 1:
            self.words.set([*self.words.get(), str(row.amount)][-3:])


def expiring(rows):
    last, words, out = {}, {}, []
    for row in rows:
        card, at = row["card"], row["at"]
        if card in last and at >= last[card][1]:
            del last[card]
        if card in words and at >= words[card][1]:
            del words[card]
        have = words.get(card, (["none"], 0))[0]
        out.append((",".join(have), card, last.get(card, (-1,))[0] or -1))
        if row["amount"] % 3:
            last[card] = (at, at + 20)
        if row["amount"] % 4 == 1:
            words[card] = ([*have, str(row["amount"])][-3:], at + 35)
    return out


def test_values_expire_by_event_time_and_their_space_is_freed():
    rows = sorted(rows_of(150), key=lambda r: r["at"])
    made = check(Expiring(), PAYMENTS, rows)
    assert told(made)[0] == expiring(rows)
    task = Task(Expiring(), PAYMENTS)
    for release in cut(frame_of(PAYMENTS, rows), 9):
        task.give(*release)
        task.commit()
        assert len(task.stores["timers"].data) <= 2 * 3
    task.give([], 10_000)
    task.commit()
    assert task.stores["values"].data == {}
    assert task.stores["timers"].data == {}


def test_disorder_does_not_bring_expired_values_back_in_one_cut_but_not_another():
    check(Expiring(), PAYMENTS, rows_of(150), disorder=25)


class Label(Schema):
    card: str
    at: EventTime
    fraud: bool


LABELS = stream(Label, key="card")


class Risk(Keyed):
    inputs = ("label", "payment")
    returns = Seen
    key = "card"
    frauds = Value(int, default=0)

    def on_label(self, row, ctx):
        self.frauds.set(self.frauds.get() + row.fraud)
        ctx.timer(row.at + 6)

    def on_payment(self, row, ctx):
        yield Seen("payment", row.card, self.frauds.get())

    def on_timer(self, at, ctx):
        yield Seen("timer", ctx.key, at)


def test_several_inputs_come_by_event_time_the_earlier_port_first():
    labels = [Label("ab"[i % 2], i * 3, i % 3 == 0) for i in range(40)]
    payments = [Payment("ab"[i % 2], (i * 7) % 12 + i * 2, i) for i in range(60)]
    frames = [frame_of(LABELS, labels), frame_of(PAYMENTS, payments, disorder=14)]
    made = check(Risk(), [LABELS, PAYMENTS], frames)
    frauds, timers, want = {}, [], []
    events = [(x.at, 0, x) for x in labels] + [(x.at, 1, x) for x in payments]
    for at, port, x in sorted(events, key=lambda e: e[:2]):  # stable
        while timers and timers[0][0] < at:
            due, card = heapq.heappop(timers)
            want.append(("timer", card, due))
        if port == 0:
            frauds[x.card] = frauds.get(x.card, 0) + x.fraud
            if (at + 6, x.card) not in timers:
                heapq.heappush(timers, (at + 6, x.card))
        else:
            want.append(("payment", x.card, frauds.get(x.card, 0)))
    want += [("timer", card, due) for due, card in sorted(timers)]
    assert told(made)[0] == want
    assert Risk().bind(LABELS, PAYMENTS).key == ("card",)


def test_late_rows_have_a_place_of_their_own_where_channels_meet():
    labels = [Label("ab"[i % 2], i * 3, i % 3 == 0) for i in range(40)]
    payments = [Payment("ab"[i % 2], (i * 7) % 40 + i * 2, i) for i in range(60)]
    check(Risk(), [LABELS, PAYMENTS], [frame_of(LABELS, labels), frame_of(PAYMENTS, payments, disorder=3)])


def test_two_branches_of_one_channel_come_by_record():
    frame = frame_of(PAYMENTS, rows_of(60), disorder=20)
    outs = []
    for size in (1, 7, 60):
        task = Task(Twins(), PAYMENTS, PAYMENTS)
        for ((_, piece),), mark in cut(frame, size):
            task.give([(0, piece), (1, piece.filter(piece["amount"] % 2 == 0))], mark, ONE)
        task.commit()
        outs.append(task.committed.summary())
    same(outs[0], outs[1], "7")
    same(outs[0], outs[2], "60")


class Origin:
    def letter(self, row):
        raise NotImplementedError


ONE = Origin()


class Twins(Keyed):
    inputs = ("left", "right")
    returns = Seen
    count = Value(int, default=0)

    def on_left(self, row, ctx):
        self.count.set(self.count.get() + 1)
        ctx.timer(row.at + 9)

    def on_right(self, row, ctx):
        yield Seen("right", row.card, self.count.get())

    def on_timer(self, at, ctx):
        self.count.set(self.count.get() * 2 % 1000)


def test_outputs_that_do_not_fit_undo_the_row():
    class Wrong(Keyed[Payment, Seen]):
        n = Value(int, default=0)

        def on_row(self, row, ctx):
            self.n.set(self.n.get() + 1)
            ctx.timer(row.at)
            yield Seen("ok", row.card, self.n.get())
            if row.amount == 2:
                yield Seen("wrong", row.card, "two")
            if row.amount == 3:
                yield row

        def on_timer(self, at, ctx):
            yield Seen("timer", ctx.key, at)

    rows = [{"card": "a", "at": i, "amount": i} for i in range(6)]
    made = check(Wrong(), PAYMENTS, rows)
    assert [n for what, _, n in told(made)[0] if what == "ok"] == [1, 2, 3, 4]
    assert [n for what, _, n in told(made)[0] if what == "timer"] == [0, 1, 4, 5]
    assert made.dead == [
        ("record 2", "op: TypeError: number: expected int, got str 'two'"),
        ("record 3", "op: TypeError: expected Seen, got Payment Payment(card='a', at=3, amount=3)"),
    ]


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
