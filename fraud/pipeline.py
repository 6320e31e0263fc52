"""The card-fraud pipeline: payments and delayed labels in, alerts with reasons out.

streams run fraud.pipeline:app
streams topology fraud.pipeline:app
"""

from fraud.rules import CardHabits, TerminalRisk
from fraud.schemas import Alert, Label, Transaction
from operators import Filter, KeyBy, MapFrame, Window, agg, tumbling
from streams import App, col, connect

LARGE = 22_000  # cents

app = App("fraud", dead_letters="tx.dlq")

payments = app.source("tx.auth", Transaction, key="card_id", start="earliest", idle="2s")
labels = app.source("tx.labels", Label, key="terminal_id", start="earliest", idle="2s")
alerts = app.sink("fraud.alerts", key="card_id")


def too_large(frame):  # type: ignore[no-untyped-def]
    """The alert of a large amount, for all rows at once."""
    from polars import lit

    return frame.select(
        "transaction_id",
        "at",
        "card_id",
        "amount",
        lit("AMT_ABS").alias("reason"),
        col("amount").cast(float).alias("value"),
        lit(float(LARGE)).alias("threshold"),
    )


# What is unusual in itself.
payments | Filter(col("amount") > LARGE) | MapFrame(too_large, returns=Alert) | alerts

# What is unusual for the card.
payments | CardHabits().named("card-habits") | alerts

# What is unusual for the terminal: labels of the last week, as they become known.
by_terminal = payments | KeyBy("terminal_id").named("by-terminal")
known = labels | Filter(col("transaction_id") >= 0)
connect(known, by_terminal) | TerminalRisk().named("terminal-risk") | alerts

# What a card spends a day, for the analyst.
days = payments | Window(
    tumbling("1d"),
    [agg.count().alias("payments"), agg.sum("amount").alias("spent"), agg.max("amount").alias("largest")],
    lateness="1h",
).named("card-days")
days | app.sink("card.days")
days.late | app.sink("tx.late")
