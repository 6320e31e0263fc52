"""The graph cut into sub-topologies and tasks.

A sub-topology is what is connected without a shuffle. A task is one sub-topology on one partition. The tasks of an
application are numbered sub-topology by sub-topology: a task's number is its partition of the lease topic.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from streams.core.errors import BuildError, TopicMismatch
from streams.core.schema import StreamType
from streams.core.sinks import check_room
from streams.core.stream import Graph, Node, Repartition


@dataclass(frozen=True)
class Input:
    """A topic that a sub-topology reads: a source's, or a shuffle's (named after its operator)."""

    node: str
    topic: str
    shuffle: bool
    type: StreamType
    wanted: frozenset[str]


@dataclass(frozen=True)
class SubTopology:
    """What runs as one task on each partition: nodes in an order in which inputs come first."""

    index: int
    nodes: tuple[Node, ...]
    inputs: tuple[Input, ...]
    feeds: tuple[str, ...]
    stores: tuple[str, ...]
    ordered: bool

    @property
    def stateful(self) -> bool:
        """Its truth is a changelog (a stateless task's truth is its committed offset)."""
        return bool(self.stores) or len(self.inputs) > 1 or self.inputs[0].shuffle

    @property
    def sources(self) -> list[str]:
        return [i.topic for i in self.inputs if not i.shuffle]


@dataclass(frozen=True)
class TaskId:
    """A task: its number (partition of the lease topic), sub-topology and partition."""

    number: int
    sub: int
    partition: int

    def __str__(self) -> str:
        return f"{self.sub}/{self.partition}"


@dataclass(frozen=True)
class Topology:
    """A program, cut."""

    graph: Graph
    subs: tuple[SubTopology, ...]

    def fingerprint(self, partitions: Mapping[int, int]) -> str:
        """Of all that two workers of one application must agree on."""
        text = []
        for sub in self.subs:
            text.append(f"{sub.index}:{partitions[sub.index]}:{[i.topic for i in sub.inputs]}")
            for node in sub.nodes:
                fields = [(n, str(f.dtype)) for n, f in node.type.fields.items()]
                stores = [s.name for s in node.operator.stores] if node.operator else []
                text.append(f"{node.id}|{node.kind}|{[(e.node, e.side) for e in node.inputs]}|{fields}|{stores}")
        return hashlib.sha256("\n".join(text).encode()).hexdigest()[:16]

    def place(self, topics: Mapping[str, int], default: int) -> dict[int, int]:
        """How many partitions each sub-topology has, from those of its source topics.

        A sub-topology that reads only shuffles has as many as these say (`KeyBy(..., partitions=)`), else as many as
        the largest source topic.
        """
        counts: dict[int, int] = {}
        for sub in self.subs:
            found = {t: topics[t] for t in sub.sources}
            if len(set(found.values())) > 1:
                raise TopicMismatch(
                    f"topics that meet have different partition counts: {found}",
                    where=f"sub-topology {sub.index}",
                    fix="create them with the same count, or put a KeyBy between them",
                )
            wished = {i.node: n for i in sub.inputs if i.shuffle and (n := self._wished(i.node)) is not None}
            if len({*found.values(), *wished.values()}) > 1:
                raise TopicMismatch(
                    f"inputs that meet want different partition counts: { ({**found, **wished}) }",
                    where=f"sub-topology {sub.index}",
                    fix="give each KeyBy the same partitions=, that of the source topic where one is read",
                )
            counts[sub.index] = next(iter({**found, **wished}.values()), 0)
        largest = max(topics.values(), default=default) or default
        return {index: count or largest for index, count in counts.items()}

    def _wished(self, node: str) -> int | None:
        operator = self.graph.nodes[node].operator
        return operator.partitions if isinstance(operator, Repartition) else None

    def tasks(self, partitions: Mapping[int, int]) -> list[TaskId]:
        out: list[TaskId] = []
        for sub in self.subs:
            for partition in range(partitions[sub.index]):
                out.append(TaskId(len(out), sub.index, partition))
        return out


def cut(graph: Graph) -> Topology:
    """Cut a graph at its shuffles, and find what each input must decode."""
    if not any(n.kind == "source" for n in graph.nodes.values()):
        raise BuildError("the program has no source", fix="begin with app.source(topic, Schema, start=...)")
    wanted = _wanted(graph)
    group = {id: id for id in graph.nodes}

    def find(x: str) -> str:
        while group[x] != x:
            x = group[x]
        return x

    for node in graph.nodes.values():
        for edge in node.inputs:
            if node.kind == "shuffle":
                continue  # a shuffle node stands for its reading side; its writing side belongs to its input's group
            group[find(node.id)] = find(edge.node)
    members: dict[str, list[Node]] = {}
    for node in graph.nodes.values():
        members.setdefault(find(node.id), []).append(node)
    subs = []
    for index, nodes in enumerate(members.values()):
        ids = {n.id for n in nodes}
        inputs = tuple(
            Input(n.id, n.source.topic if n.source else n.id, n.kind == "shuffle", n.type, frozenset(wanted[n.id]))
            for n in nodes
            if n.kind in ("source", "shuffle")
        )
        feeds = tuple(
            n.id for n in graph.nodes.values() if n.kind == "shuffle" and any(e.node in ids for e in n.inputs)
        )
        stores = tuple(
            f"{n.id}/{s.name}" for n in nodes if n.kind == "operator" and n.operator for s in n.operator.stores
        )
        ordered = any(n.operator.ordered for n in nodes if n.kind == "operator" and n.operator)
        subs.append(SubTopology(index, tuple(nodes), inputs, feeds, stores, ordered))
        if not subs[-1].stateful:
            check_room((n.id for n in nodes if n.outside is not None), index)
    return Topology(graph, tuple(subs))


def _wanted(graph: Graph) -> dict[str, set[str]]:
    """The columns of each node's output that somebody reads: column pruning, from the sinks back."""
    wanted: dict[str, set[str]] = {id: set() for id in graph.nodes}
    for node in reversed(graph.nodes.values()):
        types = [graph.type_of(e) for e in node.inputs]
        for port, edge in enumerate(node.inputs):
            if node.kind == "sink":
                need = set(node.type.fields)
            elif node.operator is not None and node.kind == "operator":
                need = node.operator.needs(set(wanted[node.id]), port, types)
            elif node.operator is not None:
                need = wanted[node.id] | set(node.type.key)
            else:
                need = set()
            wanted[edge.node] |= need
        if node.kind == "source":
            wanted[node.id] |= set(node.type.key) & wanted[node.id]
    return wanted
