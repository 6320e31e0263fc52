"""`streams demo generate`: the generator alone, as a process that feeds Kafka or an embedded log."""

import logging
import threading
import time
from pathlib import Path
from typing import Any

import click

from fraud.feed import AUTH, LABEL_DELAY_DAYS, LABELS, TRUTH, check, days_written, feed
from fraud.generator import PUBLISHED, Profile
from streams.app import open_log
from streams.cli_group import Command
from streams.core.errors import Fenced, StreamsError
from streams.log.base import Log
from streams.settings import load
from streams.settings_cli import log_options
from streams.terminal import logs
from streams.terminal.interrupts import Interrupts

_log = logging.getLogger("fraud.generate")
_EVERY = 2.0  # seconds between two lines of progress


@click.command("generate", cls=Command)
@click.option(
    "--days",
    type=click.IntRange(1),
    default=PUBLISHED.days,
    show_default=True,
    help="How many days of payments to generate.",
)
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Days a second.  [default: as fast as possible]")
@click.option(
    "--partitions",
    type=click.IntRange(1),
    default=4,
    show_default=True,
    help=f"Partitions of {AUTH} and {LABELS}, which are made if they are missing.",
)
@log_options
def generate(days: int, rate: float | None, partitions: int, file: Path | None, **options: Any) -> None:
    """Feed the demo's payments and labels into a log, day by day.

    For `streams run fraud.pipeline:app` elsewhere: payments go to tx.auth, their labels a week later to tx.labels, the
    truth to tx.truth. A day is one commit. Stop with Ctrl-C or kill -9, start again with the same --days: it goes on
    where it stood, without a gap and without a double. When all days are written it ends.

    \b
    streams demo generate --brokers localhost:9092 --rate 1
    streams demo generate --log-dir .streams/log --days 30

    Exit codes: 0 finished or stopped, 1 an error, 2 wrong usage.
    """
    logs.set_up(quiet=False, as_json=False)
    log = open_log(load(options, file=file))
    try:
        _generate(log, Profile(days=days), rate, partitions)
    except Fenced:
        raise StreamsError(
            "another generator has taken over: it was started later, on the same log",
            where=log.name,
            fix="leave this one ended; one generator feeds a log",
        ) from None
    finally:
        log.close()


def _generate(log: Log, profile: Profile, rate: float | None, partitions: int) -> None:
    stopping = threading.Event()
    total = profile.days + LABEL_DELAY_DAYS
    said = 0.0

    def told(day: int, rows: int) -> None:
        nonlocal said
        if time.monotonic() - said >= _EVERY:
            said = time.monotonic()
            what = f"{rows:,} payments" if day < profile.days else "labels alone"
            _log.info("day %d of %d: %s", day + 1, total, what)

    def stop(why: str) -> None:
        _log.info("stopping (%s)", why)
        stopping.set()

    check(log, profile, partitions)
    before = days_written(log)
    begins = f"going on behind day {before}" if before else "beginning with day 1"
    _log.info("%d days to %s, %s, %s on %s: %s", total, AUTH, LABELS, TRUTH, log.name, begins)
    with Interrupts(stop):
        written = feed(
            log,
            profile=profile,
            partitions=partitions,
            days_a_second=rate,
            stopping=stopping.is_set,
            told=told,
            pause=stopping.wait,
        )
    end = "all are written" if written >= total else "the same command goes on from here"
    _log.info("%d of %d days: %s", written, total, end)
