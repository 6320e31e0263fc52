"""Workers sweep their tasks by themselves: what goes, what stays, and what it costs."""

import os
import random
import re
from contextlib import contextmanager
from itertools import pairwise

import msgspec
import pytest

from streams.checkpoint.collect import DAY, verify
from streams.checkpoint.location import Location
from streams.checkpoint.manifest import File, Manifest, encode, list_manifests, manifest_key, object_key
from streams.checkpoint.restore import Restore
from streams.checkpoint.snapshotter import Snapshotter
from streams.checkpoint.sweep import LONGEST, sweep
from streams.core.clock import ManualClock
from streams.core.errors import LocationUnreachable
from tests.checkpoint.support import APP, TASK, TOPIC, copy_of, finish, job, upload
from tests.checkpoint.test_snapshots import ONE, THREE, TWO, files_in, objects, older

HOUR = 3600.0


class Worker:
    """A snapshotter that sweeps after every snapshot, unless told otherwise."""

    def __init__(self, location, work, **more):
        self.clock = ManualClock()
        self.snapshotter = Snapshotter(location, APP, clock=self.clock, **{"sweep_every": 0.0, **more})
        self.work, self.count = work / f"worker-{random.getrandbits(60):x}", 0

    def snapshot(self, files, **more):
        self.count += 1
        assert self.snapshotter.submit(job(copy_of(self.work / str(self.count), files), self.count, **more))
        return finish(self.snapshotter)


@contextmanager
def working(location, work, **more):
    worker = Worker(location, work, **more)
    try:
        yield worker
    finally:
        assert worker.snapshotter.close()


def test_what_is_old_and_not_needed_goes_with_a_later_snapshot(location, tmp_path, make_older):
    with working(location, tmp_path, keep=1) as worker:
        for files in (ONE, TWO, THREE):
            outcome = worker.snapshot(files)
        assert outcome.swept.deleted == 0  # all of it is young
        make_older(2 * DAY)
        outcome = worker.snapshot(THREE)
        assert outcome.swept.deleted == 0  # the base is as old: what is younger than it by a day would be safe, too
        outcome = worker.snapshot(THREE)
        assert (outcome.swept.deleted, outcome.swept.kept, outcome.sweep_error) == (4, 3, None)
        assert outcome.swept.bytes == 6002
        assert len(objects(location)) == 3
        assert list(verify(location, APP)) == []


def test_days_of_snapshots_leave_no_more_objects_than_a_day_of_them(location, tmp_path, make_older):
    """One every three hours, each with two new files beside one that stays."""
    with working(location, tmp_path, keep=3) as worker:
        counts = []
        for turn in range(30):
            make_older(3 * HOUR)
            new = {"CURRENT": b"%d" % turn, f"{turn}.sst": b"%d" % turn * 10}
            outcome = worker.snapshot({"0.sst": b"stays", **new})
            assert (outcome.error, outcome.sweep_error) == (None, None)
            counts.append(len(objects(location)))
        assert max(counts) == max(counts[:15]) <= 2 * (8 + 3) + 1
        assert list(verify(location, APP)) == []


def test_a_sweep_uses_the_list_that_the_upload_has_made(location, tmp_path, make_older, monkeypatch):
    asked = []
    for name in ("objects", "read", "delete"):
        call = getattr(location, name)
        monkeypatch.setattr(location, name, lambda key, name=name, call=call: (asked.append((name, key)), call(key))[1])
    with working(location, tmp_path, keep=1) as worker:
        worker.snapshot(ONE)
        make_older(2 * DAY)
        worker.snapshot(THREE)
        asked.clear()
        assert worker.snapshot(THREE).swept.deleted == 3
    lists = [key for name, key in asked if name == "objects"]
    assert lists.count(f"{APP}/{TASK}/objects") == 1
    assert lists.count(f"{APP}/{TASK}/manifests") == 4  # base, retention, and twice for the sweep
    assert sum(name == "read" for name, _ in asked) <= 6
    assert sum(name == "delete" for name, _ in asked) == 2  # a manifest, and all objects at once


