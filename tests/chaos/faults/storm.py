"""A rebalance storm: more workers come and go."""

from random import Random

from tests.chaos.world import SLOTS, Fault, World

GUESTS = ("c", "d")


def storm(world: World, rng: Random) -> list[float]:
    """Every 2 s one joins or leaves, in an orderly way or by SIGKILL."""
    for _ in range(6):
        guest = rng.choice(GUESTS)
        if guest not in world.fleet.processes:
            world.fleet.start(guest)
        elif rng.random() < 0.5:
            world.fleet.term(guest)
        else:
            world.fleet.kill(guest, rng)
        world.pass_time(2.0)
    for guest in GUESTS:
        world.fleet.term(guest)
    return [world.fleet.recovered(*SLOTS)]


FAULTS = (Fault("rebalance storm", storm),)
