"""`streams snapshots`: what lies in the checkpoint location, and the deletion of what no snapshot needs."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streams.cli_group import Guessing
from streams.completion_cli import complete_program
from streams.core.errors import CheckpointError, SettingsError
from streams.core.schema import nearest
from streams.core.wording import counted, size
from streams.settings import load
from streams.settings_cli import location_options

if TYPE_CHECKING:
    from streams.app import App
    from streams.checkpoint.location import Location
    from streams.checkpoint.manifest import Listed
    from streams.checkpoint.sweep import Collected


@click.group(cls=Guessing)
def snapshots() -> None:
    """Look at the snapshots of PROGRAM in the checkpoint location; delete what none of them needs.

    They only need the location, not the log, and disturb no worker. `streams verify` reads snapshots and tells what is
    damaged; `streams reset --snapshots` deletes all of them (savepoints stay).

    \b
    streams snapshots list fraud.pipeline:app --checkpoints s3://bucket/snapshots
    streams snapshots collect fraud.pipeline:app --dry-run

    Exit codes: 0 fine, 1 an error, 2 wrong usage.
    """


@snapshots.command("list")
@click.argument("program", shell_complete=complete_program)
@click.option("--json", "as_json", is_flag=True, help="A JSON object a line.")
@location_options
def list_command(program: str, as_json: bool, file: Path | None, **options: Any) -> None:
    """List the snapshots of PROGRAM, by task, the oldest first.

    `commit` is that of the task, `new` what the snapshot has beyond the one before it: what was uploaded for it.

    \b
    streams snapshots list fraud.pipeline:app
    """
    from streams.checkpoint.manifest import list_manifests, tasks

    app, location = _opened(program, file, options)
    there = tasks(location, app.name)
    found = [each for task in there for each in _told(task, list_manifests(location, app.name, task))]
    if as_json:
        for each in found:
            click.echo(json.dumps(each))
        return
    if not found:
        click.echo(f"{app.name!r} has no snapshots in {location.url} yet")
        return
    click.echo(_table([("task", "snapshot", "commit", "taken", "files", "size", "new"), *map(_row, found)]))
    for each in found:
        if each["problem"]:
            click.echo(f"\nsnapshot {each['snapshot']} of task {each['task']} cannot be read: {each['problem']}")
    subs = {str(sub.index) for sub in app.topology().subs if sub.stateful}
    if others := [task for task in there if task.partition("-")[0] not in subs]:
        click.echo(
            f"\n{program} keeps no state in {counted(len(others), 'task')} of these ({', '.join(map(_name, others))}): "
            "an earlier program did, and nobody deletes its last snapshots"
        )


@snapshots.command("collect")
@click.argument("program", shell_complete=complete_program)
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@click.option(
    "--min-age", default="1d", show_default=True, metavar="DURATION", help="Leave what is younger; at least 12h."
)
@location_options
def collect_command(program: str, dry_run: bool, min_age: str, file: Path | None, **options: Any) -> None:
    """Delete the objects that no snapshot of PROGRAM needs any more.

    Workers do it every few hours for the tasks that they hold. This does it at once, and for tasks that nobody holds.
    It may run beside workers; the clock of this machine must be right within hours.

    \b
    streams snapshots collect fraud.pipeline:app --dry-run
    """
    from streams.checkpoint.collect import collected, total
    from streams.settings_values import convert

    try:
        seconds = convert("duration", min_age) / 1000
    except SettingsError as error:
        raise SettingsError(f"--min-age {min_age!r} {error.what}", fix=error.fix) from None
    app, location = _opened(program, file, options)
    each = []
    for task, found in collected(location, app.name, min_age=seconds, dry_run=dry_run):
        each.append(found)
        click.echo(f"task {_name(task)}: {_said(found, dry_run)}")
    click.echo(f"{app.name!r} in {location.url}: {_said(total(each), dry_run)}")
    for name, count, bytes in _unfinished(location, app.name):
        click.echo(
            f"not touched: {counted(count, 'object')} ({size(bytes)}) of a savepoint {name!r} that is being made, or "
            f"was given up: streams savepoint delete {name} --app {app.name}"
        )
    if any(found.problem for found in each):
        click.get_current_context().exit(1)


def _opened(program: str, file: Path | None, options: dict[str, Any]) -> "tuple[App, Location]":
    """The program and its location, of which nothing is made; CheckpointError if it has nothing there."""
    from streams.checkpoint.collect import token_key
    from streams.checkpoint.location import Location
    from streams.checkpoint.manifest import tasks
    from streams.programs import find

    app, settings = find(program), load(options, file=file)
    if not settings.checkpoints:
        raise SettingsError(
            "no checkpoint location is set: snapshots lie there", fix="give --checkpoints, or set `checkpoints`"
        )
    location = Location(settings.checkpoints, settings.checkpoint_options, make=False)
    if not tasks(location, app.name) and location.read(token_key(app.name)) is None:
        others = location.parts("")
        raise CheckpointError(
            f"this checkpoint location has nothing of {app.name!r}{nearest(app.name, others)}",
            where=location.url,
            fix=f"give the one that its workers have (--checkpoints); this one has: {', '.join(others) or 'nothing'}",
        )
    return app, location


def _told(task: str, listed: "list[Listed]") -> list[dict[str, Any]]:
    """What is told of a task's snapshots. `new`: bytes that the one before it lacks; None if that one is gone."""
    out, before, last = [], set[str](), 0
    for each in listed:
        made = each.manifest
        told = {"task": _name(task), "snapshot": each.number, "commit": None, "taken": None, "name": "", "files": None}
        told |= {"bytes": None, "new_bytes": None, "problem": each.problem}
        if made is not None:
            objects = {file.object: file.size for file in made.files}
            known = each.number == last + 1
            new = sum(bytes for name, bytes in objects.items() if name not in before) if known else None
            told |= {"commit": made.sequence, "taken": made.time, "name": made.name, "files": len(made.files)}
            told |= {"bytes": made.size, "new_bytes": new}
            before, last = set(objects), each.number
        out.append(told)
    return out


