"""Places the nodes of a topology: layers from left to right by depth, a lane for each sub-topology.

The method is Sugiyama's, in small: longest-path layers; edges over several layers get a bend in each (so that no edge
runs behind a node); the order within a layer is that of the neighbours' mean, the best of some sweeps by the number of
crossings; heights are those of the neighbours, as near as the least distances allow (least squares, solved exactly by
pooling adjacent violators). Sinks of one topic in one sub-topology are one node.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from streams.core.stream import Node
from streams.core.topology import SubTopology, Topology

NODE_WIDTH, NODE_HEIGHT = 184, 68
_GAP = 62  # between layers: room for the edges
_SPACE = 20  # between the nodes of a layer
_BEND = 16  # the height that a passing edge takes
_PAD, _HEAD = 16, 50  # of a lane's box: around the nodes, and for its title
_LEAST = 2 * NODE_WIDTH + _GAP  # of a box: its title must fit
_LANES = 26  # between lanes
_SWEEPS = 12

Point = tuple[float, float]


@dataclass(frozen=True)
class Placed:
    """A node with the middle of its left side; `ids` are those of the graph's nodes that it stands for."""

    ids: tuple[str, ...]
    node: Node
    x: float
    y: float


@dataclass(frozen=True)
class Line:
    """An edge as points to run through, from the right side of one node to the left side of another."""

    points: tuple[Point, ...]
    side: str
    shuffle: bool


