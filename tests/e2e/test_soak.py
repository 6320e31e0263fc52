"""A minute of what `python -m tests.soak` does for an hour."""

from pathlib import Path

import pytest

from tests.soak.__main__ import soak
from tests.soak.samples import Memory, partition_sizes, size


@pytest.mark.slow
def test_a_short_soak_on_kafka(tmp_path: Path) -> None:
    assert soak(tmp_path / "soak", "kafka", minutes=0.5, rate=200, every=10, seed=3) == []


def test_what_it_measures(tmp_path: Path) -> None:
    memory = Memory()
    memory.lives["c", 1] = [(m, 100.0 + 2 * m) for m in range(10)]
    memory.lives["a", 2] = [(0, 50.0), (9, 500.0)]
    assert memory.growth("c", 5) == pytest.approx(2.0)
    assert memory.growth("a", 5) is None
    assert memory.peak() == 500.0
    place = tmp_path / "app-0-changelog-1"
    place.mkdir()
    (place / "0.log").write_bytes(b"x" * 5000)
    (place / "0.index").write_bytes(b"x" * 9000)
    (tmp_path / "app-0-changelog-other-1").mkdir()
    assert partition_sizes(tmp_path, "app-0-changelog") == {"app-0-changelog-1": 5000}
    before = size(place)
    (place / "linked").hardlink_to(place / "0.log")
    assert size(place) == before > 0
