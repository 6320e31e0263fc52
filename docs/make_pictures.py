"""Records the terminal for the docs: `python -m docs.make_pictures [NAME ...]` writes docs/pictures/NAME.svg.

Each picture is a real command on a real pseudo-terminal, at a moment while it works; nothing in it is made up. The
input is the demo's generator, with few days.
"""

import fcntl
import io
import os
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from fraud.demo import PARTITIONS
from fraud.feed import feed
from fraud.generator import Profile
from streams.app import open_log
from streams.settings import Settings

ROOT = Path(__file__).parent.parent
PICTURES = Path(__file__).parent / "pictures"
WIDTH, HEIGHT = 92, 40
LIMIT = 600.0
_CODES = re.compile(r"(\x1b\[\??[0-9;]*[A-Za-z]|\r|\n)")


class Screen:
    """What is on the terminal, of the few control codes that the live view and rich use."""

    def __init__(self) -> None:
        self.lines = [""]
        self._at = 0
        self._fresh = True  # the next text begins the line anew
        self._rest = ""

    def feed(self, text: str) -> None:
        """Take what the command wrote; an incomplete control code at the end waits for the rest."""
        text = self._rest + text
        cut = text.rfind("\x1b")
        self._rest = text[cut:] if cut >= 0 and not _CODES.match(text, cut) else ""
        for part in _CODES.split(text[: len(text) - len(self._rest)]):
            if part == "\n":
                self._at += 1
                self.lines += [""] * (self._at + 1 - len(self.lines))
                self._fresh = True
            elif part == "\r":
                self._fresh = True
            elif part.startswith("\x1b[") and part[-1] == "A":
                self._at -= int(part[2:-1] or 1)
            elif part == "\x1b[J":
                del self.lines[self._at + (0 if self._fresh else 1) :]
                self.lines += [""] * (self._at + 1 - len(self.lines))
            elif part == "\x1b[K":
                self.lines[self._at] = "" if self._fresh else self.lines[self._at]
            elif part and not (part.startswith("\x1b[") and part[-1] != "m"):
                self.lines[self._at] = part if self._fresh else self.lines[self._at] + part
                self._fresh = False


def record(command: Sequence[str], directory: Path, until: Callable[[str], bool]) -> list[str]:
    """Run `python -m streams COMMAND` in a terminal; the screen when `until` says so. Then it is stopped."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, WIDTH, 0, 0))
    kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "LINES")}
    environment = {**kept, "TERM": "xterm-256color", "COLORTERM": "", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "streams", *command],
        cwd=directory,
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    screen, deadline, found = Screen(), time.monotonic() + LIMIT, list[str]()
    try:
        while time.monotonic() < deadline:
            if select.select([ours], [], [], 0.2)[0]:
                try:
                    screen.feed(os.read(ours, 65536).decode(errors="replace"))
                except OSError:  # it has ended
                    break
            if not found and until("\n".join(re.sub(_CODES, "", line) for line in screen.lines)):
                found = list(screen.lines)
                process.send_signal(signal.SIGINT)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
        os.close(ours)
    if not found:
        raise SystemExit("\n".join([f"{' '.join(command)} ended too early ({process.returncode}):", *screen.lines]))
    return found


def save(name: str, command: Sequence[str], lines: Sequence[str]) -> None:
    """Write the picture."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, legacy_windows=False)
    console.print(Text(f"$ streams {' '.join(command)}", "bold"))
    for line in lines:
        console.print(Text.from_ansi(line), soft_wrap=True)
    PICTURES.mkdir(exist_ok=True)
    path = PICTURES / f"{name}.svg"
    svg = console.export_svg(title="streams", unique_id=name)
    svg = re.sub(r" *@font-face \{.*?\}\n", "", svg, flags=re.DOTALL)  # no font from the network
    path.write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n")
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")


def demo(directory: Path) -> None:
    """The demo in the middle of its days."""
    command = ["demo", "--days", "60"]
    save("demo", command, record(command, directory, lambda text: re.search(r"day 3\d of 60", text) is not None))


def run(directory: Path, *arguments: str, name: str = "run") -> None:
    """A worker that has some seconds of input behind it and some ahead."""
    settings = Settings(log_dir=str(directory / ".streams/log"))
    log = open_log(settings)
    try:
        feed(log, profile=Profile(days=40), partitions=PARTITIONS)
    finally:
        log.close()
    command = ["run", "fraud.pipeline:app", *arguments]

    def working(text: str) -> bool:
        read, left = re.search(r"^in +([\d,]+)", text, re.MULTILINE), re.search(r"left to read +([\d,]+)", text)
        figures = [int(found[1].replace(",", "")) for found in (read, left) if found]
        return len(figures) == 2 and figures[0] > 300_000 and "fraud.alerts" in text

    save(name, command, record(command, directory, working))


def workers(directory: Path) -> None:
    """Two workers under a supervisor."""
    run(directory, "--workers", "2", name="workers")


MAKERS: dict[str, Callable[[Path], None]] = {"demo": demo, "run": run, "workers": workers}


def main(names: Sequence[str]) -> None:
    """Make these pictures, or all."""
    for name in names or MAKERS:
        with tempfile.TemporaryDirectory() as directory:
            MAKERS[name](Path(directory))


if __name__ == "__main__":
    main(sys.argv[1:])
