"""S3 that is slow, gives errors, cuts connections or cannot be reached, while snapshots are made and needed."""

import shutil
from random import Random

from tests.chaos.proxy import BOTH
from tests.chaos.s3 import SLOW_DOWN
from tests.chaos.world import SLOTS, Fault, World


def _spell(world: World, rng: Random, **weather: object) -> list[float]:
    """Bad weather for some seconds, in which a worker is killed, and may lose its state and need a snapshot."""
    proxy = world.s3.proxy
    for name, value in weather.items():
        setattr(proxy.weather, name, value)
    proxy.cut()
    try:
        world.pass_time(rng.uniform(2, 4))
        slot = rng.choice(SLOTS)
        world.fleet.kill(slot, rng)
        if rng.random() < 0.5:
            shutil.rmtree(world.fleet.state(slot), ignore_errors=True)
            world.fleet.note("state lost", slot=slot)
        if slot not in world.fleet.processes:
            world.fleet.start(slot)
        world.pass_time(rng.uniform(2, 4))
    finally:
        proxy.calm()
        proxy.cut()
    return [world.fleet.recovered(*SLOTS)]


def errors(world: World, rng: Random) -> list[float]:
    return _spell(world, rng, answer=SLOW_DOWN)


def slow(world: World, rng: Random) -> list[float]:
    return _spell(world, rng, delay=rng.uniform(0.3, 1.5))


def gone(world: World, rng: Random) -> list[float]:
    return _spell(world, rng, **({"refusing": True} if rng.random() < 0.5 else {"stalled": BOTH}))


FAULTS = (
    Fault("S3 answers 503", errors),
    Fault("S3 is slow", slow),
    Fault("S3 cannot be reached", gone),
)
