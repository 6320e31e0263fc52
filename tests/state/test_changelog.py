"""Blocks: what goes in comes out or is refused. Replay: every commit once, in order, whole."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.core.errors import StateCorrupt, StateError, StateMismatch
from streams.state import changelog
from streams.state.base import Change, Mark
from streams.state.changelog import Block, Replay, decode, encode

KEYS = st.binary(max_size=20)
VALUES = st.one_of(
    st.none(), st.binary(max_size=50), st.sampled_from([b"", bytes(5000), random.Random(1).randbytes(4000)])
)
ENTRIES = st.dictionaries(KEYS, VALUES, min_size=1, max_size=30)
COMMITS = st.dictionaries(st.text(max_size=8), ENTRIES, max_size=4)


def changes_of(commit):
    return [
        Change(name, sorted(commit[name]), [commit[name][key] for key in sorted(commit[name])])
        for name in sorted(commit)
    ]


def joined(blocks):
    """The changes of a commit, whatever the blocks cut through."""
    entries = {}
    for block in blocks:
        for change in block.changes:
            assert len(change.keys) == len(change.values) > 0
            entries.setdefault(change.store, []).extend(zip(change.keys, change.values, strict=True))
    return entries


# ---- the codec


@given(COMMITS, st.integers(0, 2**63), st.binary(max_size=200), st.integers(1, 20_000))
def test_what_goes_in_comes_out(commit, sequence, position, most):
    values = encode(changes_of(commit), sequence, position, most)
    blocks = [decode(value) for value in values]
    assert [(b.sequence, b.part) for b in blocks] == [(sequence, part) for part in range(len(values))]
    assert [(b.last, b.position) for b in blocks] == [(False, b"")] * (len(values) - 1) + [(True, position)]
    assert joined(blocks) == {name: sorted(entries.items()) for name, entries in commit.items()}
    for value, block in zip(values, blocks, strict=True):
        assert len(value) <= most or sum(len(change.keys) for change in block.changes) <= 1


def test_nothing_changed():
    (value,) = encode([], 3, b"here")
    assert len(value) < 40
    assert decode(value) == Block(3, 0, True, b"here", [])


@pytest.mark.parametrize("size", [10, 1000, 100_000, 899_000])
def test_blocks_are_as_large_as_they_may_be(size):
    """Bytes that do not compress, in the worst case for the bound."""
    rnd, count = random.Random(size), 3_000_000 // (size + 40)
    values = encode(
        [Change("s", [b"%020d" % i for i in range(count)], [rnd.randbytes(size) for _ in range(count)])], 1, b""
    )
    assert max(map(len, values)) <= 900_000
    assert len(values) <= 3_000_000 / 900_000 * 1.5 + 2


def test_many_small_stores_share_blocks_up_to_the_limit():
    rnd = random.Random(3)
    changes = [Change(f"store {i}", [b"k"], [rnd.randbytes(20_000)]) for i in range(40)]
    values = encode(changes, 1, b"p", 100_000)
    assert max(map(len, values)) <= 100_000
    assert len(values) == 10
    assert [change for value in values for change in decode(value).changes] == changes


def test_a_large_entry_has_a_block_of_its_own():
    large = random.Random(1).randbytes(2_000_000)
    values = encode([Change("s", [b"a", b"b", b"c"], [b"1", large, b"2"])], 1, b"p")
    assert [decode(value).changes[0].keys for value in values] == [[b"a"], [b"b"], [b"c"]]
    assert [len(value) > 900_000 for value in values] == [False, True, False]


def test_an_entry_that_no_log_would_take_is_refused():
    with pytest.raises(StateError, match="104,857,621 bytes is too large") as error:
        encode([Change("big", [b"k"], [bytes(100 << 20)])], 1, b"")
    assert "store 'big', key b'k'" in error.value.where
    assert "smaller entries" in error.value.fix


@given(st.data())
def test_no_changed_byte_passes(data):
    value = bytearray(encode([Change("s", [b"a", b"b"], [b"1", bytes(300)])], 1, b"p")[0])
    at = data.draw(st.integers(0, len(value) - 1))
    value[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(StateCorrupt, match="a changelog block is damaged"):
        decode(bytes(value), "offset 7")


@given(st.one_of(st.binary(max_size=50), st.binary(max_size=50).map(lambda tail: b"SCL\x01" + tail)))
def test_what_is_no_block_is_refused(value):
    with pytest.raises(StateCorrupt) as error:
        decode(value, "offset 7")
    assert error.value.where == "offset 7"
    assert error.value.fix


def test_every_cut_is_found():
    value = encode([Change("s", [b"a"], [b"1"])], 1, b"p")[0]
    for length in range(len(value)):
        with pytest.raises(StateCorrupt):
            decode(value[:length])


def test_a_body_that_is_none_is_refused_even_with_a_right_checksum(monkeypatch):
    monkeypatch.setattr(changelog.pl.DataFrame, "write_ipc_stream", lambda frame, out, **_: out.write(b"no arrow"))
    value = encode([Change("s", [b"a"], [b"1"])], 1, b"p")[0]
    with pytest.raises(StateCorrupt, match="body"):
        decode(value)


def test_a_newer_format_is_refused(monkeypatch):
    monkeypatch.setattr(changelog, "FORMAT", 2)
    value = encode([], 1, b"")[0]
    assert decode(value).sequence == 1
    monkeypatch.undo()
    with pytest.raises(StateMismatch, match="format 2, this program knows up to 1"):
        decode(value)


# ---- replay


class Memory:
    """As much of a StateStore as a replay needs."""

    def __init__(self, mark=Mark()):  # noqa: B008
        self.mark, self.maps, self.writes = mark, {}, 0

    def apply(self, changes, mark):
        for change in changes:
            assert change.keys == sorted(set(change.keys))
            self.maps.setdefault(change.store, {}).update(zip(change.keys, change.values, strict=True))
        self.mark = mark
        self.writes += 1

    def entries(self):
        kept = {name: {k: v for k, v in entries.items() if v is not None} for name, entries in self.maps.items()}
        return {name: entries for name, entries in kept.items() if entries}


def log_of(commits, most=900_000, first=1):
    """(value, next offset) of each block; offsets have gaps where transactions end."""
    log, offset = [], 10
    for sequence, commit in enumerate(commits, first):
        for value in encode(changes_of(commit), sequence, b"p%d" % sequence, most):
            log.append((value, offset + 1))
            offset += 1
        offset += 1
    return log


def state_after(commits):
    store = Memory()
    for commit in commits:
        store.apply(changes_of(commit), Mark())
    return store.entries()


@given(st.lists(COMMITS, max_size=8), st.sampled_from([1, 4000, 900_000]), st.data())
def test_a_replay_ends_where_the_commits_did(commits, most, data):
    """From any commit on, read from any earlier offset, flushed at any time."""
    log = log_of(commits, most)
    at = data.draw(st.integers(0, len(commits)), label="the store stands at")
    store = Memory(Mark(at, "t", 0, b"p%d" % at) if at else Mark())
    for commit in commits[:at]:
        for change in changes_of(commit):
            store.maps.setdefault(change.store, {}).update(zip(change.keys, change.values, strict=True))
    blocks = [decode(value) for value, _ in log]
    needed = next((i for i, block in enumerate(blocks) if block.sequence > at), len(log))
    replay = Replay(store, "t", most_bytes=data.draw(st.sampled_from([1, 3000, 1 << 20])))
    for value, offset in log[data.draw(st.integers(0, needed), label="read from") :]:
        replay.add(value, offset)
        if data.draw(st.booleans()):
            replay.flush()
            assert store.entries() == state_after(commits[: store.mark.sequence])
    replay.flush()
    assert store.entries() == state_after(commits)
    if len(commits) > at:
        assert store.mark == Mark(len(commits), "t", log[-1][1], b"p%d" % len(commits))


ONE = {"s": {b"a": b"1", b"b": bytes(2000)}}


def test_small_commits_are_one_write():
    store = Memory()
    replay = Replay(store, "t")
    for value, offset in log_of([{"s": {b"%d" % (i % 7): b"%d" % i}} for i in range(100)]):
        replay.add(value, offset)
    assert store.writes == 0
    replay.flush()
    replay.flush()
    assert (store.writes, store.mark.sequence) == (1, 100)
    assert store.maps["s"][b"1"] == b"99"


def test_what_waits_to_be_written_is_bounded():
    store = Memory()
    replay = Replay(store, "t", most_bytes=10_000)
    log = log_of([{"s": {b"k": random.Random(i).randbytes(1000)}} for i in range(100)])
    for value, offset in log:
        replay.add(value, offset)
    assert 8 <= store.writes <= 20
    assert store.mark.sequence > 80


def test_a_commit_without_its_end_is_not_written():
    log, store = log_of([ONE, ONE], most=2000), Memory()
    replay = Replay(store, "t")
    ends = Counter(decode(value).sequence for value, _ in log)
    assert ends[2] > 1
    for value, offset in log[:-1]:
        replay.add(value, offset)
    replay.flush()
    assert store.mark == Mark(1, "t", log[ends[1] - 1][1], b"p1")
    replay.add(*log[-1])
    replay.flush()
    assert store.mark.sequence == 2


def test_lost_blocks_are_found():
    log = log_of([ONE, ONE, ONE], most=2000)
    for lost in range(len(log) - 1):
        replay = Replay(Memory(), "t")
        with pytest.raises(StateMismatch, match="blocks were lost") as error:  # noqa: PT012
            for value, offset in log[:lost] + log[lost + 1 :]:
                replay.add(value, offset)
        assert f"before {log[lost + 1][1]}" in error.value.where


def test_a_sequence_never_goes_back():
    log = log_of([ONE, ONE])
    replay = Replay(Memory(), "t")
    for value, offset in log:
        replay.add(value, offset)
    for value, _ in log:
        with pytest.raises(StateMismatch, match="not with 0 of 3"):
            replay.add(value, 99)


def test_damage_names_the_offset():
    with pytest.raises(StateCorrupt) as error:
        Replay(Memory(), "topic-id").add(b"", 8)
    assert error.value.where == "changelog topic-id, offset before 8"


def test_a_store_of_another_topic_is_refused():
    with pytest.raises(StateMismatch, match="deleted and made again"):
        Replay(Memory(Mark(3, "old", 5)), "new")
    Replay(Memory(Mark(0, "", 5)), "new")


def test_a_trimmed_changelog_begins_anywhere_for_an_empty_store_alone():
    log = log_of([ONE, ONE], first=40, most=2000)
    with pytest.raises(StateMismatch, match="part 0 of commit 40, not with 0 of 1"):
        Replay(Memory(), "t").add(*log[0])
    with pytest.raises(StateMismatch):
        Replay(Memory(Mark(7, "t", 0)), "t", trimmed=True).add(*log[0])
    with pytest.raises(StateMismatch, match="part 1 of commit 40"):
        Replay(Memory(), "t", trimmed=True).add(*log[1])
    store = Memory()
    replay = Replay(store, "t", trimmed=True)
    for value, offset in log:
        replay.add(value, offset)
    replay.flush()
    assert store.mark.sequence == 41
