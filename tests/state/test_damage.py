"""Damage to a RocksDB store: found or healed, wherever it lies; a lost end of its log is one cut."""

import os
import random
import shutil
from contextlib import closing

import pytest

from streams.core.errors import StateCorrupt
from streams.core.store import StoreSpec
from streams.state.base import Mark
from streams.state.rocksdb import drop
from tests.state.stores import SPEC, child, damage, filled, open_store


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
