"""What a worker and its tasks have to say in words, beside metrics and status."""

import logging
from typing import Protocol

_log = logging.getLogger("streams")


class Note(Protocol):
    """Takes a line for whoever runs the worker.

    A note is a WARNING unless it is said to be less: what the worker mends by itself (a store made anew, an aborted
    commit) is still something to know. INFO is for what belongs to normal work. `task` is the task it is about, as in
    "0/3".
    """

    def __call__(self, text: str, level: int = logging.WARNING, *, task: str = "") -> None: ...


def to_logger(text: str, level: int = logging.WARNING, *, task: str = "") -> None:
    """A `Note` for Python's logging: the logger is "streams"; the record has an attribute `task`."""
    _log.log(level, "%s", text, extra={"task": task})
