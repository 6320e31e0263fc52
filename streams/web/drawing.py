"""The topology and the commits as SVG, made here: the page needs no library. Colours come from the page's CSS."""

from collections.abc import Sequence
from html import escape
from typing import Any

from streams.core.drawing import described
from streams.runtime.plan import Plan
from streams.runtime.report import CommitReport, OperatorReport, WorkerReport
from streams.web import figures
from streams.web.layout import NODE_HEIGHT, NODE_WIDTH, Box, Layout, Line, Placed

_TITLE, _TEXT = 22, 27  # characters that fit into a node
_CHART = (640, 120)
_BUSY = 0.5  # of the worker's time: such an operator is what limits it


def topology_svg(layout: Layout, plan: Plan, report: WorkerReport) -> str:
    """The graph with what flows through it now."""
    parts = [_box(box, plan, report) for box in layout.boxes]
    parts += [_line(line) for line in layout.lines]
    parts += [_node(placed, report) for placed in layout.nodes]
    parts += [_head(box, plan, report) for box in layout.boxes]  # above the edges, so that none crosses a title
    width, height = round(layout.width), round(layout.height)
    return (
        f'<svg class="graph" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="Topology of {escape(plan.app)}: the table Operators lists the same">'
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path class="tip" d="M0 0L8 4L0 8z"/></marker></defs>' + "".join(parts) + "</svg>"
    )


def _box(box: Box, plan: Plan, report: WorkerReport) -> str:
    return (
        f'<rect class="lane" x="{box.x:.0f}" y="{box.y:.0f}" width="{box.width:.0f}" height="{box.height:.0f}" rx="8"/>'
    )


def _head(box: Box, plan: Plan, report: WorkerReport) -> str:
    tasks = [t for t in report.tasks if t.sub == box.sub.index]
    here = f"{len(tasks)} of {plan.partitions[box.sub.index]} tasks here"
    marks = [t.watermark for t in tasks if t.watermark is not None]
    delays = [t.watermark_delay for t in tasks if t.watermark_delay is not None]
    time = "event time not known yet"
    if marks:
        time = f"event time {figures.instant(min(marks))}, {figures.seconds(max(delays))} behind"
    kind = "stateful" if box.sub.stateful else "stateless"
    width = 6.9 * max(len(f"sub-topology {box.sub.index} · {kind} · {here}"), len(time) * 0.95)
    return (
        f'<rect class="ground" x="{box.x + 12:.0f}" y="{box.y + 6:.0f}" width="{width:.0f}" height="36"/>'
        f'<text class="title" x="{box.x + 16:.0f}" y="{box.y + 20:.0f}">sub-topology {box.sub.index}'
        f'<tspan class="faint"> · {kind} · {here}</tspan></text>'
        f'<text class="faint" x="{box.x + 16:.0f}" y="{box.y + 37:.0f}">{escape(time)}</text>'
    )


def _line(line: Line) -> str:
    (x, y), *rest = line.points
    path = [f"M{x:.1f} {y:.1f}"]
    for to_x, to_y in rest:
        half = (x + to_x) / 2
        path.append(f"C{half:.1f} {y:.1f} {half:.1f} {to_y:.1f} {to_x:.1f} {to_y:.1f}")
        x, y = to_x, to_y
    kind = "edge shuffled" if line.shuffle else "edge"
    out = f'<path class="{kind}" d="{"".join(path)}" marker-end="url(#tip)"/>'
    if line.side:
        out += f'<text class="side" x="{x - 10:.1f}" y="{y - 6:.1f}">{escape(_cut(line.side, 9))}</text>'
    return out


