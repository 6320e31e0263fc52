"""Two workers share the tasks of one application while one of them is killed, or stands still for longer than the group
waits for it. Their output must equal that of one worker that nothing happened to."""

import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from streams import broker
from streams.app import open_log
from streams.log.base import Log
from streams.settings import Settings
from tests.kill import data, program
from tests.kill.harness import Runner

TASKS = len(program.app.topology().subs) * data.PARTITIONS
SESSION, MAX_POLL = 6.0, 7.0  # seconds; 6 is the least that the broker takes
PATIENCE = 60.0
Process = subprocess.Popen[bytes]


class Pair:
    """The workers `a` and `b` of one application, in small bites so that the input lasts."""

    def __init__(self, runner: Runner, log: Log, app: str, *arguments: str, bite: int) -> None:
        self.runner, self.log, self.app = runner, log, app
        self._arguments, self._environment = arguments, {"STREAMS_POLL_RECORDS": str(bite)}
        self.processes: dict[str, Process] = {}
        for slot in "ab":
            self.start(slot)

    def start(self, slot: str) -> None:
        self.processes[slot] = self.runner.start(self.app, slot, self._environment, *self._arguments)

    def kill(self, slot: str) -> None:
        self.processes[slot].kill()
        assert self.processes[slot].wait() == -signal.SIGKILL

    def held(self) -> Mapping[str, int]:
        """How many tasks each slot holds."""
        found = [
            lease for lease in self.log.leases(self.app, range(TASKS)).values() if lease is not None and lease.held
        ]
        return {slot: sum(lease.slot == slot for lease in found) for slot in "ab"}

    def until(self, what: str, true: Callable[[Mapping[str, int]], bool]) -> None:
        """Wait until the leases are so; fails if a worker ends meanwhile."""
        deadline = time.monotonic() + PATIENCE
        while not true(held := self.held()):
            for slot, process in self.processes.items():
                assert process.poll() is None, f"{slot} ended with {process.returncode}:\n{self.runner.tail()}"
            assert time.monotonic() < deadline, f"not {what}, but {held}:\n{self.runner.tail()}"
            time.sleep(0.05)

    def until_shared(self) -> None:
        """Every task is held, and each worker holds some."""
        self.until("shared", lambda held: min(held.values()) > 0 and sum(held.values()) == TASKS)

    def commits(self, slot: str) -> int:
        """The sum of the commit sequences of the tasks that a slot holds."""
        leases = self.log.leases(self.app, range(TASKS)).values()
        return sum(lease.sequence for lease in leases if lease is not None and lease.held and lease.slot == slot)

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
def pair(directory: Path, settings: Settings, count: int, *arguments: str, bite: int = 20) -> Iterator[Pair]:
    """Two workers in mid-work. When the block has ended there must be work left; it is done, and all is compared."""
    log = open_log(settings)
    try:
        runner = Runner(directory, settings)
        data.fill(log, count, seed=count)
        runner.finish(log, "plain")
        both = Pair(runner, log, "shared", *arguments, bite=bite)
        try:
            both.until_shared()
            yield both
            both.stop()
        finally:
            both.end()
        assert runner.left(log, "shared") > 0, "the workers were idle at the end, which proves nothing"
        runner.finish(log, "shared")
        assert runner.differences(log, "plain", "shared")[1] == []
    finally:
        log.close()


def kill_in_turn(both: Pair, rounds: int, seed: int) -> None:
    """Now one is killed, now the other; it is started again at once or after a while."""
    rng = random.Random(seed)
    for number in range(rounds):
        slot = "ab"[number % 2]
        time.sleep(rng.uniform(0.2, 1.0))
        assert both.held()[slot] > 0
        both.kill(slot)
        time.sleep(rng.choice([0.0, 0.5]))
        both.start(slot)
        both.until_shared()


@pytest.mark.slow
@pytest.mark.kafka
def test_a_killed_worker_comes_back_on_kafka(tmp_path: Path) -> None:
    with broker.start() as own, pair(tmp_path, Settings(brokers=own.bootstrap), 6000) as both:
        kill_in_turn(both, rounds=4, seed=1)


@pytest.mark.slow
def test_a_killed_worker_comes_back_on_the_embedded_log(tmp_path: Path) -> None:
    with pair(tmp_path, Settings(log_dir=str(tmp_path / "log")), 6000) as both:
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
        pair(tmp_path, Settings(brokers=own.bootstrap), 9000, "--settings", str(file)) as both,
    ):
        zombie, other = "a", "b"
        since = time.monotonic()
        both.processes[zombie].send_signal(signal.SIGSTOP)
        both.until("taken over", lambda held: held == {zombie: 0, other: TASKS})
        taken = both.commits(other)
        while time.monotonic() - since <= MAX_POLL + 1 or both.commits(other) <= taken:
            time.sleep(0.1)
        both.processes[zombie].send_signal(signal.SIGCONT)
        both.until_shared()  # it takes tasks anew ...
        before = {slot: both.commits(slot) for slot in "ab"}
        both.until("at work", lambda _: all(both.commits(slot) > before[slot] for slot in "ab"))  # ... and goes on
