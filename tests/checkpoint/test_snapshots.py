"""The contract of snapshots, over a directory and over S3."""

import os
import random
import time

import pytest

from streams.checkpoint.collect import DAY, collect, token, verify
from streams.checkpoint.location import PART
from streams.checkpoint.manifest import list_manifests, manifest_key, object_key
from streams.checkpoint.restore import Restore
from streams.checkpoint.snapshotter import Job, Snapshotter
from streams.core.clock import ManualClock
from streams.core.errors import CheckpointError
from streams.state.base import Mark
from tests.checkpoint.support import APP, TASK, TOPIC, Filled, content, copy_of, finish, job, upload

ONE = {"CURRENT": b"1", "1.sst": b"one" * 1000, "2.sst": b"two" * 1000}
TWO = {"CURRENT": b"2", "2.sst": b"two" * 1000, "3.sst": b"three" * 1000}
THREE = {"CURRENT": b"3", "3.sst": b"three" * 1000, "4.sst": b""}


def restored(location, directory, *, most=100, topic=TOPIC, least=0):
    restore = Restore(location, APP, TASK, directory, max_sequence=most, topic_id=topic, min_offset=least)
    return restore.wait()


def files_in(directory):
    return {file.name: file.read_bytes() for file in directory.iterdir()}


def numbers(location):
    return [each.number for each in list_manifests(location, APP, TASK)]


def objects(location):
    return location.objects(f"{APP}/{TASK}/objects")


def older(location, seconds, monkeypatch):
    """From now on everything looks older."""
    now = time.time
    monkeypatch.setattr("streams.checkpoint.location.time.time", lambda: now() + seconds)


def test_a_snapshot_comes_back(location, tmp_path):
    outcome = upload(location, tmp_path, 5, ONE)
    assert (outcome.number, outcome.error, outcome.files, outcome.uploaded) == (1, None, 3, 6001)
    found = restored(location, tmp_path / "back")
    assert (found.error, found.notes, found.manifest.mark) == (None, [], outcome.mark)
    assert files_in(tmp_path / "back") == ONE
    assert list(verify(location, APP)) == []


def test_only_what_is_new_is_uploaded(location, tmp_path):
    assert upload(location, tmp_path, 1, ONE).files == 3
    assert upload(location, tmp_path, 2, TWO).files == 2
    assert upload(location, tmp_path, 3, TWO).files == 0
    third = upload(location, tmp_path, 4, THREE)
    assert (third.files, third.number, third.size) == (2, 4, 5001)
    assert restored(location, tmp_path / "back").manifest.number == 4
    assert files_in(tmp_path / "back") == THREE


def test_large_files(location, tmp_path):
    large = {"1.sst": random.Random(1).randbytes(2 * PART + 12345), "CURRENT": b"x"}
    assert upload(location, tmp_path, 1, large).error is None
    assert restored(location, tmp_path / "back").error is None
    assert files_in(tmp_path / "back") == large


def test_a_manifest_is_created_once(location):
    assert location.create("app/m", b"one")
    assert location.create("app/m", b"one")  # the answer that got lost
    assert not location.create("app/m", b"two")
    assert location.read("app/m") == b"one"


def test_two_snapshotters_of_one_task(opened, tmp_path):
    snapshotters = [Snapshotter(opened(), APP, keep=50) for _ in range(2)]
    for turn in range(5):
        for index, snapshotter in enumerate(snapshotters):
            copy = copy_of(tmp_path / f"{turn}-{index}", {"CURRENT": b"%d %d" % (turn, index), **ONE})
            assert snapshotter.submit(job(copy, turn + 1))
        assert [finish(each).error for each in snapshotters] == [None, None]
    assert all(each.close() for each in snapshotters)
    assert numbers(opened()) == list(range(1, 11))
    assert list(verify(opened(), APP)) == []


def test_one_that_stood_still_does_not_write_over_a_gap(location, tmp_path, monkeypatch):
    """Between its list and its manifest others wrote so much that its base and its number are gone."""
    upload(location, tmp_path, 1, ONE)
    create, first = location.create, []

    def stalled(key, data):
        if not first:
            first.append(key)
            for sequence in range(2, 7):
                upload(location, tmp_path, sequence, THREE, keep=2)
            older(location, 2 * DAY, monkeypatch)
            collect(location, APP)  # sweeps what the base named
        return create(key, data)

    monkeypatch.setattr(location, "create", stalled)
    outcome = upload(location, tmp_path, 7, ONE)
    assert outcome.error is None
    assert outcome.number == 7
    assert first == [manifest_key(APP, TASK, 2)]
    assert list(verify(location, APP)) == []
    assert restored(location, tmp_path / "back").manifest.mark.sequence == 7


