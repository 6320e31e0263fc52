"""The demo's live view, on a pseudo-terminal."""

import os
import signal
import sys
from pathlib import Path

from tests.terminal.place import ROOT, Terminal


def test_the_demo_on_a_terminal(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "streams", "demo", "--dir", "demo", "--days", "3"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "NO_COLOR": "1"}
    seen = Terminal(command, tmp_path, environment, width=60)
    try:
        seen.until(lambda: "card fraud, day 3 of 3" in seen.said, seconds=120)
        assert seen.end(120) == 0
    finally:
        seen.close()
    assert "> AMT_ABS" in seen.said
    assert "> fraud.alerts" in seen.said
    after = seen.said[seen.said.rindex("\x1b[?25h") :]
    assert "first alert after" in after
    assert "quality from day 0 on" in after
    assert "Traceback" not in seen.said


def test_ctrl_c_and_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "streams", "demo", "--dir", "demo", "--days", "200", "--rate", "5"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}
    for begins in ("200 days of card payments", "going on where the last run stood"):
        seen = Terminal(command, tmp_path, environment)
        try:
            seen.until(lambda seen=seen: "> AMT_ABS" in seen.said, seconds=120)
            os.killpg(seen.process.pid, signal.SIGINT)  # as Ctrl-C does: all of them get it
            assert seen.end(120) == 0
        finally:
            seen.close()
        assert begins in seen.said
        assert "stopped after" in seen.said[seen.said.rindex("\x1b[?25h") :]
        assert "Traceback" not in seen.said
