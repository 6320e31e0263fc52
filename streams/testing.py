"""Test a program deterministically: real log, real state, a clock that moves when told, crashes at named steps."""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec

from streams.core.clock import ManualClock
from streams.core.errors import SettingsError
from streams.core.keys import key_bytes
from streams.core.record import Produced, TopicPartition
from streams.core.schema import Schema, describe
from streams.core.stream import Node
from streams.log.base import TopicSpec
from streams.protocol import STEPS
from streams.settings import Settings

if TYPE_CHECKING:
    from streams.app import App
    from streams.runtime.worker import Worker

_ALIASES = {"before_commit": "flushed", "after_commit": "committed"}


class Crash(BaseException):
    """Stands for the death of the process; nothing in the engine catches it."""


class TestRun:
    """A run of a program on an embedded log in a temporary directory, in this process and thread.

    Use it as `with app.test() as t:`. `send` writes records and works until everything is processed and committed;
    `read` gives what has been committed to a topic. `crash(at=...)` lets the worker die at that step of its next
    commit; a new worker then takes over by itself. The clock stands still but for `sleep` and a quarter of a second for
    each commit.
    """

    __test__ = False

    def __init__(self, app: "App", *, partitions: int = 1, poll_records: int = Settings.poll_records) -> None:
        self.app, self._partitions, self._poll_records = app, partitions, poll_records
        self.clock = ManualClock(1_700_000_000_000)
        self._crash_at: str | None = None
        self.crashes = 0

    def __enter__(self) -> Self:
        from streams.log.embedded import EmbeddedLog

        self._directory = Path(tempfile.mkdtemp(prefix="streams-test-"))
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

    def crash(self, *, at: str = "committed") -> None:
        """Let the worker die at this step of its next commit: one of `streams.protocol.STEPS`."""
        step = _ALIASES.get(at, at)
        if step not in STEPS:
            raise SettingsError(
                f"no step {at!r}", where="crash(at=...)", fix=f"one of: {', '.join((*STEPS, *_ALIASES))}"
            )
        self._crash_at = step

    def restart(self) -> None:
        """Stop the worker without any farewell, as SIGKILL does; the next work starts a new one."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def work(self) -> None:
        """Work until all that lies in the log is processed and committed."""
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

    def read(self, topic: str) -> list[Any]:
        """All that has been committed to a topic, partition by partition: as dictionaries, or as Schema objects where
        the stream that feeds the sink has a schema. Raw bytes where it is not JSON."""
        schema = next((n.type.schema for n in self._sinks(topic)), None)
        out: list[Any] = []
        for value in self.read_raw(topic):
            try:
                out.append(msgspec.json.decode(value, type=schema) if schema is not None else json.loads(value))
            except ValueError:
                out.append(value)
        return out

    def dead(self) -> list[tuple[bytes, str]]:
        """The dead letters: (original bytes, cause)."""
        return [(v, dict(h or []).get("cause", b"").decode()) for v, h in self._read(self.app.dead_letters)]

    def read_raw(self, topic: str) -> list[bytes]:
        return [value for value, _ in self._read(topic)]

    def _read(self, topic: str) -> list[tuple[bytes, Any]]:
        info = self._log.topics([topic]).get(topic)
        if info is None:
            return []
        reader = self._log.reader()
        try:
            partitions = [TopicPartition(topic, p) for p in range(info.partitions)]
            ends, found = self._log.ends(partitions), {p: [] for p in partitions}  # type: ignore[var-annotated]
            starts = self._log.starts(partitions)
            reader.assign(starts)
            left = {p for p in partitions if ends[p] > starts[p]}
            while left:
                for records in reader.poll(100_000, 0.1):
                    found[records.source] += zip(records.values(), records.headers(), strict=True)
                    if records.next_offset >= ends[records.source]:
                        left.discard(records.source)
            return [item for p in partitions for item in found[p]]
        finally:
            reader.close()

    def _start(self) -> "Worker":
        from streams.app import make_worker

        settings = Settings(
            state_dir=str(self._directory / "state"),
            commit_interval=1,
            partitions=self._partitions,
            poll_records=self._poll_records,
            watchdog=0,
        )
        worker = make_worker(self.app, settings, self._log, hook=self._hook, clock=self.clock, wait=0.0)
        worker.start()
        return worker

    def _hook(self, step: str) -> None:
        if step == self._crash_at:
            self._crash_at = None
            raise Crash(step)

    def _source(self, topic: str) -> Node:
        for node in self.app.graph.nodes.values():
            if node.source is not None and node.source.topic == topic:
                return node
        known = [n.source.topic for n in self.app.graph.nodes.values() if n.source is not None]
        raise SettingsError(f"no source {topic!r}", where="send", fix=f"sources: {', '.join(known)}")

    def _sinks(self, topic: str) -> list[Node]:
        return [n for n in self.app.graph.nodes.values() if n.sink is not None and n.sink.topic == topic]


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
