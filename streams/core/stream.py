"""The builder: programs compose streams and operators with one verb, `|`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, overload

from streams.core import topic_names
from streams.core.errors import BuildError, DuplicateId, UnknownColumn, WrongType
from streams.core.failures import Policy
from streams.core.operator import Operator
from streams.core.schema import Schema, StreamType, describe, nearest
from streams.core.sinks import Outside, TwoPhaseSink, check_targets
from streams.core.time import duration


@dataclass(frozen=True)
class Source:
    """A topic that is read: what its records are and where a first run begins."""

    topic: str
    schema: type[Schema] | None
    disorder: int
    start: str
    idle: int
    validate: str
    ahead: int
    behind: int
    time: str | None


@dataclass(frozen=True)
class Sink:
    """A topic that is written. `key`: the columns of the record's key (empty: the stream's key, or none)."""

    topic: str
    key: tuple[str, ...] = ()
    partitions: int | None = None


@dataclass(frozen=True)
class Edge:
    """An output of a node: the main one (side "") or a side output."""

    node: str
    side: str = ""


@dataclass(frozen=True)
class Node:
    """A vertex of the graph."""

    id: str
    kind: Literal["source", "operator", "shuffle", "sink"]
    inputs: tuple[Edge, ...]
    type: StreamType
    source: Source | None = None
    operator: Operator | None = None
    sink: Sink | None = None
    outside: Outside | None = None


class Repartition(Operator):
    """Base of operators that move rows to the partition of a new key: the graph cuts a shuffle there."""

    def __init__(self, columns: Sequence[str], partitions: int | None = None) -> None:
        self.columns, self.partitions = tuple(columns), partitions

    def process(self, batch: Any, port: int = 0) -> Any:
        return batch


@dataclass
class Graph:
    """All nodes of a program, in the order in which they were made."""

    nodes: dict[str, Node] = field(default_factory=dict)
    on_error: Policy = "dead-letter"
    """What becomes of rows on which a function of the user fails, where the operator does not say."""

    def add(self, node: Node) -> None:
        if node.id in self.nodes:
            raise DuplicateId(
                f"two operators have the id {node.id!r}", fix='give one of them another: Operator(...).named("id")'
            )
        self.nodes[node.id] = node

    def type_of(self, edge: Edge) -> StreamType:
        """The type of an output: a node's own, or that of its side output."""
        node = self.nodes[edge.node]
        if not edge.side or node.operator is None:
            return node.type
        return node.operator.bind_side(edge.side, *[self.type_of(e) for e in node.inputs])

    def new_id(self, stem: str) -> str:
        """An automatic id: the stem, numbered in the order of the program."""
        taken = sum(1 for id in self.nodes if id.rpartition("-")[0] == stem)
        while f"{stem}-{taken + 1}" in self.nodes:
            taken += 1
        return f"{stem}-{taken + 1}"


class Stream:
    """A stream of rows in a program. Pipe it into operators and sinks with `|`; it may be piped more than once."""

    def __init__(self, graph: Graph, edge: Edge, type: StreamType) -> None:
        self.graph, self.edge, self.type = graph, edge, type

    @overload
    def __or__(self, target: Operator) -> "Stream": ...
    @overload
    def __or__(self, target: Sink | Outside) -> None: ...
    def __or__(self, target: Operator | Sink | Outside) -> "Stream | None":
        return Streams((self,)) | target

    def side(self, name: str) -> "Stream":
        """A side output of the operator that made this stream."""
        operator = self.graph.nodes[self.edge.node].operator
        sides = operator.sides if operator is not None else ()
        if name not in sides or operator is None:
            raise BuildError(
                f"no side output {name!r}{nearest(name, sides)}",
                where=self.edge.node,
                fix=f"it has: {', '.join(sides) or 'none'}",
            )
        edge = Edge(self.edge.node, name)
        return Stream(self.graph, edge, self.graph.type_of(edge))

    @property
    def late(self) -> "Stream":
        """The rows that came too late for this window: `stream.side("late")`."""
        return self.side("late")

    def __repr__(self) -> str:
        fields = ", ".join(f"{n}: {f.dtype}" for n, f in self.type.fields.items())
        return f"<Stream {self.edge.node}{'.' + self.edge.side if self.edge.side else ''} {{{fields}}}>"

    def __iter__(self) -> Any:
        raise WrongType("a stream cannot be iterated", where=repr(self), fix="pipe it: stream | operator | app.sink()")


class Streams:
    """Several streams, in the order of an operator's ports."""

    def __init__(self, streams: Sequence[Stream]) -> None:
        self.streams = tuple(streams)

    @overload
    def __or__(self, target: Operator) -> Stream: ...
    @overload
    def __or__(self, target: Sink | Outside) -> None: ...
    def __or__(self, target: Operator | Sink | Outside) -> Stream | None:
        first = self.streams[0]
        graph = first.graph
        if any(s.graph is not graph for s in self.streams):
            raise BuildError("streams of two apps cannot meet", fix="build the whole program on one App")
        edges = tuple(s.edge for s in self.streams)
        if isinstance(target, Sink):
            for stream in self.streams:
                stream.type.require(target.key, f"sink {target.topic!r}")
                node_id = graph.new_id(f"sink-{target.topic}")
                key = target.key or stream.type.key
                graph.add(
                    Node(node_id, "sink", (stream.edge,), stream.type, sink=Sink(target.topic, key, target.partitions))
                )
            return None
        if isinstance(target, Outside):
            _write_to(graph, target, self.streams)
            return None
        if not isinstance(target, Operator):
            raise WrongType(f"cannot pipe a stream into {target!r}", where=repr(first), fix=_instead(target))
        return _add(graph, target, edges, [s.type for s in self.streams])


