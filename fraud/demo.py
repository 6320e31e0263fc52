"""`streams demo`: the generator and a worker on the embedded log, and what happens, on the terminal.

Three processes: a feeder writes the generator's days, a worker runs the pipeline, and this one watches the log. Each
may be killed at any instant: what is committed stays, and the next start goes on from there.
"""

import logging
import multiprocessing
import os
import shlex
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fraud.feed import AUTH, LABELS, check, create_topics, days_written, feed, start_of
from fraud.generate_cli import generate
from fraud.generator import Profile
from fraud.progress import Found, as_line
from fraud.report import ALERTS, measure
from streams.app import make_worker, open_log
from streams.cli_group import Guessing
from streams.core.errors import StreamsError
from streams.core.record import TopicPartition
from streams.log.base import Log, LogReader
from streams.runtime.reporter import Status
from streams.settings import Settings
from streams.terminal import logs
from streams.terminal.display import Display, choose
from streams.terminal.figures import Figures, Meter, near
from streams.terminal.interrupts import Interrupts

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from rich.console import RenderableType

_log = logging.getLogger("fraud.demo")

PARTITIONS = 4
_LABEL_DAYS = 7


def as_called(program: str) -> str:
    """How the command line is called from here, given how it was: `program` is `sys.argv[0]`.

    >>> as_called("/usr/lib/python3/site-packages/streams/__main__.py"), as_called("/elsewhere/bin/streams")
    ('python -m streams', '/elsewhere/bin/streams')
    """
    path = Path(program)
    if path.name != "streams":
        return "python -m streams"
    found = shutil.which("streams")
    if found is not None and Path(found).absolute() == path.absolute():
        return "streams"
    return shlex.quote(near(str(path.absolute())))


COMMAND = as_called(sys.argv[0])


@click.group("demo", cls=Guessing, invoke_without_command=True)
@click.option(
    "--dir", "directory", default=".streams/demo", show_default=True, help="Where the log and state are kept."
)
@click.option("--days", default=183, show_default=True, help="How many days of payments to generate.")
@click.option("--rate", type=float, help="Days a second.  [default: as fast as possible]")
@click.option("--fresh", is_flag=True, help="Delete what an earlier demo left, and start anew.")
@click.option("--plain", is_flag=True, help="Lines instead of the live view, on a terminal too.")
@click.pass_context
def command(context: click.Context, directory: str, days: int, rate: float | None, fresh: bool, plain: bool) -> None:
    """Find card fraud in half a year of payments, right here.

    No server, no Docker, no Java. The generator is the Fraud Detection Handbook's, exactly: 1,754,155 payments, 14,681
    of them frauds. Stop with Ctrl-C or kill -9, start again: it goes on where it stood; no alert is lost or doubled.

    `streams demo generate` is the generator alone, for a pipeline that runs elsewhere.

    Exit codes: 0 finished or stopped, 1 an error, 2 wrong usage.
    """
    if context.invoked_subcommand is not None:
        _refuse_lost_options(context, context.invoked_subcommand)
        return
    path = Path(directory)
    if fresh:
        shutil.rmtree(path, ignore_errors=True)
    logs.set_up(quiet=False, as_json=False)
    Demo(path, days, rate, choose(plain=plain)).run()


command.add_command(generate)


def _refuse_lost_options(context: click.Context, name: str) -> None:
    """Options before the sub-command are the demo's and would be without effect."""
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"write the options behind {name!r}: streams demo {name} {parameter.opts[0]} ...")


