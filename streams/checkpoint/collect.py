"""What looks after a location: its token, the collection of garbage, and a check of everything in it."""

import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256

from streams.checkpoint.location import Location
from streams.checkpoint.manifest import File, list_manifests, object_key, place, tasks
from streams.checkpoint.sweep import DAY as DAY
from streams.checkpoint.sweep import LONGEST, Collected, sweep
from streams.core.errors import CheckpointError

_CONTENT = "the object's content is not what its hash says"


def token(location: Location, app: str) -> str:
    """The random text that identifies this location for this app; made by the first who asks.

    Workers that see different tokens do not see the same location, even if its path is the same on each machine.

    >>> from tempfile import TemporaryDirectory
    >>> temporary = TemporaryDirectory(); location = Location(temporary.name)
    >>> token(location, "app") == token(location, "app")
    True
    >>> temporary.cleanup()
    """
    key = token_key(app)
    while True:
        found = location.read(key)
        if found is not None:
            return found.decode("ascii", "replace")
        location.create(key, secrets.token_hex(16).encode())


def token_key(app: str) -> str:
    """Where the token lies."""
    return f"{place(app)}/token"


def collect(location: Location, app: str, *, min_age: float = DAY) -> Collected:
    """Sweep all tasks of an app, those that nobody works on any more included (see `sweep`). May run at any time.

    Workers sweep the tasks that they hold by themselves. `problem` is that of the last task that has one.
    """
    return total(found for _, found in collected(location, app, min_age=min_age))


def collected(
    location: Location, app: str, *, min_age: float = DAY, dry_run: bool = False
) -> Iterator[tuple[str, Collected]]:
    """The same task by task, as it is done; with `dry_run` only what would be."""
    if min_age < 2 * LONGEST:
        raise CheckpointError(
            f"a minimum age of {min_age:.0f} s is below twice the longest upload",
            fix=f"give at least {2 * LONGEST:.0f} s ({2 * LONGEST / 3600:.0f} hours)",
        )
    for task in tasks(location, app):
        yield task, sweep(location, app, task, min_age=min_age, dry_run=dry_run)


def total(found: Iterable[Collected]) -> Collected:
    """The sum of several."""
    each = list(found)
    problems = [c.problem for c in each if c.problem]
    return Collected(
        sum(c.deleted for c in each),
        sum(c.bytes for c in each),
        sum(c.kept for c in each),
        problems[-1] if problems else "",
    )


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be: its key, and what is wrong; the task, and the key of the snapshot.

    `hidden`: the object has the right size, so that who takes the next snapshot counts on it and does not mend it,
    unless a restore has met it.
    """

    key: str
    what: str
    task: str = ""
    snapshot: str = ""
    hidden: bool = False

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
                yield Finding(listed.key, listed.problem, task, listed.key)
                continue
            for file in listed.manifest.files:
                key = object_key(app, task, file)
                if key not in checked:
                    checked[key] = _wrong(location, key, file)
                if checked[key] and location.read(listed.key) is not None:
                    what = f"{checked[key]} ({file.name} of snapshot {listed.number} of task {task})"
                    yield Finding(key, what, task, listed.key, checked[key] == _CONTENT)


def _wrong(location: Location, key: str, file: File) -> str:
    chunks = location.stream(key)
    if chunks is None:
        return "the object is missing"
    found, digest = 0, sha256()
    for chunk in chunks:
        found += len(chunk)
        digest.update(chunk)
    if found != file.size:
        return f"the object has {found} bytes instead of {file.size}"
    return "" if digest.hexdigest() == file.hash else _CONTENT
