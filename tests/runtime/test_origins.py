"""From a row back to its record, many at once and in any order."""

import polars as pl

from streams.core.batch import ROW, TIME, WATERMARK, Batch, Joined
from streams.runtime.edges import letters_of
from streams.runtime.inputs import BlockOrigin


def block(offset: int, cards: list[str]) -> BlockOrigin:
    frame = pl.DataFrame({"card": cards, TIME: [10 * offset + i for i in range(len(cards))], WATERMARK: 0})
    return BlockOrigin(frame.with_row_index(ROW), "shuffle", 1, offset)


def test_rows_of_several_blocks_are_told_in_the_order_in_which_they_are_asked_for():
    origin = Joined([0, 3], [block(7, ["a", "b", "c"]), block(9, ["d", "e"])])
    frame = pl.DataFrame({"x": [0, 0, 0, 0], ROW: [4, 0, 3, 2]}, schema_overrides={ROW: pl.UInt32})
    letters = letters_of(Batch(frame, origin), [0, 3, 1])
    assert [(x.value, x.topic, x.partition, x.offset, x.row, x.timestamp) for x in letters] == [
        (b'{"card":"e"}', "shuffle", 1, 9, 1, 91),
        (b'{"card":"c"}', "shuffle", 1, 7, 2, 72),
        (b'{"card":"a"}', "shuffle", 1, 7, 0, 70),
    ]
    assert letters_of(Batch(frame, origin), []) == []


def test_rows_that_come_from_no_record_are_told_themselves():
    letters = letters_of(Batch(pl.DataFrame({"n": [1, 2, 3], TIME: [5, 6, 7]})), [2, 0])
    assert [(x.value, x.topic, x.offset, x.timestamp) for x in letters] == [
        (b'{"n":3}', "", -1, 7),
        (b'{"n":1}', "", -1, 5),
    ]
