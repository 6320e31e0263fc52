"""Questions about state from other threads, answered by the worker's thread between its turns.

    any thread       ask(steps) -> Query ---------------- result(timeout)
                              |                               ^
    worker's thread  serve(tasks): a few steps, then the next turn; the last step gives the answer

A store belongs to the worker's thread, so nobody else reads it. The worker never waits for who asks: what is answered
lies in the query, whether or not somebody comes for it.
"""

import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from streams.core.errors import StreamsError

if TYPE_CHECKING:
    from streams.runtime.task import Task

T = TypeVar("T")
Steps = Generator[str, None, T]
"""Works on a question in steps of well below a millisecond. Each says how far it is; the return value is the answer."""

SHARE = 0.002
"""Seconds of a turn that questions may take; a step that has begun is finished."""
MOST = 8
"""Questions that may wait at a time."""
_KEPT = 100 * MOST  # with those that were given up, of a worker that stands still


class Unanswered(StreamsError):
    """There is no answer now; `what` says why."""


class Query(Generic[T]):
    """A question that waits, is worked on, or has its answer."""

    def __init__(self, ask: "Callable[[Sequence[Task]], Steps[T]]") -> None:
        self._ask = ask
        self._steps: Steps[T] | None = None
        self._done = threading.Event()
        self._answer: T | None = None
        self._error: Exception | None = None
        self.doing = ""
        """How far it is, for people; empty while it waits for its first step."""
        self.wanted = True

    def give_up(self) -> None:
        """Nobody waits for it any more: `result` ends, and the worker drops it the next time it looks."""
        self.wanted = False
        self._done.set()

    def result(self, timeout: float) -> T:
        """The answer. Raises what the question met; TimeoutError after so many seconds, and gives it up."""
        if not self._done.wait(timeout):
            self.give_up()
            raise TimeoutError
        if self._error is not None:
            raise self._error
        if not self.wanted:
            raise Unanswered("the question was given up")
        return cast(T, self._answer)

    # ---- the worker's thread

    def step(self, tasks: "Sequence[Task]") -> bool:
        """Work on it a little; False once it needs no more."""
        try:
            if not self.wanted:
                self._end()
                return False
            if self._steps is None:
                self._steps = self._ask(tasks)
            self.doing = next(self._steps)
            return True
        except StopIteration as end:
            self._answer = end.value
        except Exception as error:
            self._error = error
        self._end()
        return False

    def fail(self, error: Exception) -> None:
        self._error = error
        self._end()

    def _end(self) -> None:
        if self._steps is not None:
            self._steps.close()  # lets go of what it read with, here, in the thread that the store belongs to
            self._steps = None
        self._done.set()


class Queries:
    """The questions that wait for one worker."""

    def __init__(self, share: float = SHARE, now: Callable[[], float] = perf_counter) -> None:
        self._share, self._now = share, now
        self._open: deque[Query[object]] = deque()
        self._asking = threading.Lock()
        self._closed = ""

    @property
    def waiting(self) -> bool:
        return bool(self._open)

    def ask(self, ask: "Callable[[Sequence[Task]], Steps[T]]") -> Query[T]:
        """From any thread. Raises `Unanswered` if too many wait, or the worker is ending."""
        query = Query(ask)
        with self._asking:
            if self._closed:
                raise Unanswered(self._closed, fix="ask another worker, or look at the state in the log")
            if sum(each.wanted for each in list(self._open)) >= MOST or len(self._open) >= _KEPT:
                raise Unanswered(f"{MOST} questions wait already", fix="ask again in a moment")
            self._open.append(cast("Query[object]", query))
        return query

    def serve(self, tasks: "Sequence[Task]") -> None:
        """Work on what waits, each question a step in turn, until the share of this turn is used up."""
        until = self._now() + self._share
        while self._open:
            if self._open[0].step(tasks):
                self._open.rotate(-1)  # others append behind it meanwhile; only this thread moves or takes away
            else:
                self._open.popleft()
            if self._now() >= until:
                return

    def close(self, why: str) -> None:
        """Refuse what waits and what still comes. For the worker's thread."""
        with self._asking:
            self._closed = self._closed or why
            left = list(self._open)
            self._open.clear()
        for query in left:
            query.fail(Unanswered(self._closed, fix="ask another worker, or look at the state in the log"))
