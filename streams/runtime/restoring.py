"""Restoring a savepoint into an application that has done nothing yet.

1. checked  the savepoint fits the program, all of its data are whole, the application has no work of its own
2. taken    all tasks are held by the slot `protocol.RESTORING` at sequence 0: no worker takes them from it
3. waiting  rows that waited in shuffles are in the shuffles' topics, in a commit of their own
4. state    state is in the changelogs as blocks of rising sequences, in commits of their own (once a commit)
5. placed   one commit: the last block of each changelog with the position, all positions, and all leases, given back
6. left     the group has been left

A crash before 5 leaves tasks that no worker takes. A restore that is run again takes them, deletes what lies in the
changelogs and writes all anew; rows of the first attempt stay in the shuffles' topics, below the positions.
"""

import base64
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING

import polars as pl

from streams.checkpoint.location import Location
from streams.checkpoint.savepoint import SavedTask, Savepoint, read
from streams.codec.blocks import ShuffleBlock, decode_block, encode_block
from streams.core.batch import TIME, WATERMARK
from streams.core.errors import LogError, StateMismatch, StreamsError
from streams.core.keys import key_bytes, partitions
from streams.core.record import Produced, TopicPartition
from streams.core.topology import Input
from streams.log.base import Committed, Group, Log, LogWriter
from streams.protocol import RESTORING, Lease
from streams.runtime.fit import Begin, Fit, Positions, fit, named_whole, waiting_of
from streams.runtime.leases import Taking
from streams.runtime.notes import Note, to_logger
from streams.runtime.plan import Plan
from streams.runtime.position import TaskPosition, topic_mark
from streams.state.base import Change
from streams.state.changelog import decode, encode
from streams.state.rewrite import Tail

if TYPE_CHECKING:
    from streams.core.clock import Clock

RESTORE_STEPS = ("checked", "taken", "waiting", "state", "placed", "left")
"""The named steps; a test can crash after each of them."""

_COMMIT = 4 << 20  # bytes of blocks after which a commit is made
_PATIENCE = 120.0


