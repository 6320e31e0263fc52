"""Snapshots when things go wrong: kills, a network that cuts and stalls, full disks, refusals."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from streams.checkpoint.collect import DAY, collect, verify
from streams.checkpoint.location import Location
from streams.checkpoint.manifest import list_manifests
from streams.checkpoint.restore import Restore
from streams.checkpoint.snapshotter import Snapshotter
from streams.core.errors import CheckpointError, DiskFull, LocationUnreachable, SettingsError
from tests.checkpoint.s3 import make_s3_older
from tests.checkpoint.support import (
    APP,
    TASK,
    TOPIC,
    Filled,
    Proxy,
    copy_of,
    finish,
    job,
    longest,
    make_files_older,
    s3_options,
    upload,
)

ROOT = Path(__file__).parents[2]
FILES = {"CURRENT": b"1", "1.sst": b"one" * 1000}

# Uploads one snapshot after another, each with some new files, sweeps after each, and tells of each that is there.
UPLOADER = """
import json, random, sys
from pathlib import Path
from streams.checkpoint.location import Location
from streams.checkpoint.snapshotter import Snapshotter
from tests.checkpoint.support import APP, copy_of, finish, job
url, options, work, first = sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
snapshotter, rnd = Snapshotter(Location(url, options), APP, sweep_every=0.0), random.Random(first)
print("ready", flush=True)
for turn in range(1000):
    files = {f"{turn + i}.sst": random.Random(turn + i).randbytes(300_000 + 9_000_000 * (i == 2)) for i in range(4)}
    copy = copy_of(work / f"{first}-{turn}", {**files, "CURRENT": b"%d" % turn})
    assert snapshotter.submit(job(copy, first + turn))
    outcome = finish(snapshotter)
    assert outcome.error is None, outcome.error
    assert outcome.sweep_error is None, outcome.sweep_error
    print(outcome.number, outcome.mark.sequence, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["directory", "s3"])
