"""What becomes of each error in a commit, on librdkafka's mock cluster: no broker is needed."""

import threading
import time

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException

from streams.core.errors import Fenced, LogError, LogUnreachable, SettingsError
from streams.core.record import Produced, TopicPartition
from streams.log.base import Committed, TopicSpec
from streams.log.kafka import KafkaLog, Timeouts
from streams.log.kafka_admin import KafkaAdmin
from streams.log.kafka_settings import Connection, Notices
from streams.log.kafka_writer import KafkaWriter
from streams.protocol import Lease
from tests.kafka.mock_cluster import (
    ADD_OFFSETS,
    ADD_PARTITIONS,
    END_TXN,
    FIND_COORDINATOR,
    INIT_PRODUCER_ID,
    PRODUCE,
    TRANSPORT,
    TXN_OFFSET_COMMIT,
    MockCluster,
)

SHORT = Timeouts(transaction_ms=2_100, commit_seconds=3.0, reach_seconds=5.0)  # requests wait for 2 s


class NoLookups:
    """Stands in for the admin client, whose requests the mock cluster does not know."""

    def partitions(self, topic: str) -> int:
        return 4

    def check(self, source: TopicPartition) -> None:
        pass

    def ensure_tasks(self, app: str, count: int) -> None:
        pass


@pytest.fixture(scope="module")
def shared():
    """For tests that use up the answers that they order."""
    with MockCluster("in", "out", "app-tasks") as made:
        yield made


@pytest.fixture
def cluster():
    with MockCluster("in", "out", "app-tasks") as made:
        yield made


def open_writer(cluster: MockCluster, timeouts: Timeouts = SHORT) -> KafkaWriter:
    connection = Connection(cluster.bootstrap, {}, timeouts)
    outsider = connection.build(Consumer, Notices(), {"group.id": "app"})
    metadata = outsider.consumer_group_metadata()
    outsider.close()
    return KafkaWriter(connection, NoLookups(), "app", "w1", metadata)


def append_and_commit(writer: KafkaWriter) -> None:
    writer.append(Produced("out", 0, [b"k"], [b"v"], 5))
    writer.flush()
    writer.commit({TopicPartition("in", 0): Committed(1)}, {0: Lease("w1", True, "f", 1)})


@pytest.fixture
def writer(cluster):
    made = open_writer(cluster)
    append_and_commit(made)
    yield made
    made.close()


