"""A short round of chaos on each log, most faults once. `python -m tests.chaos` goes on for as long as one likes."""

from pathlib import Path

import pytest

from tests.chaos.report import Report
from tests.chaos.round import run

LEAST = 5  # faults, also on a machine on which each takes half a minute


def check(report: Report) -> None:
    assert report.wrong == [], report.text()
    assert all(report.outputs.values()), report.text()
    assert report.all_kills > 0, report.text()
    assert sum(line.count for line in report.lines.values()) >= LEAST, report.text()


@pytest.mark.slow
def test_a_round_on_the_embedded_log(tmp_path: Path) -> None:
    check(run(tmp_path / "round", "embedded", 30, seed=5, least=LEAST))


@pytest.mark.slow
@pytest.mark.kafka
def test_a_round_on_kafka(tmp_path: Path) -> None:
    check(run(tmp_path / "round", "kafka", 45, seed=5, least=LEAST))
