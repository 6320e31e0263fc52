"""Sinks outside the log: published exactly once, whatever dies, fails or is fenced, and wherever it does."""

from collections import Counter
from typing import Any

import msgspec
import pytest

from operators import Filter, KeyBy, Keyed, Running, Value, Window, agg, tumbling
from streams import App, EventTime, Schema, TwoPhaseSink, col
from streams.core.errors import SinkError, StateMismatch
from streams.protocol import STEPS
from streams.runtime.position import TaskPosition
from streams.testing import CRASHES, Crash, MemorySink, check_sink


class Tx(Schema):
    card: str
    at: EventTime
    amount: int


class Seen(Schema):
    card: str
    n: int


class Count(Keyed[Tx, Seen]):
    n = Value(int, default=0)

    def on_row(self, row, ctx):
        self.n.set(self.n.get() + 1)
        yield Seen(row.card, self.n.get())


class World(TwoPhaseSink):
    """The outside world: keeps what is prepared and what is published, and all calls. `trouble` is raised before or
    behind a call, once: "prepare before", "publish behind", ...; with `times`, so often."""

    def __init__(self) -> None:
        self.prepared: dict[tuple[int, bytes], list[dict[str, Any]]] = {}
        self.published: dict[tuple[int, bytes], list[dict[str, Any]]] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.trouble: dict[str, BaseException] = {}
        self.times = 1
        self.token: Any = None

    def _go_wrong(self, when: str) -> None:
        if when in self.trouble:
            self.times -= 1
            raise self.trouble[when] if self.times else self.trouble.pop(when)

    def prepare(self, task, sequence, frame):
        self._go_wrong("prepare before")
        self.calls.append(("prepare", task.partition, sequence))
        token = f"{sequence}-{len(self.calls)}".encode()
        self.prepared[task.partition, token] = frame.to_dicts()
        self._go_wrong("prepare behind")
        return token if self.token is None else self.token

    def publish(self, task, token):
        self._go_wrong("publish before")
        self.calls.append(("publish", task.partition, token))
        if (task.partition, token) not in self.published:
            self.published[task.partition, token] = self.prepared.pop((task.partition, token))
        self._go_wrong("publish behind")

    def recover(self, task, sequence, token):
        self._go_wrong("recover before")
        self.calls.append(("recover", task.partition, sequence, token))
        for partition, known in list(self.prepared):
            if partition == task.partition and int(known.split(b"-")[0]) <= sequence:
                del self.prepared[partition, known]

    def rows(self) -> Counter[tuple[Any, ...]]:
        return Counter(tuple(row.values()) for rows in self.published.values() for row in rows)


def stateless(sink: TwoPhaseSink) -> App:
    app = App("shop")
    tx = app.source("tx", Tx, key="card", start="earliest")
    tx | Filter(col("amount") > 0) | app.write_to(sink, name="world")
    return app


def stateful(sink: TwoPhaseSink) -> App:
    app = App("shop")
    tx = app.source("tx", Tx, key="card", start="earliest")
    counts = tx | Running([agg.count().alias("n")]).named("counts")
    counts | app.write_to(sink, name="world")
    counts | app.sink("counts")
    return app


def shuffled(sink: TwoPhaseSink) -> App:
    app = App("shop")
    tx = app.source("tx", Tx, key="card", start="earliest", idle="1s")
    tx | KeyBy("amount") | Count().named("count") | app.write_to(sink, name="world")
    return app


PROGRAMS = [stateless, stateful]
BITES = [[Tx("a", 0, 1), Tx("b", 1, 2)], [Tx("a", 2, 0), Tx("c", 3, 4)], [Tx("b", 4, 5)]]
PLACES = [f"{method} {when}" for method in ("prepare", "publish") for when in ("before", "behind")]


def send_all(t) -> None:
    for bite in BITES:
        t.send("tx", bite)


def wanted(program, partitions: int = 1) -> Counter[tuple[Any, ...]]:
    world = World()
    with program(world).test(partitions=partitions, real_sinks=True) as t:
        send_all(t)
    assert world.rows()
    return world.rows()


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize("step", CRASHES)
@pytest.mark.parametrize("program", PROGRAMS)
def test_each_row_is_published_once_with_a_crash_at_each_step(program, step, partitions):
    world = World()
    with program(world).test(partitions=partitions, crash_at=step, real_sinks=True) as t:
        send_all(t)
        assert (t.crashes > 0) == (step is not None)
    assert world.rows() == wanted(program, partitions)
    assert not world.prepared or step is not None


