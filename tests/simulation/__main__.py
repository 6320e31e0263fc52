"""Run seeded schedules of the whole engine, or show that each mutant of the protocol is caught.

python -m tests.simulation --seeds 2000
python -m tests.simulation --seed 332          # one schedule again, with what its workers said
python -m tests.simulation --mutants
python -m tests.simulation --outside --seeds 500   # with a sink outside the log; brokers do not lose the log's end
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence

os.environ.setdefault("POLARS_MAX_THREADS", "1")
if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets is a part of a schedule
    os.environ["PYTHONHASHSEED"] = "0"
    os.execv(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]])

from tests.ending import end_in_order
from tests.simulation import outside as sinks
from tests.simulation.jobs import mutant, one, one_outside, prepare
from tests.simulation.mutants import MUTANTS
from tests.simulation.outside import OutsideSchedule
from tests.simulation.schedule import Result, Schedule
from tests.simulation.world import Violation

Job = Callable[[int], Result | str]
TELL = 60.0  # seconds between two lines on how far it is
ALL = len(MUTANTS) + len(sinks.MUTANTS)


def schedules(seeds: Sequence[int], processes: int, job: Job = one) -> int:
    """Many schedules. Ended early, by Ctrl-C or SIGTERM, it tells of those that it has done: all up to some seed."""
    started = told = time.monotonic()
    total, wrong = Counter[str](), list[str]()
    count = commits = steps = 0
    with multiprocessing.get_context("spawn").Pool(processes, prepare) as pool:
        try:
            for result in pool.imap(job, seeds, chunksize=20):
                count += 1
                if isinstance(result, str):
                    wrong.append(result)
                    print(f"VIOLATION {result}", flush=True)
                    continue
                total.update(result.faults)
                commits, steps = commits + result.commits, steps + result.steps
                if time.monotonic() - told >= TELL:
                    told = time.monotonic()
                    print(f"{count:,} schedules, up to seed {seeds[count - 1]}, {len(wrong)} violations", flush=True)
        except (KeyboardInterrupt, SystemExit):
            print(f"ended before seed {seeds[count]}", flush=True)
    spent = time.monotonic() - started
    print(f"{count:,} schedules in {spent:.0f} s: {steps:,} steps, {commits:,} commits, {len(wrong)} violations")
    print("  faults: " + ", ".join(f"{name} {number:,}" for name, number in sorted(total.items())))
    return 1 if wrong else 0


def mutants(processes: int, outside: bool) -> int:
    missed, numbers = 0, range(len(MUTANTS), ALL) if outside else range(len(MUTANTS))
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for name, seed, seen in pool.imap(mutant, numbers, chunksize=1):
            missed += seed < 0
            print(f"{name:55} " + (f"caught by seed {seed}: {seen[:90]}" if seed >= 0 else "NOT CAUGHT"), flush=True)
    print(f"{len(numbers) - missed} of {len(numbers)} mutants are caught")
    return 1 if missed else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2000, help="how many schedules")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, help="this schedule alone, with the workers' notes")
    parser.add_argument("--mutants", action="store_true", help="show that each mutant is caught")
    parser.add_argument("--outside", action="store_true", help="with a sink outside the log, and its mutants")
    options = parser.parse_args()
    end_in_order()
    if options.mutants:
        return mutants(options.processes, options.outside)
    if options.seed is None:
        seeds = range(options.first, options.first + options.seeds)
        return schedules(seeds, options.processes, one_outside if options.outside else one)
    schedule = OutsideSchedule(options.seed) if options.outside else Schedule(options.seed)
    try:
        print(schedule.run())
    except Violation as violation:
        print("\n".join(schedule.notes))
        print(f"VIOLATION {violation}")
        return 1
    print("\n".join(schedule.notes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
