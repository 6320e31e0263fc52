"""Windows and late rows, through the whole engine, against one SQL query over the same records in DuckDB.

The input's order, and so each row's own watermark, is read back from the log itself: the reference knows nothing of how
the engine cuts, routes or restarts.
"""

import json
import random
from collections import Counter
from collections.abc import Sequence

import duckdb
import pytest

from operators import FlatMap, KeyBy, Window, agg, tumbling
from streams import App, EventTime, Schema
from streams.core.record import TopicPartition
from streams.protocol import STEPS

DISORDER, LATENESS, SIZE, OFFSET = 2_000, 3_000, 10_000, 3_000
FAR = 30 * 86_400_000
SHAPES = ["direct", "shuffled"]


class Event(Schema):
    id: int
    at: EventTime
    card: str
    device: str
    amount: int | None
    weight: float | None


def program(shape: str, emit: str = "close") -> App:
    """`direct`: the topic is keyed by card already. `shuffled`: it is keyed by device, so a card's rows come from all
    partitions, and each brings the watermark of its own."""
    app = App(f"windows-{shape}")
    key = "card" if shape == "direct" else "device"
    events = app.source("events", Event, key=key, disorder=DISORDER, start="earliest", idle="3650d")
    keyed = events if shape == "direct" else events | KeyBy("card")
    windows = keyed | Window(
        tumbling(SIZE, offset=OFFSET),
        [
            agg.count().alias("n"),
            agg.count("amount").alias("known"),
            agg.sum("amount").alias("total"),
            agg.min("amount").alias("least"),
            agg.max("amount").alias("most"),
            agg.mean("amount").alias("mean"),
            agg.sum("weight").alias("weight"),
            agg.max("weight").alias("heaviest"),
        ],
        lateness=LATENESS,
        emit=emit,
    )
    windows | app.sink("windows")
    windows.late | app.sink("late")
    return app


def events(count: int, seed: int) -> list[Event]:
    """Event time goes on, with ties, disorder within bounds, rows that are far too late, and jumps ahead after which
    all is late; it begins before 1970. A quarter of the amounts is null, half of the others are negative."""
    draw = random.Random(seed)
    now, out = -4 * SIZE, []
    for id in range(count):
        now += draw.choice([0, 0, 0, 50, 200, 400])
        if draw.random() < 0.01:
            now += draw.choice([SIZE, 3 * SIZE])
        back = draw.choices([0, draw.randrange(DISORDER), draw.randrange(2 * SIZE), 6 * SIZE], [6, 4, 2, 0.5])[0]
        at = now - back
        if draw.random() < 0.15:  # exactly on a window's edge, or just before it
            at = at // SIZE * SIZE + OFFSET - draw.choice([0, 1])
        amount = None if draw.random() < 0.25 else draw.choice([draw.randrange(-1000, 1000), 2**53 + 1, -(2**53) - 7])
        weight = None if draw.random() < 0.25 else draw.randrange(-64, 64) / 4
        card = "only nulls" if draw.random() < 0.05 else f"c{draw.randrange(9)}"
        out.append(
            Event(id, at, card, f"d{draw.randrange(40)}", None if card == "only nulls" else amount, weight),
        )
    return out


