"""Writing to Kafka: the transactional writer of a slot, and the claimer of a task."""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import repeat
from operator import length_hint
from typing import Any, cast

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import TopicPartition as Place

from streams.core.errors import LogError, RecordTooLarge
from streams.core.record import Produced, TopicPartition
from streams.log.base import Claim, LogWriter, Positions
from streams.log.kafka_admin import KafkaAdmin, tasks_topic
from streams.log.kafka_errors import unreachable
from streams.log.kafka_settings import Connection, Patience
from streams.log.kafka_transactions import Transactions
from streams.protocol import Lease

MOST_METADATA = 4095  # bytes: brokers refuse more than 4096 with an offset, and confluent_kafka adds a zero byte
NO_PARTITION = -1  # librdkafka's: choose by the key


def lease_place(app: str, task: int, lease: Lease) -> Place:
    """A lease record as the offset that it is: its number is the commit's sequence."""
    return Place(tasks_topic(app), task, lease.sequence, _fitting(lease.encode(), f"the lease record of task {task}"))


class KafkaWriter(LogWriter):
    """The writer of a slot: one transactional producer with the id `<app>-<slot>`.

    Guarantees: the contract's. Records without partition go where Java clients put them (murmur2 of the key; without a
    key to a random partition). Timestamps: -1 stays -1 ("none"); 0 is written as 1, since librdkafka takes 0 for "now".

    Raises, besides what the contract says: RecordTooLarge where a single record is over the limit (abort, then go on
    without that record), TopicMissing, TopicMismatch (no such partition). After any other error it is broken.
    """

    def __init__(
        self,
        connection: Connection,
        admin: KafkaAdmin,
        app: str,
        slot: str,
        metadata: Any,
        patience: Patience | None = None,
    ) -> None:
        self._connection, self._admin, self._app = connection, admin, app
        self._metadata = metadata
        name = f"the writer of slot {slot!r} of {app!r}"
        self._transactions = Transactions(connection, f"{app}-{slot}", name, patience)
        self._pending = 0
        self._spoiled = ""

    def append(self, records: Produced) -> None:
        producer = self._transactions.begin()
        self._check_not_spoiled()
        topic, partition = records.topic, NO_PARTITION if records.partition is None else records.partition
        if partition == NO_PARTITION:
            self._admin.partitions(topic)
        else:
            self._admin.check(TopicPartition(topic, partition))
        values = records.values if isinstance(records.values, list) else list(records.values)
        count = len(values)
        if len(records.keys) != count or (records.headers is not None and len(records.headers) != count):
            raise ValueError("keys, values and headers must be equally many")
        # One loop inside the interpreter: 0.3 to 0.5 us a record, as quick as produce_batch, which has neither
        # timestamps nor headers. After an exception the loop can go on behind the record that raised it.
        left = iter(values)
        columns: list[Iterable[Any]] = [left, records.keys, repeat(partition), repeat(None), repeat(None)]
        columns.append(_timestamps(records.timestamps, count))
        if records.headers is not None:
            columns.append(records.headers)
        calls = map(producer.produce, repeat(topic), *columns)
        while True:
            try:
                deque(calls, maxlen=0)
                break
            except BufferError:
                self._repeat(producer, records, count - length_hint(left) - 1)
            except KafkaException as error:
                raise self._refused(error.args[0], records, count - length_hint(left) - 1) from error
        self._pending += count
        self._transactions.serve()

    def flush(self) -> None:
        if self._transactions.open:
            self._transactions.flush()

    def commit(self, positions: Positions, leases: Mapping[int, Lease]) -> None:
        self._check_not_spoiled()
        places = [
            Place(p.topic, p.partition, c.offset, _fitting(c.note, f"the note of {p.topic}/{p.partition}"))
            for p, c in positions.items()
        ]
        places += [lease_place(self._app, task, lease) for task, lease in leases.items()]
        if not places and not self._transactions.open:
            self._transactions.serve()
            return
        if leases:
            self._admin.ensure_tasks(self._app, max(leases) + 1)
        self._transactions.end(places, self._metadata)
        self._pending = 0

    def abort(self) -> None:
        self._transactions.abort()
        self._pending, self._spoiled = 0, ""

    @property
    def suspect(self) -> bool:
        return self._transactions.suspect

    @property
    def pending(self) -> int:
        return self._pending

    def close(self) -> None:
        self.abort()
        self._transactions.drop()

    def _repeat(self, producer: Producer, records: Produced, index: int) -> None:
        """librdkafka's queue is full: wait until it takes this record."""
        deadline = time.monotonic() + self._connection.timeouts.commit_seconds
        stamps = records.timestamps
        stamp = stamps if isinstance(stamps, int) else stamps[index]
        while True:
            time.sleep(0.01)
            self._transactions.serve()
            try:
                producer.produce(
                    records.topic,
                    records.values[index],
                    records.keys[index],
                    NO_PARTITION if records.partition is None else records.partition,
                    None,
                    None,
                    stamp or 1,
                    cast(Any, records.headers[index]) if records.headers is not None else None,
                )
                return
            except BufferError:
                if time.monotonic() > deadline:
                    raise unreachable(
                        self._connection, "the queue of records to send stays full", self._transactions.notices
                    ) from None
            except KafkaException as error:
                raise self._refused(error.args[0], records, index) from error

    def _refused(self, error: KafkaError, records: Produced, index: int) -> LogError:
        """librdkafka did not even take the record."""
        if error.code() != KafkaError.MSG_SIZE_TOO_LARGE:
            self._transactions.serve()  # a record that failed before says more
            return self._transactions.broken(error, f"appends to {records.topic!r}")
        size = len(records.values[index] or b"") + len(records.keys[index] or b"")
        headers = records.headers[index] if records.headers is not None else None
        size += sum(len(name.encode()) + len(value or b"") for name, value in headers or ())
        self._spoiled = f"a record of {size:,} bytes for {records.topic!r} was not appended"
        return RecordTooLarge(
            f"a record of {size:,} bytes is too large for topic {records.topic!r}",
            topic=records.topic,
            index=index,
            size=size,
            where=f"Kafka at {self._connection.brokers}",
            fix="make records smaller, or raise message.max.bytes here and max.message.bytes of the topic",
        )

    def _check_not_spoiled(self) -> None:
        if self._spoiled:
            raise LogError(f"the open commit lacks a record ({self._spoiled}): abort it")


class KafkaClaim(Claim):
    """A claimer of one task: a transactional producer with the id `<app>-claim-<task>`."""

    def __init__(self, connection: Connection, app: str, task: int, metadata: Any) -> None:
        self._app, self._task, self._metadata = app, task, metadata
        self._transactions = Transactions(connection, f"{app}-claim-{task}", f"the claim of task {task} of {app!r}")

    def write(self, lease: Lease) -> None:
        self._transactions.end([lease_place(self._app, self._task, lease)], self._metadata)

    def close(self) -> None:
        self._transactions.abort()
        self._transactions.drop()


def _fitting(metadata: str, what: str) -> str:
    if len(metadata.encode()) > MOST_METADATA:
        raise LogError(f"{what} is longer than {MOST_METADATA} bytes", fix="make it shorter: it is kept with an offset")
    return metadata


def _timestamps(given: Any, count: int) -> Iterator[int] | list[int]:
    """As librdkafka takes them: 0 would be "now"."""
    if isinstance(given, int):
        return repeat(given or 1)
    if len(given) != count:
        raise ValueError("timestamps and values must be equally many")
    return given if all(given) else [stamp or 1 for stamp in given]
