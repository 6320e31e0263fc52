"""The whole engine under seeded schedules, and mutants of it: short rounds of `python -m tests.simulation`."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.schedule import run

ROOT = Path(__file__).parent.parent.parent


def command(*arguments: str) -> str:
    """What the command says; it must end well. Its lines name the seed of whatever was found.

    One core, as a test that runs beside another one should; and that one first, since it may be held to real time.
    """
    line = ["nice", "-n", "10", sys.executable, "-m", "tests.simulation", "--processes", "1", *arguments]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_seed_replays_exactly():
    results = [run(seed) for seed in (7, 8, 7)]
    assert results[0] == results[2]
    assert results[0].fingerprint != results[1].fingerprint


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 2000, 200))
def test_2000_schedules_break_no_promise(first):
    assert "200 schedules" in command("--seeds", "200", "--first", f"{first}")


@pytest.mark.slow
def test_each_mutant_is_caught():
    assert "29 of 29 mutants are caught" in command("--mutants")


@pytest.mark.slow
def test_300_schedules_with_a_sink_outside_the_log_and_mutants_of_that():
    assert "300 schedules" in command("--outside", "--seeds", "300")
    assert "4 of 4 mutants are caught" in command("--outside", "--mutants")
