"""Manifests: what a snapshot of a task consists of, and the keys under which things lie.

    <location>/<app>/token                                   who sees the same location
    <location>/<app>/<task>/manifests/<number>.json          one a snapshot, written last, never changed
    <location>/<app>/<task>/objects/<SHA-256>-<upload>       files, named by their content and by who uploaded them

A task is named `<sub-topology>-<partition>`. Numbers rise by one; the highest is never deleted. No two uploads have one
name: what a sweep has decided to delete stays what it was, however long the sweep then stands still.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

import msgspec

from streams.checkpoint.location import Location, Stored
from streams.core.errors import CheckpointError
from streams.state.base import Mark

VERSION = 2
"""The version of the manifest's format. In 1 an object was named by its content alone."""


class File(msgspec.Struct, frozen=True):
    """A file of a store: its name there, its size in bytes, the SHA-256 of its content in hex, and which upload has
    brought its object (random; empty for one of version 1)."""

    name: str
    size: int
    hash: str
    upload: str = ""

    @property
    def object(self) -> str:
        """The last part of its object's key."""
        return f"{self.hash}-{self.upload}" if self.upload else self.hash


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot. `time`: milliseconds since the epoch; `name`: that of a savepoint, which is kept until it is deleted
    by hand; `writer` differs between all who write manifests.

    >>> made = Manifest(app="a", task="0-1", number=7, fingerprint="f", store_format=1, sequence=3, topic_id="t",
    ...                 offset=9, position=b"p", time=0, writer="w", files=())
    >>> decode(encode(made), "here") == made, made.mark
    (True, Mark(sequence=3, topic_id='t', offset=9, position=b'p'))
    """

    version: int = VERSION
    app: str
    task: str
    number: int
    fingerprint: str
    store_format: int
    sequence: int
    topic_id: str
    offset: int
    position: bytes
    time: int
    writer: str
    name: str = ""
    files: tuple[File, ...]

    @property
    def mark(self) -> Mark:
        """Where the store stands."""
        return Mark(self.sequence, self.topic_id, self.offset, self.position)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


class _Envelope(msgspec.Struct):
    """What is stored: the manifest's JSON and its SHA-256, so that damage to a manifest is found, too."""

    sha256: str
    manifest: msgspec.Raw


@dataclass(frozen=True)
class Listed:
    """A manifest as it lies there; `manifest` is None and `problem` says why if it cannot be used."""

    key: str
    number: int
    data: bytes
    manifest: Manifest | None
    problem: str = ""


def encode(manifest: Manifest) -> bytes:
    """The bytes of a manifest."""
    body = msgspec.json.encode(manifest)
    return msgspec.json.encode(_Envelope(sha256(body).hexdigest(), msgspec.Raw(body)))