class Demo:
    """Starts the two processes and watches."""

    def __init__(self, directory: Path, days: int, rate: float | None, display: Display) -> None:
        self.directory, self.days, self.rate, self.display = directory, days, rate, display
        self.profile = Profile(days=days)
        self.settings = Settings(log_dir=str(directory / "log"), state_dir=str(directory / "state"), slot="demo")
        self.found = Found(days=days, start=start_of(self.profile))
        self.status = Status()
        self.stopped = False

    def run(self) -> None:
        log = open_log(self.settings)
        try:
            if living := log.living("fraud"):
                raise StreamsError(
                    "a demo is already running here",
                    where=f"{self.directory}: {', '.join(map(str, living))}",
                    fix="let it go on, or stop it first; another one beside it needs a directory of its own (--dir)",
                )
            create_topics(log, PARTITIONS)
            total, written = self.days + _LABEL_DAYS, days_written(log)
            if written > total:
                raise StreamsError(
                    f"the demo in {self.directory} has {written - _LABEL_DAYS} days, more than --days {self.days}",
                    fix="give --days as before, or start afresh with --fresh",
                )
            check(log, self.profile, PARTITIONS)
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
            self._watch(log, total)
        finally:
            log.close()

    def _watch(self, log: Log, total: int) -> None:
        context = multiprocessing.get_context("spawn")
        told, tells = context.Pipe(duplex=False)
        work = context.Process(target=_worker, args=(self.settings, tells), daemon=True)
        feeding = context.Process(target=_feeder, args=(self.settings, self.days, self.rate), daemon=True)
        meter = Meter("fraud", "demo", near(log.name))
        old = signal.signal(signal.SIGINT, signal.SIG_IGN)  # they inherit it: Ctrl-C is ours, while they start, too
        work.start()
        feeding.start()
        signal.signal(signal.SIGINT, old)
        tells.close()
        with Interrupts(self._stop, at_once=self.display.close, resumed=self.display.anew), self.display:
            self.display.show(lambda: meter.look(self.status), self._draw, lambda f: as_line(f, self.found))
            try:
                self._until_done(log, told, {"worker": work, "feeder": feeding}, total)
            finally:
                self._end(told, [feeding, work])
        self._ended(log, meter.look(self.status))

    def _until_done(self, log: Log, told: Connection, processes: "dict[str, BaseProcess]", total: int) -> None:
        reader, looked, started = None, time.monotonic(), time.monotonic()
        try:
            while not self.stopped:
                self._hear(told)
                for name, process in processes.items():
                    if process.exitcode not in (None, 0):
                        self._hear(told)
                        raise StreamsError(
                            f"the {name} ended with exit code {process.exitcode}; its error stands above",
                            fix="run the same command again: it goes on where it stood",
                        )
                reader = reader or self._alerts_reader(log)
                if reader is not None:
                    self._count(reader)
                now = time.monotonic()
                if self.found.alerts and self.found.first is None:
                    self.found.first = now - started
                if now - looked >= 2:
                    looked = now
                    if days_written(log) >= total and self._finished(log):
                        return
        finally:
            if reader is not None:
                self._count(reader)
                reader.close()

    def _hear(self, told: Connection) -> None:
        """What the worker says: its status, and notes of its log."""
        try:
            while told.poll(0.05):
                said = told.recv()
                if isinstance(said, Status):
                    self.status = said
                else:
                    level, text = said
                    _log.log(level, "%s", text)
        except EOFError:
            time.sleep(0.05)  # it has ended; the caller looks at its exit code

    def _end(self, told: Connection, processes: "list[BaseProcess]") -> None:
        for process in processes:
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + 30
        while any(p.is_alive() for p in processes) and time.monotonic() < deadline:
            self._hear(told)
        self._hear(told)

    def _ended(self, log: Log, figures: Figures) -> None:
        if self.stopped:
            click.echo(f"stopped after {figures.seconds:.0f} s; the same command goes on from here")
            return
        records, spent = figures.status.records_in, figures.seconds
        first = f"first alert after {self.found.first:.1f} s" if self.found.first is not None else "no alert"
        click.echo(
            f"\ndone in {spent:.0f} s: {records:,} records read in this run ({records / spent:,.0f}/s on average), "
            f"{first}\n"
        )
        self._summary(log)

    def _summary(self, log: Log) -> None:
        click.echo(measure(log).text())
        click.echo(
            f"\nthe data lies in {self.directory}: topics {AUTH}, {LABELS}, {ALERTS}, card.days, tx.late, tx.dlq\n"
            f"look at it: {COMMAND} tasks fraud.pipeline:app --log-dir {self.directory / 'log'}"
        )

    def _draw(self, figures: Figures) -> "RenderableType":
        from fraud.view import DemoView

        return DemoView(figures, self.found)

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
                    self.found.alerts[(value or b"").partition(b'"reason":"')[2].partition(b'"')[0].decode()] += 1

    def _stop(self, why: str) -> None:
        self.stopped = True
        _log.info("stopping (%s)", why)


def _watch_parent(stop: Callable[[], None]) -> None:
    """End with the demo, also if it was killed."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        stop()

    threading.Thread(target=watch, daemon=True).start()


def _worker(settings: Settings, tells: Connection) -> None:
    """Runs the pipeline; says its status, its notes and its error through the pipe, since the terminal is taken."""
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all of us; the demo passes SIGTERM on
    saying = threading.Lock()

    def say(what: object) -> None:
        with saying, suppress(BrokenPipeError):  # the demo was killed: we end soon
            tells.send(what)

    def note(text: str, level: int = logging.WARNING, *, task: str = "") -> None:
        say((level, text))

    log = open_log(settings)
    try:
        from fraud.pipeline import app

        worker = make_worker(app, settings, log, note=note)
        signal.signal(signal.SIGTERM, lambda *_: worker.stop())
        _watch_parent(worker.stop)
        worker.start()
        told = 0.0
        try:
            while not worker.stopping:
                worker.turn()
                if time.monotonic() - told > 0.5:
                    told = time.monotonic()
                    say(worker.status)
            worker.leave()
            say(worker.status)
        finally:
            worker.close()
    except StreamsError as error:
        say((logging.ERROR, str(error)))
        sys.exit(1)
    except Exception:
        say((logging.ERROR, traceback.format_exc()))
        sys.exit(1)
    finally:
        log.close()


def _feeder(settings: Settings, days: int, rate: float | None) -> None:
    stopping = threading.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    _watch_parent(stopping.set)
    log = open_log(settings)
    try:
        feed(
            log,
            profile=Profile(days=days),
            partitions=PARTITIONS,
            days_a_second=rate,
            stopping=stopping.is_set,
            pause=stopping.wait,
        )
    finally:
        log.close()
