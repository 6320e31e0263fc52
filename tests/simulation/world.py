"""The simulated machine: processes that run one at a time, a clock, and a scheduler that decides who goes on.

Every call to the log, and every sleep, is a point at which another process may go on, or this one may die. So a
schedule is the sequence of choices of one random generator: the same seed replays it exactly.
"""

import math
import random
from collections.abc import Callable, Collection
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Future
from pathlib import Path
from typing import Any, NamedTuple

from greenlet import greenlet

Body = Callable[["Process"], None]


class Killed(BaseException):
    """The death of a process: nothing in the engine catches it."""


class Violation(BaseException):
    """A promise was broken."""


class Process:
    """One life of a worker process: its main thread, and those that it starts."""

    def __init__(self, world: "World", slot: str, body: Body) -> None:
        self.world, self.slot = world, slot
        self.alive = True
        self.ended: BaseException | None = None
        self.stalled_until = 0.0
        self._body = body
        self._threads = [greenlet(self._run, world.greenlet)]
        self._waiting: dict[greenlet, Callable[[], bool]] = {}

    def _run(self) -> None:
        try:
            self._body(self)
        except Killed:
            pass
        except BaseException as error:
            self.ended = error
        self.alive = False

    def spawn(self, call: Callable[[], Any]) -> "Future[Any]":
        """Make a call in a thread of its own."""
        done = Future[Any]()

        def run() -> None:
            if not done.set_running_or_notify_cancel():
                return
            try:
                done.set_result(call())
            except Killed:
                pass
            except Violation as error:  # nobody may look at the result
                self.ended, self.alive = error, False
            except Exception as error:
                done.set_exception(error)

        self._threads.append(greenlet(run, self.world.greenlet))
        return done

    def go(self) -> None:
        """One of the threads that have something to do goes on until its next point."""
        self._threads = [thread for thread in self._threads if not thread.dead]
        able = [thread for thread in self._threads if thread not in self._waiting or self._waiting[thread]()]
        if able:
            self.world.running = self
            (able[0] if len(able) == 1 else self.world.rng.choice(able)).switch()
            if not self.alive:
                self.kill()  # no thread outlives the process

    def until(self, ready: Callable[[], bool]) -> None:
        """This thread has nothing to do until then."""
        if not ready():
            thread = greenlet.getcurrent()
            self._waiting[thread] = ready
            self.point()
            del self._waiting[thread]

    def point(self) -> None:
        """Others may go on here."""
        if not self.alive:
            raise Killed
        self.world.greenlet.switch()
        if not self.alive:
            raise Killed

    def kill(self) -> None:
        """SIGKILL: what it has in memory is gone, no farewell."""
        self.alive, self.world.running = False, self
        for thread in self._threads:
            if thread and not thread.dead:
                thread.throw(Killed)


class Waited(NamedTuple):
    done: "set[Future[Any]]"
    not_done: "set[Future[Any]]"


class SimClock:
    """The clock as one process reads it; sleeping lets others go on."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def now(self) -> int:
        return int(self._process.world.time * 1000)

    def monotonic(self) -> float:
        return self._process.world.time

    def sleep(self, seconds: float) -> None:
        end = self._process.world.time + seconds
        self._process.until(lambda: self._process.world.time >= end)


class World:
    """Time, randomness, processes, and what lies on the disks."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.time = 1_700_000_000.0
        self.greenlet = greenlet.getcurrent()
        self.processes: dict[str, Process] = {}
        self.disks: dict[Path, object] = {}
        self.running: Process
        self.calm = False
        """No more faults: from now on everything must come to its end."""

    def start(self, slot: str, body: Body) -> Process:
        process = self.processes[slot] = Process(self, slot, body)
        return process

    def begin(self, call: Callable[[], Any]) -> "Future[Any]":
        """Make a call in a thread of the process that is running."""
        return self.running.spawn(call)

    def wait(
        self, calls: "Collection[Future[Any]]", timeout: float = math.inf, return_when: str = ALL_COMPLETED
    ) -> Waited:
        """As `concurrent.futures.wait`."""
        end, enough = self.time + timeout, any if return_when == FIRST_COMPLETED else all
        self.running.until(lambda: self.time >= end or enough(call.done() for call in calls))
        return Waited({call for call in calls if call.done()}, {call for call in calls if not call.done()})

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
