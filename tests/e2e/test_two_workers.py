"""Two workers share the tasks of one application while one of them is killed, or stands still for longer than the group
waits for it. Their output must equal that of one worker that nothing happened to."""

import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pytest

from streams import broker
from streams.app import open_log
from streams.log.base import Log
from streams.protocol import Lease
from streams.settings import Settings
from tests.kill import data, program
from tests.kill.harness import Runner

ENOUGH = 3000  # input records that must lie ahead of the workers, so that they never stand idle
TASKS = len(program.app.topology().subs) * data.PARTITIONS
SESSION, MAX_POLL = 6.0, 7.0  # seconds; 6 is the least that the broker takes
PATIENCE = 60.0
Process = subprocess.Popen[bytes]


class Pair:
    """The workers `a` and `b` of one application, in small bites, with input ahead of them for as long as we wait."""

    def __init__(self, runner: Runner, log: Log, app: str, feed: data.Feed, *arguments: str, bite: int) -> None:
        self.runner, self.log, self.app, self._feed = runner, log, app, feed
        self._arguments, self._environment = arguments, {"STREAMS_POLL_RECORDS": str(bite)}
        self.processes: dict[str, Process] = {}

    def start(self, slot: str) -> None:
        """Start it and wait until it has joined; whether it works says `until_working`."""
        ready = self.runner.directory / f"ready-{slot}"
        ready.unlink(missing_ok=True)
        environment = {**self._environment, "STREAMS_READY_FILE": str(ready)}
        self.processes[slot] = self.runner.start(self.app, slot, environment, *self._arguments)
        self._wait(f"{slot} has joined", ready.exists)

    def kill(self, slot: str) -> None:
        self.processes[slot].kill()
        assert self.processes[slot].wait() == -signal.SIGKILL

    def leases(self) -> dict[int, Lease]:
        """The lease records that there are, by task."""
        found = self.log.leases(self.app, range(TASKS))
        return {task: lease for task, lease in found.items() if lease is not None}

    def until_working(self, *slots: str) -> None:
        """Wait until all tasks are held by these slots alone, and each of them has made a commit from now on."""
        before = self.leases()

        def working() -> bool:
            now = {task: lease for task, lease in self.leases().items() if lease.held}
            moved = {x.slot for task, x in now.items() if task not in before or x.sequence > before[task].sequence}
            return len(now) == TASKS and {x.slot for x in now.values()} == set(slots) <= moved

        self._wait(f"{slots} are at work", working)

    def _wait(self, what: str, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not true():
            for slot, process in self.processes.items():
                assert process.poll() is None, f"{slot} ended with {process.returncode}:\n{self.runner.tail()}"
            if self.runner.backlog(self.log, self.app) < ENOUGH:
                self._feed.more(1000)
            assert time.monotonic() < deadline, f"not so: {what}; {self.leases()}\n{self.runner.tail()}"
            time.sleep(0.05)

    def upgrade(self, slot: str) -> None:
        """Stop a worker as a rolling upgrade does, and start it again."""
        process = self.processes.pop(slot)
        process.send_signal(signal.SIGTERM)
        self._wait(f"{slot} has ended", lambda: process.poll() is not None)
        assert process.returncode == 0, self.runner.tail()
        self.start(slot)

    def stop(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for slot, process in self.processes.items():
            assert process.wait(30) == 0, f"{slot}:\n{self.runner.tail()}"

    def end(self) -> None:
        """Whatever has happened, nothing runs afterwards; a stopped process dies by SIGKILL too."""
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()


@contextmanager
def pair(directory: Path, settings: Settings, *arguments: str, bite: int = 20) -> Iterator[Pair]:
    """Two workers in mid-work. When the block has ended there must be work left; it is done, and all is compared."""
    log = open_log(settings)
    try:
        runner = Runner(directory, settings)
        feed = data.Feed(log, seed=1)
        feed.more(2 * ENOUGH)
        both = Pair(runner, log, "shared", feed, *arguments, bite=bite)
        try:
            for slot in "ab":
                both.start(slot)
            both.until_working("a", "b")
            yield both
            both.until_working("a", "b")
            both.stop()
        finally:
            both.end()
        assert runner.backlog(log, "shared") > 0, "the workers were idle at the end, which proves nothing"
        feed.end()
        runner.finish(log, "shared")
        runner.finish(log, "plain")
        assert runner.differences(log, "plain", "shared")[1] == []
    finally:
        log.close()


class Pauses:
    """How long each task that reads a source made no commit, seen from outside: what a user waits for in an upgrade.

    The others commit when their inputs have all moved, which says nothing about the upgrade.
    """

    def __init__(self, both: Pair) -> None:
        self._log, self._app, self._stop = both.log, both.app, threading.Event()
        self.longest: dict[int, float] = dict.fromkeys(range(data.PARTITIONS), 0.0)
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        begun = time.monotonic()
        last = dict.fromkeys(self.longest, (begun, -1))
        while not self._stop.wait(0.02):
            found, now = self._log.leases(self._app, list(self.longest)), time.monotonic()
            for task, (at, sequence) in last.items():
                lease = found[task]
                if lease is not None and lease.sequence != sequence:
                    self.longest[task] = max(self.longest[task], now - at if sequence >= 0 else 0.0)
                    last[task] = (now, lease.sequence)


def upgrade_in_turn(both: Pair) -> None:
    """Each worker once, while the other works; the time that each task stood still is printed."""
    with Pauses(both) as pauses:
        for slot in "ab":
            both.upgrade(slot)
            both.until_working("a", "b")
    print("longest pause by task:", {task: f"{s:.2f} s" for task, s in pauses.longest.items()})
    assert max(pauses.longest.values()) < 20


@pytest.mark.slow
@pytest.mark.kafka
def test_a_rolling_upgrade_on_kafka(tmp_path: Path) -> None:
    with broker.start() as own, pair(tmp_path, Settings(brokers=own.bootstrap), bite=4) as both:
        upgrade_in_turn(both)


@pytest.mark.slow
def test_a_rolling_upgrade_on_the_embedded_log(tmp_path: Path) -> None:
    with pair(tmp_path, Settings(log_dir=str(tmp_path / "log"))) as both:
        upgrade_in_turn(both)


def kill_in_turn(both: Pair, rounds: int, seed: int) -> None:
    """Now one is killed, now the other; it is started again at once or after a while."""
    rng = random.Random(seed)
    for number in range(rounds):
        slot = "ab"[number % 2]
        time.sleep(rng.uniform(0.0, 0.5))
        both.kill(slot)
        time.sleep((0.0, 0.7)[number // 2 % 2])
        both.start(slot)
        both.until_working("a", "b")


@pytest.mark.slow
@pytest.mark.kafka
def test_a_killed_worker_comes_back_on_kafka(tmp_path: Path) -> None:
    with broker.start() as own, pair(tmp_path, Settings(brokers=own.bootstrap), bite=4) as both:
        kill_in_turn(both, rounds=4, seed=1)


@pytest.mark.slow
def test_a_killed_worker_comes_back_on_the_embedded_log(tmp_path: Path) -> None:
    with pair(tmp_path, Settings(log_dir=str(tmp_path / "log"))) as both:
        kill_in_turn(both, rounds=4, seed=2)


@pytest.mark.slow
@pytest.mark.kafka
def test_a_worker_that_stood_still_spoils_nothing(tmp_path: Path) -> None:
    """A zombie: it still believes in its tasks when it wakes, and the other has worked on them for a while."""
    file = tmp_path / "settings.toml"
    intervals = {"session.timeout.ms": SESSION, "max.poll.interval.ms": MAX_POLL}
    file.write_text("[kafka]\n" + "".join(f'"{k}" = "{v * 1000:.0f}"\n' for k, v in intervals.items()))
    with (
        broker.start() as own,
        pair(tmp_path, Settings(brokers=own.bootstrap), "--settings", str(file), bite=4) as both,
    ):
        since = time.monotonic()
        both.processes["a"].send_signal(signal.SIGSTOP)
        both.until_working("b")
        time.sleep(max(0.0, since + MAX_POLL + 1 - time.monotonic()))
        both.processes["a"].send_signal(signal.SIGCONT)
        both.until_working("a", "b")  # it has taken tasks anew, and goes on
