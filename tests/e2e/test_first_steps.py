"""The stumbles of somebody's first hour: the wrong directory, topics by hand, a killed worker, a clone as the place."""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.place import PROGRAM, ROOT, Place, checked, wait
from tests.e2e.test_mistakes import fails, misused, says, streams


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def bare(tmp_path: Path) -> Place:
    """A place with a program, in which nothing has been run."""
    made = Place(tmp_path)
    shutil.rmtree(tmp_path / "log")
    return made


def written(place: Place, lines: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`streams topics write tx` with these lines as its input."""
    return subprocess.run(
        place.command("topics", "write", "tx", *arguments),
        cwd=place.path,
        env=place.environment(),
        input=lines,
        capture_output=True,
        text=True,
        timeout=60,
    )


def said(place: Place, *arguments: str) -> str:
    """What a command prints that succeeds."""
    done = streams(place, *arguments, "--log-dir", "log")
    assert done.returncode == 0, done
    return done.stdout + done.stderr


# ---------------------------------------------------------------- the wrong directory


@pytest.mark.parametrize(
    "arguments",
    [
        ("topics", "list"),
        ("topics", "read", "tx"),
        ("topics", "write", "tx"),
        ("topics", "delete", "tx", "--yes"),
        ("tasks", "program:app"),
        ("dlq", "list", "program:app"),
        ("state", "stats", "program:app", "--from-changelog"),
        ("verify", "program:app"),
        ("reset", "program:app"),
    ],
    ids=" ".join,
)
def test_who_only_looks_makes_no_log(bare: Place, arguments: tuple[str, ...]) -> None:
    before = sorted(path.name for path in bare.path.iterdir() if path.name != "__pycache__")
    message = fails(bare, *arguments)
    says(message, "no log in this place", str(bare.path / ".streams" / "log"), "--log-dir DIRECTORY", "topics create")
    assert sorted(path.name for path in bare.path.iterdir() if path.name != "__pycache__") == before


@pytest.mark.parametrize(("made", "named"), [("..", "{}/.streams/log"), ("sub", "sub/.streams/log")])
def test_a_log_nearby_is_named(bare: Place, made: str, named: str) -> None:
    above = bare.path
    here = bare.path = above / "here"
    here.mkdir()
    (here / made).mkdir(exist_ok=True)
    command = [sys.executable, "-m", "streams", "topics", "create", "tx"]
    subprocess.run(command, cwd=here / made, env=bare.environment(), check=True, timeout=60)
    says(fails(bare, "topics", "read", "tx"), f"--log-dir {named.format(above)}")


# ---------------------------------------------------------------- topics by hand


def test_a_topic_that_is_made_twice(place: Place) -> None:
    assert said(place, "topics", "create", "new", "--partitions", "2") == "new: 2 partitions\n"
    assert said(place, "topics", "create", "new", "--partitions", "2") == "new: it exists already, with 2 partitions\n"


@pytest.mark.parametrize("name", ["pay/ments", "a b", "", ".", "..", "x" * 250, "zahlung\u00e4n"])
def test_a_topic_name_that_kafka_refuses(place: Place, name: str) -> None:
    says(place.fails("topics", "create", name), "is not a name for a topic", "at most 249", "'.', '_' and '-'")
    assert said(place, "topics", "list") == "tx  1 partition\n"


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ('app.source("tx"', 'app.source("t x"', "app.source(...)"),
        ('app.sink("nth")', 'app.sink("nth/1")', "app.sink(...)"),
        ('App("counts")', 'App("counts", dead_letters="dead letters")', "App(dead_letters=...)"),
    ],
)
def test_a_program_that_names_such_a_topic(place: Place, old: str, new: str, where: str) -> None:
    place.path.joinpath("program.py").write_text(PROGRAM.replace(old, new, 1))
    says(fails(place, "topology", "program:app"), "is not a name for a topic", where, "program.py")


def test_a_name_that_is_nearly_right(place: Place) -> None:
    for arguments in (("read", "txx"), ("write", "txx"), ("delete", "txx", "--yes")):
        says(place.fails("topics", *arguments), "no topic 'txx'; did you mean 'tx'?", "correct the name")


@pytest.mark.parametrize(
    ("lines", "parts"),
    [
        ('{"card":"c"}\n\nhello\n', ["line 3 is not JSON", "hello", "--key"]),
        ('{"card":"c"}\n[1]\n', ["line 2", "not an object", "[1]"]),
        ('{"card":"c"}\n{"crad":"c"}\n', ["line 2 has no field 'card'; did you mean 'crad'?", '{"crad":"c"}']),
    ],
)
def test_a_line_without_its_key(place: Place, lines: str, parts: list[str]) -> None:
    done = written(place, lines, "--key", "card")
    says(checked(done.returncode, done.stdout, done.stderr), "nothing was written", *parts)
    assert said(place, "topics", "read", "tx") == ""


def test_one_record_is_counted_as_one(place: Place) -> None:
    assert written(place, '{"card":"c","at":1}\n').stderr == "1 record\n"


# ---------------------------------------------------------------- topics that go


def test_deleting_asks_first(place: Place) -> None:
    place.feed(3)
    command = place.command("topics", "delete", "tx")
    for answer, code in (("", 1), ("n\n", 1), ("y\n", 0)):
        assert "tx" in said(place, "topics", "list")
        done = subprocess.run(
            command, cwd=place.path, env=place.environment(), input=answer, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == code, done
        says(done.stderr, "tx: 1 partition, up to 3 records", str(place.path / "log"))
        assert ("nothing was deleted" in done.stderr) == bool(code)
    assert done.stdout == "deleted tx\n"
    assert "no topics" in said(place, "topics", "list")


def test_what_living_workers_need_is_not_deleted(place: Place) -> None:
    place.feed(10)
    with place.worker() as worker:
        wait(lambda: len(place.made()) == 10)
        for topic, why in (("tx", "reads it"), ("counts-0-changelog", "made it"), ("counts-tasks", "made it")):
            message = place.fails("topics", "delete", topic, "--yes")
            says(message, f"'{topic}' is in use", "'counts'", why, "slot '0'", str(worker.pid), "stop its workers")
    assert said(place, "topics", "delete", "tx", "nth", "--yes") == (
        "deleted tx\ndeleted nth\ntx: 1 partition, up to 10 records\nnth: 1 partition, up to 10 records\n"
    )


# ---------------------------------------------------------------- workers


def test_the_tasks_of_a_killed_worker(place: Place) -> None:
    place.feed(10)
    with place.worker() as worker:
        wait(lambda: len(place.made()) == 10)
        assert "gone" not in said(place, "tasks", "program:app")
        worker.kill()
        worker.wait()
    says(said(place, "tasks", "program:app"), "0 (its worker is gone)")


def test_another_port_is_proposed(place: Place) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        message = place.fails("run", "program:app", "--http", str(port))
    says(message, "the port is in use", "e.g. 127.0.0.1:", "port 0")
    assert f"127.0.0.1:{port}" not in message


def test_a_second_worker_says_nothing_but_its_error(place: Place) -> None:
    with place.worker():
        assert place.fails("run", "program:app", state="state2").startswith("error: slot '0'")


# ---------------------------------------------------------------- the command line


def test_usage_has_one_form_and_an_example(place: Place) -> None:
    for arguments in (("run",), ("run", "program:app", "--no-such-option"), ("nothing",), ("--nothing",)):
        message = misused(place, *arguments)
        assert message.splitlines()[-1].startswith("error: "), message
        assert "Error:" not in message
    says(misused(place, "run"), "For example: streams run fraud.pipeline:app")
    says(misused(place, "state", "program:app"), "get, scan, stats", "For example: streams state stats program:app")


def test_a_group_without_a_command_shows_its_help(place: Place) -> None:
    for group in ("topics", "state", "dlq"):
        done = streams(place, group)
        assert "Commands:" in done.stdout + done.stderr
        assert "error" not in done.stderr.splitlines()[:1]


def test_the_users_line_where_two_copies_of_the_engine_are_mixed(place: Place) -> None:
    """In a clone `operators` comes from there, `streams` from where it is installed."""
    shutil.copytree(ROOT / "operators", place.path / "operators", ignore=shutil.ignore_patterns("__pycache__"))
    wrong = PROGRAM + "\nfrom operators import Filter\nfrom streams import col\n\n\ndef faulty():\n    stream = "
    wrong += 'App("x").source("tx", Tx, start="earliest")\n    return stream | Filter(col("n") > 0)\n\n\nfaulty()\n'
    place.path.joinpath("program.py").write_text(wrong)
    message = fails(place, "topology", "program:app")
    says(message, "line:", f"{place.path / 'program.py'}, line ", 'stream | Filter(col("n") > 0)')
    assert "operators/" not in message


def test_the_demo_names_the_command_as_it_was_called(tmp_path: Path) -> None:
    """A script that is not the one on the PATH is named by its path; from its own directory, by the short one."""
    code = "import sys; sys.argv[0] = sys.argv[1]; from fraud.demo import COMMAND; print(COMMAND)"
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "streams"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    on_path = {**environment, "PATH": f"{script.parent}{os.pathsep}{os.environ['PATH']}"}

    def named(called: str, cwd: Path, env: dict[str, str]) -> str:
        command = [sys.executable, "-c", code, called]
        return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=True).stdout.strip()

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert named(str(script), elsewhere, on_path) == "streams"
    assert named(str(script), elsewhere, environment) == str(script)
    assert named("bin/streams", tmp_path, environment) == "bin/streams"
    assert named("/x/streams/__main__.py", tmp_path, environment) == "python -m streams"


# ---------------------------------------------------------------- the same on Kafka


def test_killed_workers_and_topics_that_go_on_kafka(place: Place, kafka) -> None:
    """A killed worker counts as living until its session is over."""
    name = f"steps{os.getpid()}"
    place.path.joinpath("program.py").write_text(PROGRAM.replace('"counts"', f'"{name}"').replace('"tx"', f'"{name}"'))
    brokers = ("--brokers", kafka.bootstrap)
    assert streams(place, "topics", "create", name, *brokers).stdout == f"{name}: 4 partitions\n"
    assert "it exists already, with 4 partitions" in streams(place, "topics", "create", name, *brokers).stdout
    says(fails(place, "topics", "create", "a b", *brokers), "'a b' is not a name for a topic", "at most 249")

    def tasks() -> str:
        return streams(place, "tasks", "program:app", *brokers).stdout

    with place.worker(*brokers) as worker:
        wait(lambda: re.search(r"  0  ", tasks()) is not None)
        assert "gone" not in tasks()
        says(fails(place, "topics", "delete", f"{name}-tasks", "--yes", *brokers), "is in use", "made it", "slot '0'")
        worker.kill()
        worker.wait()
    wait(lambda: "0 (its worker is gone)" in tasks())
    assert streams(place, "topics", "delete", name, "--yes", *brokers).stdout == f"deleted {name}\n"
    says(fails(place, "topics", "read", name, *brokers), f"no topic '{name}'")
