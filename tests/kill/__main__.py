"""python -m tests.kill [--log embedded|kafka|both] [--kills N] [--seed S]"""

import sys
import tempfile
from pathlib import Path

import click

from streams.settings import Settings
from tests.ending import end_in_order
from tests.kill.harness import kill_test


@click.command()
@click.option("--log", "which", default="both", type=click.Choice(["embedded", "kafka", "both"]), show_default=True)
@click.option("--kills", default=100, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--snapshots", is_flag=True, help="With a checkpoint location.")
@click.option("--brokers", help="A running Kafka; without it one is started.")
def main(which: str, kills: int, seed: int, snapshots: bool, brokers: str | None) -> None:
    """Kill a worker many times and check that its output is exact."""
    end_in_order()
    failed = False
    for name in ("embedded", "kafka") if which == "both" else (which,):
        with tempfile.TemporaryDirectory(prefix="streams-kill-") as directory:
            path = Path(directory)
            if name == "kafka" and brokers is None:
                from streams.broker import start, stop

                broker = start(path / "broker")
                try:
                    report = kill_test(path, Settings(brokers=broker.bootstrap), kills, seed, snapshots=snapshots)
                finally:
                    stop(path / "broker")
            else:
                settings = Settings(brokers=(brokers or "") if name == "kafka" else "", log_dir=str(path / "log"))
                report = kill_test(path, settings, kills, seed, snapshots=snapshots)
        click.echo(report.text())
        failed = failed or bool(report.wrong)
    sys.exit(failed)


if __name__ == "__main__":
    main()
