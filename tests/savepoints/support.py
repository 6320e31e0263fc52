"""A site for tests of savepoints: one embedded log, one location, programs with everything that can be in flight."""

import itertools
import json
import random
import shutil
from collections import Counter
from dataclasses import replace

import polars as pl

from operators import KeyBy, Keyed, Running, Select, Value, Window, agg, tumbling
from streams import App, EventTime, Schema, connect
from streams.app import make_worker
from streams.checkpoint.location import Location
from streams.checkpoint.savepoint import load
from streams.codec.json import encode
from streams.core.clock import ManualClock
from streams.core.keys import partitions as hashed
from streams.core.record import Produced, TopicPartition
from streams.log.base import TopicSpec
from streams.log.embedded import EmbeddedLog
from streams.runtime.drain import SLOT, DrainWorker
from streams.runtime.plan import prepare
from streams.runtime.restoring import Restoring
from streams.runtime.savepoint import create
from streams.settings import Settings

START = 1_700_000_000_000
OUTPUTS = ("running", "minutes", "late", "risk", "terminals", "dead")


class Tx(Schema):
    id: int
    at: EventTime
    card: str
    terminal: str
    amount: int


class Label(Schema):
    id: int
    at: EventTime
    terminal: str
    bad: bool


class Risk(Schema):
    terminal: str
    at: EventTime
    what: str
    id: int
    seen: int
    bad: int


