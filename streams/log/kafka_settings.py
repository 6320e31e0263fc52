"""What every Kafka client of ours is set up with, and what a client says aside."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from streams.core.errors import SettingsError
from streams.settings_values import HIDDEN, is_secret

Client = TypeVar("Client")

# What the guarantees rest on: not for users to change.
OURS = frozenset(
    {
        "allow.auto.create.topics",
        "auto.offset.reset",
        "bootstrap.servers",
        "delivery.report.only.error",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "enable.idempotence",
        "enable.partition.eof",
        "error_cb",
        "group.id",
        "group.instance.id",
        "group.protocol",
        "isolation.level",
        "log.queue",
        "logger",
        "on_delivery",
        "partition.assignment.strategy",
        "partitioner",
        "statistics.interval.ms",
        "stats_cb",
        "transactional.id",
    }
)
_OF_MEMBERS = "max.poll.interval.ms"  # a reader of partitions that it is told may be silent as long as it likes
_OPEN = "transaction.timeout.ms"
_LONGEST = 900_000  # milliseconds: what brokers allow by default (transaction.max.timeout.ms)
_FORGOTTEN = 3_600.0  # seconds
# A fatal error is raised wherever callbacks are served; if one of them runs then, it ends in a SystemError instead.
RAISED = (KafkaException, SystemError)
UNSAID = KafkaError(KafkaError._FATAL, "a fatal error, and no word which")
INFO = 6  # syslog's number: a lost connection is said at this level, and only there


def kafka_error(raised: BaseException) -> KafkaError:
    """What librdkafka said, from one of RAISED; UNSAID where confluent_kafka has lost it."""
    error: BaseException | None = raised
    while error is not None:
        if isinstance(error, KafkaException):
            return cast(KafkaError, error.args[0])
        error = error.__cause__ or error.__context__
    return UNSAID


@dataclass(frozen=True)
class Timeouts:
    """Milliseconds, except where a name says seconds.

    `session_ms`: how long a dead worker keeps its tasks; 6 s is what brokers allow by default. `max_poll_ms`: how long
    a living worker may be silent; it must fit the longest batch and a commit, not a restore, during which polling goes
    on. `transaction_ms`: when the broker ends the transaction of a dead worker by itself: a backstop, since whoever
    takes over ends it at once. `fetch_ms`: a broker without news answers after this time, so the end of a partition is
    known that late; new records are sent at once. `reach_seconds`: for first calls. `commit_seconds`: for one commit,
    its repetitions included.
    """

    session_ms: int = 6_000
    heartbeat_ms: int = 1_000
    max_poll_ms: int = 60_000
    transaction_ms: int = 15_000
    fetch_ms: int = 50
    reach_seconds: float = 10.0
    commit_seconds: float = 20.0


class Notices:
    """What a client says aside, through its error callback and its log; both are called while it is polled.

    Nothing is printed: the last complaint goes into the exception that follows. `fatal`: librdkafka will do no more.
    """

    def __init__(self) -> None:
        self.last = ""
        self.fatal: KafkaError | None = None
        self.down_at = float("-inf")  # when no broker could be reached any more (monotonic)
        self.coordinator_losses = 0  # connections of a producer's coordinator, and requests that it did not answer
        self.losses = 0  # those of any broker

    def error(self, error: KafkaError) -> None:
        """librdkafka's error_cb."""
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self.down_at = time.monotonic()
        else:
            self.last = error.str()

    def hear(self, client: Producer | AdminClient) -> None:
        """Serve the callbacks. A fatal error, which confluent_kafka raises wherever they are served, is noted."""
        try:
            client.poll(0)
        except RAISED as error:
            self.fatal = kafka_error(error)

    def log(self, level: int, form: str, facility: str, client: str, line: str) -> None:
        """The `log` of a logger, as confluent_kafka calls it."""
        if facility in ("FAIL", "REQTMOUT"):
            self.losses += 1
            self.coordinator_losses += "TxnCoordinator" in line


