"""The lease protocol under seeded schedules: workers take, work, stall and die at any time, whatever the group says.

The code that runs is `streams.protocol.take`; only the log is simulated. Mutants leave one rule out each, and every one
of them must be caught, or the simulation proves nothing.
"""

import random
from collections.abc import Callable, Generator

import pytest

from streams.protocol import FenceSlot, Lease, OpenClaim, ReadLease, Step, WriteLease, take

WORKERS, STEPS_A_SCHEDULE = 3, 120


class Violation(Exception):
    pass


class World:
    """The log: one task's lease record, the epoch of its claim id, and each slot's epoch."""

    def __init__(self) -> None:
        self.record: Lease | None = None
        self.claim = 0
        self.slots = {f"w{i}": 0 for i in range(WORKERS)}

    def write(self, lease: Lease) -> None:
        if lease.sequence != (self.record.sequence if self.record else 0):
            raise Violation(f"a claim at {lease.sequence} over {self.record}")
        self.record = lease

    def commit(self, slot: str, sequence: int) -> None:
        if self.record is None or (self.record.slot, self.record.held, self.record.sequence) != (slot, True, sequence):
            raise Violation(f"{slot} commits from {sequence} over {self.record}")
        self.record = Lease(slot, True, "f", sequence + 1)


class Worker:
    """A worker that always believes that the group has given it the task."""

    def __init__(self, world: World, slot: str, rules: "Rules") -> None:
        self.world, self.slot, self.rules = world, slot, rules
        self.start()

    def start(self) -> None:
        self.world.slots[self.slot] += 1
        self.epoch = self.world.slots[self.slot]
        self.held: Lease | None = None
        self.steps: Generator[Step, Lease | None, Lease] | None = None
        self.claim_epoch = 0

    def step(self, rng: random.Random) -> None:
        if self.held is not None:
            self.work(rng)
        elif self.steps is None:
            self.steps = self.rules.take(0, self.slot, "f", lambda: False)
            self.wanted = next(self.steps)
        else:
            self.go_on()

    def go_on(self) -> None:
        assert self.steps is not None
        world, wanted, answer = self.world, self.wanted, None
        if isinstance(wanted, OpenClaim):
            world.claim += 1
            self.claim_epoch = world.claim
        elif isinstance(wanted, ReadLease):
            answer = world.record
        elif isinstance(wanted, FenceSlot):
            if self.rules.fences:
                world.slots[wanted.slot] += 1
        elif isinstance(wanted, WriteLease):
            if self.rules.claims and self.claim_epoch != world.claim:
                self.steps = None  # fenced by a later claimer: from the start
                return
            world.write(wanted.lease)
        try:
            self.wanted = self.steps.send(answer)
        except StopIteration as end:
            self.held, self.steps = end.value, None

    def work(self, rng: random.Random) -> None:
        assert self.held is not None
        if self.world.slots[self.slot] != self.epoch:  # fenced
            self.world.slots[self.slot] += 1
            self.epoch = self.world.slots[self.slot]
            record = self.world.record
            if self.rules.goes_on and record is not None and record.slot == self.slot:
                self.held = record
            else:
                self.held = None  # every lease is taken anew
        elif rng.random() < 0.2:
            self.world.commit(self.slot, self.held.sequence)
            assert self.world.record is not None
            self.world.record, self.held = self.world.record.released(), None
        else:
            self.world.commit(self.slot, self.held.sequence)
            self.held = self.held.next()


class Rules:
    """The protocol; mutants override a part."""

    fences = claims = True
    goes_on = False
    take: Callable[..., Generator[Step, Lease | None, Lease]] = staticmethod(take)


class NoFencing(Rules):
    fences = False


class NoClaimId(Rules):
    claims = False


class GoesOnAfterAFence(Rules):
    goes_on = True


def read_before_claim(task, slot, fingerprint, live):
    found = yield ReadLease(task)
    yield OpenClaim(task)
    if found is not None and found.held and found.slot != slot:
        yield FenceSlot(found.slot)
        found = yield ReadLease(task)
    lease = Lease(slot, True, fingerprint, found.sequence if found else 0)
    yield WriteLease(task, lease)
    return lease


def no_second_read(task, slot, fingerprint, live):
    yield OpenClaim(task)
    found = yield ReadLease(task)
    if found is not None and found.held and found.slot != slot:
        yield FenceSlot(found.slot)
    lease = Lease(slot, True, fingerprint, found.sequence if found else 0)
    yield WriteLease(task, lease)
    return lease


class ReadBeforeClaim(Rules):
    take = staticmethod(read_before_claim)


class NoSecondRead(Rules):
    take = staticmethod(no_second_read)


def schedule(seed: int, rules: Rules) -> int:
    """One schedule; the number of commits that it made."""
    rng, world = random.Random(seed), World()
    workers = [Worker(world, slot, rules) for slot in world.slots]
    for _ in range(STEPS_A_SCHEDULE):
        worker = rng.choice(workers)
        if rng.random() < 0.03:
            worker.start()
        else:
            # A worker often does several steps in a row, and may stall for long between two.
            for _ in range(rng.choice((1, 1, 2, 5))):
                worker.step(rng)
    return world.record.sequence if world.record else 0


def test_the_protocol_holds():
    commits = [schedule(seed, Rules()) for seed in range(3000)]
    assert sum(commits) > 3000


@pytest.mark.parametrize("mutant", [NoFencing, NoClaimId, GoesOnAfterAFence, ReadBeforeClaim, NoSecondRead])
def test_each_mutant_is_caught(mutant):
    for seed in range(20_000):
        try:
            schedule(seed, mutant())
        except Violation:
            return
    pytest.fail("the simulation does not catch this mutant")
