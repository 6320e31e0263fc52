"""Kafka's topics and offsets, asked for through one admin client."""

import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from confluent_kafka import OFFSET_END, IsolationLevel, KafkaError, KafkaException
from confluent_kafka import TopicCollection as Collection
from confluent_kafka import TopicPartition as Place
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # its stubs do not re-export all of them
    AdminClient,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
)

from streams.core import topic_names
from streams.core.errors import LogError, LogUnreachable, TopicMismatch, TopicMissing
from streams.core.record import TopicPartition
from streams.core.schema import nearest
from streams.log.base import Member, TopicInfo, TopicSpec
from streams.log.kafka_errors import DENIED, NO_TOPIC, closed, translate, unreachable
from streams.log.kafka_settings import Connection, Notices

Answer = TypeVar("Answer")

PASSING = frozenset(
    {
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.KAFKA_STORAGE_ERROR,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
    }
)
# Nothing is deleted by time, and event times may lie in the future: brokers refuse more than an hour by default.
OUR_TOPICS = {"retention.ms": "-1", "message.timestamp.after.max.ms": str(2**63 - 1)}
_NO_LIMIT = 2**61  # milliseconds: no event time lies so far ahead
LONGEST = 3600.0  # seconds: librdkafka takes no longer timeout
GRACE = 5.0  # seconds
NAPS = (0.002, 0.05)  # seconds between repetitions: the first, the longest


def tasks_topic(app: str) -> str:
    """The empty topic whose partitions are an application's tasks."""
    return f"{app}-tasks"


