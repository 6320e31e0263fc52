"""One seeded schedule: three workers of the real engine under faults, then calm, then everything is compared."""

import json
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest.mock import patch

import polars as pl

from streams.core.errors import LogError, SlotTaken
from streams.core.keys import partitions as partitions_of
from streams.core.record import Produced, TopicPartition
from streams.core.topology import Topology
from streams.log.base import TopicSpec
from streams.metrics import Metrics
from streams.runtime.plan import prepare
from streams.runtime.tools import Tools
from streams.runtime.worker import Worker
from streams.settings import Settings
from streams.state.changelog import Replay
from tests.simulation import program
from tests.simulation.cluster import SAVED, SESSION, Cluster, Transaction
from tests.simulation.log import LogRules, SimLog
from tests.simulation.store import Disk, Entries, SimStore
from tests.simulation.world import Process, SimClock, Violation, World

SLOTS = ("a", "b", "c")
FAULTY, CALM = 700, 12_000  # steps
# Of ten seeds one is of full size, two are half as long, the others a quarter, with as much less input: most faults
# need little to show, and small schedules find twice as many of the mutants in the same time; some need a long one.
SIZES = (1, 4, 2, 4, 4, 4, 4, 2, 4, 4)
SETTINGS = Settings(commit_interval=60, poll_records=4, changelog_bytes=2500, changelog_factor=1, waiting_rows=6)
PLACES = dict(
    zip(
        names := [f"c{i}" for i in range(5)] + [f"t{i}" for i in range(3)],
        partitions_of(pl.Series(names).cast(pl.Binary), program.PARTITIONS).tolist(),
        strict=True,
    )
)


@dataclass
class Result:
    """What happened in a schedule."""

    seed: int
    commits: int = 0
    steps: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    fingerprint: int = 0
    """Of all choices: equal for equal seeds."""


