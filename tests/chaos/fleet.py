"""The workers under chaos, supervised: whoever ends by itself is started again, and that is counted."""

import json
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from streams.core.errors import LogError
from streams.core.record import TopicPartition
from streams.log.base import Log
from streams.protocol import Lease
from tests.kill import data, program
from tests.kill.harness import Runner

ENOUGH = 4000  # transactions that must lie ahead of the workers, so that they never stand idle
TASKS = len(program.app.topology().subs) * data.PARTITIONS
SOURCES = range(data.PARTITIONS)  # the tasks that read the transactions; the others move when all their inputs have
BOUND = 90.0  # seconds within which work must go on after a fault (I3); nothing may take longer than this (I4)
WIPED = 0.15  # of the kills take the local state with them
Process = subprocess.Popen[bytes]


class Stuck(Exception):
    """Something did not happen within the bound."""


class Fleet:
    """Workers of one application. `kills` counts what was killed, `exits` who ended by itself, by fault."""

    def __init__(self, runner: Runner, log: Log, app: str, feed: data.Feed, arguments: list[str], events: Path) -> None:
        self.runner, self.log, self.app, self._feed, self.arguments = runner, log, app, feed, arguments
        self._events = events
        self.processes: dict[str, Process] = {}
        self._hooks: dict[str, str] = {}  # slots whose worker will kill itself, and at which step
        self.kills: Counter[str] = Counter()
        self.exits: Counter[str] = Counter()
        self.wiped = 0
        self.fault = ""
        """What is being done: for the events."""

    @property
    def inside(self) -> int:
        """Kills that certainly fell inside a commit: after one of its steps, but the first."""
        return sum(n for step, n in self.kills.items() if step not in ("random", "begin"))

    def note(self, what: str, **more: object) -> None:
        """A line in the file of events."""
        line = {"time": round(time.time(), 3), "fault": self.fault, "what": what, **more}
        with self._events.open("a") as file:
            file.write(json.dumps(line) + "\n")

    # ---- starting and ending workers

    def start(self, slot: str, hook: str = "") -> None:
        """`hook`: STEP:N, where it kills itself."""
        assert slot not in self.processes
        environment = {"STREAMS_CRASH": hook} if hook else {}
        self.processes[slot] = self.runner.start(self.app, slot, environment, *self.arguments)
        if hook:
            self._hooks[slot] = hook

    def kill(self, slot: str, rng: random.Random) -> None:
        """SIGKILL now."""
        self.reap(rng)
        process = self.processes.pop(slot, None)
        if process is None:
            return
        self._hooks.pop(slot, None)
        process.kill()
        process.wait()
        self._killed(slot, process, "random", rng)

    def reap(self, rng: random.Random | None = None) -> list[str]:
        """Note who has ended, and how; the slots that run no more."""
        ended = [slot for slot, process in self.processes.items() if process.poll() is not None]
        for slot in ended:
            process, hook = self.processes.pop(slot), self._hooks.pop(slot, "")
            if process.returncode == -signal.SIGKILL and hook:
                self._killed(slot, process, hook.partition(":")[0], rng)
            else:
                self.exits[self.fault] += 1
                said = self.runner.tail()[-600:]
                self.note("ended by itself", slot=slot, pid=process.pid, code=process.returncode, said=said)
        return ended

    def _killed(self, slot: str, process: Process, step: str, rng: random.Random | None) -> None:
        self.kills[step] += 1
        wiped = rng is not None and rng.random() < WIPED
        self.note("killed", slot=slot, pid=process.pid, step=step, state_lost=wiped)
        if wiped:  # the machine is lost, too
            self.wiped += 1
            shutil.rmtree(self.state(slot), ignore_errors=True)

    def term(self, slot: str, patience: float = 60.0) -> None:
        """Ask it to end, and wait for that."""
        process = self.processes.pop(slot, None)
        if process is None:
            return
        self._hooks.pop(slot, None)
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise Stuck(f"{slot} did not end within {patience:.0f} s of SIGTERM\n{self.runner.tail()}") from None
        if code not in (0, -signal.SIGTERM):  # the latter: asked before it had set its handler
            self.exits[self.fault] += 1
            self.note("ended badly", slot=slot, code=code, said=self.runner.tail()[-600:])

    def state(self, slot: str) -> Path:
        return self.runner.directory / "state" / self.app / slot

    def close(self) -> None:
        """Whatever has happened, nothing runs afterwards; a stopped process dies by SIGKILL too."""
        for process in self.processes.values():
            process.kill()
            process.wait()
        self.processes.clear()
        self._hooks.clear()

    # ---- waiting

    def top_up(self) -> None:
        """Keep enough input ahead. Call it while the log can be reached."""
        try:
            while self._ahead() < ENOUGH:
                self._feed.more(2000)
        except LogError as error:
            self.note("the feeder begins anew", error=str(error).splitlines()[0])
            self._reopen()

    def _ahead(self) -> int:
        """Transactions that are not read yet. Labels do not count: many of them may wait where transactions lack."""
        partitions = [TopicPartition(data.TX, p) for p in range(data.PARTITIONS)]
        ends, committed = self.log.ends(partitions), self.log.committed(self.app, partitions)
        positions = {p: c.offset if (c := committed[p]) is not None else 0 for p in partitions}
        return sum(ends[p] - positions[p] for p in partitions)

    def _reopen(self) -> None:
        """Its last commit may be there or not: the model reads what is."""
        self._feed.writer.close()
        try:
            self._feed.writer = self.log.writer("kill-feed", "feeder")
        except LogError as error:
            self.note("the feeder has no writer yet", error=str(error).splitlines()[0])

    def end_input(self) -> None:
        self._feed.end()

    def leases(self) -> dict[int, Lease]:
        """The lease records that there are, by task; none where the log cannot be asked."""
        try:
            found = self.log.leases(self.app, range(TASKS))
        except LogError:
            return {}
        return {task: lease for task, lease in found.items() if lease is not None}

    def until(self, true: Callable[[], bool], seconds: float, keep: bool = True) -> bool:
        """Wait while input stays ahead; workers that have ended are started again (`keep`)."""
        deadline = time.monotonic() + seconds
        while not true():
            if time.monotonic() > deadline:
                return False
            if keep:
                for slot in self.reap():
                    self.start(slot)
            self.top_up()
            time.sleep(0.05)
        return True

    def recovered(self, *slots: str, since: float | None = None) -> float:
        """Wait until these slots alone hold all tasks, each has committed and every source task has moved. Returns the
        seconds since then; Stuck beyond the bound."""
        since = time.monotonic() if since is None else since
        before = self.leases()
        for slot in slots:
            if slot not in self.processes:
                self.start(slot)

        def working() -> bool:
            nonlocal before
            now = {task: lease for task, lease in self.leases().items() if lease.held}
            before = before or now
            moved = {task for task, x in now.items() if task not in before or x.sequence > before[task].sequence}
            holders = {lease.slot for lease in now.values()}
            return len(now) == TASKS and holders == set(slots) == {now[t].slot for t in moved} and moved >= set(SOURCES)

        if not self.until(working, BOUND):
            raise Stuck(f"{slots} were not at work {BOUND:.0f} s later: {self.leases()}\n{self.runner.tail()}")
        return time.monotonic() - since
