"""The network between workers and brokers: cut, refused, slow, and still in one direction or both."""

from random import Random

from tests.chaos.proxy import BOTH, DOWN, UP, Proxy, Weather
from tests.chaos.world import SLOTS, Fault, World


def _some(world: World, rng: Random) -> list[Proxy]:
    """The way to one broker, or to all."""
    assert world.cluster is not None
    proxies = [node.proxy for node in world.cluster.nodes]
    return proxies if rng.random() < 0.5 else [rng.choice(proxies)]


def _spell(world: World, rng: Random, seconds: float, cut: bool, weather: Weather) -> list[float]:
    proxies = _some(world, rng)
    for proxy in proxies:
        proxy.weather = weather
        if cut:
            proxy.cut()
    try:
        world.pass_time(seconds)
    finally:
        for proxy in proxies:
            proxy.calm()
    return [world.fleet.recovered(*SLOTS)]


def cut(world: World, rng: Random) -> list[float]:
    """Every connection is reset, several times; new ones come about at once."""
    for _ in range(rng.randrange(2, 6)):
        for proxy in _some(world, rng):
            proxy.cut()
        world.pass_time(rng.uniform(0.05, 1.0))
    return [world.fleet.recovered(*SLOTS)]


def refused(world: World, rng: Random) -> list[float]:
    return _spell(world, rng, rng.uniform(2, 9), cut=True, weather=Weather(refusing=True))


def slow(world: World, rng: Random) -> list[float]:
    return _spell(world, rng, rng.uniform(3, 6), cut=False, weather=Weather(delay=rng.uniform(0.05, 0.5)))


def one_way(world: World, rng: Random) -> list[float]:
    """Requests arrive and answers do not, or the other way round."""
    still = frozenset({rng.choice((UP, DOWN))})
    return _spell(world, rng, rng.uniform(2, 10), cut=False, weather=Weather(stalled=still))


def both_ways(world: World, rng: Random) -> list[float]:
    return _spell(world, rng, rng.uniform(2, 10), cut=False, weather=Weather(stalled=BOTH))


FAULTS = (
    Fault("network: connections cut", cut, on=("kafka",)),
    Fault("network: connections refused", refused, on=("kafka",)),
    Fault("network: slow", slow, on=("kafka",)),
    Fault("network: one direction still", one_way, on=("kafka",)),
    Fault("network: both directions still", both_ways, on=("kafka",)),
)
