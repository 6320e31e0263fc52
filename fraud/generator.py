"""A stream of card transactions with known frauds: the Fraud Detection Handbook's simulator, day by day.

The simulator is described in Le Borgne, Siblini, Lebichot and Bontempi, "Reproducible Machine Learning for
Credit Card Fraud Detection", chapter 3. This module is a new implementation of that description. With the
default `Profile` it yields the published data set: 1,754,155 transactions, of which 14,681 are frauds.

The published simulator draws one customer's half year after the other from globally seeded generators, then
sorts. Here every customer owns two generators with that customer's seed. They give the same draws in any order
of customers, so a day can be yielded as soon as it is drawn:

    customer 0   day 0 | day 1 | day 2 ...        a row is one pair of generators
    customer 1   day 0 | day 1 | day 2 ...        a column, sorted by time, is one frame
    ...

Only scenario 3 looks ahead: it picks among the next 14 days of three customers. Those three alone are drawn
that far, and what they drew waits in their queue.
"""

import random
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime

import numpy as np
import numpy.typing as npt
import polars as pl

Floats = npt.NDArray[np.float64]
_Place = tuple[int, int]  # a customer, and which of the customer's transactions of one day

DAY_S = 86_400
GRID = 100.0  # customers and terminals lie on a GRID x GRID square

LARGE_CENTS = 22_000  # scenario 1: every amount above is a fraud
TERMINALS_A_DAY, TERMINAL_DAYS = 2, 28  # scenario 2: so many terminals fall a day, for so long
CUSTOMERS_A_DAY, CUSTOMER_DAYS = 3, 14  # scenario 3: so many cards leak a day, for so long
LEAKED_SHARE = 3  # scenario 3: one in so many of the card's transactions is the thief's
LEAKED_FACTOR = 5  # scenario 3: the thief spends so many times the amount

SCHEMA = {
    "transaction_id": pl.Int64,
    "at": pl.Int64,
    "customer_id": pl.Int64,
    "terminal_id": pl.Int64,
    "amount": pl.Int64,
    "scenario": pl.Int8,
}


@dataclass(frozen=True)
class Profile:
    """How large a world to simulate. The defaults are the published data set.

    `radius` is how far a customer goes to a terminal, in units of the 100 x 100 grid. `start` is day 0, in UTC.
    Raises ValueError for a world too small to draw the day's victims from.

    >>> Profile().terminals
    10000
    >>> Profile(customers=2)
    Traceback (most recent call last):
    ValueError: a profile needs at least 3 customers, not 2
    """

    customers: int = 5000
    terminals: int = 10_000
    days: int = 183
    radius: float = 5.0
    start: date = date(2018, 4, 1)

    def __post_init__(self) -> None:
        if self.customers < CUSTOMERS_A_DAY:
            raise ValueError(f"a profile needs at least {CUSTOMERS_A_DAY} customers, not {self.customers}")
        if self.terminals < TERMINALS_A_DAY:
            raise ValueError(f"a profile needs at least {TERMINALS_A_DAY} terminals, not {self.terminals}")
        if self.days < 0:
            raise ValueError(f"a profile cannot have {self.days} days")


PUBLISHED = Profile()


@dataclass(frozen=True)
class Totals:
    """What a run of days amounts to. `by_scenario` counts the frauds labelled 1, 2 and 3; `cents` is the turnover."""

    transactions: int
    frauds: int
    by_scenario: tuple[int, int, int]
    cents: int


def days(profile: Profile = PUBLISHED) -> Iterator[pl.DataFrame]:
    """Yield the transactions of one day after the other, `profile.days` frames in all.

    Columns:
        transaction_id  Int64  0, 1, 2 ... over the whole run
        at              Int64  milliseconds since the epoch, UTC; whole seconds
        customer_id     Int64  0 to customers - 1
        terminal_id     Int64  0 to terminals - 1
        amount          Int64  cents
        scenario        Int8   the truth: 0 genuine, 1 large amount, 2 compromised terminal, 3 leaked card;
                               where several apply, the highest

    Guarantees: rows are in order of `at`, at equal times of customer_id. Frames depend on the profile alone;
    global random state is neither read nor changed. A day without transactions is an empty frame with the same
    columns. A day is computed when asked for; memory holds a pair of generators a customer and at most 14 days
    of the customers leaked lately. The last day has no new victims, and a leaked card's 14 days are cut at the
    end of the run, so a shorter run is not quite the prefix of a longer one.

    Source: the module's docstring.

    >>> first = next(days(Profile(customers=100)))
    >>> first.head(2).rows()
    [(0, 1522541276000, 2, 1365, 14600, 0), (1, 1522545060000, 8, 3665, 208, 0)]
    """
    return (frame.drop("applied") for frame in traced_days(profile))


