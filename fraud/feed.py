"""Feeds a log with the generator's days: transactions, their labels 7 days later, and the truth apart.

A day is one commit, together with the number of days written: so a killed feeder goes on exactly where it stood.
"""

import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict

import polars as pl

from fraud.generator import PUBLISHED, Profile, days
from streams.codec.json import encode
from streams.core.errors import StreamsError, TopicMismatch
from streams.core.record import Produced, TopicPartition
from streams.log.base import Committed, Log, LogWriter, TopicSpec

AUTH, LABELS, TRUTH = "tx.auth", "tx.labels", "tx.truth"
FEEDER = "fraud-feed"
LABEL_DELAY_DAYS = 7
DAY_MS = 86_400_000
_MARK = -1


def create_topics(log: Log, partitions: int) -> None:
    """The feed's topics, kept for ever: their records carry old event times."""
    kept = {"retention.ms": "-1"}
    log.create([TopicSpec(AUTH, partitions, kept), TopicSpec(LABELS, partitions, kept), TopicSpec(TRUTH, 1, kept)])
    log.create([TopicSpec(f"{FEEDER}-tasks", 1, kept)])


def start_of(profile: Profile) -> int:
    """The first instant of day 0, in milliseconds."""
    return int(pl.Series([profile.start]).cast(pl.Datetime("ms")).cast(pl.Int64).item())


def days_written(log: Log) -> int:
    """How many days an earlier feeder has written."""
    mark = _mark(log)
    return mark.offset if mark is not None else 0


def check(log: Log, profile: Profile, partitions: int) -> None:
    """StreamsError unless these topics, and the days in them, can be gone on with.

    Days of another profile cannot: who falls victim depends on how many days there are, and the label days at the end
    have no transactions. Marks go to every partition, so their number must be the topics' own.
    """
    for name, info in log.topics([AUTH, LABELS]).items():
        if info.partitions != partitions:
            raise TopicMismatch(
                f"topic {name!r} has {info.partitions} partitions, not {partitions}",
                where=log.name,
                fix=f"feed it with {info.partitions} partitions",
            )
    mark = _mark(log)
    if mark is None or mark.note in ("", _note(profile)):  # feeders once left no note
        return
    before = json.loads(mark.note)
    changed = [f"{name} {before.get(name)}, not {now}" for name, now in _told(profile) if before.get(name) != now]
    raise StreamsError(
        f"the {mark.offset} days in this log were generated with {', '.join(changed)}; they do not fit together",
        where=log.name,
        fix=f"generate {before.get('days')} days as before, or feed an empty log",
    )


def feed(
    log: Log,
    *,
    profile: Profile = PUBLISHED,
    partitions: int = 4,
    days_a_second: float | None = None,
    stopping: Callable[[], bool] = lambda: False,
    told: Callable[[int, int], None] = lambda day, rows: None,
    pause: Callable[[float], object] = time.sleep,
) -> int:
    """Write the days that are not written yet, as fast as possible or at a fixed rate; returns how many exist.

    After the last transaction's day the labels go on for 7 days. `told(day, rows)` is called after each commit. Between
    days it waits with `pause(seconds)`, which may return early when the feed is to stop. Raises what `check` raises.
    """
    check(log, profile, partitions)
    create_topics(log, partitions)
    group = log.group(FEEDER, "feeder", 1)
    writer = log.writer(FEEDER, "feeder", group)
    written = days_written(log)
    waiting: deque[pl.DataFrame] = deque()
    started, done = time.monotonic(), 0
    start_ms, note = start_of(profile), _note(profile)
    try:
        for day, frame in enumerate(_with_label_days(profile)):
            if stopping():
                break
            waiting.append(frame)
            due = waiting.popleft() if len(waiting) > LABEL_DELAY_DAYS else None
            if day < written:
                continue
            _write(writer, frame, due, start_ms + (day + 1) * DAY_MS - 1, partitions)
            writer.commit({TopicPartition(AUTH, 0): Committed(day + 1, note)}, {})
            written = day + 1
            told(day, frame.height)
            done += 1
            if days_a_second:
                pause(max(0.0, started + done / days_a_second - time.monotonic()))
    finally:
        writer.close()
        group.leave()  # on Kafka a member that was not told to leave can keep its process from ending
    return written


def _mark(log: Log) -> Committed | None:
    """What the last commit of a feeder said: how many days there are, and of which profile."""
    if AUTH not in log.topics([AUTH]):
        return None
    return log.committed(FEEDER, [TopicPartition(AUTH, 0)])[TopicPartition(AUTH, 0)]


def _told(profile: Profile) -> list[tuple[str, object]]:
    return list({**asdict(profile), "start": profile.start.isoformat()}.items())


def _note(profile: Profile) -> str:
    return json.dumps(dict(_told(profile)))


def _with_label_days(profile: Profile) -> Iterator[pl.DataFrame]:
    yield from days(profile)
    empty = next(iter(days(Profile(customers=3, terminals=2, days=1)))).clear()
    for _ in range(LABEL_DELAY_DAYS):
        yield empty


def _write(writer: LogWriter, frame: pl.DataFrame, due: pl.DataFrame | None, end: int, partitions: int) -> None:
    card, terminal = _name("c", "customer_id"), _name("t", "terminal_id")
    if frame.height:
        out = frame.select("transaction_id", "at", card.alias("card_id"), terminal.alias("terminal_id"), "amount")
        keys, times = out["card_id"].cast(pl.Binary).to_list(), out["at"].to_list()
        writer.append(Produced(AUTH, None, keys, encode(out), times))
        truth = frame.select("transaction_id", "at", "scenario")
        writer.append(Produced(TRUTH, 0, [None] * truth.height, encode(truth), times))
    if due is not None and due.height:
        delayed = due.select(
            "transaction_id",
            pl.col("at") + LABEL_DELAY_DAYS * DAY_MS,
            terminal.alias("terminal_id"),
            (pl.col("scenario") > 0).alias("fraud"),
        )
        keys = delayed["terminal_id"].cast(pl.Binary).to_list()
        writer.append(Produced(LABELS, None, keys, encode(delayed), delayed["at"].to_list()))
    mark = pl.DataFrame({"transaction_id": [_MARK], "at": [end], "terminal_id": [""], "fraud": [False]})
    for partition in range(partitions):
        writer.append(Produced(LABELS, partition, [None], encode(mark), [end]))


def _name(prefix: str, column: str) -> pl.Expr:
    return prefix + pl.col(column).cast(pl.String).str.zfill(5)
