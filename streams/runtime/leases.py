"""Taking leases: drives `protocol.take` for several tasks at once against a log."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from streams.core.errors import Fenced
from streams.log.base import Claim, Group, Log
from streams.protocol import FenceSlot, Lease, OpenClaim, ReadLease, Step, WriteLease, take
from streams.runtime.notes import Note


def take_all(
    log: Log, group: Group, app: str, slot: str, fingerprint: str, tasks: Sequence[int], note: Note
) -> dict[int, Lease]:
    """The leases of these tasks that could be taken.

    The tasks go through the steps of `protocol.take` side by side: claims are opened in parallel, records are read in
    one call, and a slot is fenced once for all its tasks. A task whose claim was fenced is left out (another claimer
    came; if the group still says that it is ours, the next round tries again).
    """
    runs = {t: take(t, slot, fingerprint, lambda: group.members > 1) for t in tasks}
    wanted: dict[int, Step] = {t: next(run) for t, run in runs.items()}
    claims: dict[int, Claim] = {}
    taken: dict[int, Lease] = {}
    fenced: set[str] = set()

    def go_on(task: int, answer: Lease | None) -> None:
        try:
            wanted[task] = runs[task].send(answer)
        except StopIteration as end:
            taken[task] = end.value
            del wanted[task]

    try:
        while wanted:
            opening = [t for t, step in wanted.items() if isinstance(step, OpenClaim)]
            if opening:
                with ThreadPoolExecutor(min(8, len(opening))) as pool:
                    for task, claim in zip(opening, pool.map(lambda t: log.claim(app, t, group), opening), strict=True):
                        claims[task] = claim
                for task in opening:
                    go_on(task, None)
            reading = [t for t, step in wanted.items() if isinstance(step, ReadLease)]
            if reading:
                found = log.leases(app, reading)
                for task in reading:
                    go_on(task, found[task])
            # After a fence every record is read again, so a slot fenced for one task is fenced for all its tasks.
            for task, step in list(wanted.items()):
                if isinstance(step, FenceSlot):
                    if step.slot not in fenced:
                        note(f"fencing slot {step.slot!r}, which held task {task}", logging.INFO)
                        log.fence(app, step.slot)
                        fenced.add(step.slot)
                    go_on(task, None)
            for task, step in list(wanted.items()):
                if isinstance(step, WriteLease):
                    try:
                        claims[task].write(step.lease)
                    except Fenced:
                        note(f"task {task} is being claimed by another worker", logging.INFO)
                        del wanted[task]
                    else:
                        go_on(task, None)
    finally:
        for claim in claims.values():
            claim.close()
    return taken
