"""Test a program deterministically: real log, real state, a clock that moves when told, crashes at named steps."""

import copy
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec

from streams.core.clock import ManualClock
from streams.core.errors import SettingsError, StreamsError
from streams.core.keys import key_bytes
from streams.core.record import Produced
from streams.core.schema import Schema, describe, nearest
from streams.core.stream import Node, with_sinks
from streams.core.time import NEVER, duration
from streams.core.wording import counted
from streams.differences import difference, shown
from streams.log.base import TopicSpec
from streams.log.reading import read_all
from streams.protocol import STEPS
from streams.settings import Settings
from streams.sink_testing import MemorySink, check_sink

if TYPE_CHECKING:
    from streams.app import App
    from streams.dlq.letters import DeadLetter
    from streams.runtime.worker import Worker

__all__ = ["CRASHES", "Crash", "MemorySink", "TestRun", "check_sink"]

CRASHES = (None, *STEPS)
"""No crash, and a crash at each step of the commit: for `pytest.mark.parametrize` and `app.test(crash_at=...)`."""

_ALIASES = {"before_commit": "flushed", "after_commit": "committed"}
_MEMORY = Path("/dev/shm")  # a directory in memory: RocksDB's many syncs cost nothing there
_ROOM = 1 << 30


class Crash(BaseException):
    """Stands for the death of the process; nothing in the engine catches it."""


@dataclass
class _Planned:
    """Crashes to come: at this step, so many times, after so many times without."""

    step: str
    count: int
    skip: int