@pytest.mark.parametrize("step", [None, "drained", "committed"])
def test_past_a_shuffle(step):
    world = World()
    with shuffled(world).test(partitions=2, crash_at=step, real_sinks=True) as t:
        send_all(t)
        t.finish()
    assert world.rows() == Counter([("a", 1), ("b", 1), ("a", 1), ("c", 1), ("b", 1)])


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("place", [*PLACES, "recover before"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_crash_within_a_call_of_the_sink(program, place, count):
    world = World()
    with program(world).test(real_sinks=True) as t:
        t.send("tx", BITES[0])
        t.restart()
        world.trouble, world.times = {place: Crash(place)}, count
        for bite in BITES[1:]:
            t.send("tx", bite)
        assert t.crashes == count
    assert world.rows() == wanted(program)


@pytest.mark.parametrize("place", [*PLACES, "recover before"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_an_error_in_a_call_of_the_sink_loses_nothing(program, place):
    world = World()
    with program(world).test(real_sinks=True) as t:
        t.send("tx", BITES[0])
        t.restart()
        world.trouble, world.times = {place: ConnectionError("gone")}, 3
        for bite in BITES[1:]:
            t.send("tx", bite)
        assert not world.trouble
        assert 'streams_aborts_total{reason="SinkError"} 3.0' in t._worker.metrics.expose().decode()
    assert world.rows() == wanted(program)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_sink_that_never_works_ends_the_worker_and_the_next_one_publishes(program):
    world = World()
    with program(world).test(real_sinks=True) as t:
        world.trouble, world.times = {"publish before": ConnectionError("gone")}, 1000
        with pytest.raises(
            SinkError, match=r"sink 'world' failed in publish: ConnectionError: gone(.|\n)*World, task 0/0"
        ):
            send_all(t)
        assert not world.published
        world.trouble = {}
        t.restart()
        for bite in BITES[1:]:
            t.send("tx", bite)
    assert world.rows() == wanted(program)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_worker_that_is_fenced_before_the_commit_never_publishes(program):
    world = World()
    with program(world).test(real_sinks=True) as t:
        hook, fenced = t._hook, []

        def fence(step):
            if step == "flushed" and not fenced:
                t._log.fence("shop", "0")
                fenced.extend(world.prepared)
            hook(step)

        t._hook = fence
        send_all(t)
        assert len(fenced) == 1
    assert world.rows() == wanted(program)
    assert not set(fenced) & set(world.published)
    assert ("publish", *fenced[0]) not in world.calls


@pytest.mark.parametrize(("real", "level"), [(True, 2), (False, 1)])
def test_the_embedded_log_syncs_each_commit_where_rows_are_published_outside(real, level):
    app = App("shop")
    tx = app.source("tx", Tx, key="card", start="earliest")
    tx | (app.write_to(World(), name="world") if real else app.sink("topic"))
    with app.test() as t:
        t.send("tx", BITES[0])
        assert t._log._file.run("PRAGMA synchronous") == [(level,)]  # SQLite: 1 is NORMAL, 2 is FULL


def test_what_is_called_when():
    world = World()
    with stateless(world).test(real_sinks=True) as t:
        t.crash(at="committed")
        t.send("tx", BITES[0])
        token = b"1-2"
        assert world.calls == [
            ("recover", 0, 0, None),
            ("prepare", 0, 1),
            # the worker dies
            ("publish", 0, token),
            ("recover", 0, 1, token),
        ]
        # Once a commit has noted that it is published, it is left alone; so it is while nothing comes.
        assert world.published
        t.restart()
        t.work()
        assert world.calls[4:] == [("recover", 0, 2, None)]
        # A commit without rows for the sink is not prepared.
        t.send("tx", [Tx("a", 9, 0)])
        assert world.calls[5:] == []


def test_leftovers_of_a_commit_that_failed_go_at_the_next_start():
    world = World()
    with stateless(world).test(real_sinks=True) as t:
        t.crash(at="flushed")
        t.send("tx", BITES[0])
        assert [int(token.split(b"-")[0]) for _, token in world.prepared] == [1]
        t.restart()
        t.work()
        assert not world.prepared


@pytest.mark.parametrize("program", PROGRAMS)
def test_after_a_clean_stop_nothing_is_left_to_be_published(program):
    world = World()
    with program(world).test(real_sinks=True) as t:
        t.crash(at="committed")
        t.send("tx", BITES[0])
        t.send("tx", BITES[1])
        t._worker.leave()
        t.restart()
        before = len(world.calls)
        t.work()
        assert [name for name, *_ in world.calls[before:]] == ["recover"]


def test_a_clean_stop_in_the_middle_of_a_window_that_closes_in_pieces_leaves_nothing_to_be_published():
    world, app = World(), App("pieces")
    tx = app.source("tx", Tx, key="card", start="earliest", idle="1h")
    tx | Window(tumbling("1m"), [agg.count().alias("n")]) | app.write_to(world, name="world")
    with app.test(real_sinks=True, poll_records=1) as t:
        t.send("tx", [Tx(f"c{i}", 0, 1) for i in range(60)])
        work, t.work = t.work, lambda: None
        t.send("tx", [Tx("far", 99_999_999, 1)])
        t.work = work
        for _ in range(4):
            t.clock.sleep(0.25)
            t._worker.turn()
        assert t._worker.running[0].chain.unfinished
        t._worker.leave()
        assert 0 < sum(map(len, world.published.values())) < 60
        t.restart()
        before = len(world.calls)
        t._worker = t._start()
        while not t._worker.complete:
            t._worker.turn()
        assert [name for name, *_ in world.calls[before:]][:1] == ["recover"]
        t.work()
        assert sorted(row["card"] for rows in world.published.values() for row in rows) == sorted(
            f"c{i}" for i in range(60)
        )


def test_a_sink_that_was_taken_out_is_refused_while_its_rows_are_not_published():
    world = World()
    with stateful(world).test(real_sinks=True) as t:
        t.crash(at="committed")
        t.app, t._until_quiet = stateful(world), _dies(t, t._until_quiet)
        t.send("tx", BITES[0])
        changed = App("shop")
        tx = changed.source("tx", Tx, key="card", start="earliest")
        tx | Running([agg.count().alias("n")]).named("counts") | changed.sink("counts")
        t.app, unchanged = changed, t.app
        del t._until_quiet
        with pytest.raises(StateMismatch, match=r"prepared rows for a sink that is not there any more\n.*sinks world"):
            t.work()
        t.restart()
        t.app = unchanged
        t.work()
        assert world.published
        t._worker.leave()
        t.restart()
        t.app = changed
        t.send("tx", BITES[1])
        assert len(t.read("counts", dict)) == 4


def _dies(t, until_quiet):
    """Work until the worker has died, and leave it so."""

    def work() -> None:
        t._worker = t._worker or t._start()
        try:
            while True:
                t.clock.sleep(0.25)
                t._worker.turn()
        except Crash:
            t.restart()

    return work


@pytest.mark.parametrize("token", ["text", b"x" * 257, None.__class__])
def test_a_token_that_is_none(token):
    world = World()
    world.token = token
    with stateless(world).test(real_sinks=True) as t, pytest.raises(SinkError, match=r"the token of sink 'world' is"):
        send_all(t)


def test_a_long_token_has_room_in_the_commit_of_a_task_without_state():
    world = World()
    app = App("shop")
    tx = app.source("t" * 249, Tx, start="earliest")
    worlds = [World() for _ in range(3)]
    for index, world in enumerate(worlds):
        world.token = bytes([index]) * 256
        world.publish = lambda task, token: None  # type: ignore[method-assign]
        tx | app.write_to(world, name=f"world-{index}-{'w' * 30}")
    with app.test(real_sinks=True) as t:
        t.crash(at="committed", count=1)
        notes = []
        commit = t._start

        def start():
            worker = commit()
            writer = worker._writer
            told = writer.commit

            def look(positions, leases):
                notes.extend(c.note for c in positions.values())
                told(positions, leases)

            writer.commit = look
            return worker

        t._start = start
        t.send("t" * 249, BITES[0])
        assert 1500 < max(map(len, notes)) < 2048


def test_without_real_sinks_rows_are_kept_in_memory_and_read_by_the_sinks_name():
    world = World()
    with stateful(world).test(partitions=2, crash_at="committed") as t:
        send_all(t)
        t.expect("world", t.read("counts", dict))
        assert t.read("world", Seen)[0].n == 1
        assert "world: 5 rows" in t.report()
    assert not world.calls


def test_rows_are_counted_and_the_sinks_time_is():
    with stateful(World()).test(real_sinks=True) as t:
        send_all(t)
        text = t._worker.metrics.expose().decode()
        assert 'streams_records_out_total{topic="world"} 5.0' in text
        assert 'streams_operator_seconds_total{operator="world"}' in text
        assert t._worker.reporter.report.records_out == {"counts": 5, "shop-dead": 0, "world": 5}
        assert t._worker.reporter.report.operators["world"].rows == 5


def test_positions_of_before_can_be_read():
    old = msgspec.msgpack.encode([{}, 5, 6, ["a"], [1, 2, 3], "", "before"])
    assert TaskPosition.decode(old).tokens == {}
    made = TaskPosition({}, tokens={"files": b"\x00\xff"})
    assert TaskPosition.decode(made.encode()).tokens == {"files": b"\x00\xff"}


def test_the_sink_in_memory_keeps_the_contract():
    sink = MemorySink()
    check_sink(lambda: sink, lambda: map(msgspec.json.decode, sink.values()))


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("publishes at once", "prepare", "rows that are prepared only"),
        ("publishes twice", "publish", "a token that is published twice"),
        ("deletes what is newer", "recover", None),
    ],
)
def test_the_contract_suite_finds(name, change, told):
    class Wrong(MemorySink):
        def prepare(self, task, sequence, frame):
            token = super().prepare(task, sequence, frame)
            if change == "prepare":
                super().publish(task, token)
            return token

        def publish(self, task, token):
            super().publish(task, token)
            if change == "publish":
                self.again = [*getattr(self, "again", []), token]

        def values(self):
            return super().values() + [b'{"n":1}'] * (len(getattr(self, "again", [])) - 1)

        def recover(self, task, sequence, token):
            super().recover(task, 1000 if change == "recover" else sequence, token)

    sink = Wrong()
    with pytest.raises(AssertionError, match=told or "a commit beside a worker that has lost the task"):
        check_sink(lambda: sink, lambda: map(msgspec.json.decode, sink.values()))


def test_all_steps_are_there():
    assert set(STEPS) < set(CRASHES)
