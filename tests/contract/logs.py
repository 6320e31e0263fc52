"""What the suites of the log's contract share."""

import time
import uuid
from dataclasses import dataclass, field

from streams.core.record import Produced, TopicPartition
from streams.log.base import Log, LogReader, LogWriter, TopicSpec

PATIENCE = 90  # seconds: generous, for a broker on a shared machine; nothing waits so long where it works


def new_topic(log: Log, partitions: int) -> str:
    name = f"t-{uuid.uuid4().hex[:12]}"
    log.create([TopicSpec(name, partitions, {})])
    return name


def produced(topic: str, *values: str, partition: int = 0) -> Produced:
    return Produced(topic, partition, [None] * len(values), [v.encode() for v in values], 1_700_000_000_000)


@dataclass
class Read:
    """What came of one partition."""

    offsets: list[int] = field(default_factory=list)
    values: list = field(default_factory=list)
    keys: list = field(default_factory=list)
    timestamps: list = field(default_factory=list)
    headers: list = field(default_factory=list)
    next_offset: int = -1

    @property
    def text(self) -> list[str]:
        return [v.decode() for v in self.values]


def read(reader: LogReader, count: int, most: int = 1000) -> dict[TopicPartition, Read]:
    """Poll until so many records have come, and check what holds for all runs of records."""
    found: dict[TopicPartition, Read] = {}
    have, deadline = 0, time.monotonic() + PATIENCE
    while have < count:
        assert time.monotonic() < deadline, f"{have} of {count} records came"
        for run in reader.poll(most, 1.0):
            into = found.setdefault(run.source, Read())
            offsets = list(run.offsets())
            assert len(run) == len(offsets) > 0
            assert offsets == sorted(set(offsets))
            assert offsets[0] >= into.next_offset
            assert run.next_offset > offsets[-1]
            into.offsets += offsets
            into.values += run.values()
            into.keys += run.keys()
            into.timestamps += run.timestamps()
            into.headers += run.headers()
            into.next_offset = run.next_offset
            have += len(run)
    assert have == count
    return found


def read_topic(log: Log, topic: str, count: int, partitions: int = 1) -> dict[int, Read]:
    """The first `count` records of a topic by partition."""
    reader = log.reader()
    try:
        reader.assign({TopicPartition(topic, p): 0 for p in range(partitions)})
        return {source.partition: found for source, found in read(reader, count).items()}
    finally:
        reader.close()


def write(log: Log, app: str, *batches: Produced, slot: str = "filler") -> None:
    writer = log.writer(app, slot)
    for batch in batches:
        writer.append(batch)
    writer.commit({}, {})
    writer.close()


def commit(writer: LogWriter, batch: Produced) -> None:
    writer.append(batch)
    writer.commit({}, {})


def assign_and_poll(reader: LogReader, partition: TopicPartition) -> None:
    reader.assign({partition: 0})
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        reader.poll(10, 1.0)


def with_group(log: Log, app: str, tasks: int) -> None:
    """Make the application known with so many tasks, as a worker's start does."""
    group = log.group(app, "start", tasks)
    group.leave()
