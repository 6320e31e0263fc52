"""Writing a store into its changelog anew, so that the changelog stays in proportion to the state.

A changelog holds every change that was ever made. When it has grown to a multiple of the state, the store's entries are
written into it again, a chunk with each commit. Everything before the first chunk is not needed then:

    |  commits 1 .. s-1  |  s   s+1   ...   e  |  e+1 ...
    |   trimmed after e  |  changes + chunks   |  changes

Why a replay that begins at s gives the whole state at e and after: an entry that nobody changes from s on is in a
chunk, with the value that it has; an entry that somebody changes is in the changes, in their order, and a chunk that
also has it was read at the commit that writes it, uncommitted changes included, so it says the same as that commit
does. For that reason a chunk is never kept for a later commit.
"""

from collections.abc import Callable

import msgspec

from streams.state.base import Change, StateStore

CHUNK = 1 << 20
"""Bytes that a commit rewrites at least."""


class Rewriting(msgspec.Struct, array_like=True, frozen=True):
    """A rewriting in progress: `start` and `offset` are the sequence and place of its first commit, `size` the bytes
    that were appended since, `store` and `key` the next entry to write."""

    start: int
    offset: int
    size: int = 0
    store: str = ""
    key: bytes = b""


class Tail(msgspec.Struct, array_like=True, frozen=True):
    """What a task knows of its changelog; it is part of the position in each commit's last block.

    The blocks from commit `base` on, which begin at `offset` or behind it, hold the whole state: `size` bytes.
    """

    base: int = 1
    offset: int = 0
    size: int = 0
    rewriting: Rewriting | None = None


def due(tail: Tail, state_bytes: int, least: int, factor: float) -> bool:
    """Whether a rewriting should begin: the changelog exceeds `factor` times the state, and `least` bytes.

    >>> due(Tail(size=500), 100, 400, 3), due(Tail(size=500), 200, 400, 3), due(Tail(size=300), 10, 400, 3)
    (True, False, False)
    """
    return tail.rewriting is None and tail.size >= max(least, factor * state_bytes)


def chunk(store: StateStore, tail: Tail, sequence: int, end: Callable[[], int], most: int) -> tuple[list[Change], Tail]:
    """The entries that the commit `sequence` writes again, about `most` bytes, and the tail from then on.

    `end` gives the changelog's end before this commit; it is asked for when a rewriting begins.
    """
    now = tail.rewriting or Rewriting(sequence, end())
    changes: list[Change] = []
    left, name, key = most, now.store, now.key
    for each in sorted(n for n in store.names() if n >= name):
        start = key if each == name else b""
        keys, values, following = store.entries(each, start, left)
        if keys:
            changes.append(Change(each, keys, list(values)))
            left -= sum(map(len, keys)) + sum(map(len, values))
        if following is not None:
            going_on = Rewriting(now.start, now.offset, now.size, each, following)
            return changes, Tail(tail.base, tail.offset, tail.size, going_on)
    return changes, Tail(now.start, now.offset, now.size)


def grown(tail: Tail, size: int) -> Tail:
    """The tail after a commit has appended `size` bytes."""
    now = tail.rewriting
    if now is not None:
        now = Rewriting(now.start, now.offset, now.size + size, now.store, now.key)
    return Tail(tail.base, tail.offset, tail.size + size, now)