FENCING = [
    (TXN_OFFSET_COMMIT, KafkaError.ILLEGAL_GENERATION),
    (TXN_OFFSET_COMMIT, KafkaError.UNKNOWN_MEMBER_ID),
    (TXN_OFFSET_COMMIT, KafkaError.FENCED_INSTANCE_ID),
    (TXN_OFFSET_COMMIT, KafkaError.INVALID_PRODUCER_EPOCH),
    (TXN_OFFSET_COMMIT, KafkaError.PRODUCER_FENCED),  # librdkafka calls it abortable
    (TXN_OFFSET_COMMIT, KafkaError.INVALID_PRODUCER_ID_MAPPING),
    (ADD_OFFSETS, KafkaError.INVALID_PRODUCER_EPOCH),
    (ADD_OFFSETS, KafkaError.PRODUCER_FENCED),  # this too
    (ADD_OFFSETS, KafkaError.INVALID_PRODUCER_ID_MAPPING),  # and this
    (ADD_PARTITIONS, KafkaError.INVALID_PRODUCER_EPOCH),
    (ADD_PARTITIONS, KafkaError.PRODUCER_FENCED),
    (ADD_PARTITIONS, KafkaError.INVALID_PRODUCER_ID_MAPPING),
    (PRODUCE, KafkaError.INVALID_PRODUCER_EPOCH),
    (PRODUCE, KafkaError.INVALID_PRODUCER_ID_MAPPING),
    (END_TXN, KafkaError.INVALID_PRODUCER_EPOCH),
    (END_TXN, KafkaError.PRODUCER_FENCED),
    (END_TXN, KafkaError.INVALID_PRODUCER_ID_MAPPING),
]
OTHERS = [
    (TXN_OFFSET_COMMIT, KafkaError.INVALID_TXN_STATE),
    (TXN_OFFSET_COMMIT, KafkaError.TRANSACTION_ABORTABLE),
    (TXN_OFFSET_COMMIT, KafkaError.GROUP_AUTHORIZATION_FAILED),
    (ADD_OFFSETS, KafkaError.INVALID_TXN_STATE),
    (ADD_PARTITIONS, KafkaError.TOPIC_AUTHORIZATION_FAILED),
    (PRODUCE, KafkaError.MSG_SIZE_TOO_LARGE),
    (PRODUCE, KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER),
    (PRODUCE, KafkaError.UNKNOWN_PRODUCER_ID),
    (END_TXN, KafkaError.INVALID_TXN_STATE),
    (END_TXN, KafkaError.TRANSACTION_ABORTABLE),
]
PASSING = [
    (TXN_OFFSET_COMMIT, KafkaError.NOT_COORDINATOR),
    (ADD_OFFSETS, KafkaError.CONCURRENT_TRANSACTIONS),
    (ADD_PARTITIONS, KafkaError.CONCURRENT_TRANSACTIONS),
    (PRODUCE, KafkaError.NOT_ENOUGH_REPLICAS),
    (END_TXN, KafkaError.NOT_COORDINATOR),
    (END_TXN, KafkaError.COORDINATOR_LOAD_IN_PROGRESS),
]


def named(case: object) -> str:
    return KafkaError(case).name() if isinstance(case, int) and case > 28 else str(case)


@pytest.mark.parametrize(("request_kind", "code"), FENCING, ids=named)
def test_fencing_in_any_guise_is_fenced_and_the_writer_stays_broken(shared, request_kind, code):
    writer = open_writer(shared)
    shared.answer(request_kind, (code, 0))
    with pytest.raises(Fenced, match="w1"):
        append_and_commit(writer)
    with pytest.raises(Fenced):
        append_and_commit(writer)
    with pytest.raises(Fenced):
        writer.commit({}, {})
    writer.abort()
    with pytest.raises(Fenced):
        writer.append(Produced("out", 0, [None], [b"v"], 5))


@pytest.mark.parametrize(("request_kind", "code"), OTHERS, ids=named)
def test_any_other_refusal_breaks_the_writer_and_names_its_reason(shared, request_kind, code):
    writer = open_writer(shared)
    shared.answer(request_kind, (code, 0))
    with pytest.raises(LogError, match=KafkaError(code).name()) as caught:
        append_and_commit(writer)
    assert not isinstance(caught.value, Fenced)
    writer.abort()
    with pytest.raises(type(caught.value), match=KafkaError(code).name()):
        append_and_commit(writer)
    again = open_writer(shared)
    append_and_commit(again)
    again.close()


@pytest.mark.parametrize(("request_kind", "code"), PASSING, ids=named)
def test_what_passes_is_waited_for(shared, request_kind, code):
    writer = open_writer(shared)
    shared.answer(request_kind, (code, 0))
    append_and_commit(writer)
    assert not writer.suspect


def test_a_writer_that_may_not_be_opened_says_why(shared):
    shared.answer(INIT_PRODUCER_ID, (KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, 0))
    with pytest.raises(LogError, match=r"(?s)writer of slot 'w1' of 'app' is opened.*Transactional"):
        open_writer(shared)


# ---- commits in doubt


def test_a_connection_that_breaks_before_endtxn_leads_to_a_second_request_and_suspicion(cluster, writer):
    before = cluster.requests(END_TXN)
    cluster.answer(END_TXN, (TRANSPORT, 0))
    append_and_commit(writer)
    assert cluster.requests(END_TXN) == before + 2
    assert writer.suspect


