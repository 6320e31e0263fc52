"""What the log on a real Kafka promises beyond the contract's suite (tests/contract)."""

import os
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka import TopicPartition as Place
from confluent_kafka.admin import AdminClient

from streams.core.errors import Fenced, LogError, RecordTooLarge, SettingsError, SlotTaken, TopicMismatch, TopicMissing
from streams.core.record import Produced, TopicPartition
from streams.log import kafka_settings
from streams.log.base import Committed, TopicSpec
from streams.log.kafka import KafkaLog, Timeouts
from streams.log.kafka_writer import lease_place
from streams.log.reading import read_all
from streams.protocol import Lease
from streams.runtime.leases import Taking
from tests.kafka.steps import gather, joined, new_topic, produced, unused, values_of, wait

pytestmark = pytest.mark.kafka


@pytest.fixture
def log(kafka):
    # A machine under load can stand still for longer than a message waits by default.
    made = KafkaLog(kafka.bootstrap, timeouts=Timeouts(transaction_ms=60_000, commit_seconds=60.0))
    yield made
    made.close()


@pytest.fixture
def app():
    return f"app-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def topic(log):
    return new_topic(log, 1)


# ---- what cannot be appended


def test_a_record_over_the_limit_is_named_and_spoils_the_commit_until_it_is_aborted(kafka, log, app, topic):
    writer = KafkaLog(kafka.bootstrap, {"message.max.bytes": "1000000"}).writer(app, "w1")
    values = [b"a", b"b" * 1_100_000, b"c"]
    with pytest.raises(RecordTooLarge, match=topic) as caught:
        writer.append(Produced(topic, 0, [b"key"] * 3, values, 5))
    assert (caught.value.topic, caught.value.index, caught.value.size) == (topic, 1, 1_100_003)
    for attempt in (lambda: writer.commit({}, {}), lambda: writer.append(produced(topic, "d"))):
        with pytest.raises(LogError, match="abort"):
            attempt()
    writer.abort()
    writer.append(produced(topic, "e"))
    writer.commit({}, {})
    writer.close()
    assert values_of(log, topic) == [[b"e"]]


def test_a_topic_that_takes_less_than_we_send_says_so(log, app):
    topic = f"t-{uuid.uuid4().hex[:12]}"
    log.create([TopicSpec(topic, 1, {"max.message.bytes": "1000"})])
    writer = log.writer(app, "w1")
    writer.append(Produced(topic, 0, [None], [os.urandom(5000)], 5))
    with pytest.raises(LogError, match=r"(?s)no records this large.*max\.message\.bytes"):
        writer.commit({}, {})
    writer.close()


def test_a_partition_that_does_not_exist_is_refused_at_once(log, app, topic):
    writer = log.writer(app, "w1")
    with pytest.raises(TopicMismatch, match="has 1 partitions"):
        writer.append(Produced(topic, 1, [None], [b"v"], 5))
    writer.close()


def test_metadata_that_brokers_would_refuse_is_refused_before_anything_is_sent(log, app, topic):
    writer = log.writer(app, "w1")
    writer.append(produced(topic, "a"))
    with pytest.raises(LogError, match="4095 bytes"):
        writer.commit({TopicPartition(topic, 0): Committed(1, "x" * 4096)}, {})
    with pytest.raises(LogError, match="lease record of task 3"):
        writer.commit({}, {3: Lease("w1", True, "f" * 5000, 1)})
    writer.commit({TopicPartition(topic, 0): Committed(1, "x" * 4095)}, {})
    writer.close()
    assert log.committed(app, [TopicPartition(topic, 0)]) == {TopicPartition(topic, 0): Committed(1, "x" * 4095)}


def test_a_full_queue_makes_append_wait_and_keeps_the_order(kafka, app, topic):
    log = KafkaLog(kafka.bootstrap, {"queue.buffering.max.messages": "50"})
    writer = log.writer(app, "w1")
    values = [b"%d" % number for number in range(3000)]
    headers = [[("n", value)] for value in values]
    writer.append(Produced(topic, 0, [None] * 3000, values, list(range(1, 3001)), headers))
    assert writer.pending == 3000
    writer.commit({}, {})
    writer.close()
    assert values_of(log, topic) == [values]


