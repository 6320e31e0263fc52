"""The supervisor, seen from a worker that it started."""

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection

from streams.core.errors import LogUnreachable
from streams.runtime.worker import Worker
from streams.terminal.figures import snapshot
from streams.web.health_many import QUESTION, told_by
from streams.web.state import Answer, Asked, Parameters, Refused, StateAnswers, answer_of

VARIABLE = "STREAMS_SUPERVISOR"  # the file descriptor of the socket; ours, not for users
METRICS = "metrics"
UNREACHABLE = "unreachable"

_EVERY = 0.25
_ORPHAN = 30.0  # seconds that a worker without a supervisor has for its last commit
_log = logging.getLogger("streams")


@dataclass(frozen=True)
class Question:
    """About state. The supervisor numbers them: answers come in any order."""

    number: int
    path: str
    parameters: Parameters


@dataclass(frozen=True)
class Dropped:
    """Whoever asked this question is gone."""

    number: int


@dataclass(frozen=True)
class Answered:
    number: int
    answer: Answer


class Parent:
    """Tells the supervisor the worker's status, answers it with metrics and state, and ends the worker when it is gone.

    A thread of its own does all that: a supervisor that stands still holds nothing up.
    """

    def __init__(self, number: int) -> None:
        os.set_inheritable(number, False)  # what the program starts must not keep the socket open
        self._connection = Connection(number)
        self._worker: Worker | None = None
        self._state: StateAnswers | None = None
        self._asked: dict[int, Asked] = {}
        self._sending = threading.Lock()
        threading.Thread(target=self._run, name="supervisor", daemon=True).start()

    def watch(self, worker: Worker) -> None:
        """From now on it is about this worker."""
        self._state = StateAnswers(worker)
        self._worker = worker

    def tell(self, worker: Worker) -> None:
        """Send the status now, if there is still somebody to hear it."""
        with suppress(OSError):
            self._send(snapshot(worker.status))

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Tell the supervisor if this worker ends because the log cannot be reached."""
        try:
            yield
        except LogUnreachable:
            with suppress(OSError):
                self._send(UNREACHABLE)
            raise

    def _send(self, what: object) -> None:
        with self._sending:
            self._connection.send(what)

    def _run(self) -> None:
        told: object = None
        due = time.monotonic() + _EVERY
        try:
            while True:
                if self._connection.poll(max(0.0, due - time.monotonic())):
                    self._hear(self._connection.recv())
                if time.monotonic() < due:
                    continue
                due = time.monotonic() + _EVERY
                if self._worker is not None and (status := snapshot(self._worker.status)) != told:
                    self._send(status)
                    told = status
        except (EOFError, OSError):
            self._orphaned()

    def _hear(self, said: object) -> None:
        if said == METRICS:
            self._send(self._worker.metrics.expose() if self._worker is not None else b"")
        elif isinstance(said, Question):
            asked = self._asked[said.number] = Asked(said.path, said.parameters)
            # A thread each: it blocks, and status and metrics must not wait for it. `StateAnswers` bounds how many.
            thread = threading.Thread(target=self._answer, args=(said.number, asked), name="state", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # no more threads: this one must live, or nobody would see the supervisor end
                del self._asked[said.number]
                self._send(Answered(said.number, answer_of(Refused(503, f"no answer now: {error}", fix="ask again"))))
        elif isinstance(said, Dropped) and (dropped := self._asked.get(said.number)) is not None:
            dropped.give_up()

    def _answer(self, number: int, asked: Asked) -> None:
        if self._state is None:
            answer = answer_of(Refused(503, "the worker is starting", fix="ask again in a moment"))
        elif asked.path == QUESTION and self._worker is not None:
            answer = told_by(self._worker)
        else:
            answer = self._state.answer(asked)
        self._asked.pop(number, None)
        with suppress(OSError):
            self._send(Answered(number, answer))

    def _orphaned(self) -> None:
        if self._worker is None:
            os._exit(1)  # nothing has begun
        _log.warning("the supervisor is gone: committing and giving the tasks back")
        self._worker.stop()
        time.sleep(_ORPHAN)
        os._exit(1)  # nothing is lost: the open commit is done again


def from_environment() -> Parent | None:
    """The supervisor that started this process, if one did."""
    number = os.environ.pop(VARIABLE, "")
    return Parent(int(number)) if number else None
