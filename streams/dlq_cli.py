"""`streams dlq`: list the dead letters of a program, look at one, run it under a debugger, replay them."""

import inspect
import json
import os
import shutil
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streams.cli_group import Guessing
from streams.core.errors import StreamsError
from streams.core.wording import counted
from streams.settings import load
from streams.topics_cli import log_options

if TYPE_CHECKING:
    from streams.app import App
    from streams.dlq.letters import Choice, DeadLetter
    from streams.dlq.rehearsal import Outcome
    from streams.log.base import Log
    from streams.settings import Settings


@click.group(cls=Guessing)
def dlq() -> None:
    """Dead letters of a program: list them, look at one, run it under a debugger, replay them.

    A dead letter is a record that the program could not take. It is named PARTITION:OFFSET, as `list` shows it.

    \b
    streams dlq list program:app
    """


def choice_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(
        (
            click.option("--operator", default="", help="Only letters of the operator with this id."),
            click.option("--cause", default="", help="Only letters with this text in their cause."),
            click.option("--since", default="", help="Only records since: 1h (ago), or 2023-11-14T22:13 (UTC)."),
            click.option("--topic", default="", help="Only letters of records of this topic."),
        )
    ):
        command = option(command)
    return command


@contextmanager
def _opened(program: str, file: Path | None, options: dict[str, Any]) -> "Iterator[tuple[App, Settings, Log]]":
    from streams.app import open_log
    from streams.cli import find

    app, settings = find(program), load(options, file=file)
    log = open_log(settings, make=False)
    try:
        yield app, settings, log
    finally:
        log.close()


def _choice(operator: str, cause: str, since: str, topic: str) -> "Choice":
    from streams.dlq import letters

    return letters.Choice(operator, cause, letters.since(since) if since else None, topic)


@dlq.command("list")
@click.argument("program")
@choice_options
@click.option("--limit", default=50, show_default=True, help="Show the last so many; 0 shows all.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a letter, a line each, all of them.")
@log_options
def list_(
    program: str,
    operator: str,
    cause: str,
    since: str,
    topic: str,
    limit: int,
    as_json: bool,
    file: Path | None,
    **options: Any,
) -> None:
    """List the dead letters of PROGRAM, and how often each cause was found.

    `when` is the bad record's own timestamp, in UTC.

    \b
    streams dlq list fraud.pipeline:app --cause "missing field" --since 1h
    """
    from streams.dlq import letters, replay

    choice = _choice(operator, cause, since, topic)
    with _opened(program, file, options) as (app, _, log):
        done = replay.replayed(log, app.name, app.dead_letters)
        found = letters.read(log, app.dead_letters, choice)
        if as_json:
            for letter in found:
                click.echo(json.dumps(_as_json(letter, done.get(letter.place))))
            return
        kept: deque[DeadLetter] = deque(maxlen=limit or None)
        causes: Counter[str] = Counter()
        again = 0
        for letter in found:
            kept.append(letter)
            causes[letter.cause.splitlines()[0][:200]] += 1
            again += letter.place in done
        total = sum(causes.values())
        if not total:
            matching = "" if choice == _choice("", "", "", "") else " that match"
            click.echo(f"no dead letters of {app.name}{matching} in topic {app.dead_letters} on {log.name}")
            return
        rows = [("letter", "when", "record", "operator", "replayed", "cause")]
        for letter in kept:
            said = "yes" if letter.place in done else "-"
            first = letter.cause.splitlines()[0].removeprefix(f"{letter.operator}: ")
            rows.append((letter.name, letter.when, letter.source, letter.operator or "-", said, first))
        _table(rows)
        if total > len(kept):
            click.echo(f"... and {total - len(kept):,} before them (--limit 0 shows all)")
        click.echo(f"\n{counted(total, 'dead letter')}, {again:,} of them replayed:")
        click.echo("\n".join(letters.counts(causes)))


def _as_json(letter: "DeadLetter", replayed: int | None) -> dict[str, Any]:
    try:
        value = {"value": letter.value.decode()}
    except UnicodeDecodeError:
        value = {"value_hex": letter.value.hex()}
    return {
        "letter": letter.name,
        "timestamp": letter.timestamp,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "row": letter.row if letter.row >= 0 else None,
        "operator": letter.operator,
        "cause": letter.cause,
        "key": letter.key.decode(errors="replace") if letter.key is not None else None,
        **value,
        "replayed": replayed,
    }


