"""Other processes that hold what a test wants: a store, a log, a slot."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
_PATH = {"PYTHONPATH": str(ROOT), "POLARS_MAX_THREADS": "1"}


@contextmanager
def beside(code: str) -> Iterator[int]:
    """Another process that has run this and waits."""
    command = [sys.executable, "-c", f"{code}; print('ready', flush=True); import sys; sys.stdin.read()"]
    other = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **_PATH}
    )
    assert other.stdin is not None
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == "ready\n"
        yield other.pid
    finally:
        other.stdin.close()
        other.wait(timeout=30)
        other.stdout.close()


def elsewhere(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)
