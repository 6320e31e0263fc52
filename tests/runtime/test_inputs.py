"""The edge of a task: bad records, watermarks, metadata."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.core.batch import WATERMARK
from streams.runtime.inputs import TaskInput
from tests.runtime.fakes import FakeRecords, input_of, tx

HUNDRED_YEARS = 100 * 365 * 86_400_000


def made(disorder=0, dead=None, **more):
    found = [] if dead is None else dead
    spec, source = input_of(disorder, **more)
    return TaskInput(spec, source, 1, lambda letter, cause, operator: found.append((letter, cause, operator)))


BAD = {
    "not JSON": (b"nonsense", "not JSON"),
    "wrong type": (b'{"card":"c","at":5,"amount":"many"}', "wrong type"),
    "missing field": (b'{"card":"c","at":5}', "missing field"),
    "over 64 bits": (b'{"card":"c","at":5,"amount":99999999999999999999}', "integer over 64 bits"),
    "invalid UTF-8": (b'{"card":"\xff","at":5,"amount":1}', "invalid UTF-8"),
    "several documents": (b'{"card":"c","at":5,"amount":1}{"card":"c","at":5,"amount":1}', "more than one document"),
    "no event time": (b'{"card":"c","amount":1}', "missing field"),
    "null event time": (b'{"card":"c","at":null,"amount":1}', "wrong type"),
    "empty value": (b"", "empty value"),
    "no value": (None, "empty value"),
    "a megabyte of garbage": (b"\xf0" * 1_000_000, "not JSON"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_is_one_dead_letter_and_its_neighbours_are_not(name):
    value, cause = BAD[name]
    dead = []
    reads = made(dead=dead).take(FakeRecords([tx(1), value, tx(2)], start=40))
    assert reads[0].batch.frame["at"].to_list() == [1, 2]
    ((letter, why, operator),) = dead
    assert letter.value == (value or b"")
    assert (letter.topic, letter.partition, letter.offset) == ("tx", 0, 41)
    assert why.startswith(cause)
    assert operator == "source-tx"


def test_a_run_of_bad_records_alone_costs_no_more_for_each_the_longer_it_is():
    """Each column of a run takes a call a record to make: made for each letter, 20,000 records took minutes."""
    asked = Counter()

    class Counted(FakeRecords):
        def __getattribute__(self, name):
            asked[name] += name in ("values", "keys", "timestamps", "offsets", "headers")
            return super().__getattribute__(name)

    dead = []
    assert made(dead=dead).take(Counted([b"no"] * 100)) == []
    assert len(dead) == 100
    assert max(asked.values()) < 5


def test_an_implausible_time_is_a_dead_letter_and_does_not_move_the_watermark():
    dead = []
    item = made(dead=dead)
    now = 1_700_000_000_000
    items = [tx(now), tx(now + HUNDRED_YEARS), tx(now - HUNDRED_YEARS), tx(now + 1), tx(2**63 - 1), tx(-(2**63))]
    reads = item.take(FakeRecords(items, stamps=[now] * 6))
    assert reads[0].batch.frame["at"].to_list() == [now, now + 1]
    assert [letter.offset for letter, _, _ in dead] == [1, 2, 4, 5]
    assert all(cause.startswith("implausible event time") for _, cause, _ in dead)
    assert item.watermark == now + 1


def test_extreme_times_are_refused_without_a_timestamp_too():
    dead = []
    made(dead=dead).take(FakeRecords([tx(2**63 - 1), tx(-(2**63))]))
    assert len(dead) == 2


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=60), st.integers(1, 20), st.integers(0, 50))
def test_each_rows_watermark_is_independent_of_the_cut(times, cut, disorder):
    item = made(disorder)
    marks = []
    for start in range(0, len(times), cut):
        for read in item.take(FakeRecords([tx(t) for t in times[start : start + cut]], start=start)):
            marks += read.batch.frame[WATERMARK].to_list()
    assert marks == (np.maximum.accumulate(times) - disorder).tolist()


def test_metadata_columns_are_filled_where_they_are_wanted():
    spec, source = input_of()
    wanted = frozenset({"card", "$offset", "$partition", "$topic", "$timestamp", "$key", "$headers"})
    item = TaskInput(type(spec)(spec.node, spec.topic, False, spec.type, wanted), source, 1, lambda *a: None)
    (read,) = item.take(FakeRecords([tx(1), b"?", tx(3)], start=7, stamps=[5, 6, 7]))
    frame = read.batch.frame
    assert frame["$offset"].to_list() == [7, 9]
    assert frame["$timestamp"].to_list() == [5, 7]
    assert frame["$topic"].to_list() == ["tx", "tx"]
    assert "amount" not in frame.columns
    assert "at" not in frame.columns
