"""Lease, commit and recovery as pure decisions: what the worker follows and what a simulation drives.

Nothing here does I/O. `take` is a generator: it yields the step to do next and is sent its result, so that the worker
and a test can drive the very same code.
"""

import json
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace

from streams.core.errors import StateMismatch

STEPS = (
    "begin",
    "drained",
    "appended",
    "changelog",
    "flushed",
    "committed",
    "applying",
    "applied",
)
"""The named steps of a commit, in order; a test can crash the worker after each of them.

1. begin      a commit is due
2. drained    the operators' results are out, nothing lives outside the overlays; sinks outside the log are prepared
3. appended   outputs and shuffle blocks are in the open transaction
4. changelog  each task's changes are appended, the last block with sequence, positions and watermarks
5. flushed    all of it has reached the log
6. committed  lease records, positions and the transaction are committed
7. applying   the first task's overlay is in its store, the others' not yet
8. applied    every overlay is in its store, what was prepared is published
"""


@dataclass(frozen=True)
class Lease:
    """The record that says who works on a task, at which commit sequence.

    >>> Lease.decode(Lease("w1", True, "f00d", 7).encode(), 7)
    Lease(slot='w1', held=True, fingerprint='f00d', sequence=7)
    """

    slot: str
    held: bool
    fingerprint: str
    sequence: int

    def encode(self) -> str:
        return json.dumps({"slot": self.slot, "held": self.held, "fingerprint": self.fingerprint})

    @staticmethod
    def decode(text: str, sequence: int) -> "Lease":
        data = json.loads(text)
        return Lease(data["slot"], data["held"], data["fingerprint"], sequence)

    def next(self, by: int = 1) -> "Lease":
        return replace(self, sequence=self.sequence + by)

    def released(self) -> "Lease":
        return replace(self, held=False)


def holders(leases: Mapping[int, Lease | None]) -> dict[int, str]:
    """The slots that hold tasks, by task.

    >>> holders({0: Lease("w1", True, "f", 7), 1: Lease("w1", False, "f", 2), 2: None})
    {0: 'w1'}
    """
    return {task: lease.slot for task, lease in leases.items() if lease is not None and lease.held}


# ---- taking a lease: the steps that a worker must do, in order


@dataclass(frozen=True)
class OpenClaim:
    """Open the task's claim: fences whoever is claiming it."""

    task: int


@dataclass(frozen=True)
class ReadLease:
    """Read the task's lease record, stable. Answer: Lease or None."""

    task: int


@dataclass(frozen=True)
class FenceSlot:
    """Fence this slot (once for all of its tasks within one round of taking)."""

    slot: str


@dataclass(frozen=True)
class WriteLease:
    """Write the record through the claim. Raises Fenced if a later claimer came."""

    task: int
    lease: Lease


Step = OpenClaim | ReadLease | FenceSlot | WriteLease


def take(
    task: int, slot: str, fingerprint: str, others_live: Callable[[], bool]
) -> Generator[Step, Lease | None, Lease]:
    """Take the lease of a task that the group has given us; returns the record that names us.

    1. Open the claim: whoever is claiming the same task is fenced.
    2. Read the record.
    3. Held by another slot: fence that slot (its open transaction ends), read again; a third slot: fence it too.
    4. Write {our slot, same sequence} through the claim.

    `others_live` is asked only where the answer matters: it may have to ask the brokers.

    >>> steps = take(0, "me", "f", lambda: False)
    >>> next(steps), steps.send(None)
    (OpenClaim(task=0), ReadLease(task=0))
    >>> steps.send(Lease("old", True, "f", 5))
    FenceSlot(slot='old')
    """
    yield OpenClaim(task)
    found = yield ReadLease(task)
    _check_not_half_restored(task, found, slot)
    fenced: set[str] = set()
    while found is not None and found.held and found.slot != slot and found.slot not in fenced:
        fenced.add(found.slot)
        yield FenceSlot(found.slot)
        found = yield ReadLease(task)
        _check_not_half_restored(task, found, slot)
    check_fingerprint(task, found, fingerprint, others_live)
    lease = Lease(slot, True, fingerprint, found.sequence if found is not None else 0)
    yield WriteLease(task, lease)
    return lease


RESTORING = "restoring-a-savepoint"
"""The slot that holds all tasks of an application while a savepoint is restored into it. Until that is done, in one
commit, each stands at sequence 0, and no worker may take it: it would begin anew, or on half of the state."""


def _check_not_half_restored(task: int, found: Lease | None, slot: str) -> None:
    if found is not None and found.held and found.slot == RESTORING and not found.sequence and slot != RESTORING:
        raise StateMismatch(
            "a savepoint is being restored into this application, or that has been broken off",
            where=f"lease record of task {task}",
            fix="wait until `streams savepoint restore` has ended; if it was broken off, run it again: it begins anew",
        )


def check_fingerprint(task: int, found: Lease | None, fingerprint: str, others_live: Callable[[], bool]) -> None:
    """While other workers live, all must run the same topology."""
    if found is not None and found.fingerprint != fingerprint and others_live():
        raise StateMismatch(
            f"task {task} was last run with another topology ({found.fingerprint}, ours is {fingerprint})",
            where=f"lease record, slot {found.slot!r}, sequence {found.sequence}",
            fix="stop all workers of the application, then start them with the new program",
        )