def test_an_answer_that_comes_too_late_leads_to_a_second_request_and_suspicion(cluster):
    writer = open_writer(cluster, Timeouts(transaction_ms=2_100, commit_seconds=10.0))
    append_and_commit(writer)
    assert not writer.suspect
    cluster.answer(END_TXN, (0, 3_000))
    append_and_commit(writer)
    assert writer.suspect
    append_and_commit(writer)
    assert not writer.suspect
    writer.close()


def test_a_slow_commit_is_suspect(cluster):
    writer = open_writer(cluster, Timeouts(commit_seconds=15.0))
    cluster.answer(END_TXN, (0, 5_500))
    append_and_commit(writer)
    assert writer.suspect
    writer.close()


def test_a_commit_that_is_never_answered_ends_in_doubt_and_never_aborts(cluster, writer):
    before = cluster.requests(END_TXN)
    cluster.answer(END_TXN, *[(0, 60_000)] * 50)
    start = time.monotonic()
    with pytest.raises(LogUnreachable, match="in doubt"):
        append_and_commit(writer)
    assert time.monotonic() - start < 20
    with pytest.raises(LogUnreachable, match="in doubt"):
        writer.commit({}, {})
    asked = cluster.requests(END_TXN)
    assert asked > before
    writer.abort()
    writer.close()
    assert cluster.requests(END_TXN) == asked


def test_offsets_that_were_not_taken_are_never_followed_by_endtxn(cluster, writer):
    before = cluster.requests(END_TXN)
    cluster.answer(ADD_OFFSETS, *[(0, 60_000)] * 50)
    with pytest.raises(LogUnreachable):
        append_and_commit(writer)
    with pytest.raises(LogUnreachable):
        writer.commit({}, {})
    writer.close()
    assert cluster.requests(END_TXN) == before


def test_offsets_that_are_never_answered_do_not_hang_the_commit(cluster, writer):
    lost = threading.Event()
    producer = writer._transactions.producer

    class Losing:
        """librdkafka when a broker is killed at the wrong moment: the call does not return."""

        def __getattr__(self, name):
            return getattr(producer, name)

        def send_offsets_to_transaction(self, offsets, members, timeout):
            lost.wait()

    writer._transactions._producer = Losing()
    before = cluster.requests(END_TXN)
    with pytest.raises(LogUnreachable, match="were not taken"):
        append_and_commit(writer)
    writer.abort()
    writer.close()
    lost.set()
    assert cluster.requests(END_TXN) == before
    again = open_writer(cluster)
    append_and_commit(again)
    again.close()


def test_offsets_that_librdkafka_forgets_do_not_wait_for_the_whole_time(cluster):
    """It asks three times for the group's coordinator, within 30 ms; then nothing answers the call until its timeout.
    Seen with a broker that had just started."""
    writer = open_writer(cluster, Timeouts(commit_seconds=30.0))
    before = cluster.requests(END_TXN)
    cluster.answer(FIND_COORDINATOR, *[(KafkaError.COORDINATOR_NOT_AVAILABLE, 0)] * 3)
    start = time.monotonic()
    with pytest.raises(LogUnreachable, match="were not taken"):
        append_and_commit(writer)
    assert time.monotonic() - start < 10
    writer.close()
    assert cluster.requests(END_TXN) == before
    again = open_writer(cluster)
    append_and_commit(again)
    again.close()


def test_a_broker_that_goes_away_during_a_commit(cluster, writer):
    writer.append(Produced("out", 0, [b"k"], [b"v"], 5))
    cluster.stop()
    with pytest.raises(LogUnreachable, match=r"check that the brokers run"):
        writer.commit({}, {0: Lease("w1", True, "f", 2)})
    writer.abort()
    writer.close()


# ---- no broker at all


