"""The generator against the published data set, and against a plain re-enactment with global random state."""

import hashlib
import random
from collections import Counter
from datetime import date
from itertools import islice

import numpy as np
import polars as pl
import pytest

from fraud import generator
from fraud.generator import PUBLISHED, SCHEMA, Profile, Totals, days, totals, traced_days

Row = tuple[int, int, int, int, int]  # at, customer, terminal, cents, scenario
CONTENT = ["at", "customer_id", "terminal_id", "amount", "scenario"]

# SHA-256 of the published data (Fraud-Detection-Handbook/simulated-data-raw): the CONTENT columns, amounts as
# round(TX_AMOUNT * 100), sorted by all of them in that order, row after row as little-endian 64-bit integers.
PUBLISHED_DIGEST = "1a8c58a73aacdca71ef6b6f650f2f2ac3b791d53498fb39584ebecee1a5120ea"

SMALL = [
    pytest.param(Profile(customers=40, terminals=900, days=45), id="windows expire, amounts compound"),
    pytest.param(Profile(customers=60, terminals=400, days=20, radius=2.5), id="customers without terminals"),
    pytest.param(Profile(customers=3, terminals=2, days=33, radius=150.0), id="everyone a victim every day"),
    pytest.param(Profile(customers=30, terminals=300, days=9, start=date(2020, 2, 25)), id="shorter than a window"),
    pytest.param(Profile(customers=30, terminals=300, days=1), id="one day"),
]


@pytest.fixture(scope="module")
def published() -> list[pl.DataFrame]:
    return list(traced_days())


def test_the_published_totals(published: list[pl.DataFrame]) -> None:
    assert totals(published) == Totals(
        transactions=1_754_155, frauds=14_681, by_scenario=(973, 9077, 4631), cents=9_407_937_008
    )


def test_what_each_scenario_adds(published: list[pl.DataFrame]) -> None:
    applied = np.concatenate([frame["applied"].to_numpy() for frame in published])
    frauds = [np.count_nonzero(applied & mask) for mask in (1, 3, 7)]
    assert np.diff(frauds, prepend=0).tolist() == [978, 9099, 4604]


def test_the_published_transactions(published: list[pl.DataFrame]) -> None:
    rows = pl.concat(published).select(pl.col(CONTENT).cast(pl.Int64)).sort(CONTENT)
    content = np.column_stack([rows[name].to_numpy() for name in CONTENT]).astype("<i8")
    assert hashlib.sha256(content.tobytes()).hexdigest() == PUBLISHED_DIGEST


def test_the_training_week_of_the_protocol(published: list[pl.DataFrame]) -> None:
    train = totals(published[115:122])  # 07-25 to 07-31
    assert (train.transactions, train.frauds) == (67_240, 598)


