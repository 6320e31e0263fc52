"""A broker that dies, is restarted, or stands still. Of three brokers it is one at a time."""

import signal
import time
from random import Random

from tests.chaos.cluster import Node
from tests.chaos.world import SLOTS, Fault, World


def _one(world: World, rng: Random) -> Node:
    assert world.cluster is not None
    return rng.choice(world.cluster.nodes)


def _away(world: World, rng: Random, number: signal.Signals) -> list[float]:
    node = _one(world, rng)
    world.fleet.note("broker ends", broker=node.number, signal=number.name)
    node.end(number)
    # The feeder cannot write meanwhile.
    time.sleep(rng.choice((0.0, rng.uniform(0, 5))))
    node.start()
    world.until_brokers_answer()
    return [world.fleet.recovered(*SLOTS)]


def kill(world: World, rng: Random) -> list[float]:
    return _away(world, rng, signal.SIGKILL)


def restart(world: World, rng: Random) -> list[float]:
    return _away(world, rng, signal.SIGTERM)


def still(world: World, rng: Random) -> list[float]:
    node = _one(world, rng)
    node.signal(signal.SIGSTOP)
    try:
        time.sleep(rng.uniform(1, 8))
    finally:
        node.signal(signal.SIGCONT)
    world.until_brokers_answer()
    return [world.fleet.recovered(*SLOTS)]


FAULTS = (
    Fault("broker: SIGKILL, same data", kill, on=("kafka",), weight=2),
    Fault("broker: restart", restart, on=("kafka",)),
    Fault("broker: SIGSTOP", still, on=("kafka",)),
)