def test_kills_in_mid_upload(tmp_path, kind, request):
    """Beside the process that uploads, another one sweeps; between two of them all that is there gets old."""
    import json

    url, options = str(tmp_path / "location"), {}
    if kind == "s3":
        port, name = request.getfixturevalue("s3_port"), request.getfixturevalue("bucket")
        url, options = f"s3://{name}/p", s3_options(f"http://127.0.0.1:{port}")
    location, rnd, told, work = Location(url, options), random.Random(1), (0, 0), tmp_path / "work"
    swept = 0
    for turn in range(8):
        command = [sys.executable, "-c", UPLOADER, url, json.dumps(options), str(work), str(1000 * turn + 1)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout.readline() == "ready\n"
            until = time.monotonic() + rnd.uniform(0.01, 1.5)
            while time.monotonic() < until:
                swept += collect(location, APP).deleted
            assert process.poll() is None
        finally:
            process.send_signal(signal.SIGKILL)
            out, _ = process.communicate()
        told = max([told, *(tuple(map(int, line.split())) for line in out.splitlines())])
        assert list(verify(location, APP)) == []
        manifests = [each.manifest for each in list_manifests(location, APP, TASK)]
        best = max((m.sequence for m in manifests), default=0)
        assert best >= told[1]
        if manifests:
            back = tmp_path / f"back-{turn}"
            restore = Restore(location, APP, TASK, back, max_sequence=10**6, topic_id=TOPIC)
            assert restore.wait().manifest.sequence == best
            shutil.rmtree(back)
        shutil.rmtree(work, ignore_errors=True)
        if kind == "s3":
            make_s3_older(port, name, 2 * DAY)
        else:
            make_files_older(Path(url), 2 * DAY)
    assert told[0] > 0
    assert swept > 0


def test_what_a_killed_upload_leaves_is_collected(tmp_path):
    location = Location(str(tmp_path / "location"))
    upload(location, tmp_path, 1, FILES)
    left = tmp_path / "location" / APP / TASK / "objects" / ("0" * 64 + "#1")
    left.write_bytes(b"part")
    assert list(verify(location, APP)) == []
    collect(location, APP)
    assert left.exists()
    old = time.time() - 2 * DAY
    os.utime(left, (old, old))
    collect(location, APP)
    assert not left.exists()


def test_a_slow_and_erring_s3_never_holds_up_the_caller(s3_port, bucket, tmp_path):
    proxy = Proxy(s3_port)
    with proxy.running():
        location = Location(f"s3://{bucket}", s3_options(f"http://127.0.0.1:{proxy.port}"), retry_seconds=5)
        snapshotter, rnd = Snapshotter(location, APP), random.Random(1)
        outcomes, most, polls = [], 0.0, 0
        for sequence, (delay, cut) in enumerate([(0.02, 0), (0.0, 7), (0.01, 40), (0.0, 2), (0.0, 0)], 1):
            proxy.delay, proxy.cut = delay, cut
            data = {"1.sst": b"same" * 100_000, f"{sequence}9.sst": rnd.randbytes(500_000), "CURRENT": b"%d" % sequence}
            copy = job(copy_of(tmp_path / f"copy-{sequence}", data), sequence)
            most = max(most, longest([lambda copy=copy: snapshotter.submit(copy)]))
            got, until = [], time.monotonic() + 120
            while not got:
                assert time.monotonic() < until
                calls = [lambda got=got: got.extend(snapshotter.poll()), snapshotter.progress]
                most, polls = max(most, longest(calls)), polls + 1
                time.sleep(0.002)
            outcomes += got
            assert not (tmp_path / f"copy-{sequence}").exists()
        assert polls > 50
        assert most < 0.5, most  # 50 ms on a machine that is not shared
        assert outcomes[0].error is None
        assert outcomes[-1].error is None  # it heals
        assert all(o.error is None or isinstance(o.error, LocationUnreachable) for o in outcomes)
        assert snapshotter.close()
        assert list(verify(location, APP)) == []


def test_an_s3_that_hangs(s3_port, bucket, tmp_path):
    proxy = Proxy(s3_port)
    proxy.delay = 600
    with proxy.running():
        options = {**s3_options(f"http://127.0.0.1:{proxy.port}"), "timeout": "1s"}
        location = Location(f"s3://{bucket}", options, retries=1, retry_seconds=3)
        snapshotter = Snapshotter(location, APP)
        assert snapshotter.submit(job(copy_of(tmp_path / "copy", FILES), 1))
        restore = Restore(location, APP, TASK, tmp_path / "back", max_sequence=1, topic_id=TOPIC)
        assert restore.poll() is None
        outcome = finish(snapshotter)
        assert isinstance(outcome.error, LocationUnreachable)
        assert outcome.number is None
        found = restore.wait()
        assert isinstance(found.error, LocationUnreachable)
        assert found.manifest is None
        proxy.delay = 0
        assert snapshotter.submit(job(copy_of(tmp_path / "copy", FILES), 2))
        assert finish(snapshotter).number == 1
        assert snapshotter.close()


@contextmanager
def small_disk(path, megabytes):
    path.mkdir(exist_ok=True)
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "streams-test", str(path)], capture_output=True
    )
    if made.returncode:
        pytest.skip("no permission to mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.mark.parametrize("size", [4_000_000, 20_000_000])  # in one piece and in several
def test_a_full_disk_heals(tmp_path, size):
    with small_disk(tmp_path / "location", 24):
        location = Location(str(tmp_path / "location"))
        assert upload(location, tmp_path, 1, FILES).error is None
        filler = tmp_path / "location" / "filler"
        filler.write_bytes(bytes(22_000_000))
        files = {**FILES, "2.sst": bytes(size)}
        outcome = upload(location, tmp_path, 2, files)
        assert "no space left in the checkpoint location" in str(outcome.error)
        assert str(tmp_path / "location") in str(outcome.error)
        assert list(verify(location, APP)) == []
        filler.unlink()
        assert upload(location, tmp_path, 3, files).error is None
        assert list(verify(location, APP)) == []


def test_a_full_disk_under_a_restore(tmp_path):
    location = Location(str(tmp_path / "location"))
    upload(location, tmp_path, 1, {**FILES, "2.sst": bytes(4_000_000)})
    with small_disk(tmp_path / "state", 2):
        found = Restore(location, APP, TASK, tmp_path / "state" / "task", max_sequence=1, topic_id=TOPIC).wait()
        assert isinstance(found.error, DiskFull)
        assert found.manifest is None
        assert list((tmp_path / "state").iterdir()) == []


def test_refusals_say_what_to_do(s3_port, bucket, tmp_path):
    good = s3_options(f"http://127.0.0.1:{s3_port}")
    missing = Location("s3://no-such-bucket/x", good)
    for call in (
        lambda: missing.read("a"),
        lambda: missing.objects("a"),
        lambda: missing.parts("a"),
        lambda: missing.create("a", b""),
    ):
        with pytest.raises(CheckpointError, match="bucket does not exist") as caught:
            call()
        assert caught.value.where == "s3://no-such-bucket/x"
    nobody = Location("s3://b", {**good, "endpoint": "http://127.0.0.1:1"}, retries=1, retry_seconds=2)
    with pytest.raises(LocationUnreachable, match="does not answer"):
        nobody.read("a")
    for url, options, text in (
        ("", {}, "empty"),
        ("ftp://somewhere/x", {}, "unknown kind"),
        ("s3:/bucket", {}, "unknown kind"),
        ("memory:///", {}, "unknown kind"),
        ("s3://b", {"endpoint": "http://127.0.0.1:1"}, "not encrypted"),
        ("s3://b", {**good, "nonsense": "1"}, "nonsense"),
        (str(tmp_path / "d"), {"region": "x"}, "takes no options"),
        ("s3://user:secret@bucket/x", {}, "credentials"),
    ):
        with pytest.raises(SettingsError, match=text) as refused:
            Location(url, options)
        assert "secret" not in str(refused.value)
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="a file is in the way"):
        Location(str(tmp_path / "file"))


