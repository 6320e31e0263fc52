"""What is told when old records cannot be deleted: a refusal once, an outage never."""

from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError, KafkaException

from streams.core.errors import LogError, LogUnreachable
from streams.core.record import TopicPartition
from streams.log.kafka_admin import KafkaAdmin
from streams.log.kafka_settings import Connection
from streams.protocol import Lease
from streams.runtime.trimming import Trimming

PLACE = TopicPartition("a-changelog", 0)
LEASE = Lease("0", True, "f", 100)


def a_task(unneeded):
    return SimpleNamespace(
        id=SimpleNamespace(number=0),
        lease=LEASE,
        partitions=[],
        inputs=[],
        changelog_partition=PLACE,
        unneeded=unneeded,
        trimmed=lambda offset: None,
    )


def told(error):
    """What a person is told in a minute in which each deletion fails so."""

    def trim(before):
        raise error

    log, said = SimpleNamespace(settled_after=0, trim=trim, leases=lambda app, tasks: {0: LEASE}), []
    task = a_task(lambda floor: (PLACE, 5))
    trimming = Trimming(log, "a", lambda about, text: said.append(text))
    for second in range(0, 60, 20):
        trimming.look(float(second), [task], {}, lambda task: None)
    return said


def test_what_was_seen_of_a_task_that_was_away_since_counts_for_nothing():
    """Another worker had it, and brokers lost the log's end: it needs again what it did not need before."""
    deleted = []
    log = SimpleNamespace(settled_after=120.0, trim=deleted.append, leases=lambda app, tasks: {0: LEASE})

    def opened():
        return a_task(lambda floor: (PLACE, floor) if floor else None)

    trimming = Trimming(log, "a", lambda about, text: None)
    before, after = opened(), opened()
    for second in range(0, 60, 20):
        trimming.look(float(second), [before], {}, lambda task: 100)
    trimming.look(90.0, [], {}, lambda task: None)
    for second in range(120, 320, 20):
        trimming.look(float(second), [after], {}, lambda task: 70)
    assert {PLACE: 70} in deleted
    assert {PLACE: 100} not in deleted


def test_nothing_is_deleted_of_a_task_that_the_log_has_at_another_commit():
    """A worker lived on through a power failure of all brokers, its task was quiet: the log is at 95 again, and needs
    what the commits up to 100 had made superfluous. The worker takes its tasks anew."""
    deleted, leases = [], {0: LEASE}
    log = SimpleNamespace(settled_after=120.0, trim=deleted.append, leases=lambda app, tasks: leases)
    task = a_task(lambda floor: (PLACE, floor))
    trimming = Trimming(log, "a", lambda about, text: None)
    trimming.look(0.0, [task], {}, lambda task: 100)
    leases[0] = Lease("0", True, "f", 95)
    with pytest.raises(LogError, match=r"sequence=100.* but at .*sequence=95.* in the log"):
        trimming.look(150.0, [task], {}, lambda task: 100)
    assert deleted == []


def test_an_outage_is_not_told_as_a_refusal():
    assert told(LogUnreachable("Kafka does not answer")) == []
    assert all("cannot be deleted: Kafka denies us this" in text for text in told(LogError("Kafka denies us this")))
    assert told(LogError("Kafka denies us this"))


@pytest.mark.parametrize(
    ("code", "unreachable"),
    [
        (KafkaError.LEADER_NOT_AVAILABLE, True),
        (KafkaError.NOT_LEADER_FOR_PARTITION, True),
        (KafkaError._TIMED_OUT, True),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, False),
        (KafkaError.POLICY_VIOLATION, False),
    ],
)
def test_a_partition_without_a_leader_is_an_outage(monkeypatch, code, unreachable):
    admin = KafkaAdmin(Connection("nobody:1"))

    def failing(places, **more):
        return dict.fromkeys(places)

    def fail(answer):
        raise KafkaException(KafkaError(code))

    monkeypatch.setattr(KafkaAdmin, "_client", SimpleNamespace(delete_records=failing, poll=lambda seconds: 0))
    monkeypatch.setattr(admin, "_answer", fail)
    with pytest.raises(LogError) as raised:
        admin.trim({PLACE: 3})
    assert isinstance(raised.value, LogUnreachable) == unreachable
    admin.close()