class KafkaAdmin:
    """One admin client, shared by threads. Each call waits at most `reach_seconds`, then raises LogUnreachable."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._notices = connection, Notices()
        self._patience = connection.timeouts.reach_seconds
        self._counting: AdminClient | None = None
        self._made: AdminClient | None = connection.build(AdminClient, self._notices, {})  # connects in the background
        self._reached = False
        self._partitions: dict[str, int] = {}

    def reach(self) -> None:
        """The first call of all: LogUnreachable unless a broker answers. LogError once it is closed."""
        client = self._client
        if self._reached:
            return
        try:
            client.cluster_id(self._patience)
        except KafkaException as error:
            self._notices.hear(client)
            reason = error.args[0].str()
            if error.args[0].code() == KafkaError._TIMED_OUT:  # librdkafka guesses at old brokers here
                reason = f"no answer within {self._patience:g} s"
            raise unreachable(self._connection, "no connection", self._notices, reason) from None
        self._reached = True

    def close(self) -> None:
        """The client's threads end."""
        self._made = self._counting = None

    @property
    def _client(self) -> AdminClient:
        if self._made is None:
            raise closed(self._connection)
        return self._made

    # ---- topics

    def partitions(self, topic: str) -> int:
        """How many partitions a topic has; TopicMissing. Remembered: a topic that grows is a matter of a restart."""
        known = self._partitions.get(topic)
        if known is None:
            found = self._describe([topic])
            if topic not in found:
                raise TopicMissing(
                    f"topic {topic!r} does not exist{nearest(topic, self.all_topics())}",
                    where=f"Kafka at {self._connection.brokers}",
                    fix="create it first, or correct the name",
                )
            known = self._partitions[topic] = len(found[topic].partitions)
        return known

    def check(self, source: TopicPartition) -> None:
        """TopicMissing, TopicMismatch: there is no such partition."""
        count = self.partitions(source.topic)
        if not 0 <= source.partition < count:
            raise TopicMismatch(
                f"topic {source.topic!r} has {count} partitions, numbered from 0: there is no {source.partition}",
                where=f"Kafka at {self._connection.brokers}",
                fix="read or write the partitions that it has; restart after a topic was given more",
            )

    def topics(self, names: Sequence[str]) -> dict[str, TopicInfo]:
        """Those of the topics that exist. A retention that may not be asked for counts as "for ever" (-1)."""
        names = sorted({name for name in names if not topic_names.fault(name)})  # the broker fails where it is asked
        if not names:
            return {}
        wanted = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in names]
        settings = self._client.describe_configs(wanted, request_timeout=self._patience)  # both are on their way
        found = self._describe(names)
        limits = {resource.name: self._limits(answer) for resource, answer in settings.items()}
        return {
            name: TopicInfo(name, len(topic.partitions), str(topic.topic_id), *limits.get(name, (-1, -1)))
            for name, topic in found.items()
        }

    def all_topics(self) -> list[str]:
        """All but Kafka's own."""
        try:
            return sorted(name for name in self._client.list_topics(timeout=self._patience).topics if name[:2] != "__")
        except KafkaException as error:
            raise self._translated(error, "the topics are listed") from error

    def create(self, topics: Sequence[TopicSpec]) -> None:
        """Create what does not exist, with OUR_TOPICS where nothing else is said; they can be used on return."""
        left = {spec.name: spec for spec in topics}
        for name in left:
            if wrong := topic_names.fault(name):
                raise TopicMismatch(wrong, where=f"Kafka at {self._connection.brokers}", fix=topic_names.FIX)
        refused = self._create(left, OUR_TOPICS)
        odd = [name for name, reason in refused.items() if reason.code() == KafkaError.INVALID_CONFIG]
        if odd:  # a broker before 3.6 knows but one of them
            refused = {name: reason for name, reason in refused.items() if name not in odd}
            refused |= self._create({name: left[name] for name in odd}, {"retention.ms": "-1"})
        not_allowed = DENIED | {KafkaError.POLICY_VIOLATION}
        denied = {name: reason for name, reason in refused.items() if reason.code() in not_allowed}
        for name, reason in refused.items():
            if name not in denied:
                raise translate(reason, f"topic {name!r} is created", self._connection, self._notices)
        if denied:
            present = self._describe(list(denied))
            missing = [left[name] for name in denied if name not in present]
            if missing:
                raise self._not_allowed(missing, denied[missing[0].name])
        self._await_leaders(list(left))

    def _create(self, specs: Mapping[str, TopicSpec], settings: Mapping[str, str]) -> dict[str, KafkaError]:
        """Returns those that were refused."""
        if not specs:
            return {}
        new = [NewTopic(s.name, s.partitions, config={**settings, **s.settings}) for s in specs.values()]
        answers = self._client.create_topics(new, operation_timeout=self._patience, request_timeout=self._patience)
        refused: dict[str, KafkaError] = {}
        for name, answer in answers.items():
            try:
                self._answer(answer)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    refused[name] = error.args[0]
        return refused

    def ensure_tasks(self, app: str, count: int) -> None:
        """The application's topic of tasks, with at least so many partitions."""
        name = tasks_topic(app)
        if self._partitions.get(name, 0) >= count:
            return
        found = self._describe([name])
        if name not in found:
            self.create([TopicSpec(name, count, {})])
            found = self._describe([name])
        have = len(found[name].partitions) if name in found else 0
        if have < count:
            grown = self._client.create_partitions([NewPartitions(name, count)], request_timeout=self._patience)
            self._result(grown[name], f"topic {name!r} is given {count} partitions, one a task")
            self._await_leaders([name])
        self._partitions[name] = max(have, count)

    # ---- offsets

    def starts(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """The first offset of each."""
        return self._offsets(partitions, OffsetSpec.earliest())  # type: ignore[no-untyped-call]

    def ends(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """The end of each, open transactions included."""
        return self._offsets(partitions, OffsetSpec.latest())  # type: ignore[no-untyped-call]

    def _offsets(self, partitions: Sequence[TopicPartition], spec: OffsetSpec) -> dict[TopicPartition, int]:
        places = {Place(p.topic, p.partition): spec for p in partitions}
        if not places:
            return {}
        deadline = time.monotonic() + self._patience
        for nap in _naps():
            answers = self._client.list_offsets(
                places, isolation_level=IsolationLevel.READ_UNCOMMITTED, request_timeout=self._patience
            )
            try:
                return {
                    TopicPartition(place.topic, place.partition): int(self._answer(answer).offset)
                    for place, answer in answers.items()
                }
            except KafkaException as error:
                code = error.args[0].code()
                if code in NO_TOPIC or code == KafkaError._NOENT:  # the latter: some partition has no leader
                    self.check_anew(partitions)
                elif code not in PASSING or time.monotonic() > deadline:
                    raise self._translated(error, f"the offsets of {_named(places)} are read") from error
                else:
                    self._refresh({source.topic for source in partitions})
            time.sleep(nap)
        raise AssertionError

    def trim(self, before: Mapping[TopicPartition, int]) -> None:
        """Delete records before these offsets; what lies beyond the end is taken as the end."""
        if not before:
            return
        places = [Place(p.topic, p.partition, offset) for p, offset in before.items()]
        beyond = [p for p in self._trim(places) if p.offset != OFFSET_END]
        if beyond:
            self._trim([Place(p.topic, p.partition, OFFSET_END) for p in beyond])

    def _trim(self, places: list[Place]) -> list[Place]:
        """Returns those whose offset lies beyond the end."""
        beyond = []
        wanted = {(p.topic, p.partition): p for p in places}
        answers = self._client.delete_records(places, request_timeout=self._patience, operation_timeout=self._patience)
        for place, answer in answers.items():
            try:
                self._answer(answer)
            except KafkaException as error:
                if error.args[0].code() in NO_TOPIC:
                    self.check_anew([TopicPartition(place.topic, place.partition)])
                doing = f"old records of {place.topic} are deleted"
                if error.args[0].code() in {*PASSING, KafkaError._NOENT}:  # no refusal: some partition has no leader
                    reason = self._connection.redact(error.args[0].str())
                    raise unreachable(self._connection, doing, reason=reason) from error
                if error.args[0].code() != KafkaError.OFFSET_OUT_OF_RANGE:
                    raise self._translated(error, doing) from error
                beyond.append(wanted[place.topic, place.partition])
        return beyond

    # ---- groups

    def members(self, group: str) -> int:
        """The members of a group that have not timed out.

        A request to a coordinator that times out inside librdkafka aborts the whole process when the broker comes back
        (its issue 4605; reproduced with 2.16.0). So it gets no timeout there: we wait for it here, and then drop the
        client with all that it waits for, which does no harm. All admin requests to a coordinator go this way.
        """
        return len(self._described(group, "counted"))

    def living(self, group: str) -> list[Member]:
        """The same members, by slot."""
        return [
            Member(str(m.group_instance_id or m.member_id).removeprefix(f"{group}-"), str(m.host))
            for m in self._described(group, "listed")
        ]

    def forget(self, group: str) -> None:
        """Delete a group without members: its committed offsets are gone; nothing happens if there is none."""
        answer = self._at_coordinator().delete_consumer_groups([group], request_timeout=LONGEST)[group]
        doing = f"the group {group!r} is deleted"
        try:
            self._answered(answer, doing)
        except KafkaException as error:
            code = error.args[0].code()
            if code == KafkaError.NON_EMPTY_GROUP:
                raise LogError(
                    f"application {group!r} is working: its group has members",
                    where=f"Kafka at {self._connection.brokers}",
                    fix="stop its workers first; one that was killed counts until its session has timed out",
                ) from None
            if code != KafkaError.GROUP_ID_NOT_FOUND:
                raise self._translated(error, doing) from error

    def delete(self, topics: Sequence[str]) -> None:
        """Delete those of the topics that exist, and wait until the brokers do not know them any more."""
        names = sorted(self._describe(sorted(set(topics)))) if topics else []
        if not names:
            return
        answers = self._client.delete_topics(names, operation_timeout=self._patience, request_timeout=self._patience)
        for name, answer in answers.items():
            try:
                self._answer(answer)
            except KafkaException as error:
                if error.args[0].code() not in NO_TOPIC:
                    raise self._translated(error, f"topic {name!r} is deleted") from error
            self._partitions.pop(name, None)
        deadline = time.monotonic() + self._patience
        for nap in _naps():
            left = self._describe(names)
            if not left:
                return
            if time.monotonic() > deadline:
                raise LogUnreachable(
                    f"the topics {', '.join(sorted(left))} were deleted but are still there",
                    where=f"Kafka at {self._connection.brokers}",
                    fix="wait, then try again; the brokers' logs say what keeps them",
                )
            time.sleep(nap)

    def _described(self, group: str, verb: str) -> list[Any]:
        doing = f"the members of {group!r} are {verb}"
        answer = self.asked_for_group(group)
        try:
            return list(self._answered(answer, doing).members)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
                return []
            raise self._translated(error, doing) from error

    def asked_for_group(self, group: str) -> "Future[Any]":
        """The description of a group, under way; see `members` for why nobody waits for it."""
        return self._at_coordinator().describe_consumer_groups([group], request_timeout=LONGEST)[group]

    def lost_coordinator(self) -> None:
        """No answer came: the next request to a coordinator goes another way."""
        self._counting = None

    def _at_coordinator(self) -> AdminClient:
        if self._made is None:
            raise closed(self._connection)
        if self._counting is None:
            self._counting = self._connection.build(AdminClient, self._notices, {})
        return self._counting

    def _answered(self, answer: "Future[Answer]", doing: str) -> Answer:
        try:
            return answer.result(timeout=self._patience)
        except TimeoutError:
            self.lost_coordinator()
            raise unreachable(self._connection, doing, self._notices) from None

    # ---- inside

    def _describe(self, names: list[str]) -> dict[str, Any]:
        """Descriptions of those that exist."""
        found = {}
        answers = self._client.describe_topics(Collection(names), request_timeout=self._patience)
        for name, answer in answers.items():
            try:
                found[name] = self._answer(answer)
            except KafkaException as error:
                if error.args[0].code() not in NO_TOPIC:
                    raise self._translated(error, f"topic {name!r} is looked up") from error
        return found

    def check_anew(self, partitions: Sequence[TopicPartition]) -> None:
        """TopicMissing, TopicMismatch, without what we remember."""
        for source in partitions:
            self._partitions.pop(source.topic, None)
            self.check(source)

    def _refresh(self, topics: Iterable[str]) -> None:
        """Learn the leaders anew: after a broker's restart librdkafka would go on asking as of before."""
        with suppress(KafkaException):
            for topic in topics:
                self._client.list_topics(topic, timeout=self._patience)

    def _limits(self, answer: "Future[dict[str, Any]]") -> tuple[int, int]:
        """How long records stay, and how far ahead of the clock their timestamps may lie, both in milliseconds; -1
        without a limit, or where we may not ask."""
        try:
            settings = self._answer(answer)
        except KafkaException:
            return -1, -1
        retention = -1 if settings["cleanup.policy"].value == "compact" else int(settings["retention.ms"].value)
        ahead = settings.get("message.timestamp.after.max.ms")  # brokers before 3.6 do not know it
        return retention, -1 if ahead is None or int(ahead.value) >= _NO_LIMIT else int(ahead.value)

    def _await_leaders(self, names: list[str]) -> None:
        deadline = time.monotonic() + self._patience
        for nap in _naps() if names else ():
            found = self._describe(names)
            if len(found) == len(names) and all(p.leader for t in found.values() for p in t.partitions):
                return
            if time.monotonic() > deadline:
                raise LogUnreachable(
                    f"the topics {', '.join(names)} were created but cannot be used yet",
                    where=f"Kafka at {self._connection.brokers}",
                    fix="look at the brokers' logs: some partition has no leader",
                )
            time.sleep(nap)

    def _answer(self, answer: "Future[Answer]") -> Answer:
        """Should librdkafka lose a request, we do not wait for it for ever."""
        try:
            return answer.result(timeout=self._patience + GRACE)
        except TimeoutError:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "no answer at all")) from None

    def _result(self, answer: "Future[Answer]", doing: str) -> Answer:
        try:
            return self._answer(answer)
        except KafkaException as error:
            raise self._translated(error, doing) from error

    def _translated(self, error: KafkaException, doing: str) -> LogError:
        self._notices.hear(self._client)
        return translate(error.args[0], doing, self._connection, self._notices)

    def _not_allowed(self, specs: Sequence[TopicSpec], reason: KafkaError) -> LogError:
        commands = []
        for spec in specs:
            settings = {**OUR_TOPICS, **spec.settings}
            more = "".join(f" --config {name}={value}" for name, value in settings.items())
            commands.append(
                f"kafka-topics.sh --bootstrap-server {self._connection.brokers} --create --topic {spec.name} "
                f"--partitions {spec.partitions}{more}"
            )
        return LogError(
            f"Kafka does not let us create topics ({reason.name()}): {', '.join(s.name for s in specs)}",
            where=f"Kafka at {self._connection.brokers}",
            fix="have them made beforehand, then start again:\n    " + "\n    ".join(commands),
        )


def _naps() -> Iterable[float]:
    nap, longest = NAPS
    while True:
        yield nap
        nap = min(nap * 1.5, longest)


def _named(places: Iterable[Place]) -> str:
    names = sorted({place.topic for place in places})
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
