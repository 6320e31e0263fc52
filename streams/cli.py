"""The command line: `streams run`, `streams topology`, `streams tasks`, `streams topics`, `streams settings`, ..."""

import logging
import os
import signal
from collections.abc import Callable
from contextlib import closing, nullcontext
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

import click

from streams.care_cli import reset, verify
from streams.cli_group import Group
from streams.completion_cli import complete_program, completion
from streams.core.errors import StreamsError
from streams.dlq_cli import dlq
from streams.programs import find as find
from streams.savepoint_cli import savepoint
from streams.settings import Settings, load
from streams.settings_cli import log_options, settings, worker_options
from streams.snapshots_cli import snapshots
from streams.state_cli import state
from streams.terminal import logs
from streams.terminal.display import choose
from streams.topics_cli import topics


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("streams"))
def cli() -> None:
    """An exactly-once stream processor: run programs, and look at what they do.

    A program is named MODULE:APP, for example fraud.pipeline:app. Without --brokers it works on the embedded log, a
    directory on this machine; with --brokers on Apache Kafka. Settings can also stand in ./streams.toml and in the
    environment: see `streams settings --help`.

    Exit codes of all commands: 0 fine, 1 an error (its message says what, where, and the way out), 2 wrong usage.
    """


@cli.command()
@click.argument("program", shell_complete=complete_program)
@log_options
@worker_options
@click.option("--plain", is_flag=True, help="Lines instead of the live view, on a terminal too.")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="json: log and progress as one JSON object a line, on stderr.",
)
@click.option("--quiet", is_flag=True, help="Print nothing but warnings and errors.")
@click.option(
    "--workers",
    metavar="N|auto",
    help="Start N workers (slots SLOT-0, SLOT-1, ...) and start those again that die; auto: one a core.",
)
@click.option("--stop-timeout", default="30s", show_default=True, help="How long to commit and end, on SIGTERM.")
@click.pass_context
def run(
    context: click.Context,
    /,
    program: str,
    file: Path | None,
    plain: bool,
    log_format: str,
    quiet: bool,
    workers: str | None,
    stop_timeout: str,
    **options: Any,
) -> None:
    """Run PROGRAM as one worker, until Ctrl-C or SIGTERM.

    Start several with different --slot values: they share the tasks. A worker that was killed goes on where its last
    commit stood. --workers starts several here, and starts those again that die. On a terminal a live view shows what
    they do; elsewhere a line every two seconds.

    \b
    streams run fraud.pipeline:app
    streams run fraud.pipeline:app --commit-interval 50ms --http 127.0.0.1:9400
    streams run fraud.pipeline:app --brokers localhost:9092 --slot a
    streams run fraud.pipeline:app --workers auto --http 127.0.0.1:9400
    STREAMS_SLOT=b streams run fraud.pipeline:app --settings production.toml

    Exit codes: 0 stopped in good order, 1 an error, 2 wrong usage, 70 a function that did not return (--stop-timeout,
    --watchdog-exit).
    """
    from streams.app import make_worker, open_log
    from streams.supervisor import parent as supervisor
    from streams.supervisor.workers import limit, supervise
    from streams.worker_process import work

    parent = supervisor.from_environment()
    logs.set_up(quiet=quiet, as_json=log_format == "json")
    app, settings, seconds = find(program), load(options, file=file), limit(stop_timeout)
    logs.know(app=app.name, slot=settings.slot)
    display = choose(quiet=quiet or parent is not None, plain=plain, as_json=log_format == "json")
    if workers is not None:
        supervise(context, app.name, settings, workers, seconds, display)
        return
    with parent.telling() if parent is not None else nullcontext(), closing(open_log(settings)) as log:
        try:
            worker = make_worker(app, settings, log, hook=_crash_hook())
        except OSError as error:
            raise StreamsError(
                f"cannot make the state directory: {error}",
                where=str(Path(settings.state_dir).absolute()),
                fix="choose with --state-dir a directory that this user may write to, with space left",
            ) from None
        if settings.http:
            _serve(worker, settings)
        with display:
            work(worker, display, parent, stop_timeout=seconds)


@cli.command()
@click.argument("program", shell_complete=complete_program)
@click.option("--mermaid", is_flag=True, help="As a Mermaid flowchart, for documents.")
def topology(program: str, mermaid: bool) -> None:
    """Print the graph of PROGRAM: operators, stores, shuffles.

    Nothing is run and no log is opened: the program is imported and checked. An arrow is a stream, a box a
    sub-topology, which runs as one task for each partition.

    \b
    streams topology fraud.pipeline:app
    streams topology fraud.pipeline:app --mermaid > graph.mmd

    Exit codes: 0 fine, 1 the program is wrong, 2 wrong usage.
    """
    from streams.core.drawing import as_mermaid, as_text

    app = find(program)
    click.echo((as_mermaid if mermaid else as_text)(app.topology()))


@cli.command()
@click.argument("program", shell_complete=complete_program)
@log_options
def tasks(program: str, file: Path | None, **options: Any) -> None:
    """Show who holds which task of PROGRAM, and its lag.

    A line for each task: the slot that holds it and whether its worker is gone, the sequence of its last commit, and
    how many records are left to read. It looks from outside and disturbs no worker. Give it the log that the workers
    use.

    \b
    streams tasks fraud.pipeline:app
    streams tasks fraud.pipeline:app --brokers localhost:9092

    Exit codes: 0 fine, 1 an error, 2 wrong usage.
    """
    from streams.app import open_log
    from streams.runtime.inspect import task_table

    app, settings = find(program), load(options, file=file)
    log = open_log(settings, make=False)
    try:
        click.echo(task_table(app.name, app.topology(), app.dead_letters, log, settings))
    finally:
        log.close()


def _serve(worker: Any, settings: Settings) -> None:
    """The worker's metrics, health and page, until the command ends."""
    from streams.app import open_log
    from streams.web.server import Server

    server = Server(worker, settings.http, lambda: open_log(settings))
    server.start()
    logging.getLogger("streams").info("page, metrics and health on %s", server.url)
    click.get_current_context().call_on_close(server.close)


def _crash_hook() -> Callable[[str], None] | None:
    """For the kill tests: STREAMS_CRASH=step:n ends this process with SIGKILL when a step is reached the n-th time."""
    wanted = os.environ.get("STREAMS_CRASH")
    if not wanted:
        return None
    step, _, count = wanted.partition(":")
    left = [int(count or 1)]

    def hook(reached: str) -> None:
        if reached == step:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return hook


def assembled() -> click.Group:
    """The whole command line. Packages add commands through the entry points `streams.commands`."""
    for command in (topics, dlq, savepoint, snapshots, state, reset, verify, settings, completion):
        cli.add_command(command)
    for point in entry_points(group="streams.commands"):
        cli.add_command(point.load(), point.name)
    return cli


def main() -> None:
    """The console script."""
    assembled()()