class Restoring:
    """One restore. `make_plan(False)` gives the program's plan, `make_plan(True)` makes its topics as well.

    Raises CheckpointError (damaged), StateMismatch (it does not fit; the application has run).
    """

    def __init__(
        self,
        saved: Savepoint,
        make_plan: Callable[[bool], Plan],
        log: Log,
        location: Location,
        *,
        clock: "Clock",
        drop: Collection[str] = (),
        hook: Callable[[str], None] = lambda step: None,
        note: Note = to_logger,
    ) -> None:
        self._saved, self._make_plan, self._log, self._location = saved, make_plan, log, location
        self._plan = plan = make_plan(False)
        self._clock, self._drop, self._hook, self._note = clock, named_whole(saved, drop), hook, note
        self._positions = Positions(saved)
        self._sequence = dict.fromkeys((t.number for t in plan.tasks), 0)
        self._number = {(t.sub, t.partition): t.number for t in plan.tasks}
        self._changelogs = {
            t.number: TopicPartition(plan.changelog(t.sub), t.partition)
            for t in plan.tasks
            if plan.topology.subs[t.sub].stateful
        }
        self._bytes = dict.fromkeys(self._changelogs, 0)
        self._pending: dict[int, list[Change]] = {}
        self._pending_bytes = 0
        self._lost: list[int] = []
        self.entries = self.rows = 0
        """Entries of state and waiting rows that were carried over."""
        self.tasks = len(plan.tasks)

    def run(self) -> list[str]:
        """Do it; what is to be told about it."""
        # 1. Check everything before anything is made or written.
        made = fit(self._saved, self._plan.topology, self._plan.partitions, self._drop)
        made.notes += self._other_topics()
        self._check_data()
        for task in self._plan.tasks:
            inputs = self._plan.topology.subs[task.sub].inputs
            self._position(task.sub, task.partition, [Begin(0, 0)] * len(inputs))
        self._plan = self._make_plan(True)
        check_fresh(self._log, self._plan)
        self._hook("checked")
        group = self._log.group(self._plan.app, RESTORING, len(self._plan.tasks))
        writer: LogWriter | None = None
        try:
            # 2. Take the tasks.
            writer = self._take(group)
            self._hook("taken")
            # 3. Rows that waited in shuffles.
            begins = self._write_waiting(writer, group)
            self._hook("waiting")
            # 4. State.
            starts = self._empty_changelogs()
            for number, change in self._entries(made):
                self._pending.setdefault(number, []).append(change)
                self._pending_bytes += sum(map(len, change.keys)) + sum(len(v or b"") for v in change.values)
                self.entries += len(change.keys)
                if self._pending_bytes >= _COMMIT:
                    self._append_pending(writer)
                    self._commit(writer, group)
                    self._hook("state")
            self._append_pending(writer)
            self._commit(writer, group)
            self._hook("state")
            # 5. Positions and leases: from here on the application is restored.
            self._place(writer, group, begins, starts)
            self._hook("placed")
            # 6. Leave.
            group.leave()
            self._hook("left")
        except StreamsError:
            if writer is not None:
                writer.abort()
            group.leave()
            raise
        finally:
            if writer is not None:
                writer.close()
        return made.notes

    # ---- checks

    def _check_data(self) -> None:
        for _ in read(self._location, self._saved, self._saved.objects):
            pass
        for sub in self._plan.topology.subs:
            for item in sub.inputs:
                if item.shuffle and item.node not in self._drop:
                    for task in waiting_of(self._saved, item.node):
                        for block in self._blocks(task, item.node):
                            self._wanted(item, block)

    def _other_topics(self) -> list[str]:
        """What is to be told of source topics that are not those that the savepoint's application read."""
        told: dict[str, str] = {}
        for task in self._saved.tasks:
            for topic, place in TaskPosition.decode(task.position).inputs.items():
                now = topic_mark(self._plan.topics[topic].id) if topic in self._plan.topics else ""
                if place.topic and now and place.topic != now:
                    told[topic] = (
                        f"source topic {topic!r} is another one than when the savepoint was taken (id {now}..., was "
                        f"{place.topic}...): it is read on from the savepoint's offsets, so it must have the same "
                        "records there"
                    )
        return list(told.values())

    def _take(self, group: Group) -> LogWriter:
        plan, numbers = self._plan, [t.number for t in self._plan.tasks]
        deadline = self._clock.monotonic() + _PATIENCE
        while len(group.poll(0.1, self._revoked)) < len(numbers):
            if self._clock.monotonic() > deadline:  # a dead member stays for up to a minute
                raise StateMismatch(
                    f"the group {plan.app!r} has not given all tasks within {_PATIENCE:.0f} s: a worker is running",
                    where=self._log.name,
                    fix="stop it (SIGTERM or Ctrl-C), then restore",
                )
        check_fresh(self._log, plan)
        taken = Taking(self._log, group, plan.app, RESTORING, plan.fingerprint, numbers, self._note).result()
        if len(taken) < len(numbers):
            raise LogError(f"tasks of {plan.app!r} are being claimed by somebody else", fix="run it again")
        return self._log.writer(plan.app, RESTORING)

    def _revoked(self, numbers: frozenset[int], lost: bool) -> None:
        self._lost += sorted(numbers)

    def _commit(
        self,
        writer: LogWriter,
        group: Group,
        positions: dict[TopicPartition, Committed] | None = None,
        leases: dict[int, Lease] | None = None,
    ) -> None:
        group.poll(0.0, self._revoked)
        if self._lost:
            raise StateMismatch(
                "a worker was started while the savepoint was restored",
                where=f"application {self._plan.app!r}",
                fix="stop it, then run the restore again: it begins anew",
            )
        writer.flush()
        writer.commit(positions or {}, leases or {})
        if writer.suspect and leases is None:
            raise LogError("a commit was in doubt for a while", fix="run the restore again: it begins anew")

    # ---- rows that wait

    def _blocks(self, task: SavedTask, node: str) -> Iterator[ShuffleBlock]:
        for data in read(self._location, self._saved, task.waiting[node]):
            yield decode_block(data)

    def _wanted(self, item: Input, block: ShuffleBlock) -> pl.DataFrame:
        """The columns that the program wants of a shuffle."""
        frame = block.frame
        assert frame is not None
        key = self._plan.topology.graph.nodes[item.node].type.key
        wanted = [n for n in item.type.fields if n in item.wanted or n in key]
        for name in wanted:
            if name not in frame.columns or frame.schema[name] != item.type.fields[name].dtype:
                have = frame.schema.get(name)
                raise StateMismatch(
                    f"rows that wait in shuffle {item.node!r} have no column {name!r} of type "
                    f"{item.type.fields[name].dtype}" + (f" but of {have}" if have is not None else ""),
                    where=f"savepoint {self._saved.name!r}",
                    fix=f"let the new column be read behind another operator, or give the rows up: --drop {item.node}",
                )
        return frame.select([*wanted, *(c for c in frame.columns if c in (TIME, WATERMARK))])

    def _write_waiting(self, writer: LogWriter, group: Group) -> dict[TopicPartition, Begin]:
        """Append them; where they lie in each shuffle's topic."""
        plan, out = self._plan, dict[TopicPartition, Begin]()
        for sub in plan.topology.subs:
            for index, item in enumerate(sub.inputs):
                if not item.shuffle:
                    continue
                count, topic = plan.partitions[sub.index], plan.input_topic(sub, index)
                places = [TopicPartition(topic, p) for p in range(count)]
                ends = self._log.ends(places)
                out.update({tp: Begin(end, end) for tp, end in ends.items()})
                written = dict.fromkeys(places, 0)
                held = 0
                tasks = waiting_of(self._saved, item.node) if item.node not in self._drop else []
                for task in tasks:
                    old = next(s for s in self._saved.subs if s.index == task.sub)
                    same_width = next(i.channels for i in old.inputs if i.topic == item.node) == plan.channels(
                        sub, index
                    )
                    for block in self._blocks(task, item.node):
                        frame = self._wanted(item, block)
                        self.rows += frame.height
                        parts = {task.partition: frame} if old.partitions == count else _split(item, frame, count)
                        for partition, part in parts.items():
                            # The channel's watermark is in the position: it is that of all blocks that were read.
                            value = encode_block(_carried(block, part, same_width))
                            writer.append(Produced(topic, partition, [None], [value], self._clock.now()))
                            written[TopicPartition(topic, partition)] += 1
                            held += len(value)
                        if held >= _COMMIT:
                            self._commit(writer, group)
                            held = 0
                if any(written.values()):
                    self._commit(writer, group)
                    out.update(self._located({tp: n for tp, n in written.items() if n}, ends))
        return out

    def _located(
        self, written: dict[TopicPartition, int], before: dict[TopicPartition, int]
    ) -> dict[TopicPartition, Begin]:
        """The offsets of what was appended: offsets have gaps, so it is read."""
        reader, out = self._log.reader(), dict[TopicPartition, Begin]()
        left = dict(written)
        deadline = self._clock.monotonic() + _PATIENCE
        try:
            reader.assign({tp: before[tp] for tp in written})
            while left:
                for records in reader.poll(5000, 0.1):
                    tp, offsets = records.source, records.offsets()
                    first = out[tp].offset if tp in out else offsets[0]
                    out[tp] = Begin(first, offsets[-1] + 1)
                    left[tp] -= len(offsets)
                    if left[tp] <= 0:
                        del left[tp]
                if self._clock.monotonic() > deadline:
                    raise LogError("rows that were appended to a shuffle cannot be read back", where=self._log.name)
        finally:
            reader.close()
        return out

    # ---- state

    def _empty_changelogs(self) -> dict[int, int]:
        """Delete what a broken attempt has left; where each changelog begins."""
        places = list(self._changelogs.values())
        if not places:
            return {}
        starts, ends = self._log.starts(places), self._log.ends(places)
        if used := {tp: ends[tp] for tp in places if ends[tp] > starts[tp]}:
            self._log.trim(used)
        return {number: ends[tp] for number, tp in self._changelogs.items()}

    def _entries(self, made: Fit) -> Iterator[tuple[int, Change]]:
        """The state, by the new task's number; entries of tasks as a whole come last."""
        whole: dict[str, dict[bytes, dict[int, bytes]]] = {}
        for task in self._saved.tasks:
            for data in read(self._location, self._saved, task.state):
                for change in decode(data, f"savepoint {self._saved.name!r}, task {task.name}").changes:
                    move = made.moves.get(change.store)
                    if move is None:
                        continue
                    parts: dict[int, tuple[list[bytes], list[bytes | None]]] = {}
                    placed = move.place(task.partition, change.keys)
                    for partition, key, value in zip(placed, change.keys, change.values, strict=True):
                        kept = value
                        if move.migrate and value is not None:
                            kept = move.migrated(key, value)
                        if kept is None:
                            continue
                        if partition is None:
                            whole.setdefault(change.store, {}).setdefault(key, {})[task.partition] = kept
                            continue
                        keys, values = parts.setdefault(partition, ([], []))
                        keys.append(key)
                        values.append(kept)
                    for partition, (keys, values) in parts.items():
                        yield self._number[move.sub, partition], Change(change.store, keys, values)
        for store, entries in whole.items():
            move = made.moves[store]
            for key, by_task in sorted(entries.items()):
                value = move.operator.combine(move.short, key, [by_task.get(p) for p in range(move.old)])
                if value is not None:
                    for partition in range(move.new):
                        yield self._number[move.sub, partition], Change(store, [key], [value])

    def _append_pending(self, writer: LogWriter) -> None:
        for number, changes in self._pending.items():
            self._sequence[number] += 1
            self._append(writer, number, encode(changes, self._sequence[number], b""))
        self._pending, self._pending_bytes = {}, 0

    def _append(self, writer: LogWriter, number: int, values: list[bytes]) -> None:
        place = self._changelogs[number]
        self._bytes[number] += sum(map(len, values))
        writer.append(Produced(place.topic, place.partition, [None] * len(values), values, self._clock.now()))

    # ---- the end

    def _position(self, sub_index: int, partition: int, begin: list[Begin]) -> TaskPosition:
        sub, plan = self._plan.topology.subs[sub_index], self._plan
        channels = [plan.channels(sub, i) for i in range(len(sub.inputs))]
        made = self._positions.of(sub, partition, plan.partitions[sub_index], channels, begin)
        for item in sub.inputs:
            if not item.shuffle:
                made.inputs[item.topic].topic = topic_mark(plan.topics[item.topic].id)
        return made

    def _place(
        self, writer: LogWriter, group: Group, begins: dict[TopicPartition, Begin], starts: dict[int, int]
    ) -> None:
        plan = self._plan
        positions: dict[TopicPartition, Committed] = {}
        leases: dict[int, Lease] = {}
        for task in plan.tasks:
            sub, number = plan.topology.subs[task.sub], task.number
            places = plan.inputs(task)
            begin = [
                begins[tp] if item.shuffle else self._source_begin(tp, item.node)
                for tp, item in zip(places, sub.inputs, strict=True)
            ]
            position = self._position(task.sub, task.partition, begin)
            self._sequence[number] += 1
            note = ""
            if number in self._changelogs:
                position.tail = Tail(1, starts[number], self._bytes[number])
                self._append(writer, number, encode([], self._sequence[number], position.encode()))
            else:
                note = base64.b64encode(position.encode()).decode()
            for tp, item in zip(places, sub.inputs, strict=True):
                positions[tp] = Committed(position.inputs[item.topic].offset, note)
            leases[number] = Lease(RESTORING, False, plan.fingerprint, self._sequence[number])
        self._commit(writer, group, positions, leases)

    def _source_begin(self, place: TopicPartition, node: str) -> Begin:
        """Where a source begins that the savepoint does not know: as it says; of a known one, new partitions are read
        from their beginning."""
        source = self._plan.topology.graph.nodes[node].source
        known = any(i.topic == place.topic and not i.shuffle for s in self._saved.subs for i in s.inputs)
        latest = source is not None and source.start == "latest" and not known
        at = (self._log.ends if latest else self._log.starts)([place])[place]
        return Begin(at, at)