def expected(log: list[tuple[int, int, bytes]]) -> tuple[list[tuple], list[int]]:
    """(rows of the windows that are over, ids of the late rows), by SQL from (partition, offset, value)."""
    rows = [(p, o, *json.loads(v).values()) for p, o, v in log]
    with duckdb.connect() as db:
        db.execute(
            f"""
            CREATE TABLE judged AS
            SELECT *, max(ts) OVER (PARTITION BY p ORDER BY o ROWS UNBOUNDED PRECEDING) - {DISORDER} AS mark,
                   floor((ts - {OFFSET})::DOUBLE / {SIZE})::BIGINT * {SIZE} + {OFFSET} AS start
            FROM (SELECT unnest($1::INT[]) AS p, unnest($2::BIGINT[]) AS o, unnest($3::BIGINT[]) AS id,
                         unnest($4::BIGINT[]) AS ts, unnest($5::TEXT[]) AS card, unnest($6::TEXT[]) AS device,
                         unnest($7::BIGINT[]) AS amount, unnest($8::DOUBLE[]) AS w)
            """,
            [list(column) for column in zip(*rows, strict=True)],
        )
        late = db.execute(f"SELECT id FROM judged WHERE mark >= start + {SIZE} + {LATENESS} ORDER BY id").fetchall()
        windows = db.execute(
            f"""
            SELECT card, start, start + {SIZE}, count(*), count(amount), coalesce(sum(amount), 0)::BIGINT,
                   min(amount), max(amount), sum(amount)::BIGINT::DOUBLE / count(amount), coalesce(sum(w), 0.0), max(w)
            FROM judged
            WHERE mark < start + {SIZE} + {LATENESS}
              AND start + {SIZE} + {LATENESS} <= (SELECT min(m) FROM (SELECT max(mark) AS m FROM judged GROUP BY p))
            GROUP BY card, start
            """
        ).fetchall()
    return windows, [id for (id,) in late]


def written(t, topic: str) -> list[tuple[int, int, bytes]]:
    """(partition, offset, value) of what lies in a topic, from a reader of our own."""
    count = t._log.topics([topic])[topic].partitions
    places = [TopicPartition(topic, p) for p in range(count)]
    ends, out, reader = t._log.ends(places), [], t._log.reader()
    reader.assign(t._log.starts(places))
    while len(out) < sum(ends.values()):
        for records in reader.poll(10_000, 1.0):
            out += zip([records.source.partition] * len(records), records.offsets(), records.values(), strict=True)
    reader.close()
    return out


def feed(t, rows: Sequence[Event], cut: int, partitions: int, crashes: Sequence[str] = ()) -> None:
    """`cut` records a send; crashes at equal distances; at last a record of the far future in each partition."""
    starts = range(0, len(rows), cut)
    when = {len(starts) * (i + 1) // (len(crashes) + 1): step for i, step in enumerate(crashes)}
    for number, start in enumerate(starts):
        if number in when:
            t.crash(at=when[number])
        t.send("events", rows[start : start + cut])
    close(t, partitions)
    assert t.crashes == len(crashes)


def close(t, partitions: int) -> None:
    for p in range(partitions):
        t.send("events", [Event(-1 - p, FAR, "far", "far", 0, 0.0)], partition=p)


def check(t) -> None:
    log = written(t, "events")
    windows, late = expected(log)
    found = [tuple(json.loads(v).values()) for v in t.read_raw("windows")]
    assert len(windows) > 15
    assert len(late) > 5
    # Quarters add up exactly and the mean comes from an exact sum: equal to the last bit, duplicates counted.
    assert Counter(found) == Counter(windows)
    assert Counter(row["id"] for row in map(json.loads, t.read_raw("late"))) == Counter(late)
    by_id = {json.loads(v)["id"]: json.loads(v) for _, _, v in log}
    assert all(by_id[row["id"]] == row for row in map(json.loads, t.read_raw("late")))
    assert t.dead() == []


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("partitions", [1, 2, 4])
@pytest.mark.parametrize(("cut", "count"), [(1, 90), (7, 300), (1000, 2500)])
def test_however_it_is_sent(shape: str, partitions: int, cut: int, count: int) -> None:
    with program(shape).test(partitions=partitions) as t:
        feed(t, events(count, seed=cut * 10 + partitions), cut, partitions)
        check(t)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("poll", "partitions", "count"), [(1, 2, 90), (7, 1, 400), (7, 4, 200), (100, 2, 2500)])
def test_however_it_is_polled(shape: str, poll: int, partitions: int, count: int) -> None:
    with program(shape).test(partitions=partitions, poll_records=poll) as t:
        feed(t, events(count, seed=poll), count, partitions)
        check(t)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("step", STEPS)
def test_a_crash_at_each_step(shape: str, step: str) -> None:
    """Once in the middle, once in the commit in which windows close."""
    with program(shape).test(partitions=2) as t:
        rows = events(450, seed=5)
        t.send("events", rows[:150])
        t.crash(at=step)
        t.send("events", rows[150:300])
        t.send("events", rows[300:])
        t.crash(at=step)
        close(t, 2)
        assert t.crashes == 2
        check(t)