def test_credentials_that_are_wrong(s3_port, bucket):
    location = Location(f"s3://{bucket}", s3_options(f"http://127.0.0.1:{s3_port}"))
    before = checks_credentials_after(s3_port, "0")
    try:
        with pytest.raises(CheckpointError, match="the credentials are not accepted") as caught:
            location.read("a")
    finally:
        checks_credentials_after(s3_port, before)
    assert caught.value.fix == "correct the key, its secret and the region"
    assert location.read("a") is None


def checks_credentials_after(port, calls):
    """From so many calls on moto looks at them; how many it was before."""
    url = f"http://127.0.0.1:{port}/moto-api/reset-auth"
    plain = {"Content-Type": "text/plain"}
    with urllib.request.urlopen(urllib.request.Request(url, calls.encode(), plain, method="POST")) as answer:
        return str(json.load(answer)["PREVIOUS_INITIAL_NO_AUTH_ACTION_COUNT"])


def test_two_that_write_the_same_task_all_the_time(tmp_path, monkeypatch):
    """As two applications of one name do; each attempt finds that another one was faster."""
    location = Location(str(tmp_path / "location"))
    create = location.create

    def slower(key, data):
        create(key, data + b" ")
        return create(key, data)

    monkeypatch.setattr(location, "create", slower)
    outcome = upload(location, tmp_path, 1, FILES)
    assert outcome.number is None
    assert f"another worker writes snapshots of task {TASK} all the time" in str(outcome.error)
    assert outcome.error.fix == "see to it that each application has a name of its own"


def test_no_permission(tmp_path):
    with small_disk(tmp_path / "location", 1):
        location = Location(str(tmp_path / "location"))
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "location")], check=True)
        with pytest.raises(CheckpointError, match="no permission") as caught:
            location.create("a/b", b"")
        assert "let this user" in caught.value.fix


def test_names_that_cannot_be_keys(tmp_path):
    location = Location(str(tmp_path / "location"))
    for app in ("../other", "a/b", "..", "a b"):
        with pytest.raises(CheckpointError, match="cannot be part of a key"):
            Snapshotter(location, app)


def test_a_restore_that_is_closed_makes_nothing(tmp_path):
    location = Location(str(tmp_path / "location"))
    upload(location, tmp_path, 1, FILES)
    restore = Restore(location, APP, TASK, tmp_path / "back", max_sequence=0, topic_id=TOPIC)
    restore.close()
    assert restore.wait().manifest is None
    assert list(tmp_path.glob("back*")) == []


def test_a_restore_that_was_given_up_in_the_middle_is_not_in_the_way_of_the_next_one(tmp_path):
    """Its thread may be at a chunk for as long as the network likes; nobody waits for it."""
    location, reached, go_on = Location(str(tmp_path / "location")), threading.Event(), threading.Event()
    upload(location, tmp_path, 1, FILES)

    class Slow:
        url = location.url

        def __getattr__(self, name):
            return getattr(location, name)

        def stream(self, key):
            reached.set()
            assert go_on.wait(60)
            return location.stream(key)

    back = tmp_path / "back"
    first = Restore(Slow(), APP, TASK, back, max_sequence=9, topic_id=TOPIC)
    assert reached.wait(60)
    first.close()
    second = Restore(location, APP, TASK, back, max_sequence=9, topic_id=TOPIC)
    assert second.wait().manifest is not None
    go_on.set()
    assert first.wait().manifest is None
    assert {p.name: p.read_bytes() for p in back.iterdir()} == FILES
    assert [p.name for p in tmp_path.glob("back*")] == ["back"]


def test_a_flush_aside_leaves_a_store_that_can_be_used_and_closed(tmp_path):
    filled, snapshotter = Filled(tmp_path / "task"), Snapshotter(Location(str(tmp_path / "location")), APP)
    filled.commit(8000)
    flush = snapshotter.flush(filled.store.flush)
    mark = filled.commit(100)  # meanwhile
    flush.result()
    filled.store.snapshot(tmp_path / "copy")
    flush = snapshotter.flush(filled.store.flush)
    filled.store.close()  # waits for it
    flush.exception()
    assert Filled(tmp_path / "copy").store.mark == mark
    Filled(tmp_path / "task").store.close()  # nobody holds the LOCK
    assert snapshotter.close()
