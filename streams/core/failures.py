"""What becomes of a row on which a user's function fails: a policy, and how an operator follows it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from polars.exceptions import PanicException

from streams.core.errors import BuildError, OperatorError
from streams.core.time import duration

FAILURES = (Exception, SystemExit, PanicException)
"""What a function that fails can raise. `sys.exit` in one is such a failure, or it would end the worker without a word
and, with 0, as if in good order; so is a panic within Polars, which is no Exception."""

LONGEST_PAUSE = 10_000
"""Milliseconds: pauses between the calls of a retry grow no further."""

OnError = Literal["dead-letter", "stop", "retry"]
Last = Literal["dead-letter", "stop"]


@dataclass(frozen=True)
class Retry:
    """Call the function again, up to `times` times, after a pause that doubles each time (at most 10 s).

    If it fails to the end the row is a dead letter, or with `then="stop"` the worker stops. The worker waits: nothing
    else of it goes on during the pauses, so keep all of them together below a few seconds. `pause`: milliseconds, or a
    text such as "100ms".

    >>> Retry(4, pause="50ms").pauses
    (50, 100, 200, 400)
    """

    times: int = 3
    pause: str | int = "100ms"
    then: Last = "dead-letter"

    def __post_init__(self) -> None:
        if type(self.times) is not int or self.times < 1:
            raise BuildError(f"Retry(times={self.times!r})", fix="a whole number of repetitions, at least 1")
        if self.then not in ("dead-letter", "stop"):
            raise BuildError(f"Retry(then={self.then!r})", fix='"dead-letter" or "stop"')
        duration(self.pause)

    @property
    def pauses(self) -> tuple[int, ...]:
        """Milliseconds before each repetition."""
        first = duration(self.pause)
        return tuple(min(first * 2**n, LONGEST_PAUSE) for n in range(self.times))


Policy = OnError | Retry


def checked(policy: Any, where: str) -> Policy:
    """The policy, if it is one; else BuildError.

    >>> checked("ignore", "App")
    Traceback (most recent call last):
    streams.core.errors.BuildError: on_error='ignore' is no policy
      where: App
      fix:   "dead-letter", "stop", "retry" or Retry(times=3, pause="100ms", then="stop")
    """
    if isinstance(policy, Retry) or (isinstance(policy, str) and policy in ("dead-letter", "stop", "retry")):
        return policy  # type: ignore[return-value]
    raise BuildError(
        f"on_error={policy!r} is no policy",
        where=where,
        fix='"dead-letter", "stop", "retry" or Retry(times=3, pause="100ms", then="stop")',
    )


class Failures:
    """Follows a policy for one operator of one task. Costs nothing where nothing fails.

    >>> slept, tries = [], iter([OSError("busy"), 5])
    >>> def call():
    ...     if isinstance(found := next(tries), Exception):
    ...         raise found
    ...     return found
    >>> Failures(Retry(2, pause=100), slept.append, "lookup").mend(call, OSError("busy")), slept
    ((5, None), [0.1, 0.2])
    """

    def __init__(self, policy: Policy, sleep: Callable[[float], None], operator: str) -> None:
        retry = Retry() if policy == "retry" else policy
        self._pauses = retry.pauses if isinstance(retry, Retry) else ()
        self._stops = (retry.then if isinstance(retry, Retry) else retry) == "stop"
        self._sleep, self._operator = sleep, operator

    def again(self, attempt: int) -> bool:
        """Attempt number `attempt` (0, 1, ...) has failed: whether to call once more. Waits before it says yes."""
        if attempt >= len(self._pauses):
            return False
        self._sleep(self._pauses[attempt] / 1000)
        return True

    def mend(self, call: Callable[[], Any], error: BaseException) -> tuple[Any, BaseException | None]:
        """The function failed: call it again as the policy says. Its result, or None and the last error."""
        attempt = 0
        while self.again(attempt):
            attempt += 1
            try:
                return call(), None
            except FAILURES as another:
                error = another
        return None, error

    def give_up(self, cause: str, about: str, error: BaseException | None = None) -> None:
        """The row cannot be processed: return, for a dead letter, or raise OperatorError where the policy is to stop.

        `about` names the row in the message.
        """
        if self._stops:
            raise OperatorError(
                f"operator {self._operator!r} stops the worker, as on_error says: {cause}",
                where=about,
                fix="the commit is rolled back and the row is processed again at the next start: mend the function (or "
                'what it calls) and start again, or say on_error="dead-letter"',
            ) from error