def _node(placed: Placed, report: WorkerReport) -> str:
    node, x, top = placed.node, placed.x, placed.y - NODE_HEIGHT / 2
    total = combined([report.operators.get(id, OperatorReport()) for id in placed.ids])
    title, text, live = _words(placed, total, report)
    slim = node.kind in ("source", "sink")
    hint = f"{title}\n{text}\n{figures.count(total.rows)} rows, {figures.seconds(total.seconds)}"
    out = [f'<g class="node {node.kind}"><title>{escape(hint)}</title>']
    if node.kind == "shuffle":
        left, right, mid, low = x, x + NODE_WIDTH, placed.y, top + NODE_HEIGHT
        corners = [(left + 10, top), (right - 10, top), (right, mid), (right - 10, low), (left + 10, low), (left, mid)]
        out.append(f'<polygon points="{" ".join(f"{a:.0f},{b:.1f}" for a, b in corners)}"/>')
    else:
        shape = f'x="{x:.0f}" y="{top:.1f}" width="{NODE_WIDTH}" height="{NODE_HEIGHT}" rx="{26 if slim else 5}"'
        out.append(f"<rect {shape}/>")
    inner = x + (18 if node.kind != "operator" else 12)
    for index, (kind, words, most) in enumerate(
        (("name", title, _TITLE), ("faint", text, _TEXT), ("live", live, _TEXT))
    ):
        out.append(
            f'<text class="{kind}" x="{inner:.0f}" y="{top + 20 + 17 * index:.1f}">{escape(_cut(words, most))}</text>'
        )
    if node.kind == "operator" and total.busy > 0.005:
        width = min(1.0, total.busy) * (NODE_WIDTH - 8)
        kind = "busy much" if total.busy >= _BUSY else "busy"
        out.append(
            f'<rect class="{kind}" x="{x + 4:.0f}" y="{top + NODE_HEIGHT - 5:.1f}" width="{width:.1f}" height="3"/>'
        )
    flags = [f"{figures.short(n)} {word}" for n, word in ((total.dead, "dead"), (total.late, "late")) if n]
    if flags:
        words = " · ".join(flags)
        width = 7 * len(words) + 12
        left = x + NODE_WIDTH - width - 8
        out.append(
            f'<rect class="flag" x="{left:.0f}" y="{top - 9:.1f}" width="{width}" height="17" rx="8"/>'
            f'<text class="flagged" x="{left + width / 2:.1f}" y="{top + 3.5:.1f}">{escape(words)}</text>'
        )
    return "".join(out) + "</g>"


def _words(placed: Placed, total: OperatorReport, report: WorkerReport) -> tuple[str, str, str]:
    """Name, what it is, and what it does now."""
    node = placed.node
    lag = sum(i.lag for t in report.tasks for i in t.inputs if i.node in placed.ids)
    if node.source is not None:
        return node.source.topic, "source", f"{figures.rate(total.rows_per_second)} · lag {figures.short(lag)}"
    if node.sink is not None:
        return node.sink.topic, "sink", figures.rate(total.rows_per_second)
    if node.outside is not None:
        return node.id, f"sink {described(node.outside)}", figures.rate(total.rows_per_second)
    if node.kind == "shuffle":
        live = f"{figures.rate(total.rows_per_second)} · lag {figures.short(lag)}"
        return node.id, f"shuffle by {', '.join(node.type.key) or 'row'}", live
    kind = type(node.operator).__name__ + (" · state" if node.operator is not None and node.operator.stores else "")
    return node.id, kind, f"{figures.rate(total.rows_per_second)} · busy {figures.share(total.busy)}"


def combined(reports: Sequence[OperatorReport]) -> OperatorReport:
    """Several nodes as one."""
    names = OperatorReport.__struct_fields__
    sums: dict[str, Any] = {name: sum(getattr(r, name) for r in reports) for name in names}
    return OperatorReport(**sums)


def commits_svg(commits: Sequence[CommitReport], interval: float) -> str:
    """How long each of the last commits took: a bar each, the newest on the right, with a scale.

    `interval`: seconds between commits as set; a commit that takes longer holds the worker up.
    """
    width, height = _CHART
    left, bottom, top = 54, height - 20, 8
    greatest = max((c.seconds for c in commits), default=0.0)
    scale = _nice(greatest or 0.01)
    step = (width - left - 4) / 50
    out = []
    for part in (0.0, 0.5, 1.0):
        y = bottom - (bottom - top) * part
        out.append(f'<path class="scale" d="M{left} {y:.1f}H{width}"/>')
        label = escape(figures.seconds(scale * part) if part else "0")
        out.append(f'<text class="axis" x="{left - 6}" y="{y + 4:.1f}">{label}</text>')
    for index, commit in enumerate(commits):
        x = width - 2 - (len(commits) - index) * step
        tall = max(1.5, (bottom - top) * commit.seconds / scale)
        read = f"{figures.count(commit.records_in)} records in"
        hint = f"{figures.clock(commit.at)}: {figures.seconds(commit.seconds)}, {read}"
        kind = "bar slow" if commit.seconds > interval else "bar"
        out.append(
            f'<rect class="{kind}" x="{x:.1f}" y="{bottom - tall:.1f}" width="{step - 2:.1f}" height="{tall:.1f}">'
            f"<title>{escape(hint)}</title></rect>"
        )
    if commits:
        first = f"{figures.clock(commits[0].at)} UTC"
        out.append(
            f'<text class="axis first" x="{width - 2 - len(commits) * step:.1f}" y="{height - 4}">{first}</text>'
        )
        if len(commits) > 20:
            out.append(f'<text class="axis" x="{width - 4}" y="{height - 4}">{figures.clock(commits[-1].at)}</text>')
    label = f"Seconds that each of the last {len(commits)} commits took, at most {figures.seconds(greatest)}"
    view = f'viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}"'
    return f'<svg class="chart" {view}>{"".join(out)}</svg>'


def _nice(value: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 1e-4
    while True:
        for step in (1, 2, 5):
            if step * power >= value:
                return step * power
        power *= 10


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
