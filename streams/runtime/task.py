"""A task: one sub-topology on one partition.

    CREATED --open--> RESTORING --replayed--> RUNNING --close--> CLOSED
                          \\_______________________close__________/

Restoring and running alternate with other tasks in the worker's one thread; a task that restores reads nothing of its
inputs yet. After an abort a task is closed and a new one is opened: nothing uncommitted survives.
"""

import base64
import logging
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from time import perf_counter

from streams import protocol
from streams.core.batch import Batch, Letter
from streams.core.errors import StateMismatch, StreamsError
from streams.core.record import Produced, Records, TopicPartition
from streams.core.store import KeyValueStore, StoreSpec
from streams.core.stream import Node
from streams.core.time import NEVER
from streams.core.topology import TaskId
from streams.log.base import Committed
from streams.protocol import Lease
from streams.runtime.chain import Chain
from streams.runtime.edges import ShuffleEdge, SinkEdge, latest_taken
from streams.runtime.inputs import TaskInput
from streams.runtime.outside import OutsideSinks
from streams.runtime.plan import made_again
from streams.runtime.position import TaskPosition, mark_of, topic_mark
from streams.runtime.recovery import Recovery, check_lease
from streams.runtime.release import Release
from streams.runtime.store_types import check_types
from streams.runtime.tools import Tools
from streams.settings import Settings
from streams.state.base import Change, Mark, StateStore
from streams.state.changelog import encode
from streams.state.rewrite import CHUNK, Tail, chunk, due, grown

_MARKER_SECONDS = 0.2


def piece_rows(settings: Settings) -> int:
    """How many stored rows an operator gives in a commit where millions may be due at once: some tenths of a second."""
    return 5 * settings.poll_records


class State(Enum):
    CREATED = "created"
    RESTORING = "restoring"
    RUNNING = "running"
    CLOSED = "closed"


