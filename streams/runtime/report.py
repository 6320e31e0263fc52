"""What a worker publishes of itself about once a second: immutable, so that any thread may read it.

The worker's thread makes a new `WorkerReport` and puts it in the place of the last one; nobody waits for anybody.
Times are milliseconds since the epoch, durations seconds, sizes bytes; counts are since this worker's start and go up
with each commit, so nothing is counted that was rolled back.
"""

import threading
import time

import msgspec

from streams.runtime.watchdog import Place


class OperatorReport(msgspec.Struct, frozen=True):
    """A node of the graph in all tasks of this worker together.

    `rows`: given to an operator, written by a sink, read by a source (records) or written to a shuffle. `busy`: the
    share of the last seconds that the worker's thread spent in it.
    """

    rows: int = 0
    rows_per_second: float = 0.0
    seconds: float = 0.0
    busy: float = 0.0
    late: int = 0
    dropped: int = 0
    dead: int = 0


class InputReport(msgspec.Struct, frozen=True):
    """One input partition of a task. `position`: the next offset to read; `lag`: about how many are left."""

    node: str
    topic: str
    partition: int
    position: int
    lag: int
    watermark: int | None
    idle: bool


class TaskReport(msgspec.Struct, frozen=True):
    """A task of this worker.

    `sequence`: its last commit. While it restores, `restored_to` is the commit that its store has come to, from
    `restored_from`, and `restored_blocks` how many changelog blocks were read.
    """

    task: str
    number: int
    sub: int
    state: str
    sequence: int
    watermark: int | None = None
    watermark_delay: float | None = None
    inputs: tuple[InputReport, ...] = ()
    waiting_rows: int = 0
    state_bytes: int = 0
    overlay_bytes: int = 0
    restored_from: int = 0
    restored_to: int = 0
    restored_blocks: int = 0
    restore_seconds: float = 0.0

    @property
    def lag(self) -> int:
        return sum(i.lag for i in self.inputs)


class CommitReport(msgspec.Struct, frozen=True):
    """A commit. `records_in`: of source topics; `records_out`: of sinks and dead letters."""

    at: int
    seconds: float
    records_in: int
    records_out: int
    tasks: int


class LetterReport(msgspec.Struct, frozen=True):
    """A dead letter, without its payload: where the record lies that was bad (offset -1: it comes from no record)."""

    at: int
    operator: str
    cause: str
    topic: str
    partition: int
    offset: int


class AbortReport(msgspec.Struct, frozen=True):
    at: int
    reason: str
    error: str


class WorkerReport(msgspec.Struct, frozen=True):
    """All of it, as of `at`."""

    at: int = 0
    since: int = 0
    joined: bool = False
    records_in: int = 0
    records_in_per_second: float = 0.0
    records_out: dict[str, int] = {}
    records_out_per_second: float = 0.0
    late: int = 0
    dropped: int = 0
    dead: int = 0
    commits: int = 0
    aborts: int = 0
    last_commit_seconds: float = 0.0
    watermark: int | None = None
    watermark_delay: float | None = None
    state_bytes: int = 0
    overlay_bytes: int = 0
    lag: int = 0
    operators: dict[str, OperatorReport] = {}
    tasks: tuple[TaskReport, ...] = ()
    last_commits: tuple[CommitReport, ...] = ()
    last_letters: tuple[LetterReport, ...] = ()
    last_aborts: tuple[AbortReport, ...] = ()


class Pulse:
    """Shows to other threads that the worker's loop turns, and what it does right now.

    Written by the worker's thread alone, one attribute at a time; a reader may see a moment's mixture, which does no
    harm: it looks again a second later.

    >>> pulse = Pulse(); pulse.beat("reading"); pulse.doing, pulse.age() < 60
    ('reading', True)
    """

    def __init__(self, place: Place | None = None) -> None:
        self._place = place if place is not None else Place()
        self.turns = 0
        self.thread: int | None = None
        self._at = time.monotonic()

    @property
    def doing(self) -> str:
        """The part of the loop; the watchdog tells it, too."""
        return self._place.doing

    @doing.setter
    def doing(self, what: str) -> None:
        self._place.doing = what

    def beat(self, doing: str) -> None:
        """The loop is alive, and does this now."""
        self.doing = doing
        self.thread = threading.get_ident()
        self.turns += 1
        self._at = time.monotonic()  # not the injected clock: a clock that stands still must not look like a dead loop

    def age(self) -> float:
        """Seconds since the last beat."""
        return time.monotonic() - self._at