@pytest.mark.parametrize(
    "first",
    [
        lambda log: log.topics(["t"]),
        lambda log: log.create([TopicSpec("t", 1, {})]),
        lambda log: log.reader(),
        lambda log: log.writer("app", "w1"),
        lambda log: log.group("app", "w1", 1),
        lambda log: log.claim("app", 0),
        lambda log: log.fence("app", "w1"),
        lambda log: log.leases("app", [0]),
        lambda log: log.ends([TopicPartition("t", 0)]),
    ],
)
def test_whatever_is_called_first_says_that_nobody_answers(first):
    log = KafkaLog("127.0.0.1:1", timeouts=Timeouts(reach_seconds=0.5))
    start = time.monotonic()
    with pytest.raises(LogUnreachable, match=r"(?s)Connection refused.*127\.0\.0\.1:1.*check that the brokers run"):
        first(log)
    assert time.monotonic() - start < 5
    log.close()


def test_a_name_that_cannot_be_resolved_is_said():
    log = KafkaLog("no-such-host.invalid:9092", timeouts=Timeouts(reach_seconds=0.5))
    with pytest.raises(LogUnreachable, match=r"Failed to resolve 'no-such-host\.invalid"):
        log.topics(["t"])


# ---- settings


def test_no_value_of_a_setting_is_ever_shown(capfd):
    secret = "hunter2-hunter2"
    settings = {"security.protocol": "sasl_plaintext", "sasl.mechanism": "PLAIN", "sasl.username": "u"}
    log = KafkaLog("127.0.0.1:1", {**settings, "sasl.password": secret}, timeouts=Timeouts(reach_seconds=0.3))
    shown = [repr(log), str(log), repr(log._connection)]
    with pytest.raises(LogUnreachable) as caught:
        log.topics(["t"])
    shown.append(str(caught.value))
    for wrong in ("linger.ms", "security.protocol", "sasl.mechanism", "no.such.setting"):
        with pytest.raises(SettingsError) as error:
            KafkaLog("127.0.0.1:1", {"security.protocol": "sasl_ssl", wrong: secret})
        shown.append(str(error.value))
    shown.extend(capfd.readouterr())
    assert not [text for text in shown if secret in text]


@pytest.mark.parametrize("name", ["isolation.level", "transactional.id", "bootstrap.servers", "enable.auto.commit"])
def test_what_the_guarantees_rest_on_cannot_be_set(name):
    with pytest.raises(SettingsError, match=name):
        KafkaLog("127.0.0.1:1", {name: "x"})


def test_a_slot_cannot_look_like_a_claim():
    log = KafkaLog("127.0.0.1:1", timeouts=Timeouts(reach_seconds=0.1))
    with pytest.raises(SettingsError, match="claim-3"):
        log.writer("app", "claim-3")


# ---- topics that we may not create


class Denied:
    """An answer of the admin client."""

    def __init__(self, code: int) -> None:
        self._code = code

    def result(self, timeout: float) -> None:
        raise KafkaException(KafkaError(self._code))


class DenyingClient:
    def create_topics(self, topics, **timeouts):
        return {topic.topic: Denied(KafkaError.TOPIC_AUTHORIZATION_FAILED) for topic in topics}

    def describe_topics(self, topics, **timeouts):
        return {name: Denied(KafkaError.UNKNOWN_TOPIC_OR_PART) for name in ("app-tasks", "app-changes")}


def test_topics_that_may_not_be_created_are_listed_as_commands():
    admin = KafkaAdmin(Connection("k:9092"))
    admin._made = DenyingClient()
    with pytest.raises(LogError) as caught:
        admin.create([TopicSpec("app-tasks", 8, {}), TopicSpec("app-changes", 4, {"segment.bytes": "67108864"})])
    command = "kafka-topics.sh --bootstrap-server k:9092 --create --topic"
    assert f"{command} app-tasks --partitions 8 --config retention.ms=-1" in caught.value.fix
    assert f"{command} app-changes --partitions 4 --config retention.ms=-1" in caught.value.fix
    assert "--config segment.bytes=67108864" in caught.value.fix