class Task:
    """One task of a worker. `append` hands records to the worker's open commit."""

    def __init__(self, id: TaskId, lease: Lease, tools: Tools, append: Callable[[Produced], None]) -> None:
        self.id, self.lease, self._tools, self._append = id, lease, tools, append
        plan = tools.plan
        self.sub = plan.topology.subs[id.sub]
        self.state = State.CREATED
        self.touched = False
        self.opened_at = lease.sequence
        """The commit at which it was opened."""
        self.committed_at = tools.clock.monotonic()
        self.oldest: int | None = None
        self.restore_seconds = 0.0
        self.records_in: dict[str, int] = {}
        self.inputs: list[TaskInput] = []
        self.partitions = plan.inputs(id)
        for index, spec in enumerate(self.sub.inputs):
            source = plan.topology.graph.nodes[spec.node].source
            self.inputs.append(TaskInput(spec, source, plan.channels(self.sub, index), self._dead))
        channels = sum(len(i.channels) for i in self.inputs)
        timed = all(i.spec.type.time for i in self.inputs)
        self.channels = channels
        self.release = Release(self.inputs, channels > 1 and self.sub.ordered and timed)
        self._chain: Chain | None = None
        self._sinks: dict[str, SinkEdge] = {}
        for node in plan.sinks(self.sub):
            if node.sink is not None:
                topic, most = plan.topics[node.sink.topic], tools.settings.record_bytes
                self._sinks[node.id] = SinkEdge(node, id.partition, topic.partitions, most, topic.ahead_ms)
        self.outside = OutsideSinks(plan.sinks(self.sub), plan.app, str(id), id.partition, tools.place)
        self._shuffles = {n.id: self._shuffle_edge(n.id) for n in plan.shuffles(self.sub)}
        self._advanced = NEVER
        self._marked_at = 0.0
        self._untold = False
        self._tail = self._next_tail = Tail()
        self._before = ""
        self.location = ""
        """The token of the checkpoint location that the last commit names."""
        self._changelog = TopicPartition(plan.changelog(id.sub), id.partition) if self.sub.stateful else None
        self._recovery = Recovery(id, lease, tools, self._changelog) if self._changelog is not None else None

    # ---- opening and restoring

    def open(self, committed: dict[TopicPartition, Committed | None]) -> Iterator[None]:
        """Bring the state to the lease's commit, then make the task ready to run. Yields while there is more to do.

        1. The lease is ours and no transaction of an earlier holder is open (the worker has seen to it).
        2. A local store that cannot be brought forward is dropped.
        3. The changelog's tail is replayed until the store stands at the lease's sequence.
        4. If that cannot be reached, StateMismatch says which sequences.
        5. What sinks outside the log have prepared for that commit is published.
        """
        self.state = State.RESTORING
        started = perf_counter()
        position = TaskPosition({})
        if self._changelog is not None:
            assert self._recovery is not None
            yield from self._recovery.run(committed.get(self.partitions[0]))
            assert self.store is not None
            if self.store.mark.position:
                position = TaskPosition.decode(self.store.mark.position)
        else:
            note = committed.get(self.partitions[0])
            if note is not None and note.note:
                position = TaskPosition.decode(base64.b64decode(note.note))
        protocol.check_program(
            str(self.id),
            self.lease.sequence,
            set(position.inputs),
            {i.topic for i in self.sub.inputs},
            set(position.stores),
            set(self.sub.stores),
        )
        check_types(str(self.id), position.types, self._tools.plan.types[self.id.sub])
        self._tail = self._next_tail = position.tail
        if position.location and self._tools.location is None:
            self._tools.note(
                f"task {self.id}: it was run with a checkpoint location, and has none now: no snapshots are made, and "
                "once its local state is lost it can only come back with that location (--checkpoints)",
                task=str(self.id),
            )
        self.location, self._before = position.location, mark_of(self.store.mark.position) if self.store else ""
        try:
            self.outside.open(self.lease.sequence, position.tokens)
        except StreamsError:
            check_lease(self.id, self.lease, self._tools)
            raise
        self.touched = bool(position.tokens)  # the next commit notes that they are published
        self._place(position)
        self._open_chain()
        if self.release.watermark > NEVER:
            self._advanced = self.release.watermark
            self.chain.advance(self._advanced)
        if self.chain.unfinished:
            self.touched = True
        if self._shuffles:
            # What the readers were told is not kept: tell them again, or a marker that was due when the last worker
            # died would never come, if there is nothing left to read.
            self.touched = True
        self.restore_seconds = perf_counter() - started
        self.state = State.RUNNING

    def _say(self, text: str, level: int = logging.WARNING) -> None:
        self._tools.note(f"task {self.id}: {text}", level, task=str(self.id))

    def _place(self, position: TaskPosition) -> None:
        named = {i.spec.topic: tp for i, tp in zip(self.inputs, self.partitions, strict=True)}
        fresh = [i for i in self.inputs if i.spec.topic not in position.inputs]
        self.release.restore(position)
        for item in self.inputs:
            if item.source is not None:
                item.channels[0].idle = False
                item.topic = item.topic or self._topic_now(item)
        starts = self._tools.log.starts([named[i.spec.topic] for i in fresh])
        latest = [named[i.spec.topic] for i in fresh if i.source is not None and i.source.start == "latest"]
        ends = self._tools.log.ends(latest) if latest else {}
        for item in fresh:
            partition = named[item.spec.topic]
            item.next = item.fresh = ends.get(partition, starts[partition])
        if latest:
            self.touched = True  # "latest" was chosen now: a restart must not choose again

    def _topic_now(self, item: TaskInput) -> str:
        return topic_mark(self._tools.plan.topics[item.spec.topic].id)

    def check_sources(self) -> None:
        """StateMismatch if a source topic is not the one that the position is of: its offsets say nothing of it."""
        for item in self.inputs:
            now = self._topic_now(item) if item.source is not None else ""
            if now and item.topic != now:
                raise StateMismatch(
                    f"source topic {item.spec.topic!r} is another one than what was read: it had the id "
                    f"{item.topic}..., and has {now}... now. To read it on from offset {item.next} "
                    "would pass over what lies below",
                    where=f"task {self.id} of application {self._tools.plan.app!r}",
                    fix=made_again(self._tools.plan.app),
                )

    def _open_chain(self) -> None:
        plan = self._tools.plan
        nodes = [n for n in self.sub.nodes if n.kind != "sink"]
        exits = [*plan.sinks(self.sub), *plan.shuffles(self.sub)]
        self._chain = Chain(
            nodes,
            exits,
            plan.topology.graph.type_of,
            partition=self.id.partition,
            channels=self.channels,
            cache_rows=max(1000, self._tools.settings.cache_bytes // 256),
            piece_rows=piece_rows(self._tools.settings),
            open_store=self._open_map,
            emit=self._emit,
            on_error=plan.topology.graph.on_error,
            sleep=self._tools.clock.sleep,
            place=self._tools.place,
            task=str(self.id),
        )

    def _open_map(self, name: str, cache: bool) -> KeyValueStore:
        assert self.store is not None
        return self.store.map(StoreSpec(name, cache))

    def starts(self) -> dict[TopicPartition, int]:
        """Where to read each input from."""
        return {tp: i.next for tp, i in zip(self.partitions, self.inputs, strict=True)}

    # ---- running

    def ingest(self, partition: TopicPartition, records: Records) -> None:
        """Records of one of the task's inputs: decode them."""
        index = self.partitions.index(partition)
        self.touched = True
        item = self.inputs[index]
        for channel in item.channels.values():
            if item.source is not None:
                channel.idle = False
        item.idle_since = None
        if item.source is not None:
            stamp = records.first_timestamp()
            if stamp >= 0 and (self.oldest is None or stamp < self.oldest):
                self.oldest = stamp
        self.records_in[item.spec.topic] = self.records_in.get(item.spec.topic, 0) + len(records)
        with self._tools.place.running(str(self.id), item.spec.node):
            taken = item.take(records)
        self.release.add(index, taken)

    def step(self) -> None:
        """Process what may go on, about twice as many rows as are read at a time, so that what waits becomes less; and
        move event time."""
        assert self._chain is not None
        ready = self.release.ready(2 * self._tools.settings.poll_records)
        if ready:
            self.touched = True
            self._chain.process({self.inputs[i].spec.node: b for i, b in ready.items()})
        if self.release.watermark > self._advanced:
            self._advanced = self.release.watermark
            self._chain.advance(self._advanced)

    def look_idle(self, caught_up: Callable[[TopicPartition], bool], now: float) -> None:
        """A source is idle once it has been caught up for its idle time. Moves on if something became idle."""
        changed = False
        for item, partition in zip(self.inputs, self.partitions, strict=True):
            if item.source is None or item.channels[0].idle:
                continue
            if not caught_up(partition):
                item.idle_since = None
            elif item.idle_since is None:
                item.idle_since = now
            elif now - item.idle_since >= item.source.idle / 1000:
                item.channels[0].idle = changed = True
        if changed:
            self.touched = True
            self.step()

    @property
    def _unfinished(self) -> bool:
        """Rows are still to come from here, whatever is read: readers must wait for them."""
        assert self._chain is not None
        return self._chain.unfinished or self.release.pending

    def drain(self, now: float) -> None:
        """A commit begins: results, shuffle blocks and dead letters go to the open commit."""
        assert self._chain is not None
        self._chain.drain(self._advanced)
        marks = self._chain.output_watermarks()
        idle = not self._unfinished and all(c.idle for i in self.inputs for c in i.channels.values())
        marker = now - self._marked_at >= _MARKER_SECONDS or idle
        for id, edge in self._shuffles.items():
            if edge.flush(self._append, marks[id], idle, marker) and marker:
                self._marked_at = now
        self._untold = any(edge.untold(marks[id], idle) for id, edge in self._shuffles.items())
        topic, stamp = self._tools.plan.topics[self._tools.plan.dead_letters], self._tools.clock.now()
        letters = self._chain.letters.produced(
            topic.name, self.id.partition % topic.partitions, stamp, latest_taken(stamp, topic.ahead_ms)
        )
        if letters is not None:
            self._append(letters)
        self.settle()

    def settle(self) -> None:
        """What goes outside the log is prepared. Without a drain before that is nothing: what the last commit has
        prepared is published."""
        self.outside.prepare(self.lease.next().sequence)

    def changelog(self, lease: Lease) -> tuple[dict[TopicPartition, Committed], bytes]:
        """Append the changelog blocks of this commit (step 4); the positions to commit, and as in the last block."""
        position = self.release.position()
        position.stores, position.types = list(self.sub.stores), self._tools.plan.digests[self.id.sub]
        if self._changelog is not None:
            assert self.store is not None
            changes, self._next_tail = self._rewritten(lease, self.store.changes())
        position.tail = self._next_tail
        position.location = (self._tools.location() if self._tools.location else "") or self.location
        position.before = self._before
        position.tokens = self.outside.tokens
        raw = position.encode()
        if self._changelog is not None:
            values = encode(changes, lease.sequence, raw)
            self._next_tail = grown(self._next_tail, sum(map(len, values)))
            stamp = self._tools.clock.now()
            self._append(
                Produced(self._changelog.topic, self._changelog.partition, [None] * len(values), values, stamp)
            )
        note = mark_of(raw) if self._changelog is not None else base64.b64encode(raw).decode()
        offsets = {
            tp: Committed(position.inputs[i.spec.topic].offset, note)
            for tp, i in zip(self.partitions, self.inputs, strict=True)
        }
        return offsets, raw

    def _rewritten(self, lease: Lease, changes: Sequence[Change]) -> tuple[list[Change], Tail]:
        """The changes of this commit, with a chunk of the store if it is being written into the changelog anew."""
        assert self.store is not None and self._changelog is not None
        settings, tail = self._tools.settings, self._tail
        if tail.rewriting is None:
            if self._tools.location is not None:
                return list(changes), tail  # it is trimmed up to the oldest snapshot
            if tail.size < settings.changelog_bytes:
                return list(changes), tail
            if not due(tail, self.store.size_bytes, settings.changelog_bytes, settings.changelog_factor):
                return list(changes), tail
            self._say(f"its changelog has {tail.size:,} bytes; the state is written anew", logging.INFO)
        changelog = self._changelog
        written = sum(len(v or b"") for c in changes for v in c.values)
        extra, tail = chunk(
            self.store, tail, lease.sequence, lambda: self._tools.log.ends([changelog])[changelog], CHUNK + 2 * written
        )
        return [*changes, *extra], tail

    def unneeded(self, floor: int | None) -> tuple[TopicPartition, int] | None:
        """The changelog, and the offset below which no restore needs it: the last rewriting's, or with snapshots
        `floor`; None if all that is gone."""
        offset = max(self._tail.offset, floor or 0)
        if self._changelog is None or offset <= self._trimmed:
            return None
        return self._changelog, offset

    _trimmed = 0

    def trimmed(self, offset: int) -> None:
        """The changelog has been deleted below this offset."""
        self._trimmed = offset

    @property
    def changelog_partition(self) -> TopicPartition | None:
        return self._changelog

    def applied(self, lease: Lease, position: bytes, offset: int | None) -> None:
        """The commit has succeeded: the overlay goes to the store with its sequence (step 7)."""
        self.lease, self.committed_at = lease, self._tools.clock.monotonic()
        if self.store is not None and self._changelog is not None:
            topic_id = self._tools.plan.topics[self._changelog.topic].id
            known = self.store.mark.offset if offset is None else offset
            self.store.commit(Mark(lease.sequence, topic_id, known, position))
            self._tail, self._before = self._next_tail, mark_of(position)
        # Markers that were not due yet go out with the next commit; and it notes that tokens are published.
        self.touched = self._untold or bool(self.outside.tokens) or self.chain.unfinished
        self.oldest = None

    @property
    def store(self) -> StateStore | None:
        """The task's state; None without any, and before and after its life."""
        return self._recovery.store if self._recovery is not None else None

    @property
    def restored_entries(self) -> int:
        """How many changelog blocks were read."""
        return self._recovery.entries if self._recovery is not None else 0

    @property
    def restored_from(self) -> int:
        """The commit at which the local store, or the snapshot, was found."""
        return self._recovery.began_at if self._recovery is not None else 0

    @property
    def chain(self) -> Chain:
        assert self._chain is not None
        return self._chain

    @property
    def sinks(self) -> dict[str, SinkEdge]:
        return self._sinks

    @property
    def shuffles(self) -> dict[str, ShuffleEdge]:
        return self._shuffles

    @property
    def overlay_bytes(self) -> int:
        return self.store.overlay_bytes if self.store is not None else 0

    def close(self) -> None:
        """End, or abort: what is uncommitted is forgotten."""
        if self._chain is not None:
            self._chain.close()
        if self._recovery is not None:
            self._recovery.close()
        self.state = State.CLOSED

    # ---- inside

    def _dead(self, letter: Letter, cause: str, operator: str) -> None:
        self.chain.letters.add(letter, cause, operator)

    def _shuffle_edge(self, node: str) -> ShuffleEdge:
        plan = self._tools.plan
        topic = next(
            plan.input_topic(plan.reader_of(node), index)
            for index, item in enumerate(plan.reader_of(node).inputs)
            if item.node == node
        )
        wanted = next(i.wanted for i in plan.reader_of(node).inputs if i.node == node)
        channel = plan.first_channel(node, self.id.sub) + self.id.partition
        count = plan.partitions[plan.reader_of(node).index]
        return ShuffleEdge(plan.topology.graph.nodes[node], topic, channel, count, sorted(wanted))

    def _emit(self, node: Node, batch: Batch) -> None:
        if node.id in self.outside:
            self.outside.write(node.id, batch)
        elif node.id in self._sinks:
            self._sinks[node.id].write(batch, self._append, self._dead, self._tools.clock.now())
        else:
            self._shuffles[node.id].write(batch, self._append)
