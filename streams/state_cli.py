"""`streams state`: look at what an application has in its stores: on disk, in the log, or at living workers."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from streams.cli_group import Guessing
from streams.core.entries import plain
from streams.core.errors import SettingsError, StateError, TopicMissing
from streams.core.topology import Topology
from streams.runtime.shown import Shown, Stores, shown
from streams.settings import Settings, load
from streams.settings_cli import option as setting
from streams.topics_cli import log_options

if TYPE_CHECKING:
    from streams.app import App
    from streams.checkpoint.location import Location
    from streams.state.base import StateStore

_CHUNK = 4 << 20


def place_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say where state is."""
    for option in reversed(
        (
            click.option("--state-dir", help=f"Where state is kept.  [default: {Settings.state_dir}]"),
            click.option(
                "--slot", help="Look at the stores of this worker only.  [default: all in the state directory]"
            ),
            click.option(
                "--from-changelog",
                is_flag=True,
                help="Make the state from the log (and the checkpoint location) instead: works beside workers, too.",
            ),
            setting("checkpoints"),
            click.option(
                "--task", "tasks", multiple=True, help="Only this task, e.g. 0/3.  May be given several times."
            ),
            click.option(
                "--http",
                "addresses",
                multiple=True,
                metavar="HOST:PORT",
                help="Ask the living worker, or the supervisor, that serves there.  May be given several times.",
            ),
            click.option(
                "--timeout",
                type=float,
                metavar="SECONDS",
                help="With --http: how long a worker may take, beside its work.  [default: 10]",
            ),
            click.option("--json", "as_json", is_flag=True, help="A JSON object a line."),
        )
    ):
        command = option(command)
    return log_options(command)


@click.group(cls=Guessing)
def state() -> None:
    """Look at the state of PROGRAM: on a stopped worker's disk, in the log, or at living workers. Changes nothing.

    \b
    streams state stats program:app
    streams state get program:app burst-1 c1
    streams state scan program:app burst-1 --http 127.0.0.1:9400
    """


@state.command()
@click.argument("program")
@place_options
def stats(program: str, as_json: bool, **options: Any) -> None:
    """By task and store: entries, bytes, and at which commit it stands."""
    rows: list[tuple[str, ...]] = []
    with _looking(program, **options) as look:
        for task in look.stats():
            if as_json:
                click.echo(json.dumps(task, default=plain))
                continue
            for name, store in task["stores"].items() or [("(no stores)", {"entries": 0, "bytes": 0})]:
                numbers = f"{store['entries']:,}", f"{store['bytes']:,}", str(task["commit"])
                rows.append((task["task"], name, *numbers, task["written"], task["from"]))
    if not as_json:
        click.echo(_table(("task", "store", "entries", "bytes", "commit", "written", "from"), rows, right={2, 3, 4}))
    _tell_missing(look)


@state.command()
@click.argument("program")
@click.argument("store")
@click.argument("key")
@place_options
def get(program: str, store: str, key: str, as_json: bool, **options: Any) -> None:
    """Print the value of KEY in STORE (OPERATOR/NAME, or what `stats` shows). Exit code 1 if no task has it.

    KEY is written as `scan` shows it.
    """
    hits = 0
    with _looking(program, **options) as look:
        for entry in look.get(store, key):
            hits += 1
            _show(entry, as_json)
    if not hits:
        click.echo(f"no task has the key {key!r} in {store}", err=True)
        _tell_missing(look)
        click.get_current_context().exit(1)


@state.command()
@click.argument("program")
@click.argument("store")
@click.option("--prefix", default="", help="Only keys that begin so.")
@click.option("--from", "start", default="", help="Begin at this key.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most so many, of all tasks."
)
@place_options
def scan(program: str, store: str, prefix: str, start: str, limit: int, as_json: bool, **options: Any) -> None:
    """Print entries of STORE, task by task, in the order of their stored keys."""
    with _looking(program, **options) as look:
        for number, entry in enumerate(look.scan(store, prefix, start, limit + 1)):
            if number == limit:
                click.echo(f"... there are more: --limit {10 * limit}, or --from with the last key", err=True)
                break
            _show(entry, as_json)
    _tell_missing(look)