def check_restored(task: str, lease: int, changelog: int | None, store: int) -> None:
    """After the replay the store must stand exactly where the lease record does.

    >>> check_restored("0/0", 1, None, 0)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    streams.core.errors.StateMismatch: the changelog of task 0/0 is empty, but its lease record says 1 commits were made
      where: lease 1, changelog None, store 0
      fix:   if the program kept no state when it last ran: run the old one, or the new one under another app name...
    """
    if store == lease:
        return
    fix = (
        "the lease topic or the changelog was deleted or damaged: restore them from a backup of the cluster, or "
        "start the application anew under another name"
    )
    if changelog is None and lease > 0:
        fix = (
            "if the program kept no state when it last ran: run the old one, or the new one under another app name (it "
            "begins anew); else the changelog was deleted: restore it from a backup of the cluster"
        )
        what = f"the changelog of task {task} is empty, but its lease record says {lease} commits were made"
    else:
        what = f"task {task} was restored to commit {store}, but its lease record says {lease}"
    raise StateMismatch(
        what,
        where=f"lease {lease}, changelog {changelog}, store {store}",
        fix=fix,
    )


def check_whole(task: str, first: int, base: int, snapshots: bool = False) -> None:
    """A store that was made from nothing needs the changelog from `base` on: there it begins, or its last rewriting.

    `snapshots`: the commits name a checkpoint location, so the changelog was trimmed behind its snapshots.

    >>> check_whole("0/0", 7, 1, snapshots=True)
    Traceback (most recent call last):
    streams.core.errors.StateMismatch: the changelog of task 0/0 begins at commit 7, behind a snapshot that is not there
      where: first commit 7, needed 1
      fix:   give the checkpoint location that the workers had (--checkpoints, or the setting checkpoints), or start \
the slot that still has the task's state on its disk; `streams snapshots list` tells what a location has
    """
    if first > base and snapshots:
        raise StateMismatch(
            f"the changelog of task {task} begins at commit {first}, behind a snapshot that is not there",
            where=f"first commit {first}, needed {base}",
            fix="give the checkpoint location that the workers had (--checkpoints, or the setting checkpoints), or "
            "start the slot that still has the task's state on its disk; `streams snapshots list` tells what a "
            "location has",
        )
    if first > base:
        raise StateMismatch(
            f"the changelog of task {task} begins at commit {first}, but the whole state takes it from {base} on",
            where=f"first commit {first}, needed {base}",
            fix="blocks were deleted by somebody else (the topic's retention.ms or retention.bytes?): restore them "
            "from a backup of the cluster, or start the application anew under another id",
        )


def check_program(
    task: str, sequence: int, inputs_then: set[str], inputs: set[str], stores_then: set[str], stores: set[str]
) -> None:
    """The program may have changed between two runs: what a task has committed must still fit it. A store may be added;
    inputs must be the same, and no store may be missing.

    >>> check_program("0/0", 7, {"tx"}, {"tx"}, {"a/values"}, {"a/values", "b/values"})
    >>> check_program("0/0", 7, {"tx"}, {"labels"}, set(), set())
    Traceback (most recent call last):
    streams.core.errors.StateMismatch: the program has changed: task 0/0 reads other topics than it did
      where: then tx; now labels
      fix:   run the old program, or carry its state over with a savepoint (docs/savepoints.md)
    """
    if sequence == 0:
        return
    fix = "run the old program, or carry its state over with a savepoint (docs/savepoints.md)"
    if not inputs_then:
        raise StateMismatch(
            f"the log knows {sequence} commits of task {task}, but not any more how far it has read",
            where=f"inputs {', '.join(sorted(inputs))}",
            fix="if the program kept state in this task when it last ran: run the old one; else brokers have forgotten "
            "the committed offsets (offsets.retention.minutes, a week by default, while no worker ran) or somebody "
            "has deleted them: set them to where the task is to go on, or begin anew with streams reset",
        )
    if inputs_then != inputs:
        then = ", ".join(sorted(inputs_then))
        raise StateMismatch(
            f"the program has changed: task {task} reads other topics than it did",
            where=f"then {then}; now {', '.join(sorted(inputs))}",
            fix=fix,
        )
    if not stores_then <= stores:
        raise StateMismatch(
            f"the program has changed: task {task} has kept state that no operator of it wants",
            where=f"stores {', '.join(sorted(stores_then - stores))}",
            fix=f"{fix}; an operator that was renamed keeps its state with .named(OLD_ID)",
        )


def local_state_usable(
    *, store_sequence: int, lease_sequence: int, store_offset: int, changelog_start: int, same_topic: bool
) -> bool:
    """Whether a local store may be brought forward by the changelog's tail, or must be made anew.

    It must not be ahead of the lease (a power loss of the log), nor below the changelog's start, nor belong to a
    changelog topic that has been deleted and made again.

    >>> local_state_usable(store_sequence=4, lease_sequence=5, store_offset=9, changelog_start=0, same_topic=True)
    True
    >>> local_state_usable(store_sequence=6, lease_sequence=5, store_offset=9, changelog_start=0, same_topic=True)
    False
    """
    return same_topic and store_sequence <= lease_sequence and store_offset >= changelog_start
