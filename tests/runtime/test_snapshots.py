"""Snapshots of a running worker: taken, trimmed after, restored from, damaged, and kept in the wrong place."""

import re
import shutil
import threading
import time
from hashlib import sha256
from types import SimpleNamespace

import msgspec
import pytest

from streams.checkpoint import manifest as manifests
from streams.checkpoint.collect import DAY, verify
from streams.checkpoint.location import Location
from streams.checkpoint.manifest import list_manifests
from streams.checkpoint.snapshotter import Outcome
from streams.core.clock import ManualClock
from streams.core.errors import CheckpointError, StateCorrupt, StateMismatch
from streams.core.topology import TaskId
from streams.metrics import Metrics
from streams.runtime.snapshots import Snapshots, _Opening
from streams.runtime.task import State
from streams.state.base import Mark
from streams.state.rocksdb import RocksStore
from tests.checkpoint.support import make_files_older
from tests.runtime.shop import PATIENCE, Shop


@pytest.fixture
def shop(tmp_path):
    made = Shop(tmp_path)
    made.start()
    yield made
    if made.worker is not None:
        made.worker.close()
    made.feeder.close()
    made.log.close()


def test_a_lost_machine_comes_back_from_a_snapshot_and_the_tail(shop):
    shop.until_trimmed()
    shop.send()  # the tail
    shop.lose_the_machine()
    shop.start()
    shop.send()
    assert shop.counts() == shop.expected()
    assert not any("from its start" in note for note in shop.notes)
    assert list(verify(Location(str(shop.location)), "shop")) == []


def test_a_damaged_snapshot_is_passed_over_for_an_older_one(shop):
    shop.until_trimmed()
    *before, newest = [each.manifest for each in list_manifests(Location(str(shop.location)), "shop", "0-0")]
    older = {f.object for manifest in before for f in manifest.files}
    only = next(f.object for f in newest.files if f.object not in older)
    file = next(shop.location.rglob(only))
    file.write_bytes(b"x" * file.stat().st_size)
    shop.lose_the_machine()
    shop.start()
    shop.send()
    assert shop.counts() == shop.expected()
    assert any(only[:8] in note for note in shop.notes), shop.notes


def test_a_snapshot_of_a_damaged_store_is_passed_over_once_the_damage_is_met(shop):
    """Every hash is right: the table was damaged before it was uploaded, by a worker that did not look."""
    shop.until_trimmed()
    location = Location(str(shop.location))
    listed = list_manifests(location, "shop", "0-0")[-1]
    manifest, folder = listed.manifest, shop.location / "shop" / "0-0" / "objects"
    table = max((f for f in manifest.files if f.name.endswith(".sst")), key=lambda f: f.size)
    data = (folder / table.object).read_bytes()
    data = bytes([data[0] ^ 1]) + data[1:]
    damaged = msgspec.structs.replace(table, hash=sha256(data).hexdigest())
    (folder / damaged.object).write_bytes(data)
    files = [damaged if f == table else f for f in manifest.files]
    (shop.location / listed.key).write_bytes(manifests.encode(msgspec.structs.replace(manifest, files=tuple(files))))
    shop.lose_the_machine()
    shop.start()
    shop.send()  # the first snapshot reads the whole store
    shop.until(lambda: any("a store that was made from it was damaged" in note for note in shop.notes))
    shop.send()
    assert shop.counts() == shop.expected()


def test_without_its_snapshots_a_trimmed_changelog_is_refused_and_never_taken_for_the_whole(shop):
    shop.until_trimmed()
    shop.lose_the_machine()
    kept = shop.location.rename(shop.directory / "elsewhere")
    with pytest.raises(StateMismatch, match="begins at commit"):  # noqa: PT012
        shop.start()
        shop.until(lambda: shop.worker.complete)
    shop.worker.close()
    shutil.rmtree(shop.location)
    kept.rename(shop.location)
    shop.start()
    shop.send()
    assert shop.counts() == shop.expected()


