"""What leaves a task: records and blocks that a log takes, and a letter for each row that it would not take."""

import random

import polars as pl

from operators import Select, Window, WithColumns, agg, tumbling
from streams import App, EventTime, Schema, col
from streams.codec.blocks import ShuffleBlock, decode_block, encode_block
from streams.core.batch import Batch, Letter
from streams.runtime.edges import _BLOCK_BYTES, SinkEdge, _pieces, latest_taken
from streams.runtime.letters import DeadLetters


class Tx(Schema):
    card: str
    at: EventTime
    text: str = ""


def frame(texts):
    times = range(len(texts))
    return pl.DataFrame({"card": ["c"] * len(texts), "text": texts, "$time": times, "$watermark": times})


def test_blocks_are_cut_by_bytes_however_uneven_the_rows_are():
    rng = random.Random(1)
    large = [rng.randbytes(450_000).hex() for _ in range(40)]
    whole = frame(["x"] * 25_000 + large + [None] * 25_000)
    pieces = _pieces(whole)
    assert pl.concat(pieces).equals(whole)
    assert max(len(encode_block(ShuffleBlock(0, 0, False, piece))) for piece in pieces) < 1.2 * _BLOCK_BYTES
    assert len(pieces) < 20


def test_lists_are_cut_by_their_own_size_not_by_the_average():
    rng = random.Random(1)
    texts = [[rng.randbytes(500_000).hex(), None] for _ in range(20)]
    whole = frame(["x"] * 20_020).with_columns(pl.Series("words", [["a"]] * 10_000 + texts + [None, []] * 5_000))
    numbers = [[rng.getrandbits(62) for _ in range(60_000)] for _ in range(20)]
    whole = whole.with_columns(pl.Series("numbers", [[[1]]] * 10_000 + [[n] for n in numbers] + [None] * 10_000))
    pieces = _pieces(whole)
    assert pl.concat(pieces).equals(whole)
    assert max(len(encode_block(ShuffleBlock(0, 0, False, piece))) for piece in pieces) < 1.2 * _BLOCK_BYTES


def test_a_part_of_a_frame_takes_no_more_than_its_part():
    """A block of one row had the texts in lists of all rows: 15 MB, of 20,000."""
    rng = random.Random(1)
    texts = [f"a longer word {rng.getrandbits(60)}" for _ in range(40_000)]
    lists = [texts[i : i + 20] for i in range(0, 40_000, 20)] + [[], None, [None, "x"]]
    whole = pl.DataFrame(
        {
            "texts": lists,
            "bytes": [x and [t.encode() if t else t for t in x] for x in lists],
            "nested": [x and [x, None] for x in lists],
        }
    )
    for part in (whole[[5]], whole.slice(7, 1), whole[-4:], whole):
        block = encode_block(ShuffleBlock(0, 0, False, part))
        assert len(block) < 200 * part.height * 20 + 10_000
        assert decode_block(block).frame.equals(part)


def test_a_row_that_is_larger_than_a_block_has_one_of_its_own():
    text = "x" * (2 * _BLOCK_BYTES)
    assert [piece.height for piece in _pieces(frame(["a", text, "b"]))] == [1, 1, 1]
    assert _pieces(None) == [None]
    assert [piece.height for piece in _pieces(frame(["a", "b"]))] == [2]


def test_the_key_counts_for_the_size_of_a_record():
    app = App("shop")
    app.source("tx", Tx, key="card", start="earliest") | Select("text", "card") | app.sink("out", key="card")
    with app.test() as t:
        small, large = Tx("c", 1, "x" * 600_000), Tx("c" * 300_000, 1, "x" * 600_000)
        t.send("tx", [small, large, small])
        t.expect("out", [{"text": small.text, "card": "c"}] * 2)
        [letter] = t.dead_letters()
    assert "the record for topic 'out' has" in letter.cause


def test_results_that_look_alike_are_a_letter_each():
    app = App("shop")
    (
        app.source("tx", Tx, key="card", start="earliest")
        | Window(tumbling("1m"), [agg.count().alias("n")])
        | Select("n")
        | WithColumns(bad=col("n").cast(pl.String).str.to_date("%Y-%m-%d", strict=True).cast(pl.Int64))
        | app.sink("out")
    )
    with app.test() as t:
        t.send("tx", [Tx("a", 0), Tx("b", 1), Tx("c", 2), Tx("d", 120_000)])
        assert len(t.dead_letters()) == 3


def test_a_timestamp_lies_no_further_ahead_than_the_topic_takes():
    app = App("ahead")
    app.source("tx", Tx, start="earliest") | Select("card") | app.sink("out")
    node = next(n for n in app.topology().graph.nodes.values() if n.sink is not None)
    hour, now, found = 3_600_000, 1_700_000_000_000, []
    times = [now - hour, now, now + hour - 60_000, now + hour, now + 24 * hour]
    batch = Batch(pl.DataFrame({"card": ["c"] * 5, "$time": times}))
    for ahead in (-1, hour, 30_000):
        SinkEdge(node, 0, 1, 1_000, ahead).write(batch, found.append, lambda *letter: None, now)
    assert [list(produced.timestamps) for produced in found] == [
        times,
        [*times[:3], now + hour - 60_000, now + hour - 60_000],
        [now - hour, now, now, now, now],
    ]


def test_a_letter_lies_no_further_ahead_than_its_topic_takes():
    """An hour, in a topic with the brokers' defaults: the commit was refused, again and again."""
    letters, now = DeadLetters(), 1_700_000_000_000
    for offset, stamp in enumerate((now - 5, now + 7_200_000, -1)):
        letters.add(Letter(b"broken", None, "tx", 0, offset, stamp), "not JSON", "source-tx")
    made = letters.produced("bad", 0, now, latest_taken(now, 3_600_000))
    assert made is not None
    assert made.timestamps == [now - 5, now + 3_540_000, now]
    assert [dict(h)["timestamp"] for h in made.headers] == [b"%d" % s for s in (now - 5, now + 7_200_000, -1)]
    assert letters.produced("bad", 0, now, latest_taken(now, -1)).timestamps[1] == now + 7_200_000
