"""Whether a savepoint fits a program, and what of it goes where: decisions only, nothing here does I/O.

State is found by operator id and store name, rows that wait by the shuffle's id, positions by the source's topic;
numbers of sub-topologies mean nothing.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import polars as pl

from streams.checkpoint.savepoint import SavedSub, SavedTask, Savepoint
from streams.core.entries import Entries
from streams.core.errors import OperatorError, StateMismatch, StreamsError
from streams.core.keys import partitions as hashed
from streams.core.operator import Operator
from streams.core.schema import StreamType, nearest
from streams.core.time import NEVER
from streams.core.topology import SubTopology, Topology
from streams.runtime.position import Channel, InputPosition, TaskPosition

_KEY = 80  # characters of a key that are shown


@dataclass(frozen=True)
class Move:
    """A store that is carried over: whose it is, from how many partitions to how many, and whether it is migrated."""

    store: str
    operator: Operator
    types: Sequence[StreamType]
    before: Mapping[str, str]
    sub: int
    old: int
    new: int
    migrate: bool

    @property
    def short(self) -> str:
        """The store's name within the operator."""
        return self.store.rpartition("/")[2]

    def migrated(self, key: bytes, value: bytes) -> bytes | None:
        """The entry's value as the program keeps it; None drops it.

        OperatorError if the function raises or gives no bytes, StateMismatch if what it gives does not fit; both say
        which entry it was.
        """
        id, fix = self.store.rpartition("/")[0], "mend the function and run the restore again: it begins anew"
        where = f"store {self.store!r}, key {_short(self.operator.entries(self.short, self.types), key)}"
        try:
            made: object = self.operator.migrated(self.short, key, value, self.before, self.types)
        except StateMismatch as error:
            raise StateMismatch(error.what, where=error.where or where, fix=error.fix or fix) from error
        except Exception as error:
            cause = error.what if isinstance(error, StreamsError) else f"{type(error).__name__}: {error}"
            raise OperatorError(f"migrate of operator {id!r} failed: {cause}", where=where, fix=fix) from error
        if made is None or isinstance(made, bytes):
            return made
        what = f"migrate of operator {id!r} gives {type(made).__name__}, not bytes or None"  # a user's function
        raise OperatorError(what, where=where, fix=fix)

    def place(self, partition: int, keys: Sequence[bytes]) -> list[int | None]:
        """The new partition of each entry of an old task; None for those of the task as a whole.

        StateMismatch if an entry lies where its key does not belong: then records were not partitioned by their key,
        and nobody knows where the key's next one will come.
        """
        if self.old == self.new:
            return [partition] * len(keys)
        found = [self.operator.key_of(self.short, key, self.types) for key in keys]
        given = pl.Series([b"" if key is None else key for key in found], dtype=pl.Binary)
        for key, was in zip(found, hashed(given, self.old).tolist(), strict=True):
            if key is not None and was != partition:
                raise StateMismatch(
                    f"state of the key {key[:80]!r} lies in partition {partition}, not in {was}, its own",
                    where=f"store {self.store!r}",
                    fix="records of the source were not partitioned by the declared key: restore with as many "
                    "partitions as there were, or put a KeyBy before the operator",
                )
        chosen = hashed(given, self.new).tolist()
        return [None if key is None else int(p) for key, p in zip(found, chosen, strict=True)]


