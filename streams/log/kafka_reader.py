"""Reading from Kafka: runs of messages, decoded no further than asked for."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from typing import Any, cast

import msgspec
from confluent_kafka import Consumer, KafkaError, Message
from confluent_kafka import TopicPartition as Place

from streams.core.errors import LogError, TopicMismatch, TopicMissing
from streams.core.record import Headers, Records, TopicPartition
from streams.log.base import LogReader
from streams.log.kafka_admin import KafkaAdmin
from streams.log.kafka_errors import CONNECTION, DENIED, translate
from streams.log.kafka_settings import RAISED, Connection, Notices, kafka_error

CHUNK = 1000  # messages a call: with more the messages leave the processor's caches before they are looked at
FRESH = 3.0  # seconds: a broker that serves fetches is heard of every `fetch_ms`
LOOK = 1.0  # seconds
OFF_RANGE = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE})
NOWHERE = TopicPartition("", -1)  # for an error of the whole reader: it stays
_ERROR, _PARTITION = Message.error, Message.partition


class _Broker(msgspec.Struct):
    """A broker in librdkafka's statistics. `rxidle`: microseconds since something came from it."""

    nodeid: int = -1
    source: str = ""
    state: str = ""
    rxidle: int = -1


class _Partition(msgspec.Struct):
    """`broker`: the one that it is fetched from; -1 for none. (`leader` stays what it was when a topic is deleted.)"""

    broker: int = -1


class _Topic(msgspec.Struct):
    partitions: dict[str, _Partition] = {}


class _Statistics(msgspec.Struct):
    """`age`: microseconds since the client was made. They are looked at when the reader is polled, maybe much later."""

    age: int = 0
    brokers: dict[str, _Broker] = {}
    topics: dict[str, _Topic] = {}


_STATISTICS = msgspec.json.Decoder(_Statistics)


class KafkaRecords:
    """A run of messages of one partition; each list is made when it is asked for."""

    __slots__ = ("_messages", "source")

    def __init__(self, source: TopicPartition, messages: list[Message]) -> None:
        self.source, self._messages = source, messages

    @property
    def next_offset(self) -> int:
        return cast(int, self._messages[-1].offset()) + 1

    def __len__(self) -> int:
        return len(self._messages)

    def values(self) -> list[bytes | None]:
        return [message.value() for message in self._messages]

    def keys(self) -> list[bytes | None]:
        return [message.key() for message in self._messages]

    def timestamps(self) -> list[int]:
        return [message.timestamp()[1] for message in self._messages]

    def first_timestamp(self) -> int:
        return self._messages[0].timestamp()[1]

    def offsets(self) -> list[int]:
        return cast("list[int]", [message.offset() for message in self._messages])

    def headers(self) -> list[Headers | None]:
        return cast("list[Headers | None]", [message.headers() for message in self._messages])


