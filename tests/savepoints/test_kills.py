"""`streams savepoint create` and `restore` as processes that are killed at any time and run again: exact."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from streams.app import open_log
from streams.checkpoint.location import Location
from streams.checkpoint.savepoint import load
from streams.runtime.restoring import RESTORE_STEPS
from streams.runtime.savepoint import CREATE_STEPS
from streams.settings import Settings
from tests.kill import data
from tests.kill.harness import AS_MULTISET, IN_ORDER, ROOT, Runner

COUNT = 4000


class Savepoints:
    """Runs the commands on the log of a runner."""

    def __init__(self, runner: Runner, seed: int) -> None:
        self.runner, self.rng, self.killed = runner, random.Random(seed), Counter()
        self.seconds = 3.0

    def start(self, app: str, *words: str, crash: str = "") -> "subprocess.Popen[bytes]":
        settings = self.runner.settings
        where = ["--brokers", settings.brokers] if settings.brokers else ["--log-dir", settings.log_dir]
        location = ["--checkpoints", str(self.runner.directory / "checkpoints")]
        command = [sys.executable, "-m", "streams", "savepoint", *words, *where, *location]
        environment = {
            **os.environ,
            **self.runner.environment,
            "KILL_APP": app,
            "STREAMS_STATE_DIR": str(self.runner.directory / "state"),
        }
        if crash:
            environment["STREAMS_CRASH"] = crash
        with self.runner.output.open("ab") as file:
            return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file)

    def until_done(self, app: str, kills: int, steps: tuple[str, ...], done, *words: str) -> None:
        """Kill the command some times, by turns at a step and at any instant, then let it end. `done` says whether a
        command that was killed had done its work already: then running it again is refused."""
        for number in range(kills):
            if number % 2 == 0:
                process = self.start(app, *words, crash=steps[-1 - number // 2 % len(steps)])
                code = process.wait(120)
                assert code == -signal.SIGKILL, self.runner.tail()
            else:
                process = self.start(app, *words)
                time.sleep(self.rng.uniform(0.2, 1.0) * self.seconds)
                process.kill()
                if process.wait() == 0 or done():
                    return  # it was quicker: that is the run that counts
            self.killed[words[0]] += 1
        started = time.monotonic()
        process = self.start(app, *words)
        assert process.wait(180) == 0, self.runner.tail()
        self.seconds = time.monotonic() - started


def half_way(runner: Runner, log, app: str) -> None:
    """Work through about half of the input, and stop as an operator stops a worker."""
    process = runner.start(app, environment={"STREAMS_POLL_RECORDS": "20"})
    try:
        deadline = time.monotonic() + 120
        whole = None
        while time.monotonic() < deadline:
            assert process.poll() is None, runner.tail()
            left = runner.backlog(log, app)
            whole = whole or left
            if left < whole * 0.6:
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, runner.tail()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert runner.backlog(log, app) > 500, "the worker was quicker than we"


def through_savepoints(directory, settings: Settings, kills: int, prefix: str) -> None:
    log = open_log(settings)
    try:
        runner = Runner(directory, settings)
        savepoints = Savepoints(runner, seed=4)
        old, new, whole = f"{prefix}old", f"{prefix}new", f"{prefix}whole"

        def named() -> bool:
            return load(Location(str(directory / "checkpoints")), old, "first") is not None

        def restored() -> bool:
            lease = log.leases(new, [0])[0]
            return lease is not None and lease.sequence > 0

        data.fill(log, COUNT, seed=2)
        runner.finish(log, whole)
        half_way(runner, log, old)
        savepoints.until_done(old, kills, CREATE_STEPS[:3], named, "create", "first", "tests.kill.program:app")
        restore = ("restore", "first", "tests.kill.program:app", "--from-app", old)
        savepoints.until_done(new, kills, RESTORE_STEPS[:4], restored, *restore)
        runner.finish(log, new)
        for part in (*IN_ORDER, *AS_MULTISET):
            wanted = runner.output_of(log, whole, part)
            before, after = runner.output_of(log, old, part), runner.output_of(log, new, part)
            assert part != "running" or any(before.values())
            assert any(after.values()), part
            if part in IN_ORDER:
                assert {p: before[p] + after[p] for p in wanted} == wanted, part
            else:
                found = Counter(v for read in (before, after) for values in read.values() for v in values)
                assert found == Counter(v for values in wanted.values() for v in values), part
        assert savepoints.killed["create"]
        assert savepoints.killed["restore"]
    finally:
        log.close()


@pytest.mark.slow
def test_killed_commands_on_the_embedded_log(tmp_path):
    through_savepoints(tmp_path, Settings(log_dir=str(tmp_path / "log")), 5, "")


@pytest.mark.slow
def test_killed_commands_on_kafka(tmp_path, kafka):
    through_savepoints(tmp_path, Settings(brokers=kafka.bootstrap), 3, "sp-")
