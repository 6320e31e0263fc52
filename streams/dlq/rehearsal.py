"""Running one dead letter through the program again, with nothing of the application touched.

1. The program is placed on a view of the log that cannot be written to (`readonly`).
2. The state of the task that had the record is copied into a temporary directory: the newest snapshot, if there is a
   checkpoint location, and the changelog behind it.
3. A task is opened on the copy, in this process, without group or lease.
4. The letter's record is its input; what comes out is kept instead of written.

The state is that of now, not of the moment when the record failed. The record's own watermark says that it is on time;
it is late all the same for windows that have been closed since.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from streams.codec.blocks import decode_block
from streams.codec.json import JsonDecoder, encode
from streams.core.batch import ROW, TIME, WATERMARK, Batch
from streams.core.clock import SystemClock
from streams.core.errors import OperatorError, StreamsError
from streams.core.record import Headers, Produced, TopicPartition
from streams.core.schema import StreamType
from streams.core.sinks import SinkTask, TwoPhaseSink
from streams.core.stream import with_sinks
from streams.core.topology import SubTopology, TaskId, cut
from streams.core.watching import Watcher, watching
from streams.dlq.letters import DeadLetter
from streams.dlq.readonly import ReadOnlyLog
from streams.dlq.restored import restore_copy
from streams.log.base import Log
from streams.protocol import Lease
from streams.runtime.inputs import BlockOrigin
from streams.runtime.plan import Plan, prepare
from streams.runtime.task import Task
from streams.runtime.tools import Tools

if TYPE_CHECKING:
    from streams.app import App
    from streams.checkpoint.location import Location
    from streams.settings import Settings

Note = Callable[[str], None]


@dataclass
class Outcome:
    """What became of the record: `causes` (operator, cause) of dead letters, none if it passes; `outputs` (where to,
    record or row as text); how many rows each operator was given; and how many entries of each store it changed."""

    task: str
    causes: list[tuple[str, str]] = field(default_factory=list)
    outputs: list[tuple[str, str]] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    changed: dict[str, int] = field(default_factory=dict)
    late: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class OneRecord:
    """The letter's record, as a log's reader would give it."""

    letter: DeadLetter

    @property
    def source(self) -> TopicPartition:
        return TopicPartition(self.letter.topic, self.letter.partition)

    @property
    def next_offset(self) -> int:
        return self.letter.offset + 1

    def __len__(self) -> int:
        return 1

    def values(self) -> Sequence[bytes | None]:
        return [self.letter.value]

    def keys(self) -> Sequence[bytes | None]:
        return [self.letter.key]

    def timestamps(self) -> Sequence[int]:
        return [self.letter.timestamp]

    def first_timestamp(self) -> int:
        return self.letter.timestamp

    def offsets(self) -> Sequence[int]:
        return [self.letter.offset]

    def headers(self) -> Sequence[Headers | None]:
        return [list(self.letter.headers)]


class _Captured(TwoPhaseSink):
    """Stands where a sink outside the log does: it keeps what would have been written."""

    def __init__(self, name: str, captured: list[Produced]) -> None:
        self._name, self._captured = name, captured

    def prepare(self, task: SinkTask, sequence: int, frame: pl.DataFrame) -> bytes:
        values = encode(frame)
        self._captured.append(Produced(self._name, 0, [None] * len(values), values, 0))
        return b""

    def publish(self, task: SinkTask, token: bytes) -> None:
        pass


def rehearse(
    app: "App",
    settings: "Settings",
    log: Log,
    letter: DeadLetter,
    *,
    watcher: Watcher = lambda operator, error: None,
    note: Note = lambda text: None,
    state_dir: Path | None = None,
) -> Outcome:
    """Run the letter's record through its task. `watcher` is called with each exception of a user's function, while it
    is being handled: a debugger can be started there. `state_dir`: as `streams run` was told, of a stopped worker; by
    default the state is made from snapshot and changelog.

    Raises StreamsError where the letter cannot be placed (a timer's call, an operator that is gone), and what restoring
    raises.
    """
    from streams.app import open_store

    view = ReadOnlyLog(log)
    captured: list[Produced] = []
    topology = cut(with_sinks(app.graph, lambda node: _Captured(node.id, captured)))
    plan = prepare(app.name, topology, view, app.dead_letters, settings.partitions)
    sub, task_id = _placed(plan, letter)
    home = Path(tempfile.mkdtemp(prefix="streams-debug-"))
    open_state = open_store(settings.cache_bytes)
    tools = Tools(view, plan, settings, SystemClock(), open_state, home, lambda text, *_, **__: note(text))
    sequence = 0
    try:
        if sub.stateful:
            note("restoring a copy of the task's state")
            local = _local(view, plan, task_id, state_dir)
            where = home / f"{sub.index}-{task_id.partition}"
            location = _location(settings) if local is None else None
            sequence = restore_copy(view, plan, task_id, where, local=local, location=location, note=note)
        task = Task(task_id, Lease("debug", True, plan.fingerprint, sequence), tools, captured.append)
        try:
            for _ in task.open({}):
                pass
            captured.clear()  # what opening gave (windows that were due) is not this record's
            outcome = Outcome(str(task_id))

            def failed(operator: str, error: BaseException) -> None:
                kept = _state(task, plan, letter, operator)
                if kept:
                    note(kept)
                watcher(operator, error)

            with watching(failed):
                try:
                    _feed(task, plan, sub, letter)
                    _finish(task, outcome)
                except OperatorError as error:
                    cause = error.__cause__ or error
                    failed("", cause)
                    outcome.causes = [("", f"{error.what} (the worker stops at this: it makes no dead letter)")]
            outcome.outputs = [line for produced in captured for line in _lines(plan, produced)]
            return outcome
        finally:
            task.close()
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _placed(plan: Plan, letter: DeadLetter) -> tuple[SubTopology, TaskId]:
    """The sub-topology and the task that had the record."""
    for sub in plan.topology.subs:
        inputs = [plan.input_topic(sub, index) for index in range(len(sub.inputs))]
        here = letter.topic in inputs if letter.topic else any(n.id == letter.operator for n in sub.nodes)
        if here:
            partition = letter.partition if letter.topic else letter.place[0]
            for task in plan.tasks:
                if (task.sub, task.partition) == (sub.index, partition):
                    return sub, task
    what = f"reads the topic {letter.topic!r}" if letter.topic else f"has an operator {letter.operator!r}"
    raise StreamsError(
        f"the program has changed: no task of it {what} any more",
        where=f"dead letter {letter.name}, operator {letter.operator!r}",
        fix="debug it with the program that wrote it; an operator keeps its name over changes with .named(...)",
    )


def _location(settings: "Settings") -> "Location | None":
    if not settings.checkpoints:
        return None
    from streams.checkpoint.location import Location

    return Location(settings.checkpoints, settings.checkpoint_options)


def _local(log: Log, plan: Plan, task: TaskId, state_dir: Path | None) -> Path | None:
    if state_dir is None:
        return None
    lease = log.leases(plan.app, [task.number])[task.number]
    found = state_dir / plan.app / (lease.slot if lease is not None else "0") / f"{task.sub}-{task.partition}"
    if not found.exists():
        raise StreamsError(
            f"no state of task {task} there",
            where=str(found),
            fix="leave --state-dir out: the changelog is read instead",
        )
    return found


def _feed(task: Task, plan: Plan, sub: SubTopology, letter: DeadLetter) -> None:
    """The record goes through the task's operators, on time and at once, whatever it would have had to wait for."""
    if not letter.topic:
        _feed_operator(task, plan, sub, letter)
        return
    index = task.partitions.index(TopicPartition(letter.topic, letter.partition))
    item = task.inputs[index]
    if item.source is None:
        # What a window kept of it counts from its own watermark on; rows of a block carry theirs, JSON does not.
        frame = _row(letter, item.spec.type)
        origin = BlockOrigin(frame, letter.topic, letter.partition, letter.offset)
        task.chain.process({item.spec.node: Batch(frame, origin)})
        return
    item.next = item.fresh = letter.offset  # as if it came now: a bad record is told of, and nothing counts as read
    for read in item.take(OneRecord(letter)):
        frame = read.batch.frame
        if TIME in frame.columns:
            frame = frame.with_columns((pl.col(TIME) - item.source.disorder).alias(WATERMARK))
        task.chain.process({item.spec.node: read.batch.with_frame(frame)})


def _feed_operator(task: Task, plan: Plan, sub: SubTopology, letter: DeadLetter) -> None:
    """A row that comes from no record is given to the operator that failed on it."""
    node = next(n for n in sub.nodes if n.id == letter.operator)
    names = _object(letter).keys()
    ports = [plan.topology.graph.type_of(edge) for edge in node.inputs]
    port = next((number for number, type_ in enumerate(ports) if names <= type_.fields.keys()), None)
    if node.kind != "operator" or port is None:
        raise StreamsError(
            f"the letter holds no row that {letter.operator!r} could be given again",
            where=f"dead letter {letter.name}: {letter.cause[:200]}",
            fix="if a timer's call failed: the timer is gone, its key's values are as before; write a test in which it "
            "fires (app.test(), t.advance_to)",
        )
    task.chain.process_from(node.id, port, Batch(_row(letter, ports[port])))


def _object(letter: DeadLetter) -> dict[str, Any]:
    try:
        made = json.loads(letter.value)
    except ValueError:
        made = None
    if not isinstance(made, dict):
        raise StreamsError("the letter's value is no row", where=f"dead letter {letter.name}")
    return made


def _row(letter: DeadLetter, type_: StreamType) -> pl.DataFrame:
    """The row that the letter's value holds, as a frame of a stream's columns."""
    names = [n for n in type_.fields if n in _object(letter)]
    columns, _, bad = JsonDecoder(dict(type_.fields), names, "used").decode([letter.value])
    if bad:
        raise StreamsError(
            f"the row cannot be read back: {bad[0][1]}",
            where=f"dead letter {letter.name}",
            fix="JSON does not carry every value (NaN, dates); a record of a source topic has its bytes kept",
        )
    frame = pl.DataFrame(columns).with_columns(pl.lit(0, pl.UInt32).alias(ROW))
    if type_.time:
        at = pl.lit(letter.timestamp, pl.Int64)
        frame = frame.with_columns(at.alias(TIME), at.alias(WATERMARK))
    return frame


def _state(task: Task, plan: Plan, letter: DeadLetter, operator: str) -> str:
    """What the failing operator keeps of the record's key, where both can be told."""
    node, opened = plan.topology.graph.nodes.get(operator), task.chain.operator(operator)
    if node is None or opened is None or not opened.stores:
        return ""
    columns = plan.topology.graph.type_of(node.inputs[0]).key
    try:
        row = _object(letter)
        kept = opened.state_of([row[name] for name in columns])
    except (NotImplementedError, StreamsError, KeyError):  # another key's column on the way, an operator of the user's
        return ""
    key = ", ".join(f"{name}={row[name]!r}" for name in columns)
    return f"{operator} keeps of {key}: {kept if kept is not None else 'nothing'}"


def _finish(task: Task, outcome: Outcome) -> None:
    task.drain(0.0)
    letters = task.chain.letters
    outcome.causes = [(operator, cause) for _, cause, operator in letters.last(letters.count)]
    counts = task.chain.counts
    outcome.rows, outcome.late = dict(counts.rows), dict(counts.late)
    if task.store is not None:
        outcome.changed = {change.store: len(change.keys) for change in task.store.changes()}


def _outside(plan: Plan, name: str) -> bool:
    node = plan.topology.graph.nodes.get(name)
    return node is not None and node.outside is not None


def _lines(plan: Plan, produced: Produced) -> Iterator[tuple[str, str]]:
    """What an append would have written."""
    if produced.topic == plan.dead_letters:
        return
    shuffles = {plan.input_topic(sub, i) for sub in plan.topology.subs for i, s in enumerate(sub.inputs) if s.shuffle}
    for value in produced.values:
        if produced.topic not in shuffles:
            where = "sink" if _outside(plan, produced.topic) else "topic"
            yield f"{where} {produced.topic}", (value or b"").decode(errors="replace")
            continue
        frame = decode_block(value or b"").frame
        for row in frame.drop(TIME, WATERMARK, strict=False).to_dicts() if frame is not None else ():
            yield f"shuffle {produced.topic}", json.dumps(row, default=str)
