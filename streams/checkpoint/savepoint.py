"""Savepoints: what is kept of a whole application under a name, and the keys under which it lies.

    <location>/<app>/savepoints/<name>.json                      the savepoint: written last, never changed
    <location>/<app>/savepoints/<name>/<attempt>/<number>        its data: blocks, named by nothing but the savepoint

State lies there as blocks of the changelog's format and waiting rows as blocks of a shuffle's, not as files of a
store: so they can be read one after the other, given to other partitions, and read by another kind of store. A
savepoint exists if `<name>.json` does; data that none names are what a killed attempt has left.
"""

import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

import msgspec

from streams.checkpoint.location import Location
from streams.checkpoint.manifest import HASH, place
from streams.core.errors import CheckpointError, LocationUnreachable

VERSION = 1
"""The version of the format."""


class Stored(msgspec.Struct, frozen=True):
    """An object with data: its key below the savepoint's own place, its size in bytes, the SHA-256 of its content."""

    key: str
    size: int
    hash: str


class SavedStore(msgspec.Struct, frozen=True):
    """A store: `<operator>/<store>`, and what its entries are (see `Operator.store_type`)."""

    name: str
    type: dict[str, str]


class SavedInput(msgspec.Struct, frozen=True):
    """An input of a sub-topology: a source's topic or a shuffle's operator, and how many channels write to it."""

    topic: str
    shuffle: bool
    channels: int


class SavedSub(msgspec.Struct, frozen=True):
    """A sub-topology."""

    index: int
    partitions: int
    inputs: tuple[SavedInput, ...]
    stores: tuple[SavedStore, ...]


class SavedTask(msgspec.Struct, frozen=True):
    """A task: where it stood (`TaskPosition`, encoded), its state, and by shuffle the rows that waited in it."""

    sub: int
    partition: int
    sequence: int
    position: bytes
    entries: int
    state: tuple[Stored, ...]
    waiting: dict[str, tuple[Stored, ...]]
    waiting_rows: int = 0

    @property
    def name(self) -> str:
        """As it is named in messages: sub-topology and partition."""
        return f"{self.sub}/{self.partition}"


class Savepoint(msgspec.Struct, frozen=True, kw_only=True):
    """A whole application at one commit of each task. `time`: milliseconds since the epoch.

    >>> made = Savepoint(app="a", name="n", time=0, fingerprint="f", topology="", subs=(), tasks=())
    >>> decode(encode(made), "here") == made
    True
    """

    version: int = VERSION
    app: str
    name: str
    time: int
    fingerprint: str
    topology: str
    subs: tuple[SavedSub, ...]
    tasks: tuple[SavedTask, ...]

    @property
    def objects(self) -> list[Stored]:
        """All data."""
        waiting = [o for t in self.tasks for objects in t.waiting.values() for o in objects]
        return [o for t in self.tasks for o in t.state] + waiting

    @property
    def size(self) -> int:
        """Bytes of all data."""
        return sum(o.size for o in self.objects)

    def tasks_of(self, sub: int) -> list[SavedTask]:
        """The tasks of a sub-topology, by partition."""
        return sorted((t for t in self.tasks if t.sub == sub), key=lambda t: t.partition)


class _Envelope(msgspec.Struct):
    sha256: str
    savepoint: msgspec.Raw


def encode(savepoint: Savepoint) -> bytes:
    """The bytes of a savepoint's own object."""
    body = msgspec.json.encode(savepoint)
    return msgspec.json.encode(_Envelope(sha256(body).hexdigest(), msgspec.Raw(body)))


def decode(data: bytes, where: str) -> Savepoint:
    """The savepoint; CheckpointError if it is damaged or of a newer version."""
    try:
        envelope = msgspec.json.decode(data, type=_Envelope)
        if sha256(envelope.savepoint).hexdigest() != envelope.sha256:
            raise _damaged("its hash differs", where)
        version = msgspec.json.decode(envelope.savepoint).get("version")
        if version != VERSION:
            raise CheckpointError(
                f"the savepoint has version {version}, this program knows {VERSION}",
                where=where,
                fix="run the program that wrote it, or a newer one",
            )
        savepoint = msgspec.json.decode(envelope.savepoint, type=Savepoint)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _damaged(str(error), where) from error
    for stored in savepoint.objects:  # a key must not lead elsewhere
        if not re.fullmatch(r"[0-9a-f]+/\d+", stored.key) or not re.fullmatch(HASH, stored.hash):
            raise _damaged(f"it names an object {stored.key!r}", where)
    return savepoint


def _damaged(why: str, where: str) -> CheckpointError:
    return CheckpointError(f"the savepoint is damaged: {why}", where=where, fix="use another one, or a backup of it")


def check_name(name: str) -> None:
    """CheckpointError unless the name can be one: letters, digits, '.', '_' and '-', no dot at its start."""
    if not re.fullmatch(r"[\w-][\w.-]*", name, re.ASCII):
        raise CheckpointError(
            f"{name!r} is not a name for a savepoint", fix="use letters, digits, '.', '_' and '-', no '.' at the start"
        )


