"""RocksDB through rocksdict: every trap that was met, kept shut; kills, damage and full disks."""

import ast
import os
import pickle
import random
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import rocksdict

from streams.core.errors import DiskFull, StateCorrupt, StateError, StateInUse, StateMismatch
from streams.core.store import StoreSpec
from streams.state import rocksdb
from streams.state.base import Mark
from streams.state.rocksdb import RocksStore, drop

ROOT = Path(__file__).parents[2]
SPEC = StoreSpec("m")


def open_store(directory, cache_bytes=1 << 20):
    return RocksStore(directory, cache_bytes=cache_bytes)


def filled(directory, count=2000):
    """A closed store with `count` entries in files."""
    store, rnd = open_store(directory), random.Random(1)
    store.map(SPEC).put_many([b"%06d" % i for i in range(count)], [rnd.randbytes(100) for _ in range(count)])
    store.commit(Mark(1, "t", 1))
    store.close()


@contextmanager
def child(code, *arguments):
    """A process that runs the code with what it needs imported; killed at the end."""
    head = (
        "import os, resource, sys; from pathlib import Path; from streams.core.errors import *;"
        "from streams.core.store import StoreSpec; from streams.state.base import *;"
        "from streams.state.rocksdb import *\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", head + code, *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


# ---- lint


def calls(tree, name):
    return [n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == name]


def test_rocksdict_is_known_to_one_module_and_never_unpickles():
    importers = {
        str(file.relative_to(ROOT))
        for package in ("streams", "operators", "fraud")
        for file in (ROOT / package).rglob("*.py")
        if re.search(r"^\s*(import|from) rocksdict", file.read_text(), re.MULTILINE)
    }
    assert importers == {"streams/state/rocksdb.py"}
    source = Path(rocksdb.__file__).read_text()
    tree = ast.parse(source)
    for name in ("Options", "WriteBatch"):
        assert calls(tree, name)
        for call in calls(tree, name):
            assert [(k.arg, ast.unparse(k.value)) for k in call.keywords] == [("raw_mode", "True")], ast.unparse(call)
    for call in calls(tree, "Rdict"):
        assert len(call.args) == 3, "options for each column family, or they are read from the directory"
    for banned in ("set_iterate_lower_bound", "disable_wal", ".items(backwards", "Snapshot", "allow_stall"):
        assert banned not in source


# ---- raw mode


class Evil:
    def __init__(self, touched):
        self.touched = touched

    def __reduce__(self):
        return Path.touch, (self.touched,)


def test_a_planted_pickle_is_not_executed(tmp_path):
    evil, touched = Evil(tmp_path / "touched"), tmp_path / "touched"
    planted = {bytes([kind]): bytes([kind]) + pickle.dumps(evil) for kind in range(10)}  # as the default mode writes it
    store = open_store(tmp_path / "task")
    store.map(SPEC).put_many(list(planted), list(planted.values()))
    store.commit(Mark(1, "t", 1))
    store.close()
    store = open_store(tmp_path / "task", cache_bytes=0)
    assert dict(store.map(SPEC).scan()) == planted
    assert store.map(SPEC).get_many(list(planted)) == list(planted.values())
    store.close()
    assert not touched.exists()
    database = rocksdict.Rdict(str(tmp_path / "default"))
    database["k"] = evil
    assert (database["k"] is None, touched.exists()) == (True, True), "the default mode does execute it"
    database.close()


# ---- the LOCK


def test_the_lock_is_free_after_close_whatever_was_used(tmp_path):
    filled(tmp_path)
    store = open_store(tmp_path)
    used = store.map(SPEC)
    unstarted, begun, done = used.scan(), used.scan(b"000100", b"000900"), used.scan()
    next(begun)
    assert len(list(done)) == 2000
    used.put_many([b"k"], ["no bytes"])
    with pytest.raises(ValueError, match="bytes") as kept:
        store.commit(Mark(2, "t", 2))
    store.rollback()
    assert store.size_bytes
    store.close()
    open_store(tmp_path).close()
    for scan in (unstarted, begun):
        with pytest.raises(StateError, match="closed while a scan"):
            list(scan)
    assert kept.tb, "a traceback keeps frames, but none of them a handle"


def test_the_lock_is_free_after_a_failed_open_and_a_failed_read(tmp_path):
    filled(tmp_path)
    damage(max(tmp_path.glob("*.sst"), key=lambda file: file.stat().st_size), at=500)
    store = open_store(tmp_path)
    with pytest.raises(StateCorrupt) as kept:
        list(store.map(SPEC).scan())
    store.close()
    (tmp_path / "DAMAGED").unlink()
    open_store(tmp_path).close()
    assert kept.tb
    (tmp_path / "CURRENT").write_bytes(b"nonsense")
    with pytest.raises(StateCorrupt) as kept:
        open_store(tmp_path)
    drop(tmp_path)
    open_store(tmp_path).close()
    assert kept.tb


def test_a_second_holder_is_told_who_the_first_is(tmp_path):
    store = open_store(tmp_path)
    with pytest.raises(StateInUse, match="this process has"):
        open_store(tmp_path)
    with pytest.raises(StateInUse, match="this process has"):
        drop(tmp_path)
    store.map(SPEC).put(b"k", b"v")
    store.commit(Mark(1, "t", 1))
    store.close()
    with child(
        "store = RocksStore(Path(sys.argv[1]), cache_bytes=0); print('open', flush=True); input()", tmp_path
    ) as holder:
        assert holder.stdout.readline() == "open\n"
        for attempt in (open_store, drop):
            with pytest.raises(StateInUse, match=f"process {holder.pid} holds") as error:
                attempt(tmp_path)
            assert (error.value.where, bool(error.value.fix)) == (str(tmp_path), True)
    assert open_store(tmp_path).mark.sequence == 1


# ---- damage


def damage(file, at, count=64):
    with file.open("r+b") as opened:
        opened.seek(at)
        old = opened.read(count)
        opened.seek(at)
        opened.write(bytes(byte ^ 0xFF for byte in old))


def test_damage_is_named_at_read_and_again_at_the_next_open(tmp_path):
    filled(tmp_path)
    damage(max(tmp_path.glob("*.sst"), key=lambda file: file.stat().st_size), at=500)
    for use in (lambda m: m.get_many([b"%06d" % i for i in range(2000)]), lambda m: list(m.scan())):
        store = open_store(tmp_path)
        with pytest.raises(StateCorrupt, match="checksum") as error:
            use(store.map(SPEC))
        assert error.value.where == str(tmp_path)
        assert "delete the directory" in error.value.fix
        store.close()
        with pytest.raises(StateCorrupt, match="checksum"):
            open_store(tmp_path)
        (tmp_path / "DAMAGED").unlink()
    with pytest.raises(StateCorrupt, match="checksum"):
        list(open_store(tmp_path).map(SPEC).scan())


def test_a_dropped_store_begins_anew(tmp_path):
    filled(tmp_path / "task")
    (tmp_path / "task" / "CURRENT").write_bytes(b"nonsense\n")
    with pytest.raises(StateCorrupt):
        open_store(tmp_path / "task")
    drop(tmp_path / "task")
    assert not (tmp_path / "task").exists()
    drop(tmp_path / "task")
    store = open_store(tmp_path / "task")
    assert (store.mark, list(store.map(SPEC).scan())) == (Mark(), [])
    store.close()


def manifest_of(directory):
    return directory / (directory / "CURRENT").read_text().strip()


@pytest.mark.parametrize("what", ["CURRENT", "MANIFEST", "SST", "empty MANIFEST", "endless MANIFEST", "endless log"])
def test_damage_is_named_at_open(tmp_path, what):
    filled(tmp_path / "closed")
    store = open_store(tmp_path / "closed")
    for sequence in (2, 3):  # two records in the log, which a copy of the files catches before close empties it
        store.map(SPEC).put(b"k", bytes(100))
        store.commit(Mark(sequence, "t", sequence))
    directory = tmp_path / "task"
    shutil.copytree(tmp_path / "closed", directory)
    store.close()
    manifest = manifest_of(directory)
    log = max(directory.glob("*.log"))
    if what == "CURRENT":
        (directory / "CURRENT").unlink()
    elif what == "MANIFEST":
        manifest.unlink()
    elif what == "SST":
        next(directory.glob("*.sst")).unlink()
    elif what == "empty MANIFEST":
        manifest.write_bytes(b"")
    else:  # the second record's type: RocksDB would read on for ever
        file = manifest if what == "endless MANIFEST" else log
        data = bytearray(file.read_bytes())
        data[7 + data[4] + 256 * data[5] + 6] = 5
        file.write_bytes(data)
    with child(OPENING, directory) as process:  # a process of its own: the hang would hold the GIL
        assert process.communicate(timeout=30)[0] == f"StateCorrupt {directory}"


OPENING = """
try:
    RocksStore(Path(sys.argv[1]), cache_bytes=0)
except StateCorrupt as error:
    assert "damaged" in str(error)
    print("StateCorrupt", error.where, end="")
"""


HISTORY = """
directory, seed, closing = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "close"
rnd = __import__("random").Random(seed)
store = RocksStore(directory, cache_bytes=0)
maps = {name: store.map(StoreSpec(name)) for name in "ab"}
for sequence in range(1, 61):
    if sequence == 30:
        maps["c"] = store.map(StoreSpec("c"))
    for each in maps.values():
        keys = sorted({b"%03d" % rnd.randrange(100) for _ in range(10)})
        each.put_many(keys, [rnd.choice([None, b"%d" % sequence + rnd.randbytes(200)]) for _ in keys])
    store.commit(Mark(sequence, "t", sequence))
    if sequence in (15, 25, 40, 50):
        for name in store._marked_last()[: rnd.randrange(5)]:
            store._families[name].flush()
    if sequence == 45 and closing:
        store.close()
        store = RocksStore(directory, cache_bytes=0)
        maps = {name: store.map(StoreSpec(name)) for name in "abc"}
if closing:
    store.close()
os._exit(0)
"""


def history(seed):
    """The states that HISTORY goes through, by sequence."""
    rnd, maps = random.Random(seed), {name: {} for name in "ab"}
    states = [{"a": {}, "b": {}, "c": {}}]
    for sequence in range(1, 61):
        if sequence == 30:
            maps["c"] = {}
        for entries in maps.values():
            keys = sorted({b"%03d" % rnd.randrange(100) for _ in range(10)})
            entries.update({k: rnd.choice([None, b"%d" % sequence + rnd.randbytes(200)]) for k in keys})
        if sequence in (15, 25, 40, 50):
            rnd.randrange(5)
        states.append({n: {k: v for k, v in maps.get(n, {}).items() if v is not None} for n in "abc"})
    return states


@pytest.mark.parametrize("end", ["kill", "close"])
@pytest.mark.parametrize("seed", range(2))
def test_damage_anywhere_is_found_or_healed(tmp_path, seed, end):
    """A damaged store is refused, or stands at a commit; its maps may be newer than the mark, which a replay mends."""
    with child(HISTORY, tmp_path / "whole", seed, end) as process:
        assert process.wait(60) == 0
    states, rnd, directory = history(seed), random.Random(seed), tmp_path / "task"
    found = 0
    for _ in range(60):
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(tmp_path / "whole", directory)
        kind = rnd.choice(
            ["*.sst", "*.log", "MANIFEST-*", "MANIFEST-*", "CURRENT", "OPTIONS-*", "rocksdict-config.json"]
        )
        file = rnd.choice(sorted(directory.glob(kind)))
        size = file.stat().st_size
        what = rnd.choice(["flip", "zeros", "cut", "gone"]) if size else "gone"
        at = rnd.randrange(size) if size else 0
        if what == "flip":
            damage(file, at, 1)
        elif what == "zeros":
            with file.open("r+b") as opened:
                opened.seek(at)
                opened.write(bytes(min(64, size - at)))
        elif what == "cut":
            os.truncate(file, at)
        else:
            file.unlink()
        try:
            with closing(open_store(directory)) as store:
                maps = {name: dict(store.map(StoreSpec(name)).scan()) for name in "abc"}
        except StateCorrupt:
            found += 1
            continue
        rest = states[store.mark.sequence :]
        for name, entries in maps.items():
            assert any(state[name] == entries for state in rest), (file.name, what, at, store.mark.sequence, name)
    assert found > 5


UNEVEN = """
store = RocksStore(Path(sys.argv[1]), cache_bytes=0)
for sequence in range(1, 31):
    for name, count in (("big", 100), ("small", 1)):
        store.map(StoreSpec(name)).put_many([b"%d-%d" % (sequence, i) for i in range(count)], [bytes(10_000)] * count)
    store.commit(Mark(sequence, "t", sequence))
os._exit(0)
"""


def test_what_has_left_the_log_is_one_cut_through_all_maps(tmp_path):
    """30 MB, so that RocksDB has flushed by itself; then the log is lost."""
    with child(UNEVEN, tmp_path) as process:
        assert process.wait(60) == 0
    for file in tmp_path.glob("*.log"):
        file.unlink()
    store = open_store(tmp_path)
    at = store.mark.sequence
    assert 5 < at < 30
    assert [len(list(store.map(StoreSpec(name)).scan())) for name in ("big", "small")] == [100 * at, at]
    store.close()


def test_a_lost_end_of_the_manifest_is_found(tmp_path):
    store = open_store(tmp_path / "open")
    for sequence in (1, 2, 3):
        store.map(SPEC).put(b"%d" % sequence, b"v")
        store.commit(Mark(sequence, "t", sequence))
        for name in store._marked_last():
            store._families[name].flush()
    store.map(SPEC).put(b"4", b"v")
    store.commit(Mark(4, "t", 4))
    refused = 0
    for cut in range(1, 400, 20):
        shutil.copytree(tmp_path / "open", tmp_path / str(cut))
        manifest = manifest_of(tmp_path / str(cut))
        os.truncate(manifest, manifest.stat().st_size - cut)
        try:
            copy = open_store(tmp_path / str(cut))
        except StateCorrupt:
            refused += 1
        else:
            keys = [int(key) for key, _ in copy.map(SPEC).scan()]
            assert keys == list(range(1, len(keys) + 1))
            assert len(keys) >= copy.mark.sequence
            copy.close()
    assert refused > 10
    store.close()


# ---- versions, rights


def test_a_newer_layout_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(rocksdb, "FORMAT", 2)
    filled(tmp_path)
    monkeypatch.undo()
    with pytest.raises(StateMismatch, match="layout 2, this program knows up to 1"):
        open_store(tmp_path)
    monkeypatch.setattr(rocksdb, "FORMAT", 2)
    open_store(tmp_path).close()


def test_a_place_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="opening failed") as error:
        open_store(tmp_path / "file")
    assert error.value.where == str(tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StateError, match="no permission"):
        open_store(tmp_path / "task")


