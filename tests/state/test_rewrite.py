"""A store that is written into its changelog anew while it changes: a replay from there on gives the same state."""

import random

import pytest

from streams.core.errors import StateMismatch
from streams.core.store import StoreSpec
from streams.protocol import check_whole
from streams.state.base import Mark
from streams.state.changelog import Replay, encode
from streams.state.rewrite import Tail, chunk, due, grown
from streams.state.rocksdb import RocksStore

NAMES = ("a", "b", "c")


class Task:
    """A store with its changelog, as a task keeps them. `most`: bytes of a chunk."""

    def __init__(self, directory, most: int) -> None:
        self.store, self.most = RocksStore(directory, cache_bytes=1000), most
        self.tail, self.sequence = Tail(), 0
        self.blocks: list[bytes] = []
        self.model: dict[tuple[str, bytes], bytes] = {}

    def change(self, rng: random.Random) -> None:
        for _ in range(rng.randrange(6)):
            name, key = rng.choice(NAMES), b"%d" % rng.randrange(40)
            value = None if rng.random() < 0.3 else rng.randbytes(rng.randrange(30))
            self.store.map(StoreSpec(name)).put(key, value)
            if value is None:
                self.model.pop((name, key), None)
            else:
                self.model[name, key] = value

    def commit(self, *, rewrite: bool) -> None:
        self.sequence += 1
        changes, tail = list(self.store.changes()), self.tail
        if rewrite or tail.rewriting is not None:
            extra, tail = chunk(self.store, tail, self.sequence, lambda: len(self.blocks), self.most)
            changes += extra
        blocks = encode(changes, self.sequence, b"", most_bytes=2000)
        self.blocks += blocks
        self.tail = grown(tail, sum(map(len, blocks)))
        self.store.commit(Mark(self.sequence, "t", len(self.blocks)))


def replayed(task: Task, directory) -> dict[tuple[str, bytes], bytes]:
    """The state that a replay of what `task.tail` says is needed makes from nothing."""
    store = RocksStore(directory, cache_bytes=1000)
    replay = Replay(store, "t", trimmed=True)
    for index in range(task.tail.offset, len(task.blocks)):
        replay.add(task.blocks[index], index + 1)
    replay.flush()
    check_whole("0/0", replay.first, task.tail.base)
    assert store.mark.sequence == task.sequence
    found = {(n, k): v for n in store.names() for k, v in store.map(StoreSpec(n)).scan()}
    store.close()
    return found


@pytest.mark.parametrize("seed", range(12))
def test_what_is_kept_of_the_changelog_holds_the_whole_state(tmp_path, seed):
    rng = random.Random(seed)
    task, rewritten = Task(tmp_path / "task", most=rng.choice((1, 50, 400))), 0
    for number in range(300):
        task.change(rng)
        before = task.tail.base
        task.commit(rewrite=task.tail.size > 6000)
        rewritten += task.tail.base != before
        if number % 60 == 59:
            assert replayed(task, tmp_path / f"copy-{number}") == task.model
    assert rewritten >= 1
    assert task.tail.offset > 0
    task.store.close()


def test_a_rewriting_begins_when_the_changelog_is_a_multiple_of_the_state():
    assert due(Tail(size=300), 100, 10, 3)
    assert not due(Tail(size=299), 100, 10, 3)
    assert not due(Tail(size=5), 0, 10, 3)


def test_a_changelog_that_somebody_else_has_cut_is_refused(tmp_path):
    task, rng = Task(tmp_path / "task", most=100), random.Random(1)
    for _ in range(5):
        task.change(rng)
        task.commit(rewrite=False)
    store = RocksStore(tmp_path / "copy", cache_bytes=1000)
    replay = Replay(store, "t", trimmed=True)
    for index, block in enumerate(task.blocks[2:], 3):
        replay.add(block, index)
    with pytest.raises(StateMismatch, match="begins at commit 3, but the whole state takes it from 1 on"):
        check_whole("0/0", replay.first, task.tail.base)
    store.close()
    task.store.close()
