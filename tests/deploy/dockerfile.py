"""Reads a Dockerfile of the plain kind that ours is: instructions by stage, and what `.dockerignore` lets through."""

import fnmatch
import json
import re
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Step:
    """One instruction: its word, and the rest in one line.

    >>> Step("CMD", '["--help"]').words()
    ['--help']
    >>> Step("COPY", "--from=build /a b /c/").words()
    ['--from=build', '/a', 'b', '/c/']
    """

    word: str
    rest: str

    def words(self) -> list[str]:
        if self.rest.startswith("["):
            made: list[str] = json.loads(self.rest)
            return made
        return self.rest.split()


@dataclass
class Stage:
    """From one FROM to the next."""

    image: str
    name: str
    steps: list[Step] = field(default_factory=list)

    def all(self, word: str) -> list[Step]:
        return [step for step in self.steps if step.word == word]

    def last(self, word: str) -> Step:
        return self.all(word)[-1]

    def environment(self) -> dict[str, str]:
        pairs = (pair.partition("=") for step in self.all("ENV") for pair in step.words())
        return {name: value for name, _, value in pairs}


def read(file: Path) -> list[Stage]:
    """The stages. Heredocs, ARG and ONBUILD are not understood: AssertionError."""
    lines = [line for line in file.read_text().splitlines() if not line.lstrip().startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    stages: list[Stage] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        word, _, rest = line.partition(" ")
        assert word not in ("ARG", "ONBUILD", "ADD", "SHELL"), line
        assert "<<" not in line, line
        if word == "FROM":
            image, _, name = rest.partition(" AS ")
            stages.append(Stage(image, name))
        else:
            stages[-1].steps.append(Step(word, re.sub(r"\s+", " ", rest.strip())))
    return stages


def sent(root: Path, path: str) -> bool:
    """Whether `.dockerignore` in `root` lets this file be part of the build: the last pattern that fits decides."""
    kept = True
    for line in (root / ".dockerignore").read_text().splitlines():
        pattern = line.split("#")[0].strip()
        if pattern:
            keeps, pattern = pattern.startswith("!"), pattern.lstrip("!").rstrip("/")
            if _fits(path, pattern):
                kept = keeps
    return kept


def _fits(path: str, pattern: str) -> bool:
    """A pattern fits what it names and all below; `**/` is any number of directories, none included."""
    parts = path.split("/")
    heads = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
    if pattern.startswith("**/"):
        name = pattern.removeprefix("**/")
        return any(fnmatch.fnmatchcase(part, name) for part in parts)
    return any(h.count("/") == pattern.count("/") and fnmatch.fnmatchcase(h, pattern) for h in heads)
