"""Draws the pictures of concepts.md into docs/pictures: `python docs/draw_pictures.py`.

An SVG has classes and no colours but in its own style sheet, which serves where it is shown alone (on a code host). The
site leaves that sheet out and colours by _static/site.css, so that pictures follow the theme.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

PLACE = Path(__file__).parent / "pictures"
STYLE = """<style>
  text { fill: #1f2328; font-family: system-ui, sans-serif; } .soft { fill: #59636e; }
  .mono { font-family: ui-monospace, monospace; }
  .ground { fill: #ffffff; } .box { fill: #f6f8fa; stroke: #818b98; }
  .line { stroke: #59636e; fill: none; } .head { fill: #59636e; }
  .log { fill: #3d7fd922; stroke: #3d7fd9; } .state { fill: #2f9e5a22; stroke: #2f9e5a; }
  .bad { fill: #d9463d22; stroke: #d9463d; }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc; } .ground { fill: #0d1117; } .soft { fill: #9198a1; } .box { fill: #151b23; stroke: #656c76; }
    .line { stroke: #9198a1; } .head { fill: #9198a1; }
  }
</style>"""


class Picture:
    """A drawing of boxes, arrows and words; sizes are pixels."""

    def __init__(self, name: str, width: int, height: int, title: str) -> None:
        self.name, self._size, self._title = name, (width, height), title
        self._parts: list[str] = []

    def text(self, x: float, y: float, words: str, kind: str = "", anchor: str = "start", size: int = 13) -> None:
        self._parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}"{_class(kind)}>{escape(words)}</text>'
        )

    def box(self, x: float, y: float, w: float, h: float, lines: Sequence[str] = (), kind: str = "box") -> None:
        """The first line in the ordinary ink, the others softer and smaller."""
        place = f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="6"'
        if kind != "box":  # colours let the ground shine through, but no lines
            self._parts.append(f"{place}{_class('ground')}/>")
        self._parts.append(f"{place}{_class(kind)}/>")
        top = y + h / 2 + 4.5 - (len(lines) - 1) * 8.5
        for number, line in enumerate(lines):
            first = number == 0
            self.text(x + w / 2, top + number * 17, line, "" if first else "soft", "middle", 13 if first else 12)

    def arrow(self, *points: tuple[float, float], dashed: bool = False, kind: str = "line") -> None:
        """Along the points, with a head at the last one; the last stretch is level or upright."""
        path = " ".join(f"{'M' if i == 0 else 'L'}{x:g} {y:g}" for i, (x, y) in enumerate(points))
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self._parts.append(f'<path d="{path}" stroke-width="1.5"{dash}{_class(kind)}/>')
        (x0, y0), (x, y) = points[-2:]
        if x != x0:
            s = 7 if x > x0 else -7
            head = f"{x:g},{y:g} {x - s:g},{y - 4:g} {x - s:g},{y + 4:g}"
        else:
            s = 7 if y > y0 else -7
            head = f"{x:g},{y:g} {x - 4:g},{y - s:g} {x + 4:g},{y - s:g}"
        self._parts.append(f'<polygon points="{head}"{_class("head")}/>')

    def line(self, x0: float, y0: float, x1: float, y1: float, width: float = 1.5, dashed: bool = False) -> None:
        dash = ' stroke-dasharray="4 4"' if dashed else ""
        self._parts.append(f'<path d="M{x0:g} {y0:g} L{x1:g} {y1:g}" stroke-width="{width:g}"{dash}{_class("line")}/>')

    def svg(self) -> str:
        width, height = self._size
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="drawing" viewBox="0 0 {width} {height}" '
            f'width="{width}" role="img">'
        )
        return "\n".join([head, f"<title>{escape(self._title)}</title>", STYLE, *self._parts, "</svg>", ""])


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def commit() -> Picture:
    p = Picture("commit", 760, 330, "The life of a record through a commit")
    p.box(10, 40, 110, 60, ["source topic", "records"], "log")
    p.arrow((120, 70), (165, 70))
    p.text(142, 60, "poll", "soft", "middle", 12)
    p.box(165, 40, 100, 60, ["Batch", "columns"])
    p.arrow((265, 70), (310, 70))
    p.box(310, 40, 130, 60, ["operators", "of one task"])
    p.arrow((440, 55), (495, 55))
    p.text(467, 46, "rows", "soft", "middle", 12)
    p.box(495, 30, 150, 40, ["outputs, shuffles"])
    p.arrow((440, 88), (495, 88))
    p.text(467, 105, "writes", "soft", "middle", 12)
    p.box(495, 76, 150, 40, ["overlay, in memory"], "state")
    p.text(495, 18, "invisible until the commit", "soft", size=12)

    p.box(125, 160, 520, 84, [], "log")
    p.text(138, 180, "one transaction on the log: all of it, or nothing", size=13)
    x = 138
    for words, w in (("outputs", 80), ("shuffle blocks", 112), ("changelog block", 126), ("lease n+1, positions", 152)):
        p.box(x, 195, w, 34, [words])
        x += w + 8
    p.arrow((645, 70), (690, 70), (690, 202), (645, 202), dashed=True)
    p.text(697, 132, "every", "soft", size=12)
    p.text(697, 148, "second", "soft", size=12)
    p.arrow((395, 244), (395, 278))
    p.text(403, 266, "committed", "soft", size=12)
    p.box(275, 278, 240, 44, ["RocksDB", "the overlay, with sequence n+1"], "state")
    p.arrow((125, 212), (50, 212), (50, 100), dashed=True)
    p.text(10, 262, "a restart goes on", "soft", size=12)
    p.text(10, 278, "behind the positions", "soft", size=12)
    return p


def lease() -> Picture:
    p = Picture("lease", 760, 430, "How a task moves from a worker that hangs to another")
    top, bottom = 62, 420
    for x, words, kind in ((120, "worker a", "box"), (380, "the task's lease record", "log"), (640, "worker b", "box")):
        p.box(x - 85, 20, 170, 32, [words], kind)
        p.line(x, 52, x, bottom, dashed=True)
    step: Callable[[int], float] = lambda n: top + 28 + n * 47  # noqa: E731

    p.arrow((120, step(0)), (310, step(0)))
    p.text(215, step(0) - 7, "commit", "soft", "middle", 12)
    p.box(310, step(0) - 15, 140, 28, ["slot a, sequence 7"], "log")
    p.box(60, step(1) - 18, 120, step(4) - step(1) + 36, ["stopped", "(paused, cut off)"], "bad")
    p.text(630, step(1) - 12, "the group gives b the task", "soft", "end", 12)
    p.text(630, step(1) + 8, "1. open the task's claim", "", "end", 12)
    p.arrow((640, step(2)), (450, step(2)))
    p.text(545, step(2) - 7, "2. read: slot a holds it", "", "middle", 12)
    p.arrow((640, step(3)), (180, step(3)))
    p.text(545, step(3) - 7, "3. fence slot a, read again", "", "middle", 12)
    p.text(250, step(3) - 7, "its transaction ends", "soft", "middle", 12)
    p.arrow((640, step(4)), (450, step(4)))
    p.text(545, step(4) - 7, "4. write the record", "", "middle", 12)
    p.box(310, step(4) - 15, 140, 28, ["slot b, sequence 7"], "log")
    p.arrow((120, step(5)), (300, step(5)))
    p.text(210, step(5) - 7, "wakes, commits", "soft", "middle", 12)
    p.box(300, step(5) - 14, 160, 28, ["refused: Fenced"], "bad")
    p.arrow((640, step(6)), (450, step(6)))
    p.text(545, step(6) - 7, "restore, work, commit", "soft", "middle", 12)
    p.box(310, step(6) - 15, 140, 28, ["slot b, sequence 8"], "log")
    return p


def watermarks() -> Picture:
    p = Picture("watermarks", 760, 300, "Watermarks across a shuffle")
    rows = [
        (40, "payments, partition 0", ["10:00:03", "10:00:09", "10:00:07", "10:00:20"], "10:00:15"),
        (170, "payments, partition 1", ["10:00:01", "10:00:02", "10:00:06", "10:00:04"], "10:00:01"),
    ]
    for y, title, times, mark in rows:
        p.text(10, y - 12, title, "soft", size=12)
        for i, time in enumerate(times):
            late = time in ("10:00:07", "10:00:04")
            p.box(10 + i * 72, y, 66, 30, [time], "box" if not late else "bad")
        p.text(10, y + 52, f"greatest so far minus 5s: watermark {mark}", size=13)
        p.arrow((305, y + 15), (360, y + 15))
        p.box(360, y - 5, 110, 40, ["task 0/" + title[-1], "KeyBy(shop)"])
        p.arrow((470, y + 15), (540, y + 15), (540, 128 if y < 100 else 142), (580, 128 if y < 100 else 142))
        p.text(476, y + (5 if y < 100 else 46), f"channel at {mark}", "soft", size=12)
    p.box(580, 105, 170, 60, ["task 1/0", "watermark 10:00:01"])
    p.text(595, 188, "the least of its channels:", "soft", size=12)
    p.text(595, 204, "no earlier row can come", "soft", size=12)
    p.text(
        10,
        262,
        "Red: out of order, not late. Each row also carries the watermark of its own partition at that row;",
        size=12,
    )
    p.text(
        10, 280, "whether it is late for a window is decided by that one alone, before and after the shuffle.", size=12
    )
    return p


def crashes() -> Picture:
    p = Picture("crashes", 760, 260, "What a crash at each step of a commit leaves")
    steps = ["begin", "drained", "appended", "changelog", "flushed", "committed", "applying", "applied"]
    for i, name in enumerate(steps):
        x = 10 + i * 93
        p.box(x, 60, 82, 34, [name], "log" if i < 5 else "state")
        if i:
            p.arrow((x - 11, 77), (x, 77))
    p.line(469, 30, 469, 130, 2)
    p.text(469, 22, "the transaction ends here", "", "middle", 13)
    p.line(10, 112, 450, 112)
    p.line(488, 112, 743, 112)
    for i, words in enumerate(
        [
            "the worker dies here:",
            "the transaction is aborted, nobody has seen it",
            "the overlay was in memory: it is gone",
            "stores stand at commit n",
            "the input is read again from commit n's positions",
        ]
    ):
        p.text(10, 134 + i * 18, words, "soft" if i == 0 else "", size=13 if i else 12)
    for i, words in enumerate(
        [
            "and here:",
            "all of it is visible, once",
            "each store stands at n or at n+1",
            "the changelog brings them to n+1",
            "the input goes on behind n+1",
        ]
    ):
        p.text(488, 134 + i * 18, words, "soft" if i == 0 else "", size=13 if i else 12)
    p.text(
        10,
        246,
        "In between, in doubt: opening the slot's writer settles the transaction; the lease's sequence says which way.",
        size=12,
    )
    return p


def pictures() -> dict[str, str]:
    """The file names and what is in them."""
    return {f"{p.name}.svg": p.svg() for p in (commit(), lease(), watermarks(), crashes())}


if __name__ == "__main__":
    PLACE.mkdir(exist_ok=True)
    for name, svg in pictures().items():
        (PLACE / name).write_text(svg)
