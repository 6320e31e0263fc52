"""The Dockerfile: what it says of itself, and what it makes, without a container engine (tests/deploy/image.py)."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from streams.settings import load
from tests.deploy.dockerfile import read, sent
from tests.deploy.image import LIBRARIES, Image, reachable

ROOT = Path(__file__).parents[2]
STAGES = read(ROOT / "Dockerfile")
FINAL = STAGES[-1]
LOCK = (ROOT / "requirements-run.lock").read_text()


# ---------------------------------------------------------------- what it says


def test_base_images_are_pinned_and_alike() -> None:
    assert len(STAGES) == 2
    assert {stage.image for stage in STAGES} == {"python:3.13-slim-trixie"}
    supported = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert supported == ">=3.11,<3.14"


def test_dependencies_come_from_the_lock_with_their_hashes() -> None:
    installs = [step.rest for stage in STAGES for step in stage.all("RUN") if " pip install " in step.rest]
    assert len(installs) == 2
    assert "--require-hashes --requirement requirements-run.lock" in installs[0]
    assert "--no-deps --no-build-isolation" in installs[1]
    assert STAGES[0].last("RUN").rest.endswith("pip check")


def test_the_lock_has_every_dependency() -> None:
    """Else the image's `pip check` ends its build. The way out: `make lock`."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = [re.split(r"[=<>\[ ]", each)[0] for each in wanted]
    locked = set(re.findall(r"^([\w.-]+)==", LOCK, re.MULTILINE))
    assert [name for name in names if name not in locked] == [], "run `make lock`"


def test_it_runs_as_an_ordinary_user_and_ends_on_sigterm() -> None:
    assert FINAL.last("USER").rest == "10001:10001"
    assert FINAL.last("STOPSIGNAL").rest == "SIGTERM"
    assert FINAL.last("ENTRYPOINT").words() == ["streams"]
    assert FINAL.last("VOLUME").words() == ["/data"]
    order = [step.word for step in FINAL.steps]
    assert order.index("RUN") < order.index("USER"), "an ordinary user cannot make users"
    state = load({}, {k: v for k, v in FINAL.environment().items() if k.startswith("STREAMS_")})
    assert Path(state.state_dir).parent == Path(state.log_dir).parent == Path("/data")


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("streams/cli.py", True),
        ("streams/broker/jars.lock", True),
        ("fraud/py.typed", True),
        ("requirements-run.lock", True),
        ("streams/__pycache__/cli.cpython-313.pyc", False),
        ("streams/old.pyc", False),
        (".git/config", False),
        (".env", False),
        (".streams/log/log.db", False),
        ("streams.toml", False),
        ("tests/conftest.py", False),
    ],
)
def test_only_what_the_image_takes_is_sent(path: str, wanted: bool) -> None:
    assert sent(ROOT, path) is wanted


# ---------------------------------------------------------------- what it makes


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    """Built, and sealed like a read-only root; /data and /tmp are free."""
    pytest.importorskip("hatchling", reason="the builder is not installed; `make test` does")
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("root needs setpriv (util-linux) to become another user")
    root = Path(tempfile.mkdtemp(prefix="streams-image-"))  # pytest's own directories are closed to other users
    root.chmod(0o755)
    made = Image(root, ROOT)
    try:
        made.build(STAGES)
        made.inside("/tmp").mkdir()
        made.inside("/tmp").chmod(0o1777)
        made.seal(["/data", "/tmp", "/checkpoints"])
        yield made
    finally:
        made.unseal()
        shutil.rmtree(root)


@pytest.mark.slow
def test_every_step_was_done_or_replaced(image: Image) -> None:
    steps = [step.rest for stage in STAGES for step in stage.all("RUN")]
    assert sorted(image.done + image.replaced) == sorted(steps)
    assert [line.split(" && ")[0] for line in image.done] == [
        "python -m venv /opt/streams",
        next(s for s in steps if "--no-deps" in s),
    ]


@pytest.mark.slow
def test_nothing_but_its_volumes_can_be_written(image: Image) -> None:
    probe = (
        "import os, sys\n"
        "print(os.getuid())\n"
        "for place in sys.argv[1:]:\n"
        "    try: open(os.path.join(place, 'probe'), 'w').close(); print('open')\n"
        "    except PermissionError: print('closed')\n"
    )
    places = [str(image.inside(p)) for p in ("/opt/streams/bin", "/opt/streams/lib", "/app", "/", "/data", "/tmp")]
    said = image.run(["python", "-c", probe, *places], image.inside("/app"))
    user, *found = said.split()
    assert found == ["closed"] * 4 + ["open"] * 2
    assert user != "0" or not reachable(LIBRARIES)


@pytest.mark.slow
def test_the_entry_point_runs(image: Image) -> None:
    (entry,) = FINAL.last("ENTRYPOINT").words()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert image.run([entry, "--version"], image.inside("/app")).strip().endswith(version)
    where = image.run(["python", "-c", "import streams, fraud; print(streams.__file__, fraud.__file__)"], image.root)
    assert all(Path(file).is_relative_to(image.inside("/opt/streams")) for file in where.split())
    assert "Usage: streams" in image.run([entry, *FINAL.last("CMD").words()], image.inside("/app"))


@pytest.mark.slow
def test_a_worker_works_is_healthy_and_ends_in_good_order(image: Image) -> None:
    """The fraud pipeline on an embedded log below /data, with nothing but the image's settings and a port."""
    app, port = image.inside("/app"), free_port()
    image.run(["streams", "demo", "generate", "--days", "1"], app)
    worker = image.start(
        ["streams", "run", "fraud.pipeline:app", "--http", f"127.0.0.1:{port}"],
        app,
        STREAMS_CHECKPOINTS=str(image.inside("/checkpoints")),
        STREAMS_SNAPSHOT_INTERVAL="1s",
        STREAMS_READY_FILE=str(image.inside("/tmp") / "ready"),
        TMPDIR=str(image.inside("/tmp")),
    )
    try:
        _, _, check = FINAL.last("HEALTHCHECK").rest.partition("CMD ")
        command = json.loads(check)
        assert "127.0.0.1:9400/" in command[-1]
        command[-1] = command[-1].replace(":9400/", f":{port}/")
        until(lambda: (image.inside("/tmp") / "ready").exists(), worker)
        image.run(command, app)
        until(lambda: "AMT_ABS" in image.run(["streams", "topics", "read", "fraud.alerts"], app), worker)
        until(lambda: any(image.inside("/checkpoints").rglob("*manifest*")), worker)
        worker.send_signal(signal.SIGTERM)
        said, _ = worker.communicate(timeout=60)
    finally:
        worker.kill()
        worker.communicate()
    assert worker.returncode == 0, said
    assert "committing and giving the tasks back (SIGTERM)" in said
    assert (image.inside("/data") / "state").is_dir()
    sick = image.start(command, app)
    assert sick.communicate(timeout=60)[0]
    assert sick.returncode != 0, "the health check passes without a worker"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(condition, worker: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert worker.poll() is None, worker.communicate()[0]
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)
