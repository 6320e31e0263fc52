"""How long a worker is silent: seconds from its restart to the first new committed output, with default settings.

    python -m benchmarks.recovery [--keys 5000000] [--log kafka|embedded] [--cases small,kept,...]

A running count by key, 1,000 records a second all the time, a reader of committed records that notes when each output
appears. A worker is killed (SIGKILL) and started again at once in the same slot:

    small       20,000 keys, the state kept
    kept        --keys keys, the state kept
    snapshot    the same, state lost, a checkpoint location with a snapshot
    changelog   the same, state lost, no checkpoint location
    other       20,000 keys, two workers; the one that is killed does not come back
    kills       20,000 keys, a kill every 3 to 10 s for a minute: the longest time without an output

An output is new if its record was written after the kill. The time includes the start of the interpreter.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click
import numpy as np
import polars as pl

from streams.app import open_log
from streams.core.keys import partitions
from streams.core.record import Produced, TopicPartition
from streams.log.base import TopicSpec
from streams.settings import Settings

PARTITIONS = 4
RATE = 1000  # records a second
STEP = 0.05  # seconds between the feeder's commits
SMALL = 20_000
CASES = ("small", "kept", "snapshot", "changelog", "other", "kills")
KILLS = 60.0  # seconds of kills

PROGRAM = """
import os
from operators import Running, Select, agg
from streams import App, EventTime, Schema


class Tx(Schema):
    id: int
    card: str
    at: EventTime


app = App(os.environ["RECOVERY_APP"])
aggregates = [agg.count().alias("count")]
tx = app.source(os.environ["RECOVERY_APP"] + "-tx", Tx, key="card", start="earliest")
tx | Running(aggregates) | Select("id", "card", "count") | app.sink(os.environ["RECOVERY_APP"] + "-out")
"""


class Feed:
    """Writes records: all keys once, then at a steady rate in a thread of its own. `written`: the next id."""

    def __init__(self, settings: Settings, app: str, keys: int) -> None:
        self._log, self._topic, self._keys = open_log(settings), f"{app}-tx", keys
        self._log.create([TopicSpec(self._topic, PARTITIONS, {"retention.ms": "-1"})])
        self._writer = self._log.writer(f"{app}-feed", "feed")
        self._rng = np.random.default_rng(7)
        self.written = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._steady, daemon=True)

    def fill(self) -> None:
        """Every key once."""
        for start in range(0, self._keys, 50_000):
            self._write(np.arange(start, min(start + 50_000, self._keys)))
            self._writer.commit({}, {})

    def await_topic(self, name: str, worker: "Worker") -> None:
        """The worker makes the topic of its outputs."""
        deadline = time.monotonic() + 60
        while not self._log.topics([name]):
            if worker.process.poll() is not None:
                raise SystemExit(f"the worker has ended:\n{worker.said()}")
            if time.monotonic() > deadline:
                raise SystemExit(f"no topic {name} within 60 s: the worker did not start:\n{worker.said()}")
            time.sleep(0.1)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._writer.close()
        self._log.close()

    def _steady(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            self._write(self._rng.integers(0, self._keys, int(RATE * STEP)))
            self._writer.commit({}, {})
            due += STEP
            time.sleep(max(0.0, due - time.monotonic()))

    def _write(self, cards: np.ndarray) -> None:
        now = int(time.time() * 1000)
        keys = [b"c%08d" % card for card in cards.tolist()]
        places = np.asarray(partitions(pl.Series(keys, dtype=pl.Binary), PARTITIONS))
        ids = np.arange(self.written, self.written + len(keys))
        for partition in range(PARTITIONS):
            chosen = np.flatnonzero(places == partition).tolist()
            values = [b'{"id":%d,"card":"%s","at":%d}' % (ids[i], keys[i], now) for i in chosen]
            if values:
                self._writer.append(Produced(self._topic, partition, [keys[i] for i in chosen], values, now))
        self.written += len(keys)


class Watch:
    """Reads the committed outputs in a thread; when each partition's newest id was seen."""

    def __init__(self, settings: Settings, app: str) -> None:
        self._log = open_log(settings)
        self._reader = self._log.reader()
        self._reader.assign({TopicPartition(f"{app}-out", p): 0 for p in range(PARTITIONS)})
        self._stop, self._lock = threading.Event(), threading.Lock()
        self.count = 0
        self._newest = [(-1, 0.0)] * PARTITIONS  # id, when it was seen
        self._waiting: dict[int, int] = {}  # partition: an id that has to be passed
        self._passed: dict[int, float] = {}
        self._last = self.silence = 0.0
        self._seen: dict[int, float] = {}  # by partition
        self.pauses: dict[int, float] = {}
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def expect(self, id: int) -> None:
        """From now on wait for outputs of records with this id or a later one, in each partition."""
        with self._lock:
            self._waiting, self._passed = dict.fromkeys(range(PARTITIONS), id), {}

    def first(self, every: bool, limit: float) -> float:
        """When the first such output was seen: of any partition, or of the last one to have one (`every`)."""
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            with self._lock:
                passed = dict(self._passed)
            if len(passed) >= (PARTITIONS if every else 1):
                return max(passed.values()) if every else min(passed.values())
            time.sleep(0.005)
        raise SystemExit(f"no new output within {limit:.0f} s")

    def listen(self) -> None:
        """From now on `silence` is the longest time between two outputs, and `pauses` that of each partition."""
        with self._lock:
            self._last, self.silence = time.monotonic(), 0.0
            self._seen = dict.fromkeys(range(PARTITIONS), self._last)
            self.pauses = dict.fromkeys(range(PARTITIONS), 0.0)

    def until(self, count: int, limit: float) -> None:
        deadline = time.monotonic() + limit
        while self.count < count:
            if time.monotonic() > deadline:
                raise SystemExit(f"{self.count:,} outputs of {count:,} within {limit:.0f} s")
            time.sleep(0.05)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._reader.close()
        self._log.close()

    def _read(self) -> None:
        while not self._stop.is_set():
            for records in self._reader.poll(20_000, 0.02):
                now, partition = time.monotonic(), records.source.partition
                self.count += len(records)
                newest = json.loads(records.values()[-1] or b"")["id"]
                with self._lock:
                    self._last, self.silence = now, max(self.silence, now - self._last)
                    self.pauses[partition] = max(self.pauses.get(partition, 0.0), now - self._seen.get(partition, now))
                    self._seen[partition] = now
                    if newest >= self._waiting.get(partition, newest + 1) and partition not in self._passed:
                        self._passed[partition] = now


