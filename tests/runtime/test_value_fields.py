"""A value that is a class with fields: what a changed program may do to it, on a plain start."""

from dataclasses import dataclass, make_dataclass

import msgspec
import pytest

from operators import Keyed, Value
from streams import App, EventTime, Schema
from streams.core.errors import StateMismatch


class Tx(Schema):
    card: str
    at: EventTime


class Seen(Schema):
    card: str
    n: int


def app(kept, read=lambda stat: stat.count):
    """Counts with a value of the type `kept`, which has a field `count` at least."""

    class Count(Keyed[Tx, Seen]):
        stat = Value(kept)

        def on_row(self, row, ctx):
            stat = self.stat.get()
            count = 0 if stat is None else read(stat)
            self.stat.set(kept(count + 1))
            yield Seen(row.card, count + 1)

    made = App("fields")
    tx = made.source("tx", Tx, key="card", start="earliest")
    tx | Count().named("counts") | made.sink("out")
    return made


def struct(name, *fields, **options):
    return msgspec.defstruct(name, fields, **options)


def restarted(before, after):
    """What comes of two rows, between which the program changes."""
    with before.test() as t:
        t.send("tx", [Tx("a", 0)])
        t.read("out")
        t.restart()
        t.app = after
        t.send("tx", [Tx("a", 1)])
        return [row.n for row in t.read("out")]


OLD = struct("Stat", ("count", int))


@pytest.mark.parametrize(
    ("new", "said"),
    [
        (struct("Stat", ("number", int, 0)), r"value stat\.count: is gone"),
        (struct("Stat", ("count", str)), r"value stat\.count: is now str"),
        (struct("Stat", ("count", int), rename={"count": "c"}), r"value stat\.count: is gone"),
        (struct("Stat", ("count", int), array_like=True), "value stat: is now packed array of fields"),
        (make_dataclass("Stat", [("total", int, 0)]), r"value stat\.count: is gone"),
    ],
)
def test_a_field_that_is_gone_or_another_is_refused_before_a_record_is_read(new, said):
    with pytest.raises(StateMismatch, match=f"what is kept in 'counts/values' is of another type(.|\n)*{said}"):
        restarted(app(OLD), app(new, lambda stat: 0))


@pytest.mark.parametrize(
    "new",
    [
        struct("Moved", ("count", int), module="elsewhere"),
        struct("Stat", ("count", int), ("seen", list[str], [])),
        make_dataclass("Plain", [("count", int)]),
    ],
)
def test_a_field_may_be_added_and_the_class_be_called_otherwise(new):
    assert restarted(app(OLD), app(new)) == [1, 2]


def test_a_field_that_was_added_without_a_default_stops_the_worker_and_is_no_fault_of_the_row():
    wider = struct("Stat", ("count", int), ("other", int))
    with pytest.raises(StateMismatch, match=r"a stored value 'stat' is not what the class declares(.|\n)*a default"):
        restarted(app(OLD), app(wider))


@dataclass
class Inner:
    at: float


def test_fields_within_lists_dictionaries_and_unions_count():
    from operators.value_types import type_texts

    left = struct("Left", ("of", dict[str, Inner]), tag="left")
    right = struct("Right", ("at", float), tag="right")
    assert type_texts("v", list[left | right | None], True) == {
        "v": "packed list[fields type='left' | fields type='right' | none]",
        "v[]<left>.of": "dict[str, fields]",
        "v[]<left>.of{}.at": "float",
        "v[]<right>.at": "float",
    }


class Node(msgspec.Struct):
    name: str
    next: "Node | None" = None


def test_a_class_within_itself_is_told_once():
    from operators.value_types import type_texts

    assert type_texts("v", Node, True) == {"v": "packed fields", "v.name": "str", "v.next": "fields | none"}
