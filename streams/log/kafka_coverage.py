"""Finds tasks that the group has given to nobody."""

from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from confluent_kafka import ConsumerGroupState, KafkaException

from streams.log.kafka_admin import KafkaAdmin, tasks_topic

EVERY = 4.0  # seconds between looks
GIVEN_UP = 8.0  # seconds: librdkafka can lose such a request for ever, when a broker goes


class Coverage:
    """Whether every task has an owner, asked of the broker without waiting for it.

    A rebalance takes a task from one member, and the next one, which that member asks for when it has let go, gives it
    to another. If it dies in between and comes back within the session's time, the broker answers a static member from
    what it has written down, without a rebalance: nobody asks for the next one, and the task stays without an owner for
    as long as nobody joins or leaves. (Kafka 4.3 with librdkafka 2.16; each broker that dies under load can cause it.)

    A hole that two looks have seen is mended by one of the members, chosen by all in the same way: the one with the
    fewest tasks, which leaves and joins anew.
    """

    def __init__(self, admin: KafkaAdmin, app: str, member: str, tasks: int) -> None:
        self._admin, self._app, self._member, self._count = admin, app, member, tasks
        self._asked: Future[Any] | None = None
        self._asked_at: float | None = None
        self._seen: object = None

    def look(self, now: float) -> bool:
        """Whether this member must join anew. Called often; `now` in seconds of a monotonic clock."""
        if self._asked_at is None:
            self._asked_at = now  # who has just joined is likely to be given tasks soon
        if self._asked is None:
            if now - self._asked_at >= EVERY:
                self._asked, self._asked_at = self._admin.asked_for_group(self._app), now
            return False
        if not self._asked.done():
            if now - self._asked_at > GIVEN_UP:
                self._asked = None
                self._admin.lost_coordinator()
            return False
        answer, self._asked = self._asked, None
        with suppress(KafkaException):  # not allowed, or the coordinator moves: nothing is known
            return self._judge(answer.result())
        self._seen = None
        return False

    def _judge(self, group: Any) -> bool:
        topic = tasks_topic(self._app)
        owned = {
            str(m.group_instance_id or m.member_id): frozenset(
                p.partition for p in m.assignment.topic_partitions if p.topic == topic
            )
            for m in group.members
        }
        hole = frozenset(range(self._count)) - frozenset[int]().union(*owned.values())
        seen = (hole, frozenset(owned.items()))
        if not hole or group.state != ConsumerGroupState.STABLE:
            self._seen = None
            return False
        if seen != self._seen:
            self._seen = seen
            return False
        self._seen = None
        return min(owned, key=lambda name: (len(owned[name]), name)) == self._member
