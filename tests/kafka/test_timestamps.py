"""Topics for results and dead letters that somebody else has made, with the brokers' defaults: they take no timestamp
an hour ahead.
"""

import json
import uuid

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from operators import Filter
from streams import App, EventTime, Schema, col
from streams.app import make_worker
from streams.core.clock import SystemClock
from streams.core.record import Produced, TopicPartition
from streams.log.base import TopicSpec
from streams.log.kafka import KafkaLog
from streams.settings import Settings
from tests.contract.logs import PATIENCE

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


class Tx(Schema):
    card: str
    at: EventTime


def test_a_row_whose_event_time_lies_ahead_is_written_all_the_same(kafka, tmp_path):
    name, notes, clock = f"ahead-{uuid.uuid4().hex[:8]}", [], SystemClock()
    app = App(name, dead_letters=f"{name}-bad")
    tx = app.source(f"{name}-tx", Tx, start="earliest")
    tx | Filter(col("card") != "x") | app.sink(f"{name}-out", partitions=1)
    settings = Settings(brokers=kafka.bootstrap, state_dir=str(tmp_path), commit_interval=50)
    log = KafkaLog(settings.brokers)
    try:
        log.create([TopicSpec(f"{name}-tx", 1, {})])
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
        theirs = [f"{name}-out", f"{name}-bad"]
        for made in admin.create_topics([NewTopic(topic, 1) for topic in theirs]).values():
            made.result()
        deadline = clock.monotonic() + PATIENCE
        while len(log.topics(theirs)) < 2:  # a broker may know them a moment later
            assert clock.monotonic() < deadline
            clock.sleep(0.05)
        now = clock.now()
        assert log.topics([f"{name}-out"])[f"{name}-out"].ahead_ms == 3_600_000
        values = [json.dumps({"card": "a", "at": at}).encode() for at in (now, now + 2 * 3_600_000)]
        writer = log.writer(f"{name}-feeder", "0")
        writer.append(Produced(f"{name}-tx", 0, [None] * 2, values, now))
        writer.append(Produced(f"{name}-tx", 0, [None], [b"broken"], now + 2 * 3_600_000))
        writer.commit({}, {})
        writer.close()
        worker = make_worker(app, settings, log, note=lambda text, *_, **__: notes.append(text))
        worker.start()
        while worker.status.records_out.get(f"{name}-out", 0) < 2 or f"{name}-bad" not in worker.status.records_out:
            assert clock.monotonic() < deadline, notes
            worker.turn()
        worker.leave()
        worker.close()
        reader, found = log.reader(), []
        reader.assign({TopicPartition(f"{name}-out", 0): 0})
        while len(found) < 2:
            assert clock.monotonic() < deadline
            for records in reader.poll(10, 0.1):
                found += zip(records.values(), records.timestamps(), strict=True)
        reader.close()
        assert [json.loads(value)["at"] for value, _ in found] == [now, now + 2 * 3_600_000]
        assert found[0][1] == now
        assert now + 3_000_000 < found[1][1] < now + 3_600_000
        assert not any("aborted" in note for note in notes)
    finally:
        log.close()
