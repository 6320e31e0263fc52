"""Segmented scans against plain loops."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.folds import GREATEST, LEAST, SUM, Segments

INTS = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=64)


def loop(fold, values, base, keys):
    out = []
    for segment, (_, rows) in enumerate(itertools.groupby(range(len(keys)), key=lambda i: keys[i])):
        total = base[segment : segment + 1]
        for i in rows:
            with np.errstate(over="ignore", invalid="ignore"):
                total = fold.combine(total, values[i : i + 1])
            out.append(total[0])
    return np.array(out, dtype=values.dtype)


@pytest.mark.parametrize("fold", [SUM, LEAST, GREATEST], ids=["sum", "least", "greatest"])
@pytest.mark.parametrize("kind", ["<i8", "<f8"])
@given(data=st.data())
def test_running(fold, kind, data):
    lengths = data.draw(st.lists(st.sampled_from([1, 1, 2, 3, 5, 63, 64, 65, 200]), min_size=1, max_size=8))
    one = INTS if kind == "<i8" else FLOATS
    some = data.draw(st.lists(one, min_size=1, max_size=12))
    draws = np.random.default_rng(data.draw(st.integers(0, 2**32))).integers(0, len(some), sum(lengths))
    values = np.array([some[i] for i in draws], dtype=kind)
    base = np.array(
        [data.draw(one) if data.draw(st.booleans()) else fold.identity(np.dtype(kind)) for _ in lengths], dtype=kind
    )
    keys = np.repeat(np.arange(len(lengths)) * 3, lengths)
    with np.errstate(over="ignore", invalid="ignore"):
        got = fold.running(values, base, Segments.of(keys))
    assert got.tobytes() == loop(fold, values, base, keys).tobytes()


def test_infinity_of_one_key_does_not_reach_another():
    values = np.array([np.inf, -np.inf, 1.0, 2.0])
    with np.errstate(invalid="ignore"):
        made = SUM.running(values, np.zeros(2), Segments.of(np.array([0, 0, 1, 1])))
    assert made[2:].tolist() == [1.0, 3.0]
