"""The records of the pipeline. Amounts are integer cents, so that sums are exact."""

from streams import EventTime, Schema


class Transaction(Schema):
    """An authorisation, in `tx.auth`, keyed by card."""

    transaction_id: int
    at: EventTime
    card_id: str
    terminal_id: str
    amount: int
    """Cents."""


class Label(Schema):
    """What became known of a transaction, in `tx.labels`, keyed by terminal: exactly 7 days after it.

    A record with `transaction_id` -1 says that all labels up to its time have been written (an end-of-day mark, as real
    label feeds have): without it a day without labels would hold back event time.
    """

    transaction_id: int
    at: EventTime
    terminal_id: str
    fraud: bool


class Alert(Schema):
    """A rule's alert, in `fraud.alerts`, keyed by card: one a transaction and reason."""

    transaction_id: int
    at: EventTime
    card_id: str
    amount: int
    reason: str
    """The rule's code: AMT_ABS, AMT_X_AVG, VEL_10M, VEL_1H or TERM_RISK."""
    value: float
    """What the rule measured."""
    threshold: float


class Truth(Schema):
    """The generator's truth, in `tx.truth`; the pipeline never reads it."""

    transaction_id: int
    at: EventTime
    scenario: int
    """0 genuine, 1 large amount, 2 compromised terminal, 3 leaked card."""