class Schedule:
    """Runs one seed. `rules` are for mutants of what the log is asked for."""

    silences = True
    losses = 0.04
    """Of the faults: how many are a power loss of everything."""
    trims = 0.2
    """Seconds between two looks at what may be deleted."""

    def __init__(self, seed: int, rules: LogRules | None = None) -> None:
        self.world = World(seed)
        self.cluster = Cluster(self.world)
        self.rules = rules
        self.result = Result(seed)
        self.notes: list[str] = []
        self._stopping: dict[str, Worker] = {}
        # The sources of some fall silent; those of the others end with a mark that all inputs wait for. Some have tasks
        # without state, too.
        self.silence = self.silences and seed % 5 == 2
        self.plain = self.silences and seed % 5 == 0
        self.app = program.IDLE if self.silence else program.WITH_PLAIN if self.plain else program.APP
        self.topology = self.app.topology()
        self.metrics = Metrics()  # of all processes: they take long to make
        self.size = SIZES[seed // 7 % len(SIZES)]  # 7: so that each size has silent sources, too
        self.data = program.Input(seed, PLACES, self.silence, 24 // self.size, plain=self.plain)
        self._fill()

    def run(self) -> Result:
        with (
            patch("streams.runtime.leases.begin", self.world.begin),
            patch("streams.runtime.leases.wait", self.world.wait),
            patch("streams.runtime.leases._STUCK", 0.1),
            patch("streams.runtime.task.CHUNK", 60),
            patch("streams.runtime.task.piece_rows", lambda settings: 1),
            patch("streams.runtime.trimming._EVERY", self.trims),
            patch("streams.runtime.worker._IDLE_LOOK", 0.0 if self.silence else 0.2),
        ):
            try:
                self._faulty()
                self._calm()
            finally:
                for process in self.world.processes.values():
                    process.kill()
        self.result.commits = self.cluster.commits
        self.result.faults.update(self.cluster.faults)
        self.result.fingerprint = hash((self.world.rng.random(), self.cluster.commits))
        return self.result

    # ---- phases

    def _faulty(self) -> None:
        rng = self.world.rng
        for _ in range(FAULTY // self.size):
            self._look_after_processes(0.2)
            self.world.step()
            self._expire_members()
            if rng.random() < 0.2:
                self.cluster.deliver()
            if rng.random() < 0.02:
                self._fault(rng)
            if rng.random() < 0.01 or self.world.time - self.cluster.saved_at > SAVED:
                self.cluster.save()

    def _fault(self, rng: random.Random) -> None:
        alive = [p for p in self.world.processes.values() if p.alive]
        if not alive:
            return
        process = rng.choice(alive)
        if rng.random() < self.losses:
            self._power_loss()
            return
        kind = rng.choice(("kill", "kill", "kill", "stall", "stall", "rebalance", "rebalance", "stop", "wipe"))
        self.result.faults[kind] += 1
        if kind in ("kill", "wipe"):
            process.kill()
            if kind == "wipe":
                for directory in [d for d in self.world.disks if d.parent == Path(process.slot)]:
                    del self.world.disks[directory]
        elif kind == "stall":
            process.stalled_until = self.world.time + rng.choice((0.1, 0.5, 3.0, 6.0))
        elif kind == "rebalance":
            self.cluster.rebalance()
        elif process.slot in self._stopping:
            self._stopping[process.slot].stop()

    def _power_loss(self) -> None:
        for process in self.world.processes.values():
            process.kill()
        self.result.faults["power loss"] += self.cluster.lose_the_end()

    def _calm(self) -> None:
        """No faults any more: everything must come to its end, and then nothing more may come."""
        world = self.world
        world.calm = True
        self.cluster.rebalance()
        wanted = self._wanted()
        quiet = 0
        for step in range(CALM):
            self._look_after_processes(1.0)
            world.step()
            self._expire_members()
            if step % 10 == 0:
                self.cluster.deliver()
            if step % 100 == 0:
                quiet = quiet + 1 if self._found() == wanted else 0
                if quiet >= 4 and self._check_state():
                    self._check_order()
                    self.result.steps = FAULTY // self.size + step
                    return
        found = self._found()
        for topic, counter in wanted.items():
            lost, extra = counter - found[topic], found[topic] - counter
            if lost or extra:
                raise Violation(f"{topic}: lost {list(lost.elements())[:3]}, too many {list(extra.elements())[:3]}")
        raise Violation("it never came to rest, although the outputs are right")

    def _look_after_processes(self, eagerness: float) -> None:
        """Start what does not run. An error that a worker ends with is a violation, but for what a supervisor mends."""
        for slot in SLOTS:
            process = self.world.processes.get(slot)
            if process is not None and process.ended is not None:
                error, process.ended = process.ended, None
                if not isinstance(error, (SlotTaken, LogError)):
                    raise Violation(f"worker {slot} ended: {type(error).__name__}: {error}") from error
                self.result.faults[type(error).__name__] += 1
            if (process is None or not process.alive) and self.world.rng.random() < eagerness:
                self.world.start(slot, self._work)

    def _expire_members(self) -> None:
        cluster = self.cluster
        gone = [m for m, at in cluster.members.items() if self.world.time - at > SESSION]
        for member in gone:
            del cluster.members[member]
        if gone:
            cluster.rebalance()

    # ---- a process

    def _work(self, process: Process) -> None:
        log, clock = SimLog(self.cluster, process, self.rules), SimClock(process)
        app = self.app
        plan = prepare(app.name, self._topology(process), log, app.dead_letters, program.PARTITIONS)

        def drop(directory: Path) -> None:
            self.world.disks.pop(directory, None)

        def note(text: str, level: int = 0, *, task: str = "") -> None:
            self.notes.append(f"{self.world.time:.3f} {process.slot}: {text}")

        tools = Tools(
            log,
            plan,
            replace(SETTINGS, slot=process.slot),
            clock,
            lambda directory: SimStore(process, directory),
            Path(process.slot),
            note,
            drop,
        )
        worker = Worker(tools, metrics=self.metrics, clock=clock, hook=lambda step: process.point(), wait=0.01)
        self._stopping[process.slot] = worker
        worker.run()

    def _topology(self, process: Process) -> Topology:
        """The program as this process runs it."""
        return self.topology

    # ---- input and output

    def _wanted(self) -> program.Output:
        return program.expected(self.data)[0]

    def _fill(self) -> None:
        log = SimLog(self.cluster, None)
        topics = [("tx", program.TX), ("labels", program.LABELS), *([("tx", program.PLAIN)] if self.plain else ())]
        log.create([TopicSpec(topic, program.PARTITIONS, {}) for _, topic in topics])
        feed = Transaction("feed/0", 1)
        for what, topic in topics:
            for partition in range(program.PARTITIONS):
                values = self.data.records(what, partition)
                stamp = program.START
                self.cluster.write(Produced(topic, partition, [None] * len(values), values, stamp), feed)
        feed.state = "committed"

    def _records(self, topic: str) -> list[bytes]:
        out = []
        for partition in range(self.cluster.infos[topic].partitions) if topic in self.cluster.infos else ():
            for entry in self.cluster.partitions[TopicPartition(topic, partition)]:
                if entry.transaction.state == "committed" and not entry.marker:
                    out.append(entry.value or b"")
        return out

    def _found(self) -> program.Output:
        return {
            name: Counter(json.dumps(json.loads(v), sort_keys=True) for v in self._records(f"sim.{name}"))
            for name in ("running", "minutes", "late", "risk", "sums", "plain")
        }

    def _check_order(self) -> None:
        order = program.expected(self.data)[1]
        found: dict[str, list[int]] = {}
        for value in self._records("sim.running"):
            row = json.loads(value)
            found.setdefault(row["card"], []).append(row["id"])
        if found != order:
            raise Violation(f"the order of a card's records is {found}, not {order}")

    def _check_state(self) -> bool:
        """Store = changelog = lease, for each task; False if some task does not rest yet.

        A lease that was given back may have no store beside it: a worker that was fenced and has nothing to do since
        does not know it, and need not. Such a worker may also have got the task back meanwhile: then its store counts,
        although the lease is still that of whoever fenced it, and gave up.
        """
        app = self.app
        plan = prepare(app.name, self.topology, SimLog(self.cluster, None), app.dead_letters, program.PARTITIONS)
        for number, lease in sorted(self.cluster.leases.items()):
            task = plan.tasks[number]
            if not plan.topology.subs[task.sub].stateful:
                continue  # its positions are all that it has: the outputs tell whether they are right
            found = self._replayed(TopicPartition(plan.changelog(task.sub), task.partition))
            if found.mark.sequence != lease.sequence:
                raise Violation(f"task {task}: its changelog ends at {found.mark.sequence}, its lease says {lease}")
            if not lease.held:
                continue
            name, stands = f"{task.sub}-{task.partition}", (lease.sequence, _filled(found.disk))
            holder = self._stands(lease.slot, name)
            if holder is not None and holder[0] == lease.sequence:
                if holder != stands:
                    raise Violation(f"task {task}: store and changelog differ at commit {lease.sequence}")
            elif stands not in (self._stands(s, name) for s, given in self.cluster.assigned.items() if number in given):
                return False
        return True

    def _stands(self, slot: str, task: str) -> tuple[int, Entries] | None:
        """The sequence and the content of a worker's store."""
        disk = self.world.disks.get(Path(slot) / task)
        return (disk.now[0].sequence, _filled(disk)) if isinstance(disk, Disk) else None

    def _replayed(self, source: TopicPartition) -> SimStore:
        """A store made from the changelog alone."""
        copy = SimStore(Process(World(0), "check", lambda process: None), Path("check"))
        replay = Replay(copy, "check", trimmed=True)
        entries = self.cluster.partitions[source]
        for offset in range(self.cluster.starts[source], len(entries)):
            if entries[offset].transaction.state == "committed" and not entries[offset].marker:
                replay.add(entries[offset].value or b"", offset + 1)
        replay.flush()
        return copy


def _filled(disk: Disk) -> Entries:
    return {name: entries for name, entries in disk.now[1].items() if entries}


def run(seed: int, rules: LogRules | None = None) -> Result:
    """Run one schedule; raises Violation if a promise is broken."""
    return Schedule(seed, rules).run()