def _table(rows: Sequence[tuple[str, ...]]) -> None:
    """Columns side by side; on a terminal the last one ends with the line."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    most = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        line = "  ".join([*cells, row[-1]]).rstrip()
        click.echo(line if len(line) <= most else line[: most - 1] + "…")


@dlq.command()
@click.argument("program")
@click.argument("letter")
@log_options
def show(program: str, letter: str, file: Path | None, **options: Any) -> None:
    """Show all of one dead letter of PROGRAM: where it comes from, why and where it failed, and its bytes.

    \b
    streams dlq show fraud.pipeline:app 0:17
    """
    from streams.dlq import letters, replay

    with _opened(program, file, options) as (app, _, log):
        found = letters.find(log, app.dead_letters, letter)
        done = replay.replayed(log, app.name, app.dead_letters).get(found.place)
        lines = [
            ("letter", f"{found.name} of topic {app.dead_letters}"),
            ("record", found.source),
            ("timestamp", f"{found.when} ({found.timestamp})" if found.timestamp >= 0 else "none"),
            ("cause", found.cause),
            ("failed in", _where(app, found)),
            ("replayed", letters.instant(done) if done is not None else _replay_hint(app, log, program, found)),
        ]
        lines += [(f"header {name}", letters.text_of(value)) for name, value in found.headers]
        lines.append(("key", "none" if found.key is None else letters.text_of(found.key)))
        for name, text in lines:
            head, *rest = text.splitlines() or [""]
            click.echo(f"{name + ':':12} {head}")
            for line in rest:
                click.echo(f"{'':12} {line}")
        size = f"{len(found.value):,} bytes" + (f" of {found.cut_from:,}" if found.cut_from else "")
        what = "the row as JSON" if found.row >= 0 or not found.topic else "as it came"
        click.echo(f"value:       {size}, {what}")
        if found.value:
            click.echo(letters.text_of(found.value))


def _replay_hint(app: "App", log: "Log", program: str, letter: "DeadLetter") -> str:
    from streams.dlq import replay

    why = replay.refusal(letter, replay.sources_of(app.graph, log))
    return (
        f"no, and it cannot be: {why}"
        if why
        else f"no; when the cause is mended: streams dlq replay {program} {letter.name}"
    )


def _where(app: "App", letter: "DeadLetter") -> str:
    """The operator, the user's code that it calls, and the way of the record to it."""
    node = app.graph.nodes.get(letter.operator)
    if node is None:
        return f"operator {letter.operator!r}, which the program does not have any more"
    if node.source is not None:
        schema = node.source.schema
        return f"{node.id}: the record could not be decoded as {schema.__name__ if schema is not None else 'bytes'}"
    way, at = [node.id], node
    while at.inputs:
        at = app.graph.nodes[at.inputs[0].node]
        way.append(at.id)
    path = " -> ".join(reversed(way))
    code = getattr(node.operator, "function", None) or type(node.operator)
    try:
        file, line = inspect.getsourcefile(code), inspect.getsourcelines(code)[1]
    except (OSError, TypeError):
        return path
    name = getattr(code, "__qualname__", type(code).__name__)
    return f"{path}\n{name}, {os.path.relpath(file or '')}:{line}"


@dlq.command()
@click.argument("program")
@click.argument("letter")
@click.option(
    "--debugger",
    type=click.Choice(["pdb", "none"]),
    default="pdb",
    show_default=True,
    help="What to do where the program fails: a debugger (PYTHONBREAKPOINT chooses another one), or a traceback.",
)
@click.option(
    "--state-dir", type=click.Path(path_type=Path), help="Copy the state of a worker that is stopped from here."
)
@click.option("--checkpoints", help="Take the newest snapshot from this checkpoint location.  [setting: checkpoints]")
@log_options
def debug(program: str, letter: str, debugger: str, state_dir: Path | None, file: Path | None, **options: Any) -> None:
    """Run one dead letter through PROGRAM as it is now, and stop in a debugger where it fails.

    Nothing of the application is touched: the record is processed in this process, on a copy of its task's state, and
    what it gives is printed instead of written. Mend the program and run it again: it says when the record passes.

    The state is that of now, not of when the record failed. It comes from a stopped worker's --state-dir, or from the
    newest snapshot (where workers have a checkpoint location, the changelog alone does not hold all of it), and the
    changelog. Ends with status 1 if the record still fails.

    \b
    streams dlq debug fraud.pipeline:app 0:17
    streams dlq debug fraud.pipeline:app 0:17 --debugger none
    """
    from streams.dlq import letters, rehearsal
    from streams.dlq.debugger import described, post_mortem

    def note(text: str) -> None:
        click.echo(f"# {text}", err=True)

    def failed(operator: str, error: BaseException) -> None:
        click.echo(f"\n{described(error)}\n")
        if debugger == "pdb":
            post_mortem(error, note)

    with _opened(program, file, options) as (app, settings, log):
        found = letters.find(log, app.dead_letters, letter)
        click.echo(f"letter {found.name}: {found.source}, failed with: {found.cause}")
        outcome = rehearsal.rehearse(app, settings, log, found, watcher=failed, note=note, state_dir=state_dir)
        _tell(outcome)
        if outcome.causes:
            sys.exit(1)