def traced_days(profile: Profile = PUBLISHED) -> Iterator[pl.DataFrame]:
    """Yield the frames of `days` with a further column `applied` (Int8): the sum of 1, 2 and 4 for each of the
    scenarios 1, 2 and 3 that made the transaction a fraud, also where a later one overwrote the label.

    >>> frames = traced_days(Profile(customers=100))
    >>> next(frames).columns[-2:]
    ['scenario', 'applied']
    """
    customers = _customers(profile)
    ids = np.arange(profile.customers)
    midnight = int(datetime(profile.start.year, profile.start.month, profile.start.day, tzinfo=UTC).timestamp())
    fallen: deque[list[int]] = deque(maxlen=TERMINAL_DAYS)
    leaked: dict[int, list[_Place]] = {}
    next_id = 0
    for day in range(profile.days):
        victims_today = day < profile.days - 1
        fallen.append(_sample(profile.terminals, TERMINALS_A_DAY, day) if victims_today else [])
        if victims_today:
            horizon = min(CUSTOMER_DAYS, profile.days - day)
            chosen = [customers[i] for i in _sample(profile.customers, CUSTOMERS_A_DAY, day)]
            for offset, place in _leak(chosen, horizon, day):
                leaked.setdefault(day + offset, []).append(place)

        today = _Purchases()
        counts = np.fromiter((customer.next_day(today) for customer in customers), np.int64, len(customers))
        second = np.array(today.seconds, np.int64)
        terminal = np.array(today.terminals, np.int64)
        # The published amount is rounded to 2 decimals, half to even; its cents are this same integer.
        cents = np.rint(np.array(today.amounts, np.float64) * 100).astype(np.int64)

        large = cents > LARGE_CENTS  # before scenario 3 multiplies
        is_fallen = np.zeros(profile.terminals, np.bool_)
        is_fallen[[terminal_id for pair in fallen for terminal_id in pair]] = True
        first_row = np.cumsum(counts) - counts
        stolen_rows = np.array([first_row[customer] + nth for customer, nth in leaked.pop(day, [])], np.int64)
        stolen = np.zeros(len(cents), np.bool_)
        stolen[stolen_rows] = True
        np.multiply.at(cents, stolen_rows, LEAKED_FACTOR)  # as often as a row was drawn

        applied = large * 1 + is_fallen[terminal] * 2 + stolen * 4
        # Rows are by customer so far: a stable sort leaves equal seconds in order of customer, then of drawing.
        order = np.argsort(second, kind="stable")
        yield pl.DataFrame(
            {
                "transaction_id": np.arange(next_id, next_id + len(order)),
                "at": (midnight + day * DAY_S + second[order]) * 1000,
                "customer_id": np.repeat(ids, counts)[order],
                "terminal_id": terminal[order],
                "amount": cents[order],
                "scenario": np.array([0, 1, 2, 2, 3, 3, 3, 3])[applied[order]],
                "applied": applied[order],
            },
            schema={**SCHEMA, "applied": pl.Int8},
        )
        next_id += len(order)


def totals(frames: Iterable[pl.DataFrame]) -> Totals:
    """Count what `days` yields, one frame in memory at a time.

    >>> totals(days(Profile(customers=100, days=30)))
    Totals(transactions=5255, frauds=565, by_scenario=(2, 16, 547), cents=44222081)
    """
    labels, cents = np.zeros(4, np.int64), 0
    for frame in frames:
        labels += np.bincount(frame["scenario"].to_numpy(), minlength=4)
        cents += int(frame["amount"].sum())
    _, first, second, third = (int(count) for count in labels)
    return Totals(int(labels.sum()), first + second + third, (first, second, third), cents)


class _Purchases:
    """Transactions in the order they were drawn, as parallel lists; amounts are not rounded yet."""

    __slots__ = ("amounts", "seconds", "terminals")

    def __init__(self) -> None:
        self.seconds: list[int] = []
        self.amounts: list[float] = []
        self.terminals: list[int] = []


