"""Where a task stands in its inputs: written with every commit, read at every start."""

from collections.abc import Callable
from zlib import crc32

import msgspec

from streams.core.time import NEVER
from streams.state.rewrite import Tail


class Channel(msgspec.Struct, array_like=True):
    """One writer of an input: its watermark (running maximum of event time minus disorder), and whether it is idle."""

    watermark: int = NEVER
    idle: bool = False


class InputPosition(msgspec.Struct, array_like=True):
    """A task's place in one input partition.

    Rows are released in order of event time where several channels meet, so rows that have been read may wait:
    - `offset`: the first record with rows that wait; reading starts there after a restart;
    - `read`: the next record to read. What lies before it and below the frontier has been processed;
    - `maximum`: the running maximum of event time before the record at `offset`;
    - `channels`: by the writer's partition (a source has one, 0), as of `read`;
    - `topic`: which topic of that name a source's is (`topic_mark`); empty where that is not known.
    """

    offset: int
    read: int
    maximum: int = NEVER
    channels: dict[int, Channel] = {}
    topic: str = ""


def topic_mark(id: str) -> str:
    """What positions keep of a topic's id: its beginning, since a commit's note is short. Empty where the log tells no
    id: old brokers give none, or zeros.

    >>> topic_mark("mJpC5wq3QyeVtT6yVX0oTA"), topic_mark("AAAAAAAAAAAAAAAAAAAAAA")
    ('mJpC5wq3', '')
    """
    return id[:8] if id.strip("A0-") else ""


def mark_of(position: bytes) -> str:
    """A short text that tells one commit from another one of the same sequence.

    There can be two: where brokers lose the log's end (a power loss), its sequences are given out again, and a store
    that was not opened meanwhile stands at a commit that never was.
    """
    return f"{crc32(position):08x}" if position else ""


class TaskPosition(msgspec.Struct, array_like=True):
    """All inputs of a task, and the frontier: rows below this event time have been released. `drained`: the watermark;
    `stores`: the maps that the program has; `tail`: how the changelog lies; `location`: the token of
    the checkpoint location; `before`: the mark of the commit before this one; `tokens`: what sinks outside the log have
    prepared for this commit; `types`: what the entries of the stores are (`streams.runtime.store_types`)."""

    inputs: dict[str, InputPosition]
    frontier: int = NEVER
    drained: int = NEVER
    stores: list[str] = []
    tail: Tail = Tail()
    location: str = ""
    before: str = ""
    tokens: dict[str, bytes] = {}
    types: dict[str, dict[str, str]] = {}

    def encode(self) -> bytes:
        return msgspec.msgpack.encode(self)

    @staticmethod
    def decode(data: bytes) -> "TaskPosition":
        return msgspec.msgpack.decode(data, type=TaskPosition)


def goes_on(position: bytes) -> Callable[[bytes], bool] | None:
    """For `Replay`: whether a commit's position is of the one behind `position`; None where that cannot be told."""
    mark = mark_of(position)
    return (lambda later: TaskPosition.decode(later).before in ("", mark)) if mark else None
