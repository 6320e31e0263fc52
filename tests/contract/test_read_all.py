"""Reading a topic to its present end, on every log."""

import pytest

from streams.core.errors import TopicMissing
from streams.core.record import TopicPartition
from streams.log.reading import read_all
from tests.contract.logs import new_topic, produced, write


def values(log, topic, **options) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for records in read_all(log, topic, **options):
        found.setdefault(records.source.partition, []).extend(v.decode() for v in records.values())
    return found


def test_all_partitions_in_the_order_of_offsets(log, app):
    topic = new_topic(log, 3)
    write(log, app, produced(topic, "a", "b"), produced(topic, "x", partition=2))
    write(log, app, produced(topic, "c"))
    assert values(log, topic) == {0: ["a", "b", "c"], 2: ["x"]}
    assert values(log, topic, most=1) == {0: ["a", "b", "c"], 2: ["x"]}
    assert values(log, topic, partitions=[2]) == {2: ["x"]}
    assert values(log, topic, partitions=[1]) == {}


def test_from_an_offset_and_from_what_is_left(log, app):
    topic = new_topic(log, 1)
    write(log, app, produced(topic, "a", "b", "c"))
    assert values(log, topic, start={0: 1}) == {0: ["b", "c"]}
    log.trim({TopicPartition(topic, 0): 2})
    assert values(log, topic) == values(log, topic, start={0: 1}) == {0: ["c"]}
    assert values(log, topic, start={0: 99}) == {}


def test_an_open_commit_is_not_waited_for(log, app):
    topic = new_topic(log, 1)
    write(log, app, produced(topic, "a"))
    writer = log.writer(app, "open")
    writer.append(produced(topic, "never"))
    writer.flush()
    assert values(log, topic) == {0: ["a"]}
    writer.abort()
    writer.close()
    assert values(log, topic) == {0: ["a"]}


def test_a_missing_topic_is_named(log):
    topic = new_topic(log, 1)
    with pytest.raises(TopicMissing, match=f"did you mean '{topic}'"):
        values(log, f"{topic}x")