def _row(told: dict[str, Any]) -> tuple[str, ...]:
    if told["problem"]:
        return (told["task"], str(told["snapshot"]), "?", "?", "?", "?", "?")
    taken = datetime.fromtimestamp(told["taken"] / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    new = size(told["new_bytes"]) if told["new_bytes"] is not None else "-"
    return (
        told["task"],
        str(told["snapshot"]),
        str(told["commit"]),
        taken,
        str(told["files"]),
        size(told["bytes"]),
        new,
    )


def _table(rows: list[tuple[str, ...]]) -> str:
    """Aligned; numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    left = (0, 3)
    return "\n".join(
        "  ".join(f"{cell:{'<' if i in left else '>'}{widths[i]}}" for i, cell in enumerate(row)).rstrip()
        for row in rows
    )


def _said(found: "Collected", dry_run: bool) -> str:
    done = "would be deleted" if dry_run else "deleted"
    text = f"{counted(found.deleted, 'object')} ({size(found.bytes)}) {done}" if found.deleted else "nothing to delete"
    text += f", {found.kept:,} kept"
    return f"{text}; {found.problem}" if found.problem else text


def _unfinished(location: "Location", app: str) -> list[tuple[str, int, int]]:
    """Data of savepoints that are not there: name, objects, bytes."""
    from streams.checkpoint.manifest import place

    prefix = f"{place(app)}/savepoints/"
    sizes: dict[str, list[int]] = {}
    made = set()
    for each in location.objects(prefix.rstrip("/")):
        name, data, _ = each.key.removeprefix(prefix).partition("/")
        if data:
            sizes.setdefault(name, []).append(each.size)
        else:
            made.add(name.removesuffix(".json"))
    return [(name, len(of), sum(of)) for name, of in sorted(sizes.items()) if name not in made]


def _name(task: str) -> str:
    """As tasks are named in messages."""
    return task.replace("-", "/")