class TestRun:
    """A run of a program on an embedded log in a temporary directory, in this process and thread.

    Use it as `with app.test() as t:`. `send` writes records and works until everything is processed and committed;
    `read` and `expect` give and check what has been committed to a topic, `dead_letters`, `late` and `state` what did
    not become output. `advance_to` and `finish` move event time, so that windows close and timers fire.

    `crash(at=...)` lets the worker die at that step of its next commit; a new worker then takes over by itself. With
    `app.test(crash_at=...)` the worker dies at that step each time there is something to commit: a test of a program
    that is exactly-once has the same result with each of `streams.testing.CRASHES`.

    Sinks outside the log (`app.write_to`) are replaced by one in memory, which is read by the sink's name like a topic:
    a test writes to no database by accident. With `app.test(real_sinks=True)` the program's own are used.

    The clock stands still but for `sleep` and a quarter of a second for each commit.

    >>> from operators import Window, agg, tumbling
    >>> from streams import App, EventTime, Schema
    >>> class Payment(Schema):
    ...     card: str
    ...     at: EventTime
    ...     amount: int
    >>> app = App("shop")
    >>> payments = app.source("payments", Payment, key="card", start="earliest")
    >>> payments | Window(tumbling("1m"), [agg.sum("amount").alias("spent")]).named("minutes") | app.sink("spent")
    >>> for step in CRASHES:
    ...     with app.test(crash_at=step) as t:
    ...         t.send("payments", [Payment("c1", 0, 5), Payment("c1", 30_000, 7)])
    ...         assert t.state("minutes", "c1")[0]["spent"] == 12
    ...         t.finish()
    ...         t.expect("spent", [{"card": "c1", "window_start": 0, "window_end": 60_000, "spent": 12}])
    """

    __test__ = False

    def __init__(
        self,
        app: "App",
        *,
        partitions: int = 1,
        poll_records: int = Settings.poll_records,
        crash_at: str | None = None,
        real_sinks: bool = False,
    ) -> None:
        self.app, self._partitions, self._poll_records = app, partitions, poll_records
        self.clock = ManualClock(1_700_000_000_000)
        self._planned: _Planned | None = None
        self._crash_at = _step(crash_at) if crash_at is not None else None
        self._died = False
        self._late: dict[str, int] = {}
        self._dropped: dict[tuple[str, str], int] = {}
        self.crashes = 0
        self._real_sinks = real_sinks
        self._memory: dict[str, MemorySink] = {}

    def __enter__(self) -> Self:
        from streams.log.embedded import EmbeddedLog

        self._directory = _directory()
        self._log = EmbeddedLog(self._directory / "log")
        sources = [n.source.topic for n in self.app.graph.nodes.values() if n.source is not None]
        self._log.create([TopicSpec(t, self._partitions, {}) for t in sources])
        self._feeder = self._log.writer(f"{self.app.name}-test", "feeder")
        self._worker: Worker | None = None
        return self

    def __exit__(self, *error: object) -> None:
        if self._worker is not None:
            self._worker.close()
        self._feeder.close()
        self._log.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    # ---- what happens

    def send(
        self, topic: str, rows: Sequence[Schema | bytes | Mapping[str, Any]], *, partition: int | None = None
    ) -> None:
        """Write records to a source topic, all at once, and work until they are processed and committed.

        Rows are Schema objects, mappings (written as JSON), or bytes as they are. They go to the partition of the
        source's key, to `partition` where given, else to partition 0.
        """
        node = self._source(topic)
        values = [r if isinstance(r, bytes) else msgspec.json.encode(_plain(r)) for r in rows]
        keys, stamps = [], []
        for row in rows:
            plain = None if isinstance(row, bytes) else _plain(row)
            keys.append(_key(node, plain))
            time = node.source.time if node.source is not None else None
            stamps.append(plain[time] if plain is not None and time is not None and time in plain else self.clock.now())
        spread = partition if partition is not None else (None if node.type.key else 0)
        if spread is None and any(k is None for k in keys):
            spread = 0
        self._feeder.append(Produced(topic, spread, keys, values, [max(0, int(s)) for s in stamps]))
        self._feeder.commit({}, {})
        self.work()

    def sleep(self, seconds: float) -> None:
        """Let wall-clock time pass (for idle sources), and work."""
        for _ in range(10):
            self.clock.sleep(seconds / 10)
            self.work()

    def advance_to(self, at: int) -> None:
        """Move event time to this instant (milliseconds) in every source partition, and work.

        It is as if each partition had brought a record that moves its watermark there: windows close, timers fire, and
        a row with an earlier event time is late from now on. Event time never goes back.
        """
        self.work()
        self._died = False
        while True:  # a worker that dies before the commit takes the advance with it
            crashes = self.crashes
            for task in self._running().running:
                for item in task.inputs:
                    if item.source is None or item.source.time is None:
                        continue
                    item.maximum = max(item.maximum, at + item.source.disorder)
                    channel = item.channels[0]
                    channel.watermark, channel.idle = max(channel.watermark, at), False
                    item.idle_since = None
                    task.touched = True
                task.step()
            self._until_quiet()
            if self.crashes == crashes:
                return

    def finish(self, after: str | int = "31d") -> None:
        """Move event time so far beyond the newest record that windows have closed and timers fired.

        `after`: how far. A timer that sets itself again fires until then, so it is not for ever.
        """
        self.work()
        marks = [i.maximum for t in self._running().running for i in t.inputs if i.source is not None]
        newest = max(marks, default=NEVER)
        if newest > NEVER:
            self.advance_to(newest + duration(after))

    def crash(self, *, at: str | None = "committed", count: int = 1, skip: int = 0) -> None:
        """Let the worker die at this step of its next commit: one of `streams.protocol.STEPS`; None: not at all.

        `count`: so many times, the next worker at the same step of its first commit, and so on. `skip`: let so many
        commits pass before.
        """
        self._planned = _Planned(_step(at), count, skip) if at is not None and count > 0 else None

    def restart(self) -> None:
        """Stop the worker without any farewell, as SIGKILL does; the next work starts a new one."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def work(self) -> None:
        """Work until all that lies in the log is processed and committed."""
        self._died = False
        self._until_quiet()

    def _until_quiet(self) -> None:
        quiet = 0
        while quiet < 3:
            self._worker = self._worker or self._start()
            before = self._worker.status.commits
            try:
                if self._worker.busy:
                    self.clock.sleep(0.25)  # the next commit, with the markers of its shuffles, is due
                self._worker.turn()
            except Crash:
                self.crashes += 1
                self.restart()
                quiet = 0
                continue
            busy = self._worker.busy or not self._worker.complete or self._worker.status.commits != before
            quiet = 0 if busy else quiet + 1

    # ---- what came of it

    def read(self, topic: str, schema: type[Any] | None = None) -> list[Any]:
        """All that has been committed to a topic, or published by a sink outside the log, partition by partition.

        As objects of `schema`, or dictionaries with `schema=dict`. By default Schema objects where the stream that
        feeds the sink has a schema, else dictionaries. Bytes where a record is not JSON, or does not fit.
        """
        type_ = schema or next((n.type.schema for n in self._sinks(topic)), None) or dict
        out: list[Any] = []
        for value in self.read_raw(topic):
            try:
                out.append(json.loads(value) if type_ is dict else msgspec.json.decode(value, type=type_))
            except ValueError:
                out.append(value)
        return out

    def read_raw(self, topic: str) -> list[bytes]:
        """The values of the records that have been committed to a topic, partition by partition."""
        return [value for value, _ in self._read(topic)]

    def expect(self, topic: str, rows: Iterable[Schema | Mapping[str, Any] | bytes], *, in_order: bool = True) -> None:
        """Exactly these rows have been committed to a topic; else AssertionError, which says how they differ.

        Schema objects and mappings are compared by their fields. `in_order=False`: in any order, which is what a
        program promises where several partitions meet.
        """
        __tracebackhide__ = True
        wanted = [r if isinstance(r, bytes) else _plain(r) for r in rows]
        found = self.read(topic, dict)
        told = difference(wanted, found, in_order)
        if told:
            counts = f"{len(found)} rows, {len(wanted)} were expected"
            raise AssertionError("\n".join([f"topic {topic!r} has {counts}:", told, *self._unseen()]))

    def dead_letters(self) -> "list[DeadLetter]":
        """The dead letters, with all that they tell: `value`, `cause`, `operator`, `topic`, `offset`, ..."""
        from streams.dlq.letters import read

        return list(read(self._log, self.app.dead_letters))

    def dead(self) -> list[tuple[bytes, str]]:
        """The dead letters in short: (original bytes, cause)."""
        return [(letter.value, letter.cause) for letter in self.dead_letters()]

    def late(self) -> dict[str, int]:
        """How many rows came too late for each operator, up to the last commit. The rows themselves are its side output
        `late`: pipe it into a sink, and read that."""
        return dict(self._late)

    def dropped(self) -> dict[tuple[str, str], int]:
        """How many rows each operator has dropped on purpose, up to the last commit: by (operator, why)."""
        return dict(self._dropped)

    def state(self, operator: str, *key: Any) -> Any:
        """What an operator keeps of a key, given by the values of its columns; None if it keeps nothing.

        Of a keyed class its values by name; of Running its aggregations; of Window its open windows, as the rows they
        would give now. An operator of your own tells it by `state_of`.
        """
        self.work()
        known = [n for n in self.app.graph.nodes.values() if n.kind == "operator" and n.operator is not None]
        node = next((n for n in known if n.id == operator), None)
        if node is None or node.operator is None or not node.operator.stores:
            stateful = [n.id for n in known if n.operator is not None and n.operator.stores]
            raise SettingsError(
                f"no operator {operator!r} with state{nearest(operator, stateful)}",
                where="state",
                fix=f"there are: {', '.join(stateful) or 'none'}; name one with .named(...)",
            )
        for task in self._running().running:
            opened = task.chain.operator(operator)
            found = opened.state_of(key) if opened is not None else None
            if found is not None:
                return found
        return None

    def report(self) -> str:
        """What lies in the outputs, the dead letters, and how many rows were late: to be read beside a failure."""
        lines = []
        topics = {n.sink.topic for n in self.app.graph.nodes.values() if n.sink is not None}
        for topic in sorted({*topics, *self._memory}):
            rows = self.read(topic, dict)
            lines.append(f"{topic}: {len(rows)} rows")
            lines += [f"  {shown(row)}" for row in rows[-10:]]
        return "\n".join([*lines, *self._unseen()])

    def _unseen(self) -> list[str]:
        """What did not become output, and how often the worker died."""
        letters = self.dead_letters()
        lines = [f"{counted(len(letters), 'dead letter')}:"] if letters else []
        lines += [f"  {each.source}, {each.operator}: {each.cause.splitlines()[0][:300]}" for each in letters[:10]]
        lines += [f"{count} rows came too late for {operator}" for operator, count in self._late.items()]
        lines += [f"{count} rows were dropped by {operator}: {why}" for (operator, why), count in self._dropped.items()]
        return [*lines, f"the worker died {self.crashes} times"] if self.crashes else lines

    # ---- inside

    def _read(self, topic: str) -> list[tuple[bytes, Any]]:
        if topic in self._memory:
            return [(value, None) for value in self._memory[topic].values()]
        if self._real_sinks and any(n.id == topic and n.outside is not None for n in self.app.graph.nodes.values()):
            raise SettingsError(
                f"{topic!r} is a sink outside the log: the test cannot read what it wrote",
                where="app.test(real_sinks=True)",
                fix="read it where it was written; without real_sinks it is kept in memory, and can be read here",
            )
        info = self._log.topics([topic]).get(topic)
        if info is None:
            return []
        found: dict[int, list[tuple[Any, Any]]] = {p: [] for p in range(info.partitions)}
        for records in read_all(self._log, topic):
            found[records.source.partition] += zip(records.values(), records.headers(), strict=True)
        return [item for p in sorted(found) for item in found[p]]

    def _running(self) -> "Worker":
        if self._worker is None:
            raise StreamsError("no worker runs", where=self.app.name, fix="call t.work()")
        return self._worker

    def _start(self) -> "Worker":
        from streams.app import make_worker

        settings = Settings(
            state_dir=str(self._directory / "state"),
            commit_interval=1,
            partitions=self._partitions,
            poll_records=self._poll_records,
            watchdog=0,
        )
        app = self.app
        if not self._real_sinks:
            app = copy.copy(app)
            app.graph = with_sinks(app.graph, lambda node: self._memory.setdefault(node.id, MemorySink()))
        worker = make_worker(app, settings, self._log, hook=self._hook, clock=self.clock, wait=0.0)
        worker.start()
        return worker

    def _hook(self, step: str) -> None:
        if step == "committed":  # from here on it counts, whether or not the worker lives to tell
            for task in self._running().running:
                _add(self._late, task.chain.counts.late)
                _add(self._dropped, task.chain.counts.dropped)
        planned = self._planned
        if planned is not None and step == planned.step:
            if planned.skip:
                planned.skip -= 1
                return
            planned.count -= 1
            self._planned = planned if planned.count else None
            raise Crash(step)
        if step == self._crash_at and not self._died:
            self._died = True
            raise Crash(step)

    def _source(self, topic: str) -> Node:
        for node in self.app.graph.nodes.values():
            if node.source is not None and node.source.topic == topic:
                return node
        known = [n.source.topic for n in self.app.graph.nodes.values() if n.source is not None]
        raise SettingsError(f"no source {topic!r}", where="send", fix=f"sources: {', '.join(known)}")

    def _sinks(self, topic: str) -> list[Node]:
        return [
            n
            for n in self.app.graph.nodes.values()
            if (n.sink is not None and n.sink.topic == topic) or (n.outside is not None and n.id == topic)
        ]


def _plain(row: Any) -> dict[str, Any]:
    return msgspec.structs.asdict(row) if isinstance(row, Schema) else dict(row)


def _key(node: Node, plain: Mapping[str, Any] | None) -> bytes | None:
    import polars as pl

    if plain is None or not node.type.key or not all(k in plain for k in node.type.key):
        return None
    assert node.source is not None and node.source.schema is not None
    fields, _ = describe(node.source.schema)
    frame = pl.DataFrame({k: pl.Series(k, [plain[k]], dtype=fields[k].dtype) for k in node.type.key})
    key: bytes | None = key_bytes(frame, node.type.key).item()
    return key


def _step(at: str) -> str:
    step = _ALIASES.get(at, at)
    if step not in STEPS:
        fix = f"one of: {', '.join((*STEPS, *_ALIASES))}"
        raise SettingsError(f"no step {at!r}{nearest(at, STEPS)}", where="crash", fix=fix)
    return step


def _add(total: dict[Any, int], counts: Mapping[Any, int]) -> None:
    for name, count in counts.items():
        total[name] = total.get(name, 0) + count


def _directory() -> Path:
    """A temporary directory: in memory where there is room, unless TMPDIR says where."""
    where = None
    if not any(os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP")) and os.access(_MEMORY, os.W_OK):
        free = os.statvfs(_MEMORY)
        where = _MEMORY if free.f_bavail * free.f_frsize > _ROOM else None
    return Path(tempfile.mkdtemp(prefix="streams-test-", dir=where))
