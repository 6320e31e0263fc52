"""`streams demo`: the generator and a worker on the embedded log, and what happens, on the terminal.

Three processes: a feeder writes the generator's days, a worker runs the pipeline, and this one watches the log. Each
may be killed at any instant: what is committed stays, and the next start goes on from there.
"""

import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import click

from fraud.feed import AUTH, DAY_MS, LABELS, create_topics, days_written, feed, start_of
from fraud.generator import Profile
from fraud.report import ALERTS, measure
from streams.app import make_worker, open_log
from streams.core.errors import StreamsError
from streams.core.record import TopicPartition
from streams.log.base import Log, LogReader
from streams.settings import Settings

PARTITIONS = 4
_LABEL_DAYS = 7
COMMAND = ".venv/bin/streams" if sys.argv[0].endswith(".venv/bin/streams") else "streams"


@click.command("demo")
@click.option(
    "--dir", "directory", default=".streams/demo", show_default=True, help="Where the log and state are kept."
)
@click.option("--days", default=183, show_default=True, help="How many days of payments to generate.")
@click.option("--rate", type=float, help="Days a second.  [default: as fast as possible]")
@click.option("--fresh", is_flag=True, help="Delete what an earlier demo left, and start anew.")
def command(directory: str, days: int, rate: float | None, fresh: bool) -> None:
    """Find card fraud in half a year of payments, right here.

    No server, no Docker, no Java. The generator is the Fraud Detection Handbook's, exactly: 1,754,155 payments, 14,681
    of them frauds. Stop with Ctrl-C or kill -9, start again: it goes on where it stood; no alert is lost or doubled.

    Exit codes: 0 finished or stopped, 1 an error, 2 wrong usage.
    """
    path = Path(directory)
    if fresh:
        shutil.rmtree(path, ignore_errors=True)
    Demo(path, days, rate).run()


