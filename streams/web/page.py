"""The page: rendered here once a request, on the template page.html; its script asks for the same again and again.

Whatever comes from data goes through `escape`. The script and the style are allowed by their hashes, nothing else is.
"""

import base64
import hashlib
import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files

from streams.core.topology import Topology
from streams.runtime.plan import Plan
from streams.runtime.report import OperatorReport, TaskReport
from streams.web import figures
from streams.web.drawing import commits_svg, topology_svg
from streams.web.layout import place
from streams.web.status import Status

_SIGNS = {"good": "●", "waits": "◐", "bad": "▲"}
Row = Sequence["str | Mark"]


class Mark(str):
    """A text with a sign and a colour: good, waits or bad."""

    kind: str

    def __new__(cls, text: str, kind: str) -> "Mark":
        made = super().__new__(cls, text)
        made.kind = kind
        return made


class Page:
    """Renders the page of one program."""

    def __init__(self, topology: Topology, plan: Plan, commit_interval: float) -> None:
        self._topology, self._plan, self._interval = topology, plan, commit_interval
        self._layout = place(topology)
        self._template = files("streams.web").joinpath("page.html").read_text(encoding="utf-8")
        self.policy = _policy(self._template)

    def whole(self, status: Status) -> str:
        """The document."""
        page = self._template.replace("{{title}}", escape(title(status)))
        return page.replace("{{live}}", self.live(status))

    def live(self, status: Status) -> str:
        """What changes while one looks."""
        return "\n".join(
            [
                self._header(status),
                self._trouble(status),
                self._figures(status),
                self._graph(status),
                self._operators(status),
                self._tasks(status),
                self._application(status),
                self._commits(status),
                self._letters(status),
                self._aborts(status),
                self._settings(status),
            ]
        )

    # ---- the top

    def _header(self, status: Status) -> str:
        mark = _state(status)
        age = figures.seconds((status.now - status.worker.since) / 1000)
        return (
            f'<header><h1>{escape(status.app)}</h1><p class="state {mark.kind}">{_signed(mark)}</p>'
            f'<p class="faint">slot {escape(status.slot)} on {escape(status.log)} · up {age} · streams '
            f'{escape(status.version)} · <span class="nowrap">{figures.instant(status.now)} UTC</span></p></header>'
        )

    def _trouble(self, status: Status) -> str:
        """What is wrong, first of all. The frame is always there: the page's script compares children by place."""
        told = ""
        if not status.health.ok:
            calls = "".join(f"<li><code>{escape(call)}</code></li>" for call in status.health.calls)
            where = f"<p>Its thread is in, innermost first:</p><ol>{calls}</ol>" if calls else ""
            reason = f"<p>{escape(status.health.reason)}.</p>"
            told = f'<section class="trouble"><h2>The worker stands still</h2>{reason}{where}</section>'
        elif not status.ready.ok:
            told = f'<section class="waiting"><h2>Not ready yet</h2><p>{escape(status.ready.reason)}.</p></section>'
        return f'<div id="trouble">{told}</div>'

    def _figures(self, status: Status) -> str:
        w = status.worker
        shown = [
            ("In", figures.rate(w.records_in_per_second, "records"), f"{figures.count(w.records_in)} since the start"),
            (
                "Out",
                figures.rate(w.records_out_per_second, "records"),
                f"{figures.count(sum(w.records_out.values()))} since the start",
            ),
            ("Lag", f"{figures.short(w.lag)} records", "left to read by this worker's tasks"),
            ("Event time", f"{figures.seconds(w.watermark_delay)} behind", f"at {figures.instant(w.watermark)} UTC"),
            ("Last commit", figures.seconds(w.last_commit_seconds), f"{figures.count(w.commits)} commits"),
            ("State", figures.size(w.state_bytes), f"{figures.size(w.overlay_bytes)} not committed"),
            ("Late", f"{figures.short(w.late)} rows", f"{figures.short(w.dropped)} dropped on purpose"),
            ("Dead letters", figures.short(w.dead), f"aborts: {figures.count(w.aborts)}"),
        ]
        cells = "".join(
            f"<div><dt>{name}</dt><dd>{escape(value)}</dd><dd class=faint>{escape(more)}</dd></div>"
            for name, value, more in shown
        )
        return f'<dl class="figures">{cells}</dl>'

    def _graph(self, status: Status) -> str:
        drawn = topology_svg(self._layout, self._plan, status.worker)
        return (
            '<section id="topology"><h2>Topology</h2>'
            f'<div class="scroll" tabindex="0" role="region" aria-label="Topology">{drawn}</div>'
            '<p class="faint">Solid: within a task. Dashed: a shuffle, through the log. The bar at a node\'s foot is '
            "its share of the worker's time. Rates are of the last five seconds, as committed.</p></section>"
        )

    # ---- the tables

    def _operators(self, status: Status) -> str:
        rows = []
        for node in self._topology.graph.nodes.values():
            o = status.worker.operators.get(node.id, OperatorReport())
            each = figures.seconds(o.seconds / o.rows) if o.rows and o.seconds else figures.NONE
            if 0 < o.seconds < o.rows / 1000:
                each = f"{o.seconds / o.rows * 1e6:.2f} µs"
            topic = node.source.topic if node.source else node.sink.topic if node.sink else ""
            name = f"{node.id} ({topic})" if topic and topic not in node.id else node.id
            rate = figures.rate(o.rows_per_second)
            busy = figures.share(o.busy) if node.kind == "operator" else figures.NONE
            dead = Mark(figures.count(o.dead), "bad") if o.dead else "0"
            late, dropped = figures.count(o.late), figures.count(o.dropped)
            rows.append((name, node.kind, figures.count(o.rows), rate, busy, each, late, dropped, dead))
        head = ("Operator", "Kind", "Rows", "Rate", "Busy", "Time a row", "Late", "Dropped", "Dead")
        return _section("Operators", "operators", table("Operators of this worker", head, rows, numbers=2))

    def _tasks(self, status: Status) -> str:
        rows: list[Row] = []
        for task in status.worker.tasks:
            behind = figures.seconds(task.watermark_delay)
            waiting = figures.count(task.waiting_rows)
            sizes = figures.size(task.state_bytes), figures.size(task.overlay_bytes)
            event = figures.instant(task.watermark)
            lag = figures.count(task.lag)
            rows.append(
                (task.task, _task_state(task), figures.count(task.sequence), event, behind, lag, waiting, *sizes)
            )
        head = ("Task", "State", "Commit", "Event time (UTC)", "Behind", "Lag", "Waiting rows", "State", "Uncommitted")
        body = table(
            "Tasks of this worker",
            head,
            rows,
            numbers=2,
            empty="No tasks: other workers hold them all, or none were given yet.",
        )
        inputs = [
            (
                task.task,
                f"{item.topic} [{item.partition}]",
                figures.count(item.position),
                figures.count(item.lag),
                "idle" if item.idle else figures.instant(item.watermark),
            )
            for task in status.worker.tasks
            for item in task.inputs
        ]
        more = table(
            "Inputs", ("Task", "Input [partition]", "Next offset", "Lag", "Event time (UTC)"), inputs, numbers=2
        )
        return _section("Tasks of this worker", "tasks", body + _details(f"Inputs by partition ({len(inputs)})", more))

    def _application(self, status: Status) -> str:
        known = status.application
        rows: list[Row] = []
        for task in known.tasks:
            holder: str | Mark = Mark("nobody yet", "waits")
            if task.slot is not None and task.held:
                holder = f"{task.slot} (this worker)" if task.slot == status.slot else task.slot
                if not task.lives:
                    holder = Mark(f"{task.slot}, whose worker is gone", "waits")
            elif task.slot is not None:
                holder = Mark(f"nobody; {task.slot} has given it back", "waits")
            rows.append(
                (task.task, ", ".join(task.reads), holder, figures.count(task.sequence), figures.count(task.lag))
            )
        note = "the log has not been read yet"
        if known.read_at:
            note = f"as the log had it at {figures.clock(round(known.read_at * 1000))} UTC"
        if known.error:
            note += f"; the last reading failed: {known.error}"
        head = ("Task", "Reads", "Slot", "Commit", "Lag")
        body = table("Tasks of the application and who holds them", head, rows, numbers=3, empty="Nothing read yet.")
        return _section("Who holds which task", "application", f'<p class="faint">{escape(note)}</p>{body}')

    def _commits(self, status: Status) -> str:
        commits = status.worker.last_commits
        rows = [
            (
                figures.clock(c.at),
                Mark(figures.seconds(c.seconds), "waits") if c.seconds > self._interval else figures.seconds(c.seconds),
                figures.count(c.records_in),
                figures.count(c.records_out),
                figures.count(c.tasks),
            )
            for c in reversed(commits)
        ]
        if not rows:
            return _section("Commits", "commits", '<p class="faint">None yet.</p>')
        head = ("At (UTC)", "Took", "Records in", "Records out", "Tasks")
        body = _details(f"The last {len(rows)} commits", table("Commits", head, rows, numbers=1))
        chart = commits_svg(commits, self._interval)
        return _section("Commits", "commits", f'<div class="chart">{chart}</div>{body}')

    def _letters(self, status: Status) -> str:
        rows = [
            (
                figures.clock(item.at),
                item.operator,
                item.cause,
                f"{item.topic} [{item.partition}] @{item.offset}" if item.offset >= 0 else "a result of the operator",
            )
            for item in reversed(status.worker.last_letters)
        ]
        if not rows:
            return _section("Dead letters", "letters", '<p class="faint">None since this worker has started.</p>')
        head = ("At (UTC)", "Operator", "Cause", "Record: topic [partition] @offset")
        note = f"The last {len(rows)} of {figures.count(status.worker.dead)}; the records themselves are in the topic "
        note = f'<p class="faint">{note}{escape(self._plan.dead_letters)}.</p>'
        return _section("Dead letters", "letters", note + table("Dead letters", head, rows, numbers=9))

    def _aborts(self, status: Status) -> str:
        rows = [(figures.clock(a.at), a.reason, a.error) for a in reversed(status.worker.last_aborts)]
        if not rows:
            return _section("Aborted commits", "aborts", '<p class="faint">None since this worker has started.</p>')
        note = '<p class="faint">Nothing is lost by an abort: what was open is read and done again.</p>'
        return _section(
            "Aborted commits", "aborts", note + table("Aborts", ("At (UTC)", "Reason", "Error"), rows, numbers=9)
        )

    def _settings(self, status: Status) -> str:
        body = table("Settings in force", ("Setting", "Value"), list(status.settings.items()), numbers=9)
        return _section("Settings", "settings", _details("Settings in force", body))