def _tell(outcome: "Outcome") -> None:
    """What became of the record, in words."""
    click.echo(f"task {outcome.task}, on a copy of its state as it is now; nothing was written")
    if outcome.rows:
        click.echo("operators: " + ", ".join(f"{id} {n}" for id, n in outcome.rows.items()) + " (rows given to each)")
    for where, text in outcome.outputs:
        click.echo(f"  to {where}: {text}")
    for store, count in outcome.changed.items():
        click.echo(f"  state {store}: {count} entries would change")
    for operator, count in outcome.late.items():
        click.echo(f"  {count} rows are too late for {operator}")
    for operator, cause in outcome.causes:
        click.echo(f"it fails: {cause if cause.startswith(f'{operator}:') or not operator else f'{operator}: {cause}'}")
    if not outcome.causes:
        click.echo("it passes now" if outcome.outputs or outcome.changed else "it passes now, and gives nothing")


@dlq.command()
@click.argument("program")
@click.argument("letters_", metavar="[LETTER]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All letters that match the filters.")
@choice_options
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@log_options
def replay(
    program: str,
    letters_: tuple[str, ...],
    every: bool,
    operator: str,
    cause: str,
    since: str,
    topic: str,
    dry_run: bool,
    file: Path | None,
    **options: Any,
) -> None:
    """Append the records of dead letters of PROGRAM to their source topic again, each letter once.

    The bytes, the key, the headers and the timestamp are those of the bad record; the header streams-replay-of tells
    where it lies. A letter that has been replayed is not replayed again, not even when this command is killed and run
    anew, or runs twice at a time. If the record fails again, that makes a new letter.

    The whole program sees the record again: parts of it that could take the record at the first time have it twice.
    The command names them; --dry-run does so before anything is done.

    \b
    streams dlq replay fraud.pipeline:app 0:17 0:18
    streams dlq replay fraud.pipeline:app --all --operator burst-1 --dry-run
    """
    from streams.dlq import letters
    from streams.dlq import replay as replaying

    if bool(letters_) == every:
        raise click.UsageError("name letters, or give --all (with --operator, --cause, --since or --topic to choose)")
    choice = _choice(operator, cause, since, topic)
    if letters_ and choice != _choice("", "", "", ""):
        raise click.UsageError("the filters choose among --all; letters that are named are taken as they are")
    with _opened(program, file, options) as (app, _, log):
        sources = replaying.sources_of(app.graph, log)
        done = replaying.replayed(log, app.name, app.dead_letters)
        chosen: Iterator[DeadLetter]
        if every:
            chosen = letters.read(log, app.dead_letters, choice)
        else:
            named = [letters.find(log, app.dead_letters, name) for name in letters_]
            for letter in named:
                if why := replaying.refusal(letter, sources):
                    raise StreamsError(f"dead letter {letter.name} cannot be replayed", where=letter.source, fix=why)
            chosen = iter(named)
        if dry_run:
            _dry_run(app, chosen, done, sources)
            return
        twice: dict[str, None] = {}

        def seen(found: "Iterator[DeadLetter]") -> "Iterator[DeadLetter]":
            for letter in found:
                if letter.place not in done:
                    _warn(app, letter, twice)
                yield letter

        outcome = replaying.replay(log, app.name, app.dead_letters, seen(chosen), sources)
        click.echo(f"{outcome.replayed:,} replayed")
        if outcome.before:
            click.echo(f"{outcome.before:,} had been replayed before")
        _refused(outcome.refused)


def _dry_run(
    app: "App", chosen: "Iterator[DeadLetter]", done: dict[tuple[int, int], int], sources: dict[str, int]
) -> None:
    from streams.dlq import replay as replaying

    count = before = 0
    refused: list[tuple[str, str]] = []
    twice: dict[str, None] = {}
    for letter in chosen:
        if letter.place in done:
            before += 1
        elif why := replaying.refusal(letter, sources):
            refused.append((letter.name, why))
        else:
            count += 1
            _warn(app, letter, twice)
            click.echo(
                f"{letter.name}  {letter.source}: {len(letter.value):,} bytes to {letter.topic}/{letter.partition}"
            )
    click.echo(f"{count:,} would be replayed")
    if before:
        click.echo(f"{before:,} have been replayed already")
    _refused(refused)


def _warn(app: "App", letter: "DeadLetter", told: dict[str, None]) -> None:
    """Say once what may get a record twice."""
    from streams.dlq import replay as replaying

    names = ", ".join(replaying.had_it(app.graph, letter))
    if names and names not in told:
        told[names] = None
        where = letter.operator or "their operator"
        click.echo(f"# records that failed in {where} may have reached {names}: they get them a second time", err=True)


def _refused(refused: list[tuple[str, str]]) -> None:
    grouped: dict[str, list[str]] = {}
    for name, why in refused:
        grouped.setdefault(why, []).append(name)
    for why, names in grouped.items():
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        click.echo(f"{len(names):,} cannot be replayed ({shown}): {why}")
