"""The checker must notice what it is there for: records lost, twice, changed, or in another order."""

import json
import random

import pytest

from tests.chaos import model
from tests.kill.data import FAR, PARTITIONS, START

Raw = dict[int, list[bytes]]


def written(count: int) -> tuple[Raw, Raw]:
    """An input like that of `tests.kill.data`, by partition."""
    rng = random.Random(1)
    tx: Raw = {p: [] for p in range(PARTITIONS)}
    labels: Raw = {p: [] for p in range(PARTITIONS)}
    for number in range(count):
        at = START + number * 150 - (rng.randrange(20_000) if rng.random() < 0.05 else 0)
        card, terminal = rng.randrange(300), rng.randrange(60)
        row = {"id": number, "at": at, "card": f"c{card}", "terminal": f"t{terminal}", "amount": rng.randrange(1, 500)}
        tx[card % PARTITIONS].append(json.dumps(row).encode())
        if number % 3 == 0:
            label = {"id": number, "at": at + 30_000, "terminal": f"t{terminal}", "bad": rng.random() < 0.3}
            labels[terminal % PARTITIONS].append(json.dumps(label).encode())
    tx[0].append(b"broken {}")
    for p in range(PARTITIONS):
        mark = {"id": -1 - p, "at": START + count * 150 + FAR, "card": f"end{p}", "terminal": f"end{p}"}
        tx[p].append(json.dumps({**mark, "amount": 0}).encode())
        labels[p].append(json.dumps({**mark, "bad": False}).encode())
    return tx, labels


@pytest.fixture(scope="module")
def expected() -> model.Expected:
    return model.expected(*written(3000))


def output(expected: model.Expected, name: str) -> Raw:
    """Exactly what must come out."""
    if name in expected.in_order:
        return {p: [v.encode() for v in values] for p, values in expected.in_order[name].items()}
    return {0: [v.encode() for v in expected.multisets[name].elements()]}


@pytest.mark.parametrize("name", [*model.IN_ORDER, *model.AS_MULTISET])
def test_every_output_has_records_and_each_lost_doubled_or_changed_one_is_noticed(expected, name):
    whole = output(expected, name)
    assert expected.counts()[name] > 0
    assert model.difference(expected, name, whole) == ""
    partition, values = next((p, v) for p, v in whole.items() if v)
    place = len(values) // 2
    changed = values[place].replace(b"broken", b"tokens") if name == "dead" else values[place].replace(b"1", b"2")
    assert changed != values[place]
    for wrong in (
        values[:place] + values[place + 1 :],
        [*values[: place + 1], *values[place:]],
        [*values[:place], changed, *values[place + 1 :]],
    ):
        assert model.difference(expected, name, {**whole, partition: wrong}) != ""


@pytest.mark.parametrize("name", model.IN_ORDER)
def test_another_order_is_noticed_where_order_is_promised(expected, name):
    whole = output(expected, name)
    values = whole[1]
    assert model.difference(expected, name, {**whole, 1: [values[1], values[0], *values[2:]]}) != ""


def test_the_order_of_input_records_matters_to_the_model():
    tx, labels = written(500)
    turned = {p: [values[1], values[0], *values[2:]] for p, values in tx.items()}
    assert model.expected(tx, labels).in_order != model.expected(turned, labels).in_order
