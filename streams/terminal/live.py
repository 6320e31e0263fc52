"""A live view: some lines at the bottom of the terminal that are drawn anew, while notes scroll above them.

Everything that goes to the terminal goes through one thread. Notes wait in a queue of bounded length, so that a
terminal that stands still (Ctrl-S, a slow line) holds nothing up; what did not fit is counted and said.
"""

import io
import logging
import sys
import threading
import time
from collections import deque

from rich.console import Console, RenderableType
from rich.text import Text

from streams.terminal.display import Draw, Look, _Threaded
from streams.terminal.figures import Figures, as_line, summary
from streams.terminal.logs import TextFormatter
from streams.terminal.view import WorkerView

_EVERY = 0.25  # seconds: four frames a second at most
_SHARE = 0.01  # of the time may go into drawing: a slow machine gets fewer frames
_SLOWEST = 2.0
_NOTES = 1000
_HIDE, _SHOW, _CLEAR_DOWN = "\x1b[?25l", "\x1b[?25h", "\x1b[J"
_STYLES = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "red"}


class LiveDisplay(_Threaded):
    """Draws on `console`, takes over logging and what the program prints, and gives all back on `close`."""

    def __init__(self, console: Console, *, every: float = _EVERY) -> None:
        super().__init__(every)
        self.console = console
        self._out = console.file
        self._encoding = getattr(console.file, "encoding", None) or "utf-8"
        console.file = io.StringIO()  # it makes text only; writing, which may fail or hang, is done in one place
        self._draw: Draw = WorkerView
        self._waiting: deque[Text] = deque()
        self._dropped = 0
        self._shown: deque[Text] = deque(maxlen=200)
        self._size = console.size
        self._height = 0
        self._lock = threading.Lock()
        self._handlers: list[logging.Handler] | None = None
        self._streams = (sys.stdout, sys.stderr)
        self._open = self._gone = self._resumed = False
        self._next = 0.0

    def show(self, look: Look, draw: Draw | None = None, line: object = as_line) -> None:
        self._draw = draw if draw is not None else self._draw
        self._open = True
        root = logging.getLogger()
        self._handlers = root.handlers[:]
        if sys.stderr.isatty():  # else the log goes where stderr goes
            root.handlers[:] = [_Notes(self)]
            sys.stderr = _Lines(self, sys.stderr.fileno())
        sys.stdout = _Lines(self, sys.stdout.fileno())
        super().show(look)

    # ---- from any thread

    def write(self, text: str) -> None:
        self.note(text)

    def note(self, text: str, style: str = "") -> None:
        """Lines that scroll above the live part."""
        if len(self._waiting) >= _NOTES:
            self._dropped += 1
        else:
            self._waiting.append(Text(text, style))

    def anew(self) -> None:
        self._resumed = True

    # ---- from the thread that draws, and at the end from the one that closes

    def _tick(self) -> None:
        now = time.monotonic()
        if now >= self._next:
            started = time.thread_time()
            self._frame()
            cost = time.thread_time() - started
            self._next = now + min(_SLOWEST, max(0.0, cost / _SHARE - self._every / 2))

    def _frame(self) -> None:
        assert self._look is not None
        with self._lock:
            if self._open:
                self._put(self._draw(self._look()))

    def _put(self, view: RenderableType) -> None:
        """Over the last frame: notes that came, then the view, in one write."""
        out = ""
        size = self.console.size
        if self._resumed:
            self._resumed, self._height = False, 0  # below whatever stands there now
        notes = [self._waiting.popleft() for _ in range(len(self._waiting))]
        if self._dropped:
            notes.append(Text(f"{self._dropped:,} notes left out: the terminal was too slow for them", "yellow"))
            self._dropped = 0
        self._shown.extend(notes)
        if size != self._size and self._height:
            # The terminal may have wrapped the old frame: nobody can say where it begins. Draw the screen anew.
            self._size, self._height = size, 0
            out += "\x1b[2J\x1b[H"
            notes = list(self._shown)[-max(1, size.height // 2) :]
        frame = self._text(view)[: max(1, size.height - 1)]
        out += f"\x1b[{self._height}A\r" if self._height else _HIDE
        if notes:
            out += _CLEAR_DOWN + "".join(self._note(note) for note in notes)
        out += "".join(f"{line}\x1b[K\n" for line in frame) + _CLEAR_DOWN
        self._height = len(frame)
        self._emit(out)

    def _text(self, view: RenderableType) -> list[str]:
        with self.console.capture() as captured:
            # A column less than there is: writing the last one makes some terminals go to the next line.
            self.console.print(view, width=max(20, self.console.width - 1), highlight=False)
        return captured.get().rstrip("\n").split("\n")

    def _note(self, note: Text) -> str:
        with self.console.capture() as captured:
            self.console.print(note, highlight=False, soft_wrap=True)
        return captured.get()

    def _emit(self, text: str) -> None:
        if self._gone:
            return
        try:
            self._out.write(text.encode(self._encoding, "replace").decode(self._encoding))
            self._out.flush()
        except (OSError, ValueError):  # the terminal is gone: the work goes on without it
            self._gone = True

    def done(self) -> None:
        if self._look is not None:
            self.note(summary(self._look()), "bold")
            self.close()

    def close(self) -> None:
        """The last notes and figures stay on the terminal; the cursor comes back."""
        self._ending.set()
        if self._handlers is None:
            return
        logging.getLogger().handlers[:] = self._handlers
        sys.stdout, sys.stderr = self._streams
        self._handlers = None
        super().close()
        if not self._lock.acquire(timeout=0.1):
            return  # the terminal stands still in the middle of a frame
        try:
            self._open = False
            notes = [self._waiting.popleft() for _ in range(len(self._waiting))]
            last: Figures | None = self._look() if self._look is not None else None
            if last is not None:
                self._put(self._draw(last))
            self._emit("".join(self._note(note) for note in notes) + _SHOW)
        finally:
            self._lock.release()


class _Notes(logging.Handler):
    """The log, as notes above the live part."""

    def __init__(self, display: LiveDisplay) -> None:
        super().__init__()
        self._display = display
        self.setFormatter(TextFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        self._display.note(self.format(record), _STYLES.get(record.levelname, ""))


class _Lines(io.TextIOBase):
    """Stands in for stdout and stderr: what the program prints goes above the live part, a whole line at a time."""

    def __init__(self, display: LiveDisplay, number: int) -> None:
        self._display, self._number = display, number
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        if lines:
            self._display.note("\n".join(lines))
        return len(text)

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._number
