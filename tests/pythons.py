"""A short part of the tests on every supported Python that this machine has: `make pythons`.

    python -m tests.pythons              each of 3.11, 3.12 and 3.13 that is found
    python -m tests.pythons 3.13         this one; an error if it is not there
    python -m tests.pythons --list       say which are found, and end

A virtual environment each, under build/pythons, is installed from requirements.lock and kept until the lock changes.
What is run there is `PART`, without the slow tests and those on a real Kafka: the examples in the docstrings, and the
tests of what depends on the interpreter and on the wheels made for it (types, operators, stores, the embedded log, the
worker, app.test()). The whole suite runs on one Python, in `make test`.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PLACE = ROOT / "build" / "pythons"
LOCK = ROOT / "requirements.lock"
VERSIONS = ("3.11", "3.12", "3.13")
PART = (
    *("streams", "operators", "fraud"),
    *("tests/core", "tests/contract", "tests/operators", "tests/runtime", "tests/state", "tests/log"),
    *("tests/test_documents.py", "tests/test_layers.py", "tests/test_public_names.py"),
)
_CHECK = "import ensurepip, sys, venv; print('.'.join(map(str, sys.version_info[:2])))"


def candidates(version: str) -> Iterator[str]:
    """Where a Python of this version may be, the likeliest place first."""
    if version == ".".join(map(str, sys.version_info[:2])):
        yield getattr(sys, "_base_executable", sys.executable)
    yield from (str(Path(p) / f"python{version}") for p in os.environ.get("PATH", "").split(os.pathsep) if p)
    if shutil.which("pyenv"):
        found = subprocess.run(["pyenv", "versions", "--bare"], capture_output=True, text=True).stdout.split()
        for name in reversed([n for n in found if n.startswith(f"{version}.")]):
            prefix = subprocess.run(["pyenv", "prefix", name], capture_output=True, text=True).stdout.strip()
            yield str(Path(prefix) / "bin" / f"python{version}")


def find(version: str) -> str | None:
    """The first one that really runs (a shim can stand in the path and fail) and can make environments."""
    for path in candidates(version):
        if Path(path).is_file():
            said = subprocess.run([path, "-c", _CHECK], capture_output=True, text=True)
            if said.returncode == 0 and said.stdout.strip() == version:
                return path
    return None


def environment(version: str, base: str) -> Path:
    """The Python of an environment that holds what the lock says, made where it is not there yet."""
    directory = PLACE / version
    python, stamp = directory / "bin" / "python", directory / "lock"
    wanted = hashlib.sha256(LOCK.read_bytes() + (ROOT / "pyproject.toml").read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    if not python.exists():
        subprocess.run([base, "-m", "venv", str(directory)], check=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    locked = ["--only-binary", ":all:", "--require-hashes", "--requirement", str(LOCK)]
    subprocess.run([*install, *locked], check=True)
    subprocess.run([*install, "--no-deps", "--no-build-isolation", "--editable", str(ROOT)], check=True)
    stamp.write_text(wanted)
    return python


def check(version: str, base: str) -> bool:
    """Install and test; whether all was well."""
    print(f"---- {version}: {base}", flush=True)
    started = time.monotonic()
    try:
        python = environment(version, base)
        subprocess.run([str(python), "-m", "streams", "--version"], cwd=ROOT, check=True)
        tests = ["-q", "-m", "not slow and not kafka", "-p", "no:cacheprovider", *PART]
        subprocess.run([str(python), "-m", "pytest", *tests], cwd=ROOT, check=True)
    except subprocess.CalledProcessError as error:
        print(f"---- {version} FAILED: {' '.join(map(str, error.cmd))}", flush=True)
        return False
    print(f"---- {version} is fine, {time.monotonic() - started:.0f} s", flush=True)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.pythons", description="A short part of the tests on each.")
    parser.add_argument("versions", nargs="*", metavar="VERSION", help=f"of {', '.join(VERSIONS)}; default: all found")
    parser.add_argument("--list", action="store_true", help="say which are found, and end")
    wanted = parser.parse_args()
    if unknown := set(wanted.versions) - set(VERSIONS):
        parser.error(f"not supported: {', '.join(sorted(unknown))}")
    found = {version: find(version) for version in wanted.versions or VERSIONS}
    for version, base in found.items():
        if wanted.list or base is None:
            print(f"{version}: {base or 'not found'}")
    if wanted.list:
        return 0
    if not any(found.values()) or (wanted.versions and not all(found.values())):
        return 1
    failed = [version for version, base in found.items() if base is not None and not check(version, base)]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
