"""A source topic that is given more partitions while workers run: what lies there must not stay unread in silence."""

import uuid

import pytest
from confluent_kafka.admin import AdminClient, NewPartitions

from operators import Running, agg
from streams import App, EventTime, Schema
from streams.app import make_worker
from streams.core.clock import SystemClock
from streams.core.errors import TopicMismatch
from streams.core.record import Produced
from streams.log.base import TopicSpec
from streams.log.kafka import KafkaLog
from streams.settings import Settings
from tests.contract.logs import PATIENCE

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


class Tx(Schema):
    card: str
    at: EventTime


def test_a_source_topic_that_grows_ends_its_workers(kafka, tmp_path, monkeypatch):
    monkeypatch.setattr("streams.runtime.worker._TOPICS", 0.2)
    name, clock = f"grows-{uuid.uuid4().hex[:8]}", SystemClock()
    app = App(name)
    tx = app.source(f"{name}-tx", Tx, key="card", start="earliest")
    tx | Running([agg.count().alias("n")]) | app.sink(f"{name}-out", partitions=1)
    settings = Settings(brokers=kafka.bootstrap, state_dir=str(tmp_path), commit_interval=50)
    log = KafkaLog(settings.brokers)

    def worker():
        made = make_worker(app, settings, log, note=lambda *_, **__: None)
        made.start()
        return made

    def work(made, until=lambda: False):
        deadline = clock.monotonic() + PATIENCE
        while not until():
            assert clock.monotonic() < deadline
            made.turn()

    try:
        log.create([TopicSpec(f"{name}-tx", 1, {})])
        writer = log.writer(f"{name}-feeder", "0")
        writer.append(Produced(f"{name}-tx", 0, [b"a"], [b'{"card":"a","at":1}'], 1))
        writer.commit({}, {})
        writer.close()
        first = worker()
        work(first, lambda: first.status.commits)
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
        admin.create_partitions([NewPartitions(f"{name}-tx", 3)])[f"{name}-tx"].result()
        with pytest.raises(TopicMismatch, match="has 3 partitions now, and had 1 when this worker started") as error:
            work(first)
        assert "--had TOPIC=N" in error.value.fix
        first.close()
        with pytest.raises(TopicMismatch, match="the program needs 3"):
            worker()
    finally:
        log.close()
