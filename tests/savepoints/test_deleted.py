"""A savepoint that somebody deletes while it is being made is none: it must not look whole without its data."""

import pytest

from streams.checkpoint.location import Location
from streams.checkpoint.savepoint import Savepoint, Writing, delete, list_savepoints
from streams.core.errors import CheckpointError


def saved() -> Savepoint:
    return Savepoint(app="app", name="one", time=0, fingerprint="f", topology="", subs=(), tasks=())


def test_what_was_deleted_meanwhile_is_not_finished(tmp_path):
    location = Location(str(tmp_path / "location"))
    writing = Writing(location, "app", "one")
    writing.put(b"state")
    assert delete(location, "app", "one")
    writing.put(b"more")
    with pytest.raises(CheckpointError, match="was deleted while it was being made"):
        writing.finish(saved())
    assert list_savepoints(location, "app") == []
    assert location.objects("app/savepoints") == []


def test_what_is_finished_while_it_is_deleted_is_deleted(tmp_path, monkeypatch):
    location = Location(str(tmp_path / "location"))
    writing, objects = Writing(location, "app", "one"), location.objects
    writing.put(b"state")

    def finished_before(prefix):
        monkeypatch.setattr(location, "objects", objects)
        writing.finish(saved())
        return objects(prefix)

    monkeypatch.setattr(location, "objects", finished_before)
    assert delete(location, "app", "one")
    assert list_savepoints(location, "app") == []