def connect(*streams: Stream) -> Streams:
    """Several streams for an operator with as many ports: `connect(labels, payments) | Risk()`.

    The rows reach it in the order of event time; at equal times the earlier port comes first.
    """
    if len(streams) < 2:
        raise BuildError("connect takes two streams or more", fix="pipe a single stream with `|`")
    return Streams(streams)


def source(graph: Graph, spec: Source, key: Sequence[str], fields: StreamType) -> Stream:
    """Add a source node."""
    for node in graph.nodes.values():
        if node.source is not None and node.source.topic == spec.topic:
            raise DuplicateId(
                f"the topic {spec.topic!r} is already a source", fix="keep the first stream and pipe it several times"
            )
    fields.require(key, f"source {spec.topic!r}, key=")
    node = Node(f"source-{spec.topic}", "source", (), fields, source=spec)
    graph.add(node)
    return Stream(graph, Edge(node.id), fields)


def make_source(
    topic: str,
    schema: type[Schema] | None,
    *,
    key: Sequence[str],
    disorder: str | int,
    start: str,
    idle: str | int,
    validate: str,
    ahead: str | int,
    behind: str | int,
) -> tuple[Source, StreamType]:
    """A source's spec and its stream's type, checked."""
    import polars as pl

    from streams.core.schema import Field

    topic_names.check(topic, "app.source(...)")
    if start not in ("earliest", "latest"):
        raise WrongType(
            f"start={start!r}", where=f"source {topic!r}", fix='say where a first run begins: "earliest" or "latest"'
        )
    if validate not in ("used", "all"):
        raise WrongType(f"validate={validate!r}", where=f"source {topic!r}", fix='"used" or "all"')
    if schema is None:
        fields, time = {"value": Field(pl.Binary(), python=bytes)}, None
    else:
        fields, time = describe(schema)
    spec = Source(
        topic, schema, duration(disorder), start, duration(idle), validate, duration(ahead), duration(behind), time
    )
    return spec, StreamType(fields, tuple(key), time is not None, schema)


def with_sinks(graph: Graph, choose: Callable[[Node], TwoPhaseSink]) -> Graph:
    """The same program with other sinks outside the log: for runs that must not write to the real ones."""
    nodes = {
        id: node if node.outside is None else replace(node, outside=Outside(choose(node), id))
        for id, node in graph.nodes.items()
    }
    return Graph(nodes, graph.on_error)


def _instead(target: object) -> str:
    if isinstance(target, TwoPhaseSink):
        return f'give it a name: stream | app.write_to({type(target).__name__}(...), name="...")'
    return "pipe into an operator or app.sink(...)"


def _write_to(graph: Graph, target: Outside, streams: Sequence[Stream]) -> None:
    if len(streams) > 1:
        raise BuildError(
            f"the sink {target.name!r} takes one stream and was given {len(streams)}",
            fix="put them together: union(a, b) | app.write_to(...)",
        )
    (stream,) = streams
    check_targets((n.outside for n in graph.nodes.values() if n.outside is not None and n.id != target.name), target)
    target.sink.bind(stream.type)
    graph.add(Node(target.name, "sink", (stream.edge,), stream.type, outside=target))


def _add(graph: Graph, operator: Operator, edges: tuple[Edge, ...], types: list[StreamType]) -> Stream:
    kind = operator.kind or type(operator).__name__.lower()
    where = operator.id or kind
    if len(edges) != operator.ports:
        raise BuildError(
            f"the operator has {operator.ports} input port(s) and was given {len(edges)} stream(s)",
            where=where,
            fix="pipe one stream with `stream | operator`, several with `connect(a, b) | operator`",
        )
    if isinstance(operator, Repartition):
        if not operator.columns:
            raise UnknownColumn("a key without columns", where=where, fix='KeyBy("column")')
        types[0].require(operator.columns, where)
        if types[0].key == operator.columns and operator.partitions is None:
            return Stream(graph, edges[0], types[0])
    out = operator.bind(*types)
    node_id = operator.id or graph.new_id(kind)
    names = [s.name for s in operator.stores]
    if len(set(names)) != len(names):
        raise DuplicateId(f"two stores of one name: {names}", where=node_id)
    for name in operator.migrate:
        if name not in names:
            raise BuildError(
                f"migrate names a store {name!r} that the operator does not have{nearest(name, names)}",
                where=node_id,
                fix=f"it has: {', '.join(names) or 'none'}",
            )
    shuffle = isinstance(operator, Repartition)
    graph.add(Node(node_id, "shuffle" if shuffle else "operator", edges, out, operator=operator))
    return Stream(graph, Edge(node_id), out)
