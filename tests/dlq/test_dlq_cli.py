"""`streams dlq` as its user meets it: on what a program has really left behind."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from streams.dlq_cli import dlq
from streams.log.base import Log
from streams.log.reading import read_all
from tests.dlq import program
from tests.dlq.program import Payment

MINUTE = 60_000
ROOT = Path(__file__).parents[2]


@pytest.fixture
def ran(monkeypatch):
    """The program has run and failed in five places."""
    with program.app.test(partitions=2) as t:
        t.send("payments", [Payment("c1", 0, 0), Payment("c1", 1, 13), Payment("c1", 2, 77), b"oops"], partition=0)
        t.send("payments", [Payment("c1", 3, 5), Payment("c1", 4, 605), Payment("c1", 2 * MINUTE, 1)], partition=0)
        t.send("payments", [Payment("c9", 2 * MINUTE, 1)], partition=1)
        yield t


@pytest.fixture
def call(ran):
    """Runs a command on the log of that run: (status, what it printed)."""

    def run(command: str, *arguments: str, input: str | None = None) -> tuple[int, str]:
        where = ["--log-dir", str(ran._directory / "log")]
        result = CliRunner().invoke(dlq, [command, "tests.dlq.program:app", *arguments, *where], input=input)
        error = result.exception
        if error is not None and not isinstance(error, SystemExit):
            return 1, result.output + str(error)
        return result.exit_code, result.output

    return run


@pytest.fixture
def process(ran):
    """`streams dlq debug` in a process of its own: (status, all that it printed)."""

    def run(*arguments: str, input: str = "", **environment: str) -> tuple[int, str]:
        where = ["--log-dir", str(ran._directory / "log")]
        command = [sys.executable, "-m", "streams", "dlq", "debug", "tests.dlq.program:app", *arguments, *where]
        done = subprocess.run(
            command,
            input=input,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env={**os.environ, **environment},
        )
        return done.returncode, done.stdout

    return run


@pytest.fixture
def letter(call):
    """The name of the first letter of an operator."""

    def find(operator: str) -> str:
        _, output = call("list", "--json", "--operator", operator)
        return json.loads(output.splitlines()[0])["letter"]

    return find


def snapshot(log: Log) -> dict[str, list]:
    """All that lies on the log."""
    return {
        topic: [(r.source, tuple(r.offsets()), tuple(r.values())) for r in read_all(log, topic)]
        for topic in log.all_topics()
    }


def test_list(call):
    status, output = call("list")
    assert status == 0
    assert output.split()[:6] == ["letter", "when", "record", "operator", "replayed", "cause"]
    found = Counter(json.loads(line)["operator"] for line in call("list", "--json")[1].splitlines())
    assert found == {"mapframe-1": 1, "maprows-1": 1, "maprows-2": 1, "source-payments": 1, "steps-1": 2}
    assert "6 dead letters, 0 of them replayed:" in output
    assert "  1  mapframe-1: ValueError: unlucky" in output


def test_list_chosen(call):
    assert "1 dead letter" in call("list", "--cause", "UNLUCKY")[1]
    assert "that match" in call("list", "--operator", "nobody")[1]
    assert "5 before them" in call("list", "--limit", "1")[1]
    assert call("list", "--since", "some day")[0] == 1


def test_show_says_where_it_failed(call, letter):
    _, output = call("show", letter("maprows-1"))
    assert "source-payments -> maprows-1" in output
    assert "ratio, tests/dlq/program.py:" in output
    assert '{"card":"c1","at":0,"amount":0}' in output
    assert "ZeroDivisionError" in output
    assert "could not be decoded as Payment" in call("show", letter("source-payments"))[1]


def test_debug_touches_nothing(ran, call, letter):
    before = snapshot(ran._log), ran._log.leases("shop", range(6))
    for operator in ("maprows-1", "mapframe-1", "steps-1", "maprows-2", "source-payments"):
        call("debug", letter(operator), "--debugger", "none")
    assert (snapshot(ran._log), ran._log.leases("shop", range(6))) == before
    ran.send("payments", [Payment("c1", 3 * MINUTE, 2)], partition=0)  # and the application goes on
    assert ran.crashes == 0


@pytest.mark.parametrize(
    ("operator", "said"),
    [
        ("maprows-1", ["in ratio", "ZeroDivisionError", "by = 0"]),
        ("mapframe-1", ["in by_frame", "ValueError: unlucky", "frame = shape: (1, 3)"]),
        ("steps-1", ["in on_row", "RuntimeError: after 77", "before = 77"]),
        ("maprows-2", ["in of_window", "ZeroDivisionError", "spent=700"]),
    ],
)
def test_debug_shows_the_users_frame_and_says_when_it_passes(call, letter, monkeypatch, operator, said):
    name = letter(operator)
    status, output = call("debug", name, "--debugger", "none")
    assert status == 1
    for words in [*said, f"it fails: {operator}: "]:
        assert words in output
    assert "guarded" not in output  # no frame of the engine
    monkeypatch.setattr(program, "SCALE", 1)
    status, output = call("debug", name, "--debugger", "none")
    assert status == 0
    assert "it passes now" in output
    assert "  to topic" in output


def test_a_record_that_does_not_decode(call, letter):
    status, output = call("debug", letter("source-payments"), "--debugger", "none")
    assert status == 1
    assert "it fails: source-payments: not JSON" in output


def test_the_debugger_stands_in_the_users_frame_with_the_keys_state(process, letter):
    status, output = process(letter("steps-1"), input="p before\np self.last.get()\np ctx.key\nq\n")
    assert status == 1
    assert "on_row()" in output
    said = [line.removeprefix("(Pdb) ") for line in output.splitlines() if line.startswith("(Pdb) ")]
    assert said[:3] == ["77", "77", "'c1'"]


def test_a_debugger_that_cannot_look_at_failures(process, letter):
    _, output = process(letter("maprows-1"), input="q\n", PYTHONBREAKPOINT="no_such_debugger.set_trace")
    assert "pdb is used" in output
    assert "(Pdb)" in output


@pytest.mark.parametrize(("wanted", "said"), [("0", ""), ("tests.dlq.fake_debugger.set_trace", "FAKE ratio")])
def test_pythonbreakpoint(call, letter, monkeypatch, wanted, said):
    monkeypatch.setenv("PYTHONBREAKPOINT", wanted)
    _, output = call("debug", letter("maprows-1"))
    assert said in output
    assert "(Pdb)" not in output


def test_debug_with_a_copy_of_local_state(ran, process, letter):
    name, state = letter("steps-1"), str(ran._directory / "state")
    status, output = process(name, "--debugger", "none", "--state-dir", state)
    assert status == 1
    assert "has this store open" in output
    ran.restart()
    assert "# steps-1 keeps of card='c1': {'last': 77}" in process(name, "--debugger", "none")[1]
    assert "before = 77" in process(name, "--debugger", "none", "--state-dir", state)[1]
    assert "no state of task" in process(name, "--debugger", "none", "--state-dir", state + "x")[1]


def test_replay(ran, call, letter, monkeypatch):
    name = letter("maprows-1")
    output = call("replay", name, "--dry-run")[1]
    assert "1 would be replayed" in output
    assert "may have reached" in output
    assert "window-1" in output
    assert len(ran.read("payments")) == 8
    monkeypatch.setattr(program, "SCALE", 1)
    assert "1 replayed" in call("replay", name)[1]
    assert "0 replayed\n1 had been replayed before" in call("replay", name)[1]
    ran.work()
    assert [row.ratio for row in ran.read("rows")].count(1.0) == 3  # 1 / 1 twice, and 1 / (0 + 1)
    assert "1 of them replayed" in call("list")[1]
    assert "replayed:    2" in call("show", name)[1]


def test_replay_refuses_what_was_shuffled(call, letter):
    status, output = call("replay", letter("steps-1"))
    assert status == 1
    assert "behind a shuffle" in output
    status, output = call("replay", "--all")
    assert status == 0
    assert "3 replayed" in output
    assert "1 cannot be replayed" in output


def test_mistakes(call):
    assert call("replay")[0] == 2
    assert call("replay", "0:0", "--cause", "x")[0] == 2
    assert "no dead letter" in call("show", "9:9")[1]
