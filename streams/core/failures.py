"""Telling of exceptions in users' functions, beside the dead letters that they become: for debuggers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Watcher = Callable[[str, BaseException], None]
"""Called with the operator's id and the exception, while it is being handled."""

_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


def report(operator: str, error: BaseException) -> None:
    """A user's function has raised within an operator; the row becomes a dead letter."""
    watcher = _watcher.get()
    if watcher is not None:
        watcher(operator, error)


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Within the block, in this thread, the watcher is told of each failure.

    >>> seen = []
    >>> with watching(lambda operator, error: seen.append((operator, str(error)))):
    ...     report("maprows-1", ValueError("unlucky"))
    >>> report("maprows-1", ValueError("nobody looks")); seen
    [('maprows-1', 'unlucky')]
    """
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)
