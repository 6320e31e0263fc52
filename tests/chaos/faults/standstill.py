"""SIGSTOP of a worker: a zombie that still believes in its tasks when it wakes."""

import signal
import time
from random import Random

from tests.chaos.fleet import Stuck
from tests.chaos.world import SLOTS, Fault, World

PAST = 9.0  # seconds: the workers' session ends after 6, their poll interval after 7


def past_the_session(world: World, rng: Random) -> list[float]:
    """The other takes all tasks; then the stopped one goes on."""
    stopped = rng.choice(SLOTS)
    (other,) = set(SLOTS) - {stopped}
    process, since = world.fleet.processes[stopped], time.monotonic()
    process.send_signal(signal.SIGSTOP)
    try:
        taken_over = world.fleet.recovered(other)
        world.pass_time(since + PAST + rng.uniform(0, 2) - time.monotonic())
    finally:
        process.send_signal(signal.SIGCONT)
    return [taken_over, world.fleet.recovered(*SLOTS)]


def short(world: World, rng: Random) -> list[float]:
    """Not long enough for anyone to notice."""
    seconds = []
    for _ in range(3):
        process = world.fleet.processes[rng.choice(SLOTS)]
        process.send_signal(signal.SIGSTOP)
        time.sleep(rng.uniform(0.2, 2.0))
        if process.poll() is not None:
            raise Stuck("a stopped worker has ended")
        process.send_signal(signal.SIGCONT)
        seconds.append(world.fleet.recovered(*SLOTS))
    return seconds


FAULTS = (
    Fault("SIGSTOP past the session timeout", past_the_session),
    Fault("SIGSTOP for a moment", short),
)