@pytest.mark.parametrize("shape", SHAPES)
def test_one_crash_after_another(shape: str) -> None:
    with program(shape).test(partitions=4, poll_records=60) as t:
        feed(t, events(450, seed=77), 50, 4, STEPS)
        check(t)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("step", [None, "flushed", "committed"])
def test_the_last_early_result_is_the_final_one(shape: str, step: str | None) -> None:
    with program(shape, emit="commit").test(partitions=2) as t:
        feed(t, events(300, seed=9), 50, 2, [step] if step else [])
        found = [tuple(json.loads(v).values()) for v in t.read_raw("windows")]  # a card's rows lie in one partition
        last = {row[:2]: row for row in found if row[0] != "far"}
        assert len(found) > len(last)
        windows, late = expected(written(t, "events"))
        assert set(last.values()) == set(windows)
        assert sorted(row.id for row in t.read("late")) == late


@pytest.mark.parametrize("poll", [1, 2, 1000])
@pytest.mark.parametrize("step", [None, *STEPS])
def test_a_window_of_many_keys_closes_in_pieces_and_nothing_behind_it_comes_late(poll: int, step: str | None) -> None:
    """Five times as many stored rows as are read at a time go out in a commit; here 60 are over at once."""
    app = App("pieces")
    events = app.source("events", Event, key="card", start="earliest", idle="3650d")
    minutes = events | Window(tumbling("1m"), [agg.count().alias("n")])
    minutes | app.sink("minutes")
    minutes | Window(tumbling("1h"), [agg.sum("n").alias("n"), agg.count().alias("minutes")]) | app.sink("hours")
    rows = [Event(i, i // 60, f"c{i % 60}", "d", None, None) for i in range(180)]
    with app.test(partitions=1, poll_records=poll) as t:
        t.send("events", rows)
        if step:
            t.crash(at=step)
        t.send("events", [Event(1000, 2 * 3_600_000, "c7", "d", None, None)])
        if step:
            t.crash(at=step)
        t.send("events", [Event(1001, 9 * 3_600_000, "far", "d", None, None)])
        found = [json.loads(v) for v in t.read_raw("minutes")]
        assert [(r["card"], r["n"]) for r in found[:60]] == [(c, 3) for c in sorted(f"c{i}" for i in range(60))]
        assert [r["card"] for r in found[60:]] == ["c7"]
        hours = sorted((r["card"], r["window_start"], r["n"]) for r in map(json.loads, t.read_raw("hours")))
        assert hours == sorted([*((f"c{i}", 0, 3) for i in range(60)), ("c7", 2 * 3_600_000, 1)])
        assert t.crashes == (2 if step else 0)


class Basket(Schema):
    at: EventTime
    items: list[str]


class Item(Schema):
    at: EventTime
    item: str


def test_pieces_keep_up_with_what_comes_in() -> None:
    """A record here brings more new windows than a piece has rows: with a fixed piece they would pile up for ever."""
    app = App("baskets")
    baskets = app.source("baskets", Basket, start="earliest", disorder="5s")
    items = baskets | FlatMap(lambda row: [Item(row.at, i) for i in row.items], returns=Item) | KeyBy("item")
    window = items | Window(tumbling("1s"), [agg.count().alias("n")]).named("seconds")
    window | app.sink("out")
    with app.test(poll_records=1) as t:
        t.send("baskets", [Basket(0, [])])
        worker, turn, open_windows = t._worker, t._worker.turn, []

        def counted() -> None:
            turn()
            for task in worker.running:
                if (operator := task.chain.operator("seconds")) is not None:
                    open_windows.append(len(operator._store.starts))

        worker.turn = counted
        t.send("baskets", [Basket(i * 1000, [f"{i}-{k}" for k in range(20)]) for i in range(100)])
        assert max(open_windows) <= 15
        assert len(t.read_raw("out")) == 94 * 20
