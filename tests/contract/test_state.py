"""What every StateStore does: examples to read, and a state machine that looks for what the examples miss."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from streams.core.errors import StateError
from streams.core.store import StoreSpec
from streams.state.base import Change, Mark
from streams.state.rocksdb import RocksStore


def rocks(directory, cache_bytes=1 << 20):
    return RocksStore(directory, cache_bytes=cache_bytes)


IMPLEMENTATIONS = {"rocksdb": rocks}


@pytest.fixture(params=IMPLEMENTATIONS)
def opened(request, tmp_path):
    """Opens the store at tmp_path / "task"; what is open at the end is closed."""
    stores = []

    def open_store(directory=tmp_path / "task"):
        stores.append(IMPLEMENTATIONS[request.param](directory))
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()


A, B = StoreSpec("a"), StoreSpec("b", cache=False)


def test_a_new_store_stands_at_the_beginning(opened):
    store = opened()
    assert store.mark == Mark()
    assert list(store.map(A).scan()) == []
    assert store.map(A).get_many([b"x", b""]) == [None, None]
    assert (list(store.changes()), store.overlay_bytes) == ([], 0)


def test_entries_are_read_in_pieces_with_uncommitted_writes(opened):
    store = opened()
    a, b = store.map(A), store.map(B)
    a.put_many([b"k", b"l", b"n"], [b"1", b"1", b"1"])
    b.put(b"x", b"1")
    store.commit(Mark(1, "t", 1))
    a.put_many([b"l", b"m"], [None, b"2"])
    assert store.names() == ["a", "b"]
    assert store.entries("a", b"", 1) == ([b"k"], [b"1"], b"m")
    assert store.entries("a", b"m", 3) == ([b"m", b"n"], [b"2", b"1"], None)
    assert store.entries("a", b"z", 3) == ([], [], None)
    store.close()
    assert opened().names() == ["a", "b"]


def test_a_look_sees_what_is_committed_when_it_begins(opened):
    store = opened()
    a = store.map(A)
    a.put_many([b"k", b"l", b"m"], [b"1", b"1", b"1"])
    store.commit(Mark(1, "t", 1))
    a.put_many([b"k", b"n"], [b"2", b"2"])
    look = store.committed("a")
    assert look.read(1) == [(b"k", b"1")]
    store.commit(Mark(2, "t", 2))
    assert look.read(9) == [(b"l", b"1"), (b"m", b"1")]
    assert (look.ended, look.first, look.last, look.read(9)) == (True, 1, 1, [])
    assert store.committed("a", b"l", b"n").read(9) == [(b"l", b"1"), (b"m", b"1")]
    assert store.committed("a", b"n", b"n").ended
    look = store.committed("a")
    store.close()
    with pytest.raises(StateError):
        look.read(1)


def test_uncommitted_writes_are_seen_and_can_be_forgotten(opened):
    store = opened()
    a = store.map(A)
    a.put_many([b"k", b"l"], [b"1", b"1"])
    store.commit(Mark(1, "t", 1))
    a.put_many([b"k", b"l", b"m"], [b"2", None, b""])
    assert a.get_many([b"k", b"l", b"m"]) == [b"2", None, b""]
    assert list(a.scan()) == [(b"k", b"2"), (b"m", b"")]
    store.rollback()
    assert a.get_many([b"m", b"l", b"k", b"l"]) == [None, b"1", b"1", b"1"]
    assert list(a.scan()) == [(b"k", b"1"), (b"l", b"1")]
    assert store.overlay_bytes == 0


def test_of_a_key_given_twice_the_last_one_counts(opened):
    a = opened().map(A)
    a.put_many([b"k", b"l", b"k"], [b"1", b"2", b"3"])
    assert a.get_many([b"k", b"l"]) == [b"3", b"2"]
    with pytest.raises(ValueError, match="argument"):
        a.put_many([b"k"], [])


def test_maps_are_apart_and_stay_the_same(opened):
    store = opened()
    store.map(A).put(b"k", b"a")
    store.map(B).put(b"k", b"b")
    store.commit(Mark(1, "t", 1))
    assert (store.map(A).get(b"k"), store.map(B).get(b"k")) == (b"a", b"b")
    assert store.map(A) is store.map(A)


def test_a_commit_is_there_after_a_reopening_and_the_overlay_is_not(opened):
    store = opened()
    mark = Mark(7, "topic", 99, b"\x00position\xff")
    store.map(A).put_many([b"", b"gone", b"k" * 3000], [b"empty key", b"x", b"v" * 200_000])
    store.commit(Mark(6, "topic", 98))
    store.map(A).put(b"gone", None)
    store.commit(mark)
    store.map(A).put(b"lost", b"x")
    store.close()
    store = opened()
    assert store.mark == mark
    assert list(store.map(A).scan()) == [(b"", b"empty key"), (b"k" * 3000, b"v" * 200_000)]


def test_scan_bounds(opened):
    store = opened()
    a = store.map(A)
    keys = [b"", b"\x00", b"a", b"a\x00", b"ab", b"b", b"\xff", b"\xff\xff"]
    a.put_many(keys[::2], keys[::2])
    store.commit(Mark(1, "t", 1))
    a.put_many(keys[1::2], keys[1::2])
    for start in [*keys, b"\xff\xff\xff"]:
        for stop in [None, *keys]:
            expected = [k for k in keys if start <= k and (stop is None or k < stop)]
            assert [k for k, _ in a.scan(start, stop)] == expected


@pytest.mark.parametrize("step", [1, 2, 3, 16])
def test_a_scan_over_many_entries_of_both_kinds(opened, step):
    store = opened()
    a = store.map(A)
    expected = {b"%05d" % i: b"old" for i in range(0, 9000, 3)}
    a.put_many(list(expected), list(expected.values()))
    store.commit(Mark(1, "t", 1))
    fresh = {b"%05d" % i: (b"new", None)[i % 5 == 0] for i in range(step - 1, 9100, step)}
    a.put_many(list(fresh), list(fresh.values()))
    expected.update(fresh)
    assert list(a.scan()) == [(key, value) for key, value in sorted(expected.items()) if value is not None]


def test_a_scan_keeps_its_bounds(opened):
    """Where a bound is only pointed to, other bytes soon take its place."""
    store = opened()
    a = store.map(A)
    a.put_many([b"%064d" % i for i in range(2000)], [b"v"] * 2000)
    store.commit(Mark(1, "t", 1))
    scans = [a.scan(b"%064d" % i, b"%064d" % (i + 100)) for i in range(50)]
    others = [bytes([i % 256]) * 64 for i in range(5000)]
    assert [len(list(scan)) for scan in scans] == [100] * 50
    assert others


def test_a_scan_sees_the_state_at_its_start(opened):
    store = opened()
    a = store.map(A)
    a.put_many([b"%04d" % i for i in range(3000)], [b"old"] * 3000)
    store.commit(Mark(1, "t", 1))
    a.put(b"0001", b"new")
    scan = a.scan()
    a.put_many([b"0002", b"2999"], [None, b"newer"])
    store.commit(Mark(2, "t", 2))
    seen = dict(scan)
    assert (len(seen), seen[b"0001"], seen[b"0002"], seen[b"2999"]) == (3000, b"new", b"old", b"old")


def test_changes_are_sorted(opened):
    store = opened()
    store.map(B).put(b"z", b"1")
    store.map(A).put_many([b"c", b"a"], [b"1", None])
    list(store.map(A).scan())
    store.map(A).put(b"b", b"2")
    assert list(store.changes()) == [Change("a", [b"a", b"b", b"c"], [None, b"2", b"1"]), Change("b", [b"z"], [b"1"])]
    before = store.changes()
    store.map(A).put(b"aa", b"")
    assert store.changes()[0].keys == [b"a", b"aa", b"b", b"c"]
    assert before[0].keys == [b"a", b"b", b"c"]


def test_overlay_bytes_grow_with_what_is_written_not_with_how_often(opened):
    store = opened()
    a = store.map(A)
    a.put_many([b"k%d" % i for i in range(100)], [bytes(1000)] * 100)
    once = store.overlay_bytes
    assert 100_000 < once < 200_000
    for _ in range(10):
        a.put_many([b"k%d" % i for i in range(100)], [bytes(1000)] * 100)
    assert store.overlay_bytes == once
    a.put_many([b"k%d" % i for i in range(100)], [None] * 100)
    assert store.overlay_bytes <= once - 100_000


def test_replay(opened):
    store = opened()
    assert store.map(A).get_many([b"k", b"l"]) == [None, None]  # known to be absent
    store.apply([Change("a", [b"k", b"l"], [b"1", None]), Change("new", [b"x"], [b"y"])], Mark(4, "t", 9, b"p"))
    assert (store.mark, store.map(A).get_many([b"k", b"l"])) == (Mark(4, "t", 9, b"p"), [b"1", None])
    assert store.map(StoreSpec("new")).get(b"x") == b"y"
    store.map(A).put(b"k", b"2")
    with pytest.raises(StateError, match="uncommitted"):
        store.apply([], Mark(5, "t", 10))
    store.rollback()
    store.apply([], Mark(5, "t", 10))
    assert (store.mark.sequence, store.map(A).get(b"k")) == (5, b"1")


def test_a_snapshot_is_a_store_of_its_own(opened, tmp_path):
    store = opened()
    store.map(A).put(b"k", b"1")
    store.commit(Mark(1, "t", 1))
    store.map(A).put(b"k", b"uncommitted")
    store.snapshot(tmp_path / "deep" / "snapshot")
    store.commit(Mark(2, "t", 2))
    with pytest.raises(StateError, match="new directory"):
        store.snapshot(tmp_path / "deep" / "snapshot")
    copy = opened(tmp_path / "deep" / "snapshot")
    assert (copy.mark, list(copy.map(A).scan())) == (Mark(1, "t", 1), [(b"k", b"1")])
    copy.map(A).put(b"k", b"another history")
    copy.commit(Mark(9, "t", 9))
    assert (store.mark.sequence, store.map(A).get(b"k")) == (2, b"uncommitted")


def test_a_closed_store_says_so(opened):
    store = opened()
    a = store.map(A)
    a.put(b"k", b"1")
    store.commit(Mark(1, "t", 1))
    a.put(b"l", b"1")
    store.close()
    store.close()
    for use in (lambda: a.get(b"unknown"), lambda: list(a.scan()), lambda: store.commit(Mark(2, "t", 2))):
        with pytest.raises(StateError, match="closed"):
            use()


def test_size_bytes(opened):
    store = opened()
    empty = store.size_bytes
    store.map(A).put_many([b"k%d" % i for i in range(1000)], [bytes(range(250)) * 4] * 1000)
    store.commit(Mark(1, "t", 1))
    assert store.size_bytes > empty + 5000
    store.close()
    assert opened().size_bytes > 5000


# ---- the state machine

KEYS = st.one_of(st.sampled_from([b"", b"a", b"a\x00", b"ab", b"b", b"\xff", b"\xff\xff"]), st.binary(max_size=3))
VALUES = st.one_of(st.none(), st.binary(max_size=5), st.sampled_from([b"x" * 100, b"y" * 3000]))
ENTRIES = st.lists(st.tuples(KEYS, VALUES), max_size=40)
SPECS = st.sampled_from([StoreSpec("one"), StoreSpec("two"), StoreSpec("bare", cache=False)])


class Model(RuleBasedStateMachine):
    """A store against dictionaries: what is committed, and what lies over it."""

    implementation = staticmethod(rocks)

    def __init__(self):
        super().__init__()
        self.temporary = TemporaryDirectory()
        self.directory = Path(self.temporary.name, "task")
        self.committed = {"one": {}, "two": {}, "bare": {}}
        self.overlay = {"one": {}, "two": {}, "bare": {}}
        self.mark = Mark()
        self.scans = []

    @initialize(cache_bytes=st.sampled_from([0, 1000, 5000, 1 << 20]))
    def open(self, cache_bytes):
        self.cache_bytes = cache_bytes
        self.store = self.implementation(self.directory, cache_bytes)

    def visible(self, name):
        entries = {**self.committed[name], **self.overlay[name]}
        return {key: value for key, value in entries.items() if value is not None}

    def settle(self, changes):
        for name, entries in changes.items():
            both = {**self.committed[name], **entries}
            self.committed[name] = {key: value for key, value in both.items() if value is not None}
        self.overlay = {name: {} for name in self.overlay}

    @rule(spec=SPECS, entries=ENTRIES)
    def put(self, spec, entries):
        self.store.map(spec).put_many([k for k, _ in entries], [v for _, v in entries])
        self.overlay[spec.name].update(entries)

    @rule(spec=SPECS, keys=st.lists(KEYS, max_size=40))
    def get(self, spec, keys):
        visible = self.visible(spec.name)
        assert self.store.map(spec).get_many(keys) == [visible.get(key) for key in keys]

    @rule(spec=SPECS, start=KEYS, stop=st.one_of(st.none(), KEYS))
    def scan(self, spec, start, stop):
        expected = [(k, v) for k, v in sorted(self.visible(spec.name).items()) if start <= k and (not stop or k < stop)]
        assert list(self.store.map(spec).scan(start, stop or None)) == expected

    @rule(spec=SPECS, steps=st.integers(0, 3))
    def leave_a_scan(self, spec, steps):
        scan = self.store.map(spec).scan()
        for _ in range(steps):
            next(scan, None)
        self.scans.append(scan)

    @rule(position=st.binary(max_size=8))
    def commit(self, position):
        self.mark = Mark(self.mark.sequence + 1, "topic", self.mark.offset + 2, position)
        self.store.commit(self.mark)
        self.settle(self.overlay)

    @rule()
    def rollback(self):
        self.store.rollback()
        self.overlay = {name: {} for name in self.overlay}

    @precondition(lambda self: not any(self.overlay.values()))
    @rule(entries=st.dictionaries(SPECS.map(lambda spec: spec.name), st.dictionaries(KEYS, VALUES, max_size=20)))
    def replay(self, entries):
        self.mark = Mark(self.mark.sequence + 3, "topic", self.mark.offset + 9)
        self.store.apply([Change(n, sorted(e), [e[k] for k in sorted(e)]) for n, e in entries.items()], self.mark)
        self.settle(entries)

    @rule()
    def reopen(self):
        self.store.close()
        self.overlay = {name: {} for name in self.overlay}
        self.store = self.implementation(self.directory, self.cache_bytes)

    @rule()
    def snapshot(self):
        with TemporaryDirectory() as temporary:
            self.store.snapshot(Path(temporary, "snapshot"))
            copy = self.implementation(Path(temporary, "snapshot"), 0)
            assert copy.mark == self.mark
            for name, entries in self.committed.items():
                assert dict(copy.map(StoreSpec(name)).scan()) == entries
            copy.close()

    @invariant()
    def stands_where_it_should(self):
        if hasattr(self, "store"):
            assert self.store.mark == self.mark
            changes = {each.store: dict(zip(each.keys, each.values, strict=True)) for each in self.store.changes()}
            assert changes == {name: entries for name, entries in self.overlay.items() if entries}
            assert (self.store.overlay_bytes > 0) == any(self.overlay.values())

    def teardown(self):
        if hasattr(self, "store"):
            self.store.close()
        self.temporary.cleanup()


class RocksModel(Model):
    implementation = staticmethod(rocks)


TestRocksModel = RocksModel.TestCase
TestRocksModel.settings = settings(max_examples=25, stateful_step_count=30)
