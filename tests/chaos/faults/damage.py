"""Damage to the state of a killed worker: a flipped byte in, or a lost end of, its tables, logs and manifests."""

import time
from pathlib import Path
from random import Random

from tests.chaos.world import SLOTS, Fault, World

PATTERNS = {"SST": "*.sst", "WAL": "*.log", "MANIFEST": "MANIFEST-*", "CURRENT": "CURRENT"}


def spoil(data: bytes, rng: Random) -> bytes:
    """Another content: shorter, or with a byte changed."""
    if rng.random() < 0.4:
        return data[: rng.randrange(len(data))]
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]


def files(world: World, slot: str, pattern: str) -> list[Path]:
    """Those of the stores, in a fixed order."""
    found = world.fleet.state(slot).glob(f"*-*/{pattern}")
    return sorted(file for file in found if file.is_file() and file.stat().st_size)


def damage(world: World, rng: Random) -> list[float]:
    """One file of each kind, of tasks at random, in the state of one worker."""
    slot, since = rng.choice(SLOTS), time.monotonic()
    world.fleet.kill(slot, Random(0))  # which keeps the state
    for kind, pattern in PATTERNS.items():
        found = files(world, slot, pattern)
        if found and rng.random() < 0.6:
            file = rng.choice(found)
            file.write_bytes(spoil(file.read_bytes(), rng))
            world.fleet.note("damaged", kind=kind, file=str(file.relative_to(world.fleet.state(slot))))
    return [world.fleet.recovered(*SLOTS, since=since)]


FAULTS = (Fault("damaged SST, WAL, MANIFEST or CURRENT", damage, weight=2),)
