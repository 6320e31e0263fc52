"""The operators of one task, run in an order in which inputs come first."""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from streams.core.batch import Batch
from streams.core.errors import OperatorError, StreamsError
from streams.core.failures import FAILURES, Failures, Policy
from streams.core.operator import Operator
from streams.core.schema import StreamType
from streams.core.store import KeyValueStore
from streams.core.stream import Edge, Node
from streams.core.time import NEVER
from streams.runtime.letters import DeadLetters
from streams.runtime.watchdog import Place

OpenStore = Callable[[str, bool], KeyValueStore]
Emit = Callable[[Node, Batch], None]


@dataclass
class Counts:
    """What the operators of a task counted since the last commit; published after it."""

    late: dict[str, int] = field(default_factory=dict)
    dropped: dict[tuple[str, str], int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    exits: dict[str, int] = field(default_factory=dict)
    """Rows that left through sinks and shuffles."""


@dataclass
class NodeContext:
    """The context of one operator in one task."""

    operator_id: str
    inputs: Sequence[StreamType]
    output: StreamType
    partition: int
    cache_rows: int
    piece_rows: int
    channels: int
    open_store: OpenStore
    letters: DeadLetters
    counts: Counts
    on_error: Policy = "dead-letter"
    sleep: Callable[[float], None] = time.sleep
    side: dict[str, list[Batch]] = field(default_factory=dict)

    def failures(self, policy: Policy | None) -> Failures:
        return Failures(self.on_error if policy is None else policy, self.sleep, self.operator_id)

    def store(self, name: str) -> KeyValueStore:
        return self.open_store(f"{self.operator_id}/{name}", True)

    def emit(self, side: str, batch: Batch) -> None:
        if batch.count:
            self.side.setdefault(side, []).append(batch)

    def dead(self, batch: Batch, rows: Sequence[int], causes: Sequence[str]) -> None:
        from streams.runtime.edges import letters_of

        for letter, cause in zip(letters_of(batch, rows), causes, strict=True):
            self.letters.add(letter, cause, self.operator_id)

    def late(self, rows: int) -> None:
        self.counts.late[self.operator_id] = self.counts.late.get(self.operator_id, 0) + rows

    def dropped(self, rows: int, why: str) -> None:
        key = (self.operator_id, why)
        self.counts.dropped[key] = self.counts.dropped.get(key, 0) + rows


@dataclass
class _Step:
    node: Node
    operator: Operator | None
    context: NodeContext | None
    watermark: int = NEVER


class Chain:
    """A task's operators, opened. Rows go in at input nodes and leave through `emit` at sinks and shuffles.

    `exits` are the sink nodes of the sub-topology and the shuffles it feeds.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        exits: Sequence[Node],
        type_of: Callable[[Edge], StreamType],
        *,
        partition: int,
        channels: int,
        cache_rows: int,
        piece_rows: int,
        open_store: OpenStore,
        emit: Emit,
        on_error: Policy = "dead-letter",
        sleep: Callable[[float], None] = time.sleep,
        place: Place | None = None,
        task: str = "",
    ) -> None:
        self._place, self._task = place if place is not None else Place(), task
        self.letters = DeadLetters()
        self.counts = Counts()
        self._emit = emit
        self._steps: list[_Step] = []
        self._exits = list(exits)
        self._used = {(e.node, e.side) for n in [*nodes, *exits] for e in n.inputs}
        for node in nodes:
            if node.kind != "operator":
                self._steps.append(_Step(node, None, None))
                continue
            assert node.operator is not None
            operator = copy.copy(node.operator)
            caching = {f"{node.id}/{s.name}": s.cache for s in operator.stores}
            context = NodeContext(
                node.id,
                [type_of(e) for e in node.inputs],
                node.type,
                partition,
                cache_rows,
                piece_rows,
                channels,
                lambda name, _, caching=caching: open_store(name, caching[name]),  # type: ignore[misc]
                self.letters,
                self.counts,
                on_error,
                sleep,
            )
            self._steps.append(_Step(node, operator, context))
        for step in self._steps:
            if step.operator is not None and step.context is not None:
                with self._running(step.node):
                    step.operator.open(step.context)

    def process(self, inputs: Mapping[str, Batch]) -> None:
        """Rows of the input nodes go through."""
        self._run(inputs, None, False)

    def process_from(self, node: str, port: int, batch: Batch) -> None:
        """Rows go through one operator and what follows it: for rows that come from no record (debugging)."""
        self._run({}, None, False, {node: [(port, batch)]})

    def advance(self, watermark: int) -> None:
        """Event time has moved."""
        self._run({}, watermark, False)

    def drain(self, watermark: int = NEVER) -> None:
        """A commit begins: everything goes to the stores and the exits.

        An operator that gives rows at a commit lets event time pass only then: what is behind it advances after that,
        and drains again, in the same commit. So no result waits until the next record comes.
        """
        self._run({}, None, True)
        while any(s.operator is not None and self._watermark_of(s.node, NEVER) > s.watermark for s in self._steps):
            self._run({}, watermark, True)

    @property
    def unfinished(self) -> bool:
        """Some operator has outputs left for the next drain."""
        return any(s.operator.unfinished for s in self._steps if s.operator is not None)

    def operator(self, node: str) -> Operator | None:
        """The operator of this id as it is opened here; None if it is not."""
        return next((s.operator for s in self._steps if s.node.id == node), None)

    def output_watermarks(self) -> dict[str, int]:
        """For each exit: how far event time has come there."""
        marks = {s.node.id: s.watermark - (s.operator.hold() if s.operator else 0) for s in self._steps}
        return {n.id: min(marks[e.node] for e in n.inputs) for n in self._exits}

    def close(self) -> None:
        for step in self._steps:
            if step.operator is not None:
                step.operator.close()

    def _run(
        self,
        inputs: Mapping[str, Batch],
        watermark: int | None,
        drain: bool,
        given: Mapping[str, list[tuple[int, Batch]]] | None = None,
    ) -> None:
        outbox: dict[tuple[str, str], list[Batch]] = {}
        for step in self._steps:
            node = step.node
            if step.operator is None:
                if node.id in inputs:
                    outbox[node.id, ""] = [inputs[node.id]]
                if watermark is not None:
                    step.watermark = watermark
                continue
            arrived = [(port, b) for port, e in enumerate(node.inputs) for b in outbox.get((e.node, e.side), ())]
            if given is not None:
                arrived += given.get(node.id, ())
            with self._running(node):
                made = self._run_operator(step, arrived, watermark, drain)
            assert step.context is not None
            if made:
                outbox[node.id, ""] = made
            for side, batches in step.context.side.items():
                outbox[node.id, side] = batches
            step.context.side = {}
        for node in self._exits:
            for edge in node.inputs:
                for batch in outbox.get((edge.node, edge.side), ()):
                    self.counts.exits[node.id] = self.counts.exits.get(node.id, 0) + batch.count
                    self._emit(node, batch)

    def _running(self, node: Node) -> AbstractContextManager[None]:
        return self._place.running(self._task, node.id, self.counts.seconds)

    def _run_operator(
        self, step: _Step, arrived: Sequence[tuple[int, Batch]], watermark: int | None, drain: bool
    ) -> list[Batch]:
        operator, node = step.operator, step.node
        assert operator is not None
        made: list[Batch | None] = []
        try:
            if arrived:
                self.counts.rows[node.id] = self.counts.rows.get(node.id, 0) + sum(b.count for _, b in arrived)
                if operator.ports > 1 and operator.ordered:
                    made.append(operator.process_ordered(arrived))
                else:
                    made += [operator.process(batch, port) for port, batch in arrived]
            if watermark is not None:
                step.watermark = self._watermark_of(node, watermark)
                made.append(operator.advance(step.watermark))
            if drain:
                made.append(operator.drain())
        except StreamsError:
            raise
        except FAILURES as error:
            raise OperatorError(
                f"operator {node.id!r} failed: {type(error).__name__}: {error}",
                where=f"{type(operator).__name__}, rows {sum(b.count for _, b in arrived)}",
                fix="the commit is rolled back; mend the operator and start again: it goes on where it stood",
            ) from error
        return [b for b in made if b is not None and b.count]

    def _watermark_of(self, node: Node, watermark: int) -> int:
        marks = []
        for edge in node.inputs:
            upstream = next(s for s in self._steps if s.node.id == edge.node)
            marks.append(upstream.watermark - (upstream.operator.hold() if upstream.operator else 0))
        return min(marks, default=watermark)
