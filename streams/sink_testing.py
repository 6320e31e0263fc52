"""Sinks outside the log under test: one in memory, and the contract as a check for any other."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import polars as pl

from streams.codec.json import encode
from streams.core.sinks import MOST_TOKEN, SinkTask, TwoPhaseSink


class MemorySink(TwoPhaseSink):
    """Keeps rows in memory, as JSON. What `app.test()` puts in the place of sinks outside the log.

    It outlives the workers of a test, as the outside world does.
    """

    def __init__(self) -> None:
        self._attempts = 0
        self._prepared: dict[tuple[int, bytes], list[bytes]] = {}
        self._published: dict[tuple[int, int], list[bytes]] = {}

    def prepare(self, task: SinkTask, sequence: int, frame: pl.DataFrame) -> bytes:
        self._attempts += 1
        token = f"{sequence}-{self._attempts}".encode()
        self._prepared[task.partition, token] = encode(frame)
        return token

    def publish(self, task: SinkTask, token: bytes) -> None:
        rows = self._prepared.pop((task.partition, token), None)
        if rows is not None:
            self._published[task.partition, int(token.split(b"-")[0])] = rows

    def recover(self, task: SinkTask, sequence: int, token: bytes | None) -> None:
        for partition, known in list(self._prepared):
            if partition == task.partition and int(known.split(b"-")[0]) <= sequence:
                del self._prepared[partition, known]

    def values(self) -> list[bytes]:
        """What was published: partition by partition, in the order of commits."""
        return [value for place in sorted(self._published) for value in self._published[place]]


def check_sink(make: Callable[[], TwoPhaseSink], read: Callable[[], Iterable[Mapping[str, Any]]]) -> None:
    """Check a sink outside the log against the contract of `TwoPhaseSink`; AssertionError says what it breaks.

    `make` gives the sink of a new process: another object on the same place, which must be empty at first. `read` gives
    all rows that a reader sees there, in any order. Rows have the columns `n` (an integer) and `text`.

    >>> class Outbox(TwoPhaseSink):
    ...     hidden, seen = {}, []
    ...     def prepare(self, task, sequence, frame):
    ...         token = f"{task.partition}/{sequence}".encode()
    ...         self.hidden[token] = frame.to_dicts()
    ...         return token
    ...     def publish(self, task, token):
    ...         self.seen += self.hidden[token]
    >>> check_sink(Outbox, lambda: Outbox.seen)
    Traceback (most recent call last):
    AssertionError: a token that is published twice: [1, 2, 1, 2], expected [1, 2]
    """

    def expect(true: bool, otherwise: str) -> None:
        if not true:  # no assert statement: `python -O` takes it out, and pytest adds to its text
            raise AssertionError(otherwise)

    def see(what: str, *wanted: int) -> None:
        found = sorted(int(row["n"]) for row in read())
        shown = [int(row["n"]) for row in read()]
        expect(found == sorted(wanted), f"{what}: {shown}, expected {sorted(wanted)}")

    def rows(*numbers: int) -> pl.DataFrame:
        return pl.DataFrame({"n": numbers, "text": [f"row {n}" for n in numbers]}, schema={"n": pl.Int64, "text": str})

    def prepare(sink: TwoPhaseSink, task: SinkTask, sequence: int, *numbers: int) -> bytes:
        token = sink.prepare(task, sequence, rows(*numbers))
        expect(isinstance(token, bytes), f"prepare gave {token!r}, not bytes")
        expect(len(token) <= MOST_TOKEN, f"a token of {len(token)} bytes, more than {MOST_TOKEN}")
        return token

    one, other = SinkTask("check", "sink", 0), SinkTask("check", "sink", 1)
    sink = make()
    see("the place before anything was prepared")
    sink.recover(one, 0, None)
    sink.recover(other, 0, None)
    # Prepared is not seen, published is, as often as it may be published.
    first = prepare(sink, one, 1, 1, 2)
    see("rows that are prepared only")
    sink.publish(one, first)
    see("published rows", 1, 2)
    sink.publish(one, first)
    see("a token that is published twice", 1, 2)
    # A process dies between the commit and publish; the next one publishes, more than once.
    second = prepare(sink, one, 2, 3)
    sink = make()
    sink.publish(one, second)
    see("a token that another process publishes", 1, 2, 3)
    sink.recover(one, 2, second)
    see("after recover", 1, 2, 3)
    # Attempts whose commit failed are never seen, though another one of the same sequence is published.
    failed = prepare(sink, one, 4, 90)
    third = prepare(sink, one, 4, 4, 5)
    expect(failed != third, "two attempts at one commit have the same token")
    sink.publish(one, third)
    see("the second attempt at a commit", 1, 2, 3, 4, 5)
    prepare(sink, one, 5, 91)
    sink = make()
    sink.publish(one, third)
    sink.recover(one, 4, third)
    fifth = prepare(sink, one, 5, 6)
    sink.publish(one, fifth)
    see("after a commit that failed, and a restart", 1, 2, 3, 4, 5, 6)
    # Tokens come late, from a worker that was stopped; also once the task has been opened again.
    sink.publish(one, first)
    sink.publish(one, third)
    see("tokens that are published late", 1, 2, 3, 4, 5, 6)
    # A worker that has lost the task without knowing it recovers while the new holder is about to commit, and prepares.
    late, sink = sink, make()
    sink.publish(one, fifth)
    sink.recover(one, 5, fifth)
    sixth = prepare(sink, one, 7, 7)
    late.recover(one, 5, fifth)
    prepare(late, one, 7, 92)
    sink.publish(one, sixth)
    see("a commit beside a worker that has lost the task", 1, 2, 3, 4, 5, 6, 7)
    # Tasks do not touch each other.
    beside = prepare(sink, other, 7, 8)
    sink.recover(one, 7, sixth)
    sink.publish(other, beside)
    see("the rows of another task", 1, 2, 3, 4, 5, 6, 7, 8)
    # A commit without a token: nothing was prepared, or it is known to be published.
    sink = make()
    sink.recover(one, 9, None)
    sink.recover(other, 9, None)
    see("after a restart without tokens", 1, 2, 3, 4, 5, 6, 7, 8)
