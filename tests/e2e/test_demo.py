"""The demo as a newcomer runs it, and as one who kills it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from fraud.report import ALERTS
from streams.app import open_log
from streams.log.reading import read_all
from streams.settings import Settings

ROOT = Path(__file__).parents[2]
DAYS = 12


def demo(directory: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "streams", "demo", "--dir", str(directory), "--days", str(DAYS)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def alerts(directory: Path) -> list[bytes]:
    log = open_log(Settings(log_dir=str(directory / "log")))
    try:
        if ALERTS not in log.topics([ALERTS]):
            return []
        return sorted(v or b"" for records in read_all(log, ALERTS) for v in records.values())
    finally:
        log.close()


def finish(directory: Path) -> str:
    process = demo(directory)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return said


def test_a_killed_demo_gives_the_same_alerts(tmp_path):
    said = finish(tmp_path / "plain")
    assert "first alert after" in said
    assert "quality from day" in said
    assert "has already run to its end" in finish(tmp_path / "plain")

    for number in range(3):
        process = demo(tmp_path / "killed")
        deadline = time.monotonic() + 60
        before = len(alerts(tmp_path / "killed"))
        while len(alerts(tmp_path / "killed")) <= before and time.monotonic() < deadline:
            time.sleep(0.1)
        if number == 1:  # the demo alone: its worker and feeder see it and end
            os.kill(process.pid, signal.SIGKILL)
        else:  # all three
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=20)
        assert process.stdout is not None
        process.stdout.read()  # until the last of them has gone
        process.stdout.close()
    assert "going on where the last run stood" in finish(tmp_path / "killed")
    wanted = alerts(tmp_path / "plain")
    assert len(wanted) > 100
    assert alerts(tmp_path / "killed") == wanted