def savepoint_key(app: str, name: str) -> str:
    """Where a savepoint lies."""
    check_name(name)
    return f"{place(app)}/savepoints/{name}.json"


def data_place(app: str, name: str) -> str:
    """Below it lie its data."""
    check_name(name)
    return f"{place(app)}/savepoints/{name}"


def load(location: Location, app: str, name: str) -> Savepoint | None:
    """A savepoint; None if there is none of this name."""
    key = savepoint_key(app, name)
    data = location.read(key)
    if data is None:
        return None
    savepoint = decode(data, f"{location.url}/{key}")
    if (savepoint.app, savepoint.name) != (app, name):
        raise _damaged(f"it is {savepoint.name!r} of {savepoint.app!r}", f"{location.url}/{key}")
    return savepoint


@dataclass(frozen=True)
class Listed:
    """A savepoint in a list: None and a problem where it cannot be read."""

    name: str
    savepoint: Savepoint | None
    problem: str = ""


def list_savepoints(location: Location, app: str) -> list[Listed]:
    """All savepoints of an app, the oldest first; damaged ones at the end."""
    prefix, found = f"{place(app)}/savepoints/", []
    for each in location.objects(prefix.rstrip("/")):
        match = re.fullmatch(r"([\w-][\w.-]*)\.json", each.key.removeprefix(prefix))
        if match is None:
            continue
        try:
            savepoint = load(location, app, match[1])
        except CheckpointError as error:
            found.append(Listed(match[1], None, error.what))
        else:
            if savepoint is not None:
                found.append(Listed(match[1], savepoint))
    return sorted(found, key=lambda x: (x.savepoint is None, x.savepoint.time if x.savepoint else 0, x.name))


def delete(location: Location, app: str, name: str) -> bool:
    """Delete a savepoint, then its data; whether there was any. One that is damaged or unfinished is deleted, too."""
    key = savepoint_key(app, name)
    there = location.read(key) is not None
    location.delete([key])
    data = location.objects(data_place(app, name))
    location.delete([o.key for o in data])
    location.delete([key])  # of one that was finished meanwhile: without its data it is none
    return there or bool(data)


class Writing:
    """The data of a savepoint that is being made: nothing of it counts before `finish`."""

    def __init__(self, location: Location, app: str, name: str) -> None:
        self._location, self._app, self._name = location, app, name
        self._attempt, self._count = secrets.token_hex(8), 0
        self.size = 0

    def put(self, data: bytes) -> Stored:
        """Write an object."""
        key = f"{self._attempt}/{self._count}"
        self._location.write(f"{data_place(self._app, self._name)}/{key}", iter((data,)), len(data))
        self._count, self.size = self._count + 1, self.size + len(data)
        return Stored(key, len(data), sha256(data).hexdigest())

    def finish(self, savepoint: Savepoint) -> None:
        """Write the savepoint itself, if there is none of this name; then delete what killed attempts have left.

        CheckpointError, and nothing is left, if somebody has deleted the name meanwhile, and with it what was written.
        """
        if not self._location.create(savepoint_key(self._app, self._name), encode(savepoint)):
            raise exists(self._location, self._app, self._name)
        prefix = data_place(self._app, self._name)
        there = [o.key for o in self._location.objects(prefix)]
        ours = {key for key in there if key.startswith(f"{prefix}/{self._attempt}/")}
        if len(ours) < self._count:
            self._location.delete([savepoint_key(self._app, self._name), *ours])
            raise CheckpointError(
                f"the savepoint {self._name!r} of {self._app!r} was deleted while it was being made",
                where=self._location.url,
                fix="take it again, when nobody deletes it",
            )
        self._location.delete([key for key in there if key not in ours])


def exists(location: Location, app: str, name: str) -> CheckpointError:
    """There is one of this name."""
    return CheckpointError(
        f"there is a savepoint {name!r} of {app!r} already",
        where=location.url,
        fix=f"choose another name, or delete it: streams savepoint delete {name} --app {app}",
    )


def damages(location: Location, savepoint: Savepoint) -> Iterator[tuple[str, str]]:
    """What is wrong with a savepoint's data, all of which is read: the key of each such object, and what it is."""
    for stored in savepoint.objects:
        try:
            for _ in read(location, savepoint, [stored]):
                pass
        except LocationUnreachable:
            raise
        except CheckpointError as error:
            yield f"{data_place(savepoint.app, savepoint.name)}/{stored.key}", error.what


def read(location: Location, savepoint: Savepoint, objects: Sequence[Stored]) -> Iterator[bytes]:
    """The contents of objects of a savepoint, each checked by size and hash: CheckpointError if one is not whole."""
    for stored in objects:
        key = f"{data_place(savepoint.app, savepoint.name)}/{stored.key}"
        data = location.read(key)
        if data is None:
            raise _damaged("an object of it is missing", f"{location.url}/{key}")
        if len(data) != stored.size or sha256(data).hexdigest() != stored.hash:
            raise _damaged("an object of it is not what it was", f"{location.url}/{key}")
        yield data