def test_rows_are_in_order(published: list[pl.DataFrame]) -> None:
    rows = pl.concat(published)
    assert rows["transaction_id"].equals(pl.Series("transaction_id", range(len(rows)), pl.Int64))
    assert rows.equals(rows.sort("at", "customer_id", maintain_order=True))
    assert rows.filter(pl.col("at") % 1000 != 0).is_empty()
    midnight = 1_522_540_800_000  # 2018-04-01
    for day, frame in enumerate(published):
        assert ((frame["at"] - midnight) // 86_400_000).unique().to_list() == [day]


def test_a_prefix_taken_lazily_is_the_prefix(published: list[pl.DataFrame]) -> None:
    first = list(islice(days(), 20))
    assert all(a.equals(b.drop("applied")) for a, b in zip(first, published[:20], strict=True))


def test_the_first_day_draws_little_else(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: Counter[int] = Counter()
    draw = generator._Customer._draw

    def counted(self: generator._Customer, into: generator._Purchases) -> int:
        drawn[self.customer_id] += 1
        return draw(self, into)

    monkeypatch.setattr(generator._Customer, "_draw", counted)
    next(days(Profile(customers=200)))
    assert sorted(drawn.values()) == [1] * 197 + [14] * 3


@pytest.mark.parametrize("profile", SMALL)
def test_equals_the_plain_reenactment(profile: Profile) -> None:
    streamed = pl.concat(days(profile)).select(CONTENT).rows()
    assert Counter(streamed) == Counter(reenacted(profile))


@pytest.mark.parametrize("profile", SMALL)
def test_is_deterministic_and_leaves_global_state_alone(profile: Profile) -> None:
    first = list(days(profile))
    random.seed(5)
    np.random.seed(5)
    before = random.getstate(), np.random.get_state(legacy=False)["state"]["key"].tolist()
    # Two runs interleaved do not disturb each other either.
    pairs = list(zip(days(profile), days(profile), strict=True))
    assert all(a.equals(b) and a.equals(c) for (a, b), c in zip(pairs, first, strict=True))
    assert (random.getstate(), np.random.get_state(legacy=False)["state"]["key"].tolist()) == before


def test_a_day_without_transactions_is_an_empty_frame() -> None:
    frames = list(days(Profile(customers=3, terminals=2, days=4, radius=0.0)))
    assert [len(frame) for frame in frames] == [0] * 4
    assert all(frame.schema == pl.Schema(SCHEMA) for frame in frames)
    assert totals(frames) == Totals(0, 0, (0, 0, 0), 0)


def test_every_frame_has_the_schema(published: list[pl.DataFrame]) -> None:
    assert next(days(Profile(customers=10))).schema == pl.Schema(SCHEMA)
    assert len(published) == PUBLISHED.days
    assert all(frame.drop("applied").schema == pl.Schema(SCHEMA) for frame in published)


def test_no_days_no_frames() -> None:
    assert list(days(Profile(customers=3, days=0))) == []


@pytest.mark.parametrize("fields", [{"customers": 2}, {"terminals": 1}, {"days": -1}])
def test_a_world_too_small_is_refused(fields: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="profile"):
        Profile(**fields)  # type: ignore[arg-type]


def test_multiplying_cents_equals_multiplying_the_published_floats() -> None:
    """No amount exceeds 1,000.00 before multiplying: the mean is at most 100 and the deviation 50."""
    for cents in range(100_000):
        amount = cents / 100
        assert (round(amount * 5.0 * 100), round(amount * 5.0 * 5.0 * 100)) == (cents * 5, cents * 25)


def reenacted(profile: Profile) -> list[Row]:
    """The simulator as the Handbook describes it: globally seeded, a customer at a time, amounts as floats."""
    np.random.seed(0)
    customers = [
        (np.random.uniform(0, 100), np.random.uniform(0, 100), np.random.uniform(5, 100), np.random.uniform(0, 4))
        for _ in range(profile.customers)
    ]
    np.random.seed(1)
    terminals = [(np.random.uniform(0, 100), np.random.uniform(0, 100)) for _ in range(profile.terminals)]

    drawn: list[tuple[int, int, int, float]] = []  # second since the start, customer, terminal, amount
    for customer, (x, y, mean, rate) in enumerate(customers):
        near = [i for i, (u, v) in enumerate(terminals) if ((x - u) ** 2 + (y - v) ** 2) ** 0.5 < profile.radius]
        random.seed(customer)
        np.random.seed(customer)
        for day in range(profile.days):
            for _ in range(np.random.poisson(rate)):
                second = int(np.random.normal(86400 / 2, 20000))
                if second <= 0 or second >= 86400:
                    continue
                amount = np.random.normal(mean, mean / 2)
                if amount < 0:
                    amount = np.random.uniform(0, mean * 2)
                if near:
                    drawn.append((day * 86400 + second, customer, random.choice(near), float(np.round(amount, 2))))
    drawn.sort(key=lambda row: row[0])

    amounts = [row[3] for row in drawn]
    labels = [1 if amount > 220 else 0 for amount in amounts]
    for day in range(profile.days - 1):
        np.random.seed(day)
        fallen = np.random.permutation(profile.terminals)[:2]
        for i, (second, _, terminal, _) in enumerate(drawn):
            if day <= second // 86400 < day + 28 and terminal in fallen:
                labels[i] = 2
    for day in range(profile.days - 1):
        np.random.seed(day)
        leaked = np.random.permutation(profile.customers)[:3]
        rows = [i for i, row in enumerate(drawn) if day <= row[0] // 86400 < day + 14 and row[1] in leaked]
        random.seed(day)
        for i in random.sample(rows, int(len(rows) / 3)):
            amounts[i] *= 5
            labels[i] = 3

    start = (profile.start - date(1970, 1, 1)).days * 86400
    return [
        ((start + second) * 1000, customer, terminal, round(amounts[i] * 100), labels[i])
        for i, (second, customer, terminal, _) in enumerate(drawn)
    ]
