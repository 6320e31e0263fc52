"""Jobs A, B and C beside their floors, in one run on one machine: CPU microseconds a record and the ratio.

    python -m benchmarks [--records N] [--rounds N] [--jobs ABC] [--brokers HOST:PORT]

CPU is that of the job's process, all its threads, between a tenth and nine tenths of its output. Rounds alternate floor
and job; the medians are compared. A machine's absolute times mean little: quote the ratios.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
from confluent_kafka import IsolationLevel, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from benchmarks.data import PARTITIONS, fill

BARS = {"A": 3.5, "B": 2.5, "C": 3.5}


class Progress:
    """Samples (seconds, committed outputs, CPU seconds) of a process until its output stands still."""

    def __init__(self, admin: AdminClient, out: str, process: "subprocess.Popen[bytes]") -> None:
        self.admin, self.out, self.process = admin, out, process
        self.samples: list[tuple[float, int, float]] = []

    def committed(self) -> int:
        wanted = {TopicPartition(self.out, p): OffsetSpec.latest() for p in range(PARTITIONS)}
        found = self.admin.list_offsets(wanted, isolation_level=IsolationLevel.READ_COMMITTED)
        return sum(int(f.result().offset) for f in found.values())

    def watch(self, limit: float) -> None:
        started = still = time.monotonic()
        last = -1
        while time.monotonic() - started < limit:
            time.sleep(0.1)
            if self.process.poll() is not None:
                raise SystemExit(f"the process for {self.out} ended with {self.process.returncode}")
            count, now = self.committed(), time.monotonic()
            self.samples.append((now - started, count, cpu_seconds(self.process.pid)))
            if count != last:
                last, still = count, now
            elif last > 0 and now - still > 4:
                return

    def between(self, records: int) -> tuple[float, float]:
        """(CPU microseconds a record, records/s) between a tenth and nine tenths of the output."""
        total = self.samples[-1][1]
        low = next(s for s in self.samples if s[1] >= 0.1 * total)
        high = next(s for s in self.samples if s[1] >= 0.9 * total)
        done = max(1.0, records * (high[1] - low[1]) / total)
        return (high[2] - low[2]) / done * 1e6, done / max(1e-9, high[0] - low[0])


def cpu_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(brokers: str, command: list[str], out: str, records: int, limit: float) -> tuple[float, float]:
    admin = AdminClient({"bootstrap.servers": brokers})
    for future in admin.create_topics([NewTopic(out, PARTITIONS, 1, config={"retention.ms": "-1"})]).values():
        future.result()
    environment = {**os.environ, "POLARS_MAX_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-m", *command], env=environment)
    try:
        progress = Progress(admin, out, process)
        progress.watch(limit)
        return progress.between(records)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for future in admin.delete_topics([out]).values():
            future.result()


@click.command()
@click.option("--records", default=2_000_000, show_default=True)
@click.option("--rounds", default=1, show_default=True)
@click.option("--jobs", default="ABC", show_default=True)
@click.option("--brokers", help="A running Kafka; without it one is started.")
def main(records: int, rounds: int, jobs: str, brokers: str | None) -> None:
    if brokers is None:
        from streams.broker import start, stop

        with tempfile.TemporaryDirectory() as directory:
            broker = start(Path(directory))
            try:
                report(broker.bootstrap, records, rounds, jobs)
            finally:
                stop(Path(directory))
    else:
        report(brokers, records, rounds, jobs)


def report(brokers: str, records: int, rounds: int, jobs: str) -> None:
    topic = f"bench-{int(time.time())}"
    click.echo(f"writing {records:,} records ...")
    count = fill(brokers, topic, records)
    click.echo("job  floor us  streams us  ratio  bar   floor rec/s  streams rec/s")
    for job in jobs:
        floors, ours = [], []
        for number in range(rounds):
            out = f"{topic}-{job}-{number}"
            floors.append(
                measure(brokers, ["benchmarks.floor", brokers, job, topic, f"{out}-f"], f"{out}-f", count, 300)
            )
            with tempfile.TemporaryDirectory() as state:
                command = ["benchmarks.worker", brokers, job, topic, f"{out}-s", state, "0"]
                ours.append(measure(brokers, command, f"{out}-s", count, 300))
        floor, our = statistics.median(f[0] for f in floors), statistics.median(o[0] for o in ours)
        rates = statistics.median(f[1] for f in floors), statistics.median(o[1] for o in ours)
        cost = f"{job:3}  {floor:8.2f}  {our:10.2f}  {our / floor:5.2f}  {BARS[job]:3.1f}"
        click.echo(f"{cost}  {rates[0]:11,.0f}  {rates[1]:13,.0f}")


if __name__ == "__main__":
    main()
