"""A full disk: the file system of the states has no byte left for a while."""

import os
from contextlib import suppress
from random import Random

from tests.chaos.world import SLOTS, Fault, World


def full(world: World, rng: Random) -> list[float]:
    """What is left is filled with one file; some seconds later there is room again."""
    assert world.disk is not None
    filler = world.disk / "filler"
    try:
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(os.urandom(1 << 16))
        with filler.open("ab", buffering=0) as file, suppress(OSError):
            while True:
                file.write(b"x" * 512)
        left = os.statvfs(world.disk).f_bavail
        world.fleet.note("disk filled", left_blocks=left)
        if rng.random() < 0.5:
            world.fleet.kill(rng.choice(SLOTS), Random(0))
        world.pass_time(rng.uniform(4, 8))
    finally:
        filler.unlink()
    return [world.fleet.recovered(*SLOTS)]


FAULTS = (Fault("disk full", full, lacks=lambda w: "" if w.disk else "a small file system needs root (mount)"),)