def test_what_is_kept(location, tmp_path):
    assert upload(location, tmp_path, 1, ONE, name="before the upgrade").trim is None
    trims = [upload(location, tmp_path, sequence, ONE).trim for sequence in range(2, 7)]
    assert trims == [None, None, 20, 30, 40]  # nothing is trimmed before there are three to fall back on
    assert numbers(location) == [1, 4, 5, 6]


def test_a_late_writer_does_not_push_out_the_owner(location, tmp_path):
    for sequence in (10, 11, 12):
        upload(location, tmp_path, sequence, TWO)
    late = upload(location, tmp_path, 3, ONE)
    assert late.trim is None  # it does not know whether the log still has what it sees
    assert len(late.foreign) == 3
    assert {m.manifest.sequence for m in list_manifests(location, APP, TASK)} == {3, 10, 11, 12}
    assert restored(location, tmp_path / "back").manifest.sequence == 12
    upload(location, tmp_path, 13, TWO)
    assert {m.manifest.sequence for m in list_manifests(location, APP, TASK)} == {11, 12, 13}


@pytest.mark.parametrize("topic", ["topic-id", "made again"])
@pytest.mark.parametrize("keep", [1, 3])
def test_snapshots_of_another_history_push_out_none_of_ours(location, tmp_path, topic, keep):
    """Brokers lost the log's end, or the changelog was deleted: the task goes on from commit 850. A changelog that is
    not ours may be that of an application of the same name on another log."""
    for sequence in (900, 910, 920):
        upload(location, tmp_path, sequence, ONE, keep=keep)
    ours = Snapshotter(location, APP, keep=keep)
    for sequence in range(851, 857):
        copy = copy_of(tmp_path / f"ours-{sequence}", ONE)
        mark = Mark(sequence, topic, sequence * 10, b"position")
        assert ours.submit(Job(TASK, copy, mark, "f", opened=850, writer="-ours"))
        made = finish(ours)
    ours.close()
    assert made.trim == (856 - keep + 1) * 10
    kept = [m.manifest.sequence for m in list_manifests(location, APP, TASK)]
    foreign = [900, 910, 920][3 - keep :]
    assert kept == [*foreign, *range(856 - keep + 1, 857)]
    assert (len(made.foreign), made.strange) == ((len(foreign), 0) if topic == "topic-id" else (0, len(foreign)))


def test_what_was_there_for_long_before_the_task_was_opened_may_be_lost_all_the_same(location, tmp_path):
    """Brokers lost the log's end; the task went on from commit 50, and was opened once more behind the snapshots of
    what was lost, before one had been taken that would have told them from those of the log."""
    clock = ManualClock()
    worker = Snapshotter(location, APP, keep=3, clock=clock, durable_after=120.0)

    def snapshot(sequence, opened, writer):
        copy = copy_of(tmp_path / f"copy-{sequence}", ONE)
        assert worker.submit(job(copy, sequence, opened=opened, writer=writer))
        trim = finish(worker).trim
        clock.sleep(30)
        return {m.manifest.sequence for m in list_manifests(location, APP, TASK)}, trim

    for sequence in (48, 49, 50):
        snapshot(sequence, 0, "a")
    clock.sleep(300)
    for sequence in (98, 99, 100):
        kept, trim = snapshot(sequence, 0, "a")
    assert (kept, trim) == ({50, 98, 99, 100}, 500)
    clock.sleep(300)
    kept, trim = snapshot(111, 110, "c")
    assert (kept, trim) == ({50, 98, 99, 100, 111}, 500)
    clock.sleep(300)
    kept, trim = snapshot(120, 110, "c")
    assert (kept, trim) == ({100, 111, 120}, 1000)  # two that the log has for sure
    assert worker.close()


def test_a_restore_takes_what_fits(location, tmp_path):
    for sequence in (1, 2, 3):
        upload(location, tmp_path, sequence, ONE)
    assert restored(location, tmp_path / "a", most=2).manifest.sequence == 2
    assert restored(location, tmp_path / "b", most=2, least=21).manifest is None
    other = restored(location, tmp_path / "c", topic="made again")
    assert other.manifest is None
    assert "another changelog" in other.notes[0]
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("damage", ["flipped", "short", "missing"])
def test_damage_is_found_and_an_older_snapshot_is_taken(location, tmp_path, damage):
    upload(location, tmp_path, 1, ONE)
    upload(location, tmp_path, 2, TWO)
    [file] = [f for f in list_manifests(location, APP, TASK)[1].manifest.files if f.name == "3.sst"]
    key = object_key(APP, TASK, file)
    data = location.read(key)
    spoiled = {"flipped": data[:-1] + b"!", "short": data[:-1], "missing": None}[damage]
    location.delete([key])
    if spoiled is not None:
        location.write(key, iter([spoiled]), len(spoiled))
    [finding] = verify(location, APP)
    assert finding.key == key
    assert "snapshot 2 of task 0-1" in finding.what
    found = restored(location, tmp_path / "back")
    assert (found.manifest.sequence, found.damaged) == (1, {file.hash})
    assert "snapshot 2" in found.notes[0]
    assert files_in(tmp_path / "back") == ONE
    upload(location, tmp_path, 3, TWO, again=found.damaged)
    assert list(verify(location, APP)) == []


