"""Taking leases: drives `protocol.take` for several tasks at once against a log."""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from streams.core.errors import Fenced, LogError, StreamsError
from streams.log.base import Claim, Group, Log
from streams.protocol import RESTORING, FenceSlot, Lease, OpenClaim, ReadLease, Step, WriteLease, take
from streams.runtime.notes import Note

Answer = TypeVar("Answer")

_AT_ONCE = 8  # calls
_LOOK = 0.05  # seconds
_STUCK = 1.0  # seconds after which a commit that holds a lease record up is ended


class Taking:
    """The leases of some tasks, which the group has given to a slot, on their way: in a thread, beside other work.

    The tasks go through the steps of `protocol.take` side by side: claims are opened together, records are read in
    one call, and a slot is fenced once for all its tasks. A task whose claim was fenced is left out (another claimer
    came; if the group still says that it is ours, the next round tries again).

    Either `result` or `give_up` ends it.
    """

    def __init__(
        self, log: Log, group: Group, app: str, slot: str, fingerprint: str, tasks: Iterable[int], note: Note
    ) -> None:
        self._log, self._app, self._slot, self._note = log, app, slot, note
        self.tasks = frozenset(tasks)
        self._runs = {t: take(t, slot, fingerprint, lambda: group.members > 1) for t in sorted(self.tasks)}
        self._wanted: dict[int, Step] = {t: next(run) for t, run in self._runs.items()}
        self._leases: dict[int, Lease] = {}
        self._claims: dict[int, Claim] = {}
        self._written: dict[int, Lease] = {}
        self._fenced = set[str]()
        self._lock, self._kept, self._given_up = threading.Lock(), False, False
        self._thread: Future[Any] = _begin(self._run)

    def wait(self, seconds: float) -> bool:
        """Whether it has come to its end within this time."""
        wait([self._thread], seconds)
        return self._thread.done()

    def result(self) -> dict[int, Lease]:
        """The leases that were taken, or what stands against it; waits for the end."""
        while not self.wait(_LOOK):
            pass
        leases: dict[int, Lease] = self._thread.result()
        for claim in self._claims.values():
            claim.close()
        return leases

    def give_up(self) -> None:
        """Nobody wants these leases any more. Nothing is waited for: the thread begins no other step, and gives back
        what it has written, so that whoever takes the task next finds it free."""
        with self._lock:
            self._given_up, kept, self._kept = True, self._kept, False
        if kept:
            self._thread = _begin(self._let_go)

    # ---- in the thread

    def _run(self) -> dict[int, Lease]:
        done = False
        try:
            while self._wanted and not self._given_up:
                self._open()
                self._read()
                self._fence()
                self._write()
            done = True
        finally:
            with self._lock:
                kept = self._kept = done and not self._given_up
            if not kept:
                self._let_go()
        return self._leases

    def _open(self) -> None:
        opening = self._each({t: partial(self._log.claim, self._app, t) for t in self._asking(OpenClaim)})
        self._claims |= {t: made.result() for t, made in opening.items() if made.exception() is None}
        for task, made in opening.items():
            made.result()
            self._go_on(task, None)

    def _read(self) -> None:
        """Stable records. A commit that holds one up for long is that of a worker that died or stands still in the
        middle of it: its slot is fenced, which ends the commit, or we would wait until the brokers end it (15 s).
        Whether that succeeds or not, the read decides."""
        tasks = self._asking(ReadLease)
        if not tasks:
            return
        reading = _begin(self._log.leases, self._app, tasks)
        wait([reading], _STUCK)
        while not reading.done():
            if self._given_up:
                return
            looking = _begin(self._holders, tasks)
            wait([reading, looking], return_when=FIRST_COMPLETED)
            if reading.done():
                break
            for slot in sorted(looking.result() - {self._slot, RESTORING} - self._fenced):
                fencing = _begin(self._log.fence, self._app, slot)
                wait([reading, fencing], return_when=FIRST_COMPLETED)
                if fencing.done() and fencing.exception() is None:
                    self._fenced.add(slot)
            wait([reading], _STUCK)
        found = reading.result()
        for task in tasks:
            self._go_on(task, found[task])

    def _holders(self, tasks: list[int]) -> set[str]:
        """A hint only: where it fails there is none."""
        try:
            return set(self._log.holders(self._app, tasks).values())
        except LogError:
            return set()

    def _fence(self) -> None:
        """After a fence every record is read again, so a slot fenced for one task is fenced for all its tasks."""
        wanted = {t: step.slot for t, step in self._wanted.items() if isinstance(step, FenceSlot)}
        new = {slot: task for task, slot in wanted.items() if slot not in self._fenced}
        for slot, task in new.items():
            self._note(f"fencing slot {slot!r}, which held task {task}", logging.INFO)
        for slot, done in self._each({slot: partial(self._log.fence, self._app, slot) for slot in new}).items():
            done.result()
            self._fenced.add(slot)
        if not self._given_up:
            for task in wanted:
                self._go_on(task, None)

    def _write(self) -> None:
        wanted = {t: step.lease for t, step in self._wanted.items() if isinstance(step, WriteLease)}
        writing = self._each({t: partial(self._claims[t].write, lease) for t, lease in wanted.items()})
        self._written |= {t: wanted[t] for t, done in writing.items() if done.exception() is None}
        for task, done in writing.items():
            try:
                done.result()
            except Fenced:
                self._note(f"task {task} is being claimed by another worker", logging.INFO)
                del self._wanted[task]
            else:
                self._go_on(task, None)

    def _let_go(self) -> None:
        """Give back what was written, if nobody wants it, through the same claims: a record that somebody else has
        written since stays as it is."""
        if self._given_up:
            back = {t: partial(self._claims[t].write, lease.released()) for t, lease in self._written.items()}
            self._each(back, last=True)
        for claim in self._claims.values():
            with suppress(StreamsError):
                claim.close()

    def _asking(self, kind: type[Step]) -> list[int]:
        return [] if self._given_up else [t for t, step in self._wanted.items() if isinstance(step, kind)]

    def _each(self, calls: Mapping[Any, Callable[[], Answer]], *, last: bool = False) -> "dict[Any, Future[Answer]]":
        """Make these calls, some at a time, and wait for their ends. When all is given up no other one is begun, and
        those that were not are left out; unless it is the `last` that is to be done."""
        if not calls or (self._given_up and not last):
            return {}
        pool = ThreadPoolExecutor(min(_AT_ONCE, len(calls)))
        begun = {key: pool.submit(call) for key, call in calls.items()}
        pool.shutdown(wait=False)
        while wait(begun.values(), _LOOK).not_done:
            if self._given_up and not last:
                for call in begun.values():
                    call.cancel()
        return {key: call for key, call in begun.items() if not call.cancelled()}

    def _go_on(self, task: int, answer: Lease | None) -> None:
        try:
            self._wanted[task] = self._runs[task].send(answer)
        except StopIteration as end:
            self._leases[task] = end.value
            del self._wanted[task]


def _begin(call: Callable[..., Answer], *arguments: Any) -> Future[Any]:
    """Make a call in a thread."""
    pool = ThreadPoolExecutor(1)
    begun = pool.submit(call, *arguments)
    pool.shutdown(wait=False)
    return begun
