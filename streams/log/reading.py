"""Reading a topic from its start to where it ends now."""

import time
from collections.abc import Iterator, Mapping, Sequence

from streams.core.errors import LogUnreachable, TopicMissing
from streams.core.record import Records, TopicPartition
from streams.core.schema import nearest
from streams.log.base import Log, TopicInfo

_GRACE = 0.5  # seconds


def topic_info(log: Log, topic: str) -> TopicInfo:
    """What the log knows of a topic; TopicMissing, with the nearest name, if there is none."""
    found = log.topics([topic]).get(topic)
    if found is None:
        guess = nearest(topic, log.all_topics())
        raise TopicMissing(
            f"no topic {topic!r}{guess}",
            where=log.name,
            fix=f"{'correct the name, or ' if guess else ''}create it: streams topics create {topic}{log.option}. "
            "A worker makes the topics of its sinks itself, when it starts",
        )
    return found


def read_all(
    log: Log,
    topic: str,
    *,
    partitions: Sequence[int] | None = None,
    start: Mapping[int, int] | None = None,
    most: int = 20_000,
    patience: float = 60.0,
) -> Iterator[Records]:
    """The committed records of a topic up to its present end, as runs of one partition in the order of offsets.

    - `partitions`: which ones; by default all.
    - `start`: by partition, the offset to begin at; by default, and where less is left, the first that can be read.
    - `most`: about how many records a run has at the most.
    - `patience`: seconds without anything new, before the end, after which LogUnreachable is raised.

    The end is taken when the reading begins; what is committed later may be among the runs or not. What an open commit
    holds back is not waited for, but for a moment: Kafka says that a commit is done, and writes its markers then.
    Raises TopicMissing.

    >>> from streams.core.record import Produced
    >>> from streams.log.embedded import EmbeddedLog
    >>> with EmbeddedLog.temporary({"t": 2}) as log:
    ...     writer = log.writer("app", "w1")
    ...     writer.append(Produced("t", 1, [None, None], [b"a", b"b"], 5)); writer.commit({}, {})
    ...     [(records.source.partition, list(records.values())) for records in read_all(log, "t")]
    [(1, [b'a', b'b'])]
    """
    info = topic_info(log, topic)
    chosen = [TopicPartition(topic, p) for p in (range(info.partitions) if partitions is None else partitions)]
    first, ends = log.starts(chosen), log.ends(chosen)
    begin = {p: max(first[p], (start or {}).get(p.partition, 0)) for p in chosen}
    left = {p for p in chosen if ends[p] > begin[p]}
    if not left:
        return
    reader = log.reader()
    try:
        reader.assign({p: begin[p] for p in left})
        moved, held = time.monotonic(), dict[TopicPartition, float]()
        while left:
            for records in reader.poll(most, 0.1):
                moved = time.monotonic()
                yield records
                if records.next_offset >= ends[records.source]:
                    left.discard(records.source)
            # The end counts open commits and, on Kafka, the markers of transactions: there the reader knows best.
            left -= {p for p in left if reader.position(p) >= ends[p]}
            for p in [p for p in left if reader.caught_up(p)]:
                if time.monotonic() - held.setdefault(p, time.monotonic()) >= _GRACE:
                    left.discard(p)
            if left and time.monotonic() - moved > patience:
                names = ", ".join(f"{p.topic}/{p.partition}" for p in sorted(left))
                raise LogUnreachable(
                    f"nothing came of {names} for {patience:g} seconds, though it goes on",
                    where=log.name,
                    fix="look whether the log can be reached, then try again",
                )
    finally:
        reader.close()
