"""A function that takes longer than the group has patience for: the worker says so by name, and results stay exact."""

import uuid

import pytest

from operators import MapRows
from streams import App, EventTime, Schema
from streams.app import make_worker
from streams.core.clock import SystemClock
from streams.core.record import Produced
from streams.log.base import TopicSpec
from streams.log.kafka import KafkaLog
from streams.settings import Settings
from tests.contract.logs import PATIENCE, read_topic

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


class Tx(Schema):
    card: str
    at: EventTime


def test_who_was_thrown_out_for_its_silence_says_which_operator_it_was(kafka, tmp_path):
    name, notes, clock, slept = f"slow-{uuid.uuid4().hex[:8]}", [], SystemClock(), []

    def slow(row):
        if not slept:
            slept.append(True)
            clock.sleep(9.0)  # the thing under test: longer than max.poll.interval.ms
        return row

    app = App(name)
    (
        app.source(f"{name}-tx", Tx, key="card", start="earliest")
        | MapRows(slow, returns=Tx).named("slow")
        | app.sink(f"{name}-out", partitions=1)
    )
    settings = Settings(
        brokers=kafka.bootstrap,
        state_dir=str(tmp_path),
        commit_interval=50,
        kafka={"max.poll.interval.ms": "6000"},
        watchdog=0,
    )
    log = KafkaLog(settings.brokers, settings.kafka)
    try:
        log.create([TopicSpec(f"{name}-tx", 1, {})])
        writer = log.writer(f"{name}-feeder", "0")
        writer.append(Produced(f"{name}-tx", 0, [None], [b'{"card":"a","at":1}'], 1))
        writer.commit({}, {})
        writer.close()
        worker = make_worker(app, settings, log, note=lambda text, *_, **__: notes.append(text))
        worker.start()
        deadline = clock.monotonic() + PATIENCE
        while not (slept and worker.status.commits and any("did not poll" in n for n in notes)):
            assert clock.monotonic() < deadline, notes
            worker.turn()
        worker.leave()
        worker.close()
        (hint,) = [n for n in notes if "did not poll its group" in n]
        assert "operator 'slow' of task 0/0 took 9" in hint
        assert '"max.poll.interval.ms"' in hint
        assert read_topic(log, f"{name}-out", 1)[0].text == ['{"card":"a","at":1}']
    finally:
        log.close()
