"""`streams demo generate`: started again it goes on, what does not fit is refused."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from fraud.feed import AUTH, LABELS, TRUTH, check, days_written, feed
from fraud.generator import Profile
from streams.cli import assembled
from streams.core.errors import StreamsError, TopicMismatch
from streams.log.embedded import EmbeddedLog
from streams.log.reading import read_all

ROOT = Path(__file__).parents[2]
SMALL = Profile(customers=20, terminals=30, days=4)


@contextmanager
def generator(directory: Path, *more: str) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "streams", "demo", "generate", "--log-dir", str(directory), *more]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def content(directory: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every record of the feed, in the order of its partition."""
    with EmbeddedLog(directory) as log:
        return {
            topic: sorted(
                (r.source.partition, offset, key, value, at)
                for r in read_all(log, topic)
                for offset, key, value, at in zip(r.offsets(), r.keys(), r.values(), r.timestamps(), strict=True)
            )
            for topic in (AUTH, LABELS, TRUTH)
        }


def until_days(directory: Path, days: int, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (directory / "log.db").exists():
            with EmbeddedLog(directory) as log:
                if days_written(log) >= days:
                    return
        time.sleep(0.05)
    raise AssertionError(f"day {days} was not written; exit code {process.poll()}")


def test_killed_and_started_again_it_writes_the_same(tmp_path: Path) -> None:
    with generator(tmp_path / "plain", "--days", "3") as process:
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0, said
    assert "10 of 10 days: all are written" in said

    for day in (2, 6):
        with generator(tmp_path / "killed", "--days", "3", "--rate", "4") as process:
            until_days(tmp_path / "killed", day, process)
            os.kill(process.pid, signal.SIGKILL)
    with generator(tmp_path / "killed", "--days", "3") as process:
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0, said
    assert "going on behind day" in said
    wanted = content(tmp_path / "plain")
    assert len(wanted[AUTH]) > 20_000
    assert content(tmp_path / "killed") == wanted


def test_sigterm_ends_it_at_once_though_the_next_day_is_far(tmp_path: Path) -> None:
    with generator(tmp_path, "--days", "3", "--rate", "0.001") as process:
        until_days(tmp_path, 1, process)
        process.terminate()
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert "1 of 10 days: the same command goes on from here" in said


def test_another_number_of_days_is_refused(tmp_path: Path) -> None:
    with EmbeddedLog(tmp_path) as log:
        assert feed(log, profile=SMALL) == 11
        assert feed(log, profile=SMALL) == 11
        with pytest.raises(StreamsError, match="days 4, not 5") as refused:
            feed(log, profile=Profile(customers=20, terminals=30, days=5))
        with pytest.raises(TopicMismatch, match="has 4 partitions, not 8"):
            check(log, SMALL, 8)
    assert "generate 4 days as before" in refused.value.fix


def test_a_generator_that_was_replaced_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = Profile(customers=20, terminals=30, days=2)
    monkeypatch.setattr("fraud.generate_cli.Profile", lambda days: profile)
    entered = []

    def replaced(log: EmbeddedLog, **options: object) -> int:
        def told(day: int, rows: int) -> None:
            if not entered:
                entered.append(day)
                feed(log, profile=profile, partitions=4)  # the later one

        return feed(log, **{**options, "told": told})  # type: ignore[arg-type]

    monkeypatch.setattr("fraud.generate_cli.feed", replaced)
    made = CliRunner().invoke(assembled(), ["demo", "generate", "--log-dir", str(tmp_path)])
    assert made.exit_code == 1, made.output
    assert "error: another generator has taken over" in made.output
    with EmbeddedLog(tmp_path) as log:
        assert days_written(log) == 9


def test_options_before_the_subcommand_are_refused(tmp_path: Path) -> None:
    made = CliRunner().invoke(assembled(), ["demo", "--days", "3", "generate", "--log-dir", str(tmp_path)])
    assert made.exit_code == 2
    assert "write the options behind 'generate'" in made.output
    assert not list(tmp_path.iterdir())


def test_the_help_says_what_it_feeds() -> None:
    said = CliRunner().invoke(assembled(), ["demo", "generate", "--help"]).output
    assert [word for word in (AUTH, LABELS, TRUTH, "--brokers", "--rate", "--partitions") if word not in said] == []