class Watch(Keyed[Tx, Risk]):
    inputs = ("label", "tx")
    seen = Value(int, default=0)
    bad = Value(int, default=0)

    def on_label(self, row, ctx):
        self.seen.set(self.seen.get() + 1)
        self.bad.set(self.bad.get() + row.bad)
        if row.bad:
            ctx.timer(row.at + 60_000)

    def on_tx(self, row, ctx):
        ctx.timer(row.at + 45_000)
        yield Risk(row.terminal, row.at, "tx", row.id, self.seen.get(), self.bad.get())

    def on_timer(self, at, ctx):
        self.bad.set(self.bad.get() // 2)
        yield Risk(ctx.key, at, "timer", -1, self.seen.get(), self.bad.get())


def program(name, partitions=None, watch=None):
    """Windows and running sums on the source's key; behind two shuffles a class with values and timers that waits for
    its other input, and windows. All of it by key, so `partitions` changes nothing of the result."""
    app = App(name, dead_letters=f"{name}.dead")
    tx = app.source("tx", Tx, key="card", disorder="5s", start="earliest", idle="1h")
    labels = app.source("labels", Label, disorder="1s", start="earliest", idle="1h")
    running = tx | Running([agg.count().alias("n"), agg.sum("amount").alias("sum")]).named("sums")
    running | app.sink(f"{name}.running")
    minutes = tx | Window(tumbling("1m"), [agg.count().alias("n"), agg.max("amount").alias("most")]).named("minutes")
    minutes | app.sink(f"{name}.minutes")
    minutes.late | Select("id", "card") | app.sink(f"{name}.late", key="card")
    by_terminal = tx | KeyBy("terminal", partitions=partitions).named("by-terminal")
    labelled = labels | KeyBy("terminal", partitions=partitions).named("labels-by-terminal")
    risk = connect(labelled, by_terminal) | (watch or Watch()).named("watch")
    risk | app.sink(f"{name}.risk", key="terminal")
    spent = by_terminal | Window(tumbling("30s"), [agg.sum("amount").alias("spent")], lateness="2s").named("spent")
    spent | app.sink(f"{name}.terminals", key="terminal")
    return app


class Crash(BaseException):
    """The process dies."""


class Site:
    """Programs run one at a time; the input is the same for equal seeds."""

    def __init__(self, directory, log=None, partitions=2, prefix=""):
        self.directory, self.clock = directory, ManualClock(START + 10_000_000)
        self.log = log or EmbeddedLog(directory / "log", clock=self.clock)
        self.location = Location(str(directory / "checkpoints"))
        self.partitions = partitions
        self.log.create([TopicSpec(t, partitions, {"retention.ms": "-1"}) for t in ("tx", "labels")])
        self.feeder = self.log.writer("feed", "0")
        self.rng, self.numbers = random.Random(7), itertools.count()
        self.notes = []

    def close(self):
        self.feeder.close()
        self.log.close()

    def note(self, text, level=0, *, task=""):
        self.notes.append(text)

    # ---- input

    def send(self, count=200, partitions=None):
        rng, tx, labels = self.rng, [], []
        for number in itertools.islice(self.numbers, count):
            at = START + number * 500 + (-rng.randrange(60_000) if rng.random() < 0.12 else 0)
            terminal = f"t{rng.randrange(12)}"
            row = {"id": number, "at": at, "card": f"c{rng.randrange(30)}", "terminal": terminal}
            tx.append({**row, "amount": rng.randrange(500)})
            if number % 3 == 0:  # labels come late in event time: transactions wait for them
                labels.append({"id": number, "at": at - 15_000, "terminal": terminal, "bad": rng.random() < 0.4})
        self._write("tx", tx, "card", partitions)
        self._write("labels", labels, "terminal", None)

    def end(self, partitions=None):
        """End marks in each partition: everything before them is released and closed."""
        count = partitions or self.partitions
        at = START + 1_000_000_000
        for p in range(count):
            card = next(c for c in (f"end{i}" for i in itertools.count()) if hashed_to(c, count) == p)
            mark = {"id": -1, "at": at, "card": card, "terminal": card}
            self._append("tx", p, [{**mark, "amount": 0}])
            self._append("labels", p, [{**mark, "bad": False}])
        self.feeder.commit({}, {})

    def _write(self, topic, rows, key, partitions):
        count = partitions or self.partitions
        for p in range(count):
            mine = [r for r in rows if hashed_to(r[key], count) == p]
            if mine:
                self._append(topic, p, mine)
        self.feeder.commit({}, {})

    def _append(self, topic, partition, rows):
        values = encode(pl.DataFrame(rows))
        values = [b"broken" + v if r["id"] % 97 == 5 else v for v, r in zip(values, rows, strict=True)]
        self.feeder.append(Produced(topic, partition, [None] * len(rows), values, [r["at"] for r in rows]))

    def grow(self, topic, count):
        """More partitions, as `kafka-topics --alter` gives; this log has no such call."""
        with self.log._file.writing():
            self.log._file.run("UPDATE topics SET partitions = ? WHERE name = ?", (count, topic))
            for partition in range(self.partitions, count):
                self.log._file.run("INSERT INTO partitions (topic, partition) VALUES (?, ?)", (topic, partition))
        self.log._known.pop(topic, None)

    def misplaced(self):
        """A record whose key belongs to the other partition."""
        row = {"id": -5, "at": START, "card": "c1", "terminal": "t1", "amount": 1}
        self._append("tx", 1 - hashed_to("c1", 2), [row])
        self.feeder.commit({}, {})

    # ---- programs

    def settings(self, **more):
        return Settings(
            state_dir=str(self.directory / "state"), commit_interval=1, poll_records=50, partitions=2, **more
        )

    def run(self, app, turns=None, **more):
        """Work until all is processed and committed, or so many turns; then stop as on SIGTERM."""
        worker = make_worker(app, self.settings(**more), self.log, clock=self.clock, note=self.note, wait=0.0)
        try:
            worker.start()
            quiet = done = 0
            while quiet < 5 and (turns is None or done < turns):
                self.clock.sleep(0.25)
                before = worker.status.commits
                worker.turn()
                working = worker.complete
                done += working
                quiet = 0 if worker.busy or not working or worker.status.commits != before else quiet + 1
            worker.leave()
        finally:
            worker.close()
            self.clock.sleep(11)  # a member that died is gone

    def leave_running(self, app):
        """A worker that holds its tasks, and dies."""
        worker = make_worker(app, self.settings(), self.log, clock=self.clock, note=self.note, wait=0.0)
        worker.start()
        while not worker.complete:
            self.clock.sleep(0.25)
            worker.turn()
        worker.close()
        self.clock.sleep(11)

    def create(self, name, app, hook=None, takeover=False, had=None, **more):
        settings = replace(self.settings(**more), slot=SLOT)
        worker = make_worker(
            app, settings, self.log, clock=self.clock, note=self.note, wait=0.0, kind=DrainWorker, had=had
        )
        turn = worker.turn

        def ticking():
            self.clock.sleep(0.25)
            turn()

        worker.turn = ticking
        return create(
            name, worker, self.location, clock=self.clock, takeover=takeover, hook=hook or (lambda step: None)
        )

    def load(self, name, app):
        return load(self.location, app, name)

    def restore(self, name, old, app, hook=None, drop=()):
        topology = app.topology()

        def plan(make):
            return prepare(app.name, topology, self.log, app.dead_letters, 2, make=make)

        saved = load(self.location, old, name)
        made = Restoring(
            saved,
            plan,
            self.log,
            self.location,
            clock=self.clock,
            drop=drop,
            hook=hook or (lambda step: None),
            note=self.note,
        )
        return made.run()

    def forget_state(self, app):
        shutil.rmtree(self.directory / "state" / app, ignore_errors=True)

    # ---- output

    def read(self, topic):
        info = self.log.topics([topic]).get(topic)
        if info is None:
            return []
        reader = self.log.reader()
        places = [TopicPartition(topic, p) for p in range(info.partitions)]
        starts, ends = self.log.starts(places), self.log.ends(places)
        found = {p: [] for p in places}
        reader.assign(starts)
        left = {p for p in places if ends[p] > starts[p]}
        while left:
            for records in reader.poll(100_000, 0.1):
                found[records.source] += records.values()
            left = {p for p in left if reader.position(p) < ends[p]}
        reader.close()
        return [v for p in places for v in found[p]]

    def outputs(self, *apps):
        """The multiset of each output, of all these applications together."""
        return {part: Counter(v for a in apps for v in self.read(f"{a}.{part}")) for part in OUTPUTS}

    def keyed(self, part, key, *apps):
        """The order of an output by key."""
        out = {}
        for app in apps:
            for value in self.read(f"{app}.{part}"):
                row = json.loads(value)
                out.setdefault(row[key], []).append(row)
        return out


def hashed_to(key, count):
    return int(hashed(pl.Series([key.encode()]), count)[0])


def crash_at(step, times=1):
    left = [times]

    def hook(reached):
        if reached == step:
            left[0] -= 1
            if not left[0]:
                raise Crash(step)

    return hook


def check_equal(found, wanted):
    for part in wanted:
        lost, extra = wanted[part] - found[part], found[part] - wanted[part]
        wrong = lost + extra
        assert not wrong, (part, len(wanted[part]), list(lost)[:3], list(extra)[:3])
        assert wanted[part], f"{part} is empty, which proves nothing"
