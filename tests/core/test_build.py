"""Programs that are wrong fail when they are built, and say what to do."""

from typing import ClassVar

import polars as pl
import pytest

from operators import Filter, KeyBy, Select, WithColumns
from streams import App, EventTime, Schema, col, connect
from streams.core.errors import BuildError, DuplicateId, TopicMismatch, UnknownColumn, WrongType
from streams.core.operator import Operator
from streams.core.store import StoreSpec
from streams.core.time import duration, text
from streams.core.topology import TaskId


class Payment(Schema):
    card: str
    at: EventTime
    amount: int
    note: str | None = None


def app_and_source(**more):
    app = App("shop")
    return app, app.source("pay", Payment, **{"start": "earliest", "key": "card", **more})


class Merge(Operator):
    ports = 2
    ordered = True

    def process(self, batch, port=0):
        return batch


class Migrates(Merge):
    ports = 1
    stores = (StoreSpec("values"),)
    migrate: ClassVar = {"valeus": lambda old: old}


@pytest.mark.parametrize(
    ("build", "error", "says"),
    [
        (lambda a, s: s | Filter(col("amuont") > 1), UnknownColumn, "did you mean 'amount'"),
        (lambda a, s: s | Filter(col("amount")), WrongType, ""),
        (lambda a, s: s | Filter(col("amount") + "x" == 1), WrongType, ""),
        (lambda a, s: s | Migrates(), BuildError, "does not have; did you mean 'values'?"),
        (lambda a, s: s | KeyBy("crad"), UnknownColumn, "did you mean 'card'"),
        (lambda a, s: s | app_and_source()[0].sink("x", key="nope"), UnknownColumn, "no column 'nope'"),
        (lambda a, s: (s | Filter(True).named("f")) | Filter(True).named("f"), DuplicateId, "'f'"),
        (lambda a, s: a.source("pay", Payment, start="earliest"), DuplicateId, "already a source"),
        (lambda a, s: s | Merge(), BuildError, "2 input port"),
        (lambda a, s: connect(s), BuildError, "two streams"),
        (lambda a, s: connect(s, app_and_source()[1]) | Merge(), BuildError, "two apps"),
        (lambda a, s: s.late, BuildError, "no side output"),
        (lambda a, s: s | 5, WrongType, "cannot pipe"),
        (lambda a, s: list(s), WrongType, "cannot be iterated"),
        (lambda a, s: a.source("y", Payment, start="today"), WrongType, "first run begins"),
        (lambda a, s: a.source("y", dict, start="earliest"), WrongType, "not a schema"),
        (lambda a, s: a.source("y", Payment, start="earliest", disorder="5 parsecs"), WrongType, "not a duration"),
        (lambda a, s: App("no spaces"), BuildError, "not a name"),
        (lambda a, s: App("empty").topology(), BuildError, "no source"),
    ],
)
def test_a_wrong_program_fails_when_it_is_built(build, error, says):
    with pytest.raises(error) as found:
        build(*app_and_source())
    assert says in str(found.value)
    assert found.value.fix


def test_two_event_times_and_unknown_types_are_refused():
    class Two(Schema):
        a: EventTime
        b: EventTime

    class Odd(Schema):
        a: complex

    for schema in (Two, Odd):
        with pytest.raises(WrongType):
            App("x").source("t", schema, start="earliest")


def test_keying_by_the_key_that_a_stream_has_costs_nothing():
    _, payments = app_and_source()
    assert (payments | KeyBy("card")) is not None
    assert len(payments.graph.nodes) == 1


def test_a_shuffle_cuts_the_topology_and_ids_are_stable():
    def build():
        app, payments = app_and_source()
        large = payments | Filter(col("amount") > 100)
        large | app.sink("large")
        large | KeyBy("note") | WithColumns(double=col("amount") * 2) | app.sink("notes", key="note")
        return app.topology()

    topology = build()
    assert [[n.id for n in s.nodes] for s in topology.subs] == [
        ["source-pay", "filter-1", "sink-large-1"],
        ["keyby-1", "withcolumns-1", "sink-notes-1"],
    ]
    assert [s.stateful for s in topology.subs] == [False, True]
    counts = topology.place({"pay": 3}, 4)
    assert counts == {0: 3, 1: 3}
    assert topology.tasks(counts)[3] == TaskId(3, 1, 0)
    assert topology.fingerprint(counts) == build().fingerprint(counts)


def test_only_columns_that_are_read_are_decoded():
    app, payments = app_and_source()
    payments | Filter(col("amount") > 100) | Select("card") | app.sink("cards")
    (item,) = app.topology().subs[0].inputs
    assert item.wanted == {"card", "amount"}


def test_topics_that_meet_need_equal_partition_counts():
    app, payments = app_and_source()
    other = app.source("other", Payment, start="earliest")
    connect(payments, other) | Merge() | app.sink("out")
    with pytest.raises(TopicMismatch, match="different partition counts"):
        app.topology().place({"pay": 3, "other": 4}, 4)


def test_durations():
    assert duration("1h30m") == 5_400_000
    assert text(duration("7d")) == "7d"
    for wrong in ("", "5", "1x", "1m!", -1, 1.5, True):
        with pytest.raises(WrongType):
            duration(wrong)


def test_an_operator_that_fails_to_bind_leaves_no_node():
    app, payments = app_and_source()
    with pytest.raises(UnknownColumn):
        payments | Filter(pl.col("zzz") > 1)
    assert len(app.graph.nodes) == 1
