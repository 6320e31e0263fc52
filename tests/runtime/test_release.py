"""The order in which rows of several channels go on, also across a restart."""

import random

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.codec.blocks import ShuffleBlock, encode_block
from streams.core.batch import TIME, WATERMARK
from streams.core.record import TopicPartition
from streams.core.topology import Input
from streams.runtime.inputs import TaskInput
from streams.runtime.position import TaskPosition
from streams.runtime.release import Release
from tests.runtime.fakes import FakeRecords, input_of, tx

SHUFFLE = TopicPartition("app-by-card-shuffle", 0)


def release_of(channels=2):
    spec, source = input_of()
    shuffle = TaskInput(Input("by-card", "by-card", True, spec.type, spec.wanted), None, channels, lambda *a: None)
    direct = TaskInput(spec, source, 1, lambda *a: None)
    return Release([direct, shuffle], merging=True)


def block(channel, times, watermark, idle=False, before=0):
    frame = None
    if times:
        rows = [{"card": f"s{channel}", "at": t, "amount": 0, TIME: t, WATERMARK: before} for t in times]
        frame = pl.DataFrame(rows)
    return encode_block(ShuffleBlock(channel, watermark, idle, frame))


def rows(released):
    return [(i, t) for i, b in sorted(released.items()) for t in b.frame["at"].to_list()]


def test_rows_wait_for_the_slowest_channel():
    release = release_of()
    release.add(0, release.inputs[0].take(FakeRecords([tx(10), tx(20)])))
    assert rows(release.ready()) == []
    release.add(1, release.inputs[1].take(FakeRecords([block(0, [5, 15], 15)], source=SHUFFLE)))
    assert rows(release.ready()) == []
    release.add(1, release.inputs[1].take(FakeRecords([block(1, [7, 12], 12)], start=1, source=SHUFFLE)))
    assert rows(release.ready()) == [(0, 10), (1, 5), (1, 7)]
    assert release.watermark == 11
    release.add(1, release.inputs[1].take(FakeRecords([block(1, [], 0, idle=True)], start=2, source=SHUFFLE)))
    assert rows(release.ready()) == [(1, 12)]


def test_when_all_channels_are_idle_nothing_waits():
    release = release_of()
    release.add(0, release.inputs[0].take(FakeRecords([tx(10)])))
    release.inputs[0].channels[0].idle = True
    release.add(
        1, release.inputs[1].take(FakeRecords([block(0, [50], 50, True), block(1, [], 0, True)], source=SHUFFLE))
    )
    assert rows(release.ready()) == [(0, 10), (1, 50)]


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 6))
def test_a_restart_anywhere_loses_and_doubles_nothing(seed, cut):
    rng = random.Random(seed)
    direct = [tx(rng.randrange(i * 3, i * 3 + 9), amount=i) for i in range(30)]
    blocks, clock = [], [0, 0]
    for _ in range(14):
        channel = rng.randrange(2)
        before = clock[channel]
        clock[channel] += rng.randrange(12)
        times = [max(0, clock[channel] - rng.randrange(6)) for _ in range(rng.randrange(3))]
        blocks.append(block(channel, times, clock[channel], before=before))

    def drive(left, order_seed=1, most=1000):
        release, out, at = release_of(), [], [0, 0]
        order = random.Random(seed + order_seed)

        def take():
            for index, batch in sorted(release.ready(most).items()):
                out.extend((index, *r) for r in batch.frame.select("at", "card", "amount", WATERMARK).rows())

        while at[0] < len(direct) or at[1] < len(blocks):
            which = order.randrange(2)
            source = (direct, blocks)[which]
            part = source[at[which] : at[which] + cut]
            if part:
                tp = TopicPartition("tx", 0) if which == 0 else SHUFFLE
                release.add(which, release.inputs[which].take(FakeRecords(part, at[which], tp)))
                at[which] += len(part)
            take()
            while release.more and not (left and order.random() < 0.1):
                take()
            if left and order.random() < 0.3:
                left -= 1
                saved = release.position().encode()
                release = release_of()
                release.restore(TaskPosition.decode(saved))
                at = [i.next for i in release.inputs]
        while release.more:
            take()
        return out

    runs = drive(0), drive(5), drive(0, 2), drive(0, most=1), drive(5, most=2)
    by_turn = [[(max(r[1], r[4]), r) for r in run] for run in runs]
    assert all(sorted(run) == sorted(by_turn[0]) for run in by_turn)
    for run in by_turn:
        for index in (0, 1):
            turns = [turn for turn, row in run if row[0] == index]
            assert turns == sorted(turns)


def test_ties_go_by_channel_then_offset():
    release = release_of()
    items = [block(1, [5, 5], 9), block(0, [5], 9)]
    release.add(1, release.inputs[1].take(FakeRecords(items, source=SHUFFLE)))
    release.add(0, release.inputs[0].take(FakeRecords([tx(9)])))
    assert release.ready()[1].frame["card"].to_list() == ["s0", "s1", "s1"]


def test_rows_that_go_on_at_once_go_in_pieces_of_whole_turns():
    release = release_of(channels=1)
    release.add(0, release.inputs[0].take(FakeRecords([tx(t) for t in (1, 2, 2, 2, 3, 4, 50)])))
    release.add(1, release.inputs[1].take(FakeRecords([block(0, [4], 60)], source=SHUFFLE)))
    pieces, marks = [], []
    release.more = True
    while release.more:
        pieces.append(rows(release.ready(2)))
        marks.append(release.watermark)
    assert pieces == [[(0, 1)], [(0, 2), (0, 2), (0, 2)], [(0, 3)], [(0, 4), (1, 4)]]
    assert marks == [1, 2, 3, 49]
