"""What every log promises (streams.log.base): commits, records, fencing. test_log_reading and test_log_group go on."""

import random

import polars as pl
import pytest

from streams.core.errors import Fenced
from streams.core.keys import partitions as partitions_of
from streams.core.record import Produced, TopicPartition
from streams.log.base import Committed
from streams.protocol import Lease
from tests.contract.logs import commit, new_topic, produced, read, read_topic, with_group, write

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
    for number in range(10):
        for append in range(draw.randint(1, 4)):
            values = [f"{number}.{append}.{i}" for i in range(draw.randint(1, 300))]
            writer.append(produced(topic, *values))
            expected += values
        writer.commit({}, {})
    writer.close()
    assert read_topic(log, topic, len(expected))[0].text == expected


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
    # -1 is "none". A 0 is not promised: Kafka's client takes it for "now", so it is written as 1 there.
    timestamps = [-1, 1, 1_700_000_000_000, 1_700_000_000_001, 4_000_000_000_000]
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
