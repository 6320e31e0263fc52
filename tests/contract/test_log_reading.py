"""What every log promises of its topics and readers."""

import time
import uuid

import pytest

from streams.core.errors import LogError, TopicMismatch, TopicMissing
from streams.core.record import TopicPartition
from streams.log.base import TopicSpec
from tests.contract.logs import PATIENCE, assign_and_poll, commit, new_topic, produced, read, read_topic, write

# ---- topics


def test_create_makes_what_is_missing_and_leaves_the_rest(log):
    name = new_topic(log, 3)
    before = log.topics([name])[name]
    assert (before.name, before.partitions, before.retention_ms) == (name, 3, -1)
    assert before.id
    other = f"{name}-other"
    log.create([TopicSpec(name, 5, {}), TopicSpec(other, 1, {})])
    found = log.topics([name, other, f"{name}-none"])
    assert found[name] == before
    assert set(found) == {name, other}
    assert found[other].id != before.id
    assert {name, other} <= set(log.all_topics())


def test_an_unknown_topic_is_named(log, app, reader):
    unknown = f"none-{uuid.uuid4().hex}"
    writer = log.writer(app, "w1")
    with pytest.raises(TopicMissing, match=unknown):
        commit(writer, produced(unknown, "a"))
    writer.abort()
    writer.close()
    with pytest.raises(TopicMissing, match=unknown):
        log.ends([TopicPartition(unknown, 0)])
    with pytest.raises(TopicMissing, match=unknown):
        log.starts([TopicPartition(unknown, 0)])
    with pytest.raises(TopicMissing, match=unknown):
        assign_and_poll(reader, TopicPartition(unknown, 0))
    assert log.topics([unknown]) == {}


def test_an_unknown_partition_is_told(log, app, topic, reader):
    writer = log.writer(app, "w1")
    with pytest.raises(TopicMismatch, match=topic):
        commit(writer, produced(topic, "a", partition=1))
    writer.abort()
    writer.close()
    with pytest.raises(TopicMismatch, match=topic):
        assign_and_poll(reader, TopicPartition(topic, 1))


def test_starts_ends_and_trim(log, app):
    topic = new_topic(log, 2)
    one, two = TopicPartition(topic, 0), TopicPartition(topic, 1)
    assert log.starts([one, two]) == log.ends([one, two]) == {one: 0, two: 0}
    for number in range(0, 30, 10):
        write(log, app, produced(topic, *(str(n) for n in range(number, number + 10))))
    offsets = read_topic(log, topic, 30)[0].offsets
    ends = log.ends([one, two])
    assert ends[one] > offsets[-1]
    assert ends[two] == 0
    reached = 0
    for index in (3, 10, 25, 25, 7):
        log.trim({one: offsets[index]})
        reached = max(reached, index)
        assert log.starts([one, two]) == {one: offsets[reached], two: 0}
    assert log.ends([one, two]) == ends
    reader = log.reader()
    reader.assign({one: offsets[25]})
    assert read(reader, 5)[one].text == ["25", "26", "27", "28", "29"]
    reader.close()
    log.trim({one: ends[one] + 1_000_000})  # beyond the end: taken as the end
    assert log.starts([one]) == {one: ends[one]}
    write(log, app, produced(topic, "30"))
    reader = log.reader()
    reader.assign({one: ends[one]})
    assert read(reader, 1)[one].text == ["30"]
    reader.close()


def test_a_position_that_was_trimmed_is_an_error_and_no_silent_jump(log, app, topic, reader):
    write(log, app, produced(topic, *map(str, range(10))))
    partition = TopicPartition(topic, 0)
    log.trim({partition: read_topic(log, topic, 10)[0].offsets[5]})
    with pytest.raises(LogError):
        assign_and_poll(reader, partition)


# ---- readers


def test_pause_and_resume(log, app, reader):
    topic = new_topic(log, 2)
    one, two = TopicPartition(topic, 0), TopicPartition(topic, 1)
    reader.assign({one: 0, two: 0})
    write(log, app, produced(topic, "a", "b"), produced(topic, "c", partition=1))
    assert read(reader, 3).keys() == {one, two}
    reader.pause([one])
    write(log, app, produced(topic, "d", "e"), produced(topic, "f", partition=1))
    assert {s: r.text for s, r in read(reader, 1).items()} == {two: ["f"]}
    write(log, app, produced(topic, "g", partition=1))
    assert {s: r.text for s, r in read(reader, 1).items()} == {two: ["g"]}
    assert not reader.caught_up(one)
    reader.resume([one])
    assert {s: r.text for s, r in read(reader, 2).items()} == {one: ["d", "e"]}


def test_a_pause_in_the_middle_of_a_batch_loses_and_repeats_nothing(log, app, topic, reader):
    values = [str(i) for i in range(5000)]
    write(log, app, produced(topic, *values))
    partition, found, deadline = TopicPartition(topic, 0), [], time.monotonic() + PATIENCE
    reader.assign({partition: 0})
    while len(found) < 5000:
        assert time.monotonic() < deadline
        for run in reader.poll(700, 1.0):
            found += [v.decode() for v in run.values()]
        reader.pause([partition])
        assert reader.poll(700, 0.0) == []
        reader.resume([partition])
    assert found == values


