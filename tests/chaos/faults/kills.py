"""SIGKILL of workers: after each step of a commit, and at any moment; one, or both at once."""

import time
from random import Random

from streams.protocol import STEPS
from tests.chaos.world import SLOTS, Fault, World

LIFE = 20.0  # seconds within which a worker reaches its step, or is killed where it is


def at_steps(world: World, rng: Random) -> list[float]:
    """One life after another in both slots, each ending after a step of a commit."""
    fleet = world.fleet
    for slot in SLOTS:
        fleet.kill(slot, rng)
    for _ in range(rng.randrange(4, 8)):
        steps = {slot: f"{rng.choice(STEPS)}:{rng.randrange(1, 8)}" for slot in SLOTS}
        for slot, hook in steps.items():
            fleet.start(slot, hook)
            time.sleep(rng.uniform(0, 0.3))
        deadline = time.monotonic() + LIFE
        while fleet.processes:
            if time.monotonic() > deadline:
                for slot in SLOTS:
                    fleet.kill(slot, rng)
                break
            fleet.reap(rng)
            fleet.top_up()
            time.sleep(0.03)
    return [fleet.recovered(*SLOTS)]


def at_random(world: World, rng: Random) -> list[float]:
    """One worker, three times, each as soon as both are at work again."""
    seconds = []
    for _ in range(3):
        slot = rng.choice(SLOTS)
        world.pass_time(rng.uniform(0, 0.5))
        since = time.monotonic()
        world.fleet.kill(slot, rng)
        time.sleep(rng.choice((0.0, 0.7)))
        seconds.append(world.fleet.recovered(*SLOTS, since=since))
    return seconds


def both(world: World, rng: Random) -> list[float]:
    """All workers at once."""
    since = time.monotonic()
    for slot in SLOTS:
        world.fleet.kill(slot, rng)
    return [world.fleet.recovered(*SLOTS, since=since)]


FAULTS = (
    Fault("SIGKILL at a step of a commit", at_steps, weight=3),
    Fault("SIGKILL of a worker at random", at_random, weight=2),
    Fault("SIGKILL of all workers", both),
)
