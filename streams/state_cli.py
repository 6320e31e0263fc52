"""`streams state`: look at what a stopped application has in its stores, or what the log has of them."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streams.cli_group import Guessing
from streams.core.entries import Entries, plain
from streams.core.errors import SettingsError, StateError, TopicMissing
from streams.core.schema import nearest
from streams.core.topology import Topology
from streams.settings import Settings, load
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
            click.option(
                "--task", "tasks", multiple=True, help="Only this task, e.g. 0/3.  May be given several times."
            ),
            click.option("--json", "as_json", is_flag=True, help="A JSON object a line."),
        )
    ):
        command = option(command)
    return log_options(command)


@click.group(cls=Guessing)
def state() -> None:
    """Look at the state of PROGRAM: on a stopped worker's disk, or in the log. Changes nothing.

    \b
    streams state stats program:app
    streams state get program:app burst-1 c1
    """


@dataclass
class Opened:
    """A task's state, opened to be read."""

    task: str
    origin: str
    store: "StateStore"
    when: float
    """Seconds since the epoch; below 0 if unknown."""


@state.command()
@click.argument("program")
@place_options
def stats(program: str, as_json: bool, **options: Any) -> None:
    """By task and store: entries, bytes, and at which commit it stands."""
    rows: list[tuple[str, ...]] = []
    with _looking(program, **options) as look:
        for found in look.states():
            mark = found.store.mark
            when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(found.when)) if found.when >= 0 else "-"
            names = found.store.names()
            if as_json:
                click.echo(json.dumps(_stats(found, when), default=plain))
                continue
            for name in names or ["(no stores)"]:
                entries, size = _measure(found.store, name) if names else (0, 0)
                rows.append((found.task, name, f"{entries:,}", f"{size:,}", str(mark.sequence), when, found.origin))
    if not as_json:
        click.echo(_table(("task", "store", "entries", "bytes", "commit", "written", "from"), rows, right={2, 3, 4}))


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
        name = look.name_of(store)
        wanted = look.stored(name, key)
        for found in look.states(newest=True):
            value = found.store.map(_spec(name)).get(wanted) if name in found.store.names() else None
            if value is not None:
                hits += 1
                _show(found, look.entries(name), wanted, value, as_json)
        if not hits:
            click.echo(f"no task has the key {key!r} in {name}", err=True)
    if not hits:
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
    left = limit
    with _looking(program, **options) as look:
        name = look.name_of(store)
        entries = look.entries(name)
        head = look.begin(name, prefix) if prefix else b""
        first = max(head, look.begin(name, start) if start else b"")
        for found in look.states(newest=True):
            if name not in found.store.names():
                continue
            for key, value in found.store.map(_spec(name)).scan(first):
                if not key.startswith(head):
                    break
                if not left:
                    click.echo(f"... there are more: --limit {10 * limit}, or --from with the last key", err=True)
                    return
                left -= 1
                _show(found, entries, key, value, as_json)


# ---- inside


class Looking:
    """A program, and where its state is."""

    def __init__(self, app: "App", settings: Settings, slot: str | None, from_changelog: bool, tasks: tuple[str, ...]):
        self.app, self.settings, self._slot, self._tasks = app, settings, slot, tasks
        self._from_changelog = from_changelog
        self.topology: Topology = app.topology()

    def entries(self, name: str) -> Entries:
        """How the entries of a store read."""
        node = self.topology.graph.nodes.get(name.partition("/")[0])
        if node is None or node.operator is None:
            return Entries()
        inputs = [self.topology.graph.type_of(e) for e in node.inputs]
        return node.operator.entries(name.partition("/")[2], inputs)

    def name_of(self, store: str) -> str:
        """The whole name of a store; an operator with a single one may be named alone."""
        names = [name for sub in self.topology.subs for name in sub.stores]
        alone = [name for name in names if name.partition("/")[0] == store]
        if store in names:
            return store
        if len(alone) == 1:
            return alone[0]
        raise SettingsError(
            f"{self.app.name} has no store {store!r}{nearest(store, names)}",
            fix=f"one of: {', '.join(names)}" if names else "its operators keep no state",
        )

    def stored(self, name: str, key: str) -> bytes:
        return self._told(self.entries(name).stored, key)

    def begin(self, name: str, text: str) -> bytes:
        return self._told(self.entries(name).start, text)

    @staticmethod
    def _told(convert: Callable[[str], bytes], text: str) -> bytes:
        try:
            return convert(text)
        except (ValueError, OverflowError) as error:
            raise SettingsError(
                f"{text!r} is no key of this store: {error}", fix="write it as `scan` shows it"
            ) from None

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
        from streams.runtime.offline import replayed
        from streams.runtime.plan import prepare

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
    program: str, file: Path | None, slot: str | None, from_changelog: bool, tasks: tuple[str, ...], **options: Any
) -> Iterator[Looking]:
    from streams.cli import find

    yield Looking(find(program), load(options, file=file), slot, from_changelog, tasks)


def location_of(settings: Settings) -> "Location | None":
    """The checkpoint location, if the settings name one."""
    if not settings.checkpoints:
        return None
    from streams.checkpoint.location import Location

    return Location(settings.checkpoints, settings.checkpoint_options)


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


def _stats(found: Opened, when: str) -> dict[str, Any]:
    from streams.runtime.position import TaskPosition

    mark = found.store.mark
    measured = {name: _measure(found.store, name) for name in found.store.names()}
    position = TaskPosition.decode(mark.position) if mark.position else TaskPosition({})
    return {
        "task": found.task,
        "from": found.origin,
        "commit": mark.sequence,
        "written": when,
        "changelog_offset": mark.offset,
        "positions": {topic: place.offset for topic, place in position.inputs.items()},
        "stores": {name: {"entries": n, "bytes": size} for name, (n, size) in measured.items()},
    }


def _show(found: Opened, entries: Entries, key: bytes, value: bytes, as_json: bool) -> None:
    try:
        shown, read = entries.key(key), entries.value(key, value)
    except Exception as error:  # stored by another version of the program: shown as it lies there
        raw = Entries()
        shown, read = raw.key(key), raw.value(key, value)
        click.echo(f"not as the program declares it ({type(error).__name__}: {error}):", err=True)
    if as_json:
        click.echo(json.dumps({"task": found.task, "key": shown, "value": read}, default=plain))
    else:
        click.echo(f"{found.task}  {shown}  {json.dumps(read, default=plain)}")


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]], right: set[int]) -> str:
    lines = [head, *rows]
    widths = [max(len(r[i]) for r in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True))
        ).rstrip()
        for r in lines
    )
