"""What every log promises (streams.log.base), run over each implementation."""

import random
import time
import uuid
from dataclasses import dataclass, field

import polars as pl
import pytest

from streams.core.errors import Fenced, LogError, TopicMissing
from streams.core.keys import partitions as partitions_of
from streams.core.record import Produced, TopicPartition
from streams.log.base import Committed, Log, LogReader, TopicSpec
from streams.protocol import Lease

PATIENCE = 90  # seconds: generous, for a broker on a shared machine; nothing waits so long where it works


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def log(request, tmp_path):
    if request.param == "embedded":
        from streams.log.embedded import EmbeddedLog

        made: Log = EmbeddedLog(tmp_path)
    else:
        from streams.log.kafka import KafkaLog

        made = KafkaLog(request.getfixturevalue("kafka").bootstrap, {})
    yield made
    made.close()


@pytest.fixture
def app():
    return f"app-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def topic(log):
    return new_topic(log, 1)


@pytest.fixture
def reader(log):
    made = log.reader()
    yield made
    made.close()


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


# ---- commits


def test_a_commit_shows_all_at_once_and_nothing_before(log, app, reader):
    first, second, source = new_topic(log, 1), new_topic(log, 2), TopicPartition("in", 0)
    with_group(log, app, 2)
    reader.assign({TopicPartition(first, 0): 0, TopicPartition(second, 0): 0, TopicPartition(second, 1): 0})
    writer = log.writer(app, "w1")
    writer.append(produced(first, "a", "b"))
    writer.append(produced(second, "c", partition=1))
    writer.flush()
    assert writer.pending == 3
    assert reader.poll(100, 0.3) == []
    writer.commit({TopicPartition(first, 0): Committed(7, "note")}, {0: Lease("w1", True, "f", 1)})
    assert writer.pending == 0
    assert {s: r.text for s, r in read(reader, 3).items()} == {
        TopicPartition(first, 0): ["a", "b"],
        TopicPartition(second, 1): ["c"],
    }
    assert log.committed(app, [TopicPartition(first, 0)]) == {TopicPartition(first, 0): Committed(7, "note")}
    assert log.leases(app, [0, 1]) == {0: Lease("w1", True, "f", 1), 1: None}
    assert log.committed(app, [source])[source] is None
    writer.close()


def test_nothing_of_an_aborted_commit_is_ever_seen(log, app, topic):
    writer = log.writer(app, "w1")
    writer.append(produced(topic, "dropped"))
    writer.flush()
    writer.abort()
    assert writer.pending == 0
    writer.append(produced(topic, "kept"))
    writer.commit({}, {})
    writer.abort()
    writer.append(produced(topic, "last"))
    writer.commit({}, {})
    assert read_topic(log, topic, 2)[0].text == ["kept", "last"]
    writer.close()


def test_nothing_of_a_closed_writers_open_commit_is_ever_seen(log, app, topic):
    writer = log.writer(app, "w1")
    writer.append(produced(topic, "dropped"))
    writer.close()
    write(log, app, produced(topic, "kept"), slot="w1")
    assert read_topic(log, topic, 1)[0].text == ["kept"]


def test_an_empty_commit_is_one(log, app, topic):
    writer = log.writer(app, "w1")
    writer.commit({}, {})
    writer.append(produced(topic))
    writer.commit({}, {})
    writer.append(produced(topic, "a"))
    writer.commit({}, {})
    assert read_topic(log, topic, 1)[0].text == ["a"]
    writer.close()


def test_order_is_that_of_the_appends(log, app, topic):
    writer, expected, draw = log.writer(app, "w1"), [], random.Random(1)
    for commit in range(10):
        for append in range(draw.randint(1, 4)):
            values = [f"{commit}.{append}.{i}" for i in range(draw.randint(1, 300))]
            writer.append(produced(topic, *values))
            expected += values
        writer.commit({}, {})
    writer.close()
    assert read_topic(log, topic, len(expected))[0].text == expected


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