def test_a_missing_time_stays_missing_and_the_epoch_itself_is_a_millisecond_late(log, app, topic):
    writer = log.writer(app, "w1")
    writer.append(Produced(topic, 0, [None] * 3, [b"v"] * 3, [-1, 0, 4_000_000_000_000]))
    writer.append(Produced(topic, 0, [None], [b"v"], -1))
    writer.commit({}, {})
    writer.close()
    reader, found = log.reader(), []
    reader.assign({TopicPartition(topic, 0): 0})
    while len(found) < 4:
        found += [stamp for run in reader.poll(10, 1.0) for stamp in run.timestamps()]
    reader.close()
    assert found == [-1, 1, 4_000_000_000_000, -1]


# ---- commits


def test_a_commit_that_was_open_when_the_slot_was_fenced_is_gone_and_readers_go_on(log, app, topic):
    old = log.writer(app, "w1")
    old.append(produced(topic, "never"))
    old.flush()
    start = time.perf_counter()
    new = log.writer(app, "w1")
    print(f"opened over an open commit in {(time.perf_counter() - start) * 1000:.0f} ms")
    new.append(produced(topic, "new"))
    new.commit({}, {0: Lease("w1", True, "f", 1)})
    for _ in range(2):
        with pytest.raises(Fenced):
            old.commit({}, {0: Lease("w1", True, "f", 9)})
    old.abort()
    old.close()
    new.close()
    assert values_of(log, topic) == [[b"new"]]
    assert log.leases(app, [0]) == {0: Lease("w1", True, "f", 1)}


def test_commits_go_on_while_the_group_changes(log, app):
    """Of the group's members brokers refuse commits in the middle of a rebalance."""
    topic = new_topic(log, 1)
    first, writer, number = joined(log, app, "w1", 4), log.writer(app, "w1"), 0
    for _ in range(5):
        second = log.group(app, "w2", 4)
        mine: set[int] = set()
        while not mine:  # with commits all the time, at whatever place the rebalance is
            number += 1
            writer.append(produced(topic, "a"))
            writer.commit({TopicPartition(topic, 0): Committed(number, "")}, {0: Lease("w1", True, "f", number)})
            first.poll(0.0, unused)
            mine = set(second.poll(0.0, unused))
        second.leave()
        while len(first.poll(0.0, unused)) < 4:
            number += 1
            writer.append(produced(topic, "a"))
            writer.commit({TopicPartition(topic, 0): Committed(number, "")}, {0: Lease("w1", True, "f", number)})
    assert log.leases(app, [0]) == {0: Lease("w1", True, "f", number)}
    writer.close()
    first.leave()


def test_how_long_a_commit_takes(log, app):
    topic, count = new_topic(log, 4), 100
    group = joined(log, app, "w1", 4)
    writer, seconds = log.writer(app, "w1"), []
    for number in range(count):
        group.poll(0.0, unused)
        writer.append(Produced(topic, None, [b"%d" % key for key in range(100)], [b"v" * 100] * 100, 5))
        start = time.perf_counter()
        positions = {TopicPartition(topic, partition): Committed(number, "note") for partition in range(4)}
        writer.commit(positions, {task: Lease("w1", True, "f", number) for task in range(4)})
        seconds.append(time.perf_counter() - start)
    seconds.sort()
    print(f"commit p50 {seconds[count // 2] * 1000:.1f} ms, p99 {seconds[count * 99 // 100] * 1000:.1f} ms")
    writer.close()
    group.leave()
    assert log.leases(app, [0, 3]) == {task: Lease("w1", True, "f", count - 1) for task in (0, 3)}


# ---- reading