@dataclass
class Fit:
    """What a restore does. `notes` say what is not plainly carried over."""

    moves: dict[str, Move] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def fit(saved: Savepoint, topology: Topology, partitions: Mapping[int, int], drop: Collection[str]) -> Fit:
    """How the savepoint is carried over into the program. `drop`: stores and shuffles that may be given up.

    Raises StateMismatch, before anything is written, if something of it would be lost or misread.
    """
    made = Fit()
    old = {s.name: (sub, s) for sub in saved.subs for s in sub.stores}
    waiting = {node: True for t in saved.tasks for node in t.waiting}
    shuffles = {i.node for sub in topology.subs for i in sub.inputs if i.shuffle}
    stores = [s for sub in topology.subs for s in sub.stores]
    _check_dropped(saved, [s for s in old if s not in stores], [n for n in waiting if n not in shuffles], drop, made)
    for sub in topology.subs:
        for node in sub.nodes:
            if node.kind != "operator" or node.operator is None:
                continue
            types = [topology.graph.type_of(e) for e in node.inputs]
            for store in node.operator.stores:
                name = f"{node.id}/{store.name}"
                if name not in old:
                    made.notes.append(f"store {name!r} is new: it begins empty")
                    continue
                if name in drop:
                    made.notes.append(f"store {name!r} is dropped: it begins empty")
                    continue
                owner, stored = old[name]
                changed = _changed(stored.type, node.operator.store_type(store.name, types))
                migrate = store.name in node.operator.migrate
                if changed and ("key" in changed or not migrate):
                    raise _changed_type(name, changed, stored.type, node.operator.store_type(store.name, types))
                if changed:
                    made.notes.append(f"store {name!r} is migrated")
                move = Move(
                    name,
                    node.operator,
                    types,
                    stored.type,
                    sub.index,
                    owner.partitions,
                    partitions[sub.index],
                    bool(changed),
                )
                if move.old != move.new and type(node.operator).key_of is Operator.key_of:
                    raise StateMismatch(
                        f"store {name!r} cannot go from {move.old} to {move.new} partitions: "
                        f"{type(node.operator).__name__} does not say which entry belongs to which key",
                        where=f"savepoint {saved.name!r}",
                        fix="give the operator a method key_of, or keep the number of partitions",
                    )
                made.moves[name] = move
    sources = {t for sub in topology.subs for t in sub.sources}
    for was in saved.subs:
        for item in was.inputs:
            if not item.shuffle and item.topic not in sources:
                made.notes.append(f"source {item.topic!r} is not read any more: its position is given up")
    return made


def named_whole(saved: Savepoint, drop: Collection[str]) -> set[str]:
    """The names to drop; an operator with a single store may be named alone, as for `streams state`."""
    known, out = _droppable(saved), set[str]()
    for name in drop:
        stores = [store for store in known if store.rpartition("/")[0] == name]
        out.add(stores[0] if name not in known and len(stores) == 1 else name)
    return out


def _droppable(saved: Savepoint) -> set[str]:
    return {s.name for sub in saved.subs for s in sub.stores} | {i.topic for s in saved.subs for i in s.inputs}


def _check_dropped(
    saved: Savepoint, stores: Sequence[str], shuffles: Sequence[str], drop: Collection[str], made: Fit
) -> None:
    known = _droppable(saved)
    if unknown := sorted(set(drop) - known):
        raise StateMismatch(
            f"the savepoint has no store or shuffle {unknown[0]!r} to drop{nearest(unknown[0], sorted(known))}",
            where=f"savepoint {saved.name!r}",
            fix=f"it has: {', '.join(sorted(known))}",
        )
    for what, names in (("state", stores), ("rows that wait in a shuffle", shuffles)):
        if lost := sorted(set(names) - set(drop)):
            raise StateMismatch(
                f"the savepoint has {what} that no operator of the program wants: {', '.join(lost)}",
                where=f"savepoint {saved.name!r} of {saved.app!r}",
                fix="an operator that was renamed keeps its state with .named(OLD_ID); to give it up: "
                + " ".join(f"--drop {name}" for name in lost),
            )
    made.notes += [f"{name!r} is dropped: no operator wants it" for name in [*stores, *shuffles]]


def _changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return [aspect for aspect, text in before.items() if now.get(aspect) != text]


def _changed_type(
    name: str, changed: Sequence[str], before: Mapping[str, str], now: Mapping[str, str]
) -> StateMismatch:
    first = changed[0]
    return StateMismatch(
        f"the type of store {name!r} has changed: {', '.join(changed)}",
        where=f"{first}: was {before[first]}; is {now.get(first, 'gone')}",
        fix="go back to the old type, give the operator "
        f"migrate = {{{name.rpartition('/')[2]!r}: function}} (not for another key), or begin it empty: --drop {name}",
    )


