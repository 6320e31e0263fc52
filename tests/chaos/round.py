"""A round of chaos: faults one after the other on workers at work, then everything is checked."""

import random
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from streams.app import open_log
from streams.log.base import Log
from streams.settings import Settings
from tests.chaos import check
from tests.chaos.cluster import Cluster
from tests.chaos.faults import ALL
from tests.chaos.fleet import Fleet, Stuck
from tests.chaos.report import Line, Report
from tests.chaos.s3 import S3, URL, Server
from tests.chaos.world import SLOTS, Fault, Kind, World
from tests.kill import data
from tests.kill.harness import Runner

APP = "chaos"
BITE = 20
DISK_MB = 400
INTERVALS = {"session.timeout.ms": 6000, "max.poll.interval.ms": 7000}


def run(
    directory: Path,
    kind: Kind,
    seconds: float,
    seed: int,
    brokers: int = 1,
    *,
    least: int = 0,
    faults: Sequence[Fault] = ALL,
    progress: bool = False,
    server: Server = "moto",
) -> Report:
    """Faults for so many seconds, and at least `least` of them, drawn from the seed; each kind comes once before any
    comes a second time.

    `directory` keeps the logs: workers.log, and events.jsonl with each kill's time, process, and step or instant.
    """
    report = Report(kind, seed, brokers if kind == "kafka" else 0)
    started = time.monotonic()
    with ExitStack() as stack:
        world, log, feed = make(stack, directory, kind, seed, brokers, server=server)
        fleet = world.fleet
        possible = []
        for fault in faults:
            report.lines[fault.name] = Line(skipped=fault.cannot(world))
            if not report.lines[fault.name].skipped:
                possible.append(fault)
        feed.more(8000)
        fleet.recovered(*SLOTS)
        for number, fault in enumerate(_draw(possible, seed)):
            if time.monotonic() - started >= seconds and number >= least:
                break
            rng = random.Random(f"{seed}:{number}")
            if not _do(fault, world, rng, report, progress):
                break
        fleet.fault = "end"
        try:
            fleet.recovered(*SLOTS)
            for slot in SLOTS:
                fleet.term(slot)
        except Stuck as error:
            report.wrong.append(f"I3 at the end: {error}")
        fleet.close()
        report.kills, report.inside, report.wiped = fleet.kills, fleet.inside, fleet.wiped
        for name, line in report.lines.items():
            line.exits = fleet.exits[name]
        try:
            fleet.end_input()
            fleet.runner.finish(log, APP, 600, SLOTS[0], *fleet.arguments)
        except AssertionError as error:
            report.wrong.append(f"I4: the input was not worked through: {error}")
        report.outputs, wrong = check.outputs(fleet.runner, log, APP)
        report.wrong += wrong
        report.wrong += check.states(fleet.runner, log, APP, SLOTS[0], world.location)
        report.wrong += check.snapshots(world.location, APP, world.damaged)
    report.seconds = time.monotonic() - started
    return report


def _do(fault: Fault, world: World, rng: random.Random, report: Report, progress: bool) -> bool:
    """One fault; False if the workers cannot be brought to work again."""
    line, fleet = report.lines[fault.name], world.fleet
    fleet.fault = fault.name
    fleet.note("begin")
    line.count += 1
    try:
        times = fault.run(world, rng)
    except Stuck as error:
        line.violations += 1
        report.wrong.append(f"I3 {fault.name} (number {sum(x.count for x in report.lines.values())}): {error}")
        fleet.note("stuck", error=str(error))
        fleet.close()
        try:
            fleet.recovered(*SLOTS)
        except Stuck:
            return False
        return True
    line.recoveries += times
    fleet.note("recovered", seconds=[round(s, 2) for s in times])
    if progress:
        shown = ", ".join(f"{s:.1f}" for s in times)
        print(f"{time.strftime('%H:%M:%S')} {fault.name}: {shown} s; {fleet.kills.total()} kills", flush=True)
    return True


def _draw(faults: Sequence[Fault], seed: int) -> Iterator[Fault]:
    """Endless: all of them (as often as they weigh) in a random order, then again."""
    rng = random.Random(seed)
    while True:
        bag = list(faults)
        rng.shuffle(bag)
        more = [fault for fault in faults for _ in range(fault.weight - 1)]
        rng.shuffle(more)
        yield from (*bag, *more)


def make(
    stack: ExitStack,
    directory: Path,
    kind: Kind,
    seed: int,
    brokers: int = 1,
    fleet_type: type[Fleet] = Fleet,
    server: Server = "moto",
) -> tuple[World, Log, data.Feed]:
    """Log, S3 server, proxies and a fleet without a worker yet; the stack ends them all."""
    directory.mkdir(parents=True, exist_ok=True)
    cluster = None
    if kind == "kafka":
        cluster = Cluster(directory, brokers)
        stack.callback(cluster.close)
        cluster.start()
    s3 = S3(directory, server)
    stack.callback(s3.close)
    disk = stack.enter_context(_disk(directory / "state"))
    file = directory / "settings.toml"
    options = "".join(f'{k} = "{v}"\n' for k, v in s3.options(s3.proxy.port).items())
    intervals = "".join(f'"{k}" = "{v}"\n' for k, v in INTERVALS.items()) if cluster else ""
    file.write_text(f"[checkpoint_options]\n{options}[kafka]\n{intervals}")
    where = str(directory / "log")
    runner = Runner(directory, Settings(brokers=cluster.proxied if cluster else "", log_dir=where))
    runner.environment |= {
        "STREAMS_CHECKPOINTS": URL,
        "STREAMS_SNAPSHOT_INTERVAL": "3s",
        "STREAMS_POLL_RECORDS": f"{BITE}",
    }
    events = directory / "events.jsonl"
    if cluster is not None:
        deadline = time.monotonic() + 120
        while not cluster.answers:
            if time.monotonic() > deadline:
                raise Stuck(f"the brokers do not start: see {directory}/broker-*/broker.log")
            time.sleep(0.1)
    log = open_log(Settings(brokers=cluster.direct if cluster else "", log_dir=where))
    stack.callback(log.close)
    feed = data.Feed(log, seed)
    fleet = fleet_type(runner, log, APP, feed, ["--settings", str(file)], events)
    stack.callback(fleet.close)
    world = World(fleet, kind, cluster, s3, s3.location(), disk, set())
    return world, log, feed


@contextmanager
def _disk(directory: Path) -> Iterator[Path | None]:
    """A small file system of its own, where this user may mount one."""
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(directory)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield directory if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(directory)], check=False)