# ---- inside


class Look(Protocol):
    """Where state is looked at: on disk, in the log, or at living workers."""

    missing: set[str]
    """Tasks that are not to be seen there, as far as that is known."""

    def stats(self) -> Iterable[Mapping[str, Any]]:
        """By task, as `streams.web.state.stats` describes them."""
        ...

    def get(self, store: str, key: str) -> Iterable[Shown]: ...

    def scan(self, store: str, prefix: str, start: str, most: int) -> Iterable[Shown]: ...


@dataclass
class Opened:
    """A task's state, opened to be read."""

    task: str
    origin: str
    store: "StateStore"
    when: float
    """Seconds since the epoch; below 0 if unknown."""


class Looking:
    """A program, and where its state is: on disk, or in the log."""

    def __init__(self, app: "App", settings: Settings, slot: str | None, from_changelog: bool, tasks: tuple[str, ...]):
        self.app, self.settings, self._slot, self._tasks = app, settings, slot, tasks
        self._from_changelog = from_changelog
        self.topology: Topology = app.topology()
        self.missing = set[str]()
        self._stores = Stores(app.name, self.topology)

    def stats(self) -> Iterator[Mapping[str, Any]]:
        from streams.runtime.position import TaskPosition
        from streams.web.state import stats

        for found in self.states():
            mark = found.store.mark
            position = TaskPosition.decode(mark.position) if mark.position else TaskPosition({})
            measured = {name: _measure(found.store, name) for name in found.store.names()}
            yield stats(found.task, found.origin, mark.sequence, found.when, mark.offset, position, measured)

    def get(self, store: str, key: str) -> Iterator[Shown]:
        name = self._stores.name_of(store)
        wanted, entries = self._stores.stored(name, key), self._stores.entries(name)
        for found in self.states(newest=True):
            value = found.store.map(_spec(name)).get(wanted) if name in found.store.names() else None
            if value is not None:
                yield shown(found.task, entries, wanted, value)

    def scan(self, store: str, prefix: str, start: str, most: int) -> Iterator[Shown]:
        name = self._stores.name_of(store)
        entries = self._stores.entries(name)
        head = self._stores.begin(name, prefix) if prefix else b""
        first = max(head, self._stores.begin(name, start) if start else b"")
        for found in self.states(newest=True):
            if name not in found.store.names():
                continue
            for key, value in found.store.map(_spec(name)).scan(first):
                if not key.startswith(head):
                    break
                yield shown(found.task, entries, key, value)

    def states(self, newest: bool = False) -> Iterator[Opened]:
        """Each task's state; `newest`: of several on this machine the one with the latest commit."""
        unknown = set(self._tasks)
        for found in self._from_log() if self._from_changelog else self._from_disk(newest):
            unknown.discard(found.task)
            yield found
        if unknown:
            raise SettingsError(
                f"there is no state of task {sorted(unknown)[0]}", fix="see them all with `streams state stats`"
            )

    def _wanted(self, task: str) -> bool:
        return not self._tasks or task in self._tasks

    def _from_disk(self, newest: bool) -> Iterator[Opened]:
        from streams.runtime.offline import copy_of, local_stores

        root = Path(self.settings.state_dir)
        stores = [s for s in local_stores(root, self.app.name, self._slot) if self._wanted(s.task)]
        if not stores:
            slots = sorted({s.slot for s in local_stores(root, self.app.name)})
            raise StateError(
                f"no state of {self.app.name}"
                + (f", slot {self._slot}" if self._slot else "")
                + (f", task {', '.join(self._tasks)}" if self._tasks else ""),
                where=str(root.absolute()),
                fix=f"slots that have state there: {', '.join(slots)}"
                if slots
                else "give the workers' --state-dir, or look into the log: --from-changelog",
            )
        best: dict[str, tuple[int, str]] = {}
        if newest and len({s.task for s in stores}) < len(stores):
            for each in stores:
                with copy_of(each.directory) as store:
                    best[each.task] = max(best.get(each.task, (-1, "")), (store.mark.sequence, each.slot))
        for each in sorted(stores, key=lambda s: ([int(n) for n in s.task.split("/")], s.slot)):
            if each.task not in best or best[each.task][1] == each.slot:
                with copy_of(each.directory) as store:
                    yield Opened(each.task, f"slot {each.slot}", store, each.changed)

    def _from_log(self) -> Iterator[Opened]:
        from streams.app import open_log
        from streams.runtime.plan import prepare
        from streams.runtime.replayed import replayed

        log = open_log(self.settings, make=False)
        try:
            app = self.app
            plan = prepare(app.name, self.topology, log, app.dead_letters, self.settings.partitions, make=False)
            location = location_of(self.settings)
            for task in plan.tasks:
                if not self.topology.subs[task.sub].stateful or not self._wanted(str(task)):
                    continue
                if plan.changelog(task.sub) not in plan.topics:
                    raise TopicMissing(f"{app.name} has never run on {log.name}: there is no changelog")
                with replayed(log, plan, task, location) as made:
                    origin = f"changelog, {made.blocks:,} blocks"
                    if made.snapshot is not None:
                        origin = f"snapshot of commit {made.snapshot}, {origin}"
                    yield Opened(str(task), origin, made.store, made.time / 1000)
        finally:
            log.close()