def test_a_position_before_what_is_left_is_told_with_the_way_out(log, app, topic):
    writer, place = log.writer(app, "w1"), TopicPartition(topic, 0)
    writer.append(produced(topic, *"abcdef"))
    writer.commit({}, {})
    writer.close()
    log.trim({place: 4})
    wait(lambda: log.ends([place])[place] == 7)  # the commit's marker is written behind it, a little later
    reader = log.reader()
    reader.assign({place: 1})
    with pytest.raises(LogError) as caught:
        wait(lambda: reader.poll(10, 0.1))
    for part in (f"{topic}/0", "offset 1 is wanted", "offsets 4 to 6 remain", "retention.ms"):
        assert part in str(caught.value)
    with pytest.raises(LogError, match="offset 1 is wanted"):
        reader.poll(10, 0.1)
    reader.assign({place: 99})
    with pytest.raises(LogError, match=r"(?s)ends before.*offset 99 is wanted.*made again"):
        wait(lambda: reader.poll(10, 0.1))
    reader.assign({place: 5})
    found = {}
    wait(lambda: gather(reader, found) and found)
    assert found == {place: [b"f"]}
    reader.close()


def test_a_topic_that_is_deleted_under_a_reader_is_missed(log, kafka):
    gone, other = new_topic(log, 1), new_topic(log, 1)
    reader = log.reader()
    reader.assign({TopicPartition(gone, 0): 0, TopicPartition(other, 0): 0})
    wait(lambda: reader.poll(10, 0.1) == [] and reader.caught_up(TopicPartition(gone, 0)))
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
    admin.delete_topics([gone])[gone].result()
    with pytest.raises(TopicMissing, match=gone):
        wait(lambda: reader.poll(10, 0.1))
    reader.unassign([TopicPartition(gone, 0)])
    assert reader.poll(10, 0.1) == []
    reader.close()


# ---- topics and records of the group


def test_our_topics_are_kept_for_ever_unless_settings_say_otherwise(log):
    kept, short, compacted = (f"t-{uuid.uuid4().hex[:12]}" for _ in range(3))
    log.create(
        [
            TopicSpec(kept, 3, {}),
            TopicSpec(short, 1, {"retention.ms": "60000"}),
            TopicSpec(compacted, 1, {"retention.ms": "60000", "cleanup.policy": "compact"}),
        ]
    )
    log.create([TopicSpec(kept, 5, {})])
    found = log.topics([kept, short, compacted, "no-such-topic"])
    assert {name: (info.partitions, info.retention_ms) for name, info in found.items()} == {
        kept: (3, -1),
        short: (1, 60_000),
        compacted: (1, -1),
    }
    assert len({info.id for info in found.values()}) == 3


def test_a_lease_record_that_another_tool_wrote_is_an_error(log, app, kafka):
    log.claim(app, 0).close()
    tool = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": app, "log_level": 0})
    tool.commit(offsets=[Place(f"{app}-tasks", 0, 7)], asynchronous=False)
    tool.close()
    with pytest.raises(LogError, match=r"task 0 .* not one of ours: offset 7"):
        log.leases(app, [0])


def test_reading_records_waits_for_a_commit_that_is_under_way(log, app):
    claim, found = log.claim(app, 0), []
    claim.write(Lease("w1", True, "f", 0))
    for number in range(1, 30):
        claim.write(Lease("w1", True, "f", number))
        found.append(log.leases(app, [0])[0].sequence)  # its marker may not have arrived yet
    claim.close()
    assert found == list(range(1, 30))


# ---- the group


def test_an_application_that_has_grown_gets_more_tasks(log, app):
    few = joined(log, app, "w1", 2)
    few.leave()
    many = joined(log, app, "w1", 5)
    assert log.topics([f"{app}-tasks"])[f"{app}-tasks"].partitions == 5
    assert many.members == 1
    many.leave()


