"""What a fault can lay hands on."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

from streams.checkpoint.location import Location
from tests.chaos.cluster import Cluster
from tests.chaos.fleet import BOUND, Fleet, Stuck
from tests.chaos.s3 import S3

SLOTS = ("a", "b")
Kind = Literal["embedded", "kafka"]


@dataclass
class World:
    """The workers `a` and `b` at work, and what they stand on. `disk`: the small file system of the states, if any;
    `damaged`: keys of snapshot objects that were damaged on purpose."""

    fleet: Fleet
    kind: Kind
    cluster: Cluster | None
    s3: S3
    location: Location
    disk: Path | None
    damaged: set[str]

    def pass_time(self, seconds: float) -> None:
        """Let the fleet work, or try to; who ends is started again."""
        self.fleet.until(lambda: False, seconds)

    def until_brokers_answer(self) -> None:
        cluster = self.cluster
        assert cluster is not None
        deadline = time.monotonic() + BOUND
        while not cluster.answers:
            if time.monotonic() > deadline:
                raise Stuck(f"the brokers did not answer within {BOUND:.0f} s")
            time.sleep(0.1)


@dataclass(frozen=True)
class Fault:
    """`run` does it, and returns how many seconds after the cause was gone (or after the kill) all was at work again.

    `weight`: how often it is drawn in one round of all. `on`: the logs that it makes sense on. `lacks`: why it cannot
    be done in a world, empty if it can."""

    name: str
    run: Callable[[World, Random], Sequence[float]]
    weight: int = 1
    on: tuple[Kind, ...] = ("embedded", "kafka")
    lacks: Callable[[World], str] = lambda world: ""

    def cannot(self, world: World) -> str:
        if world.kind not in self.on:
            return f"means nothing on the {world.kind} log"
        return self.lacks(world)
