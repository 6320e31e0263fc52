"""A short round of kills in CI, on each log. `python -m tests.kill` runs hundreds."""

from pathlib import Path

import pytest

from streams import broker
from streams.settings import Settings
from tests.kill.harness import Report, kill_test

KILLS, SEED = 20, 11
RECORDS = 9000  # enough for 20 lives of at most 7 commits or 0.6 s


def check(report: Report, kills: int = KILLS) -> None:
    assert report.wrong == [], report.text()
    assert report.kills == kills, report.text()
    assert report.inside_commit >= 0.3 * kills, report.text()
    assert report.left > 0, f"the later kills found nothing to do:\n{report.text()}"


@pytest.mark.slow
def test_output_is_exact_after_kills_on_the_embedded_log(tmp_path: Path) -> None:
    check(kill_test(tmp_path, Settings(log_dir=str(tmp_path / "log")), KILLS, SEED, RECORDS))


@pytest.mark.slow
def test_output_is_exact_after_kills_with_snapshots(tmp_path: Path) -> None:
    settings = Settings(log_dir=str(tmp_path / "log"))
    report = kill_test(tmp_path, settings, KILLS // 2, SEED + 1, RECORDS // 2, snapshots=True)
    check(report, KILLS // 2)
    assert report.snapshots > 0
    assert report.wiped > 0


@pytest.mark.slow
@pytest.mark.kafka
def test_output_is_exact_after_kills_on_kafka(tmp_path: Path) -> None:
    with broker.start() as own:  # topics of its own, whatever other tests do
        check(kill_test(tmp_path, Settings(brokers=own.bootstrap), KILLS, SEED, RECORDS))
