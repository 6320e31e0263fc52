"""What looks after a location: its token, the collection of garbage, and a check of everything in it."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

from streams.checkpoint.location import Location
from streams.checkpoint.manifest import Listed, list_manifests, object_key, place, tasks
from streams.checkpoint.snapshotter import LONGEST
from streams.core.errors import CheckpointError

DAY = 24 * 3600.0


def token(location: Location, app: str) -> str:
    """The random text that identifies this location for this app; made by the first who asks.

    Workers that see different tokens do not see the same location, even if its path is the same on each machine.

    >>> from tempfile import TemporaryDirectory
    >>> temporary = TemporaryDirectory(); location = Location(temporary.name)
    >>> token(location, "app") == token(location, "app")
    True
    >>> temporary.cleanup()
    """
    key = f"{place(app)}/token"
    while True:
        found = location.read(key)
        if found is not None:
            return found.decode("ascii", "replace")
        location.create(key, secrets.token_hex(16).encode())


@dataclass(frozen=True)
class Collected:
    """What a collection deleted and left: numbers of objects, and bytes deleted."""

    deleted: int
    bytes: int
    kept: int


def collect(location: Location, app: str, *, min_age: float = DAY) -> Collected:
    """Delete the objects that no manifest names and that are older than `min_age` seconds. May run at any time.

    Task by task: 1. list the objects; 2. read all manifests, until they stay the same; 3. delete what was listed, is
    old, and is named by none. Nothing is deleted of a task one of whose manifests cannot be read. In a directory, what
    killed uploads left behind is deleted, too.

    Safe beside uploads: see `Snapshotter`. Safe beside restores: see `Restore`. `min_age` must be twice as long as the
    longest upload, which also covers clocks that differ by hours.
    """
    if min_age < 2 * LONGEST:
        raise CheckpointError(
            f"a minimum age of {min_age:.0f} s is below twice the longest upload",
            fix=f"give at least {2 * LONGEST:.0f}",
        )
    deleted = size = kept = 0
    for task in tasks(location, app):
        objects = location.objects(f"{place(app, task)}/objects")
        manifests = _all(location, app, task)
        named = {object_key(app, task, f.hash) for m in manifests if m.manifest for f in m.manifest.files}
        whole = all(m.manifest is not None for m in manifests)
        gone = [o for o in objects if whole and o.key not in named and o.age > min_age]
        location.delete([o.key for o in gone])
        deleted, size, kept = deleted + len(gone), size + sum(o.size for o in gone), kept + len(objects) - len(gone)
    for file, age in location.leftovers(place(app)):
        if age > min_age:
            file.unlink(missing_ok=True)
    return Collected(deleted, size, kept)


def _all(location: Location, app: str, task: str) -> list[Listed]:
    """The manifests as they are at one time: read until the list is the same before and after."""
    before = list_manifests(location, app, task)
    while (now := list_manifests(location, app, task)) != before:
        before = now
    return before


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be: its key, and what is wrong."""

    key: str
    what: str

    def __str__(self) -> str:
        return f"{self.key}: {self.what}"


def verify(location: Location, app: str) -> Iterator[Finding]:
    """Read everything that manifests name, and tell what is damaged or missing. Nothing is told of what is whole.

    Reads each object once, in chunks. What is deleted meanwhile, because a newer snapshot has come, is no finding.
    """
    for task in tasks(location, app):
        checked: dict[str, str] = {}
        for listed in list_manifests(location, app, task):
            if listed.manifest is None:
                yield Finding(listed.key, listed.problem)
                continue
            for file in listed.manifest.files:
                key = object_key(app, task, file.hash)
                if key not in checked:
                    checked[key] = _wrong(location, key, file.hash, file.size)
                if checked[key] and location.read(listed.key) is not None:
                    yield Finding(key, f"{checked[key]} ({file.name} of snapshot {listed.number} of task {task})")


def _wrong(location: Location, key: str, hash: str, size: int) -> str:
    chunks = location.stream(key)
    if chunks is None:
        return "the object is missing"
    found, digest = 0, sha256()
    for chunk in chunks:
        found += len(chunk)
        digest.update(chunk)
    if found != size:
        return f"the object has {found} bytes instead of {size}"
    return "" if digest.hexdigest() == hash else "the object's content is not what its hash says"
