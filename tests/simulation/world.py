"""The simulated machine: processes that run one at a time, a clock, and a scheduler that decides who goes on.

Every call to the log, and every sleep, is a point at which another process may go on, or this one may die. So a
schedule is the sequence of choices of one random generator: the same seed replays it exactly.
"""

import random
from collections.abc import Callable
from pathlib import Path

from greenlet import greenlet

Body = Callable[["Process"], None]


class Killed(BaseException):
    """The death of a process: nothing in the engine catches it."""


class Violation(Exception):
    """A promise was broken."""


class Process:
    """One life of a worker process."""

    def __init__(self, world: "World", slot: str, body: Body) -> None:
        self.world, self.slot = world, slot
        self.alive = True
        self.ended: BaseException | None = None
        self.stalled_until = 0.0
        self._greenlet = greenlet(self._run)
        self._body = body

    def _run(self) -> None:
        try:
            self._body(self)
        except Killed:
            pass
        except BaseException as error:
            self.ended = error
        self.alive = False

    def go(self) -> None:
        """Go on until the next point."""
        self._greenlet.switch()

    def point(self) -> None:
        """Others may go on here."""
        if not self.alive:
            raise Killed
        self.world.greenlet.switch()
        if not self.alive:
            raise Killed

    def kill(self) -> None:
        """SIGKILL: what it has in memory is gone, no farewell."""
        self.alive = False
        if self._greenlet and not self._greenlet.dead:
            self._greenlet.throw(Killed)


class SimClock:
    """The clock as one process reads it; sleeping lets others go on."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def now(self) -> int:
        return int(self._process.world.time * 1000)

    def monotonic(self) -> float:
        return self._process.world.time

    def sleep(self, seconds: float) -> None:
        self._process.stalled_until = self._process.world.time + seconds
        self._process.point()


class World:
    """Time, randomness, processes, and what lies on the disks."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.time = 1_700_000_000.0
        self.greenlet = greenlet.getcurrent()
        self.processes: dict[str, Process] = {}
        self.disks: dict[Path, object] = {}
        self.calm = False
        """No more faults: from now on everything must come to its end."""

    def start(self, slot: str, body: Body) -> Process:
        process = self.processes[slot] = Process(self, slot, body)
        return process

    def chance(self, probability: float) -> bool:
        """Whether a fault happens; never when calm. The generator is asked all the same."""
        return self.rng.random() < probability and not self.calm

    def step(self) -> None:
        """Some process goes on to its next point; a little time passes."""
        self.time += self.rng.choice((0.001, 0.005, 0.02))
        able = [p for p in self.processes.values() if p.alive and p.stalled_until <= self.time]
        if able:
            self.rng.choice(able).go()
        else:
            self.time += 0.05
