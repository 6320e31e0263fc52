"""What the tests of the log on a real Kafka share."""

import os
import signal
import time
import uuid
from pathlib import Path

from streams.core.record import Produced, TopicPartition
from streams.log.base import TopicSpec


def unused(tasks, lost):
    """A callback for groups from which nothing is taken."""


def new_topic(log, partitions):
    name = f"t-{uuid.uuid4().hex[:12]}"
    log.create([TopicSpec(name, partitions, {})])
    return name


def produced(topic, *values):
    return Produced(topic, 0, [None] * len(values), [value.encode() for value in values], 5)


def values_of(log, topic, partitions=1):
    """All committed values; the reader's position comes to the end. A commit is done before its marker is written."""
    reader, found = log.reader(), {}
    places = [TopicPartition(topic, number) for number in range(partitions)]
    reader.assign(dict.fromkeys(places, 0))
    ends = log.ends(places)
    wait(lambda: gather(reader, found) and all(reader.position(place) >= ends[place] for place in places))
    wait(lambda: gather(reader, found) and all(map(reader.caught_up, places)))
    reader.close()
    return [found.get(place, []) for place in places]


def gather(reader, found):
    for run in reader.poll(10_000, 0.1):
        found.setdefault(run.source, []).extend(run.values())
    return True


def wait(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
    return True


def stand_still(pid):
    """SIGSTOP, until all threads stand: at first one alone is told, and while it waits for a core the others go on."""
    os.kill(pid, signal.SIGSTOP)
    wait(lambda: all(stat.read_text().rpartition(")")[2].split()[0] == "T" for stat in threads(pid)))


def threads(pid):
    return Path(f"/proc/{pid}/task").glob("*/stat")


def joined(log, app, slot, tasks):
    group = log.group(app, slot, tasks)
    wait(lambda: len(group.poll(0.1, unused)) == tasks)
    return group
