"""The live part of the terminal: figures in columns that fit the width, with rich."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from streams.core.wording import size, span
from streams.terminal.figures import Figures, behind, instant

_CELL = 25  # a label and a value: two columns from 60 characters on, three from 80, five from 140
_GAP = 2


@dataclass(frozen=True)
class Cell:
    """A label with its value; `style` is rich's, for values that want to be seen."""

    label: str
    value: str
    style: str = ""


@dataclass(frozen=True)
class Cells:
    """Cells in as many columns as fit, read from left to right; a line for each row of them."""

    cells: Sequence[Cell]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns = max(1, (options.max_width + _GAP) // (_CELL + _GAP))
        for first in range(0, len(self.cells), columns):
            line = Text(no_wrap=True, overflow="ellipsis")
            for index, cell in enumerate(self.cells[first : first + columns]):
                line.append(" " * _GAP if index else "")
                room = max(1, _CELL - len(cell.value) - 1)
                label = cell.label if len(cell.label) <= room else f"{cell.label[: room - 1]}."
                line.append(label, "dim")
                line.append(" " * max(1, _CELL - len(label) - len(cell.value)))
                line.append(cell.value, cell.style)
            yield line


@dataclass(frozen=True)
class Title:
    """What stands left, and after it what there is room for."""

    left: str
    right: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        line = Text(self.left, "bold", no_wrap=True, overflow="ellipsis")
        if len(self.left) + len(self.right) + _GAP <= options.max_width:
            line.append(" " * _GAP + self.right, "not bold dim")
        yield line


@dataclass(frozen=True)
class WorkerView:
    """A worker, or several as one."""

    figures: Figures

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        figures = self.figures
        yield Text("")
        yield Title(f"{figures.app}, slot {figures.slot}, {span(figures.seconds)}", f"on {figures.log}")
        yield Cells([*cells(figures), *outputs(figures)])


def cells(figures: Figures) -> Iterator[Cell]:
    """Everything but the outputs."""
    status = figures.status
    yield Cell("in", f"{status.records_in:,}", "bold")
    yield Cell("in/s", f"{figures.rate_in:,.0f}", "bold")
    yield Cell("out/s", f"{figures.rate_out:,.0f}", "bold")
    yield Cell("left to read", f"{status.lag:,}")
    yield Cell("event at", instant(status.watermark))
    yield Cell("behind the clock", behind(status.watermark_delay))
    yield Cell("late", f"{status.late:,}", "yellow" if status.late else "")
    yield Cell("dead", f"{status.dead:,}", "red" if status.dead else "")
    yield Cell("state", size(status.state_bytes))
    yield Cell("commits", f"{status.commits:,}")
    yield Cell("last commit", span(status.last_commit_seconds) if status.commits else "-")
    if status.aborts:
        yield Cell("aborted commits", f"{status.aborts:,}", "yellow")
    for state, count in figures.tasks.items() or {"running": 0}.items():
        yield Cell(f"tasks {state}", f"{count:,}")


def outputs(figures: Figures) -> Iterator[Cell]:
    """Records written, a topic each."""
    for topic, count in figures.outputs.items():
        yield Cell(f"> {topic}", f"{count:,}", "green")
