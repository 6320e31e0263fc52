"""A program with state, on an embedded log, with a checkpoint location beside it."""

import shutil
import time

import polars as pl

from operators import Running, agg
from streams import App, EventTime, Schema
from streams.app import make_worker
from streams.codec.json import encode
from streams.core.clock import ManualClock
from streams.core.record import Produced, TopicPartition
from streams.log.base import TopicSpec
from streams.log.embedded import EmbeddedLog
from streams.settings import Settings

CHANGELOG = TopicPartition("shop-0-changelog", 0)
PATIENCE = 60.0


class Tx(Schema):
    card: str
    at: EventTime


def program() -> App:
    app = App("shop")
    tx = app.source("tx", Tx, key="card", start="earliest")
    tx | Running([agg.count().alias("n")]) | app.sink("out")
    return app


class Shop:
    """One worker at a time on an embedded log, with a checkpoint location beside it."""

    def __init__(self, directory) -> None:
        self.directory, self.clock = directory, ManualClock(1_700_000_000_000)
        self.log = EmbeddedLog(directory / "log")
        self.log.create([TopicSpec("tx", 1, {})])
        self.feeder = self.log.writer("feed", "0")
        self.sent, self.worker, self.notes = 0, None, []
        self.location = directory / "checkpoints"
        self.options: dict[str, str] = {}

    def start(self, **more):
        settings = Settings(
            state_dir=str(self.directory / "state"),
            partitions=1,
            checkpoints=str(self.location),
            checkpoint_options=self.options,
            snapshot_interval=1000,
            snapshots_kept=2,
            **more,
        )
        self.worker = make_worker(
            program(),
            settings,
            self.log,
            clock=self.clock,
            note=lambda text, *_, **__: self.notes.append(text),
            wait=0.001,
        )
        self.worker.start()

    def send(self, count: int = 50) -> None:
        rows = [{"card": f"c{i % 7}", "at": self.clock.now()} for i in range(count)]
        self.feeder.append(Produced("tx", 0, [None] * count, encode(pl.DataFrame(rows)), self.clock.now()))
        self.feeder.commit({}, {})
        self.sent += count
        self.until(lambda: self.worker.status.records_out.get("out", 0) >= count)
        self.worker.status.records_out.clear()

    def until(self, true) -> None:
        deadline = time.monotonic() + PATIENCE
        while not true():
            self.worker.turn()
            self.clock.sleep(0.3)
            assert time.monotonic() < deadline, self.notes

    def snapshots(self) -> int:
        return int(self.worker.metrics.snapshots.labels("done")._value.get())

    def until_trimmed(self) -> None:
        """Snapshots are taken while records come, until the changelog does not begin at its beginning any more."""
        while self.log.starts([CHANGELOG])[CHANGELOG] == 0:
            self.snapshot(1)
            self.clock.sleep(31)

    def snapshot(self, count: int) -> None:
        """Records come until so many more snapshots were made."""
        for _ in range(count):
            have = self.snapshots()
            self.send()
            self.until(lambda have=have: self.snapshots() > have)

    def close(self) -> None:
        self.worker.close()
        self.worker = None
        self.feeder.close()
        self.log.close()

    def reopen(self) -> None:
        """The log, and a worker on it."""
        self.log = EmbeddedLog(self.directory / "log")
        self.feeder = self.log.writer("feed", "0")
        self.notes.clear()
        self.start()

    def lose_the_machine(self) -> None:
        self.worker.close()
        shutil.rmtree(self.directory / "state")

    def counts(self) -> list[int]:
        """The last count of each card."""
        reader, last = self.log.reader(), {}
        reader.assign({TopicPartition("out", 0): 0})
        while found := reader.poll(10_000, 0.1):
            for records in found:
                for value in records.values():
                    row = pl.read_json(value).row(0, named=True)
                    last[row["card"]] = row["n"]
        reader.close()
        return sorted(last.values())

    def expected(self) -> list[int]:
        total = [0] * 7
        for _ in range(self.sent // 50):
            for i in range(50):
                total[i % 7] += 1
        return sorted(total)