def test_a_worker_that_was_silent_for_too_long_is_told_that_its_tasks_are_lost(kafka, app):
    log = KafkaLog(kafka.bootstrap, timeouts=Timeouts(max_poll_ms=6_000))
    group, told = joined(log, app, "w1", 2), []
    time.sleep(8)
    wait(lambda: group.poll(0.1, lambda tasks, lost: told.append((tasks, lost))) is not None and told)
    assert told == [(frozenset({0, 1}), True)]
    wait(lambda: len(group.poll(0.1, unused)) == 2)
    group.leave()
    log.close()


def test_to_be_put_out_once_is_no_proof_of_a_second_process(log, app):
    group, told = joined(log, app, "w1", 2), []
    fenced = KafkaError(KafkaError.FENCED_INSTANCE_ID)  # what a broker that stood still can say of ourselves
    group.poll(0.0, lambda tasks, lost: told.append((tasks, lost)))
    group._judge(fenced)
    assert told == [(frozenset({0, 1}), True)]
    wait(lambda: len(group.poll(0.1, unused)) == 2)
    with pytest.raises(SlotTaken, match="'w1'"):
        group._judge(fenced)
    with pytest.raises(SlotTaken):
        group.poll(0.0, unused)
    group.leave()


MEMBER = """
import sys, time
from streams.core.errors import SlotTaken
from streams.log.kafka import KafkaLog
bootstrap, app, seconds = sys.argv[1:]
group, until = KafkaLog(bootstrap).group(app, "w1", 2), time.monotonic() + float(seconds)
try:
    while time.monotonic() < until:
        tasks = group.poll(0.05, lambda tasks, lost: None)
    print("kept" if len(tasks) == 2 else "lost")
except SlotTaken:
    print("taken")
"""


def test_of_two_processes_in_one_slot_one_gives_up(kafka, log, app):
    group = joined(log, app, "w1", 2)
    command = [sys.executable, "-c", MEMBER, kafka.bootstrap, app, "12"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": "."}) as other:
        taken, until = False, time.monotonic() + 10
        try:
            while time.monotonic() < until:
                group.poll(0.05, unused)
        except SlotTaken as error:
            taken = "'w1'" in str(error)
            with pytest.raises(SlotTaken):
                group.poll(0.0, unused)
        group.leave()
        said = other.communicate(timeout=60)[0].strip()
    assert (taken, said) in [(True, "kept"), (False, "taken")]


@pytest.mark.slow
def test_a_commit_that_the_brokers_ended_for_its_length_is_not_taken_for_a_second_process(kafka, app, topic):
    """They look every ten seconds, and fence its writer as a new one would."""
    log = KafkaLog(kafka.bootstrap, timeouts=Timeouts(transaction_ms=2_000))
    try:
        writer = log.writer(app, "0")
        writer.append(Produced(topic, 0, [None], [b"open for too long"], 1))
        with pytest.raises(LogError, match=r"was open for \d+ s, longer than 2 s") as caught:  # noqa: PT012
            while True:
                time.sleep(0.5)
                writer.append(Produced(topic, 0, [None], [b"more"], 1))
                writer.flush()
        assert not isinstance(caught.value, Fenced)
        assert log._patience.milliseconds > 4_000
        writer.close()
        again = log.writer(app, "0")
        again.append(Produced(topic, 0, [None], [b"in time"], 1))
        again.commit({}, {})
        again.close()
        assert [v for records in read_all(log, topic) for v in records.values()] == [b"in time"]
    finally:
        log.close()


def test_patience_that_nothing_has_needed_for_an_hour_ends_with_a_new_writer(kafka, app, topic, monkeypatch):
    """Else a worker that dies would block its tasks' readers for so long, however quick its commits are by then."""
    log, offset = KafkaLog(kafka.bootstrap), 0.0
    monkeypatch.setattr(kafka_settings, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + offset))
    try:
        log._patience.exceeded(20)
        writer = log.writer(app, "0")
        for offset, eased in [(0, False), (3_500, False), (3_700, True)]:  # noqa: B007
            writer.append(Produced(topic, 0, [None], [b"in time"], 1))
            writer.commit({}, {})
            assert writer.suspect is eased
            assert log._patience.milliseconds == (15_000 if eased else 40_000)
        writer.close()
    finally:
        log.close()


