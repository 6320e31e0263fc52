"""The pinned jars: fetched once, verified always."""

import sys
from hashlib import sha256
from pathlib import Path

import pytest

from streams.broker import jars
from streams.broker.errors import BrokerError

NAMES = [f"org.example:lib{number}:1.0" for number in range(20)]


def content(coordinate: str) -> bytes:
    return b"the jar " + coordinate.encode()


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    file = tmp_path / "jars.lock"
    lines = [f'"{name}" = "{sha256(content(name)).hexdigest()}"' for name in NAMES]
    file.write_text("\n".join(["[jars]", *lines]))
    return file


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A repository that has every jar; the names of those that were asked for."""
    asked: list[str] = []

    def download(coordinate: str, directory: Path) -> Path:
        asked.append(coordinate)
        file = directory / coordinate.replace(":", "-")
        file.write_bytes(content(coordinate))
        return file

    monkeypatch.setattr(jars, "_download", download)
    return asked


def test_each_jar_is_fetched_once(tmp_path, lock, fetched):
    paths = jars.class_path(tmp_path / "cache", lock)
    assert [path.read_bytes() for path in paths] == [content(name) for name in NAMES]
    assert paths == jars.class_path(tmp_path / "cache", lock)
    assert sorted(fetched) == sorted(NAMES)


def test_a_damaged_jar_is_fetched_again(tmp_path, lock, fetched):
    paths = jars.class_path(tmp_path / "cache", lock)
    fetched.clear()
    paths[3].write_bytes(b"half a j")
    paths[7].unlink()
    jars.class_path(tmp_path / "cache", lock)
    assert sorted(fetched) == sorted([NAMES[3], NAMES[7]])
    assert paths[3].read_bytes() == content(NAMES[3])


def test_a_jar_that_differs_from_the_lock_never_enters_the_cache(tmp_path, lock, fetched):
    lock.write_text(lock.read_text().replace(sha256(content(NAMES[5])).hexdigest(), "0" * 64))
    with pytest.raises(BrokerError, match=r"lib5:1.0 has the SHA-256"):
        jars.class_path(tmp_path / "cache", lock)
    assert not (tmp_path / "cache" / "lib5-1.0.jar").exists()


def test_what_failed_and_what_to_do_is_said(tmp_path, lock, monkeypatch):
    def download(coordinate: str, directory: Path) -> Path:
        raise ConnectionError("no route")

    monkeypatch.setattr(jars, "_download", download)
    with pytest.raises(BrokerError, match=r"no route(.|\n)*check the network"):
        jars.class_path(tmp_path / "cache", lock)


def test_without_the_extra_it_says_what_to_install(tmp_path, lock, monkeypatch):
    monkeypatch.setitem(sys.modules, "jgo.config", None)
    with pytest.raises(BrokerError, match=r"pip install 'streams\[broker\]'"):
        jars.class_path(tmp_path / "cache", lock)


def test_the_cache_can_be_moved(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert jars.cache_directory().parent == tmp_path / "streams"


def test_the_lock_has_kafka_and_what_it_logs_with():
    names = {coordinate.split(":")[1] for coordinate in jars.read_lock()}
    assert {"kafka_2.13", "kafka-clients", "log4j-core", "log4j-slf4j-impl"} <= names
    versions = {name: version for _, name, version in (coordinate.split(":") for coordinate in jars.read_lock())}
    assert {versions[name] for name in versions if name.startswith("kafka")} == {jars.KAFKA}
