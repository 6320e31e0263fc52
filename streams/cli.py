"""The command line: `streams run`, `streams topology`, `streams tasks`, `streams topics`, `streams settings`, ..."""

import importlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streams.core.errors import StreamsError
from streams.core.schema import nearest
from streams.savepoint_cli import savepoint
from streams.settings import Settings, load
from streams.topics_cli import log_options, topics

if TYPE_CHECKING:
    from streams.app import App


class _Group(click.Group):
    """Shows an error of ours as text, without a traceback, and guesses a misspelt command."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except StreamsError as error:
            click.echo(f"{click.style('error', fg='red', bold=True)}: {error}", err=True)
            ctx.exit(1)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            raise click.UsageError(f"{error.message}{nearest(args[0], self.list_commands(ctx))}", ctx) from None


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("streams"))
def cli() -> None:
    """An exactly-once stream processor: run programs, and look at what they do.

    A program is named MODULE:APP, for example fraud.pipeline:app. Without --brokers it works on the embedded log, a
    directory on this machine; with --brokers on Apache Kafka.
    """


@cli.command()
@click.argument("program")
@log_options
@click.option("--slot", help="Name of this worker: stable over restarts, another one for each worker.  [default: 0]")
@click.option("--state-dir", help=f"Where state is kept.  [default: {Settings.state_dir}]")
@click.option("--commit-interval", help="How often to commit, e.g. 50ms.  [default: 1s]")
@click.option("--http", help="Serve /metrics on HOST:PORT.  [default: off]")
@click.option("--quiet", is_flag=True, help="Print nothing but warnings and errors.")
def run(program: str, file: Path | None, quiet: bool, **options: Any) -> None:
    """Run PROGRAM as one worker, until Ctrl-C or SIGTERM.

    Start several with different --slot values: they share the tasks. A worker that was killed goes on where its last
    commit stood.

    \b
    streams run fraud.pipeline:app
    streams run fraud.pipeline:app --brokers localhost:9092 --slot a
    """
    from streams.app import make_worker, open_log

    _logging(quiet)
    app, settings = find(program), load(options, file=file)
    log = open_log(settings)
    try:
        try:
            worker = make_worker(app, settings, log, hook=_crash_hook())
        except OSError as error:
            raise StreamsError(
                f"cannot make the state directory: {error}",
                where=str(Path(settings.state_dir).absolute()),
                fix="choose with --state-dir a directory that this user may write to, with space left",
            ) from None
        if settings.http:
            _serve(worker.metrics, settings.http)
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda *_: worker.stop())
        logging.getLogger("streams").info(
            "%s: slot %s on %s, %d tasks", app.name, settings.slot, log.name, len(worker.plan.tasks)
        )
        worker.start()
        if ready := os.environ.get("STREAMS_READY_FILE"):
            Path(ready).touch()  # for scripts and tests that wait for a worker
        try:
            _work(worker, quiet)
            worker.leave()
        finally:
            worker.close()
    finally:
        log.close()


def _work(worker: Any, quiet: bool) -> None:
    shown, before = time.monotonic(), 0
    while not worker.stopping:
        worker.turn()
        now = time.monotonic()
        if not quiet and now - shown >= 2:
            status = worker.status
            rate = (status.records_in - before) / (now - shown)
            if status.records_in != before:
                out = ", ".join(f"{t} {n:,}" for t, n in sorted(status.records_out.items()) if not _internal(worker, t))
                commit = f"commit {status.last_commit_seconds * 1000:.0f} ms  tasks {len(status.tasks)}"
                counts = f"late {status.late:,}  dead {status.dead:,}"
                click.echo(f"in {status.records_in:,} ({rate:,.0f}/s)  out {out or 0}  {counts}  {commit}")
            shown, before = now, status.records_in


def _internal(worker: Any, topic: str) -> bool:
    return topic.startswith(f"{worker.plan.app}-") and topic.endswith(("-changelog", "-shuffle"))


@cli.command()
@click.argument("program")
@click.option("--mermaid", is_flag=True, help="As a Mermaid flowchart, for documents.")
def topology(program: str, mermaid: bool) -> None:
    """Print the graph of PROGRAM: sub-topologies, operators, stores, shuffles."""
    from streams.core.drawing import as_mermaid, as_text

    app = find(program)
    click.echo((as_mermaid if mermaid else as_text)(app.topology()))


@cli.command()
@click.argument("program")
@log_options
def tasks(program: str, file: Path | None, **options: Any) -> None:
    """Show who holds which task of PROGRAM, at which commit sequence, with what lag."""
    from streams.app import open_log
    from streams.runtime.inspect import task_table

    app, settings = find(program), load(options, file=file)
    log = open_log(settings)
    try:
        click.echo(task_table(app.name, app.topology(), app.dead_letters, log, settings))
    finally:
        log.close()


@cli.command("settings")
@log_options
def show_settings(file: Path | None, **options: Any) -> None:
    """Print the settings in force, secrets redacted."""
    text = repr(load(options, file=file))
    for part in text.removeprefix("Settings(").removesuffix(")").split(", "):
        click.echo(part.replace("=", " = ", 1))


def find(program: str) -> "App":
    """The App that MODULE:NAME names; the current directory is searched first, as `python -m` does."""
    from streams.app import App

    module_name, _, name = program.partition(":")
    if not name:
        raise StreamsError(f"{program!r} does not name an app", fix="write MODULE:NAME, e.g. fraud.pipeline:app")
    sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name and not module_name.startswith(f"{error.name}."):
            raise
        raise StreamsError(
            f"no module {module_name!r}", where=os.getcwd(), fix="run from the directory that holds it, or install it"
        ) from None
    found = getattr(module, name, None)
    if not isinstance(found, App):
        apps = [n for n, v in vars(module).items() if isinstance(v, App)]
        raise StreamsError(
            f"{name!r} is not an App in {module_name}{nearest(name, apps)}",
            fix=f"it has: {', '.join(apps) or 'no App'}",
        )
    return found


def _logging(quiet: bool) -> None:
    logging.basicConfig(
        level=logging.WARNING if quiet else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
    )


def _serve(metrics: Any, address: str) -> None:
    from prometheus_client import start_http_server

    host, _, port = address.rpartition(":")
    try:
        start_http_server(int(port), host or "127.0.0.1", registry=metrics.registry)
    except (OSError, ValueError, OverflowError) as error:  # OverflowError: a port above 65535
        raise StreamsError(
            f"cannot serve on {address!r}: {error}", where="--http", fix="give a free HOST:PORT, e.g. 127.0.0.1:9400"
        ) from None


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
    cli.add_command(topics)
    cli.add_command(savepoint)
    for point in entry_points(group="streams.commands"):
        cli.add_command(point.load(), point.name)
    return cli


def main() -> None:
    """The console script."""
    assembled()()