def test_two_slots_write_side_by_side(log, app, topic):
    writers = {slot: log.writer(app, slot) for slot in ("w1", "w2")}
    for number in range(20):
        for slot, writer in writers.items():
            writer.append(produced(topic, f"{slot} {number}"))
            writer.commit({}, {})
    found = read_topic(log, topic, 40)[0].text
    for slot, writer in writers.items():
        assert [v for v in found if v.startswith(slot)] == [f"{slot} {n}" for n in range(20)]
        writer.close()


# ---- records


def test_all_parts_of_a_record_come_back(log, app, topic):
    keys = [b"k", None, b"", b"\x00\xff", "ü".encode()]
    values = [b"v", b"", None, b"\xff\x00", b"x" * 100_000]
    timestamps = [0, 1, 1_700_000_000_000, 1_700_000_000_001, 4_000_000_000_000]
    headers = [[("a", b"1"), ("a", b"2"), ("", b"")], None, None, [("ü", b"\x00\xff")], None]
    write(log, app, Produced(topic, 0, keys, values, timestamps, headers))
    write(log, app, Produced(topic, 0, [None, b"k"], [b"v", b"w"], 5))
    found = read_topic(log, topic, 7)[0]
    assert found.keys == [*keys, None, b"k"]
    assert found.values == [*values, b"v", b"w"]
    assert found.timestamps == [*timestamps, 5, 5]
    assert [h or None for h in found.headers] == [*headers, None, None]


def test_records_with_and_without_keys_and_headers_in_one_commit(log, app, topic):
    writer = log.writer(app, "w1")
    writer.append(Produced(topic, 0, [None], [b"a"], 1))
    writer.append(Produced(topic, 0, [b"k"], [b"b"], [2], [[("h", b"x")]]))
    writer.append(Produced(topic, 0, [None], [None], 3))
    writer.commit({}, {})
    writer.close()
    found = read_topic(log, topic, 3)[0]
    assert found.keys == [None, b"k", None]
    assert found.values == [b"a", b"b", None]
    assert [h or None for h in found.headers] == [None, [("h", b"x")], None]


def test_a_key_goes_where_java_clients_send_it(log, app):
    topic, draw = new_topic(log, 5), random.Random(2)
    keys = [draw.randbytes(draw.randint(0, 20)) for _ in range(400)]
    values = [str(i).encode() for i in range(400)]
    write(log, app, Produced(topic, None, keys, values, 5))
    expected: dict[int, list[bytes]] = {}
    for value, partition in zip(values, partitions_of(pl.Series(keys), 5).tolist(), strict=True):
        expected.setdefault(partition, []).append(value)
    assert {p: r.values for p, r in read_topic(log, topic, 400, 5).items()} == expected


def test_records_without_key_or_partition_go_somewhere_each_once(log, app):
    topic = new_topic(log, 3)
    values = [str(i).encode() for i in range(100)]
    write(log, app, Produced(topic, None, [None if i % 2 else b"k" for i in range(100)], values, 5))
    found = read_topic(log, topic, 100, 3)
    assert sorted(v for r in found.values() for v in r.values) == sorted(values)
    home = partitions_of(pl.Series([b"k"]), 3)[0]
    assert [v for v in found[home].values if int(v) % 2 == 0] == values[::2]


# ---- fencing


@pytest.mark.parametrize("how", ["writer", "fence"])
def test_a_fenced_holder_commits_nothing_more(log, app, topic, how):
    old, idle, other = log.writer(app, "w1"), log.writer(app, "w3"), log.writer(app, "w2")
    old.append(produced(topic, "first"))
    old.commit({}, {})
    old.append(produced(topic, "never"))
    old.flush()
    other.append(produced(topic, "other"))
    if how == "fence":
        log.fence(app, "w1")
        log.fence(app, "w3")
    else:
        log.writer(app, "w3").close()
    new = log.writer(app, "w1")
    for _ in range(2):
        with pytest.raises(Fenced):
            commit(old, produced(topic, "never"))
        with pytest.raises(Fenced):
            commit(idle, produced(topic, "never"))
    other.commit({}, {})  # of another slot: not touched
    commit(new, produced(topic, "new"))
    old.abort()
    idle.abort()
    assert sorted(read_topic(log, topic, 3)[0].text) == ["first", "new", "other"]
    for writer in (old, idle, new, other):
        writer.close()