def decode(data: bytes, where: str) -> Manifest:
    """The manifest; `CheckpointError` if it is damaged or of a newer version."""
    try:
        envelope = msgspec.json.decode(data, type=_Envelope)
        if sha256(envelope.manifest).hexdigest() != envelope.sha256:
            raise CheckpointError("a manifest is damaged: its hash differs", where=where)
        version = msgspec.json.decode(envelope.manifest).get("version")
        if version not in range(1, VERSION + 1):
            raise CheckpointError(
                f"a manifest has version {version}, this program knows up to {VERSION}",
                where=where,
                fix="run the program that wrote it, or a newer one",
            )
        manifest = msgspec.json.decode(envelope.manifest, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CheckpointError(f"a manifest is damaged: {error}", where=where) from error
    for file in manifest.files:  # a name becomes a path on this machine, an object becomes a key
        if not re.fullmatch(r"[\w.+-]+", file.name) or set(file.name) == {"."} or not OBJECT.fullmatch(file.object):
            raise CheckpointError(f"a manifest names a file {file.name!r} that no store has", where=where)
    return manifest


HASH = "[0-9a-f]{64}"
OBJECT = re.compile(f"({HASH})(?:-([0-9a-f]+))?")
"""The name of an object: hash and upload."""


def place(app: str, task: str = "") -> str:
    """The prefix of an app, or of a task of it."""
    for part in filter(None, (app, task)):
        if not re.fullmatch(r"[\w.-]+", part, re.ASCII) or set(part) == {"."}:
            raise CheckpointError(f"{part!r} cannot be part of a key", fix="use letters, digits, '.', '_' and '-'")
    return f"{app}/{task}" if task else app


def manifest_key(app: str, task: str, number: int) -> str:
    """Where a manifest lies."""
    return f"{place(app, task)}/manifests/{number:012d}.json"


def object_key(app: str, task: str, file: File) -> str:
    """Where a file lies."""
    return f"{place(app, task)}/objects/{file.object}"


def stored(location: Location, app: str, task: str) -> dict[int, Stored]:
    """A task's manifests by number, rising, as they are listed. One request."""
    found = location.objects(f"{place(app, task)}/manifests")
    matches = ((re.fullmatch(r".*/(\d{12})\.json", each.key), each) for each in found)
    return {int(match[1]): each for match, each in matches if match}


def load(location: Location, app: str, task: str, number: int) -> Listed | None:
    """A manifest, usable or not; None if it is gone."""
    key = manifest_key(app, task, number)
    data = location.read(key)
    if data is None:
        return None
    where = f"{location.url}/{key}"
    try:
        manifest = decode(data, where)
        if (manifest.app, manifest.task, manifest.number) != (app, task, number):
            raise CheckpointError("a manifest lies under a key that is not its own", where=where)
        return Listed(key, number, data, manifest)
    except CheckpointError as error:
        return Listed(key, number, data, None, error.what)


def list_manifests(location: Location, app: str, task: str) -> list[Listed]:
    """A task's manifests by rising number, unusable ones included."""
    loaded = (load(location, app, task, number) for number in stored(location, app, task))
    return [each for each in loaded if each is not None]


@dataclass(frozen=True)
class History:
    """Which snapshots of a task are of the history that a worker goes on with.

    The worker opened the task at commit `opened`, and stands at `mark` now; its own manifests since then bear `writer`.
    What else lies beyond `opened` is either of commits that the log has lost (brokers without power), or of a worker
    that has taken the task over since; what is of another changelog topic, of one that was deleted, or of another
    application of the same name, on another log.

    >>> history = History(Mark(7, "t", 70, b""), opened=5, writer="w")
    >>> history.has("t", 4, "x"), history.has("t", 6, "w"), history.has("t", 6, "x"), history.has("old", 4, "x")
    (True, True, False, False)
    """

    mark: Mark
    opened: int
    writer: str

    def has(self, topic_id: str, sequence: int, writer: str) -> bool:
        known = sequence <= self.opened or writer == self.writer
        return topic_id == self.mark.topic_id and sequence <= self.mark.sequence and known

    def retained(
        self, manifests: Iterable[Manifest], keep: int, settled: Callable[[Manifest], bool] = lambda manifest: True
    ) -> list[Manifest]:
        """The manifests without a name that are kept: of this history the `keep` with the highest sequences, best
        first; and if none of them is `settled` (see `Log.durable_after`) those down to the first one that is: a power
        failure may take the commits of all the others, while their deletion of older ones would last.

        By sequence and not by number: what a worker writes late, for a task that it has lost, has a lower sequence and
        must not push out the owner's.
        """
        mine = [m for m in manifests if not m.name and self.has(m.topic_id, m.sequence, m.writer)]
        mine.sort(key=lambda m: (m.sequence, m.number), reverse=True)
        first = next((index for index, manifest in enumerate(mine) if settled(manifest)), len(mine))
        return mine[: max(keep, first + 1)]


def tasks(location: Location, app: str) -> Sequence[str]:
    """The tasks of an app that have something in the location."""
    return [name for name in location.parts(place(app)) if re.fullmatch(r"\d+-\d+", name)]
