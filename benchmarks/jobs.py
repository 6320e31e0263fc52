"""The three jobs of the benchmark, written with public operators only."""

from operators import Filter, Running, Select, Window, agg, tumbling
from streams import App, EventTime, Schema, col


class Transaction(Schema):
    """187 bytes of JSON; a job decodes only the fields that it reads."""

    transaction_id: str
    event_ts_ms: EventTime
    card_id: str
    terminal_id: str
    amount_minor: int
    currency: str
    mcc: str
    entry_mode: str
    merchant_country: str


def window(topic: str, out: str, name: str) -> App:
    """Job A: per card, tumbling windows of a minute: count, sum and maximum, written when the window closes."""
    app = App(name)
    transactions = app.source(topic, Transaction, key="card_id", start="earliest")
    spent = Window(
        tumbling("1m"),
        [
            agg.count().alias("count"),
            agg.sum("amount_minor").alias("sum"),
            agg.max("amount_minor").alias("max"),
        ],
    )
    transactions | spent | Select("card_id", "window_start", "count", "sum", "max") | app.sink(out)
    return app


def filter(topic: str, out: str, name: str) -> App:
    """Job B: keep 30 in 100, project four fields."""
    app = App(name)
    transactions = app.source(topic, Transaction, key="card_id", start="earliest")
    kept = transactions | Filter(col("amount_minor") > 5000)
    kept | Select("transaction_id", "card_id", "event_ts_ms", "amount_minor") | app.sink(out)
    return app


def running(topic: str, out: str, name: str) -> App:
    """Job C: per card running count, sum and maximum; one output a record."""
    app = App(name)
    transactions = app.source(topic, Transaction, key="card_id", start="earliest")
    aggregates = [
        agg.count().alias("count"),
        agg.sum("amount_minor").alias("sum"),
        agg.max("amount_minor").alias("max"),
    ]
    (
        transactions
        | Running(aggregates)
        | Select("transaction_id", "card_id", "event_ts_ms", "amount_minor", "count", "sum", "max")
        | app.sink(out)
    )
    return app


JOBS = {"A": window, "B": filter, "C": running}