def test_a_task_is_swept_every_few_hours_at_times_of_its_own(tmp_path):
    swept = []
    with working(Location(str(tmp_path / "location")), tmp_path, sweep_every=3 * HOUR) as worker:
        for quarter in range(160):
            worker.clock.sleep(HOUR / 4)
            if worker.snapshot({"CURRENT": b""}).swept is not None:
                swept.append(quarter / 4)
    pauses = [later - earlier for earlier, later in pairwise(swept)]
    assert swept[0] <= 3.5
    assert all(1.5 <= pause <= 4.75 for pause in pauses)
    assert len(set(pauses)) > 3


def test_a_clock_that_is_days_ahead_deletes_nothing_young(location, tmp_path, monkeypatch):
    with working(location, tmp_path, keep=1) as worker:
        worker.snapshot(ONE)
        older(location, 5 * DAY, monkeypatch)
        for _ in range(3):
            assert worker.snapshot(THREE).swept.deleted == 0


def test_nothing_goes_while_a_manifest_cannot_be_read(location, tmp_path, make_older):
    with working(location, tmp_path, keep=4) as worker:
        for files in (ONE, TWO, THREE):
            worker.snapshot(files)
        key = manifest_key(APP, TASK, 2)
        location.delete([key])
        assert location.create(key, b"of a newer program")
        make_older(2 * DAY)
        worker.snapshot(THREE)
        outcome = worker.snapshot({"CURRENT": b"new"})
        assert outcome.error is None
        assert outcome.swept.deleted == 0
        assert "snapshot 2 cannot be read" in outcome.swept.problem
        worker.snapshot(THREE)  # by now it is older than all that are kept, and is deleted
        assert worker.snapshot(THREE).swept.problem == ""


def test_a_sweep_that_fails_is_no_fault_of_the_snapshot(location, tmp_path, make_older, monkeypatch):
    with working(location, tmp_path, keep=1) as worker:
        worker.snapshot(ONE)
        make_older(2 * DAY)
        worker.snapshot(TWO)
        delete = location.delete
        for failure in (LocationUnreachable("it is gone"), ValueError("a bug")):

            def failing(keys, failure=failure):
                if "/objects/" in keys[0]:
                    raise failure
                delete(keys)

            monkeypatch.setattr(location, "delete", failing)
            outcome = worker.snapshot(TWO)
            assert (outcome.error, outcome.swept) == (None, None)
            assert str(failure.args[0]) in str(outcome.sweep_error)
        monkeypatch.setattr(location, "delete", delete)
        assert worker.snapshot(TWO).swept.deleted == 2


def test_what_is_abandoned_in_a_sweep_is_a_snapshot_all_the_same(location, tmp_path, make_older, monkeypatch):
    with working(location, tmp_path, keep=1) as worker:
        worker.snapshot(ONE)
        make_older(2 * DAY)
        worker.snapshot(THREE)
        monkeypatch.setattr(location, "leftovers", lambda _: worker.snapshotter.abandon(TASK) or [])
        outcome = worker.snapshot(THREE)
        assert outcome.number == 3
        assert outcome.swept.deleted == 0
        assert len(objects(location)) == 6


def test_what_killed_uploads_left_in_a_directory_goes(tmp_path):
    location = Location(str(tmp_path / "location"))
    with working(location, tmp_path) as worker:
        worker.snapshot(ONE)
        left = tmp_path / "location" / APP / TASK / "objects" / ("0" * 64 + "#1")
        left.write_bytes(b"part")
        worker.snapshot(TWO)
        assert left.exists()
        os.utime(left, (1, 1))
        swept = worker.snapshot(TWO).swept
        assert (swept.deleted, swept.bytes) == (1, 4)
        assert not left.exists()


# ---------------------------------------------------------------- who stands still


