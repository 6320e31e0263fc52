"""The schedules of `test_engine` take minutes of both cores: in a run of many tests they begin at once, beside the
others, which mostly wait; at the lowest priority, so that they take what is left over."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SCHEDULES = [sys.executable, "-m", "tests.simulation", "--seeds", "2000"]
MANY = 200  # tests: fewer are over before it would pay
LONGEST = 900  # seconds

_BESIDE = pytest.StashKey[tuple["subprocess.Popen[bytes]", Path]]()


def pytest_collection_finish(session: pytest.Session) -> None:
    wanted = any("schedules" in getattr(item, "fixturenames", ()) for item in session.items)
    if wanted and len(session.items) >= MANY and not session.config.option.collectonly:
        handle, name = tempfile.mkstemp(prefix="streams-schedules-")
        with os.fdopen(handle, "wb") as out:
            process = subprocess.Popen(
                SCHEDULES, cwd=ROOT, stdout=out, stderr=out, preexec_fn=lambda: os.nice(19), start_new_session=True
            )
        session.config.stash[_BESIDE] = process, Path(name)


def pytest_unconfigure(config: pytest.Config) -> None:
    if _BESIDE in config.stash:
        process, out = config.stash[_BESIDE]
        if process.poll() is None:
            os.killpg(process.pid, 15)
        process.wait()
        out.unlink(missing_ok=True)


@pytest.fixture
def schedules(request: pytest.FixtureRequest) -> tuple[int, str]:
    """Exit code and output of 2,000 schedules."""
    if _BESIDE in request.config.stash:
        process, out = request.config.stash[_BESIDE]
        code = process.wait(LONGEST)
        return code, out.read_text()
    done = subprocess.run(SCHEDULES, cwd=ROOT, capture_output=True, text=True, timeout=LONGEST)
    return done.returncode, done.stdout + done.stderr
