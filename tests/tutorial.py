"""Works through docs/tutorial.md as its reader does: saves its programs, types its commands, looks at what they print.

- A `python` block begins with the name of its file: `# spending.py` makes it, `# spending.py, continued` adds to it.
- The commands of all `bash` blocks are typed into one shell; the `text` block behind one is what it prints.
- `sh` blocks are not run (an installation).
- Where a block only looks (`streams topics read`, `streams tasks`), it looks again until it sees what is shown, as a
  reader does who is quicker than a commit.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "tutorial.md"
KAFKA = "<!-- kafka -->"
PATIENCE = 120.0
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LOOKS = re.compile(r"(streams (topics read|tasks) [^\n]*\n)+")

_COMMITS = re.compile(r"(\d/\d  .*  )[1-9]\d*(?=  +\d+$)")  # in a line of `streams tasks`
_JOB = re.compile(r"bash: line \d+: +\d+ ")


@dataclass
class Step:
    """A file to write (`file` and what is in it), or commands to type."""

    file: str
    text: str
    adds: bool = False
    shows: str = ""


def steps(page: str) -> Iterator[Step]:
    """What the reader does, in order."""
    found = _BLOCK.findall(page)
    for (language, text), after in zip(found, [*found[1:], ("", "")], strict=True):
        if language == "python":
            name = re.match(r"# (\S+\.py)(, continued)?\n", text)
            assert name, f"a block does not say which file it belongs to:\n{text}"
            yield Step(name[1], text, adds=bool(name[2]))
        elif language == "bash":
            yield Step("", text, shows=after[1] if after[0] == "text" else "")


class Reader:
    """A shell in a directory of its own, in which `streams` and `python` are those that run the tests."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self.directory = directory
        commands = directory.parent / "bin"
        commands.mkdir()
        for name, words in (("streams", [sys.executable, "-m", "streams"]), ("python", [sys.executable])):
            (commands / name).write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
            (commands / name).chmod(0o755)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("STREAMS_", "PYTEST_", "KAFKA_"))}
        path = f"{commands}{os.pathsep}{os.environ['PATH']}"
        self._shell = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=directory,
            env={**kept, "PATH": path, "PYTHONPATH": str(ROOT), **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        os.killpg(self._shell.pid, signal.SIGKILL)  # the shell and what it has left behind in the background
        self._shell.wait()
        for pipe in (self._shell.stdin, self._shell.stdout):
            assert pipe is not None
            pipe.close()

    def follow(self, page: str) -> int:
        """Do what the page says; how many outputs were compared."""
        compared = 0
        for step in steps(page):
            if step.file:
                with (self.directory / step.file).open("a" if step.adds else "w") as file:
                    file.write(("\n\n" if step.adds else "") + step.text)
                continue
            deadline = time.monotonic() + PATIENCE
            said = self.type(step.text)
            while _LOOKS.fullmatch(step.text) and not same(said, step.shows) and time.monotonic() < deadline:
                said = self.type(step.text)
            if step.shows:
                assert same(said, step.shows), f"{step.text}\nprints\n\n{said}\nthe page shows\n\n{step.shows}"
                compared += 1
        return compared

    def type(self, commands: str) -> str:
        """What the commands print."""
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._count += 1
        out = self.directory.parent / f"out-{self._count}"
        self._shell.stdin.write(f"{{\n{commands}}} > {shlex.quote(str(out))} 2>&1\necho done\n")
        self._shell.stdin.flush()
        assert self._shell.stdout.readline() == "done\n", f"the shell has ended:\n{commands}"
        return out.read_text()


def same(said: str, shown: str) -> bool:
    """Equal but for what differs from run to run: how long pytest took, which partition is read first, how many
    commits a task has made, and what the shell itself says about its jobs."""
    return _lines(said) == _lines(shown)


def _lines(text: str) -> list[str]:
    lines = [line for line in text.strip().splitlines() if not _JOB.match(line)]
    return sorted(_COMMITS.sub(r"\1n", re.sub(r"in [\d.]+s", "", line)).rstrip() for line in lines)
