"""Getting a task's store back from the newest snapshot that fits, in a thread of its own."""

import os
import secrets
import shutil
import threading
from collections.abc import Collection
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from streams.checkpoint.location import Location
from streams.checkpoint.manifest import File, Manifest, list_manifests, object_key
from streams.checkpoint.snapshotter import Abandoned
from streams.core.errors import CheckpointError, DiskFull, StateError, StreamsError


@dataclass(frozen=True)
class Restored:
    """How a restore ended. `manifest` is that of the snapshot now in the directory; None: replay the whole changelog.

    `notes`: what was passed over and why, for the log. `damaged`: hashes of objects that are missing or not what they
    should be: give them to the next `Job` as `again`. `error`: why the location could not be asked to the end.
    """

    manifest: Manifest | None
    notes: list[str] = field(default_factory=list)
    damaged: frozenset[str] = frozenset()
    error: StreamsError | None = None


_PARTIAL = ".restoring-"  # and a random word: an abandoned restore may still be at work when the next one begins


class _Damaged(Exception):
    """An object is missing or is not what its name says."""


class Restore:
    """Downloads the newest snapshot that fits into `directory`, which must not exist or be empty.

    Fits: of this changelog (`topic_id`), not beyond the lease's commit (`max_sequence`), not before the changelog's
    start (`min_offset`), of a layout that is known (`store_format`). One with damage is passed over and the next older
    one is taken; what lies in the directory in the end was checked by size and hash. Those in `doubted` (number and
    writer), whose stores were found to be damaged inside, come last, and not at all where the changelog alone will do
    (`min_offset` 0). The directory is made in one step at the end; a process that dies leaves
    `<directory>.restoring-*`, which the next restore deletes.

    Restores hold no lease on the objects: only the task's owner restores, and only the owner's new snapshots could push
    the one that is read out. If a late writer does it all the same, objects are missing, and the list is read anew.

    `progress` is (bytes done, bytes in all). All methods return at once, apart from `wait`.
    """

    def __init__(
        self,
        location: Location,
        app: str,
        task: str,
        directory: Path,
        *,
        max_sequence: int,
        topic_id: str,
        min_offset: int = 0,
        store_format: int = 1,
        doubted: Collection[tuple[int, str]] = (),
    ) -> None:
        self._location, self._app, self._task, self._directory = location, app, task, directory
        self._most, self._topic, self._least, self._format = max_sequence, topic_id, min_offset, store_format
        self._doubted = set(doubted)
        self.progress = (0, 0)
        self._stopped, self._result = False, None
        self._moving = threading.Lock()  # held while the directory is made
        self._partial = directory.with_name(f"{directory.name}{_PARTIAL}{secrets.token_hex(4)}")
        self._notes: list[str] = []
        self._damaged: set[str] = set()
        self._thread = threading.Thread(target=self._work, name=f"restore {task}", daemon=True)
        self._thread.start()

    _result: Restored | None

    def poll(self) -> Restored | None:
        """The result, None while there is none. An abandoned restore has the result of one that found nothing."""
        return self._result

    def wait(self) -> Restored:
        """Wait for the result."""
        self._thread.join()
        assert self._result is not None
        return self._result

    def close(self) -> None:
        """Give up: the directory is not made any more. The thread ends aside, with the next chunk that it gets."""
        with self._moving:
            self._stopped = True

    def _work(self) -> None:
        manifest, error = None, None
        try:
            for left in self._directory.parent.glob(f"{self._directory.name}{_PARTIAL}*"):
                shutil.rmtree(left, ignore_errors=True)
            manifest = self._choose()
        except Abandoned:
            self._notes.append("abandoned")
        except StreamsError as failed:
            error = failed
        except Exception as failed:
            error = CheckpointError(f"restoring failed: {failed!r}", where=f"{self._location.url}, task {self._task}")
        shutil.rmtree(self._partial, ignore_errors=True)
        self._result = Restored(manifest, list(self._notes), frozenset(self._damaged), error)

    def _choose(self) -> Manifest | None:
        bad: set[tuple[int, str]] = set()
        while True:
            candidates = [m for m in self._fitting() if (m.number, m.writer) not in bad]
            if not candidates:
                return None
            for manifest in candidates:
                try:
                    self._download(manifest)
                    return manifest
                except _Damaged as damaged:
                    bad.add((manifest.number, manifest.writer))
                    self._note(f"snapshot {manifest.number} is passed over: {damaged}")
            # All are damaged, or were deleted meanwhile: perhaps there are others by now.

    def _fitting(self) -> list[Manifest]:
        """Best first."""
        found: list[Manifest] = []
        last: list[Manifest] = []
        for listed in list_manifests(self._location, self._app, self._task):
            manifest, why = listed.manifest, listed.problem
            if manifest is None:
                pass
            elif manifest.topic_id != self._topic:
                why = "it belongs to another changelog"
            elif manifest.sequence > self._most:
                why = f"it stands at commit {manifest.sequence}, the task at {self._most}"
            elif manifest.offset < self._least:
                why = f"the changelog begins at {self._least}, after its offset {manifest.offset}"
            elif manifest.store_format > self._format:
                why = f"its store has layout {manifest.store_format}, this program knows up to {self._format}"
            else:
                if (manifest.number, manifest.writer) not in self._doubted:
                    found.append(manifest)
                    continue
                why = "a store that was made from it was damaged"
                if self._least:
                    last.append(manifest)
            self._note(f"snapshot {listed.number} is passed over: {why}")
        return _newest_first(found) + _newest_first(last)

    def _note(self, text: str) -> None:
        if text not in self._notes:
            self._notes.append(text)

    def _download(self, manifest: Manifest) -> None:
        self.progress, partial = (0, manifest.size), self._partial
        self._wanted()
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(mode=0o700, parents=True)
            for file in manifest.files:
                for attempt in (1, 2):
                    before = self.progress[0]
                    if self._fetch(file, partial / file.name):
                        break
                    self.progress = (before, manifest.size)
                    if attempt == 2:
                        self._damaged.add(file.hash)
                        raise _Damaged(f"{file.name} is missing or damaged (object {file.object})")
            with self._moving:
                self._wanted()
                if self._directory.exists():
                    self._directory.rmdir()
                os.rename(partial, self._directory)
        except OSError as error:
            where = str(self._directory)
            if error.errno == 28:
                fix = "make room; nothing is lost, the task is restored then"
                raise DiskFull("no space left (restoring a snapshot)", where=where, fix=fix) from error
            raise StateError(f"restoring a snapshot failed: {error}", where=where) from error

    def _fetch(self, wanted: File, path: Path) -> bool:
        """Whether the object was there and whole."""
        chunks = self._location.stream(object_key(self._app, self._task, wanted))
        if chunks is None:
            return False
        found, digest = 0, sha256()
        with path.open("wb") as file:
            for chunk in chunks:
                self._wanted()
                found += len(chunk)
                if found > wanted.size:
                    return False
                digest.update(chunk)
                file.write(chunk)
                self.progress = (self.progress[0] + len(chunk), self.progress[1])
        return found == wanted.size and digest.hexdigest() == wanted.hash

    def _wanted(self) -> None:
        if self._stopped:
            raise Abandoned


def _newest_first(manifests: list[Manifest]) -> list[Manifest]:
    return sorted(manifests, key=lambda m: (m.sequence, m.number), reverse=True)
