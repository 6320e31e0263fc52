"""A task whose sources have all gone idle, while rows are still to come from it in pieces, is not idle itself: whoever
reads from it would go on without them, and they would come late. Found by a review."""

import json
from collections.abc import Sequence

import pytest

from operators import KeyBy, Window, agg, tumbling, union
from streams import App, EventTime, Schema
from streams.protocol import STEPS
from streams.testing import TestRun

FAR = 9 * 3_600_000


class Event(Schema):
    card: str
    group: str
    at: EventTime


def send(t: TestRun, topic: str, partition: int, rows: Sequence[Event]) -> None:
    """Without working: so that all topics have theirs when work begins."""
    work, t.work = t.work, lambda: None
    t.send(topic, rows, partition=partition)
    t.work = work


def hour(t: TestRun, count: str) -> int:
    found = [json.loads(value) for value in t.read_raw("hours")]
    return sum(row[count] for row in found if row["group"] == "g" and row["window_start"] == 0)


@pytest.mark.parametrize("step", [None, *STEPS])
def test_a_window_that_closes_in_pieces_keeps_those_behind_it_waiting(step: str | None) -> None:
    app = App("closing")
    events = app.source("events", Event, key=["card", "group"], start="earliest", idle="10s")
    minutes = events | Window(tumbling("1m"), [agg.count().alias("n")])
    hours = minutes | KeyBy("group") | Window(tumbling("1h"), [agg.sum("n").alias("n")])
    hours | app.sink("hours")
    hours.late | app.sink("late")
    with app.test(partitions=2, poll_records=1) as t:
        send(t, "events", 0, [Event(f"c{i}", "g", 0) for i in range(300)])
        t.work()
        # Each partition brings one record more: 300 windows of the first one close, five a commit, and meanwhile both
        # sources have been quiet for longer than their idle time.
        send(t, "events", 1, [Event("far", "z", FAR)])
        send(t, "events", 0, [Event("far", "z", FAR)])
        if step:
            t.crash(at=step, skip=20)
        t.work()
        assert t.read_raw("late") == []
        t.finish()  # now each of them may find the other one idle, and so the last row of one may be late
        assert hour(t, "n") == 300
        assert t.crashes == (1 if step else 0)


@pytest.mark.parametrize("step", [None, *STEPS])
@pytest.mark.parametrize("poll", [1, 7])
def test_rows_that_waited_and_go_on_in_pieces_keep_those_behind_them_waiting(poll: int, step: str | None) -> None:
    app = App("waiting")
    first = app.source("first", Event, key=["card", "group"], start="earliest", idle="10s")
    second = app.source("second", Event, key=["card", "group"], start="earliest", idle="10s")
    hours = union(first, second, ordered=True) | KeyBy("group") | Window(tumbling("1h"), [agg.count().alias("n")])
    hours | app.sink("hours")
    hours.late | app.sink("late")
    with app.test(partitions=2, poll_records=poll) as t:
        # The first partition of `second` is silent: what waits for it goes on when all sources have become idle.
        send(t, "first", 0, [Event(f"c{i}", "g", i * 1000) for i in range(60)])
        send(t, "first", 1, [Event("far", "z", FAR)])
        send(t, "second", 1, [Event("far", "z", FAR)])
        t.work()
        if step:
            t.crash(at=step, skip=1)
        t.sleep(60)
        t.finish()
        assert t.read_raw("late") == []
        assert hour(t, "n") == 60
        assert t.crashes == (1 if step else 0)