class KafkaReader(LogReader):
    """A consumer of the partitions that it is told, read_committed; it is in no group and commits nothing.

    How it knows that it has caught up: librdkafka says once that the end is reached, at which offset. That stays true
    as long as nothing newer is read *and* the partition's broker has been heard of within 3 s (by that event, or by the
    statistics that librdkafka makes each second) and since no broker at all could be reached. So a lost connection
    shows at once, a silent one within 3 to 4 s, and after either the broker must be heard of again.

    Raises TopicMissing, TopicMismatch (no such partition), and LogError where a position lies outside of what the log
    still has: records are never left out silently. Such an error is raised by each poll until that partition is
    unassigned; records read before it are returned first. Brokers that do not answer are no error: librdkafka goes on
    trying.
    """

    def __init__(self, connection: Connection, admin: KafkaAdmin) -> None:
        self._connection, self._admin, self._notices = connection, admin, Notices()
        self._next: dict[TopicPartition, int] = {}
        self._alone: dict[int, TopicPartition] = {}  # by number: the only assigned partition that has it
        self._paused: set[TopicPartition] = set()
        self._end: dict[TopicPartition, tuple[int, float]] = {}  # offset of the end, since when at most it is known
        self._heard: dict[int, float] = {}  # when a broker was last heard of
        self._fetched_from: dict[TopicPartition, int] = {}
        self._orphans: set[TopicPartition] = set()
        self._looked_for: set[str] = set()  # topics that the consumer has been made to look for
        self._failed: dict[TopicPartition, LogError] = {}
        self._made_at = self._emptied_at = time.monotonic()  # the latter: when the queue of events was last empty
        self._consumer = connection.build(Consumer, self._notices, {**connection.reader(), "stats_cb": self._look})

    # ---- what to read

    def assign(self, start: Mapping[TopicPartition, int]) -> None:
        for source in start:
            self._admin.check(source)
        self.unassign([source for source in start if source in self._next])
        if start:
            self._consumer.incremental_assign([Place(*source, offset) for source, offset in start.items()])
        self._next.update(start)
        self._number()
        self._look_for({source.topic for source in start})

    def unassign(self, partitions: Sequence[TopicPartition]) -> None:
        gone = [source for source in partitions if source in self._next]
        if not gone:
            return
        self.resume([source for source in gone if source in self._paused])
        self._consumer.incremental_unassign([Place(*source) for source in gone])
        for source in gone:
            del self._next[source]
            self._end.pop(source, None)
            self._fetched_from.pop(source, None)
            self._failed.pop(source, None)
        self._number()

    def pause(self, partitions: Sequence[TopicPartition]) -> None:
        new = [source for source in partitions if source in self._next and source not in self._paused]
        if new:
            self._consumer.pause([Place(*source) for source in new])
            self._paused.update(new)

    def resume(self, partitions: Sequence[TopicPartition]) -> None:
        known = [source for source in partitions if source in self._paused]
        if known:
            self._paused.difference_update(known)
            for source in known:
                self._end.pop(source, None)  # the end is looked for anew
            self._consumer.resume([Place(*source) for source in known])

    # ---- reading

    def poll(self, most: int, timeout: float) -> list[Records]:
        self._check_orphans()
        for failure in self._failed.values():
            raise failure
        found: dict[TopicPartition, list[Message]] = {}
        try:
            self._gather(most, timeout, found)
        except RAISED as error:
            self._failed[NOWHERE] = translate(kafka_error(error), "reading", self._connection, self._notices)
        runs: list[Records] = []
        for source, run in found.items():
            records = KafkaRecords(source, run)
            self._next[source] = records.next_offset
            runs.append(records)
        if not runs:
            for failure in self._failed.values():
                raise failure
        return runs

    def position(self, partition: TopicPartition) -> int:
        end = self._end.get(partition)
        return max(self._next[partition], end[0] if end is not None else -1)

    def caught_up(self, partition: TopicPartition) -> bool:
        end = self._end.get(partition)
        if end is None or end[0] < self._next[partition] or partition in self._paused:
            return False
        heard = max(end[1], self._heard.get(self._fetched_from.get(partition, -1), 0.0))
        return heard > self._notices.down_at and time.monotonic() - heard < FRESH

    def lag(self, partition: TopicPartition) -> int:
        if partition not in self._next:
            return 0
        bounds: tuple[int, int] | None = self._consumer.get_watermark_offsets(Place(*partition), cached=True)
        return max(bounds[1] - self.position(partition), 0) if bounds is not None else 0

    def close(self) -> None:
        self._next.clear()
        self._end.clear()
        self._alone.clear()
        with suppress(RuntimeError):  # closed before
            self._consumer.close()

    # ---- inside

    def _look_for(self, topics: set[str]) -> None:
        """Make the consumer ask now for the brokers of topics that are new to it: by itself it looks for topics that it
        knows nothing of once a second, and until then it reads nothing of them."""
        for topic in sorted(topics - self._looked_for):
            try:
                self._consumer.list_topics(topic, LOOK)
            except RAISED:
                return  # brokers that do not answer: it goes on asking by itself
            self._looked_for.add(topic)

    def _number(self) -> None:
        alone: dict[int, TopicPartition | None] = {}
        for source in self._next:
            alone[source.partition] = None if source.partition in alone else source
        self._alone = {number: source for number, source in alone.items() if source is not None}

    def _gather(self, most: int, timeout: float, found: dict[TopicPartition, list[Message]]) -> None:
        left = most
        while left > 0:
            wanted = min(CHUNK, left)
            messages = self._consumer.consume(wanted, 0.0)  # with a timeout it would wait for all that are wanted
            if not messages and left == most:
                first = self._consumer.poll(timeout)
                messages = [] if first is None else [first]
                if messages and wanted > 1:
                    messages += self._consumer.consume(wanted - 1, 0.0)
            self._sort(messages, found)
            left -= len(messages)
            if len(messages) < wanted:
                self._emptied_at = time.monotonic()
                break

    def _sort(self, messages: list[Message], found: dict[TopicPartition, list[Message]]) -> None:
        """Messages to their partitions, events to the reader. Most calls bring a run of one partition: that is seen by
        two loops inside the interpreter, 0.05 us a message."""
        if any(map(_ERROR, messages)):
            for message in messages:
                if message.error() is not None:
                    self._take(message)
            messages = [message for message in messages if message.error() is None]
        if not messages:
            return
        numbers = set(map(_PARTITION, messages))
        source = self._alone.get(cast(int, numbers.pop())) if len(numbers) == 1 else None
        runs: Iterator[tuple[TopicPartition, list[Message]]]
        if source is not None:
            runs = iter([(source, messages)])
        else:
            runs = ((TopicPartition(*key), list(run)) for key, run in groupby(messages, _place))
        for source, run in runs:
            if source in self._next:
                before = found.setdefault(source, run)
                if before is not run:
                    before.extend(run)

    def _take(self, event: Message) -> None:
        """The end of a partition, or an error."""
        error = cast(KafkaError, event.error())
        code, source = error.code(), TopicPartition(event.topic() or "", cast(int, event.partition()))
        if code == KafkaError._PARTITION_EOF:
            if source in self._next:
                self._end[source] = (cast(int, event.offset()), self._emptied_at)
        elif code in OFF_RANGE:
            if source in self._next:
                self._failed[source] = self._outside(source, cast(int, event.offset()))
        elif code in CONNECTION or (code in DENIED and not event.topic()):
            pass  # librdkafka goes on trying; the group is none of ours
        else:
            doing = f"{source.topic} is read" if source.topic else "reading"
            failure = translate(error, doing, self._connection, self._notices)
            whole = [known for known in self._next if known.topic == source.topic] or [NOWHERE]
            self._failed.update(dict.fromkeys([source] if source in self._next else whole, failure))

    def _outside(self, source: TopicPartition, wanted: int) -> LogError:
        wanted = wanted if wanted >= 0 else self._next[source]
        try:
            start = self._admin.starts([source])[source]
            end = self._admin.ends([source])[source]
        except LogError as error:
            return error
        where = f"Kafka at {self._connection.brokers}, topic {source.topic}, partition {source.partition}"
        if wanted < start:
            return LogError(
                f"records of {source.topic}/{source.partition} were deleted before they were read: "
                f"offset {wanted} is wanted, offsets {start} to {end - 1} remain",
                where=where,
                fix="the topic's retention (retention.ms, retention.bytes) is too short for this lag: raise it; then "
                "start from another position, which leaves out what is lost, or start the application anew",
            )
        return LogError(
            f"{source.topic}/{source.partition} ends before the wanted position: "
            f"offset {wanted} is wanted, offsets {start} to {end - 1} exist",
            where=where,
            fix="the topic was deleted and made again, or brokers lost its end: restore it, or start from another "
            "position",
        )

    def _look(self, text: str) -> None:
        """Each second: which broker serves which partition, and when each was last heard of."""
        statistics = _STATISTICS.decode(text)
        at = self._made_at + statistics.age / 1e6
        for known in statistics.brokers.values():
            if known.source == "learned" and known.state == "UP" and known.rxidle >= 0:
                self._heard[known.nodeid] = at - known.rxidle / 1e6
        connected = any(at - heard < FRESH for heard in self._heard.values())
        for source in self._next:
            topic = statistics.topics.get(source.topic, _Topic())
            broker = topic.partitions.get(str(source.partition), _Partition()).broker
            self._fetched_from[source] = broker
            if broker < 0 and connected:
                self._orphans.add(source)

    def _check_orphans(self) -> None:
        """Partitions that no broker serves: librdkafka waits for one for ever, and does not say if a topic is gone."""
        while self._orphans:
            source = self._orphans.pop()
            if source in self._next:
                try:
                    self._admin.check_anew([source])
                except (TopicMissing, TopicMismatch) as error:
                    self._failed[source] = error
                except LogError:
                    return  # asked again in a second


def _place(message: Message) -> tuple[Any, Any]:
    return message.topic(), message.partition()