class _Customer:
    """One card holder: a place's terminals, habits, and the two generators that decide each day.

    Days come in order from `next_day`; `look_ahead` draws some in advance without changing what comes.
    """

    __slots__ = ("_ahead", "_choices", "_mean", "_numbers", "_rate", "_terminals", "customer_id")

    def __init__(self, customer_id: int, mean: float, rate: float, terminals: list[int]) -> None:
        self.customer_id = customer_id
        self._mean = mean
        self._rate = rate
        self._terminals = terminals
        self._numbers = np.random.RandomState(customer_id)
        self._choices = random.Random(customer_id)
        self._ahead: deque[_Purchases] = deque()

    def next_day(self, into: _Purchases) -> int:
        """Append the next day's transactions and return how many they are."""
        if not self._ahead:
            return self._draw(into)
        day = self._ahead.popleft()
        into.seconds += day.seconds
        into.amounts += day.amounts
        into.terminals += day.terminals
        return len(day.seconds)

    def look_ahead(self, count: int) -> list[_Purchases]:
        """The next `count` days, left in place for `next_day`."""
        while len(self._ahead) < count:
            day = _Purchases()
            self._draw(day)
            self._ahead.append(day)
        return [self._ahead[i] for i in range(count)]

    def _draw(self, into: _Purchases) -> int:
        terminals = self._terminals
        if not terminals:
            return 0  # nowhere to buy; nobody else shares the draws left out
        # The order of draws is the data set: count; then for each time, amount, perhaps a second amount, terminal.
        # loc + scale * standard_normal() is what normal(loc, scale) computes, at half the cost of the call.
        normal, choice, mean = self._numbers.standard_normal, self._choices.choice, self._mean
        deviation = mean / 2
        kept = 0
        for _ in range(self._numbers.poisson(self._rate)):
            second = int(43_200.0 + 20_000.0 * normal())
            if 0 < second < DAY_S:
                amount = mean + deviation * normal()
                if amount < 0:
                    amount = mean * 2 * self._numbers.random_sample()
                into.seconds.append(second)
                into.amounts.append(amount)
                into.terminals.append(choice(terminals))
                kept += 1
        return kept


def _customers(profile: Profile) -> list[_Customer]:
    """All customers, each drawn as x, y, mean amount, mean transactions a day."""
    drawn = np.random.RandomState(0).random_sample((profile.customers, 4))
    x, y = drawn[:, 0] * GRID, drawn[:, 1] * GRID
    means = (5 + 95 * drawn[:, 2]).tolist()
    rates = (4 * drawn[:, 3]).tolist()
    near = _terminals_near(x, y, profile)
    return [_Customer(i, means[i], rates[i], terminals) for i, terminals in enumerate(near)]


def _terminals_near(x: Floats, y: Floats, profile: Profile) -> Iterator[list[int]]:
    """For each customer's place, the terminals nearer than the radius, in ascending order."""
    places = np.random.RandomState(1).random_sample((profile.terminals, 2)) * GRID
    by_x = np.argsort(places[:, 0])
    terminal_x, terminal_y = places[by_x, 0], places[by_x, 1]
    # A strip by x leaves few distances to compute. It is wider than needed, so that rounding cannot matter.
    left = np.searchsorted(terminal_x, x - profile.radius - 1)
    right = np.searchsorted(terminal_x, x + profile.radius + 1)
    for i in range(len(x)):
        strip = slice(left[i], right[i])
        distance = np.sqrt((x[i] - terminal_x[strip]) ** 2 + (y[i] - terminal_y[strip]) ** 2)
        yield np.sort(by_x[strip][distance < profile.radius]).tolist()


def _sample(population: int, size: int, day: int) -> list[int]:
    """The day's victims: what a data frame's `sample(size, random_state=day)` picks of range(population)."""
    picked = np.random.RandomState(day).choice(population, size, replace=False)
    return [int(i) for i in picked]


def _leak(chosen: list[_Customer], horizon: int, day: int) -> list[tuple[int, _Place]]:
    """Scenario 3: which of the chosen customers' next `horizon` days of transactions are the thief's.

    Returns pairs of days from now and place.
    """
    # 1. All their transactions, in order of transaction_id.
    candidates = sorted(
        (offset, second, customer.customer_id, nth)
        for customer in chosen
        for offset, purchases in enumerate(customer.look_ahead(horizon))
        for nth, second in enumerate(purchases.seconds)
    )
    # 2. A third of them. What is picked depends on the length alone, not on the elements.
    picked = random.Random(day).sample(candidates, len(candidates) // LEAKED_SHARE)
    return [(offset, (customer_id, nth)) for offset, _, customer_id, nth in picked]
