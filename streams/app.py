"""The composition root: an `App` holds a program; only here are implementations chosen."""

import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streams.core import stream as build
from streams.core import topic_names
from streams.core.errors import BuildError
from streams.core.failures import Policy, checked
from streams.core.schema import Schema
from streams.core.sinks import Outside, TwoPhaseSink, outside
from streams.core.stream import Graph, Sink, Stream
from streams.core.topology import Topology, cut

if TYPE_CHECKING:
    from streams.log.base import Log
    from streams.runtime.notes import Note
    from streams.runtime.worker import Worker
    from streams.settings import Settings
    from streams.state.base import StateStore
    from streams.testing import TestRun


class App:
    """A program: sources, operators and sinks under a name.

    The name is the application's identity on the log: its leases, changelogs and shuffles carry it. `dead_letters` is
    the topic for bad records, by default `<name>-dead`.

    `on_error`: what becomes of a row on which a function of yours fails (MapRows, FlatMap, MapFrame, Keyed), where the
    operator does not say: "dead-letter", "stop" (the worker ends with an error, and the row is processed again at the
    next start), "retry", or `Retry(times=3, pause="100ms", then="stop")`.

    >>> from streams import App, EventTime, Schema, col
    >>> from operators import Filter
    >>> class Payment(Schema):
    ...     card_id: str
    ...     at: EventTime
    ...     amount: int
    >>> app = App("spending")
    >>> payments = app.source("tx", Payment, key="card_id", start="earliest")
    >>> payments | Filter(col("amount") > 100) | app.sink("large")
    >>> with app.test() as t:
    ...     t.send("tx", [Payment("c1", 0, 50), Payment("c1", 1, 500)])
    ...     t.read("large")
    [Payment(card_id='c1', at=1, amount=500)]
    """

    def __init__(self, name: str, *, dead_letters: str | None = None, on_error: Policy = "dead-letter") -> None:
        if topic_names.fault(name):
            raise BuildError(f"{name!r} is not a name for an app", fix=topic_names.FIX)
        self.name = name
        self.dead_letters = dead_letters or f"{name}-dead"
        topic_names.check(self.dead_letters, "App(dead_letters=...)" if dead_letters else f"App({name!r})")
        self.graph = Graph(on_error=checked(on_error, f"App({name!r})"))

    def source(
        self,
        topic: str,
        schema: type[Schema] | None = None,
        *,
        start: str = "",
        key: str | Sequence[str] = (),
        disorder: str | int = 0,
        idle: str | int = "10s",
        validate: str = "used",
        ahead: str | int = "366d",
        behind: str | int = "18262d",
    ) -> Stream:
        """A stream of the records of a topic.

        - `schema`: the records' type (JSON objects). None: raw bytes in one column `value`.
        - `start`: where the very first run begins, "earliest" or "latest". Later runs go on where the last one stood.
        - `key`: the columns that the topic is partitioned by, if it is (hashed as Java clients do).
        - `disorder`: how far out of order records may be; the watermark stays that far behind.
        - `idle`: after so long without a record, at the topic's end, the source no longer holds event time back.
        - `validate`: "used" judges the fields that the program reads, "all" every field of the schema.
        - `ahead`, `behind`: an event time further than this from the record's own timestamp is implausible, and the
          record a dead letter.
        """
        spec, type_ = build.make_source(
            topic,
            schema,
            key=(key,) if isinstance(key, str) else tuple(key),
            disorder=disorder,
            start=start,
            idle=idle,
            validate=validate,
            ahead=ahead,
            behind=behind,
        )
        return build.source(self.graph, spec, type_.key, type_)

    def sink(self, topic: str, *, key: str | Sequence[str] = (), partitions: int | None = None) -> Sink:
        """A topic to write to, as JSON: `stream | app.sink("alerts", key="card_id")`.

        `key`: the columns of the records' key; by default the stream's key. `partitions`: how many, if it is made.
        """
        topic_names.check(topic, "app.sink(...)")
        return Sink(topic, (key,) if isinstance(key, str) else tuple(key), partitions)

    def write_to(self, sink: TwoPhaseSink, *, name: str) -> Outside:
        """A sink outside the log, exactly once: `stream | app.write_to(FileSink("out"), name="files")`.

        `name`: its stable id. What a commit has prepared is found by it after a restart, so a sink that was renamed or
        taken out is refused until what it had prepared is published: a clean stop sees to that.
        """
        return outside(sink, name)

    def topology(self) -> Topology:
        """The program, checked and cut into sub-topologies."""
        return cut(self.graph)

    def test(
        self,
        *,
        partitions: int = 1,
        poll_records: int = 20_000,
        crash_at: str | None = None,
        real_sinks: bool = False,
    ) -> "TestRun":
        """Run the program deterministically, with crashes where you want them: see `streams.testing`."""
        from streams.testing import TestRun

        return TestRun(self, partitions=partitions, poll_records=poll_records, crash_at=crash_at, real_sinks=real_sinks)

    def run(self, settings: "Settings | None" = None, **options: Any) -> None:
        """Work as one worker process until SIGTERM or SIGINT."""
        from streams.settings import load

        settings = settings if settings is not None else load(options)
        opened = open_log(settings)
        try:
            worker = make_worker(self, settings, opened)
            for name in (signal.SIGTERM, signal.SIGINT):
                signal.signal(name, lambda *_: worker.stop())
            worker.run()
        finally:
            opened.close()