def _short(entries: Entries, key: bytes) -> str:
    """The key as `streams state` shows it, cut; as bytes if it was kept by a program that keeps its keys otherwise."""
    try:
        text = entries.key(key)
    except Exception:
        text = repr(key)
    return text if len(text) <= _KEY else text[:_KEY] + "..."


# ---- positions


@dataclass(frozen=True)
class Begin:
    """Where an input begins that the savepoint does not know, or where its carried rows lie: `[offset, read)`."""

    offset: int
    read: int


class Positions:
    """Where each task of the program begins."""

    def __init__(self, saved: Savepoint) -> None:
        self._saved = saved
        self._subs = {sub.index: sub for sub in saved.subs}
        self._position = {(t.sub, t.partition): TaskPosition.decode(t.position) for t in saved.tasks}

    def of(
        self, sub: SubTopology, partition: int, count: int, channels: Sequence[int], begin: Sequence[Begin]
    ) -> TaskPosition:
        """The position of a task: of a sub-topology with `count` tasks, whose inputs have so many channels and begin
        there."""
        behind = [self._position[s.index, p] for s in self._behind(sub) for p in self._tasks(s, partition, count)]
        made = TaskPosition(
            {},
            min((p.frontier for p in behind), default=NEVER),
            min((p.drained for p in behind), default=NEVER),
            list(sub.stores),
        )
        for item, width, start in zip(sub.inputs, channels, begin, strict=True):
            if item.shuffle:
                known = self._channels(item.topic, partition, count, width)
                made.inputs[item.topic] = InputPosition(start.offset, start.read, NEVER, known)
                continue
            was = self._source(item.topic, partition)
            if was is None:
                made.inputs[item.topic] = InputPosition(start.offset, start.read, NEVER, {0: Channel()})
                continue
            position, place = was
            if place.offset < place.read and position.frontier != made.frontier:
                raise StateMismatch(
                    f"rows of source {item.topic!r} wait in its task for rows of other inputs: if the task's "
                    "partitions or inputs change, they cannot be told apart from others that were processed",
                    where=f"savepoint {self._saved.name!r}, partition {partition}",
                    fix="keep the partition count of the source and what it meets, or put a KeyBy behind the source",
                )
            made.inputs[item.topic] = msgspec.structs.replace(place, topic="")
        return made

    def _behind(self, sub: SubTopology) -> list[SavedSub]:
        """The sub-topologies of which this one takes inputs or state."""
        topics, stores = {i.topic for i in sub.inputs}, set(sub.stores)
        return [
            s
            for s in self._subs.values()
            if any(i.topic in topics for i in s.inputs) or any(x.name in stores for x in s.stores)
        ]

    def _tasks(self, sub: SavedSub, partition: int, count: int) -> Sequence[int]:
        return [partition] if sub.partitions == count else range(sub.partitions)

    def _source(self, topic: str, partition: int) -> tuple[TaskPosition, InputPosition] | None:
        for sub in self._subs.values():
            if any(i.topic == topic and not i.shuffle for i in sub.inputs) and partition < sub.partitions:
                position = self._position[sub.index, partition]
                if topic in position.inputs:
                    return position, position.inputs[topic]
        return None

    def _channels(self, node: str, partition: int, count: int, width: int) -> dict[int, Channel]:
        """By channel the least that a task behind this one knows of it; of all of them, if their number has changed."""
        found: dict[int, list[Channel]] = {}
        same = False
        for sub in self._subs.values():
            for item in sub.inputs:
                if item.shuffle and item.topic == node:
                    same = item.channels == width
                    for p in self._tasks(sub, partition, count):
                        for number, channel in self._position[sub.index, p].inputs[node].channels.items():
                            found.setdefault(number if same else 0, []).append(channel)
        if not found:
            return {n: Channel() for n in range(width)}
        if same:
            return {n: Channel(min(c.watermark for c in cs), all(c.idle for c in cs)) for n, cs in found.items()}
        least = min(c.watermark for c in found[0])
        return {n: Channel(least) for n in range(width)}


def waiting_of(saved: Savepoint, node: str) -> list[SavedTask]:
    """The tasks in which rows of a shuffle wait."""
    return [t for t in saved.tasks if node in t.waiting]
