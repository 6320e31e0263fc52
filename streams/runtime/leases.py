"""Taking leases: drives `protocol.take` for several tasks at once against a log."""

import logging
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from streams.core.clock import Clock
from streams.core.errors import Fenced, LogError, StreamsError
from streams.log.base import Claim, Group, Log
from streams.protocol import FenceSlot, Lease, OpenClaim, ReadLease, Step, WriteLease, take
from streams.runtime.notes import Note

Key = TypeVar("Key")
Answer = TypeVar("Answer")

_LOOK = 0.05  # seconds
_STUCK = 1.0  # seconds after which a commit that holds a lease record up is ended


class Taking:
    """The leases of some tasks, which the group has given to a slot, on their way.

    The tasks go through the steps of `protocol.take` side by side: claims are opened together, records are read in
    one call, and a slot is fenced once for all its tasks. A task whose claim was fenced is left out (another claimer
    came; if the group still says that it is ours, the next round tries again).

    Each step takes round trips to the brokers, and reading a record waits for a commit that is about to change it. All
    of it happens in threads: who has other work does it between two calls of `step`.
    """

    def __init__(
        self,
        log: Log,
        group: Group,
        app: str,
        slot: str,
        fingerprint: str,
        tasks: Iterable[int],
        note: Note,
        clock: Clock,
    ) -> None:
        self._log, self._app, self._slot, self._note, self._clock = log, app, slot, note, clock
        self.tasks = frozenset(tasks)
        self.leases: dict[int, Lease] = {}
        """Those that were taken."""
        self._runs = {t: take(t, slot, fingerprint, lambda: group.members > 1) for t in sorted(self.tasks)}
        self._wanted: dict[int, Step] = {t: next(run) for t, run in self._runs.items()}
        self._claims: dict[int, Claim] = {}
        self._opening: dict[int, Future[Claim]] = {}
        self._writing: dict[int, Future[None]] = {}
        self._fenced = set[str]()
        self._calls: list[Future[Any]] = []
        self._steps = self._run()

    def step(self) -> bool:
        """Go on as far as that needs no waiting; whether all is done."""
        return next(self._steps, True)

    def finish(self) -> dict[int, Lease]:
        """Go on to the end; the leases that were taken."""
        while not self.step():
            wait(self._calls, _LOOK)
        return self.leases

    def close(self) -> None:
        """Let go of the claims; what is under way with one is not waited for. A record that is written after this does
        no harm: whoever takes the task next, we or others, opens its claim, so reads that record or has fenced it."""
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
                    found = yield from self._read(reading)
                    for task in reading:
                        self._go_on(task, found[task])
                yield from self._fence({t: step.slot for t, step in wanted.items() if isinstance(step, FenceSlot)})
                yield from self._write({t: step.lease for t, step in wanted.items() if isinstance(step, WriteLease)})
        finally:
            for opened in self._opening.values():
                opened.add_done_callback(_close_opened)
            for task, claim in self._claims.items():
                if task in self._writing:
                    self._writing[task].add_done_callback(partial(_close_written, claim))
                else:
                    claim.close()

    def _open(self, tasks: list[int]) -> Generator[bool, None, None]:
        self._opening = self._begin({t: partial(self._log.claim, self._app, t) for t in tasks})
        yield from self._await(self._opening)
        for task in tasks:
            self._claims[task] = self._opening[task].result()
            del self._opening[task]

    def _read(self, tasks: list[int]) -> Generator[bool, None, dict[int, Lease | None]]:
        """The records, stable. A commit that holds one up for long is that of a worker that died or stands still in the
        middle of it: its slot is fenced, which ends the commit, or we would wait until the brokers end it (15 s)."""
        reading = self._begin({0: partial(self._log.leases, self._app, tasks)})[0]
        looking: Future[set[str]] | None = None
        since = self._clock.monotonic()
        yield False
        while not reading.done():
            yield False
            if looking is None:
                if self._clock.monotonic() - since >= _STUCK:
                    looking = self._begin({0: partial(self._holders, tasks)})[0]
            elif looking.done():
                yield from self._fence_slots(looking.result() - {self._slot})
                looking, since = None, self._clock.monotonic()
        return reading.result()

    def _holders(self, tasks: list[int]) -> set[str]:
        """A hint only: where it fails there is none, and the read itself says what is wrong."""
        try:
            return set(self._log.holders(self._app, tasks).values())
        except LogError:
            return set()

    def _fence(self, wanted: Mapping[int, str]) -> Generator[bool, None, None]:
        """After a fence every record is read again, so a slot fenced for one task is fenced for all its tasks."""
        for task, slot in wanted.items():
            if slot not in self._fenced:
                self._note(f"fencing slot {slot!r}, which held task {task}", logging.INFO)
        yield from self._fence_slots(set(wanted.values()))
        for task in wanted:
            self._go_on(task, None)

    def _fence_slots(self, slots: set[str]) -> Generator[bool, None, None]:
        slots -= self._fenced
        if not slots:
            return
        fencing = self._begin({slot: partial(self._log.fence, self._app, slot) for slot in sorted(slots)})
        yield from self._await(fencing)
        for slot, done in fencing.items():
            done.result()
            self._fenced.add(slot)

    def _write(self, wanted: Mapping[int, Lease]) -> Generator[bool, None, None]:
        if not wanted:
            return
        self._writing = self._begin({t: partial(self._claims[t].write, lease) for t, lease in wanted.items()})
        yield from self._await(self._writing)
        for task in wanted:
            done = self._writing.pop(task)
            try:
                done.result()
            except Fenced:
                self._note(f"task {task} is being claimed by another worker", logging.INFO)
                del self._wanted[task]
            else:
                self._go_on(task, None)

    def _begin(self, calls: Mapping[Key, Callable[[], Answer]]) -> dict[Key, Future[Answer]]:
        """Make these calls, each in a thread."""
        pool = ThreadPoolExecutor(min(8, len(calls)))
        begun = {key: pool.submit(call) for key, call in calls.items()}
        pool.shutdown(wait=False)
        self._calls = [call for call in (*self._calls, *begun.values()) if not call.done()]
        return begun

    def _await(self, calls: Mapping[Key, Future[Answer]]) -> Generator[bool, None, None]:
        yield False
        while not all(call.done() for call in calls.values()):
            yield False

    def _go_on(self, task: int, answer: Lease | None) -> None:
        try:
            self._wanted[task] = self._runs[task].send(answer)
        except StopIteration as end:
            self.leases[task] = end.value
            del self._wanted[task]


def _close_opened(opened: Future[Claim]) -> None:
    with suppress(StreamsError):
        opened.result().close()


def _close_written(claim: Claim, written: Future[None]) -> None:
    with suppress(StreamsError):
        claim.close()
