"""python -m tests.soak --log kafka --minutes 60 --rate 200 --seed 1"""

import json
import random
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import click

from streams.runtime.plan import changelog_topic
from streams.settings import Settings
from tests.chaos import check
from tests.chaos.fleet import Fleet, Stuck
from tests.chaos.round import APP, make
from tests.ending import end_in_order
from tests.kill import program
from tests.soak.samples import MB, Memory, partition_sizes, size

KILLED, SPARED = ("a", "b"), "c"
SEGMENT = 64 << 20  # bytes of a segment of an internal topic (streams/runtime/plan.py)
BETWEEN = 10.0  # seconds between two samples
SETTLED = 20.0  # minutes: in a shorter soak the caches still fill


class Steady(Fleet):
    """A fleet whose input comes at a steady rate, whatever becomes of the workers."""

    rate = 0.0
    """Transactions a second, and a third as many labels; 0 until the soak begins."""
    _since = 0.0
    _written = 0

    def begin(self, rate: float) -> None:
        self.rate, self._since, self._written = rate, time.monotonic(), 0

    def top_up(self) -> None:
        due = int((time.monotonic() - self._since) * self.rate) - self._written if self.rate else 0
        if due >= self.rate / 4:
            self._feed.more(due)
            self._written += due


@click.command()
@click.option("--log", "kind", default="kafka", show_default=True, type=click.Choice(["embedded", "kafka"]))
@click.option("--minutes", default=60.0, show_default=True)
@click.option("--rate", default=200.0, show_default=True, help="Transactions a second.")
@click.option("--every", default=60.0, show_default=True, help="Seconds from one kill to the next.")
@click.option("--seed", default=1, show_default=True)
@click.option("--keep", type=click.Path(path_type=Path), help="A new directory for logs, events and samples.")
def main(kind: str, minutes: float, rate: float, every: float, seed: int, keep: Path | None) -> None:
    """Three workers at a steady load; two of them are killed in turn, the third lives through it all.

    Checked at the end: the guarantees I1 to I4 (tests/chaos/check.py); the third one's resident memory grows by less
    than 1 MB a minute over the last half; each partition of a changelog is at most twice the state and two segments.
    """
    end_in_order()
    with tempfile.TemporaryDirectory(prefix="streams-soak-") as temporary:
        directory = (keep or Path(temporary) / "soak").absolute()
        wrong = soak(directory, kind, minutes, rate, every, seed)
    click.echo("\n".join([*(f"VIOLATION {each}" for each in wrong), f"{len(wrong) or 'no'} violations"]))
    sys.exit(bool(wrong))