@dataclass(frozen=True)
class Box:
    """A sub-topology's lane."""

    sub: SubTopology
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Layout:
    width: float
    height: float
    boxes: tuple[Box, ...]
    nodes: tuple[Placed, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class _Link:
    source: str
    target: str
    side: str
    shuffle: bool


def place(topology: Topology) -> Layout:
    """The layout of a topology; the same one for the same program."""
    names, first = _merge_sinks(topology)
    links = list(
        dict.fromkeys(
            _Link(names[e.node], names[n.id], e.side, n.kind == "shuffle")
            for n in topology.graph.nodes.values()
            for e in n.inputs
        )
    )
    depth = _depths(list(first), links)
    lane_of = {names[n.id]: sub.index for sub in topology.subs for n in sub.nodes}
    at: dict[str, Point] = {}
    bends: dict[_Link, list[Point]] = {}
    boxes: list[Box] = []
    top = 0.0
    for sub in topology.subs:
        members = [n for n in first if lane_of[n] == sub.index]
        inside = [k for k in links if not k.shuffle and lane_of[k.source] == lane_of[k.target] == sub.index]
        lane = _Lane(members, inside, depth)
        height = lane.height + _HEAD + _PAD
        left, right = min(depth[n] for n in members), max(depth[n] for n in members)
        width = max(_LEAST, _x(right) + NODE_WIDTH - _x(left)) + 2 * _PAD
        boxes.append(Box(sub, _x(left) - _PAD, top, width, height))
        for name in members:
            at[name] = (_x(depth[name]), top + _HEAD + lane.y[name])
        for link, parts in lane.bends.items():
            bends[link] = [(_x(layer), top + _HEAD + lane.y[part]) for part, layer in parts]
        top += height + _LANES
    lines = _lines(links, at, bends, {b.sub.index: b.y for b in boxes}, lane_of)
    ids: dict[str, list[str]] = {}
    for id, name in names.items():
        ids.setdefault(name, []).append(id)
    nodes = tuple(Placed(tuple(ids[name]), first[name], *at[name]) for name in first)
    return Layout(max(b.x + b.width for b in boxes) + 1, top - _LANES + 1, tuple(boxes), nodes, lines)


def _x(layer: int) -> float:
    return 1 + _PAD + layer * (NODE_WIDTH + _GAP)


def _merge_sinks(topology: Topology) -> tuple[dict[str, str], dict[str, Node]]:
    """For each node's id the name of what is drawn, and what is drawn by name."""
    names: dict[str, str] = {}
    first: dict[str, Node] = {}
    sinks: dict[tuple[int, str], str] = {}
    home = {n.id: sub.index for sub in topology.subs for n in sub.nodes}
    for node in topology.graph.nodes.values():
        name = node.id
        if node.sink is not None:
            name = sinks.setdefault((home[node.id], node.sink.topic), node.id)
        names[node.id] = name
        first.setdefault(name, node)
    return names, first


def _depths(names: Sequence[str], links: Sequence[_Link]) -> dict[str, int]:
    """The length of the longest way from a source."""
    into: dict[str, list[str]] = {name: [] for name in names}
    for link in links:
        into[link.target].append(link.source)
    depth: dict[str, int] = {}
    waiting = list(names)
    while waiting:  # a node may be named before its inputs where sinks were merged
        ready = [n for n in waiting if all(s in depth for s in into[n])]
        for name in ready:
            depth[name] = max((depth[s] + 1 for s in into[name]), default=0)
        waiting = [n for n in waiting if n not in depth]
    return depth


class _Lane:
    """The order and the heights of one sub-topology's nodes and bends; `y` is the middle, from the lane's top."""

    def __init__(self, members: Sequence[str], links: Sequence[_Link], depth: Mapping[str, int]) -> None:
        self._tall = dict.fromkeys(members, float(NODE_HEIGHT))
        self.bends: dict[_Link, list[tuple[str, int]]] = {}
        layers: dict[int, list[str]] = {}
        self._before: dict[str, list[str]] = {n: [] for n in members}
        self._after: dict[str, list[str]] = {n: [] for n in members}
        for name in members:
            layers.setdefault(depth[name], []).append(name)
        for number, link in enumerate(links):
            last = link.source
            for layer in range(depth[link.source] + 1, depth[link.target]):
                part = f"{number} {layer}\0"
                self._tall[part] = _BEND
                self._before[part], self._after[part] = [], []
                layers.setdefault(layer, []).append(part)
                self.bends.setdefault(link, []).append((part, layer))
                self._join(last, part)
                last = part
            self._join(last, link.target)
        self._layers = [layers[i] for i in sorted(layers)]
        self._order()
        self._place()

    def _join(self, one: str, other: str) -> None:
        self._after[one].append(other)
        self._before[other].append(one)

    def _order(self) -> None:
        best, least = [list(layer) for layer in self._layers], self._crossings()
        for sweep in range(_SWEEPS):
            forward = sweep % 2 == 0
            near = self._before if forward else self._after
            rank = {n: i for layer in self._layers for i, n in enumerate(layer)}
            for layer in self._layers if forward else self._layers[::-1]:
                old = {n: i for i, n in enumerate(layer)}
                mean = {n: sum(rank[m] for m in near[n]) / len(near[n]) if near[n] else old[n] for n in layer}
                layer.sort(key=lambda n: (mean[n], old[n]))
                rank.update({n: i for i, n in enumerate(layer)})
            if (count := self._crossings()) < least:
                best, least = [list(layer) for layer in self._layers], count
        self._layers = best

    def _crossings(self) -> int:
        total = 0
        for left, right in zip(self._layers, self._layers[1:], strict=False):
            rank = {n: i for i, n in enumerate(right)}
            pairs = [(i, rank[m]) for i, n in enumerate(left) for m in self._after[n] if m in rank]
            total += sum(1 for a in pairs for b in pairs if a[0] < b[0] and a[1] > b[1])
        return total

    def _place(self) -> None:
        self.y: dict[str, float] = {}
        for layer in self._layers:
            self._settle(layer, dict.fromkeys(layer, 0.0))
        for sweep in range(_SWEEPS):
            near = self._before if sweep % 2 == 0 else self._after
            for layer in self._layers if sweep % 2 == 0 else self._layers[::-1]:
                wish = {n: sum(self.y[m] for m in near[n]) / len(near[n]) if near[n] else self.y[n] for n in layer}
                self._settle(layer, wish)
        top = min(self.y[n] - self._tall[n] / 2 for n in self.y)
        self.y = {n: y - top for n, y in self.y.items()}
        self.height = max(self.y[n] + self._tall[n] / 2 for n in self.y)

    def _settle(self, layer: Sequence[str], wish: Mapping[str, float]) -> None:
        """The heights nearest to the wishes (least squares) that keep order and distance."""
        shift, at = [], 0.0
        for index, name in enumerate(layer):
            at += (self._tall[layer[index - 1]] + self._tall[name]) / 2 + _SPACE if index else 0.0
            shift.append(at)
        pools: list[tuple[float, int]] = []  # mean and size
        for name, by in zip(layer, shift, strict=True):
            mean, size = wish[name] - by, 1
            while pools and pools[-1][0] > mean:
                other, count = pools.pop()
                mean, size = (mean * size + other * count) / (size + count), size + count
            pools.append((mean, size))
        means = [mean for mean, size in pools for _ in range(size)]
        for name, mean, by in zip(layer, means, shift, strict=True):
            self.y[name] = mean + by


def _lines(
    links: Sequence[_Link],
    at: Mapping[str, Point],
    bends: Mapping[_Link, Sequence[Point]],
    tops: Mapping[int, float],
    lane_of: Mapping[str, int],
) -> tuple[Line, ...]:
    """The edges; where several leave or enter a node they are spread over its side in the order of their other ends."""
    middle: dict[_Link, list[Point]] = {}
    for link in links:
        middle[link] = [p for x, y in bends.get(link, ()) for p in ((x, y), (x + NODE_WIDTH, y))]
        (x1, _), (x2, _) = at[link.source], at[link.target]
        if not middle[link] and x2 - x1 > (NODE_WIDTH + _GAP) * 1.5:
            # To another lane, over several layers: along the free strip above that lane.
            gutter = tops[lane_of[link.target]] - _LANES / 2
            middle[link] = [(x1 + NODE_WIDTH + _GAP, gutter), (x2 - _GAP, gutter)]
    starts, ends = dict[_Link, Point](), dict[_Link, Point]()
    for name, (x, y) in at.items():
        out = [k for k in links if k.source == name]
        into = [k for k in links if k.target == name]
        out.sort(key=lambda k: [*middle[k], at[k.target]][0][1])
        into.sort(key=lambda k: [at[k.source], *middle[k]][-1][1])
        for ordered, found, px in ((out, starts, x + NODE_WIDTH), (into, ends, x)):
            step = min(16.0, (NODE_HEIGHT - 20) / max(1, len(ordered) - 1))
            for index, link in enumerate(ordered):
                found[link] = (px, y + (index - (len(ordered) - 1) / 2) * step)
    return tuple(Line((starts[k], *middle[k], ends[k]), k.side, k.shuffle) for k in links)
