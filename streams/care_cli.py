"""`streams reset` and `streams verify`: start an application anew; check that all it keeps agrees."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streams.core.drawing import described
from streams.core.wording import counted
from streams.settings import Settings, load
from streams.settings_cli import option
from streams.state_cli import location_of
from streams.topics_cli import log_options

if TYPE_CHECKING:
    from streams.log.base import Log
    from streams.runtime.plan import Plan

_state_dir = click.option("--state-dir", help=f"Where state is kept.  [default: {Settings.state_dir}]")


@click.command()
@click.argument("program")
@click.option("--yes", is_flag=True, help="Do it.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done (so it is without --yes, too).")
@click.option("--snapshots", is_flag=True, help="Delete the snapshots in the checkpoint location, too.")
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=10.0,
    show_default=True,
    help="Seconds to wait for workers that are ending.",
)
@_state_dir
@option("checkpoints")
@log_options
def reset(
    program: str, yes: bool, dry_run: bool, snapshots: bool, wait: float, file: Path | None, **options: Any
) -> None:
    """Forget state and positions of PROGRAM, so that it starts anew.

    Says what it would do; --yes does it. Refuses while workers live. Its outputs stay as they are.
    """
    from streams.runtime import reset as care

    if yes and dry_run:
        raise click.UsageError("--yes and --dry-run exclude each other")
    with _opened(program, file, options, check=False) as (plan, log, settings):
        location = location_of(settings) if snapshots else None
        if snapshots and location is None:
            raise click.UsageError("--snapshots needs a checkpoint location: give --checkpoints, or set `checkpoints`")
        found = care.remains(plan, log, Path(settings.state_dir), location)
        if not found:
            click.echo(f"there is nothing of {plan.app} on {log.name} or in {settings.state_dir}")
            return
        if yes:
            care.reset(plan, log, found, location, click.echo, wait=wait)
        else:
            _tell(plan, found, location, settings)
        for topic, start in care.sources_of(plan):
            click.echo(f"the next run reads {topic} from its {'start' if start == 'earliest' else 'end'} ({start})")
        outputs = sorted({n.sink.topic for n in plan.topology.graph.nodes.values() if n.sink is not None})
        click.echo(
            f"not touched: {', '.join([*outputs, plan.dead_letters])}. What is read again is written again: readers of "
            "these see it twice"
        )
        for node in plan.topology.graph.nodes.values():
            if node.outside is not None:
                click.echo(
                    f"not touched: what sink {node.id} has written ({described(node.outside)}). What is read again is "
                    "written again: give it an empty place"
                )
        if not yes:
            click.echo("nothing was done; --yes does it")


def _tell(plan: "Plan", found: Any, location: Any, settings: Settings) -> None:

    slots = sorted({lease.slot for lease in found.leases.values()})
    click.echo(f"{plan.app} would be reset:")
    if slots:
        click.echo(f"  fence       slots {', '.join(slots)}")
    click.echo(f"  forget      {counted(len(found.leases), 'lease')}, {counted(found.positions, 'committed position')}")
    for topic in found.topics:
        click.echo(f"  delete      topic {topic} ({counted(plan.topics[topic].partitions, 'partition')})")
    for store in found.stores:
        click.echo(f"  delete      {store.directory}")
    if found.snapshots:
        size = sum(bytes for _, bytes in found.snapshots)
        click.echo(f"  delete      {len(found.snapshots)} objects ({size:,} bytes) from {location.url}")
    elif settings.checkpoints and location is None:
        click.echo(f"  keep        snapshots in {settings.checkpoints} (--snapshots deletes them; none fits any more)")


@click.command()
@click.argument("program")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: `findings` and `checked`.")
@click.option("--no-state-dir", is_flag=True, help="Leave the stores on this machine out.")
@_state_dir
@option("checkpoints")
@log_options
def verify(program: str, as_json: bool, no_state_dir: bool, file: Path | None, **options: Any) -> None:
    """Check that leases, changelogs, positions, stores and snapshots of PROGRAM agree. Changes nothing.

    Exit code 1 if something does not. Stores that a worker has open are left out.
    """
    from streams.runtime.verify import Verification

    with _opened(program, file, options) as (plan, log, settings):
        state_dir = None if no_state_dir else Path(settings.state_dir)
        check = Verification(plan, log, state_dir, location_of(settings))
        findings = []
        for finding in check.findings():
            findings.append(finding)
            if not as_json:
                click.echo(f"{finding.where}\n  what: {finding.what}\n  fix:  {finding.fix}")
        if as_json:
            click.echo(json.dumps({"findings": [asdict(f) for f in findings], "checked": check.checked}))
        else:
            for line in check.checked:
                click.echo(f"checked  {line}")
            click.echo(f"{len(findings)} findings" if len(findings) != 1 else "1 finding")
    if findings:
        click.get_current_context().exit(1)


@contextmanager
def _opened(
    program: str, file: Path | None, options: dict[str, Any], *, check: bool = True
) -> "Iterator[tuple[Plan, Log, Settings]]":
    """The program placed on its log, of which nothing is made. `check`: see `prepare`."""
    from streams.app import open_log
    from streams.cli import find
    from streams.runtime.plan import prepare

    app, settings = find(program), load(options, file=file)
    log = open_log(settings, make=False)
    try:
        topology = app.topology()
        plan = prepare(app.name, topology, log, app.dead_letters, settings.partitions, make=False, check=check)
        yield plan, log, settings
    finally:
        log.close()
