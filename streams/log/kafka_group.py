"""The members of an application on Kafka: a group that shares the partitions of an empty topic, one a task."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

from confluent_kafka import OFFSET_END, Consumer, KafkaError
from confluent_kafka import TopicPartition as Place

from streams.core.errors import LogError, SlotTaken
from streams.core.record import TopicPartition
from streams.log.base import Committed, Group
from streams.log.kafka_admin import KafkaAdmin, tasks_topic
from streams.log.kafka_coverage import Coverage
from streams.log.kafka_errors import CONNECTION, MOVING, closed, translate
from streams.log.kafka_settings import RAISED, UNSAID, Connection, Notices, kafka_error

COUNTED = 5.0  # seconds for which a count of the members is believed
FIGHT = 15.0  # seconds: two living processes in one slot put each other out within the interval of heartbeats
LEAVING = 2.0  # seconds for the last words
RENEWED = 5.0  # seconds without an answer after which a client for reading offsets is exchanged

Revoke = Callable[[frozenset[int], bool], None]


class KafkaGroup(Group):
    """A static member, `<app>-<slot>`, of the group `<app>`, cooperative-sticky.

    Guarantees: a task is given up only after `on_revoke` has returned or raised. A worker that died keeps its tasks for
    the session's time; the same slot, started again meanwhile, gets the same tasks at once. A task that the group has
    given to nobody is found and given to a member (`kafka_coverage`).

    Raises SlotTaken: another process lives under this slot (both join anew once, then one of the two gives up).
    LogError: the broker refuses us (ACL, session timeout out of its range, another protocol in this group). A broker
    that does not answer is no error: librdkafka goes on trying, and tasks that are lost meanwhile are reported so.
    """

    def __init__(self, connection: Connection, admin: KafkaAdmin, app: str, slot: str, tasks: int) -> None:
        self._connection, self._admin, self._app, self._slot, self._count = connection, admin, app, slot, tasks
        self._topic, self._notices = tasks_topic(app), Notices()
        self._tasks = frozenset[int]()
        self._on_revoke: Revoke = _ignore
        self._members, self._counted_at = 1, float("-inf")
        self._taken, self._fenced_at = False, float("-inf")
        self._coverage = Coverage(admin, app, f"{app}-{slot}", tasks)
        self._consumer: Consumer | None = self._join()

    def poll(self, timeout: float, on_revoke: Revoke) -> frozenset[int]:
        consumer = self._living()
        self._on_revoke = on_revoke
        try:
            message = consumer.poll(timeout)
        except RAISED as raised:
            error: KafkaError | None = kafka_error(raised)
        else:
            error = message.error() if message is not None else None
        if error is not None and error is not UNSAID:  # that is said by the next poll
            self._judge(error)
        if len(self._tasks) < self._count and self._coverage.look(time.monotonic()):
            self._join_anew()
        return self._tasks

    def leave(self) -> None:
        """1. Unsubscribe: unlike a bare close this gives a static member's tasks free. 2. Poll until it is carried out.
        3. Close."""
        consumer, self._consumer = self._consumer, None
        if consumer is None:
            return
        self._on_revoke = _ignore  # who leaves has given up before
        self._unsubscribe(consumer)
        # 3. Close.
        self._tasks = frozenset()
        consumer.close()

    @property
    def patience(self) -> float:
        return self._connection.max_poll_ms / 1000

    @property
    def members(self) -> int:
        """Counted by the broker at most every 5 s; the last count if it does not say."""
        if time.monotonic() - self._counted_at > COUNTED:
            with suppress(LogError):  # not answered or not allowed
                self._members = max(self._admin.members(self._app), 1)
            self._counted_at = time.monotonic()
        return self._members

    # ---- called while polling

    def _assigned(self, consumer: Consumer, partitions: list[Place]) -> None:
        if partitions:
            consumer.incremental_assign([Place(p.topic, p.partition, OFFSET_END) for p in partitions])
            consumer.pause(partitions)  # the topic is empty: nothing to fetch
            self._tasks |= {p.partition for p in partitions if p.partition < self._count}

    def _revoked(self, consumer: Consumer, partitions: list[Place]) -> None:
        self._give_up(consumer, partitions, lost=False)

    def _lost(self, consumer: Consumer, partitions: list[Place]) -> None:
        self._give_up(consumer, partitions, lost=True)

    def _give_up(self, consumer: Consumer, partitions: list[Place], lost: bool) -> None:
        gone = self._tasks & {p.partition for p in partitions}
        try:
            if gone:
                self._on_revoke(gone, lost)
        finally:
            self._tasks -= gone
            if partitions:
                consumer.incremental_unassign(partitions)

    # ---- inside

    def _living(self) -> Consumer:
        if self._taken:
            raise self._slot_taken()
        if self._consumer is None:
            raise LogError(f"the member {self._slot!r} of {self._app!r} has left the group")
        return self._consumer

    def _judge(self, error: KafkaError) -> None:
        code = error.code()
        if code == KafkaError.FENCED_INSTANCE_ID or (code == KafkaError._FATAL and "instance" in error.str()):
            self._fenced()
            return
        if code in CONNECTION or code == KafkaError._MAX_POLL_EXCEEDED:
            return  # what follows from it is reported as lost tasks
        raise translate(error, f"{self._slot!r} is a member of {self._app!r}", self._connection, self._notices)

    def _fenced(self) -> None:
        """Another member has our slot's name. After a broker stood still that can be ourselves, in a request to join
        that it answered late (3 of 16 times, measured). So: join anew; a second time soon after it is another process.
        """
        now = time.monotonic()
        self._taken = now - self._fenced_at < FIGHT
        self._fenced_at = now
        gone, self._tasks = self._tasks, frozenset()
        try:
            if gone:
                self._on_revoke(gone, True)
        finally:
            if self._consumer is not None and not self._taken:
                self._consumer.close()
                self._consumer = self._join()
        if self._taken:
            raise self._slot_taken()

    def _join(self) -> Consumer:
        member = self._connection.build(Consumer, self._notices, self._connection.member(self._app, self._slot))
        # on_lost must be registered: without it a lost assignment would come as a mere revoke.
        member.subscribe([self._topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)
        return member

    def _join_anew(self) -> None:
        """Leave the group in good order, giving up our tasks, and come back: that makes the group rebalance."""
        consumer = self._living()
        self._unsubscribe(consumer)
        consumer.close()
        self._consumer = self._join()

    def _unsubscribe(self, consumer: Consumer) -> None:
        with suppress(*RAISED):  # a member that was fenced has nothing to leave
            # 1. Unsubscribe.
            consumer.unsubscribe()
            # 2. Poll.
            deadline = time.monotonic() + LEAVING
            while self._tasks and time.monotonic() < deadline:
                consumer.poll(0.05)
            consumer.poll(0.0)

    def _slot_taken(self) -> SlotTaken:
        return SlotTaken(
            f"slot {self._slot!r} of application {self._app!r} was taken by another process",
            where=f"Kafka at {self._connection.brokers}, group {self._app}",
            fix="give each worker a slot of its own (--slot), or stop the other process",
        )


class KafkaOutsider:
    """Knows an application's committed offsets and speaks for its group in transactions, but is no member.

    Brokers take offsets in a transaction from an outsider whatever the group does. From a member they refuse them while
    the group is in the middle of a rebalance, so its other tasks would have to be taken anew; and they take them from
    one that has lost its tasks without knowing. So it would be trouble and no protection: the leases decide.
    Shared by threads. Unless `stable`, it does not wait for a transaction that is open: it tells what was before.
    """

    def __init__(self, connection: Connection, app: str, *, stable: bool = True) -> None:
        self._connection, self._app, self._stable, self._notices = connection, app, stable, Notices()
        self._lock, self._users, self._closed = threading.Lock(), 0, False
        self._consumer = self._build()
        self.metadata = self._consumer.consumer_group_metadata()
        """For a transaction: of no member and no generation."""

    def _build(self) -> Consumer:
        return self._connection.build(Consumer, self._notices, self._connection.outsider(self._app, self._stable))

    def committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, Committed | None]:
        """The committed offsets and their metadata. Where it is `stable` and a transaction that touches one of them is
        open, librdkafka asks again, until that transaction has ended or would have been ended by its timeout.

        A client that has no answer for some seconds is exchanged: it may have forgotten the request itself. Seen once,
        for 20 s, on a broker that had stood still and answered others.
        """
        places = [Place(p.topic, p.partition) for p in partitions]
        if not places:
            return {}
        doing = f"the positions of {self._app!r} are read"
        seconds = self._connection.timeouts.transaction_ms / 1000 + self._connection.timeouts.reach_seconds / 2
        deadline = time.monotonic() + seconds
        while True:
            with self._used() as consumer:
                try:
                    found = consumer.committed(places, min(RENEWED, max(0.1, deadline - time.monotonic())))
                    failed = next((place.error for place in found if place.error is not None), None)
                except RAISED as error:
                    failed = kafka_error(error)
                with suppress(*RAISED):
                    consumer.poll(0.0)  # brings the notices
            if failed is None:
                break
            late = failed.code() == KafkaError._TIMED_OUT
            if late:
                self._exchange(consumer)
            if not (late or failed.code() in MOVING) or time.monotonic() >= deadline:
                raise translate(failed, doing, self._connection, self._notices)
            if not late:
                time.sleep(0.05)
        return {
            TopicPartition(p.topic, p.partition): Committed(p.offset, p.metadata or "") if p.offset >= 0 else None
            for p in found
        }

    def close(self) -> None:
        """The consumer's threads end, as soon as nobody waits for an answer any more; that is not waited for."""
        with self._lock:
            self._closed = True
            unused = not self._users
        if unused:
            self._consumer.close()

    @contextmanager
    def _used(self) -> Iterator[Consumer]:
        """Several threads may ask at once: an answer can take long, where a transaction is open."""
        consumer = self._take()
        try:
            yield consumer
        finally:
            self._give_back()

    def _take(self) -> Consumer:
        with self._lock:
            if self._closed:
                raise closed(self._connection)
            self._users += 1
            return self._consumer

    def _give_back(self) -> None:
        with self._lock:
            self._users -= 1
            last = self._closed and not self._users
        if last:
            self._consumer.close()

    def _exchange(self, consumer: Consumer) -> None:
        with self._lock:
            if self._consumer is consumer and not self._closed:
                self._consumer = self._build()


def _ignore(tasks: frozenset[int], lost: bool) -> None:
    """Nobody is asking any more."""
