"""The program that is killed: a shuffle, two inputs, timers, windows, late rows, running aggregates, bad records, and
files outside the log."""

import os
import tempfile

from operators import FileSink, Filter, KeyBy, Keyed, Running, Select, Value, Window, agg, tumbling
from streams import App, EventTime, Schema, col, connect
from tests.kill.data import LABELS, TX

NAME = os.environ.get("KILL_APP", "kill")
FILES = os.environ.get("KILL_FILES", f"{tempfile.gettempdir()}/kill-files")


class Tx(Schema):
    id: int
    at: EventTime
    card: str
    terminal: str
    amount: int


class Label(Schema):
    id: int
    at: EventTime
    terminal: str
    bad: bool


class Risk(Schema):
    terminal: str
    at: EventTime
    what: str
    id: int
    seen: int
    bad: int


class Watch(Keyed[Tx, Risk]):
    """Counts labels and payments of a terminal; a timer a minute after a payment forgets half of the bad labels."""

    inputs = ("label", "tx")
    seen = Value(int, default=0)
    bad = Value(int, default=0)

    def on_label(self, row, ctx):
        self.seen.set(self.seen.get() + 1)
        self.bad.set(self.bad.get() + row.bad)
        if row.bad:
            ctx.timer(row.at + 60_000)

    def on_tx(self, row, ctx):
        ctx.timer(row.at + 45_000)
        yield Risk(row.terminal, row.at, "tx", row.id, self.seen.get(), self.bad.get())

    def on_timer(self, at, ctx):
        self.bad.set(self.bad.get() // 2)
        yield Risk(ctx.key, at, "timer", -1, self.seen.get(), self.bad.get())


app = App(NAME, dead_letters=f"{NAME}.dead")
tx = app.source(TX, Tx, key="card", disorder="5s", start="earliest", idle="1h")
labels = app.source(LABELS, Label, key="terminal", start="earliest", idle="1h")

large = tx | Filter(col("amount") > 400)
large | app.sink(f"{NAME}.large")
large | app.write_to(FileSink(f"{FILES}/{NAME}"), name="files")
# Without the end marks: their keys belong to other partitions than they lie in, so their order is not promised.
running = tx | Filter(col("id") >= 0) | Running([agg.count().alias("n"), agg.sum("amount").alias("sum")])
running | app.sink(f"{NAME}.running")
minutes = tx | Window(tumbling("1m"), [agg.count().alias("n"), agg.max("amount").alias("most")], lateness="3s")
minutes | app.sink(f"{NAME}.minutes")
minutes.late | Select("id", "card") | app.sink(f"{NAME}.late", key="card")
connect(labels, tx | KeyBy("terminal")) | Watch() | app.sink(f"{NAME}.risk", key="terminal")