def open_log(settings: "Settings", *, make: bool = True) -> "Log":
    """The log that the settings name: Kafka with `brokers`, else the embedded one.

    Who only looks says `make=False`: where there is no embedded log none is made, and LogUnreachable says so.
    """
    if settings.brokers:
        from streams.log.kafka import KafkaLog

        return KafkaLog(settings.brokers, settings.kafka)
    from streams.log.embedded import EmbeddedLog
    from streams.log.embedded_places import expect

    if not make:
        expect(Path(settings.log_dir))
    return EmbeddedLog(Path(settings.log_dir))


def open_store(cache_bytes: int) -> "Callable[[Path], StateStore]":
    """What opens a task's state in a directory."""
    from streams.state.rocksdb import RocksStore

    return lambda directory: RocksStore(directory, cache_bytes=cache_bytes)


def make_worker(
    app: App,
    settings: "Settings",
    opened: "Log",
    *,
    hook: Callable[[str], None] | None = None,
    clock: Any = None,
    note: "Note | None" = None,
    wait: float = 0.05,
    kind: "type[Worker] | None" = None,
    had: Mapping[str, int] | None = None,
) -> "Worker":
    """A worker for an app on an opened log. `kind`: another class than `Worker`; `had`: see `prepare`."""
    from streams.core.clock import SystemClock
    from streams.metrics import Metrics
    from streams.runtime.notes import to_logger
    from streams.runtime.offline import drop_abandoned
    from streams.runtime.plan import prepare
    from streams.runtime.tools import Tools
    from streams.runtime.watchdog import Watchdog
    from streams.runtime.worker import Worker

    clock = clock if clock is not None else SystemClock()
    plan = prepare(app.name, app.topology(), opened, app.dead_letters, settings.partitions, had=had or {})
    state_dir = Path(settings.state_dir) / app.name / settings.slot
    state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    drop_abandoned(state_dir)
    cache = settings.cache_bytes // max(1, len(plan.tasks))
    say = note if note is not None else to_logger
    snapshots = None
    if settings.checkpoints:
        from streams.checkpoint.location import Location
        from streams.runtime.snapshots import Snapshots

        snapshots = Snapshots(
            Location(settings.checkpoints, settings.checkpoint_options),
            app.name,
            plan.fingerprint,
            state_dir / "snapshots",
            state_dir / "checkpoints.json",
            clock,
            say,
            interval=settings.snapshot_interval / 1000,
            keep=settings.snapshots_kept,
            bytes_per_second=settings.upload_bytes,
            durable_after=opened.durable_after,
        )
    tools = Tools(
        opened,
        plan,
        settings,
        clock,
        open_store(cache),
        state_dir,
        say,
        download=snapshots.restore if snapshots is not None else None,
        corrupted=snapshots.corrupted if snapshots is not None else None,
        location=snapshots.token if snapshots is not None else None,
    )
    metrics = Metrics()
    watchdog = Watchdog(settings.watchdog / 1000, metrics, tools.place, exit_after=settings.watchdog_exit / 1000)
    made = kind or Worker
    return made(tools, metrics=metrics, hook=hook, clock=clock, wait=wait, snapshots=snapshots, watchdog=watchdog)