def test_a_fenced_commit_moves_neither_positions_nor_leases(log, app, topic):
    with_group(log, app, 1)
    source = TopicPartition(topic, 0)
    old = log.writer(app, "w1")
    old.commit({source: Committed(1)}, {0: Lease("w1", True, "f", 1)})
    log.fence(app, "w1")
    with pytest.raises(Fenced):
        old.commit({source: Committed(2)}, {0: Lease("w1", True, "f", 2)})
    assert log.committed(app, [source]) == {source: Committed(1)}
    assert log.leases(app, [0]) == {0: Lease("w1", True, "f", 1)}
    old.abort()
    old.close()


def test_one_slot_name_in_two_applications_is_two_slots(log, app, topic):
    writer = log.writer(app, "w1")
    log.writer(f"{app}-other", "w1").close()
    commit(writer, produced(topic, "a"))
    writer.close()
    assert read_topic(log, topic, 1)[0].text == ["a"]


def test_a_later_claim_fences_an_earlier_one(log, app):
    with_group(log, app, 3)
    first, neighbour = log.claim(app, 0), log.claim(app, 1)
    first.write(Lease("w1", True, "f", 1))
    second = log.claim(app, 0)
    with pytest.raises(Fenced):
        first.write(Lease("w1", True, "f", 2))
    second.write(Lease("w2", True, "f", 3))
    with pytest.raises(Fenced):
        first.write(Lease("w1", True, "f", 4))
    neighbour.write(Lease("w1", True, "f", 5))
    assert log.leases(app, [0, 1]) == {0: Lease("w2", True, "f", 3), 1: Lease("w1", True, "f", 5)}
    for claim in (first, second, neighbour):
        claim.close()


def test_slots_and_claims_are_fenced_apart(log, app, topic):
    with_group(log, app, 1)
    writer, claim = log.writer(app, "w1"), log.claim(app, 0)
    log.fence(app, "w1")
    claim.write(Lease("w2", True, "f", 0))
    again = log.writer(app, "w1")
    log.claim(app, 0).close()
    commit(again, produced(topic, "a"))
    with pytest.raises(Fenced):
        commit(writer, produced(topic, "b"))
    for each in (writer, again, claim):
        each.close()


def test_the_take_over_of_a_task(log, app, topic):
    """The protocol of GUARANTEES.md, Leases: read, fence, read again, write."""
    with_group(log, app, 1)
    old = log.writer(app, "w1")
    old.append(produced(topic, "1"))
    old.commit({}, {0: Lease("w1", True, "f", 1)})
    old.append(produced(topic, "never"))
    claim = log.claim(app, 0)
    assert log.leases(app, [0]) == {0: Lease("w1", True, "f", 1)}
    log.fence(app, "w1")
    assert log.leases(app, [0]) == {0: Lease("w1", True, "f", 1)}
    claim.write(Lease("w2", True, "f", 1))
    new = log.writer(app, "w2")
    new.append(produced(topic, "2"))
    new.commit({}, {0: Lease("w2", True, "f", 2)})
    with pytest.raises(Fenced):
        old.commit({}, {0: Lease("w1", True, "f", 2)})
    assert log.leases(app, [0]) == {0: Lease("w2", True, "f", 2)}
    assert read_topic(log, topic, 2)[0].text == ["1", "2"]
    for each in (old, new, claim):
        each.close()


def commit(writer, batch: Produced) -> None:
    writer.append(batch)
    writer.commit({}, {})


# ---- what is committed beside records


def test_leases_come_back_by_task_and_application(log, app):
    with_group(log, app, 5)
    with_group(log, f"{app}-other", 5)
    writer = log.writer(app, "w1")
    assert log.leases(app, [0, 4]) == {0: None, 4: None}
    leases = {0: Lease("w1", True, "f00d", 1), 4: Lease("ü", False, "", 2**40)}
    writer.commit({}, leases)
    assert log.leases(app, [4, 0, 1]) == {**leases, 1: None}
    writer.commit({}, {4: leases[4].next(3)})
    assert log.leases(app, [0, 4]) == {0: leases[0], 4: Lease("ü", False, "", 2**40 + 3)}
    assert log.leases(f"{app}-other", [0, 4]) == {0: None, 4: None}
    writer.close()