def test_a_worker_deletes_what_its_snapshots_need_no_more(shop):
    """Every few hours, what is a day old."""
    location, lots = Location(str(shop.location)), 8

    def objects():
        return len(location.objects("shop/0-0/objects"))

    def snapshot():
        have = shop.snapshots()
        shop.send()
        shop.until(lambda: shop.snapshots() > have)

    for _ in range(lots):
        snapshot()
    before = objects()
    make_files_older(shop.location, 2 * DAY)
    snapshot()
    shop.clock.sleep(5 * 3600)
    snapshot()
    sweeps, bytes = shop.worker.metrics.snapshot_sweeps, shop.worker.metrics.snapshot_swept_bytes
    assert sweeps.labels("done")._value.get() >= 1
    assert sweeps.labels("failed")._value.get() == 0
    assert objects() < before
    [note] = [note for note in shop.notes if "that no snapshot needs any more deleted" in note]
    assert note.startswith("task 0/0: ")
    assert bytes._value.get() > 0
    assert list(verify(location, "shop")) == []

    manifest = sorted((shop.location / "shop/0-0/manifests").iterdir())[-1]
    manifest.write_bytes(b"of a newer program")
    shop.clock.sleep(5 * 3600)
    snapshot()
    assert sweeps.labels("failed")._value.get() == 1
    assert any("cannot be read, so what it needs is not known" in note for note in shop.notes)


def test_another_location_is_refused(shop):
    shop.send()
    shop.worker.leave()
    shop.worker.close()
    shop.location = shop.directory / "other"
    with pytest.raises(CheckpointError, match="not the one that task 0/0 was last run with"):  # noqa: PT012
        shop.start()
        shop.until(lambda: shop.worker.complete)


def test_what_a_copy_holds_up_is_measured(shop):
    shop.until_trimmed()
    text = shop.worker.metrics.expose().decode()
    assert 'streams_snapshots_total{outcome="done"}' in text
    assert "streams_snapshot_copy_seconds_count" in text
    assert 'streams_snapshot_time_seconds{task="0/0"}' in text


def test_a_store_that_was_damaged_unnoticed_does_not_spoil_the_snapshots(shop):
    shop.until_trimmed()
    shop.worker.close()
    shop.worker = None
    (store,) = (d for d in (shop.directory / "state" / "shop" / "0").iterdir() if (d / "CURRENT").exists())
    compacted = RocksStore(store, cache_bytes=1)
    for family in compacted._families.values():
        family.compact_range(None, None)  # or a compaction would read the damaged table right at the start
    del family
    compacted.close()
    table = max(store.glob("*.sst"), key=lambda file: file.stat().st_size)  # the small ones are read at the start
    data = table.read_bytes()
    table.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    for _ in range(3):  # more often than snapshots are kept; nothing is read of the store meanwhile
        shop.start()
        shop.until(lambda: shop.snapshots() > 0 and not shop.worker._opening.restoring)
        shop.worker.close()
    assert any("made anew" in note for note in shop.notes)
    shop.start()
    shop.send()
    shop.lose_the_machine()
    shop.start()
    shop.send()
    assert shop.counts() == shop.expected()


def test_a_restore_tells_how_far_it_is(shop, monkeypatch):
    """From the snapshot, and from the changelog behind it; with ours that is over at once, so it tells at each look."""
    monkeypatch.setattr("streams.runtime.progress._EVERY", 0.0)
    shop.until_trimmed()
    shop.send()
    shop.worker.close()
    shutil.rmtree(shop.directory / "state")
    shop.notes.clear()
    shop.start()
    shop.send()
    assert any("task 0/0: restoring a snapshot: " in note for note in shop.notes)
    assert any(re.search(r"task 0/0: replaying the changelog: \d+%, ", note) for note in shop.notes)
    assert shop.counts() == shop.expected()


def test_an_upload_that_takes_long_tells_how_far_it_is(shop, monkeypatch):
    monkeypatch.setattr("streams.runtime.snapshots._TELL", 0.0)
    shop.send()
    shop.worker.close()
    shop.start(upload_bytes=2_000)
    shop.until(lambda: any(re.search(r"task 0/0: uploading a snapshot: \d+%, ", note) for note in shop.notes))
    assert "streams_snapshot_left_bytes 0.0" not in shop.worker.metrics.expose().decode()


@pytest.mark.parametrize("commits", [0, 2, 9])
def test_a_copy_is_made_when_nothing_is_left_to_be_flushed(tmp_path, commits):
    """As often as `commits` says, one has come since the flush aside; after four flushes it is copied all the same."""
    left, done = iter([True] * commits), []
    task, metrics = running(0), Metrics()
    task.opened_at = 1
    task.store = Flushed(left, done)
    snapshots = snapshots_of(Location(str(tmp_path / "location")), tmp_path, [])
    snapshots._openings["0/0"] = _Opening("w", 1, 0.0)
    deadline = time.monotonic() + PATIENCE
    while "snapshot" not in done:
        assert time.monotonic() < deadline
        snapshots.look([task], metrics)
    assert done == ["flush"] * min(commits + 1, 4) + ["snapshot"]
    snapshots.close()


