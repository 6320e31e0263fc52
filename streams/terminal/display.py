"""Shows figures while something else works: a thread of its own looks at them and draws, so the work never waits.

`choose` makes the display that fits: `LiveDisplay` on a terminal, `LineDisplay` elsewhere. All are used alike:

    with choose(...) as display:
        display.show(look, draw)     # look() gives figures, at most a few times a second
        ...                          # the work
"""

import logging
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

from streams.terminal.figures import Figures, as_fields, as_line, summary

if TYPE_CHECKING:
    from rich.console import RenderableType

Look = Callable[[], Figures]
Draw = Callable[[Figures], "RenderableType"]

_LINES_EVERY = 2.0
_END = 2.0  # seconds that the last drawing may take: a terminal that stands still must not keep us
_progress = logging.getLogger("streams.progress")


class Display:
    """Shows nothing: what `--quiet` asks for, and the base of the others."""

    def __enter__(self) -> Self:
        return self

    def show(self, look: Look, draw: Draw | None = None, line: Callable[[Figures], str] = as_line) -> None:
        """Begin to show. `draw` makes what a live view shows of the figures, `line` what a line says."""

    def write(self, text: str) -> None:
        """Lines that stay, for people; on a live view above it."""

    def anew(self) -> None:
        """The process was stopped and goes on (Ctrl-Z, fg): others have written to the terminal."""

    def done(self) -> None:
        """All has ended well: show the last figures, and what was done."""

    def close(self) -> None:
        """Leave the terminal as it was. May be called twice."""

    def __exit__(self, kind: type[BaseException] | None, error: Any, where: TracebackType | None) -> None:
        self.close()


class _Threaded(Display):
    """Calls `_tick` from a thread every so often until it is closed."""

    def __init__(self, every: float) -> None:
        self._every = every
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self._look: Look | None = None
        self._line: Callable[[Figures], str] = as_line

    def show(self, look: Look, draw: Draw | None = None, line: Callable[[Figures], str] = as_line) -> None:
        self._look, self._line = look, line
        self._thread = threading.Thread(target=self._run, name="display", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ending.wait(self._every):
            self._tick()

    def _tick(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self._ending.set()
        if self._thread is not None:
            self._thread.join(_END)
            self._thread = None


class LineDisplay(_Threaded):
    """A line every two seconds if something changed: on stdout, or with `as_json` as a record of the log."""

    def __init__(self, *, as_json: bool = False, every: float = _LINES_EVERY) -> None:
        super().__init__(every)
        self._as_json = as_json
        self._before: object = None

    def _tick(self) -> None:
        assert self._look is not None
        self._say(self._look())

    def _say(self, figures: Figures) -> None:
        now = (figures.status.records_in, dict(figures.status.records_out), dict(figures.status.tasks))
        if now != self._before:
            self._before = now
            self._put(self._line(figures), figures)

    def _put(self, text: str, figures: Figures) -> None:
        if self._as_json:
            _progress.info("%s", text, extra={"fields": as_fields(figures)})
        else:
            self.write(text)

    def write(self, text: str) -> None:
        if self._as_json:
            _progress.info("%s", text)
            return
        try:
            click.echo(text)
        except (OSError, ValueError):  # nobody reads the pipe any more: the work goes on
            self._ending.set()

    def done(self) -> None:
        if self._look is None:
            return
        self.close()
        figures = self._look()
        self._say(figures)
        self._put(summary(figures), figures)


def choose(*, quiet: bool = False, plain: bool = False, as_json: bool = False) -> Display:
    """The display for this process's stdout. A live view needs a terminal that can move its cursor."""
    if quiet:
        return Display()
    if not plain and not as_json and sys.stdout.isatty():
        from rich.console import Console

        console = Console()
        if console.is_terminal and not console.is_dumb_terminal:
            from streams.terminal.live import LiveDisplay

            return LiveDisplay(console)
    return LineDisplay(as_json=as_json)