def test_nothing_of_an_unassigned_partition_comes(log, app, reader):
    topic = new_topic(log, 2)
    one, two = TopicPartition(topic, 0), TopicPartition(topic, 1)
    write(log, app, produced(topic, *map(str, range(2000))), produced(topic, "x", partition=1))
    reader.assign({one: 0})
    reader.assign({two: 0})
    first = reader.poll(10, PATIENCE)
    assert first
    reader.unassign([one])
    seen = any(run.source == two for run in first)
    write(log, app, produced(topic, "y"), produced(topic, "y", partition=1))
    assert {s: r.text for s, r in read(reader, 1 if seen else 2).items()} == {two: ["y"] if seen else ["x", "y"]}
    reader.assign({one: 0})
    assert read(reader, 2001)[one].text[-1] == "y"


def test_caught_up_and_lag(log, app, topic, reader):
    partition = TopicPartition(topic, 0)
    assert not reader.caught_up(partition)
    assert reader.lag(partition) == 0
    write(log, app, produced(topic, *map(str, range(1000))))
    reader.assign({partition: 0})
    deadline = time.monotonic() + PATIENCE
    count = 0
    while count < 1000:
        assert time.monotonic() < deadline
        runs = reader.poll(100, 1.0)
        count += sum(map(len, runs))
        if 0 < count < 900:
            assert not reader.caught_up(partition)
            assert reader.lag(partition) > 0
    while not reader.caught_up(partition):
        assert time.monotonic() < deadline
        assert reader.poll(100, 0.1) == []
    assert reader.lag(partition) <= 1  # a marker may lie behind the last record
    reader.pause([partition])
    assert not reader.caught_up(partition)
    reader.resume([partition])
    while not reader.caught_up(partition):
        assert time.monotonic() < deadline
        assert reader.poll(100, 0.1) == []
    write(log, app, produced(topic, "more"))
    assert read(reader, 1)[partition].text == ["more"]


def test_the_position_reaches_the_end_that_the_log_tells(log, app, topic, reader):
    """A restore reads until then: what a transaction leaves behind its records must not keep it from it."""
    partition = TopicPartition(topic, 0)
    writer = log.writer(app, "w1")
    commit(writer, produced(topic, "a", "b"))
    writer.append(produced(topic, "dropped"))
    writer.flush()
    writer.abort()
    writer.close()
    end = log.ends([partition])[partition]
    reader.assign({partition: 0})
    assert reader.position(partition) == 0
    values, deadline = [], time.monotonic() + PATIENCE
    while reader.position(partition) < end:
        values += [v for records in reader.poll(1, 0.1) for v in records.values()]
        assert time.monotonic() < deadline
    assert values == [b"a", b"b"]


def test_an_empty_partition_is_caught_up(log, topic, reader):
    partition = TopicPartition(topic, 0)
    reader.assign({partition: 0})
    deadline = time.monotonic() + PATIENCE
    while not reader.caught_up(partition):
        assert time.monotonic() < deadline
        assert reader.poll(100, 0.1) == []
    assert reader.lag(partition) == 0


def test_reading_from_the_middle(log, app, topic):
    values = [str(i) for i in range(500)]
    write(log, app, produced(topic, *values[:200]))
    write(log, app, produced(topic, *values[200:203]), produced(topic, *values[203:]))
    offsets = read_topic(log, topic, 500)[0].offsets
    for index in (1, 57, 199, 200, 201, 203, 499):
        reader = log.reader()
        reader.assign({TopicPartition(topic, 0): offsets[index]})
        found = read(reader, 500 - index, most=100)[TopicPartition(topic, 0)]
        assert (found.text, found.offsets) == (values[index:], offsets[index:])
        reader.close()


def test_assigning_anew_reads_from_there(log, app, topic, reader):
    write(log, app, produced(topic, "a", "b", "c"))
    reader.assign({TopicPartition(topic, 0): 0})
    offsets = read(reader, 3)[TopicPartition(topic, 0)].offsets
    reader.assign({TopicPartition(topic, 0): offsets[1]})
    assert read(reader, 2)[TopicPartition(topic, 0)].text == ["b", "c"]


def test_a_poll_brings_about_as_many_as_asked_for_of_every_partition(log, app, reader):
    topic = new_topic(log, 3)
    for partition in range(3):
        write(log, app, produced(topic, *map(str, range(400)), partition=partition))
    reader.assign({TopicPartition(topic, p): 0 for p in range(3)})
    left, deadline = {TopicPartition(topic, p): 400 for p in range(3)}, time.monotonic() + PATIENCE
    while any(left.values()):
        assert time.monotonic() < deadline
        runs = reader.poll(50, 1.0)
        assert len({run.source for run in runs}) == len(runs)
        assert sum(map(len, runs)) <= 100
        for run in runs:
            left[run.source] -= len(run)


def test_a_waiting_poll_gets_what_is_committed_meanwhile(log, app, topic, reader):
    reader.assign({TopicPartition(topic, 0): 0})
    assert reader.poll(10, 0.0) == []
    write(log, app, produced(topic, "a"))
    assert read(reader, 1)[TopicPartition(topic, 0)].text == ["a"]
    write(log, app, produced(topic, "b"))
    assert read(reader, 1)[TopicPartition(topic, 0)].text == ["b"]
