"""The live view: drawn on a console that keeps what it gets, and by a real process on a pseudo-terminal."""

import io
import json
import logging
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from streams.runtime.reporter import Status
from streams.terminal.figures import Meter
from streams.terminal.live import LiveDisplay
from tests.terminal.place import Place, terminal, wait

COLOURS = re.compile(r"\x1b\[[0-9;]*3[0-9][;m]")


def display(file: io.StringIO, width: int = 80) -> LiveDisplay:
    console = Console(width=width, height=20, file=file, force_terminal=True, color_system="standard")
    return LiveDisplay(console, every=0.01)


def until(file: io.StringIO, text: str) -> None:
    wait(lambda: text in file.getvalue(), what=f"no {text!r}")


def test_notes_scroll_above_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    file, status, meter = io.StringIO(), Status(), Meter("counts", "0", "a log")
    handlers, streams = logging.getLogger().handlers[:], (sys.stdout, sys.stderr)
    with display(file) as shown:
        shown.show(lambda: meter.look(status))
        until(file, "counts")
        status.records_in = 4321
        until(file, "4,321")
        logging.getLogger("streams").warning("something to know [not markup]")
        until(file, "something to know [not markup]")
        print("from the program")
        until(file, "from the program")
        shown.done()
        assert (sys.stdout, sys.stderr) == streams
        assert logging.getLogger().handlers == handlers
    said = file.getvalue()
    note = said.index("something to know")
    assert said.rindex("\x1b[J", 0, note) > 0, "the old frame was not cleared"
    assert "in/s" in said[note:]
    assert said.endswith("\x1b[?25h")
    assert "done: 4,321 records in" in said


def test_a_terminal_of_another_size_is_drawn_anew() -> None:
    file, meter = io.StringIO(), Meter("counts", "0", "a log")
    with display(file) as shown:
        shown.note("a note")
        shown.show(lambda: meter.look(Status()))
        until(file, "counts")
        shown.console.size = (60, 20)
        until(file, "\x1b[2J")
        after = file.getvalue().split("\x1b[2J")[1]
        assert "a note" in after


class Stuck(io.StringIO):
    """A terminal that takes nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.goes_on = threading.Event()

    def write(self, text: str) -> int:
        self.goes_on.wait(60)
        return super().write(text)


def test_a_terminal_that_stands_still_holds_nothing_up() -> None:
    file, meter = Stuck(), Meter("counts", "0", "a log")
    shown = display(file)
    shown.show(lambda: meter.look(Status()))
    started = time.monotonic()
    for number in range(5000):
        shown.note(f"note {number}")
    assert time.monotonic() - started < 5
    file.goes_on.set()
    until(file, "notes left out")
    shown.close()


def test_a_terminal_that_is_gone_holds_nothing_up() -> None:
    file, meter = io.StringIO(), Meter("counts", "0", "a log")
    with display(file) as shown:
        shown.show(lambda: meter.look(Status()))
        until(file, "counts")
        file.close()
        shown.note("nobody sees this")
        shown.done()


def test_a_run_on_a_terminal(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.feed(3000)
    with terminal(place, width=60) as seen:
        seen.until(lambda: "> nth" in seen.said)
        seen.until(lambda: re.search(r"in(\x1b\[0m)? +(\x1b\[1m)?3,000", seen.said) is not None)
        seen.resize(100)
        seen.until(lambda: "\x1b[2J" in seen.said)
        seen.process.send_signal(signal.SIGINT)
        assert seen.end() == 0
        assert "done: 3,000 records in, 3,000 out" in seen.said
        assert seen.said.rindex("\x1b[?25h") > seen.said.rindex("\x1b[?25l"), "the cursor is still hidden"
        assert COLOURS.search(seen.said)
        assert "Traceback" not in seen.said
    assert place.made() == place.right()


def test_no_colour(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.feed(30)
    with terminal(place, NO_COLOR="1") as seen:
        seen.until(lambda: "> nth" in seen.said)
        seen.process.send_signal(signal.SIGTERM)
        assert seen.end() == 0
        assert not COLOURS.search(seen.said)


def test_plain_lines_on_a_terminal(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.feed(30)
    with terminal(place, "--plain") as seen:
        seen.until(lambda: "in 30 (" in seen.said)
        seen.process.send_signal(signal.SIGINT)
        assert seen.end() == 0
        assert "\x1b" not in seen.said


def test_an_error_leaves_the_terminal_in_order(tmp_path: Path) -> None:
    place = Place(tmp_path)
    with terminal(place) as seen:
        seen.until(lambda: "tasks running" in seen.said)
        with terminal(place, "--slot", "0") as second:  # two processes in one slot
            seen.until(lambda: seen.process.poll() is not None or second.process.poll() is not None)
            one = seen if seen.process.poll() is not None else second
            assert one.end() == 1
            assert "\x1b[?25l" not in one.said or one.said.rindex("\x1b[?25h") > one.said.rindex("\x1b[?25l")
            assert "error" in one.said


def test_after_ctrl_z_it_is_drawn_below_what_others_wrote(tmp_path: Path) -> None:
    place = Place(tmp_path)
    with terminal(place) as seen:
        seen.until(lambda: "tasks running" in seen.said)
        seen.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, seen.process.pid, os.WSTOPPED)
        seen.process.send_signal(signal.SIGCONT)
        seen.until(lambda: seen.said.count("\x1b[?25l") == 2)
        first = seen.said.rpartition("\x1b[?25l")[2]
        assert not first.startswith("\x1b[7A")
        seen.process.send_signal(signal.SIGTERM)
        assert seen.end() == 0


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    """The worker hangs in the program's own code: it never comes to look whether it shall stop."""
    place = Place(tmp_path, partitions=1)
    place.feed(1, card="hang")
    with terminal(place) as seen:
        seen.until(lambda: "it hangs" in seen.said)
        seen.process.send_signal(signal.SIGINT)
        seen.until(lambda: "once more ends at once)" in seen.said)
        assert seen.insist() == 130
        assert "Nothing is lost" in seen.said
        assert seen.said.rindex("\x1b[?25h") > seen.said.rindex("\x1b[?25l")


