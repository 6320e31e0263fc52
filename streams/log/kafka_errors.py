"""From librdkafka's errors to ours: classified by hand, since its own flags cannot be trusted alone."""

from confluent_kafka import KafkaError

from streams.core.errors import Fenced, LogError, LogUnreachable, TopicMissing
from streams.log.kafka_settings import Connection, Notices

# Another producer has our id, or the group goes on without us. Several of these arrive flagged as merely "abortable".
FENCING = frozenset(
    {
        KafkaError._FENCED,
        KafkaError.PRODUCER_FENCED,
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.INVALID_PRODUCER_ID_MAPPING,
        KafkaError.TRANSACTION_COORDINATOR_FENCED,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError.STALE_MEMBER_EPOCH,
        KafkaError.FENCED_MEMBER_EPOCH,
    }
)
CONNECTION = frozenset(
    {
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._TRANSPORT,
        KafkaError._RESOLVE,
        KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError._MSG_TIMED_OUT,
        KafkaError._AUTHENTICATION,
        KafkaError._SSL,
        KafkaError._WAIT_COORD,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.NETWORK_EXCEPTION,
    }
)
MOVING = frozenset(
    {
        KafkaError._WAIT_COORD,
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    }
)
"""The coordinator is being chosen, loaded or moved (a broker has just started): asking again helps."""

NO_TOPIC = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.UNKNOWN_TOPIC_ID,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
    }
)
DENIED = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    }
)


def translate(error: KafkaError, doing: str, connection: Connection, notices: Notices | None = None) -> LogError:
    """Our exception for one of librdkafka's. `doing` completes "Kafka failed while ..."."""
    if notices is not None and error.code() == KafkaError._FATAL and notices.fatal is not None:
        error = notices.fatal
    code, where = error.code(), f"Kafka at {connection.brokers}"
    reason = f"{error.name()}, {connection.redact(error.str())}"
    if code in FENCING or (code == KafkaError._FATAL and "fenced" in error.str()):
        return Fenced(f"fenced while {doing}: a newer holder has taken over ({reason})", where=where)
    if code in CONNECTION:
        return unreachable(connection, doing, notices, reason)
    if code in NO_TOPIC:
        return TopicMissing(
            f"a topic or partition is missing, found while {doing} ({reason})",
            where=where,
            fix="create the topic, or correct its name; a topic that was deleted must be restored with its data",
        )
    if code in DENIED:
        return LogError(
            f"Kafka denies us this: {doing} ({reason})", where=where, fix="grant it to this client's user (ACL)"
        )
    if code == KafkaError.MSG_SIZE_TOO_LARGE:
        return LogError(
            f"the broker takes no records this large, said while {doing} ({reason})",
            where=where,
            fix="raise max.message.bytes of the topic, or make records smaller",
        )
    return LogError(f"Kafka failed while {doing} ({reason})", where=where)


def closed(connection: Connection) -> LogError:
    """Somebody uses a log that was closed: a thread that was left behind."""
    return LogError("the log was closed", where=f"Kafka at {connection.brokers}")


def unreachable(connection: Connection, doing: str, notices: Notices | None = None, reason: str = "") -> LogUnreachable:
    """No broker answers: names them, the last complaint, and what to check."""
    last = connection.redact(notices.last) if notices is not None and notices.last else reason
    return LogUnreachable(
        f"Kafka does not answer: {doing}" + (f" ({last})" if last else ""),
        where=f"brokers {connection.brokers}",
        fix="check that the brokers run, that host and port are theirs, that name resolution and firewall let this "
        "machine through, and that security.protocol, sasl.* and ssl.* are what their listener expects",
    )
