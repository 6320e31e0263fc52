"""Taking leases: drives `protocol.take` for several tasks at once against a log."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from streams.core.errors import Fenced, LogError, StreamsError
from streams.log.base import Claim, Group, Log
from streams.protocol import RESTORING, FenceSlot, Lease, OpenClaim, ReadLease, Step, WriteLease, take
from streams.runtime.notes import Note

Answer = TypeVar("Answer")

_AT_ONCE = 8  # calls
_STUCK = 1.0  # seconds after which a commit that holds a lease record up is ended


def begin(call: Callable[[], Answer]) -> "Future[Answer]":
    """Make a call in a thread that the process does not wait for at its end."""
    made = Future[Answer]()
    threading.Thread(target=_make, args=(made, call), name="lease", daemon=True).start()
    return made


def _make(made: "Future[Answer]", call: Callable[[], Answer]) -> None:
    """The call, unless it was cancelled."""
    if made.set_running_or_notify_cancel():
        try:
            made.set_result(call())
        except Exception as error:
            made.set_exception(error)


def _begin(calls: Mapping[Any, Callable[[], Answer]]) -> "dict[Any, Future[Answer]]":
    """Make these calls, some at a time."""
    made = {key: Future[Answer]() for key in calls}
    left = deque((made[key], call) for key, call in calls.items())

    def work() -> None:
        while left:
            with suppress(IndexError):  # another thread was quicker
                _make(*left.popleft())

    for _ in range(min(_AT_ONCE, len(calls))):
        begin(work)
    return made


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
        self._lock, self._kept, self._given_up = threading.Lock(), False, Future[None]()
        self._thread: Future[Any] = begin(self._run)

    def wait(self, seconds: float) -> bool:
        """Whether it has come to its end within this time."""
        wait([self._thread], seconds)
        return self._thread.done()

    def result(self) -> dict[int, Lease]:
        """The leases that were taken, or what stands against it; waits for the end."""
        wait([self._thread])
        leases: dict[int, Lease] = self._thread.result()
        self._close_claims()
        return leases

    def give_up(self) -> None:
        """Nobody wants these leases any more. Nothing is waited for: the thread begins no other step, and gives back
        what it has written, so that whoever takes the task next finds it free, as a rule."""
        with self._lock:
            kept, self._kept = self._kept, False
            if not self._given_up.done():
                self._given_up.set_result(None)
        if kept:
            self._thread = begin(self._let_go)

    # ---- in the thread

    def _run(self) -> dict[int, Lease]:
        done = False
        try:
            while self._wanted and not self._given_up.done():
                self._open()
                self._read()
                self._fence()
                self._write()
            done = True
        finally:
            with self._lock:
                kept = self._kept = done and not self._given_up.done()
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
        """Stable records. A commit that holds one up for long is, as a rule, that of a worker that died or stands still
        in the middle of it: its slot is fenced, which ends the commit, or we would wait until the brokers end it (15 s,
        or longer where commits are long). Whether that succeeds or not, the read decides."""
        tasks = self._asking(ReadLease)
        if not tasks:
            return
        reading = begin(lambda: self._log.leases(self._app, tasks))
        over: list[Future[Any]] = [reading, self._given_up]
        wait(over, _STUCK, FIRST_COMPLETED)
        while not any(each.done() for each in over):
            looking = begin(lambda: self._holders(tasks))
            wait([*over, looking], return_when=FIRST_COMPLETED)
            for slot in sorted(looking.result() - {self._slot, RESTORING} - self._fenced) if looking.done() else ():
                if any(each.done() for each in over):
                    break
                self._note(f"fencing slot {slot!r}, whose commit holds up the leases of {tasks}", logging.INFO)
                fencing = begin(partial(self._log.fence, self._app, slot))
                wait([*over, fencing], return_when=FIRST_COMPLETED)
                if fencing.done() and fencing.exception() is None:
                    self._fenced.add(slot)
            wait(over, _STUCK, FIRST_COMPLETED)
        if reading.done():
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
        fencing = self._each({slot: partial(self._log.fence, self._app, slot) for slot in new}, to_the_end=False)
        for slot, done in fencing.items():
            done.result()
            self._fenced.add(slot)
        if not self._given_up.done():
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
        """Give back what was written, through the same claims: a record that somebody else has written since stays as
        it is."""
        written = self._written.items()
        wait(_begin({t: partial(self._claims[t].write, lease.released()) for t, lease in written}).values())
        self._close_claims()

    def _close_claims(self) -> None:
        for claim in self._claims.values():
            with suppress(StreamsError):
                claim.close()

    def _asking(self, kind: type[Step]) -> list[int]:
        return [] if self._given_up.done() else [t for t, step in self._wanted.items() if isinstance(step, kind)]

    def _each(
        self, calls: Mapping[Any, Callable[[], Answer]], *, to_the_end: bool = True
    ) -> "dict[Any, Future[Answer]]":
        """Make these calls; those that have come to their ends. When all is given up none is begun any more, and those
        under way are waited for only if they are to be seen `to_the_end`."""
        if not calls or self._given_up.done():
            return {}
        made = _begin(calls)
        while not self._given_up.done() and not all(each.done() for each in made.values()):
            under_way: list[Future[Any]] = [each for each in made.values() if not each.done()]
            wait([self._given_up, *under_way], return_when=FIRST_COMPLETED)
        running = [each for each in made.values() if not (self._given_up.done() and each.cancel())]
        if to_the_end:
            wait(running)
        return {key: each for key, each in made.items() if each.done() and not each.cancelled()}

    def _go_on(self, task: int, answer: Lease | None) -> None:
        try:
            self._wanted[task] = self._runs[task].send(answer)
        except StopIteration as end:
            self._leases[task] = end.value
            del self._wanted[task]