def title(status: Status) -> str:
    """Of the browser's tab: the state first, where one has many tabs."""
    return f"{_signed(_state(status))} · {status.app} {status.slot}"


def table(caption: str, head: Sequence[str], rows: Sequence[Row], *, numbers: int, empty: str = "None.") -> str:
    """A table in a frame that scrolls sideways. The columns from `numbers` on are figures, aligned to the right."""
    if not rows:
        return f'<p class="faint">{escape(empty)}</p>'

    def cell(index: int, value: str) -> str:
        kind = " class=n" if index >= numbers else ""
        if isinstance(value, Mark):
            return f'<td{kind}><span class="{value.kind}">{_signed(value)}</span></td>'
        if index == 0:
            return f"<th scope=row>{escape(value)}</th>"
        return f"<td{kind}>{escape(value)}</td>"

    heads = "".join(f"<th scope=col{' class=n' if i >= numbers else ''}>{escape(h)}</th>" for i, h in enumerate(head))
    body = "".join(f"<tr>{''.join(cell(i, v) for i, v in enumerate(row))}</tr>" for row in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _section(name: str, id: str, body: str) -> str:
    return f'<section id="{id}"><h2>{escape(name)}</h2>{body}</section>'


def _details(summary: str, body: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def _signed(mark: Mark) -> str:
    return f"{_SIGNS[mark.kind]} {escape(mark)}"


def _state(status: Status) -> Mark:
    if not status.health.ok:
        return Mark("stands still", "bad")
    if status.ready.ok:
        return Mark("running" if status.worker.tasks else "standing by", "good")
    return Mark("restoring" if status.worker.tasks else "joining", "waits")


def _task_state(task: TaskReport) -> Mark:
    if task.state == "running":
        return Mark("running", "good")
    if task.state == "restoring":
        return Mark(f"restoring: commit {task.restored_to:,} of {task.sequence:,}", "waits")
    return Mark(task.state, "waits")


def _policy(template: str) -> str:
    """The Content-Security-Policy: this page's own script and style, and requests to this server."""

    def hashes(tag: str) -> str:
        found = re.findall(rf"<{tag}>(.*?)</{tag}>", template, re.DOTALL)
        digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in found]
        return " ".join(f"'sha256-{digest}'" for digest in digests)

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
