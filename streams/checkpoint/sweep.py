"""Which objects of a task no snapshot needs any more, and their deletion."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from streams.checkpoint.location import Location, Stored
from streams.checkpoint.manifest import Listed, list_manifests, object_key, place
from streams.core.clock import Clock
from streams.core.errors import CheckpointError, StreamsError

LONGEST = 6 * 3600.0
"""Seconds after which an upload gives up: what it has uploaded could be swept."""

DAY = 24 * 3600.0

SWEEP = 3 * 3600.0
"""Seconds from one sweep of a task by its worker to the next one, about: one costs a dozen requests."""

_AT_ONCE = 1000


@dataclass(frozen=True)
class Collected:
    """What was deleted and left: numbers of objects, and bytes deleted. `problem`: why nothing was."""

    deleted: int = 0
    bytes: int = 0
    kept: int = 0
    problem: str = ""


def sweep(
    location: Location,
    app: str,
    task: str,
    *,
    objects: Sequence[Stored] | None = None,
    min_age: float = DAY,
    dry_run: bool = False,
    stopped: Callable[[], bool] = lambda: False,
) -> Collected:
    """Delete the objects of a task that no manifest names and that are older than `min_age` seconds.

    1. List the objects (`objects`: they have been). 2. Read all manifests, until they stay the same. 3. Delete what was
    listed, is old, and is named by none; nothing at all if one of the manifests cannot be read. In a directory, what
    killed uploads left behind is deleted, too.

    May run at any time, by whoever, several at once, and stand still at any point for as long as it likes: what 3. has
    found is never named again. A manifest names what its base named, or what was uploaded in the hours before (see
    `Snapshotter`), and no two uploads have one name. `min_age` must be twice as long as the longest upload, which also
    covers clocks that differ by hours. Restores: see `Restore`.

    `stopped` is asked between requests: if so, the rest is left. With `dry_run` it only counts.
    """
    if objects is None:
        objects = location.objects(f"{place(app, task)}/objects")
    manifests = _all(location, app, task)
    left = [(file, stored) for file, stored in location.leftovers(place(app, task)) if stored.age > min_age]
    size = sum(stored.size for _, stored in left)
    if not dry_run:
        for file, _ in left:
            file.unlink(missing_ok=True)
    unread = [m for m in manifests if m.manifest is None]
    if unread:
        problem = f"snapshot {unread[0].number} cannot be read, so what it needs is not known: {unread[0].problem}"
        return Collected(len(left), size, len(objects), problem)
    named = {object_key(app, task, f) for m in manifests if m.manifest for f in m.manifest.files}
    gone = [o for o in objects if o.key not in named and o.age > min_age]
    for first in range(0, len(gone), _AT_ONCE):
        if stopped():
            gone = gone[:first]
            break
        if not dry_run:
            location.delete([o.key for o in gone[first : first + _AT_ONCE]])
    return Collected(len(left) + len(gone), size + sum(o.size for o in gone), len(objects) - len(gone))


def _all(location: Location, app: str, task: str) -> list[Listed]:
    """The manifests as they are at one time: read until the list is the same before and after."""
    before = list_manifests(location, app, task)
    while (now := list_manifests(location, app, task)) != before:
        before = now
    return before


class Sweeper:
    """When a worker sweeps which of its tasks: each about every `every` seconds."""

    def __init__(self, location: Location, app: str, clock: Clock, every: float) -> None:
        self._location, self._app, self._clock, self._every = location, app, clock, every
        self._next: dict[str, float] = {}

    def turn(
        self, task: str, objects: Sequence[Stored], stopped: Callable[[], bool]
    ) -> tuple[Collected | None, StreamsError | None]:
        """Sweep the task if it is time: what was found, or why it failed, or neither. Never raises."""
        now = self._clock.monotonic()
        # The first time at random, too: who is started again every hour sweeps no less often, and no more.
        if now < self._next.setdefault(task, now + self._every * secrets.randbelow(1000) / 1000):
            return None, None
        self._next[task] = now + self._every * (0.5 + secrets.randbelow(1000) / 1000)
        try:
            return sweep(self._location, self._app, task, objects=objects, stopped=stopped), None
        except StreamsError as error:
            return None, error
        except Exception as error:
            return None, CheckpointError(f"it failed: {error!r}", where=f"{self._location.url}, task {task}")
