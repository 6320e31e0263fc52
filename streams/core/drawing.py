"""A topology as text and as Mermaid."""

from streams.core.sinks import Outside
from streams.core.stream import Node
from streams.core.topology import Topology


def as_text(topology: Topology) -> str:
    """One block a sub-topology: what it reads, its operators with their stores, what it writes."""
    lines: list[str] = []
    for sub in topology.subs:
        kind = "stateful" if sub.stateful else "stateless"
        lines.append(f"sub-topology {sub.index} ({kind}{', in event-time order' if sub.ordered else ''})")
        for item in sub.inputs:
            node = topology.graph.nodes[item.node]
            columns = ", ".join(c for c in node.type.fields if c in item.wanted) or "no columns"
            lines.append(f"  {'shuffle' if item.shuffle else 'source '} {item.topic}  reads {columns}{_key(node)}")
        for node in sub.nodes:
            if node.kind == "operator":
                lines.append(f"  {node.id}  <- {_inputs(node)}{_key(node)}{_stores(node)}")
            elif node.sink is not None:
                key = f"  key {', '.join(node.sink.key)}" if node.sink.key else ""
                lines.append(f"  sink    {node.sink.topic}  <- {_inputs(node)}{key}")
            elif node.outside is not None:
                lines.append(f"  outside {node.id}  <- {_inputs(node)}  {described(node.outside)}")
        for id in sub.feeds:
            lines.append(f"  shuffle {id}  <- {_inputs(topology.graph.nodes[id])}{_key(topology.graph.nodes[id])}")
    return "\n".join(lines)


def as_mermaid(topology: Topology) -> str:
    """A Mermaid flowchart; sub-topologies are boxes."""
    lines = ["flowchart LR"]
    for sub in topology.subs:
        lines.append(f'  subgraph sub{sub.index}["sub-topology {sub.index}"]')
        for node in sub.nodes:
            lines.append(f"    {_name(node.id)}{_shape(node)}")
        lines.append("  end")
    for node in topology.graph.nodes.values():
        for edge in node.inputs:
            label = f"|{edge.side}|" if edge.side else ""
            lines.append(f"  {_name(edge.node)} -->{label} {_name(node.id)}")
    return "\n".join(lines)


def described(outside: Outside) -> str:
    """What a sink outside the log is: its class, and what it writes to."""
    return f"{type(outside.sink).__name__} {outside.sink.target}".rstrip()


def _inputs(node: Node) -> str:
    return ", ".join(f"{e.node}.{e.side}" if e.side else e.node for e in node.inputs)


def _key(node: Node) -> str:
    return f"  key {', '.join(node.type.key)}" if node.type.key else ""


def _stores(node: Node) -> str:
    names = [s.name for s in node.operator.stores] if node.operator is not None else []
    return f"  stores {', '.join(names)}" if names else ""


def _name(id: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in id)


def _shape(node: Node) -> str:
    if node.source is not None:
        return f'[/"{node.source.topic}"/]'
    if node.sink is not None:
        return f'[\\"{node.sink.topic}"\\]'
    if node.outside is not None:
        return f'[("{node.id}")]'
    if node.kind == "shuffle":
        return f'{{{{"{node.id}"}}}}'
    return f'["{node.id}"]'
