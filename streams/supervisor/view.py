"""The supervisor's live view: all workers as one, and a cell for each."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult

from streams.terminal.figures import Figures
from streams.terminal.view import Cell, Cells, WorkerView


@dataclass(frozen=True)
class SupervisorView:
    """One frame. `workers`: slot, records read or what it is doing, restarts."""

    figures: Figures
    workers: Sequence[tuple[str, str, int]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield WorkerView(self.figures)
        yield Cells(
            [
                Cell(f"worker {slot}" + (f" +{restarts}" if restarts else ""), state, "yellow" if restarts else "")
                for slot, state, restarts in self.workers
            ]
        )
