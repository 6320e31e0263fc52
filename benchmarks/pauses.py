"""How long work pauses: the longest time between two commits of a task, while nothing happens to it.

    python -m benchmarks.pauses [--keys 5000000] [--log kafka|embedded] [--cases steady,join,...]

The program and the feed of `benchmarks.recovery`: a running count by key, 1,000 records a second, a commit every 50 ms,
four tasks. For some seconds each partition's longest time between two outputs is noted, as a reader
of what is committed sees it:

    steady      20,000 keys, one worker, nothing happens
    join        the same, and a second worker joins: two tasks move, two stay
    leave       the second worker ends in order: its tasks move back, two stay
    killed      the second worker is killed (SIGKILL): its tasks move back after the session timeout, two stay
    large       --keys keys, one worker, nothing happens
    snapshots   the same, with a snapshot of each task every 5 s (a directory)

With the last one, how long the copies of stores have held up work is told from the worker's metrics; most of them are
made while the --keys are worked through at full speed.

Tasks that stay should pause no longer than with nothing going on. The feed and the reader share the machine.
"""

import math
import os
import re
import socket
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import click

from benchmarks.recovery import PARTITIONS, SMALL, Feed, Watch, Worker, await_snapshots, kafka
from streams.app import open_log
from streams.settings import Settings

CASES = ("steady", "join", "leave", "killed", "large", "snapshots")
WINDOW = 12.0  # seconds that are looked at: tasks move within 5 to a worker that joins, after 7 from one that died


class Bench:
    """The program on one log, for several cases one after the other."""

    def __init__(self, stack: ExitStack, brokers: str, name: str, keys: int, options: list[str]) -> None:
        self.app = f"pauses-{name}-{int(time.time())}"
        self.directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        from benchmarks.recovery import PROGRAM

        (self.directory / "program.py").write_text(PROGRAM)
        self._settings = Settings(brokers=brokers, log_dir=str(self.directory / "log"))
        log = ["--brokers", brokers] if brokers else ["--log-dir", str(self.directory / "log")]
        self._options = [*log, "--state-dir", str(self.directory / "state"), "--commit-interval", "50ms", *options]
        self._stack = stack
        self.feed = Feed(self._settings, self.app, keys)
        stack.callback(self.feed.close)
        self.feed.fill()
        self.feed.await_topic(f"{self.app}-out", self.worker("0"))
        self._watch = Watch(self._settings, self.app)
        stack.callback(self._watch.close)
        self._watch.until(keys, 600)
        self.feed.start()

    def worker(self, slot: str) -> Worker:
        made = Worker(self.directory, self.app, slot, self._options)
        self._stack.callback(made.close)
        return made

    def holders(self) -> dict[int, str]:
        """By partition: the slot that holds its task."""
        log = open_log(self._settings)
        try:
            return {n: lease.slot for n, lease in log.leases(self.app, range(PARTITIONS)).items() if lease is not None}
        finally:
            log.close()

    def settle(self) -> None:
        """What was written has come out, and has for some seconds."""
        time.sleep(3)
        self._watch.until(self.feed.written - 1000, 120)

    def pauses(self, seconds: float) -> dict[int, float]:
        """Each partition's longest time between two outputs from now on."""
        time.sleep(seconds)
        return dict(self._watch.pauses)

    def listen(self) -> None:
        self._watch.listen()


def _line(case: str, kind: str, pauses: list[float]) -> str:
    milliseconds = sorted(p * 1000 for p in pauses)
    if not milliseconds:
        return f"{case:10} {kind:7} none"
    middle, most = milliseconds[len(milliseconds) // 2], milliseconds[-1]
    return f"{case:10} {kind:7} {len(milliseconds):5}  {middle:9.0f}  {most:10.0f}"


def _still(bench: Bench, case: str, rounds: int) -> list[str]:
    found: list[float] = []
    for _ in range(rounds):
        bench.settle()
        bench.listen()
        found += bench.pauses(WINDOW).values()
    return [_line(case, "stay", found)]


def _moved(bench: Bench, rounds: int) -> list[str]:
    """A second worker joins and leaves again; another one joins and is killed."""
    found: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for case in ("join", "leave", "join", "killed"):
            bench.settle()
            before = bench.holders()
            bench.listen()
            if case == "join":
                second = bench.worker("1")
            elif case == "leave":
                second.close()
            else:
                second.kill(lose=False)
            pauses = bench.pauses(WINDOW)
            after = bench.holders()
            for partition, pause in pauses.items():
                kind = "stay" if before[partition] == after[partition] else "move"
                found.setdefault((case, kind), []).append(pause)
    return [_line(case, kind, pauses) for (case, kind), pauses in sorted(found.items())]


def _free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])


def _copies(port: int) -> str:
    """How long copies of stores for snapshots have held up the worker's thread."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    found = re.findall(r'^streams_snapshot_copy_seconds_bucket\{le="([^"]+)"\} (\S+)$', text, re.MULTILINE)
    within = {float(most): float(count) for most, count in found}
    longest = min(most for most, count in within.items() if count == within[math.inf])
    return f"copies     {within[math.inf]:.0f}: {within[0.05]:.0f} within 50 ms, all within {longest * 1000:.0f} ms"


@click.command()
@click.option("--keys", default=5_000_000, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--cases", default=",".join(CASES), show_default=True)
@click.option("--log", type=click.Choice(["kafka", "embedded"]), default="kafka", show_default=True)
@click.option("--brokers", help="A running Kafka; without it one is started.")
def main(keys: int, rounds: int, cases: str, log: str, brokers: str | None) -> None:
    """Measure pauses, one case after the other."""
    wanted = set(cases.split(","))
    with ExitStack() as outer:
        at = outer.enter_context(kafka(brokers)) if log == "kafka" else ""
        click.echo("case       tasks   count  median ms  longest ms", nl=True)
        with ExitStack() as stack:
            if wanted & {"steady", "join", "leave", "killed"}:
                bench = Bench(stack, at, "small", SMALL, [])
                for line in _still(bench, "steady", rounds) + (_moved(bench, rounds) if wanted - {"steady"} else []):
                    click.echo(line)
        for case in ("large", "snapshots"):
            if case in wanted:
                with ExitStack() as stack:
                    place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                    port = _free_port()
                    options = (
                        ["--checkpoints", str(place), "--http", f"127.0.0.1:{port}"] if case == "snapshots" else []
                    )
                    os.environ["STREAMS_SNAPSHOT_INTERVAL"] = "5s"
                    bench = Bench(stack, at, case, keys, options)
                    if case == "snapshots":
                        await_snapshots(place)
                    for line in _still(bench, case, rounds):
                        click.echo(line)
                    if case == "snapshots":
                        click.echo(_copies(port))


if __name__ == "__main__":
    main()