class Patience:
    """How long the brokers are asked to let a writer's transaction be open: as the timeouts say, and after one that
    took longer twice as long as that one took, until none has taken so long for an hour.

    Work that takes longer than the brokers wait would else be redone for ever. Kept short otherwise, since it is how
    long a transaction that nobody ends blocks those who read.
    """

    def __init__(self, milliseconds: int) -> None:
        self._least, self._most, self.milliseconds = milliseconds, _LONGEST, milliseconds
        self._needed_at = 0.0

    def exceeded(self, seconds: float) -> None:
        """The brokers ended a transaction that was open for so long."""
        self.milliseconds = max(self.milliseconds, min(int(seconds * 2000), self._most))
        self._needed_at = time.monotonic()

    def refused(self) -> bool:
        """The brokers do not allow so long. False if it is what it was at first: there is nothing to try."""
        if self.milliseconds == self._least:
            return False
        self.milliseconds = self._most = max(self.milliseconds // 2, self._least)
        return True

    def kept(self, seconds: float) -> bool:
        """A commit was open for so long. True if so much patience is no longer needed: then open a new writer."""
        now = time.monotonic()
        if self.milliseconds == self._least or seconds * 2000 > self._least:
            self._needed_at = now
        if now - self._needed_at < _FORGOTTEN:
            return False
        self.milliseconds = self._least
        return True


@dataclass(frozen=True)
class Connection:
    """Where the brokers are and how clients talk to them. `settings` go to every client and are never shown."""

    brokers: str
    settings: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeouts: Timeouts = Timeouts()

    def __post_init__(self) -> None:
        reserved = sorted(OURS.intersection(self.settings))
        if reserved:
            raise SettingsError(
                f"these Kafka settings cannot be changed: {', '.join(reserved)}",
                where=f"Kafka at {self.brokers}",
                fix="remove them from [kafka]: exactly-once delivery rests on them; the addresses are the setting "
                "`brokers`, the group is the application's name, the transactional id comes from `slot`",
            )

    def build(self, kind: Callable[[dict[str, Any]], Client], notices: Notices, ours: Mapping[str, Any]) -> Client:
        """A client; SettingsError where librdkafka does not take a setting."""
        common = {
            "bootstrap.servers": self.brokers,
            "client.id": "streams",
            "error_cb": notices.error,
            "logger": notices,
            "log_level": 0,
            "enable.metrics.push": False,
            "socket.keepalive.enable": True,
            "socket.nagle.disable": True,
            "reconnect.backoff.max.ms": 1_000,
        }
        given = {name: value for name, value in self.settings.items() if name not in (_OF_MEMBERS, _OPEN)}
        try:
            return kind({**common, **ours, **given})
        except (KafkaException, TypeError, ValueError) as error:
            reason = error.args[0].str() if isinstance(error, KafkaException) else str(error)
            raise SettingsError(
                f"a Kafka setting is wrong: {self.redact(reason)}",
                where=f"Kafka at {self.brokers}, settings {', '.join(sorted(self.settings)) or '(none)'}",
                fix="librdkafka's CONFIGURATION.md lists names and values",
            ) from None

    def redact(self, text: str) -> str:
        """The text without any value of a setting, nor any line of a value that has several (a PEM)."""
        for name, value in self.settings.items():
            for part in (value, *(line for line in value.splitlines() if len(line) > 7)):
                if part and (len(part) > 3 or is_secret(name)):
                    text = text.replace(part, HIDDEN)
        return text

    @property
    def max_poll_ms(self) -> int:
        """How long a member may not poll: librdkafka's setting where the user has given it."""
        return self._milliseconds(_OF_MEMBERS, self.timeouts.max_poll_ms)

    @property
    def transaction_ms(self) -> int:
        """How long a transaction may be open, at first: librdkafka's setting where the user has given it."""
        return self._milliseconds(_OPEN, self.timeouts.transaction_ms)

    def _milliseconds(self, name: str, ours: int) -> int:
        given = self.settings.get(name, ours)
        try:
            return int(given)
        except ValueError:
            raise SettingsError(
                f"{name} = {given!r} is no number of milliseconds", where=f"Kafka at {self.brokers}"
            ) from None

    # ---- the kinds of clients

    def producer(self, transactional_id: str, open_ms: int) -> dict[str, Any]:
        """For a transactional producer. librdkafka's queue is bounded: a full one makes `append` wait."""
        return {
            "transactional.id": transactional_id,
            "log_level": INFO,  # so that a lost coordinator is noticed
            _OPEN: open_ms,
            "socket.timeout.ms": min(10_000, open_ms - 100),
            "topic.metadata.propagation.max.ms": 5_000,
            "retry.backoff.ms": 10,
            "retry.backoff.max.ms": 100,
            "linger.ms": 10,
            "batch.size": 1_000_000,
            "message.max.bytes": 16_000_000,  # blocks and dead letters may be large; the topic's own limit decides
            "compression.type": "lz4",
            "partitioner": "murmur2_random",
            "delivery.report.only.error": True,
            "queue.buffering.max.messages": 1_000_000,
            "queue.buffering.max.kbytes": 256 * 1024,
        }

    def reader(self) -> dict[str, Any]:
        """For a consumer of partitions that it is told; it takes part in no group."""
        return {
            "group.id": "streams-reader",  # librdkafka wants one; nothing is committed under it
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "isolation.level": "read_committed",
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
            "allow.auto.create.topics": False,
            "topic.metadata.propagation.max.ms": 5_000,
            "max.poll.interval.ms": 86_400_000,
            "socket.timeout.ms": 10_000,
            "statistics.interval.ms": 1_000,
            "fetch.wait.max.ms": self.timeouts.fetch_ms,
            "fetch.message.max.bytes": 1_000_000,
            "fetch.queue.backoff.ms": 5,
            "fetch.error.backoff.ms": 50,
            "queued.min.messages": 100_000,
            "queued.max.messages.kbytes": 128 * 1024,
        }

    def outsider(self, app: str, stable: bool) -> dict[str, Any]:
        """For a consumer that knows a group's records without being a member."""
        return {
            "group.id": app,
            "enable.auto.commit": False,
            # read_committed waits for transactions that are open, with committed offsets, too.
            "isolation.level": "read_committed" if stable else "read_uncommitted",
            "socket.timeout.ms": 10_000,
            "retry.backoff.ms": 5,  # while a transaction's end is on its way; 100 to 600 ms by default
            "retry.backoff.max.ms": 20,
        }

    def member(self, app: str, slot: str) -> dict[str, Any]:
        """For the consumer through which a worker is a member of its application."""
        return {
            "group.id": app,
            "group.instance.id": f"{app}-{slot}",
            "group.protocol": "classic",
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": self.timeouts.session_ms,
            "heartbeat.interval.ms": self.timeouts.heartbeat_ms,
            _OF_MEMBERS: self.max_poll_ms,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
            "allow.auto.create.topics": False,
        }
