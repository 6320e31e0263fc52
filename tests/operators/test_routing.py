"""KeyBy and Union."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators import Filter, KeyBy, Union, WithColumns, col, union
from operators.stored_keys import StoredKeys
from streams.core.errors import BuildError, NoEventTime, UnknownColumn, WrongType
from streams.core.schema import EventTime, Field, Schema, StreamType, describe
from streams.core.stream import Edge, Graph, Stream, make_source, source
from tests.operators.checks import Numbered, Task, check, frame_of, stream


class Payment(Schema):
    card: str
    at: EventTime
    amount: int
    ratio: float = 0.5


class Plain(Schema):
    amount: int


PAYMENTS = stream(Payment, key="card")


def test_key_by():
    assert KeyBy("amount", "card").bind(PAYMENTS).key == ("amount", "card")
    assert KeyBy("amount").bind(PAYMENTS).schema is Payment
    for columns, error, text in [
        ((), UnknownColumn, "without columns"),
        (("crad",), UnknownColumn, "did you mean 'card'"),
        (("ratio",), WrongType, "Float64"),
        (("card", "card"), WrongType, "twice"),
        (("$key",), WrongType, "metadata"),
    ]:
        with pytest.raises(error, match=text):
            KeyBy(*columns).bind(PAYMENTS)
    with pytest.raises(WrongType, match="not the name of a column"):
        KeyBy(col("card"))


def test_key_by_in_a_program():
    graph = Graph()
    times = {"disorder": 0, "start": "earliest", "idle": 0, "validate": "used", "ahead": "1d", "behind": "1d"}
    payments = source(graph, *_with_key(make_source("tx", Payment, key=["card"], **times)))
    assert (payments | KeyBy("card")).edge == payments.edge
    moved = payments | KeyBy("amount")
    assert graph.nodes[moved.edge.node].kind == "shuffle"
    both = union(payments, payments | Filter(col("amount") > 1))
    assert both.type.key == ("card",)
    assert graph.nodes[both.edge.node].operator.ordered


def _with_key(made):
    spec, type_ = made
    return spec, type_.key, type_


def frames(*times):
    return [
        frame_of(PAYMENTS, [Payment(f"{name}{i}", t, i) for i, t in enumerate(ts)], disorder=5)
        for name, ts in zip("ab", times, strict=True)
    ]


def test_union_goes_by_event_time_where_channels_meet():
    made = check(Union(2), [PAYMENTS, PAYMENTS], frames([1, 4, 3, 9, 20, 18] * 1, [2, 3, 3, 30, 29]))
    assert made.column("card") == ["a0", "b0", "a2", "b1", "b2", "a1", "a3", "a5", "a4", "b4", "b3"]


def test_union_of_branches_of_one_channel_goes_by_record():
    (frame, _) = frames([5, 1, 7, 2, 2], [])
    outs = []
    for size in (1, 2, 5):
        task = Task(Union(2), PAYMENTS, PAYMENTS)
        for piece in frame.iter_slices(size):
            left, right = piece, piece.filter(col("amount") != 1)
            task.give([(0, left), (1, right)], None, Numbered())
        task.commit()
        outs.append(task.committed.column("card"))
    assert outs[0] == outs[1] == outs[2] == ["a0", "a0", "a1", "a2", "a2", "a3", "a3", "a4", "a4"]


def test_union_without_order_takes_rows_as_they_come():
    plain = stream(Plain)
    task = Task(Union(2, ordered=False), plain, plain)
    task.give([(0, frame_of(plain, [Plain(1)])), (1, frame_of(plain, [Plain(2)]))], None)
    task.commit()
    assert task.committed.column("amount") == [1, 2]


def test_union_checks_its_inputs():
    other = WithColumns(ratio=col("amount")).bind(PAYMENTS)
    with pytest.raises(WrongType, match="stream 1 has ratio: Float64, stream 2 has ratio: Int64"):
        Union(2).bind(PAYMENTS, other)
    with pytest.raises(WrongType, match="no column 'note'"):
        Union(2).bind(PAYMENTS, WithColumns(note=col("card")).bind(PAYMENTS))
    with pytest.raises(NoEventTime):
        Union(2).bind(stream(Plain), stream(Plain))
    with pytest.raises(BuildError):
        Union(1)
    assert Union(2).bind(PAYMENTS, KeyBy("amount").bind(PAYMENTS)).key == ()
    assert Union(2).needs({"card"}, 1, [PAYMENTS, PAYMENTS]) == {"card"}


def test_union_of_streams_with_columns_in_another_order():
    shuffled = StreamType(dict(reversed(PAYMENTS.fields.items())), ("card",), True)
    made = check(Union(2), [PAYMENTS, shuffled], [frames([1], [])[0], frames([2], [])[0].select(pl.all().reverse())])
    assert made.rows[0].keys() == made.rows[1].keys()


def test_union_function():
    with pytest.raises(BuildError):
        union(Stream(Graph(), Edge("x"), PAYMENTS))


TYPES = {
    "str": (pl.String(), st.text()),
    "bytes": (pl.Binary(), st.binary()),
    "int": (pl.Int64(), st.integers(-(2**63), 2**63 - 1)),
    "bool": (pl.Boolean(), st.booleans()),
    "small": (pl.Int16(), st.integers(-(2**15), 2**15 - 1)),
}


@given(st.data())
def test_stored_keys_give_back_what_they_were_given(data):
    names = data.draw(st.lists(st.sampled_from(sorted(TYPES)), min_size=1, max_size=4, unique=True))
    fields, values = {}, {}
    for name in names:
        dtype, one = TYPES[name]
        nullable = data.draw(st.booleans())
        fields[name] = Field(dtype, nullable)
        values[name] = one | st.none() if nullable else one
    rows = data.draw(st.lists(st.tuples(*values.values()), max_size=20))
    type_ = StreamType(fields, tuple(names))
    frame = pl.DataFrame({n: pl.Series(n, [r[i] for r in rows], dtype=fields[n].dtype) for i, n in enumerate(names)})
    keys = StoredKeys(type_)
    made = keys.encode(frame).to_list()
    assert keys.decode(made) == rows
    assert keys.frame(made).equals(frame, null_equal=True)
    assert len(set(made)) == len(set(rows))


def test_describe_is_what_stream_uses():
    assert describe(Payment)[1] == "at"
