"""A source topic that is given more partitions, or is made again, while workers run: what lies there must not stay
unread in silence.
"""

import uuid
from contextlib import contextmanager

import pytest
from confluent_kafka.admin import AdminClient, NewPartitions

from operators import Running, agg
from streams import App, EventTime, Schema
from streams.app import make_worker
from streams.core.clock import SystemClock
from streams.core.errors import StateMismatch, TopicMismatch
from streams.core.record import Produced
from streams.log.base import TopicSpec
from streams.log.kafka import KafkaLog
from streams.settings import Settings
from tests.contract.logs import PATIENCE

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


class Tx(Schema):
    card: str
    at: EventTime


class Site:
    """A log with a topic, and a program that reads it."""

    def __init__(self, kafka, directory):
        self.name, self._clock = f"grows-{uuid.uuid4().hex[:8]}", SystemClock()
        self.topic, self._app = f"{self.name}-tx", App(self.name)
        tx = self._app.source(self.topic, Tx, key="card", start="earliest")
        tx | Running([agg.count().alias("n")]) | self._app.sink(f"{self.name}-out", partitions=1)
        self._settings = Settings(brokers=kafka.bootstrap, state_dir=str(directory), commit_interval=50)
        self.log = KafkaLog(self._settings.brokers)

    def feed(self, count):
        self.log.create([TopicSpec(self.topic, 1, {})])
        writer = self.log.writer(f"{self.name}-feeder", "0")
        writer.append(Produced(self.topic, 0, [b"a"] * count, [b'{"card":"a","at":1}'] * count, 1))
        writer.commit({}, {})
        writer.close()

    def worker(self):
        made = make_worker(self._app, self._settings, self.log, note=lambda *_, **__: None)
        made.start()
        return made

    def work(self, made, until=lambda: False):
        deadline = self._clock.monotonic() + PATIENCE
        while not until():
            assert self._clock.monotonic() < deadline
            made.turn()


@contextmanager
def site_of(kafka, directory, monkeypatch):
    monkeypatch.setattr("streams.runtime.growth._EVERY", 0.2)
    site = Site(kafka, directory)
    try:
        yield site
    finally:
        site.log.close()


def test_a_source_topic_that_grows_ends_its_workers(kafka, tmp_path, monkeypatch):
    with site_of(kafka, tmp_path, monkeypatch) as site:
        site.feed(1)
        first = site.worker()
        site.work(first, lambda: first.status.commits)
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
        admin.create_partitions([NewPartitions(site.topic, 3)])[site.topic].result()
        with pytest.raises(TopicMismatch, match="has 3 partitions now, and had 1 when this worker started") as error:
            site.work(first)
        assert "--had TOPIC=N" in error.value.fix
        first.close()
        with pytest.raises(TopicMismatch, match="the program needs 3"):
            site.worker()


def test_a_source_topic_that_is_made_again_ends_its_workers(kafka, tmp_path, monkeypatch):
    """They read on from the old position: of 15 records 5."""
    with site_of(kafka, tmp_path, monkeypatch) as site:
        site.feed(10)
        first = site.worker()
        site.work(first, lambda: first.status.records_in == 10 and not first.busy)
        site.log.delete([site.topic])
        site.feed(15)
        with pytest.raises(TopicMismatch, match="was deleted and made again while this worker ran"):
            site.work(first)
        first.close()
        second = site.worker()
        try:
            with pytest.raises(StateMismatch, match=r"is another one than what was read: .* from offset 1"):
                site.work(second)
        finally:
            second.close()
