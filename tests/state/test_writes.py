"""Writes of a RocksDB store that fail: stalls, full disks, limits of a file; and processes that are killed in them."""

import os
import random
import re
import resource
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from streams.core.errors import DiskFull, StateError
from streams.core.store import StoreSpec
from streams.state import rocksdb
from streams.state.base import Mark
from tests.state.stores import SPEC, child, open_store


def test_a_stalled_write_is_tried_again(tmp_path, monkeypatch):
    store = open_store(tmp_path)
    each = store.map(SPEC)
    family = store._families["map:m"]
    stall = {"level0_slowdown_writes_trigger": "2", "level0_stop_writes_trigger": "3"}
    family.set_options({"level0_file_num_compaction_trigger": "100", **stall})
    for sequence in (1, 2, 3):
        each.put(b"%d" % sequence, b"v")
        store.commit(Mark(sequence, "t", sequence))
        family.flush()
    each.put(b"4", b"v")
    waits = []

    def wait(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            family.set_options({"level0_slowdown_writes_trigger": "40", "level0_stop_writes_trigger": "60"})

    monkeypatch.setattr(time, "sleep", wait)
    store.commit(Mark(4, "t", 4))
    assert (len(waits), each.get(b"4"), store.mark.sequence) == (3, b"v", 4)
    family.set_options(stall)
    monkeypatch.setattr(rocksdb, "_STALL_SECONDS", 0)
    each.put(b"5", b"v")
    with pytest.raises(StateError, match="wait for the disk"):
        store.commit(Mark(5, "t", 5))
    store.commit(Mark(5, "t", 5))  # opens anew, with options of its own
    assert [key for key, _ in each.scan()] == [b"1", b"2", b"3", b"4", b"5"]
    store.close()


@contextmanager
def small_disk(directory, megabytes):
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(directory)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)


def fill_up(store, sequence=0):
    """Commit until the disk is full; the sequence that failed."""
    maps = [store.map(StoreSpec("one")), store.map(StoreSpec("two"))]
    while True:
        sequence += 1
        for each in maps:
            each.put_many([b"%d-%d" % (sequence, i) for i in range(50)], [os.urandom(1000) for _ in range(50)])
        try:
            store.commit(Mark(sequence, "t", sequence))
        except DiskFull:
            return sequence


def check_whole(store, sequence):
    """The store stands at this commit of `fill_up`, with all that came before it and nothing after."""
    assert store.mark == Mark(sequence, "t", sequence)
    expected = sorted(b"%d-%d" % (s, i) for s in range(1, sequence + 1) for i in range(50))
    for name in ("one", "two"):
        assert [key for key, _ in store.map(StoreSpec(name)).scan()] == expected


def test_a_full_disk(tmp_path):
    with small_disk(tmp_path / "disk", 32) as disk:
        (disk / "ballast").write_bytes(bytes(22 << 20))
        store = open_store(disk / "task")
        failed = fill_up(store)
        assert store.mark.sequence == failed - 1
        assert store.overlay_bytes > 50_000
        with pytest.raises(DiskFull, match="nothing is lost") as error:
            store.commit(Mark(failed, "t", failed))
        assert error.value.where == str(disk / "task")
        store.close()
        (disk / "ballast").unlink()
        store = open_store(disk / "task")
        check_whole(store, failed - 1)
        store.close()


def test_a_commit_can_be_repeated_once_there_is_room(tmp_path):
    with small_disk(tmp_path / "disk", 32) as disk:
        (disk / "ballast").write_bytes(bytes(22 << 20))
        store = open_store(disk / "task")
        failed = fill_up(store)
        (disk / "ballast").unlink()
        store.commit(Mark(failed, "t", failed))
        check_whole(store, failed)
        store.close()
        store = open_store(disk / "task")
        check_whole(store, failed)
        store.close()


LIMITED = """
import signal
from tests.state.test_writes import fill_up, check_whole
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
directory = Path(sys.argv[1])
store = RocksStore(directory, cache_bytes=1 << 20)
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, resource.RLIM_INFINITY))
failed = fill_up(store)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
store.commit(Mark(failed, "t", failed))
check_whole(store, failed)
store.close()
store = RocksStore(directory, cache_bytes=1 << 20)
check_whole(store, failed)
print("sound", failed)
"""


def test_a_file_that_may_not_grow(tmp_path):
    """As a full disk, where no file system can be mounted."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    with child(LIMITED, tmp_path) as process:
        assert re.match(r"sound [1-9]\d+", process.stdout.readline())


# ---- SIGKILL

COMMITTER = """
directory, seed = Path(sys.argv[1]), int(sys.argv[2])
rnd = __import__("random").Random(seed)
store = RocksStore(directory, cache_bytes=1 << 16)
one, two = store.map(StoreSpec("one")), store.map(StoreSpec("two", cache=False))
sequence = store.mark.sequence
print("open", flush=True)
while True:
    sequence += 1
    value = b"%d" % sequence
    for each in (one, two):
        keys = sorted({b"%d" % rnd.randrange(10_000) for _ in range(rnd.randrange(1, 500))})
        each.put_many([b"sequence", *keys], [value, *(value + bytes(rnd.randrange(300)) for _ in keys)])
    store.commit(Mark(sequence, "t", sequence * 2, value))
    if not sequence % 200:
        store._families["map:one"].flush()
"""


@pytest.mark.slow
def test_a_killed_process_leaves_a_commit(tmp_path):
    rnd, last = random.Random(11), 0
    for round in range(20):
        with child(COMMITTER, tmp_path, round) as process:
            assert process.stdout.readline() == "open\n"
            time.sleep(rnd.uniform(0, 0.3))
            process.send_signal(signal.SIGKILL)
            process.wait()
        store = open_store(tmp_path)
        at = store.mark.sequence
        assert at >= last
        assert store.mark == (Mark(at, "t", at * 2, b"%d" % at) if at else Mark())
        for name in ("one", "two"):
            each = store.map(StoreSpec(name))
            assert each.get(b"sequence") == (b"%d" % at if at else None)
            assert all(int(value.rstrip(b"\0")) <= at for _, value in each.scan())
        store.close()
        last = at
    assert last > 20


def test_a_flush_in_another_thread_beside_commits(tmp_path):
    store = open_store(tmp_path / "task")
    with ThreadPoolExecutor(1) as aside:
        for turn in range(1, 11):
            store.map(StoreSpec(f"m{turn}")).put_many([b"%06d" % i for i in range(500)], [bytes(1000)] * 500)
            store.commit(Mark(turn, "t", turn))
            flush = aside.submit(store.flush)
            store.map(SPEC).put(b"%d" % turn, b"meanwhile")
            store.commit(Mark(turn, "t", turn))
            flush.result()
        flush = aside.submit(store.flush)
        store.close()
        flush.result()
    store = open_store(tmp_path / "task")
    assert store.mark.sequence == 10
    assert len(list(store.map(SPEC).scan())) == 10
    store.close()