def check_fresh(log: Log, plan: Plan) -> None:
    """StateMismatch unless the application has done nothing yet, or a broken restore alone."""
    fix = "restore into another application id, or clear this one first: streams reset"
    leases = log.leases(plan.app, [t.number for t in plan.tasks])
    for number, lease in leases.items():
        if lease is None or (lease.slot == RESTORING and not lease.sequence):
            continue
        if lease.sequence:
            raise StateMismatch(
                f"the application {plan.app!r} has worked already: a savepoint is restored into a new one",
                where=f"task {number}, sequence {lease.sequence}",
                fix=fix,
            )
        if lease.held:
            raise StateMismatch(
                f"a worker of {plan.app!r} is running: a savepoint is restored while none does",
                where=f"slot {lease.slot!r}",
                fix="stop it (SIGTERM or Ctrl-C), then restore",
            )
    if not any(leases.values()):
        changelogs = [
            TopicPartition(plan.changelog(t.sub), t.partition) for t in plan.tasks if plan.topology.subs[t.sub].stateful
        ]
        starts, ends = log.starts(changelogs), log.ends(changelogs)
        if used := [tp for tp in changelogs if ends[tp] > starts[tp]]:
            raise StateMismatch(
                f"the application {plan.app!r} has state, but no leases",
                where=f"topic {used[0].topic}, partition {used[0].partition}",
                fix=fix,
            )


def _carried(block: ShuffleBlock, frame: pl.DataFrame, same_width: bool) -> ShuffleBlock:
    return ShuffleBlock(block.channel if same_width else 0, block.watermark, block.idle, frame)


def _split(item: Input, frame: pl.DataFrame, count: int) -> dict[int, pl.DataFrame]:
    """Rows by the partition of their key, as a shuffle spreads them."""
    chosen = partitions(key_bytes(frame, item.type.key).fill_null(b""), count)
    return {p: frame.filter(pl.Series(chosen == p)) for p in sorted(set(chosen.tolist()))}
