"""What a process of the command does: one schedule, or all that it takes to catch one mutant."""

import gc
import signal
from itertools import count

from tests.simulation import outside
from tests.simulation.mutants import MUTANTS
from tests.simulation.schedule import Result, run
from tests.simulation.world import Violation

MOST_SEEDS = 1000  # for a mutant
SCHEDULES = 200  # between two looks for cycles: 2 MB each


def prepare() -> None:
    """For a process of many schedules: it looks for cycles after one, not within; that was a tenth of the time. When
    it is to end, the command says so."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()
    gc.disable()


_done = count()


def one(seed: int) -> Result | str:
    if next(_done) % SCHEDULES == 0:
        gc.collect()
    try:
        return run(seed)
    except Violation as violation:
        return f"seed {seed}: {violation}"


def one_outside(seed: int) -> Result | str:
    if next(_done) % SCHEDULES == 0:
        gc.collect()
    try:
        result: Result = outside.run(seed)
        return result
    except Violation as violation:
        return f"seed {seed}: {violation}"


def mutant(number: int) -> tuple[str, int, str]:
    """Name, the seed that catches it (-1: none), what was seen."""
    chosen = [*MUTANTS, *outside.MUTANTS][number]
    play = run if number < len(MUTANTS) else lambda seed, rules: outside.run(seed)
    with chosen.at_work():
        for seed in (chosen.seed, *range(MOST_SEEDS)):
            try:
                play(seed, chosen.rules)
            except Violation as violation:
                return chosen.name, seed, str(violation).splitlines()[0]
    return chosen.name, -1, ""