class Demo:
    """Starts the two processes and watches."""

    def __init__(self, directory: Path, days: int, rate: float | None) -> None:
        self.directory, self.days, self.rate = directory, days, rate
        self.profile = Profile(days=days)
        self.settings = Settings(log_dir=str(directory / "log"), state_dir=str(directory / "state"), slot="demo")
        self.alerts: Counter[str] = Counter()
        self.watermark: int | None = None
        self.stopped = False

    def run(self) -> None:
        started = time.monotonic()
        log = open_log(self.settings)
        try:
            create_topics(log, PARTITIONS)
            total, written = self.days + _LABEL_DAYS, days_written(log)
            if written > total:
                raise StreamsError(
                    f"the demo in {self.directory} has {written - _LABEL_DAYS} days, more than --days {self.days}",
                    fix="give --days as before, or start afresh with --fresh",
                )
            if written >= total and self._finished(log):
                click.echo(
                    f"the demo in {self.directory} has already run to its end; start afresh: {COMMAND} demo --fresh\n"
                )
                self._summary(log)
                return
            if written:
                click.echo(f"going on where the last run stood (start afresh: {COMMAND} demo --fresh)")
            else:
                click.echo(
                    f"{self.days} days of card payments through fraud/pipeline.py; Ctrl-C stops, a new start goes on"
                )
            self._watch(log, total, started)
        finally:
            log.close()

    def _watch(self, log: Log, total: int, started: float) -> None:
        context = multiprocessing.get_context("spawn")
        told, tells = context.Pipe(duplex=False)
        work = context.Process(target=_worker, args=(self.settings, tells), daemon=True)
        feeding = context.Process(target=_feeder, args=(self.settings, self.days, self.rate), daemon=True)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)
        work.start()
        feeding.start()
        reader = None
        shown, records, first_alert, before = 0.0, 0, 0.0, (started, 0)
        rate_in = 0.0
        try:
            while not self.stopped:
                for process, name in ((work, "worker"), (feeding, "feeder")):
                    if process.exitcode not in (None, 0):
                        raise StreamsError(
                            f"the {name} ended with exit code {process.exitcode}; its error stands above",
                            fix="run the same command again: it goes on where it stood",
                        )
                while told.poll(0.05):
                    records, self.watermark = told.recv()
                reader = reader or self._alerts_reader(log)
                if reader is not None:
                    self._count(reader)
                now = time.monotonic()
                if self.alerts and not first_alert:
                    first_alert = now - started
                if now - shown >= 2:
                    shown = now
                    rate_in = (records - before[1]) / (now - before[0])
                    before = (now, records)
                    self._line(rate_in)
                    if days_written(log) >= total and self._finished(log):
                        break
        finally:
            for process in (feeding, work):
                if process.is_alive() and process.pid is not None:
                    os.kill(process.pid, signal.SIGTERM)
            for process in (feeding, work):
                process.join(30)
            if reader is not None:
                self._count(reader)
                reader.close()
        spent = time.monotonic() - started
        if self.stopped:
            click.echo(f"stopped after {spent:.0f} s; the same command goes on from here")
            return
        self._line(rate_in)
        click.echo(
            f"\ndone in {spent:.0f} s: {records:,} records in this run ({records / spent:,.0f}/s on average), "
            f"first alert after {first_alert:.1f} s\n"
        )
        self._summary(log)

    def _summary(self, log: Log) -> None:
        click.echo(measure(log).text())
        click.echo(
            f"\nthe data lies in {self.directory}: topics {AUTH}, {LABELS}, {ALERTS}, card.days, tx.late, tx.dlq\n"
            f"look at it: {COMMAND} tasks fraud.pipeline:app --log-dir {self.directory / 'log'}"
        )

    def _line(self, rate: float) -> None:
        """How far event time has come in the pipeline, how fast, and what was found."""
        reasons = "  ".join(f"{code} {count:,}" for code, count in sorted(self.alerts.items()))
        if self.watermark is None:
            click.echo(f"starting    {rate:9,.0f} records/s")
            return
        passed = (self.watermark - start_of(self.profile)) // DAY_MS + 1
        day = f"day {min(max(passed, 0), self.days):3} of {self.days}"
        click.echo(f"{day}  {rate:9,.0f} records/s  alerts {sum(self.alerts.values()):6,}  {reasons}")

    def _finished(self, log: Log) -> bool:
        """Every record of the feed, and of the shuffle, has been processed and committed."""
        found = log.topics([AUTH, LABELS, "fraud-by-terminal-shuffle"])
        if len(found) < 3:
            return False
        partitions = [TopicPartition(t, p) for t, info in found.items() for p in range(info.partitions)]
        ends, committed = log.ends(partitions), log.committed("fraud", partitions)
        return all((c := committed[p]) is not None and c.offset >= ends[p] for p in partitions)

    def _alerts_reader(self, log: Log) -> LogReader | None:
        info = log.topics([ALERTS]).get(ALERTS)
        if info is None:
            return None
        reader = log.reader()
        reader.assign({TopicPartition(ALERTS, p): 0 for p in range(info.partitions)})
        return reader

    def _count(self, reader: LogReader) -> None:
        while found := reader.poll(20_000, 0.0):
            for records in found:
                for value in records.values():
                    # The reason is the only capitals in an alert: no need to decode thousands of them to count them.
                    self.alerts[(value or b"").partition(b'"reason":"')[2].partition(b'"')[0].decode()] += 1

    def _stop(self, *_: Any) -> None:
        self.stopped = True


def _watch_parent(stop: Callable[[], None]) -> None:
    """End with the demo, also if it was killed."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        stop()

    threading.Thread(target=watch, daemon=True).start()


def _worker(settings: Settings, tells: Connection) -> None:
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    from fraud.pipeline import app

    log = open_log(settings)
    try:
        worker = make_worker(app, settings, log)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all of us; the demo passes SIGTERM on
        signal.signal(signal.SIGTERM, lambda *_: worker.stop())
        _watch_parent(worker.stop)
        worker.start()
        told = 0.0
        try:
            while not worker.stopping:
                worker.turn()
                if time.monotonic() - told > 0.5:
                    told = time.monotonic()
                    tells.send((worker.status.records_in, worker.status.watermark))
            worker.leave()
        finally:
            worker.close()
    except (BrokenPipeError, KeyboardInterrupt):
        pass
    finally:
        log.close()


def _feeder(settings: Settings, days: int, rate: float | None) -> None:
    stopping = threading.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    _watch_parent(stopping.set)
    log = open_log(settings)
    try:
        feed(log, profile=Profile(days=days), partitions=PARTITIONS, days_a_second=rate, stopping=stopping.is_set)
    finally:
        log.close()
