"""RocksDB through rocksdict: every trap that was met, kept shut."""

import ast
import os
import pickle
import random
import re
import stat
import tracemalloc
from pathlib import Path

import pytest
import rocksdict

from streams.core.errors import StateCorrupt, StateError, StateInUse, StateMismatch
from streams.core.store import StoreSpec
from streams.state import rocksdb
from streams.state.base import Mark
from streams.state.rocksdb import RocksStore, drop
from tests.state.stores import ROOT, SPEC, child, damage, filled, open_store

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


def test_damage_of_a_snapshot_is_found_wherever_data_lie_and_the_copy_stays_as_it_was(tmp_path):
    store = open_store(tmp_path / "s")
    rnd = random.Random(2)
    for turn in range(3):
        store.map(SPEC).put_many([b"%06d" % i for i in range(3000)], [rnd.randbytes(100) for _ in range(3000)])
        store.commit(Mark(turn + 1, "t", turn + 1))
        store.flush()
    store.snapshot(tmp_path / "copy")
    files = {file.name: file.read_bytes() for file in (tmp_path / "copy").iterdir()}
    asked = []
    RocksStore.verify(tmp_path / "copy", lambda: asked.append(1))
    assert asked
    table = max((tmp_path / "copy").glob("*.sst"), key=lambda file: file.stat().st_size)
    for place in (0, len(files[table.name]) // 4, len(files[table.name]) // 2):
        data = bytearray(files[table.name])
        data[place] ^= 1
        table.unlink()  # it is a link to the store's own file
        table.write_bytes(data)
        with pytest.raises(StateCorrupt):
            RocksStore.verify(tmp_path / "copy", lambda: None)
    table.write_bytes(files[table.name])
    RocksStore.verify(tmp_path / "copy", lambda: None)
    assert {file.name: file.read_bytes() for file in (tmp_path / "copy").iterdir()} == files

    def unwanted():
        raise KeyError

    with pytest.raises(KeyError):
        RocksStore.verify(tmp_path / "copy", unwanted)
    assert [each.name for each in tmp_path.iterdir() if "verified" in each.name] == []
    store.close()


def test_a_condemned_store_is_not_opened_again(tmp_path):
    store = open_store(tmp_path)
    assert isinstance(store.condemn("a table"), StateCorrupt)
    store.close()
    with pytest.raises(StateCorrupt, match="a table"):
        open_store(tmp_path)


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
