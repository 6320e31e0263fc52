"""Debugging on Kafka, while the application runs: it does not notice."""

import time
import uuid

import pytest

from streams.app import make_worker
from streams.core.record import Produced
from streams.dlq import letters
from streams.dlq.rehearsal import rehearse
from streams.log.base import TopicSpec
from streams.log.kafka import KafkaLog
from streams.settings import Settings
from tests.dlq import program


@pytest.mark.kafka
def test_debug(kafka, tmp_path, monkeypatch):
    log, name = KafkaLog(kafka.bootstrap, {}), f"shop-{uuid.uuid4().hex[:8]}"
    topic = f"{name}-payments"
    app = program.make(name, topic)
    try:
        log.create([TopicSpec(topic, 1, {})])
        values = [b'{"card":"c1","at":%d,"amount":%d}' % (at, amount) for at, amount in ((0, 77), (1, 5), (2, 6))]
        writer = log.writer(f"{name}-feed", "feeder")
        writer.append(Produced(topic, 0, [b"c1"] * 3, values, 1000))
        writer.commit({}, {})
        writer.close()
        settings = Settings(brokers=kafka.bootstrap, state_dir=str(tmp_path), commit_interval=50)
        worker = make_worker(app, settings, log)
        worker.start()
        try:
            deadline = time.monotonic() + 120
            found = []
            while len(found) < 2:
                assert time.monotonic() < deadline
                worker.turn()
                found = [each for each in letters.read(log, app.dead_letters) if each.operator == "steps-1"]
            seen: list[BaseException] = []
            outcome = rehearse(app, settings, log, found[0], watcher=lambda _, error: seen.append(error))
            assert [str(error) for error in seen] == ["after 77"]
            assert outcome.causes == [("steps-1", "steps-1: RuntimeError: after 77")]
            monkeypatch.setattr(program, "SCALE", 1)
            assert rehearse(app, settings, log, found[0]).causes == []
            for _ in range(5):
                worker.turn()
            assert (worker.status.aborts, worker.complete) == (0, True)
            worker.leave()
        finally:
            worker.close()
    finally:
        log.close()
