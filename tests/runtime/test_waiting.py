"""Rows that wait behind a shuffle, since one source partition is far behind the others: seen, and told once."""

import re

import polars as pl
import pytest

from operators import Filter, KeyBy, Running, agg, union
from streams import App, EventTime, Schema, col
from streams.app import make_worker
from streams.codec.json import encode
from streams.core.clock import ManualClock
from streams.core.record import Produced
from streams.log.base import TopicSpec
from streams.log.embedded import EmbeddedLog
from streams.settings import Settings


class Tx(Schema):
    card: str
    at: EventTime


@pytest.fixture
def log(tmp_path):
    made = EmbeddedLog(tmp_path / "log")
    yield made
    made.close()


class Fed:
    """A worker whose topics are fed between its turns."""

    def __init__(self, app, log, tmp_path, topics, limit):
        self.clock, self.notes = ManualClock(1_700_000_000_000), []
        self.start = self.clock.now()
        log.create([TopicSpec(topic, count, {}) for topic, count in topics.items()])
        self._feeder = log.writer("feed", "0")
        settings = Settings(state_dir=str(tmp_path / "state"), partitions=2, waiting_rows=limit)
        note = lambda text, *_, **__: self.notes.append(text)  # noqa: E731
        self.worker = make_worker(app, settings, log, clock=self.clock, note=note, wait=0.001)
        self.worker.start()

    def send(self, topic, partition, count, at):
        times = range(self.start + at, self.start + at + count)
        values = encode(pl.DataFrame({"card": [f"c{i % 7}" for i in range(count)], "at": times}))
        self._feeder.append(Produced(topic, partition, [None] * count, values, self.clock.now()))
        self._feeder.commit({}, {})

    def work(self, turns=40):
        for _ in range(turns):
            self.worker.turn()
            self.clock.sleep(0.1)

    def waiting(self):
        text = self.worker.metrics.expose().decode()
        found = re.findall(r'streams_waiting_rows\{task="(.*?)"\} (.*)', text)
        return {task: float(value) for task, value in found}

    def told(self):
        return [note for note in self.notes if "wait for their turn" in note]

    def close(self):
        self.worker.close()
        self._feeder.close()


def test_a_source_partition_that_is_behind_is_named_once(tmp_path, log):
    app = App("shop")
    tx = app.source("tx", Tx, start="earliest", idle="1h")
    tx | KeyBy("card").named("by-card") | Running([agg.count().alias("n")]) | app.sink("out")
    fed = Fed(app, log, tmp_path, {"tx": 2}, limit=100)
    fed.send("tx", 0, 1, 0)
    fed.send("tx", 1, 900, 60_000)
    fed.work()
    waiting = fed.waiting()
    assert sorted(waiting) == ["1/0", "1/1"]
    assert sum(waiting.values()) == 901
    assert not fed.told()
    for round in range(1, 4):
        fed.send("tx", 0, 1, round)
        fed.send("tx", 1, 3000, 60_000 + round * 3000)
        fed.work()
    told = fed.told()
    assert len(told) == 2
    assert sorted(note[: len("task 1/0")] for note in told) == ["task 1/0", "task 1/1"]
    assert all("partition 0 of source topic 'tx' (shuffle 'by-card') is " in note for note in told)
    fed.send("tx", 0, 1, 1_000_000)  # it catches up
    fed.send("tx", 1, 1, 1_000_000)
    fed.work()
    assert sum(fed.waiting().values()) <= 2
    fed.close()


def test_an_input_of_several_is_paused_and_nothing_is_told(tmp_path, log):
    app = App("shop")
    a, b = (app.source(topic, Tx, start="earliest", key="card", idle="1h") for topic in ("a", "b"))
    union(a, b) | Filter(col("card") != "x") | Running([agg.count().alias("n")]) | app.sink("out")
    fed = Fed(app, log, tmp_path, {"a": 1, "b": 1}, limit=100)
    fed.send("b", 0, 1, 0)
    for round in range(20):
        fed.send("a", 0, 90, 1000 + round * 90)
        fed.work(3)
    assert 100 < fed.waiting()["0/0"] < 400
    assert not fed.told()
    fed.close()
