"""How many workers there are, and what they are told."""

from pathlib import Path

import click
import pytest

from streams import cli
from streams.core.errors import SettingsError
from streams.supervisor.child import cores
from streams.supervisor.restarts import Restarts
from streams.supervisor.workers import command, count


def told(*arguments: str) -> list[str]:
    """The command line of the worker in slot s."""
    context: click.Context = cli.run.make_context("run", ["program:app", *arguments])
    return command(context, "s")[3:]


def test_a_worker_gets_the_options_that_were_given() -> None:
    ours = ["--slot", "s", "--http", "", "--log-format", "json"]
    assert told("--workers", "2", "--slot", "x", "--http", ":9400", "--plain") == ["run", "program:app", *ours]
    given = ["--brokers", "b:9092", "--settings", "a.toml", "--commit-interval", "50ms", "--quiet"]
    assert told(*given) == ["run", "program:app", *given, *ours]


def test_a_container_with_less_time_has_fewer_cores(tmp_path: Path) -> None:
    quota = tmp_path / "cpu.max"
    quota.write_text("50000 100000\n")
    assert cores(quota) == 1
    quota.write_text("max 100000\n")
    assert cores(quota) == cores(tmp_path / "none") == count("auto") or count("auto") <= cores(quota)


@pytest.mark.parametrize("text", ["0", "-1", "two", "", "1.5"])
def test_a_wrong_count(text: str) -> None:
    with pytest.raises(SettingsError, match="workers"):
        count(text)


def test_waits_double_up_to_half_a_minute_and_ten_healthy_minutes_forget() -> None:
    restarts = Restarts(quick_deaths=20)
    assert [restarts.died(1.0) for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert restarts.died(600.0) == 0.5
    assert restarts.died(599.0) == 1.0
