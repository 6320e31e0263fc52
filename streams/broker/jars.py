"""The jars of Apache Kafka, pinned by version and hash, fetched once into the user's cache.

`jars.lock` beside this file names every jar with its SHA-256. `class_path()` returns them verified and fetches what
is missing, through jgo, which speaks to the Maven repositories (those of jgo's own settings file first, so that a
mirror works). No Maven, no Java and no resolution of versions take part: what is not in the lock does not run.

Change KAFKA and run `make lock-broker` to write the lock anew.
"""

import hashlib
import os
import tempfile
import tomllib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from streams.broker.errors import MISSING_EXTRA, BrokerError
from streams.broker.process import alone

KAFKA = "4.3.1"
ROOT = f"org.apache.kafka:kafka_2.13:{KAFKA}"
# Kafka's own pom leaves out the bridge that lets its log lines reach log4j.
LOG_BRIDGE = ("org.apache.logging.log4j:log4j-core", "org.apache.logging.log4j:log4j-slf4j-impl")

LOCK = Path(__file__).with_name("jars.lock")
TRIES = 3


def cache_directory() -> Path:
    """Where the jars live: `$XDG_CACHE_HOME/streams/kafka-VERSION`, or below `~/.cache`.

    >>> cache_directory().name == f"kafka-{KAFKA}"
    True
    """
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "streams" / f"kafka-{KAFKA}"


def class_path(cache: Path | None = None, lock: Path = LOCK) -> list[Path]:
    """Every jar of the lock, verified; several processes may call it at the same time.

    Raises BrokerError where the extra is not installed, a jar cannot be fetched or its hash is wrong.
    """
    hashes = read_lock(lock)
    cache = cache or cache_directory()
    try:
        if _damaged(hashes, cache):
            cache.mkdir(parents=True, exist_ok=True)
            with alone(cache):
                _fetch(_damaged(hashes, cache), cache)  # asked again: another process may have been at it
    except (OSError, RuntimeError) as error:
        raise BrokerError(
            f"the jars of Kafka {KAFKA} cannot be had: {error}",
            where=str(cache),
            fix="check the network (jgo's settings file can name a mirror) and the directory (XDG_CACHE_HOME moves it)",
        ) from error
    return [cache / _file_name(coordinate) for coordinate in hashes]


def read_lock(lock: Path = LOCK) -> Mapping[str, str]:
    """Coordinate (group:artifact:version) to SHA-256.

    >>> ROOT in read_lock()
    True
    """
    hashes: dict[str, str] = tomllib.loads(lock.read_text())["jars"]
    return hashes


def write_lock(lock: Path = LOCK) -> None:
    """Resolve ROOT anew and write what it needs, with hashes; for maintainers (`make lock-broker`)."""
    try:
        import jgo
    except ImportError as error:
        raise BrokerError("the package jgo is not installed", fix=MISSING_EXTRA) from error
    found = [f"{jar.groupId}:{jar.artifactId}:{jar.version}" for jar in jgo.resolve(ROOT)]
    # Not resolved as a second root: jgo would take its pom as a manager of versions and turn Kafka's own back.
    core, bridge = LOG_BRIDGE
    found += [f"{bridge}:{coordinate.rsplit(':', 1)[1]}" for coordinate in found if coordinate.startswith(f"{core}:")]
    with tempfile.TemporaryDirectory() as scratch:
        hashes = {name: _hash(_download(name, Path(scratch))) for name in sorted(found)}
    lines = [f'"{name}" = "{digest}"' for name, digest in hashes.items()]
    lock.write_text("\n".join(["# Written by `make lock-broker`: SHA-256 by coordinate.", "[jars]", *lines, ""]))


def _damaged(hashes: Mapping[str, str], cache: Path) -> Mapping[str, str]:
    """The part of `hashes` whose jars are missing or are not what they should be."""

    def is_damaged(coordinate: str) -> bool:
        jar = cache / _file_name(coordinate)
        return not jar.exists() or _hash(jar) != hashes[coordinate]

    return {coordinate: hashes[coordinate] for coordinate in hashes if is_damaged(coordinate)}


def _fetch(hashes: Mapping[str, str], cache: Path) -> None:
    """Bring each jar whole into the cache or not at all."""
    with tempfile.TemporaryDirectory(dir=cache) as scratch, ThreadPoolExecutor(8) as pool:

        def fetch(coordinate: str) -> None:
            jar = _download(coordinate, Path(scratch))
            if _hash(jar) != hashes[coordinate]:
                raise RuntimeError(
                    f"{coordinate} has the SHA-256 {_hash(jar)}, not the {hashes[coordinate]} of the lock"
                )
            jar.replace(cache / _file_name(coordinate))

        for _ in pool.map(fetch, hashes):
            pass


def _download(coordinate: str, directory: Path) -> Path:
    try:
        from jgo.config import GlobalSettings
        from jgo.constants import MAVEN_CENTRAL_URL
        from jgo.maven import MavenContext
    except ImportError as error:
        raise BrokerError("the package jgo is not installed", fix=MISSING_EXTRA) from error
    remotes = {**GlobalSettings.load().repositories, "central": MAVEN_CENTRAL_URL}
    context = MavenContext(repo_cache=directory, remote_repos=remotes, timeout=60)
    group, name, version = coordinate.split(":")
    artifact = context.project(group, name).at_version(version).artifact()
    for tries_left in reversed(range(TRIES)):
        try:
            return Path(artifact.resolve())
        except (OSError, RuntimeError):
            if not tries_left:
                raise
            if artifact.cached_path is not None:
                artifact.cached_path.unlink(missing_ok=True)
    raise AssertionError("not reached")


def _file_name(coordinate: str) -> str:
    _, name, version = coordinate.split(":")
    return f"{name}-{version}.jar"


def _hash(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


if __name__ == "__main__":
    write_lock()