def test_a_sweep_that_stood_still_takes_nothing_that_came_back(location, tmp_path, make_older, monkeypatch):
    """A stopped worker has found what is not needed. While it stands, its successor uploads the same content again."""
    upload(location, tmp_path, 1, ONE, keep=1)
    upload(location, tmp_path, 2, THREE, keep=1)
    make_older(2 * DAY)
    delete, steps = location.delete, []

    def stalled(keys):
        if not steps:
            steps.append(keys)
            upload(location, tmp_path, 3, ONE, keep=1)
        delete(keys)

    monkeypatch.setattr(location, "delete", stalled)
    assert sweep(location, APP, TASK).deleted == 3
    assert len(steps[0]) == 3
    assert list(verify(location, APP)) == []
    found = Restore(location, APP, TASK, tmp_path / "back", max_sequence=9, topic_id=TOPIC).wait()
    assert (found.manifest.sequence, found.notes) == (3, [])
    assert files_in(tmp_path / "back") == ONE


@pytest.mark.parametrize("cause", ["it was stopped", "its machine was suspended", "and the wall clock was set back"])
def test_one_that_stood_still_before_its_manifest_takes_it_back(location, tmp_path, make_older, monkeypatch, cause):
    """What it has uploaded is old by then, and was swept."""
    with working(location, tmp_path) as worker:
        if cause == "its machine was suspended":  # a clock that never goes back stands still then
            monkeypatch.setattr(worker.clock, "monotonic", lambda: 0.0)
        elif cause == "and the wall clock was set back":
            monkeypatch.setattr(worker.clock, "now", lambda: 0)
        worker.snapshot(ONE)
        create = location.create

        def stalled(key, data):
            worker.clock.sleep(2 * DAY)
            make_older(2 * DAY)
            assert sweep(location, APP, TASK).deleted == 2
            return create(key, data)

        monkeypatch.setattr(location, "create", stalled)
        outcome = worker.snapshot(TWO)
        assert outcome.number is None
        assert f"longer than {LONGEST / HOUR:.0f} hours" in str(outcome.error)
        monkeypatch.setattr(location, "create", create)
        assert [each.number for each in list_manifests(location, APP, TASK)] == [1]
        assert worker.snapshot(TWO).number == 2
        assert list(verify(location, APP)) == []


# ---------------------------------------------------------------- names of objects


def test_no_two_uploads_have_one_name(location, tmp_path):
    upload(location, tmp_path, 1, ONE, keep=1)
    upload(location, tmp_path, 2, THREE, keep=1)
    location.delete([each.key for each in objects(location) if each.size == 3000])  # else young ones are taken
    upload(location, tmp_path, 3, ONE, keep=1)
    names = [each.key.rpartition("/")[2] for each in objects(location)]
    assert all(re.fullmatch("[0-9a-f]{64}-[0-9a-f]{16}", name) for name in names)
    assert len(names) == len(set(names))


def test_a_failed_upload_to_a_directory_takes_back_what_it_has_written(tmp_path):
    """Its next attempt would use other names, and a directory that is full would never have space again."""
    location = Location(str(tmp_path / "location"))
    write = location.write

    def full(key, chunks, size):
        if size == 6000:
            raise LocationUnreachable("no space")
        write(key, chunks, size)

    location.write = full
    for _ in range(3):
        assert upload(location, tmp_path, 1, {**ONE, "9.sst": bytes(6000)}).error is not None
    assert objects(location) == []


def test_snapshots_of_version_1_are_read_and_gone_on_from(location, tmp_path):
    files = []
    outcome = upload(location, tmp_path, 1, ONE)
    [listed] = list_manifests(location, APP, TASK)
    for file in listed.manifest.files:
        data = location.read(object_key(APP, TASK, file))
        location.delete([object_key(APP, TASK, file)])
        files.append(File(file.name, file.size, file.hash))
        location.write(f"{APP}/{TASK}/objects/{file.hash}", iter([data]), file.size)
    old: Manifest = msgspec.structs.replace(listed.manifest, version=1, files=tuple(files))
    location.delete([listed.key])
    assert location.create(listed.key, encode(old))
    assert list(verify(location, APP)) == []
    assert upload(location, tmp_path, 2, TWO).files == 2  # what the base names stays where it is
    assert list(verify(location, APP)) == []
    for most, expected in ((1, ONE), (2, TWO)):
        back = tmp_path / f"back-{most}"
        assert Restore(location, APP, TASK, back, max_sequence=most, topic_id=TOPIC).wait().manifest.sequence == most
        assert files_in(back) == expected
    assert outcome.error is None
