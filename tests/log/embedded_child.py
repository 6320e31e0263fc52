"""What the tests of the embedded log run as processes of their own: `python embedded_child.py WHAT DIRECTORY ...`.

They end with the process that started them.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

from streams.core.record import Produced, TopicPartition
from streams.log.base import Committed
from streams.log.embedded import EmbeddedLog
from streams.log.embedded_file import LogFile
from streams.protocol import Lease

TOPIC, PARTITIONS, APP = "numbers", 3, "app"


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())  # at once: forks share the pipe


def appenders(directory: str) -> None:
    """For each line `slot task seed` a process that appends: a fork, since imports take longer than what is tested."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # they vanish when they are killed
    say("listens")
    for line in sys.stdin:
        parent = os.getpid()
        if os.fork() == 0:
            append(directory, *line.split(), parent)
    # Those that live see that their parent has changed.


def append(directory: str, slot: str, task: str, seed: str, parent: int) -> None:
    """Commit after commit: some records `slot n count` to each partition, n also as position and lease sequence."""
    log, draw = EmbeddedLog(directory), random.Random(seed)
    writer = log.writer(APP, slot)
    found = log.leases(APP, [int(task)])[int(task)]
    number = found.sequence if found else 0
    say(f"{slot} {os.getpid()}")
    while os.getppid() == parent:
        number += 1
        for partition in range(PARTITIONS):
            count = draw.choice([1, 3, 30])
            value = f"{slot} {number} {count}".encode()
            writer.append(Produced(TOPIC, partition, [None] * count, [value] * count, 0))
        positions = {TopicPartition("in", int(task)): Committed(number)}
        writer.commit(positions, {int(task): Lease(slot, True, "f", number)})
    os._exit(0)


def member(directory: str, slot: str, tasks: str, session: str) -> None:
    """A member of the group that says what becomes of its tasks."""
    log = EmbeddedLog(directory, session=float(session))
    group, before, parent = log.group(APP, slot, int(tasks)), None, os.getppid()
    while os.getppid() == parent:
        now = group.poll(0.05, lambda tasks, lost: say(f"{'lost' if lost else 'revoked'} {sorted(tasks)}"))
        if now != before:
            say(f"has {sorted(now)}")
        before = now


def hold(directory: str) -> None:
    """Begin a write transaction and keep it."""
    file = LogFile(Path(directory) / "log.db", 10.0)
    with file.writing():
        say("holds")
        time.sleep(600)


if __name__ == "__main__":
    {"appenders": appenders, "member": member, "hold": hold}[sys.argv[1]](*sys.argv[2:])
