"""Looks at committed entries: bounded pieces, also where there are only deleted entries."""

import random
import time
from contextlib import closing

import pytest

from streams.core.errors import StateError
from streams.core.store import StoreSpec
from streams.state.base import Mark
from streams.state.look import Look
from streams.state.rocksdb import RocksStore

SPEC = StoreSpec("m")


class Fake:
    """Entries of which some are deleted, and cursors that step over at most `skipped` of these."""

    def __init__(self, live: set[bytes], dead: set[bytes], skipped: int) -> None:
        self.live, self.keys, self.skipped, self.opened = live, sorted(live | dead), skipped, 0

    def look(self, start: bytes = b"", stop: bytes | None = None) -> Look:
        return Look(self._open, lambda: self.opened, start, stop)

    def _open(self, start, stop):
        self.opened += 1
        return Walk([k for k in self.keys if k >= start and (stop is None or k < stop)], self.live, self.skipped)


class Walk:
    def __init__(self, keys, live, skipped):
        self.keys, self.live, self.skipped, self.tired, self.rests = iter(keys), live, skipped, False, False

    def read(self, most):
        found, passed = [], 0
        while len(found) < most and (key := next(self.keys, None)) is not None:
            if key in self.live:
                found.append((key, b""))
                passed = 0
            elif (passed := passed + 1) > self.skipped:
                self.tired = True
                break
        return found


def everything(look: Look) -> list[bytes]:
    out = []
    for _ in range(100_000):
        if look.ended:
            return out
        out += [key for key, _ in look.read(7)]
    raise AssertionError("it comes to no end")


LONG = ["x" * 32 + "%d", "y" * 70 + "%05d", "\x00" * 40 + "%d", "\xff" * 33 + "%d", "%d-" + "z" * 61 + "-7"]


@pytest.mark.parametrize("seed", range(60))
def test_every_entry_is_found_once_whatever_is_deleted_between(seed):
    chance = random.Random(seed)
    shape = chance.choice(["%06d", "%01d", "abcdef-%d", "\x00\x01%05d", *LONG])
    keys = sorted({(shape % chance.randrange(5000)).encode("latin-1") for _ in range(800)} | {b"", b"\xff\xff"})
    live = {k for k in keys if chance.random() < chance.choice([0.001, 0.3])}
    fake = Fake(live, set(keys) - live, skipped=10)
    assert everything(fake.look()) == sorted(live)
    low, high = chance.choice(keys), chance.choice(keys)
    assert everything(fake.look(low, high)) == sorted(k for k in live if low <= k < high)


def test_without_a_gap_one_cursor_does():
    fake = Fake({b"%03d" % i for i in range(100)}, set(), skipped=0)
    look = fake.look()
    assert len(everything(look)) == 100
    assert (fake.opened, look.first, look.last) == (1, 0, 1)


def test_a_gap_that_cannot_be_told_apart_is_an_error():
    fake = Fake(set(), {b"x" * 5000 + b"%03d" % i for i in range(100)}, skipped=10)
    with pytest.raises(StateError, match="too many deleted entries"):
        everything(fake.look())


@pytest.mark.parametrize("prefix", [b"", b"https://shop.example.com/articles/by-number/and-colour/"])
def test_deleted_entries_hold_nobody_up(tmp_path, prefix):
    """300,000 of them took 0.2 to 0.5 s in one call; behind a prefix of 32 bytes the look failed."""
    count = 100_000
    with closing(RocksStore(tmp_path / "task", cache_bytes=1 << 20)) as store:
        entries = store.map(SPEC)
        keys = [prefix + b"%012d" % i for i in range(count)]
        entries.put_many([*keys, b"z"], [b"v" * 20] * (count + 1))
        store.commit(Mark(1, "t", 0))
        entries.put_many(keys, [None] * count)
        store.commit(Mark(2, "t", 0))
        look, spent, found = store.committed("m"), [], []
        while not look.ended:
            began = time.thread_time()
            found += look.read(10)
            spent.append(time.thread_time() - began)
        assert found == [(b"z", b"v" * 20)]
        assert (look.first, look.last) == (2, 2)
        assert sorted(spent)[-3] < 0.01


def test_entries_that_each_lie_behind_deleted_ones_hold_nobody_up(tmp_path):
    """120 of them behind 2,000 each took 0.1 s in one read, though no gap was long."""
    count, apart = 240_000, 2_000
    with closing(RocksStore(tmp_path / "task", cache_bytes=1 << 20)) as store:
        entries = store.map(SPEC)
        keys = [b"%012d" % i for i in range(count)]
        entries.put_many(keys, [b"v" * 20] * count)
        store.commit(Mark(1, "t", 0))
        gone = [key for i, key in enumerate(keys) if i % apart]
        entries.put_many(gone, [None] * len(gone))
        store.commit(Mark(2, "t", 0))
        look, spent, found = store.committed("m"), [], []
        while not look.ended:
            began = time.thread_time()
            found += look.read(128)
            spent.append(time.thread_time() - began)
        assert [key for key, _ in found] == keys[::apart]
        assert (look.first, look.last) == (2, 2)
        assert len(spent) > 20  # in one read before