def test_lines_when_piped(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.feed(100)
    with place.run() as process:
        wait(lambda: len(place.made()) == 100)
        process.send_signal(signal.SIGTERM)
        out, error = process.communicate(timeout=60)
    assert process.returncode == 0
    *lines, last = out.splitlines()
    assert lines[-1].startswith("in 100 (")
    assert "out nth 100" in lines[-1]
    assert last.startswith("done: 100 records in, 100 out")
    assert "\x1b" not in out + error
    assert "INFO counts: slot 0 on" in error


def test_quiet(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.feed(100)
    with place.run("--quiet") as process:
        wait(lambda: len(place.made()) == 100)
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 0


def test_json_lines(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.feed(100)
    with place.run("--log-format", "json", "--slot", "a") as process:
        wait(lambda: len(place.made()) == 100)
        process.send_signal(signal.SIGTERM)
        out, error = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "")
    lines = [json.loads(line) for line in error.splitlines()]
    assert all({"time", "level", "logger", "message", "app", "slot"} <= set(line) for line in lines)
    assert {(line["app"], line["slot"]) for line in lines} == {("counts", "a")}
    progress = [line for line in lines if line["logger"] == "streams.progress"]
    assert progress[-1]["records_in"] == 100
    assert progress[-1]["records_out"] == {"nth": 100}
    with place.run("--log-format", "json", "--slot", "b") as process:  # it has no state yet: tasks are restored
        wait(lambda: any((tmp_path / "state/counts/b").glob("*/CURRENT")))
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=60)
    restored = [line for line in map(json.loads, error.splitlines()) if "restored" in line["message"]]
    assert {line["task"] for line in restored} <= {"0/0", "0/1", "0/2", "0/3"}


def test_a_store_that_is_made_anew_is_a_warning(tmp_path: Path) -> None:
    place = Place(tmp_path, partitions=1)
    for count in (50, 50):
        place.feed(count)
        with place.run("--quiet") as process:
            wait(lambda: len(place.made()) == place.sent)
            process.send_signal(signal.SIGTERM)
            _, error = process.communicate(timeout=60)
        for file in (tmp_path / "state/counts/0/0-0").glob("MANIFEST*"):
            file.write_bytes(b"not a manifest")
    assert "WARNING" in error
    assert "made anew" in error
    assert place.made() == place.right()
