"""`streams savepoint`: keep a whole application under a name, and begin another one with it."""

import logging
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streams.cli_group import Guessing
from streams.core.errors import CheckpointError, SettingsError, StateError, StreamsError
from streams.core.schema import nearest
from streams.settings import Settings, load
from streams.settings_cli import log_options

if TYPE_CHECKING:
    from streams.checkpoint.location import Location
    from streams.checkpoint.savepoint import Savepoint

_CHECKPOINTS = click.option(
    "--checkpoints", help="The checkpoint location: a directory, s3://..., gs://..., az://...  [setting: checkpoints]"
)
_APP = click.option("--app", required=True, help="The application's id: the name of its App.")


@click.group(cls=Guessing)
def savepoint() -> None:
    """Keep a whole application under a name; begin another one with it, also with changed code or partition counts.

    \b
    streams savepoint create before-v2 shop:app --checkpoints s3://bucket/snapshots
    streams savepoint restore before-v2 shop2:app --from-app shop --checkpoints s3://bucket/snapshots
    """


@savepoint.command("create")
@click.argument("name")
@click.argument("program")
@log_options
@_CHECKPOINTS
@click.option("--state-dir", help=f"Where state is kept meanwhile.  [default: {Settings.state_dir}]")
@click.option("--takeover", is_flag=True, help="Workers that hold tasks were killed and are gone: take over from them.")
@click.option("--had", multiple=True, metavar="TOPIC=N", help="Partitions a source topic had before it got more.")
def create_command(
    name: str, program: str, file: Path | None, takeover: bool, had: tuple[str, ...], **options: Any
) -> None:
    """Take the savepoint NAME of PROGRAM, all of whose workers are stopped.

    Works shuffles to their ends without reading sources, then keeps the state and positions of all tasks. A savepoint
    is never deleted by itself.
    """
    from streams.app import make_worker, open_log
    from streams.core.clock import SystemClock
    from streams.programs import find
    from streams.runtime.drain import SLOT, DrainWorker
    from streams.runtime.plan import lease_topic
    from streams.runtime.savepoint import create

    app, settings = find(program), load(options, file=file)
    location = _location(settings, make=True)
    log = open_log(settings, make=False)
    try:
        if lease_topic(app.name) not in log.topics([lease_topic(app.name)]):
            raise StreamsError(
                f"{app.name!r} has never run on {log.name}: there is nothing to save",
                fix="see whether --brokers or --log-dir are those of its workers",
            )
        mine = replace(settings, slot=SLOT, commit_interval=min(settings.commit_interval, 100))
        worker = make_worker(app, mine, log, kind=DrainWorker, had=_counts(had))
        assert isinstance(worker, DrainWorker)
        try:
            made = create(name, worker, location, clock=SystemClock(), takeover=takeover, hook=_crash_hook())
        finally:
            _clear(Path(mine.state_dir), app.name)
        click.echo(f"savepoint {name!r} of {app.name!r}: {_contents(made)}")
    finally:
        log.close()


@savepoint.command("restore")
@click.argument("name")
@click.argument("program")
@log_options
@_CHECKPOINTS
@click.option("--from-app", help="Whose savepoint it is.  [default: PROGRAM's own id]")
@click.option("--drop", multiple=True, metavar="STORE", help="Give up this store; or a shuffle's waiting rows.")
def restore_command(
    name: str, program: str, file: Path | None, from_app: str | None, drop: tuple[str, ...], **options: Any
) -> None:
    """Let PROGRAM begin with the savepoint NAME.

    PROGRAM must not have worked yet: give its App another name than the old one has, or clear the old one first. State
    is found by operator id and store. Start workers when this has ended.
    """
    from streams.app import open_log
    from streams.core.clock import SystemClock
    from streams.programs import find
    from streams.runtime.plan import Plan, prepare
    from streams.runtime.restoring import Restoring

    app, settings = find(program), load(options, file=file)
    location = _location(settings)
    saved = _load(location, from_app or app.name, name)
    log = open_log(settings)
    try:
        topology = app.topology()

        def plan(make: bool) -> Plan:
            return prepare(app.name, topology, log, app.dead_letters, settings.partitions, make=make)

        restoring = Restoring(saved, plan, log, location, clock=SystemClock(), drop=drop, hook=_crash_hook(), note=_say)
        for text in restoring.run():
            click.echo(text)
        click.echo(
            f"{app.name!r} begins with savepoint {name!r} of {saved.app!r}: {restoring.entries:,} entries of state, "
            f"{restoring.rows:,} rows that wait, {restoring.tasks} tasks"
        )
    finally:
        log.close()


