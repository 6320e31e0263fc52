"""The program that test_care looks after: every kind of store, and a shuffle."""

from operators import KeyBy, Keyed, Running, Value, Window, agg, tumbling
from streams import App, Batch, EventTime, Operator, Schema, StoreSpec


class Payment(Schema):
    card: str
    at: EventTime
    cents: int


class Nth(Schema):
    card: str
    at: EventTime
    n: int


class Count(Keyed[Payment, Nth]):
    n = Value(int, default=0)
    seen = Value(list[int], default=[], ttl="1h")
    key = "card"

    def on_row(self, row, ctx):
        self.n.set(self.n.get() + 1)
        self.seen.set([*self.seen.get(), row.cents])
        ctx.timer(row.at + 5)
        yield Nth(row.card, row.at, self.n.get())

    def on_timer(self, at, ctx):
        return None


class Own(Operator):
    """Keeps what no tool knows the form of."""

    stores = (StoreSpec("raw"),)

    def process(self, batch: Batch, port: int = 0) -> Batch:
        self.context.store("raw").put(b"\x00\x01", b"\x81\xa1n\x05")
        self.context.store("raw").put(b"plain", b"text")
        return batch


app = App("care")
payments = app.source("payments", Payment, key="card", start="earliest")
payments | Count().named("count") | app.sink("nth")
payments | Window(tumbling("1m"), [agg.sum("cents").alias("spent")]).named("minutes") | app.sink("minutes")
payments | KeyBy("card", "cents") | Running([agg.count().alias("times")]).named("times") | app.sink("times")
payments | Own().named("own") | app.sink("same")
