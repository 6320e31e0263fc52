"""Schedules of a program with a sink outside the log, which is one of the simulated things: calls of it are points at
which others may go on, and it fails now and then.

Brokers do not lose the log's end here: what was published outside would be ahead of the log, which is not promised.
"""

import json
from collections import Counter
from collections.abc import Callable
from itertools import count
from typing import Any

from streams.core.sinks import SinkTask, TwoPhaseSink
from streams.core.stream import with_sinks
from streams.core.topology import Topology, cut
from streams.runtime.outside import OutsideSinks
from streams.runtime.task import Task
from tests.simulation import program
from tests.simulation.cluster import SESSION
from tests.simulation.mutants import Mutant, _patched
from tests.simulation.schedule import Schedule
from tests.simulation.world import Process, Violation

FAILS = 0.03  # of the calls


class Shelves:
    """What lies outside the log, whoever lives."""

    def __init__(self) -> None:
        self.hidden: dict[tuple[int, bytes], list[dict[str, Any]]] = {}
        self.seen: dict[tuple[int, bytes], list[dict[str, Any]]] = {}
        self.numbers = count()
        self.again = self.failed = 0
        self.lost: list[bytes] = []


class SimSink(TwoPhaseSink):
    """The sink of one process. Each call can fail before and behind what it does."""

    def __init__(self, process: Process, shelves: Shelves) -> None:
        self._process, self._shelves = process, shelves

    def _point(self) -> None:
        self._process.point()
        if self._process.world.chance(FAILS):
            self._shelves.failed += 1
            raise ConnectionError("the sink does not answer")

    def prepare(self, task: SinkTask, sequence: int, frame: Any) -> bytes:
        self._point()
        token = f"{sequence}-{next(self._shelves.numbers)}".encode()
        self._shelves.hidden[task.partition, token] = frame.to_dicts()
        self._point()
        return token

    def publish(self, task: SinkTask, token: bytes) -> None:
        self._point()
        key = task.partition, token
        if key in self._shelves.seen:
            self._shelves.again += 1
        elif key in self._shelves.hidden:
            self._shelves.seen[key] = self._shelves.hidden.pop(key)
        else:
            self._shelves.lost.append(token)
        self._point()

    def recover(self, task: SinkTask, sequence: int, token: bytes | None) -> None:
        self._point()
        for partition, known in list(self._shelves.hidden):
            if partition == task.partition and self.goes(int(known.split(b"-")[0]), sequence):
                del self._shelves.hidden[partition, known]
        self._point()

    def goes(self, prepared: int, sequence: int) -> bool:
        return prepared <= sequence


class _Nowhere(TwoPhaseSink):
    def prepare(self, task: SinkTask, sequence: int, frame: Any) -> bytes:
        raise NotImplementedError

    def publish(self, task: SinkTask, token: bytes) -> None:
        raise NotImplementedError


APP = program.make(_Nowhere())


class OutsideSchedule(Schedule):
    """A schedule in which the rows of `running` are written outside, too."""

    silences = False

    def __init__(self, seed: int) -> None:
        self.shelves = Shelves()
        super().__init__(seed)

    def run(self) -> Any:
        result = super().run()
        if self.shelves.lost:
            raise Violation(f"prepared rows were gone when they were to be published: {self.shelves.lost[:3]}")
        result.faults.update({"published again": self.shelves.again, "sink failed": self.shelves.failed})
        return result

    def _topology(self, process: Process) -> Topology:
        return cut(with_sinks(APP.graph, lambda node: SimSink(process, self.shelves)))

    def _wanted(self) -> program.Output:
        wanted = super()._wanted()
        return {**wanted, "outside": wanted["running"]}

    def _found(self) -> program.Output:
        rows = [json.dumps(row, sort_keys=True) for rows in self.shelves.seen.values() for row in rows]
        return {**super()._found(), "outside": Counter(rows)}

    def _power_loss(self) -> None:
        for process in self.world.processes.values():
            process.kill()
        self.result.faults["all killed"] += 1


def run(seed: int) -> Any:
    return OutsideSchedule(seed).run()


# ---- mutants


def _not_published_at_open(open: Callable[..., None]) -> Callable[..., None]:
    def mutant(self: OutsideSinks, sequence: int, tokens: dict[str, bytes]) -> None:
        open(self, sequence, {})

    return mutant


def _published_first(changelog: Callable[..., Any]) -> Callable[..., Any]:
    def mutant(self: Task, lease: Any) -> Any:
        self.outside.publish()
        return changelog(self, lease)

    return mutant


def _no_tokens_in_the_commit(changelog: Callable[..., Any]) -> Callable[..., Any]:
    def mutant(self: Task, lease: Any) -> Any:
        tokens, self.outside.tokens = self.outside.tokens, {}
        made = changelog(self, lease)
        self.outside.tokens = tokens
        return made

    return mutant


def _stands_still_before(recover: Callable[..., None]) -> Callable[..., None]:
    """No fault by itself; but few schedules have it where it matters."""

    def mutant(self: SimSink, *arguments: Any) -> None:
        world = self._process.world
        if world.chance(0.3):
            self._process.stalled_until = world.time + 2 * SESSION
        recover(self, *arguments)

    return mutant


MUTANTS = [
    Mutant("outside: not published again at open", lambda: [_patched(OutsideSinks, "open", _not_published_at_open)]),
    Mutant("outside: published before the commit", lambda: [_patched(Task, "changelog", _published_first)]),
    Mutant("outside: tokens are not in the commit", lambda: [_patched(Task, "changelog", _no_tokens_in_the_commit)]),
    Mutant(
        "outside: recover deletes later ones",
        lambda: [
            _patched(SimSink, "goes", lambda goes: lambda *_: True),
            _patched(SimSink, "recover", _stands_still_before),
        ],
    ),
]