def test_the_owner_alone_may_look(tmp_path):
    (tmp_path / "task").mkdir(mode=0o755)
    store = open_store(tmp_path / "task")
    store.snapshot(tmp_path / "snapshot")
    store.close()
    for directory in ("task", "snapshot"):
        assert stat.S_IMODE((tmp_path / directory).stat().st_mode) == 0o700


# ---- files and memory


def test_a_snapshot_is_hard_links(tmp_path):
    filled(tmp_path / "task")
    store = open_store(tmp_path / "task")
    store.snapshot(tmp_path / "snapshot")
    tables = list((tmp_path / "snapshot").glob("*.sst"))
    assert tables
    assert all(file.stat().st_nlink == 2 for file in tables)
    store.close()


def test_a_failed_snapshot_leaves_nothing(tmp_path):
    filled(tmp_path / "task")
    store = open_store(tmp_path / "task")
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="taking a snapshot"):
        store.snapshot(tmp_path / "file" / "snapshot")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "task"]
    store.close()


def test_information_logs_do_not_pile_up(tmp_path):
    for _ in range(6):
        open_store(tmp_path).close()
    assert len(list(tmp_path.glob("LOG*"))) <= 2
    assert len(list(tmp_path.glob("OPTIONS*"))) <= 2


@pytest.mark.parametrize("size", [40, 1000])
def test_clean_entries_stay_below_the_limit(tmp_path, size):
    limit, count, commit = 1 << 20, (3 << 20) // size, (1 << 15) // size
    store = open_store(tmp_path, cache_bytes=limit)
    maps = [store.map(StoreSpec("one")), store.map(StoreSpec("two"))]
    keys = [b"key-%028d" % i for i in range(count)]
    most = 0
    tracemalloc.start()
    try:
        for i in range(0, count, commit):
            run = [bytearray(key) for key in keys[i : i + commit]]  # others' objects must not be counted for ours
            maps[i // commit % 2].put_many([bytes(key) for key in run], [os.urandom(size) for _ in run])
            store.commit(Mark(i + 1, "t", i))
            del run
            most = max(most, tracemalloc.get_traced_memory()[0])
        for each in maps:
            for i in range(0, count, commit):
                each.get_many([bytes(bytearray(key)) for key in keys[i : i + commit]])
                most = max(most, tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert limit / 3 < most < 1.1 * limit
    store.close()


def test_one_commit_larger_than_the_cache(tmp_path):
    store = open_store(tmp_path, cache_bytes=10_000)
    each = store.map(SPEC)
    for value in (b"old", b"new"):
        each.put_many([b"%05d" % i for i in range(1000)], [value] * 1000)
        store.commit(Mark(1, "t", 1))
        assert set(each.get_many([b"%05d" % i for i in range(1000)])) == {value}
        assert 0 < each.young.size + each.old.size <= 10_000
    each.put(b"00000", bytes(20_000))
    store.commit(Mark(2, "t", 2))
    assert each.get(b"00000") == bytes(20_000)
    assert each.young.size + each.old.size <= 10_000
    store.close()


def test_what_is_used_is_not_read_again(tmp_path, monkeypatch):
    store = open_store(tmp_path, cache_bytes=400 * 200)
    each = store.map(SPEC)
    each.put_many([b"%05d" % i for i in range(5000)], [b"v"] * 5000)
    store.commit(Mark(1, "t", 1))
    hot = [b"%05d" % i for i in range(20)]
    each.get_many(hot)
    read, from_disk = [], store.read
    monkeypatch.setattr(store, "read", lambda name, keys: read.extend(keys) or from_disk(name, keys))
    for i in range(20, 5000, 20):
        each.get_many([b"%05d" % j for j in range(i, i + 20)])
        each.get_many(hot)
    assert len(read) > 3000
    assert not set(read) & set(hot)
    store.close()


def test_a_map_without_a_cache_keeps_nothing(tmp_path):
    store = open_store(tmp_path)
    bare = store.map(StoreSpec("m", cache=False))
    bare.put(b"k", b"v")
    store.commit(Mark(1, "t", 1))
    assert bare.get_many([b"k", b"absent"]) == [b"v", None]
    assert (bare.overlay, bare.young, bare.old) == ({}, {}, {})
    store.map(StoreSpec("m"))
    assert (bare.get(b"k"), bare.young) == (b"v", {b"k": b"v"})
    store.map(StoreSpec("m", cache=False))
    assert bare.young == {}
    store.close()


# ---- writes that fail


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
from tests.state.test_rocksdb import fill_up, check_whole
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
