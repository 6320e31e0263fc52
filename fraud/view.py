"""The demo's live view: event time as a bar and the alerts, and below them the worker's figures."""

from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.text import Text

from fraud.progress import Found
from streams.core.wording import span
from streams.terminal.figures import Figures
from streams.terminal.view import Cell, Cells, Title, cells, outputs


@dataclass(frozen=True)
class DemoView:
    """One frame."""

    figures: Figures
    found: Found

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        figures, found = self.figures, self.found
        day, alerts = found.day(figures.status.watermark), dict(found.alerts)
        yield Text("")
        yield Title(
            f"card fraud, day {day or '-'} of {found.days}", f"event time; {span(figures.seconds)} by the clock"
        )
        yield ProgressBar(total=found.days, completed=day, width=options.max_width)
        yield Segment.line()
        yield Cells(
            [
                Cell("alerts of all runs", f"{sum(alerts.values()):,}", "bold red" if alerts else ""),
                *(Cell(f"> {code}", f"{count:,}", "red") for code, count in sorted(alerts.items())),
                Cell("first alert after", span(found.first)),
            ]
        )
        yield Text("this run", "dim")
        yield Cells([*cells(figures), *outputs(figures)])
