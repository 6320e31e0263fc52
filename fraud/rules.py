"""The rules that need state. Each is a class with values by key; thresholds are class attributes, in plain sight."""

from fraud.schemas import Alert, Label, Transaction
from operators import Keyed, Value

DAY = 86_400_000
MINUTE = 60_000


class CardHabits(Keyed[Transaction, Alert]):
    """What is unusual for the card: an amount far above its habit, or many payments in a short time.

    AMT_X_AVG: the amount is above 3 times the mean of the prior 30 days, of which there are at least 5.
    VEL_10M, VEL_1H: so many payments within 10 minutes, within an hour, this one included.
    """

    factor, least = 3.0, 5
    in_10_minutes, in_1_hour = 4, 6

    history = Value(list[int])
    """Times and amounts in turn, of 30 days, oldest first."""

    def on_row(self, row, ctx):  # type: ignore[no-untyped-def]
        history = self.history.get() or []
        oldest = 0
        while oldest < len(history) and history[oldest] <= row.at - 30 * DAY:
            oldest += 2
        if oldest:
            del history[:oldest]
        count = len(history) // 2
        if count >= self.least:
            mean = sum(history[1::2]) / count
            if row.amount > self.factor * mean:
                yield self.alert(row, "AMT_X_AVG", row.amount / mean, self.factor)
        for reason, span, most in (("VEL_10M", 10, self.in_10_minutes), ("VEL_1H", 60, self.in_1_hour)):
            recent = 1
            for at in reversed(history[::2]):
                if at <= row.at - span * MINUTE:
                    break
                recent += 1
            if recent >= most:
                yield self.alert(row, reason, recent, most)
        history += [row.at, row.amount]
        self.history.set(history)

    @staticmethod
    def alert(row: Transaction, reason: str, value: float, threshold: float) -> Alert:
        return Alert(row.transaction_id, row.at, row.card_id, row.amount, reason, float(value), float(threshold))


class TerminalRisk(Keyed[Transaction, Alert]):
    """TERM_RISK: more than half of a terminal's payments whose labels came in the last 7 days were frauds.

    Labels come 7 days after their payment, as a second input, before payments of the same time. At least 3 are needed.
    """

    inputs = ("label", "payment")
    threshold, least = 0.5, 3

    labels = Value(list[int])
    """Times of labels and whether they say fraud, in turn, of 7 days, oldest first."""

    def on_label(self, row: Label, ctx):  # type: ignore[no-untyped-def]
        labels = self.labels.get() or []
        labels += [row.at, int(row.fraud)]
        self.labels.set(labels)

    def on_payment(self, row: Transaction, ctx):  # type: ignore[no-untyped-def]
        labels = self.labels.get() or []
        oldest = 0
        while oldest < len(labels) and labels[oldest] <= row.at - 7 * DAY:
            oldest += 2
        if oldest:
            del labels[:oldest]
            self.labels.set(labels)
        count = len(labels) // 2
        if count < self.least:
            return
        risk = sum(labels[1::2]) / count
        if risk > self.threshold:
            yield CardHabits.alert(row, "TERM_RISK", risk, self.threshold)