def test_a_client_that_has_no_answer_is_exchanged(kafka, app, topic):
    """librdkafka can forget a request."""

    class Forgetful:
        def committed(self, places, timeout):
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

        def poll(self, timeout):
            pass

    log = KafkaLog(kafka.bootstrap)
    try:
        writer = log.writer(app, "0")
        writer.commit({}, {0: Lease("0", True, "f", 7)})
        log._outsider(app)._consumer = Forgetful()
        assert log.leases(app, [0])[0] == Lease("0", True, "f", 7)
        writer.close()
    finally:
        log.close()


def test_tasks_of_a_worker_that_died_inside_its_commit_are_taken_at_once(kafka, app, topic):
    """Its offsets were sent, the transaction was not ended: brokers do that in the end, here after ten minutes."""
    log = KafkaLog(kafka.bootstrap, timeouts=Timeouts(transaction_ms=600_000))
    try:
        writer = log.writer(app, "dead")
        writer.commit({}, {0: Lease("dead", True, "f", 7), 1: Lease("dead", True, "f", 3)})
        writer.append(produced(topic, "never committed"))
        sent = [lease_place(app, 0, Lease("dead", True, "f", 8))]
        transactions = writer._transactions
        transactions._send(transactions.producer, sent, log._outsider(app).metadata, time.monotonic() + 60)
        assert log.holders(app, [0, 1, 2]) == {0: "dead", 1: "dead"}
        taking = Taking(log, SimpleNamespace(members=1), app, "next", "f", [0, 1], lambda text, *_: None)
        assert taking.result() == {0: Lease("next", True, "f", 7), 1: Lease("next", True, "f", 3)}
        with pytest.raises(Fenced):
            writer.commit({}, {})
        writer.close()
        assert values_of(log, topic) == [[]]
    finally:
        log.close()


def test_a_log_is_closed_while_a_record_is_held_up(kafka, app):
    """Nobody waits for who waits for it, other records are read meanwhile, and nothing connects anew later."""
    log = KafkaLog(kafka.bootstrap, timeouts=Timeouts(transaction_ms=600_000))
    writer = log.writer(app, "dead")
    writer.commit({}, {0: Lease("dead", True, "f", 7), 1: Lease("dead", False, "f", 3)})
    sent = [lease_place(app, 0, Lease("dead", True, "f", 8))]
    transactions = writer._transactions
    transactions.begin()
    transactions._send(transactions.producer, sent, log._outsider(app).metadata, time.monotonic() + 60)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(log.leases, app, [0])
        assert log.leases(app, [1]) == {1: Lease("dead", False, "f", 3)}
        assert not reading.done()
        log.close()
        with pytest.raises(LogError, match="closed"):
            reading.result(60)
    with pytest.raises(LogError, match="closed"):
        log.claim(app, 0)
    assert log._outsiders == {}
    writer.close()


def test_a_transaction_may_be_open_twice_as_long_as_one_that_took_too_long_but_no_longer_than_brokers_allow(
    kafka, app, topic
):
    log = KafkaLog(kafka.bootstrap)
    try:
        patience = log._patience
        patience.exceeded(20)
        patience.exceeded(1)
        assert patience.milliseconds == 40_000
        patience.milliseconds = 2_000_000  # brokers allow 900,000
        writer = log.writer(app, "0")
        assert patience.milliseconds == 500_000
        writer.append(Produced(topic, 0, [None], [b"in time"], 1))
        writer.commit({}, {})
        writer.close()
        patience.exceeded(100_000)
        assert patience.milliseconds == 500_000
    finally:
        log.close()
    with pytest.raises(LogError, match="Transaction timeout is larger"):
        KafkaLog(kafka.bootstrap, {"transaction.timeout.ms": "2000000"}).writer(app, "0")
    with pytest.raises(SettingsError, match="no number of milliseconds"):
        KafkaLog(kafka.bootstrap, {"transaction.timeout.ms": "soon"})
