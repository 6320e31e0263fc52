"""Dead letters for tests, written as a worker writes them, and a replay in a process of its own that can be killed.

python -m tests.dlq.letters APP STEP:N [--brokers B | --log-dir D]     is killed at the N-th STEP
"""

import os
import signal
import sys

from streams.app import open_log
from streams.core.batch import Letter
from streams.dlq import letters, replay
from streams.log.base import Log, TopicSpec
from streams.log.reading import read_all
from streams.runtime.letters import DeadLetters
from streams.settings import load

AT_ONCE = 3
STAMP = 1_700_000_000_000


def dead(app: str) -> str:
    return f"{app}-dead"


def source(app: str) -> str:
    return f"{app}-in"


def fill(log: Log, app: str, count: int) -> None:
    """So many letters of records of two partitions, in a dead-letter topic of two partitions."""
    log.create([TopicSpec(dead(app), 2, {}), TopicSpec(source(app), 2, {})])
    writer = log.writer(app, "filler")
    for number in range(count):
        found = DeadLetters()
        key = f"k{number}".encode() if number % 3 else None
        headers = [("trace", f"t{number}".encode())] if number % 2 else ()
        letter = Letter(f"v{number}".encode(), key, source(app), number % 2, number, STAMP + number, headers=headers)
        found.add(letter, f"maprows-1: ValueError: {number % 4}", "maprows-1")
        produced = found.produced(dead(app), number % 2, 0)
        assert produced is not None
        writer.append(produced)
    writer.commit({}, {})
    writer.close()


def letter(log: Log, app: str, value: bytes, **fields: object) -> None:
    """One letter more, in partition 0."""
    found = DeadLetters()
    given = {"key": None, "topic": source(app), "partition": 0, "offset": 99, "timestamp": -1, **fields}
    found.add(Letter(value, **given), "cause", "op")  # type: ignore[arg-type]
    produced = found.produced(dead(app), 0, 0)
    assert produced is not None
    writer = log.writer(app, "filler")
    writer.append(produced)
    writer.commit({}, {})
    writer.close()


def run(log: Log, app: str, hook=None) -> replay.Outcome:
    found = letters.read(log, dead(app))
    return replay.replay(log, app, dead(app), found, {source(app): 2}, hook=hook, at_once=AT_ONCE)


def in_source(log: Log, app: str) -> list[tuple[str, int]]:
    """What lies in the source topic: (value, partition), sorted."""
    return sorted(
        (value.decode(), records.source.partition)
        for records in read_all(log, source(app))
        for value in records.values()
        if value is not None
    )


def expected(count: int) -> list[tuple[str, int]]:
    return sorted((f"v{number}", number % 2) for number in range(count))


def killing(step: str, count: int):
    """A hook that ends this process when the step is reached so many times."""
    left = [count]

    def hook(reached: str) -> None:
        if reached == step:
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

    return hook


if __name__ == "__main__":
    app_, at, option, where = sys.argv[1:]
    step_, _, count_ = at.partition(":")
    log_ = open_log(load({option.removeprefix("--").replace("-", "_"): where}))
    run(log_, app_, killing(step_, int(count_)))
    log_.close()
