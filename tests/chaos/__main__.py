"""python -m tests.chaos --log kafka|embedded --duration 10m --seed 1 [--brokers 3]"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from streams.core.time import duration
from tests.chaos.faults import ALL
from tests.chaos.round import run
from tests.ending import end_in_order


@click.command()
@click.option("--log", "kind", required=True, type=click.Choice(["embedded", "kafka"]))
@click.option("--duration", "length", default="10m", show_default=True, help="How long faults are made.")
@click.option("--seed", default=1, show_default=True, help="Which faults, in which order, with which details.")
@click.option("--brokers", default=1, show_default=True, help="How many; with 3 every topic has 3 replicas.")
@click.option("--only", multiple=True, help="Faults whose names contain this; may be given again.")
@click.option("--s3", "server", default="moto", show_default=True, type=click.Choice(["moto", "versitygw"]))
@click.option("--keep", type=click.Path(path_type=Path), help="A new directory for logs and events.")
def main(
    kind: Any, length: str, seed: int, brokers: int, only: tuple[str, ...], server: Any, keep: Path | None
) -> None:
    """Make faults for a while, check everything, print a table. Ends with 1 if anything is violated."""
    faults = [fault for fault in ALL if not only or any(part in fault.name for part in only)]
    if not faults:
        raise click.BadParameter(f"no fault has such a name; there are: {', '.join(f.name for f in ALL)}")
    if keep is not None and keep.exists():
        raise click.BadParameter(f"{keep} exists: name a new directory", param_hint="--keep")
    end_in_order()
    with tempfile.TemporaryDirectory(prefix="streams-chaos-") as temporary:
        directory = (keep or Path(temporary) / "round").absolute()
        seconds = duration(length) / 1000
        report = run(directory, kind, seconds, seed, brokers, faults=faults, progress=True, server=server)
    click.echo(report.text())
    if report.wrong and keep is None:
        click.echo("run it again with the same seed and --keep DIRECTORY to keep logs and events")
    sys.exit(bool(report.wrong))


if __name__ == "__main__":
    main()