class Flushed:
    """A store that is flushed and copied, and where commits come in between."""

    calm, mark = True, Mark(7, "t", 70, b"")

    def __init__(self, left, done):
        self._left, self._done = left, done

    @property
    def unflushed(self):
        return next(self._left, False)

    def flush(self):
        self._done.append("flush")

    def snapshot(self, directory):
        self._done.append("snapshot")
        directory.mkdir(parents=True)

    def verify(self, directory, wanted):
        pass


def test_a_verdict_hits_the_store_that_was_copied_and_none_that_was_made_since(shop, monkeypatch):
    """The copy is read aside; meanwhile the damage is met, and the store is made anew from a snapshot."""
    shop.until_trimmed()
    shop.worker.leave()
    shop.worker.close()
    reading, go_on = threading.Event(), threading.Event()

    def verify(directory, wanted):
        reading.set()
        assert go_on.wait(PATIENCE)
        raise StateCorrupt("the files of a store are damaged: a table")

    with monkeypatch.context() as patch:
        patch.setattr(RocksStore, "verify", staticmethod(verify))
        shop.start()
        shop.until(reading.is_set)
    [task] = shop.worker.running
    shop.worker._abort("StateCorrupt", task.store.condemn("a table"))
    shop.until(lambda: shop.worker.complete)
    [anew] = shop.worker.running
    go_on.set()
    shop.until(lambda: any("the snapshot failed" in note for note in shop.notes))
    shop.send()
    assert shop.worker.running == [anew]
    assert not shop.worker._snapshots._doubted
    assert shop.counts() == shop.expected()


def snapshots_of(location, directory, notes):
    """Those of a worker, without one."""

    def note(text, *_, **__):
        notes.append(text)

    scratch, kept = directory / "scratch", directory / "kept"
    return Snapshots(location, "a", "f", scratch, kept, ManualClock(), note, interval=1, keep=2)


def running(partition, condemn=None):
    """A task, as far as its snapshots look at it."""
    store = SimpleNamespace(condemn=condemn, mark=SimpleNamespace(sequence=7))
    lease = SimpleNamespace(sequence=7)
    return SimpleNamespace(id=TaskId(partition, 0, partition), store=store, lease=lease, state=State.RUNNING)


def test_what_came_with_a_verdict_is_taken_first(tmp_path):
    """And all that are damaged are condemned, though one error tells of them."""
    condemned = []

    def task(partition):
        return running(partition, lambda what: condemned.append(partition) or StateCorrupt(what))

    snapshots = snapshots_of(Location(str(tmp_path / "location")), tmp_path, [])
    mark, metrics, damaged = Mark(7, "t", 70, b""), Metrics(), StateCorrupt("damaged")
    outcomes = [Outcome(f"0-{n}", mark, 3 if n == 1 else None, error=None if n == 1 else damaged) for n in range(3)]
    for name in ("0/0", "0/1", "0/2"):
        snapshots._openings[name] = snapshots._under_way[name] = _Opening("w", 1, 0.0)
    snapshots._snapshotter.poll = lambda: outcomes
    with pytest.raises(StateCorrupt):
        snapshots.look([task(0), task(1), task(2)], metrics)
    assert metrics.snapshots.labels("done")._value.get() == 1
    assert snapshots._openings["0/1"].verified
    assert condemned == [0, 2]
    snapshots.close()


@pytest.mark.parametrize("fails", [False, True])
def test_a_deletion_is_told_once_it_is_done_and_holds_up_no_flush(tmp_path, monkeypatch, fails):
    location, notes, asked, go_on = Location(str(tmp_path / "location")), [], threading.Event(), threading.Event()
    snapshots = snapshots_of(location, tmp_path, notes)

    def delete(keys):
        asked.set()
        assert go_on.wait(PATIENCE)
        if fails:
            raise CheckpointError("no permission")

    monkeypatch.setattr(location, "delete", delete)
    assert snapshots._identity.confirmed
    opening = snapshots._openings["0/0"] = _Opening("w", 1, 1e9, foreign=("one", "two"), seen_at=6)
    snapshots.look([running(0)], Metrics())
    assert asked.wait(PATIENCE)
    snapshots._snapshotter.flush(lambda: None).result(PATIENCE / 2)
    snapshots.look([running(0)], Metrics())
    assert notes == []
    go_on.set()
    deadline = time.monotonic() + PATIENCE
    while opening.deleting is not None:
        assert time.monotonic() < deadline
        snapshots.look([running(0)], Metrics())
    assert notes == ([] if fails else ["task 0/0: 2 snapshots of commits that the log does not have deleted"])
    snapshots.close()
