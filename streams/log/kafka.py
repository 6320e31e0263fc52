"""The log on Kafka: topics are Kafka's, a commit is a transaction, lease records are offsets of a topic of tasks."""

import json
import threading
from collections.abc import Mapping, Sequence

from streams.core.errors import LogError, SettingsError
from streams.core.record import TopicPartition
from streams.log.base import Claim, Committed, Group, Log, LogReader, LogWriter, Member, TopicInfo, TopicSpec
from streams.log.kafka_admin import KafkaAdmin, tasks_topic
from streams.log.kafka_errors import closed
from streams.log.kafka_group import KafkaGroup, KafkaOutsider
from streams.log.kafka_reader import KafkaReader
from streams.log.kafka_settings import Connection, Patience, Timeouts
from streams.log.kafka_transactions import Transactions
from streams.log.kafka_writer import KafkaClaim, KafkaWriter
from streams.protocol import Lease, holders

__all__ = ["KafkaLog", "Timeouts"]


class KafkaLog(Log):
    """A log on the Kafka cluster at `brokers` ("host:port,host:port").

    `settings` are librdkafka's own (security.protocol, sasl.*, ssl.* ...) and go to every client; their values are
    never shown. Those that the guarantees rest on cannot be set.

    Names in the cluster: group and prefix `<app>`; transactional ids `<app>-<slot>` and `<app>-claim-<task>`; the topic
    `<app>-tasks`, which stays empty.

    Guarantees: those of `streams.log.base`. One log may be shared by threads; its readers, writers and groups each
    belong to one. Claims and writers may be opened by several threads at once.

    Raises LogUnreachable from whatever is called first if no broker answers within `timeouts.reach_seconds`;
    SettingsError.
    """

    # Brokers sync where a log begins, but not its records: Linux writes those after 35 s at the latest.
    durable_after = settled_after = 120.0

    def __init__(
        self, brokers: str, settings: Mapping[str, str] | None = None, *, timeouts: Timeouts | None = None
    ) -> None:
        self._connection = Connection(brokers, dict(settings or {}), timeouts or Timeouts())
        self.name, self.option = brokers, f" --brokers {brokers}"
        self._admin = KafkaAdmin(self._connection)
        self._patience = Patience(self._connection.transaction_ms)
        self._outsiders: dict[tuple[str, bool], KafkaOutsider] = {}
        self._lock, self._closed = threading.Lock(), False

    def __repr__(self) -> str:
        return f"KafkaLog({self.name!r})"

    # ---- topics

    def topics(self, names: Sequence[str]) -> dict[str, TopicInfo]:
        return self._reached().topics(names)

    def all_topics(self) -> list[str]:
        return self._reached().all_topics()

    def create(self, topics: Sequence[TopicSpec]) -> None:
        self._reached().create(topics)

    # ---- those who read, write and share

    def reader(self) -> LogReader:
        return KafkaReader(self._connection, self._reached())

    def writer(self, app: str, slot: str) -> LogWriter:
        _check_slot(slot)
        admin = self._reached()
        return KafkaWriter(self._connection, admin, app, slot, self._outsider(app).metadata, self._patience)

    def group(self, app: str, slot: str, tasks: int) -> Group:
        _check_slot(slot)
        admin = self._reached()
        self._outsider(app)  # connects in the background: leases are read next
        admin.ensure_tasks(app, tasks)
        return KafkaGroup(self._connection, admin, app, slot, tasks)

    def claim(self, app: str, task: int) -> Claim:
        self._reached().ensure_tasks(app, task + 1)
        return KafkaClaim(self._connection, app, task, self._outsider(app).metadata)

    def fence(self, app: str, slot: str) -> None:
        self._reached()
        Transactions(self._connection, f"{app}-{slot}", f"slot {slot!r} of {app!r}").drop()

    # ---- what is committed

    def leases(self, app: str, tasks: Sequence[int]) -> dict[int, Lease | None]:
        return self._leases(app, tasks, stable=True)

    def holders(self, app: str, tasks: Sequence[int]) -> dict[int, str]:
        return holders(self._leases(app, tasks, stable=False))

    def committed(self, app: str, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, Committed | None]:
        return self._committed(app, partitions, stable=True)

    def ends(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return self._reached().ends(partitions)

    def starts(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return self._reached().starts(partitions)

    def trim(self, before: Mapping[TopicPartition, int]) -> None:
        """Delete records before these offsets; what lies beyond the end is taken as the end."""
        self._reached().trim(before)

    # ---- starting an application anew

    def living(self, app: str) -> list[Member]:
        return self._reached().living(app)

    def forget(self, app: str) -> None:
        self._reached().forget(app)

    def delete(self, topics: Sequence[str]) -> None:
        self._reached().delete(topics)

    def close(self) -> None:
        self._admin.close()
        with self._lock:
            self._closed = True
            outsiders = list(self._outsiders.values())
            self._outsiders.clear()
        for outsider in outsiders:
            outsider.close()

    # ---- inside

    def _reached(self) -> KafkaAdmin:
        self._admin.reach()
        return self._admin

    def _outsider(self, app: str, *, stable: bool = True) -> KafkaOutsider:
        with self._lock:
            if self._closed:  # a thread that was left behind must not connect anew
                raise closed(self._connection)
            if (app, stable) not in self._outsiders:
                self._outsiders[app, stable] = KafkaOutsider(self._connection, app, stable=stable)
            return self._outsiders[app, stable]

    def _committed(
        self, app: str, partitions: Sequence[TopicPartition], *, stable: bool
    ) -> dict[TopicPartition, Committed | None]:
        self._reached()
        return self._outsider(app, stable=stable).committed(partitions)

    def _leases(self, app: str, tasks: Sequence[int], *, stable: bool) -> dict[int, Lease | None]:
        topic = tasks_topic(app)
        found = self._committed(app, [TopicPartition(topic, task) for task in tasks], stable=stable)
        return {task: self._lease(app, task, found[TopicPartition(topic, task)]) for task in tasks}

    def _lease(self, app: str, task: int, found: Committed | None) -> Lease | None:
        if found is None:
            return None
        try:
            return Lease.decode(found.note, found.offset)
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise LogError(
                f"the lease record of task {task} of {app!r} is not one of ours: offset {found.offset}, {found.note!r}",
                where=f"Kafka at {self.name}, group {app}, topic {tasks_topic(app)}",
                fix="another tool has committed offsets of this group: stop it, and restore the record from a backup",
            ) from error


def _check_slot(slot: str) -> None:
    if slot.startswith("claim-"):
        raise SettingsError(f"a slot's name cannot begin with 'claim-': {slot!r}", fix="choose another name")
