"""Sinks outside the log: rows become visible there exactly once, by two phases that the commit ties together."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

import polars as pl

from streams.core import topic_names
from streams.core.errors import BuildError, WrongType
from streams.core.schema import StreamType

MOST_TOKEN = 256
"""Bytes that a token may have: it lies in the commit, of a task without state in the note beside an offset, for which
logs have 2 KiB in all."""

_MOST_NOTE = 1100  # bytes for the tokens of a task without state; the rest of the note is the position, as base64


@dataclass(frozen=True)
class SinkTask:
    """Who writes: one partition of a sink. Tasks of one sink write beside each other, in several processes.

    It stays the same for as long as the application and the sink keep their names.

    >>> str(SinkTask("shop", "files", 3))
    'shop/files/3'
    """

    app: str
    sink: str
    partition: int

    def __str__(self) -> str:
        return f"{self.app}/{self.sink}/{self.partition}"


class TwoPhaseSink(ABC):
    """Something outside the log that takes rows exactly once. Use it as `stream | app.write_to(MySink(), name="...")`.

    A task's commit calls, from the worker's one thread and always in this order:

    1. `prepare`: the rows of this commit become durable where nobody sees them.
    2. The commit: outputs, state, positions and the token that `prepare` gave, at once or not at all.
    3. `publish`: what was prepared becomes visible.

    The process may die between any two, and within each. When the task is opened again, by any worker, before it reads
    anything, the engine calls

    1. `publish` with the token of the last commit, unless a later commit has noted that it is published;
    2. `recover`, so that what will never be published can be deleted.

    So what was committed is published, and what was not is not. Promise in return:

    - **prepare**: once it has returned, `publish` works in another process, on another machine, after a power failure.
    - **publish** is idempotent. It may be called again at any time: after a crash, by another worker at the same
      moment, and by one that was stopped for long, after later tokens were published.
    - A commit may be prepared several times, each time with other rows: attempts before it failed. Give every attempt a
      place and a token of its own; only the token that was committed is published.

    One instance serves all tasks of its worker; what belongs to a task is told by `task`. Keep no rows between calls.

    An exception in any method rolls back what is not committed; the worker then takes its tasks anew and tries again,
    12 times in a row at the most. A `StreamsError` other than a `SinkError` ends the worker at once.

    `streams.testing.check_sink` tests a sink against this contract.

    >>> import json
    >>> class Shelf(TwoPhaseSink):
    ...     def __init__(self):
    ...         self.hidden, self.seen = {}, {}
    ...     def prepare(self, task, sequence, frame):
    ...         token = f"{task.partition}-{sequence}-{len(self.hidden)}".encode()
    ...         self.hidden[token] = frame.rows()
    ...         return token
    ...     def publish(self, task, token):
    ...         self.seen.setdefault(token, self.hidden[token])
    >>> shelf, task = Shelf(), SinkTask("shop", "shelf", 0)
    >>> token = shelf.prepare(task, 1, pl.DataFrame({"n": [5]}))
    >>> shelf.publish(task, token), shelf.publish(task, token), list(shelf.seen.values())
    (None, None, [[(5,)]])
    """

    target: str = ""
    """What it writes to, in words, for `streams topology`. No two sinks of a program may have the same one."""

    def bind(self, input: StreamType) -> None:
        """Called while the program is built. Raise a BuildError if the sink cannot take such rows."""
        return None

    @abstractmethod
    def prepare(self, task: SinkTask, sequence: int, frame: pl.DataFrame) -> bytes:
        """Make the rows of the task's commit number `sequence` durable where nobody sees them; return a token.

        `frame` has the stream's columns and at least one row, in the order in which the task made them: a commit
        without rows for this sink is not prepared. The token, at most 256 bytes, is all that `publish` is given.

        Sequences of a task rise from commit to commit, with gaps. A commit that failed after `prepare` is prepared
        again under the same sequence, perhaps with other rows; a worker that has lost the task without knowing it can
        prepare that very sequence at the same time. Neither attempt may touch the other.
        """

    @abstractmethod
    def publish(self, task: SinkTask, token: bytes) -> None:
        """Make visible what was prepared under this token, all of it at once. The commit has succeeded.

        It must do nothing where that is done already, even if readers have taken the rows away since.
        """

    def recover(self, task: SinkTask, sequence: int, token: bytes | None) -> None:
        """The task is opened; `sequence` is that of its last commit (0: none yet), `token` what it has published again.

        Delete leftovers of commits up to `sequence`: what is not published by now never will be. Leave later ones
        alone, for the task may have been lost again without our knowing it, and they may be its new holder's.
        """
        return None


@dataclass(frozen=True)
class Outside:
    """A sink outside the log under its name: what `app.write_to` gives."""

    sink: TwoPhaseSink
    name: str


def outside(sink: TwoPhaseSink, name: str) -> Outside:
    """The arguments of `app.write_to`, checked."""
    where = f"app.write_to(..., name={name!r})"
    if not isinstance(sink, TwoPhaseSink):
        raise WrongType(
            f"{sink!r} is not a sink outside the log",
            where=where,
            fix="give an object of a subclass of TwoPhaseSink (FileSink(directory)); topics are written with app.sink",
        )
    if topic_names.fault(name):
        raise BuildError(f"{name!r} is not a name for a sink", where=where, fix=topic_names.FIX)
    return Outside(sink, name)


def check_targets(sinks: Iterable[Outside], new: Outside) -> None:
    """BuildError if another sink of the program writes to the same place."""
    for known in sinks:
        if known.sink is new.sink or (new.sink.target and known.sink.target == new.sink.target):
            raise BuildError(
                f"the sinks {known.name!r} and {new.name!r} write to the same place",
                where=new.sink.target or type(new.sink).__name__,
                fix="give each sink an object and a place of its own, or put the streams together with union()",
            )


def check_room(names: Iterable[str], sub: int) -> None:
    """BuildError if the tokens of a task without state could be too large for the note that holds them."""
    found = list(names)
    if sum(len(name) + MOST_TOKEN + 16 for name in found) > _MOST_NOTE:
        raise BuildError(
            f"{len(found)} sinks outside the log in a sub-topology without state: its commit has no room for that many",
            where=f"sub-topology {sub}: {', '.join(found)}",
            fix=f"use at most {_MOST_NOTE // (MOST_TOKEN + 48)} there (a KeyBy before the others gives them a task of "
            "their own)",
        )