class Worker:
    """`streams run` in a process."""

    def __init__(self, directory: Path, app: str, slot: str, options: list[str]) -> None:
        self.directory, self._slot = directory, slot
        self._command = [sys.executable, "-m", "streams", "run", "program:app", "--slot", slot, *options]
        self._environment = {**os.environ, "RECOVERY_APP": app, "POLARS_MAX_THREADS": "1"}
        self._app = app
        self.start()

    def start(self) -> None:
        with (self.directory / f"worker-{self._slot}.log").open("ab") as out:
            self.process = subprocess.Popen(
                self._command, cwd=self.directory, env=self._environment, stdout=out, stderr=out
            )

    def said(self) -> str:
        """The end of its log."""
        return (self.directory / f"worker-{self._slot}.log").read_text()[-2000:]

    def kill(self, lose: bool) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        if lose:
            shutil.rmtree(self.directory / "state" / self._app)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def measure(case: str, brokers: str, keys: int, rounds: int) -> list[float]:
    """Seconds, a round each."""
    app = f"recovery-{case}-{int(time.time())}"
    count = _count(case, keys)
    found, rng = [], random.Random(1)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (directory / "program.py").write_text(PROGRAM)
        log = ["--brokers", brokers] if brokers else ["--log-dir", str(directory / "log")]
        settings = Settings(brokers=brokers, log_dir=str(directory / "log"))
        feed = Feed(settings, app, count)
        stack.callback(feed.close)
        feed.fill()
        options = [*log, "--state-dir", str(directory / "state")]
        if case == "snapshot":
            options += ["--checkpoints", str(directory / "checkpoints")]
        workers = [Worker(directory, app, slot, options) for slot in (("0", "1") if case == "other" else ("0",))]
        for worker in workers:
            stack.callback(worker.close)
        feed.await_topic(f"{app}-out", workers[0])
        watch = Watch(settings, app)
        stack.callback(watch.close)
        watch.until(count, 600)
        feed.start()
        for _ in range(rounds):
            watch.until(feed.written - RATE, 120)
            if case == "snapshot":
                await_snapshots(directory / "checkpoints")
            else:
                time.sleep(3)
            if case == "kills":
                found.append(_kills(workers[0], watch, feed, rng))
                continue
            workers[0].kill(lose=case in ("snapshot", "changelog"))
            killed, next_id = time.monotonic(), feed.written
            watch.expect(next_id + int(RATE * STEP))  # what was being written at the kill does not count
            if case != "other":
                workers[0].start()
            found.append(watch.first(case == "other", 180) - killed)
            if case == "other":
                workers[0].start()
    return found


def _kills(worker: Worker, watch: Watch, feed: Feed, rng: random.Random) -> float:
    """The longest silence under kills."""
    watch.listen()
    end = time.monotonic() + KILLS
    while time.monotonic() < end:
        time.sleep(rng.uniform(3, 10))
        worker.kill(lose=False)
        worker.start()
    watch.until(feed.written, 120)
    return watch.silence


def _count(case: str, keys: int) -> int:
    return SMALL if case in ("small", "other", "kills") else keys


def await_snapshots(location: Path) -> None:
    """Until each task has one."""
    deadline = time.monotonic() + 300
    while len({path.parent for path in location.rglob("manifests/*.json")}) < PARTITIONS:
        if time.monotonic() > deadline:
            names = sorted(str(path.relative_to(location)) for path in location.rglob("*"))[:10]
            raise SystemExit(f"no snapshots in {location}: {names}")
        time.sleep(0.5)


@contextmanager
def kafka(brokers: str | None) -> Iterator[str]:
    if brokers:
        yield brokers
        return
    from streams.broker import start, stop

    with tempfile.TemporaryDirectory() as directory:
        try:
            yield start(Path(directory)).bootstrap
        finally:
            stop(Path(directory))


@click.command()
@click.option("--keys", default=5_000_000, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--cases", default=",".join(CASES), show_default=True)
@click.option("--log", type=click.Choice(["kafka", "embedded"]), default="kafka", show_default=True)
@click.option("--brokers", help="A running Kafka; without it one is started.")
def main(keys: int, rounds: int, cases: str, log: str, brokers: str | None) -> None:
    """Measure recoveries, one case after the other."""
    with ExitStack() as stack:
        at = stack.enter_context(kafka(brokers)) if log == "kafka" else ""
        click.echo("case       keys       median s  longest s  rounds")
        for case in cases.split(","):
            times = sorted(measure(case, at, keys, rounds))
            count = _count(case, keys)
            shown = ", ".join(f"{t:.2f}" for t in times)
            click.echo(f"{case:9}  {count:<9,}  {times[len(times) // 2]:8.2f}  {times[-1]:9.2f}  {shown}")


if __name__ == "__main__":
    main()
