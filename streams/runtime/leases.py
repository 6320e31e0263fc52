"""Taking leases: drives `protocol.take` for several tasks at once against a log."""

import logging
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress

from streams.core.errors import Fenced, StreamsError
from streams.log.base import Claim, Group, Log
from streams.protocol import FenceSlot, Lease, OpenClaim, ReadLease, Step, WriteLease, take
from streams.runtime.notes import Note


class Taking:
    """The leases of some tasks, which the group has given to a slot, on their way.

    The tasks go through the steps of `protocol.take` side by side: claims are opened in threads, records are read in
    one call, and a slot is fenced once for all its tasks. A task whose claim was fenced is left out (another claimer
    came; if the group still says that it is ours, the next round tries again).

    Opening a claim takes several round trips to the brokers: who has other work does it between two calls of `step`.
    The other steps, a few milliseconds each, are done within one call.
    """

    def __init__(
        self, log: Log, group: Group, app: str, slot: str, fingerprint: str, tasks: Iterable[int], note: Note
    ) -> None:
        self._log, self._app, self._note = log, app, note
        self.tasks = frozenset(tasks)
        self.leases: dict[int, Lease] = {}
        """Those that were taken."""
        self._runs = {t: take(t, slot, fingerprint, lambda: group.members > 1) for t in sorted(self.tasks)}
        self._wanted: dict[int, Step] = {t: next(run) for t, run in self._runs.items()}
        self._claims: dict[int, Claim] = {}
        self._opening: dict[int, Future[Claim]] = {}
        self._fenced = set[str]()
        self._steps = self._run()

    def step(self) -> bool:
        """Go on as far as that does not wait for a claim; whether all is done."""
        return next(self._steps, True)

    def finish(self) -> dict[int, Lease]:
        """Go on to the end; the leases that were taken."""
        while not self.step():
            wait(self._opening.values())
        return self.leases

    def close(self) -> None:
        """Let go of the claims; one that is being opened still is closed when it is open."""
        self._steps.close()

    def _run(self) -> Generator[bool, None, None]:
        wanted = self._wanted
        try:
            while wanted:
                opening = [t for t, step in wanted.items() if isinstance(step, OpenClaim)]
                if opening:
                    yield from self._open(opening)
                    for task in opening:
                        self._go_on(task, None)
                reading = [t for t, step in wanted.items() if isinstance(step, ReadLease)]
                if reading:
                    found = self._log.leases(self._app, reading)
                    for task in reading:
                        self._go_on(task, found[task])
                self._fence()
                self._write()
        finally:
            for future in self._opening.values():
                future.add_done_callback(_close)
            for claim in self._claims.values():
                claim.close()

    def _open(self, tasks: list[int]) -> Generator[bool, None, None]:
        pool = ThreadPoolExecutor(min(8, len(tasks)))
        try:
            self._opening = {t: pool.submit(self._log.claim, self._app, t) for t in tasks}
        finally:
            pool.shutdown(wait=False)
        yield False
        while not all(future.done() for future in self._opening.values()):
            yield False
        for task in tasks:
            self._claims[task] = self._opening[task].result()
            del self._opening[task]

    def _fence(self) -> None:
        """After a fence every record is read again, so a slot fenced for one task is fenced for all its tasks."""
        for task, step in list(self._wanted.items()):
            if isinstance(step, FenceSlot):
                if step.slot not in self._fenced:
                    self._note(f"fencing slot {step.slot!r}, which held task {task}", logging.INFO)
                    self._log.fence(self._app, step.slot)
                    self._fenced.add(step.slot)
                self._go_on(task, None)

    def _write(self) -> None:
        for task, step in list(self._wanted.items()):
            if isinstance(step, WriteLease):
                try:
                    self._claims[task].write(step.lease)
                except Fenced:
                    self._note(f"task {task} is being claimed by another worker", logging.INFO)
                    del self._wanted[task]
                else:
                    self._go_on(task, None)

    def _go_on(self, task: int, answer: Lease | None) -> None:
        try:
            self._wanted[task] = self._runs[task].send(answer)
        except StopIteration as end:
            self.leases[task] = end.value
            del self._wanted[task]


def _close(opened: Future[Claim]) -> None:
    with suppress(StreamsError):
        opened.result().close()