@savepoint.command("list")
@_APP
@_CHECKPOINTS
@click.option("--settings", "file", type=click.Path(path_type=Path), help="A TOML file of settings.")
def list_command(app: str, file: Path | None, **options: Any) -> None:
    """List the savepoints of an application, the oldest first."""
    from streams.checkpoint.savepoint import list_savepoints

    location = _location(load(options, file=file))
    found = list_savepoints(location, app)
    if not found:
        click.echo(f"{app!r} has no savepoints in {location.url}")
    for each in found:
        made = each.savepoint
        text = f"{_when(made)}  {_contents(made)}, {made.size:,} bytes" if made else f"cannot be read: {each.problem}"
        click.echo(f"{each.name}  {text}")


@savepoint.command("show")
@click.argument("name")
@_APP
@_CHECKPOINTS
@click.option("--settings", "file", type=click.Path(path_type=Path), help="A TOML file of settings.")
def show_command(name: str, app: str, file: Path | None, **options: Any) -> None:
    """Show what the savepoint NAME holds: the program's topology, stores, tasks and positions."""
    from streams.runtime.position import TaskPosition

    made = _load(_location(load(options, file=file)), app, name)
    click.echo(f"savepoint {made.name!r} of {made.app!r}, {_when(made)}: {_contents(made)}\n")
    click.echo(made.topology)
    for sub in made.subs:
        for store in sub.stores:
            click.echo(f"\nstore {store.name}, {sub.partitions} partitions")
            for aspect, text in store.type.items():
                click.echo(f"  {aspect}: {text}")
    click.echo("")
    for task in made.tasks:
        position = TaskPosition.decode(task.position)
        reads = ", ".join(
            f"{i.topic} from {position.inputs[i.topic].offset}"
            for sub in made.subs
            if sub.index == task.sub
            for i in sub.inputs
            if not i.shuffle and i.topic in position.inputs
        )
        waits = f", {task.waiting_rows:,} rows wait" if task.waiting_rows else ""
        click.echo(
            f"task {task.name}: commit {task.sequence}, {task.entries:,} entries{waits}{', ' + reads if reads else ''}"
        )


@savepoint.command("delete")
@click.argument("name")
@_APP
@_CHECKPOINTS
@click.option("--settings", "file", type=click.Path(path_type=Path), help="A TOML file of settings.")
def delete_command(name: str, app: str, file: Path | None, **options: Any) -> None:
    """Delete the savepoint NAME and its data."""
    from streams.checkpoint.savepoint import delete

    location = _location(load(options, file=file))
    if not delete(location, app, name):
        raise _none(location, app, name)
    click.echo(f"savepoint {name!r} of {app!r} is deleted")


def _clear(state_dir: Path, app: str) -> None:
    """Delete what the taker had on this disk, unless another one is at work there."""
    from streams.runtime.drain import SLOT
    from streams.runtime.offline import local_stores, locked

    try:
        for each in local_stores(state_dir, app, SLOT):
            with locked(each.directory):
                pass
    except StateError:
        return
    shutil.rmtree(state_dir / app / SLOT, ignore_errors=True)


def _say(text: str, level: int = logging.WARNING, *, task: str = "") -> None:
    click.echo(text)


def _counts(given: tuple[str, ...]) -> dict[str, int]:
    out = {}
    for text in given:
        topic, _, count = text.rpartition("=")
        if not topic or not count.isdigit() or not int(count):
            raise SettingsError(f"--had {text!r} is not TOPIC=N", fix="for example --had payments=4")
        out[topic] = int(count)
    return out


def _location(settings: Settings, *, make: bool = False) -> "Location":
    from streams.checkpoint.location import Location

    if not settings.checkpoints:
        raise SettingsError(
            "no checkpoint location is set: savepoints lie there", fix="give --checkpoints, or set `checkpoints`"
        )
    return Location(settings.checkpoints, settings.checkpoint_options, make=make)


def _load(location: "Location", app: str, name: str) -> "Savepoint":
    from streams.checkpoint.savepoint import load

    found = load(location, app, name)
    if found is None:
        raise _none(location, app, name)
    return found


def _none(location: "Location", app: str, name: str) -> CheckpointError:
    from streams.checkpoint.savepoint import list_savepoints

    names = [x.name for x in list_savepoints(location, app)]
    return CheckpointError(
        f"{app!r} has no savepoint {name!r}{nearest(name, names)}",
        where=location.url,
        fix=f"it has: {', '.join(names)}" if names else "give with --from-app or --app the id it was taken of",
    )


def _when(made: "Savepoint") -> str:
    return datetime.fromtimestamp(made.time / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _contents(made: "Savepoint") -> str:
    entries, rows = sum(t.entries for t in made.tasks), sum(t.waiting_rows for t in made.tasks)
    return f"{len(made.tasks)} tasks, {entries:,} entries of state, {rows:,} rows that wait"


def _crash_hook() -> Callable[[str], None]:
    """For tests: STREAMS_CRASH=step:n ends this process with SIGKILL when a step is reached the n-th time."""
    step, _, count = os.environ.get("STREAMS_CRASH", "").partition(":")
    left = [int(count or 1)]

    def hook(reached: str) -> None:
        if step and reached == step:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return hook
