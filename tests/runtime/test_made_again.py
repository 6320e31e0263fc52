"""A source topic that is deleted and made again: it is not read on from where the former one stood, in silence."""

import msgspec
import pytest

from operators import Filter, Running, agg
from streams import App, EventTime, Schema, col
from streams.app import make_worker
from streams.checkpoint.location import Location
from streams.checkpoint.savepoint import load
from streams.core.clock import ManualClock
from streams.core.errors import StateMismatch, TopicMismatch
from streams.core.record import Produced
from streams.log.base import TopicInfo, TopicSpec
from streams.log.embedded import EmbeddedLog
from streams.runtime.drain import SLOT, DrainWorker
from streams.runtime.plan import prepare
from streams.runtime.position import TaskPosition, topic_mark
from streams.runtime.restoring import Restoring
from streams.runtime.savepoint import create
from streams.settings import Settings


class Tx(Schema):
    card: str
    at: EventTime


def stateful(name):
    app = App(name)
    app.source("tx", Tx, key="card", start="earliest") | Running([agg.count().alias("n")]) | app.sink("out")
    return app


def stateless(name):
    app = App(name)
    app.source("tx", Tx, key="card", start="earliest") | Filter(col("card") != "") | app.sink("out")
    return app


class Site:
    def __init__(self, directory):
        self.directory, self.clock = directory, ManualClock(1_700_000_000_000)
        self.log = EmbeddedLog(directory / "log", clock=self.clock)
        self.log.create([TopicSpec("tx", 1, {})])

    def feed(self, count):
        writer = self.log.writer("feeder", "0")
        values = [msgspec.json.encode({"card": "c", "at": i}) for i in range(count)]
        writer.append(Produced("tx", 0, [None] * count, values, 0))
        writer.commit({}, {})
        writer.close()

    def anew(self, count):
        self.log.delete(["tx"])
        self.log.create([TopicSpec("tx", 1, {})])
        self.feed(count)

    def worker(self, app, slot="0", kind=None):
        settings = Settings(state_dir=str(self.directory / "state"), commit_interval=1, watchdog=0, slot=slot)
        made = make_worker(app, settings, self.log, clock=self.clock, note=lambda *_, **__: None, wait=0.0, kind=kind)
        if kind is None:
            made.start()
        return made

    def work(self, worker):
        quiet = 0
        while quiet < 5:
            self.clock.sleep(0.25)
            before = worker.status.commits
            worker.turn()
            quiet = quiet + 1 if worker.complete and not worker.busy and worker.status.commits == before else 0
        return worker.status.records_in

    def run(self, app):
        """How many records a worker reads."""
        worker = self.worker(app)
        try:
            count = self.work(worker)
            worker.leave()
        finally:
            worker.close()
            self.clock.sleep(11)
        return count


@pytest.fixture
def site(tmp_path):
    made = Site(tmp_path)
    yield made
    made.log.close()


@pytest.mark.parametrize("program", [stateful, stateless])
def test_it_is_refused_at_the_next_start(site, program):
    """Of 15 records 5 were read, and 10 were lost without a word."""
    site.feed(10)
    assert site.run(program("shop")) == 10
    assert site.run(program("shop")) == 0
    site.anew(15)
    for _ in range(2):
        with pytest.raises(StateMismatch, match=r"'tx' is another one .* from offset 10") as error:
            site.run(program("shop"))
        assert "streams reset" in error.value.fix
    assert site.run(program("other")) == 15


@pytest.mark.parametrize("program", [stateful, stateless])
def test_a_worker_that_lives_ends(site, program):
    site.feed(10)
    worker = site.worker(program("shop"))
    site.work(worker)
    site.anew(15)
    site.clock.sleep(11)
    with pytest.raises(TopicMismatch, match="'tx' was deleted and made again while this worker ran"):
        worker.turn()
    worker.close()


@pytest.mark.parametrize("program", [stateful, stateless])
def test_positions_of_older_programs_and_brokers_without_ids_are_accepted(site, program, monkeypatch):
    topics = EmbeddedLog.topics

    def without_ids(self, names):
        found = topics(self, names)
        return {n: TopicInfo(n, t.partitions, "A" * 22 if n == "tx" else t.id) for n, t in found.items()}

    site.feed(10)
    with monkeypatch.context() as patch:
        patch.setattr(EmbeddedLog, "topics", without_ids)
        assert site.run(program("shop")) == 10
    site.feed(3)
    assert site.run(program("shop")) == 3  # and notes the id
    with monkeypatch.context() as patch:
        patch.setattr(EmbeddedLog, "topics", without_ids)
        site.feed(2)
        assert site.run(program("shop")) == 2  # and keeps it
    site.anew(15)
    with pytest.raises(StateMismatch, match="'tx' is another one"):
        site.run(program("shop"))


def test_positions_written_before_are_read():
    """In the form that had four fields an input."""
    old = msgspec.msgpack.encode([{"tx": [7, 9, 5, {0: [4, False]}]}, 3])
    place = TaskPosition.decode(old).inputs["tx"]
    assert (place.offset, place.read, place.topic) == (7, 9, "")
    assert topic_mark("") == ""


@pytest.mark.parametrize("program", [stateful, stateless])
def test_a_savepoint_takes_it_as_it_is_and_says_so(site, program, tmp_path):
    """For a topic that was restored from a backup with its offsets: the records at 0 to 9 are the same."""
    location = Location(str(tmp_path / "checkpoints"))
    site.feed(10)
    site.run(program("shop"))
    site.anew(15)
    worker = site.worker(program("shop"), SLOT, DrainWorker)
    create("kept", worker, location, clock=site.clock)
    site.clock.sleep(11)
    with pytest.raises(StateMismatch):  # the old application is as it was
        site.run(program("shop"))
    app, topology = program("next"), program("next").topology()
    restoring = Restoring(
        load(location, "shop", "kept"),
        lambda make: prepare(app.name, topology, site.log, app.dead_letters, 1, make=make),
        site.log,
        location,
        clock=site.clock,
    )
    assert "'tx' is another one than when the savepoint was taken" in " ".join(restoring.run())
    site.clock.sleep(11)
    assert site.run(program("next")) == 5
    site.anew(15)
    with pytest.raises(StateMismatch, match="'tx' is another one"):
        site.run(program("next"))
