"""docs/tools.md, worked through as its reader does: programs saved, commands typed, what they print compared."""

import re
import time
from pathlib import Path

import pytest

from tests.tutorial import PATIENCE, ROOT, Reader, steps

PAGE = ROOT / "docs" / "tools.md"
_WHEN = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_JOB = re.compile(r"bash: line \d+: +\d+ ")


def plain(text: str) -> list[str]:
    """Without what differs from run to run: instants, and how many commits a task has made."""
    lines = [_WHEN.sub("WHEN", line) for line in text.strip().splitlines() if not _JOB.match(line)]
    return [re.sub(r"commit \d+", "commit N", re.sub(r"\d+  WHEN", "N  WHEN", line)).rstrip() for line in lines]


@pytest.mark.slow
def test_the_page_shows_what_its_commands_print(tmp_path: Path):
    (tmp_path / "here").mkdir()
    compared = 0
    with Reader(tmp_path / "here", {}) as reader:
        for step in steps(PAGE.read_text()):
            if step.file:
                (tmp_path / "here" / step.file).write_text(step.text)
                continue
            deadline = time.monotonic() + PATIENCE
            said = reader.type(step.text)
            while "topics read" in step.text and plain(said) != plain(step.shows) and time.monotonic() < deadline:
                said = reader.type(step.text)
            if step.shows:
                assert plain(said) == plain(step.shows), step.text
                compared += 1
    assert compared >= 7
