"""What operators tell of their entries, for savepoints: keys as they are hashed, and entries of whole tasks."""

import polars as pl
import pytest

from operators import KeyBy, Keyed, Running, Value, Window, agg, tumbling
from operators.stored_keys import SIGNATURE, StoredKeys, instant_bytes
from operators.timers import timer_key
from operators.window_store import combined_heads, window_key
from streams.core.errors import StateMismatch, WrongType
from streams.core.keys import key_bytes
from streams.core.schema import EventTime, Field, Schema, StreamType
from streams.core.time import NEVER


@pytest.mark.parametrize(
    "values",
    [["a", "", None, "=", "\x00"], [b"a", b"", None, b"=a", b"\xff"], [1, -5, None], [True, False, None]],
    ids=["str", "bytes", "int", "bool"],
)
def test_a_stored_key_is_hashed_as_a_shuffle_hashes_it(values):
    frame = pl.DataFrame({"k": values, "n": list(range(len(values)))})
    for key in (("k",), ("k", "n")):
        stored = StoredKeys(StreamType({c: Field(frame.schema[c]) for c in key}, key=key))
        wanted = key_bytes(frame, key).fill_null(b"").to_list()
        assert [stored.hashed(k) for k in stored.encode(frame).to_list()] == wanted


def test_heads_of_windows_are_combined_to_the_least():
    heads = [instant_bytes(5) + b"kind", instant_bytes(-3) + b"kind"]
    assert combined_heads(heads) == heads[1]
    assert combined_heads([*heads, None]) == instant_bytes(NEVER) + b"kind"
    assert combined_heads([None, None]) is None
    with pytest.raises(StateMismatch, match="the operator has changed"):
        combined_heads([heads[0], instant_bytes(5) + b"other"])


def test_entries_tell_their_keys():
    assert window_key(b"\x00") is None
    assert window_key(instant_bytes(7) + b"card") == timer_key(instant_bytes(7) + b"card") == b"card"


class Payment(Schema):
    card: str
    at: EventTime


class Count(Keyed[Payment, Payment]):
    n = Value(int)
    seen = Value(list[str], ttl="1h")

    def on_row(self, row, ctx):
        return None


def test_operators_say_what_their_stores_hold():
    fields = {"card": Field(pl.String()), "at": Field(pl.Int64())}
    inputs = [StreamType(fields, key=("card",), time=True, schema=Payment)]
    count, window, running = Count(), Window(tumbling("1m"), [agg.count()]), Running([agg.count()])
    assert count.store_type("values", inputs) == {
        "key": "card: String",
        "value n": "int",
        "value seen": "packed list[str]",
    }
    assert count.store_type("timers", inputs) == {"key": "card: String"}
    assert window.store_type("windows", inputs)["windows"] == "60000+0"
    assert running.key_of("running", SIGNATURE, inputs) is None
    assert running.key_of("running", b"c1", inputs) == b"c1"
    assert count.key_of("timers", instant_bytes(9) + b"c1", inputs) == b"c1"
    assert running.combine("running", SIGNATURE, [b"x", None, b"x"]) == b"x"
    with pytest.raises(StateMismatch, match="do not agree"):
        running.combine("running", SIGNATURE, [b"x", b"y"])


def test_a_shuffle_has_at_least_one_partition():
    with pytest.raises(WrongType, match="partitions=0"):
        KeyBy("card", partitions=0)
