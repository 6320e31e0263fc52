"""Keyed classes that several test files drive."""

from operators import Keyed, Value
from streams.core.schema import EventTime, Schema
from tests.operators.checks import stream


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