def test_positions_come_back_with_their_notes(log, app, topic):
    here, there = TopicPartition(topic, 0), TopicPartition(new_topic(log, 3), 2)
    writer = log.writer(app, "w1")
    assert log.committed(app, [here]) == {here: None}
    writer.commit({here: Committed(0), there: Committed(2**40, "ü" * 1000)}, {})
    assert log.committed(app, [here, there]) == {here: Committed(0), there: Committed(2**40, "ü" * 1000)}
    writer.commit({here: Committed(5, "x")}, {})
    assert log.committed(app, [here, there]) == {here: Committed(5, "x"), there: Committed(2**40, "ü" * 1000)}
    assert log.committed(f"{app}-other", [here]) == {here: None}
    writer.close()


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


def assign_and_poll(reader: LogReader, partition: TopicPartition) -> None:
    reader.assign({partition: 0})
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        reader.poll(10, 1.0)


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
    log.trim({one: ends[one]})
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


def test_an_empty_partition_is_caught_up(log, topic, reader):
    partition = TopicPartition(topic, 0)
    reader.assign({partition: 0})
    deadline = time.monotonic() + PATIENCE
    while not reader.caught_up(partition):
        assert time.monotonic() < deadline
        assert reader.poll(100, 0.1) == []
    assert reader.lag(partition) == 0


# ---- the group


class Member:
    """A worker's view of the group."""

    def __init__(self, log: Log, app: str, slot: str, tasks: int, others: "list[Member]") -> None:
        self.group, self.others = log.group(app, slot, tasks), others
        self.tasks: frozenset[int] = frozenset()
        self.revoked: list[frozenset[int]] = []
        others.append(self)

    def on_revoke(self, tasks: frozenset[int], lost: bool) -> None:
        assert not lost
        assert tasks <= self.tasks
        for other in self.others:  # called before they can be with anybody else
            assert other is self or not tasks & other.tasks
        self.revoked.append(tasks)
        self.tasks -= tasks

    def poll(self) -> None:
        self.tasks = self.group.poll(0.05, self.on_revoke)
        for other in self.others:
            assert other is self or not self.tasks & other.tasks

    def leave(self) -> None:
        self.tasks = frozenset()
        self.group.leave()
        self.others.remove(self)


def settle(members: list[Member], reached) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < deadline, [sorted(m.tasks) for m in members]
        for member in members:
            member.poll()


def with_group(log: Log, app: str, tasks: int) -> None:
    """Make the application known with so many tasks, as a worker's start does."""
    group = log.group(app, "start", tasks)
    group.leave()


def test_one_member_gets_all_tasks(log, app):
    members: list[Member] = []
    only = Member(log, app, "w1", 4, members)
    settle(members, lambda: only.tasks == {0, 1, 2, 3})
    only.poll()
    assert only.tasks == {0, 1, 2, 3}
    assert only.group.members == 1
    assert only.revoked == []
    only.leave()


def test_members_share_come_and_go(log, app):
    members: list[Member] = []
    first = Member(log, app, "w1", 4, members)
    settle(members, lambda: len(first.tasks) == 4)
    second = Member(log, app, "w2", 4, members)
    settle(members, lambda: len(first.tasks) == len(second.tasks) == 2)
    assert first.tasks | second.tasks == {0, 1, 2, 3}
    assert len(frozenset().union(*first.revoked)) == 2
    assert second.revoked == []
    kept = second.tasks
    settle(members, lambda: first.group.members == second.group.members == 2)
    first.leave()
    settle(members, lambda: len(second.tasks) == 4)
    assert kept <= second.tasks
    assert second.revoked == []
    second.leave()


def test_more_members_than_tasks(log, app):
    members: list[Member] = []
    for slot in ("w1", "w2", "w3"):
        Member(log, app, slot, 2, members)
    settle(members, lambda: sorted(len(m.tasks) for m in members) == [0, 1, 1])
    while members:
        members[0].leave()


def test_a_slot_that_left_can_join_again(log, app):
    members: list[Member] = []
    for _ in range(2):
        Member(log, app, "w1", 2, members)
        settle(members, lambda: members[0].tasks == {0, 1})
        members[0].leave()
