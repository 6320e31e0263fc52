"""Kills a worker again and again while it works through a fixed input, then compares its output with that of an
uninterrupted run.

    python -m tests.kill --log embedded --kills 100 --seed 1
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streams.app import open_log
from streams.checkpoint.collect import verify
from streams.checkpoint.location import Location
from streams.checkpoint.manifest import list_manifests, tasks
from streams.core.record import TopicPartition
from streams.log.base import Log
from streams.log.reading import read_all
from streams.protocol import STEPS
from streams.settings import Settings
from tests.kill import data

WIPED = 0.15  # of the kills take the local state with them
IN_ORDER = ("large", "running", "files")  # no shuffle on the way: the order within a partition is promised
FILES = "files"
AS_MULTISET = ("minutes", "late", "risk", "dead")
ROOT = Path(__file__).parent.parent.parent


@dataclass
class Report:
    """What was done and what was found. `left`: input records that the last kill left over, so no kill was idle."""

    log: str
    seed: int
    kills: int = 0
    by: Counter[str] = field(default_factory=Counter)
    inside_commit: int = 0
    wiped: int = 0
    snapshots: int = 0
    left: int = 0
    seconds: float = 0.0
    outputs: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def text(self) -> str:
        share = self.inside_commit / max(1, self.kills)
        lines = [
            f"{self.log}: {self.kills} kills in {self.seconds:.0f} s, seed {self.seed}, {share:.0%} inside a commit",
            "  "
            + ", ".join(f"{k} {v}" for k, v in sorted(self.by.items()))
            + f"; state lost {self.wiped}, snapshots kept {self.snapshots}; {self.left:,} records were left",
            "  outputs: " + ", ".join(f"{k} {v:,}" for k, v in sorted(self.outputs.items())),
            *(f"  WRONG {w}" for w in self.wrong),
            "  exact" if not self.wrong else "  NOT exact",
        ]
        return "\n".join(lines)


class Runner:
    """Starts workers of the kill program on one log."""

    def __init__(self, directory: Path, settings: Settings) -> None:
        self.directory, self.settings = directory, settings
        self.output = directory / "workers.log"
        self.environment: dict[str, str] = {"KILL_FILES": str(directory / FILES)}

    def start(
        self, app: str, slot: str = "0", environment: Mapping[str, str] | None = None, *arguments: str
    ) -> "subprocess.Popen[bytes]":
        """A worker that takes its input in small bites, unless the environment says otherwise."""
        where = ["--brokers", self.settings.brokers] if self.settings.brokers else ["--log-dir", self.settings.log_dir]
        command = [sys.executable, "-m", "streams", "run", "tests.kill.program:app", "--slot", slot, *where]
        command += ["--state-dir", str(self.directory / "state"), "--commit-interval", "20ms"]
        command += arguments
        env = {
            **os.environ,
            "KILL_APP": app,
            "STREAMS_POLL_RECORDS": "50",
            "POLARS_MAX_THREADS": "1",
            "STREAMS_CHANGELOG_BYTES": "50000",  # state is written anew every now and then
            **self.environment,
            **(environment or {}),
        }
        with self.output.open("ab") as file:
            return subprocess.Popen(command, cwd=ROOT, env=env, stdout=file, stderr=file)

    def read(self, log: Log, topic: str) -> dict[int, list[bytes]]:
        """All committed records of a topic, by partition."""
        info = log.topics([topic]).get(topic)
        if info is None:
            return {}
        out: dict[int, list[bytes]] = {p: [] for p in range(info.partitions)}
        for records in read_all(log, topic, most=50_000):
            out[records.source.partition] += [v or b"" for v in records.values()]
        return out

    def output_of(self, log: Log, app: str, part: str) -> dict[int, list[bytes]]:
        """One of the program's outputs, by partition: a topic's records, or the rows of the files."""
        return self.files(app) if part == FILES else self.read(log, f"{app}.{part}")

    def files(self, app: str) -> dict[int, list[bytes]]:
        """What the program has published outside the log, by partition."""
        places = {p: self.directory / FILES / app / str(p) for p in range(data.PARTITIONS)}
        return {
            p: [line for file in sorted(place.glob("[0-9]*.jsonl")) for line in file.read_bytes().splitlines()]
            for p, place in places.items()
        }

    def finished(self, log: Log, app: str) -> bool:
        """The end marks of every input have been processed: the application has committed the ends of its sources."""
        partitions = [TopicPartition(t, p) for t in (data.TX, data.LABELS) for p in range(data.PARTITIONS)]
        ends, committed = log.ends(partitions), log.committed(app, partitions)
        # The last records (the end marks) may wait for each other; and a broker's end counts transaction markers.
        return all((c := committed[p]) is not None and c.offset >= ends[p] - 2 for p in partitions)

    def left(self, log: Log, app: str) -> int:
        """Input records that the application has not committed, end marks aside; 0 once it has finished.

        Call it while no worker runs: it ends the commit that a killed worker of slot 0 has left open.
        """
        log.fence(app, "0")
        return self.backlog(log, app)

    def backlog(self, log: Log, app: str) -> int:
        """About how many input records are not committed yet, end marks aside."""
        partitions = [TopicPartition(t, p) for t in (data.TX, data.LABELS) for p in range(data.PARTITIONS)]
        ends, committed = log.ends(partitions), log.committed(app, partitions)
        positions = {p: c.offset if (c := committed[p]) is not None else 0 for p in partitions}
        return sum(max(0, ends[p] - 2 - positions[p]) for p in partitions)

    def finish(self, log: Log, app: str, limit: float = 180, slot: str = "0", *arguments: str) -> None:
        """Run without a kill, in large bites, until everything is processed and the output stands still."""
        process = self.start(app, slot, {"STREAMS_POLL_RECORDS": "20000"}, *arguments)
        try:
            deadline = time.monotonic() + limit
            still, last = 0.0, -1
            while time.monotonic() < deadline:
                if process.poll() is not None:
                    raise AssertionError(f"the worker ended with {process.returncode}:\n{self.tail()}")
                time.sleep(0.2)
                if not self.finished(log, app):
                    continue
                size = sum(log.ends([TopicPartition(f"{app}.risk", p) for p in range(data.PARTITIONS)]).values())
                now = time.monotonic()
                if size != last:
                    last, still = size, now
                elif now - still > 2:
                    break
            else:
                raise AssertionError(f"{app} did not finish in {limit} s:\n{self.tail()}")
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, self.tail()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()

    def differences(self, log: Log, reference: str, app: str) -> tuple[dict[str, int], list[str]]:
        """How many records each output of the reference has, and what is wrong with those of the other application."""
        outputs, wrong = dict[str, int](), list[str]()
        for part in (*IN_ORDER, *AS_MULTISET):
            wanted, found = self.output_of(log, reference, part), self.output_of(log, app, part)
            outputs[part] = sum(len(v) for v in wanted.values())
            if not outputs[part]:
                wrong.append(f"{part}: the reference is empty, which proves nothing")
            if difference := compare(found, wanted, part in IN_ORDER):
                wrong.append(f"{part}: {difference}")
        return outputs, wrong

    def tail(self) -> str:
        return self.output.read_bytes()[-4000:].decode(errors="replace")


def compare(found: Mapping[int, list[bytes]], wanted: Mapping[int, list[bytes]], in_order: bool) -> str:
    """Empty if equal, else what differs."""
    if in_order:
        for partition in wanted:
            if found.get(partition, []) != wanted[partition]:
                a, b = found.get(partition, []), wanted[partition]
                at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
                return f"partition {partition}: {len(a)} records, not {len(b)}; the first difference is at {at}"
        return ""
    a, b = Counter(v for vs in found.values() for v in vs), Counter(v for vs in wanted.values() for v in vs)
    lost, extra = b - a, a - b
    if lost or extra:
        return f"{sum(lost.values())} lost, {sum(extra.values())} too many: {list(lost)[:2]} {list(extra)[:2]}"
    return ""


def choose(kills: int, rng: random.Random) -> list[str | None]:
    """Where to kill: 60% after a step of a commit, all steps alike, the others (None) at any moment; shuffled."""
    named = round(kills * 0.6)
    whole, rest = divmod(named, len(STEPS))
    kinds: list[str | None] = [*STEPS * whole, *rng.sample(STEPS, rest), *[None] * (kills - named)]
    rng.shuffle(kinds)
    return kinds


def kill_test(
    directory: Path, settings: Settings, kills: int, seed: int, count: int | None = None, *, snapshots: bool = False
) -> Report:
    """Fill the log, run the program uninterrupted under one name and with `kills` SIGKILLs under another; compare.

    `count` transactions are written. If they do not last until the last kill, the report's `left` is 0. `snapshots`:
    the workers have a checkpoint location, and all that is in it is verified at the end; without it the state is
    written into the changelog anew every now and then.
    """
    name = "kafka" if settings.brokers else "embedded"
    report, rng, started = Report(name, seed), random.Random(seed), time.monotonic()
    log = open_log(settings)
    runner = Runner(directory, settings)
    if snapshots:
        runner.environment |= {
            "STREAMS_CHECKPOINTS": str(directory / "checkpoints"),
            "STREAMS_SNAPSHOT_INTERVAL": "500ms",
        }
    try:
        data.fill(log, count or 3000 + kills * 500, seed)
        reference, app = f"plain{seed}", f"killed{seed}"
        runner.finish(log, reference)
        for step in choose(kills, rng):
            environment = {"STREAMS_CRASH": f"{step}:{rng.randrange(1, 8)}"} if step else {}
            ready = directory / "ready"
            ready.unlink(missing_ok=True)
            process = runner.start(app, environment={**environment, "STREAMS_READY_FILE": str(ready)})
            try:
                if step is None:
                    _wait_for(ready, process)
                    time.sleep(rng.uniform(0, 0.6))
                    process.kill()
                code = process.wait(30)
            except subprocess.TimeoutExpired:
                break  # nothing is left to commit, so the step is never reached
            finally:
                process.kill()
                process.wait()
            if code != -signal.SIGKILL:
                raise AssertionError(f"the worker ended with {code}:\n{runner.tail()}")
            report.kills += 1
            report.by[step or "random"] += 1
            report.inside_commit += step is not None and step != "begin"
            if rng.random() < WIPED:  # the machine is lost, too: the next worker has the changelog alone
                shutil.rmtree(directory / "state" / app, ignore_errors=True)
                report.wiped += 1
        report.left = runner.left(log, app)
        runner.finish(log, app)
        report.outputs, report.wrong = runner.differences(log, reference, app)
        if snapshots:
            location = Location(str(directory / "checkpoints"))
            report.snapshots = sum(len(list_manifests(location, app, task)) for task in tasks(location, app))
            report.wrong += [str(finding) for finding in verify(location, app)]
    finally:
        log.close()
    report.seconds = time.monotonic() - started
    return report


def _wait_for(path: Path, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 60
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)


def as_json(report: Report) -> str:
    fields: dict[str, Any] = {**vars(report), "by": dict(report.by)}
    return json.dumps(fields)