def soak(directory: Path, kind: Any, minutes: float, rate: float, every: float, seed: int) -> list[str]:
    """What is wrong; figures are printed."""
    rng, wrong = random.Random(seed), list[str]()
    with ExitStack() as stack:
        world, log, feed = make(stack, directory, kind, seed, fleet_type=Steady)
        fleet = world.fleet
        assert isinstance(fleet, Steady)
        fleet.runner.environment |= {"STREAMS_SNAPSHOT_INTERVAL": "20s", "STREAMS_POLL_RECORDS": "5000"}
        fleet.runner.environment["STREAMS_CHANGELOG_BYTES"] = f"{Settings().changelog_bytes}"
        fleet.arguments += ["--commit-interval", "100ms"]
        fleet.begin(rate)
        slots = (*KILLED, SPARED)
        fleet.recovered(*slots)
        spared = fleet.processes[SPARED].pid
        memory, disk, times = Memory(), Disk(directory, world.cluster is not None), list[float]()
        started = time.monotonic()
        next_kill, next_sample, turn = started + every, started, 0
        while (now := time.monotonic()) < started + minutes * 60:
            if now >= next_sample:
                next_sample = now + BETWEEN
                for slot, process in fleet.processes.items():
                    memory.add(slot, process.pid, (now - started) / 60)
                disk.look()
            if now >= next_kill:
                slot, turn, next_kill = KILLED[turn % 2], turn + 1, next_kill + every
                fleet.fault = f"kill {turn}"
                since = time.monotonic()
                fleet.kill(slot, rng)
                try:
                    times.append(fleet.recovered(*slots, since=since))
                except Stuck as error:
                    wrong.append(f"I3 kill {turn}: {error}")
                print(
                    f"minute {(now - started) / 60:.0f}: killed {slot}, at work again after {times[-1:]} s; "
                    f"{feed.count:,} transactions; memory {memory.lives[SPARED, spared][-1][1]:.0f} MB; {disk.text()}",
                    flush=True,
                )
                (directory / "memory.json").write_text(
                    json.dumps({f"{k[0]} {k[1]}": v for k, v in memory.lives.items()})
                )
            fleet.until(lambda: False, rng.uniform(0.2, 0.4))
        if SPARED not in fleet.processes or fleet.processes[SPARED].pid != spared:
            wrong.append(f"worker {SPARED}, which is never killed, did not live to the end")
        fleet.rate = 0.0
        for slot in slots:
            fleet.term(slot)
        fleet.end_input()
        try:
            fleet.runner.finish(log, APP, 600, SPARED, *fleet.arguments)
        except AssertionError as error:
            wrong.append(f"I4: the input was not worked through: {error}")
        growth = memory.growth(SPARED, minutes / 2)
        state = disk.state(fleet.state(SPARED))
        outputs, found = check.outputs(fleet.runner, log, APP)
        wrong += found
        wrong += check.states(fleet.runner, log, APP, SPARED, world.location)
        wrong += check.snapshots(world.location, APP, world.damaged)
    print(
        f"{kind}: seed {seed}, {minutes:g} minutes, {feed.count:,} transactions in ({rate:g}/s), "
        f"{sum(outputs.values()):,} records out; {fleet.kills.total()} kills, state lost with {fleet.wiped}; at work "
        f"again after {median(times or [0]):.1f} s (median), {max(times, default=0):.1f} s (longest)"
    )
    print(
        f"resident memory: at most {memory.peak():.0f} MB; of the worker that lived through it all over the last half: "
        f"{growth if growth is not None else float('nan'):+.2f} MB a minute"
    )
    print(f"disk: {disk.text()}; state at the end {state / MB:.1f} MB")
    if growth is not None and growth >= 1 and minutes >= SETTLED:
        wrong.append(f"memory grows by {growth:.2f} MB a minute")
    wrong += disk.wrong(state)
    return wrong


class Disk:
    """Most bytes seen: of the workers' states, and of each partition of a changelog."""

    def __init__(self, directory: Path, kafka: bool) -> None:
        self._directory, self._kafka = directory, kafka
        self.states = self.log = 0
        self.changelogs: dict[str, int] = {}

    def look(self) -> None:
        self.states = max(self.states, size(self._directory / "state"))
        if not self._kafka:
            self.log = max(self.log, size(self._directory / "log"))
            return
        data_directory = self._directory / "broker-1" / "data"
        for sub in range(len(program.app.topology().subs)):
            for name, bytes_ in partition_sizes(data_directory, changelog_topic(APP, sub)).items():
                self.changelogs[name] = max(self.changelogs.get(name, 0), bytes_)

    @staticmethod
    def state(slot: Path) -> int:
        """Of one worker that holds all tasks."""
        return size(slot)

    def text(self) -> str:
        if not self._kafka:
            return f"states at most {self.states / MB:.1f} MB, the log (all input and output) {self.log / MB:.1f} MB"
        most = max(self.changelogs.values(), default=0)
        return f"states of all workers at most {self.states / MB:.1f} MB, a changelog's partition {most / MB:.1f} MB"

    def wrong(self, state: int) -> list[str]:
        limit = 2 * state + 2 * SEGMENT
        return [
            f"{name} had {bytes_ / MB:.0f} MB, the state has {state / MB:.0f} MB"
            for name, bytes_ in self.changelogs.items()
            if bytes_ > limit
        ]


if __name__ == "__main__":
    main()
