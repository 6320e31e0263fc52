"""A program with something to fail at every kind of place; SCALE mends it."""

from operators import KeyBy, Keyed, MapFrame, MapRows, Value, Window, agg, tumbling
from streams import App, EventTime, Schema, col

SCALE = 0
"""A test sets it to 1: then nothing fails any more."""


class Payment(Schema):
    card: str
    at: EventTime
    amount: int


class Ratio(Schema):
    card: str
    at: EventTime
    ratio: float


def ratio(row: Payment) -> Ratio:
    by = row.amount + SCALE
    return Ratio(row.card, row.at, 1 / by)


def by_frame(frame):
    if not SCALE and (frame["amount"] == 13).any():
        raise ValueError("unlucky")
    return frame.select("card", "at", ratio=col("amount") / 1.0)


def of_window(row) -> Ratio:
    return Ratio(row.card, row.window_start, 1 / (row.spent - 700 + SCALE))


class Steps(Keyed[Payment, Ratio]):
    last = Value(int)

    def on_row(self, row, ctx):
        before = self.last.get()
        if before == 77 and not SCALE:
            raise RuntimeError(f"after {before}")
        self.last.set(row.amount)
        yield Ratio(row.card, row.at, float(before or 0))


def make(name: str = "shop", topic: str = "payments") -> App:
    app = App(name)
    payments = app.source(topic, Payment, key="card", start="earliest")
    payments | MapRows(ratio, returns=Ratio) | app.sink("rows")
    payments | MapFrame(by_frame, returns=Ratio) | app.sink("frames")
    payments | KeyBy("amount") | KeyBy("card") | Steps() | app.sink("steps")
    sums = payments | Window(tumbling("1m"), [agg.sum("amount").alias("spent")])
    sums | MapRows(of_window, returns=Ratio) | app.sink("windows")
    return app


app = make()
