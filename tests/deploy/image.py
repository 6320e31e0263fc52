"""The image without a container engine: the Dockerfile's steps, done one by one in a directory.

Absolute paths of the image lie below that directory. What COPY takes has to pass `.dockerignore`. Dependencies are not
fetched: in their place the libraries of the environment that runs the tests are seen behind the image's own.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.deploy.dockerfile import Stage, Step, sent

UID = 10001
LIBRARIES = Path(sysconfig.get_path("purelib"))
PLACES = ("/opt/", "/data", "/checkpoints", "/app", "/build")
"""Where the Dockerfile puts things; in commands they are moved into the directory."""


class Image:
    """What a Dockerfile makes, in `root`. `done` are the RUN steps that were executed, `replaced` the others."""

    def __init__(self, root: Path, context: Path) -> None:
        self.root, self.context = root, context
        self.done: list[str] = []
        self.replaced: list[str] = []
        self.python = Path(sys.executable)
        self.variables: dict[str, str] = {}

    def inside(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def build(self, stages: Sequence[Stage]) -> None:
        """Every stage in one directory: COPY --from copies what is in its place already."""
        self.python = self._base_python()
        for stage in stages:
            work = self.root
            for step in stage.steps:
                if step.word == "WORKDIR":
                    work = self.inside(step.rest)
                    work.mkdir(parents=True, exist_ok=True)
                elif step.word == "COPY":
                    self._copy(step, work)
                elif step.word == "RUN":
                    self._run(step.rest, work)
            self.variables = stage.environment()

    def _base_python(self) -> Path:
        """The interpreter that the base image has: this one, or a copy if an ordinary user cannot reach it."""
        base = Path(sys.base_prefix)
        name = f"python{sys.version_info.major}.{sys.version_info.minor}"
        if os.geteuid() != 0 or reachable(base):
            return base / "bin" / name
        copy = self.root / "usr" / "local"
        left_out = shutil.ignore_patterns("site-packages", "test", "idlelib", "config-*", "__pycache__", "share")
        shutil.copytree(base, copy, ignore=left_out, symlinks=True)
        (copy / "lib" / name / "site-packages").mkdir()
        return copy / "bin" / name

    def _copy(self, step: Step, work: Path) -> None:
        *sources, target = step.words()
        if sources[0].startswith("--from="):
            assert sources[1:] == [target], "a stage's result keeps its path: scripts name it"
            assert self.inside(target).exists(), f"no stage made {target}"
            return
        for source in sources:
            origin = self.context / source
            assert origin.exists(), f"COPY {source}: there is no such file"
            files = [f for f in origin.rglob("*") if f.is_file()] if origin.is_dir() else [origin]
            passed = [f for f in files if sent(self.context, str(f.relative_to(self.context)))]
            assert passed, f"COPY {source}: .dockerignore keeps it out"
            for file in passed:
                place = work / target / (file.relative_to(origin) if origin.is_dir() else file.name)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, place)

    def _run(self, line: str, work: Path) -> None:
        words = shlex.split(line)
        if words[0] in ("groupadd", "useradd"):  # this machine keeps its users; the directories are made below
            for directory in re.findall(r"/\w+", line.partition("install --directory")[2]):
                self.inside(directory).mkdir()
                if os.geteuid() == 0:
                    os.chown(self.inside(directory), UID, UID)
            self.replaced.append(line)
        elif "--requirement" in words:
            (own,) = self.inside("/opt").rglob("site-packages")
            (own / "libraries.pth").write_text(f"{LIBRARIES}\n")
            self.replaced.append(line)
        elif words[-2:] == ["pip", "check"]:  # the environment of the tests has other packages, too
            self.replaced.append(line)
        else:
            moved = re.sub(rf"(?<![\w.])({'|'.join(PLACES)})", lambda m: str(self.root) + m[1], line)
            moved = re.sub(r"^python ", f"{shlex.quote(str(self.python))} ", moved)
            done = subprocess.run(
                ["sh", "-euc", moved], cwd=work, env=self._variables({}), capture_output=True, text=True
            )
            assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
            self.done.append(line)

    def _variables(self, more: Mapping[str, str]) -> dict[str, str]:
        """The image's environment and nothing of ours, with its paths moved."""
        given = {name: value.replace("$PATH", os.defpath) for name, value in self.variables.items()}
        moved = {
            name: ":".join(str(self.root) + part if part.startswith(PLACES) else part for part in value.split(":"))
            for name, value in given.items()
        }
        found = {"PATH": os.defpath, "HOME": str(self.inside("/data")), **moved, **more}
        library = self.python.parents[1] / "lib"
        if library.is_relative_to(self.root):  # a copied interpreter's shared library
            found["LD_LIBRARY_PATH"] = str(library)
        return found

    def seal(self, writable: Sequence[str]) -> None:
        """Make all of it read-only, but for these directories."""
        free = {self.inside(path) for path in writable}
        for directory, _, files in os.walk(self.root, topdown=False):
            here = Path(directory)
            if any(here == f or here.is_relative_to(f) for f in free):
                continue
            for name in files:
                if not (here / name).is_symlink():
                    (here / name).chmod((here / name).stat().st_mode & 0o555 | 0o444)
            here.chmod(0o555)

    def unseal(self) -> None:
        for directory, _, _ in os.walk(self.root):
            Path(directory).chmod(0o755)

    def start(self, command: Sequence[str], work: Path, **more: str) -> "subprocess.Popen[str]":
        """A process as the image's user, with the image's environment."""
        entry = shutil.which(command[0], path=self._variables({})["PATH"])
        assert entry is not None, f"{command[0]} is not in the image's PATH"
        return subprocess.Popen(
            [*as_user(), entry, *command[1:]],
            cwd=work,
            env=self._variables(more),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, command: Sequence[str], work: Path, **more: str) -> str:
        process = self.start(command, work, **more)
        try:
            said, _ = process.communicate(timeout=120)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == 0, f"{command}\n{said}"
        return said


def reachable(path: Path) -> bool:
    """Whether every user may go there."""
    return all(each.stat().st_mode & 0o001 for each in (path, *path.parents))


def as_user() -> list[str]:
    """What makes a command an ordinary user's. If root's libraries are hidden from others: root without its powers."""
    if os.geteuid() != 0:
        return []
    powerless = ["setpriv", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"]
    if not reachable(LIBRARIES):
        return powerless
    return [*powerless, f"--reuid={UID}", f"--regid={UID}", "--clear-groups"]