def test_nothing_whole_is_left(location, tmp_path):
    upload(location, tmp_path, 1, ONE)
    location.delete([each.key for each in objects(location)])
    found = restored(location, tmp_path / "back")
    assert (found.manifest, found.error) == (None, None)
    assert list(tmp_path.glob("back*")) == []
    assert restored(location, tmp_path / "none", topic="x").manifest is None


@pytest.mark.parametrize("spoil", [lambda data: data[:-20], lambda data: data.replace(b'"offset":20', b'"offset":21')])
def test_a_damaged_manifest(location, tmp_path, spoil):
    upload(location, tmp_path, 1, ONE)
    upload(location, tmp_path, 2, TWO)
    key = manifest_key(APP, TASK, 2)
    data = spoil(location.read(key))
    location.delete([key])
    assert location.create(key, data)
    [finding] = verify(location, APP)
    assert finding.key == key
    assert "damaged" in finding.what
    assert restored(location, tmp_path / "back").manifest.sequence == 1
    assert upload(location, tmp_path, 3, TWO).number == 3
    assert restored(location, tmp_path / "again").manifest.sequence == 3


def test_garbage(location, tmp_path, monkeypatch):
    for sequence, files in enumerate([ONE, TWO, THREE, THREE, THREE], 1):
        upload(location, tmp_path, sequence, files)
    before = len(objects(location))
    assert collect(location, APP).deleted == 0
    older(location, 2 * DAY, monkeypatch)
    done = collect(location, APP)
    assert (done.deleted, done.kept) == (4, before - 4) == (4, 3)
    assert list(verify(location, APP)) == []
    with pytest.raises(CheckpointError, match="minimum age"):
        collect(location, APP, min_age=60)


def test_garbage_beside_an_upload(location, tmp_path, monkeypatch):
    """A collection between the look at what is there and the upload, when all that is there is old."""
    for sequence in (1, 2):
        upload(location, tmp_path, sequence, ONE, keep=1)
    older(location, 2 * DAY, monkeypatch)
    write, steps = location.write, []

    def collecting(key, chunks, size):
        if not steps:
            steps.append(collect(location, APP).deleted)
        write(key, chunks, size)

    monkeypatch.setattr(location, "write", collecting)
    assert upload(location, tmp_path, 3, TWO, keep=1).error is None
    assert steps == [0]
    assert list(verify(location, APP)) == []


def test_an_abandoned_job_writes_no_manifest(location, tmp_path):
    snapshotter = Snapshotter(location, APP, bytes_per_second=10_000)
    copy = copy_of(tmp_path / "copy", {"1.sst": bytes(1_000_000)})
    assert snapshotter.submit(job(copy, 1))
    assert snapshotter.busy(TASK)
    assert not snapshotter.submit(job(copy_of(tmp_path / "second", ONE), 2))
    assert not (tmp_path / "second").exists()
    while not snapshotter.progress()[TASK][1]:
        time.sleep(0.005)
    snapshotter.abandon(TASK)
    outcome = finish(snapshotter)
    assert (outcome.number, outcome.error, snapshotter.busy(TASK)) == (None, None, False)
    assert numbers(location) == []
    assert objects(location) == []
    assert not copy.exists()
    assert snapshotter.close()


def test_the_token(opened, tmp_path):
    location = opened()
    first = token(location, APP)
    assert token(opened(), APP) == first
    assert token(location, "another") != first


def test_a_store_comes_back(location, tmp_path):
    filled = Filled(tmp_path / "task")
    snapshotter = Snapshotter(location, APP)
    marks = []
    for turn in range(3):
        marks.append(filled.commit(3000))
        snapshotter.flush(filled.store.flush).result()
        filled.store.snapshot(tmp_path / "copy")
        assert snapshotter.submit(job(tmp_path / "copy", turn + 1))
        outcome = finish(snapshotter)
        assert outcome.error is None
        assert not (tmp_path / "copy").exists()
        if turn:
            assert outcome.uploaded < 0.75 * outcome.size
    assert snapshotter.close()
    expected = dict(filled.map.scan())
    filled.store.close()
    assert restored(location, tmp_path / "task-back").error is None
    assert os.stat(tmp_path / "task-back").st_mode & 0o777 == 0o700
    assert content(tmp_path / "task-back") == (marks[-1], expected)
    again = Filled(tmp_path / "task-back")  # and goes on
    again.commit(10)
    again.store.close()