@contextmanager
def _looking(
    program: str,
    file: Path | None,
    slot: str | None,
    from_changelog: bool,
    tasks: tuple[str, ...],
    addresses: tuple[str, ...],
    timeout: float | None,
    **options: Any,
) -> Iterator[Look]:
    from streams.cli import find

    if timeout is not None and not addresses:
        raise click.UsageError("--timeout is for --http")
    if addresses:
        given = {"--from-changelog": from_changelog, "--slot": slot, "--state-dir": options.get("state_dir")}
        if wrong := next((name for name, value in given.items() if value), None):
            raise click.UsageError(f"{wrong} says where state lies; --http asks living workers: give one of them")
        from streams.state_client import Workers

        yield Workers(find(program).name, addresses, tasks, 10.0 if timeout is None else timeout)
    else:
        yield Looking(find(program), load(options, file=file), slot, from_changelog, tasks)


def _tell_missing(look: Look) -> None:
    if look.missing:
        tasks = ", ".join(sorted(look.missing, key=lambda t: [int(n) for n in t.split("/")]))
        click.echo(f"not seen: task {tasks}, which no worker at these addresses runs: give the others, too", err=True)


def location_of(settings: Settings) -> "Location | None":
    """The checkpoint location, if the settings name one; of those who only look, so none is made."""
    if not settings.checkpoints:
        return None
    from streams.checkpoint.location import Location

    return Location(settings.checkpoints, settings.checkpoint_options, make=False)


def _spec(name: str) -> Any:
    from streams.core.store import StoreSpec

    return StoreSpec(name, cache=False)


def _measure(store: "StateStore", name: str) -> tuple[int, int]:
    """Entries of a map, and the bytes of their keys and values."""
    count = size = 0
    start: bytes | None = b""
    while start is not None:
        keys, values, start = store.entries(name, start, _CHUNK)
        count += len(keys)
        size += sum(map(len, keys)) + sum(map(len, values))
    return count, size


def _show(entry: Shown, as_json: bool) -> None:
    if entry.note:
        click.echo(f"{entry.note}:", err=True)
    if as_json:
        click.echo(json.dumps({"task": entry.task, "key": entry.key, "value": entry.value}))
    else:
        click.echo(f"{entry.task}  {entry.key}  {json.dumps(entry.value)}")


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]], right: set[int]) -> str:
    lines = [head, *rows]
    widths = [max(len(r[i]) for r in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True))
        ).rstrip()
        for r in lines
    )
