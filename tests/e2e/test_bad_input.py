"""Bad records, through the whole engine: one dead letter each, with the bytes as they came; their neighbours go on."""

import json
import random
from typing import Annotated

import msgspec
import pytest

from operators import Keyed, MapRows, Select, Value
from streams import App, EventTime, Schema

NOW = 1_700_000_000_000
CENTURY = 100 * 365 * 86_400_000
CRASHES = [None, "flushed", "committed"]


class Order(Schema):
    id: str
    at: EventTime
    amount: int
    number: int = 0
    share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0


class Count(Schema):
    id: str
    n: int


def order(id: str, **fields) -> bytes:
    return json.dumps({"id": id, "at": NOW, "amount": 1, "number": 1} | fields).encode()


def without(field: str) -> bytes:
    return json.dumps({k: v for k, v in json.loads(order("x")).items() if k != field}).encode()


BAD = {
    "not JSON": (b"oops", "not JSON"),
    "half a document": (order("x")[:-1], "not JSON"),
    "an array": (b"[1, 2]", "wrong type"),
    "null": (b"null", "wrong type"),
    "wrong type": (order("x", amount="12"), "wrong type"),
    "a fraction": (order("x", number=1.5), "wrong type"),
    "null in a field": (order("x", number=None), "wrong type"),
    "missing field": (without("amount"), "missing field"),
    "below the range": (order("x", share=-0.1), ">= 0"),
    "above the range": (order("x", share=1.5), "<= 1"),
    "over 64 bits": (order("x", number=2**63), "integer over 64 bits"),
    "under 64 bits": (order("x", number=-(2**63) - 1), "integer over 64 bits"),
    "far over 64 bits": (order("x", number=10**40), ""),
    "invalid UTF-8": (order("x").replace(b'"x"', b'"\xff\xfe"'), "UTF-8"),
    "a lone surrogate": (order("x").replace(b'"x"', b'"\\ud800"'), ""),
    "several documents": (order("x") + b"\n" + order("y"), "more than one document"),
    "no event time": (without("at"), "missing field"),
    "event time as text": (order("x", at="2023-11-14"), "wrong type"),
    "100 years ahead": (order("x", at=NOW + CENTURY), "implausible event time"),
    "100 years behind": (order("x", at=NOW - CENTURY), "implausible event time"),
    "the greatest event time": (order("x", at=2**63 - 1), "implausible event time"),
    "the least event time": (order("x", at=-(2**63)), "implausible event time"),
    "empty": (b"", "empty value"),
    "blank": (b" \n", ""),
    "a megabyte of garbage": (random.Random(1).randbytes(1 << 20), "not JSON"),
    "a megabyte of brackets": (b"[" * (1 << 20), ""),
    "NUL bytes": (b"\0" * 100, "not JSON"),
}


def letters(t) -> list[tuple[bytes, dict[str, str]]]:
    """The dead letters as they lie in the log."""
    return [(v, {name: text.decode() for name, text in h}) for v, h in t._read(t.app.dead_letters)]


def plain() -> App:
    app = App("plain")
    app.source("orders", Order, start="earliest") | app.sink("out")
    return app


def counting() -> App:
    app = App("counting")
    app.source("orders", Order, key="id", start="earliest") | Counting() | app.sink("out")
    return app


class Counting(Keyed[Order, Count]):
    """Counts the orders of an id. Amount 13 raises after the count was raised and an output yielded; amount 14 yields
    what does not fit."""

    n = Value(int, default=0)

    def on_row(self, row, ctx):
        self.n.set(self.n.get() + 1)
        yield Count(row.id, self.n.get() if row.amount != 14 else "many")
        if row.amount == 13:
            raise ValueError("unlucky")


@pytest.mark.parametrize("crash", CRASHES)
@pytest.mark.parametrize("name", BAD)
def test_one_bad_record(name: str, crash: str | None) -> None:
    value, cause = BAD[name]
    with plain().test(partitions=2) as t:
        t.send("orders", [order("before")], partition=1)
        if crash:
            t.crash(at=crash)
        t.send("orders", [order("a"), value, order("b")], partition=1)
        t.send("orders", [order("after")], partition=1)
        assert t.crashes == bool(crash)
        [(bytes_, headers)] = letters(t)
        assert bytes_ == value
        assert (headers["topic"], headers["partition"], headers["offset"]) == ("orders", "1", "2")
        assert headers["cause"]
        assert cause in headers["cause"]
        assert len(headers["cause"]) < 500
        assert [row["id"] for row in map(json.loads, t.read_raw("out"))] == ["before", "a", "b", "after"]


def test_an_int_out_of_a_range_of_its_own() -> None:
    class Ranged(Schema):
        n: Annotated[int, msgspec.Meta(ge=0, le=10)]

    app = App("ranged")
    app.source("orders", Ranged, start="earliest") | app.sink("out")
    with app.test() as t:
        t.send("orders", [b'{"n": 1}', b'{"n": -1}', b'{"n": 11}', b'{"n": 10}'])
        assert [v for v, _ in letters(t)] == [b'{"n": -1}', b'{"n": 11}']
        assert t.read("out") == [Ranged(1), Ranged(10)]


@pytest.mark.parametrize("crash", CRASHES)
@pytest.mark.parametrize("poll", [1, 3, 20_000])
def test_all_of_them_between_good_ones(crash: str | None, poll: int) -> None:
    sent = [v for i, (bad, _) in enumerate(BAD.values()) for v in (order(f"g{i}"), bad)]
    with plain().test(poll_records=poll) as t:
        if crash:
            t.crash(at=crash)
        t.send("orders", sent)
        assert [(v, h["offset"]) for v, h in letters(t)] == [(v, str(i)) for i, v in enumerate(sent) if i % 2]
        assert [json.loads(v)["id"] for v in t.read_raw("out")] == [f"g{i}" for i in range(len(BAD))]


def test_halves_do_not_make_a_whole() -> None:
    whole = order("x")
    with plain().test() as t:
        t.send("orders", [whole[:20], whole[20:], order("y") + b",", order("z")])
        assert [v for v, _ in letters(t)] == [whole[:20], whole[20:], order("y") + b","]
        assert [json.loads(v)["id"] for v in t.read_raw("out")] == ["z"]


@pytest.mark.parametrize(("validate", "dead"), [("used", 0), ("all", 1)])
def test_what_nobody_reads_is_judged_only_on_demand(validate: str, dead: int) -> None:
    app = App(f"validate-{validate}")
    app.source("orders", Order, start="earliest", validate=validate) | Select("id") | app.sink("ids")
    with app.test() as t:
        t.send("orders", [order("a", number="no number"), order("b")])
        assert len(letters(t)) == dead
        assert [json.loads(v)["id"] for v in t.read_raw("ids")] == ["a", "b"][dead:]


@pytest.mark.parametrize("crash", CRASHES)
def test_a_function_that_raises(crash: str | None) -> None:
    def double(row: Order) -> Order:
        if row.amount == 13:
            raise ValueError("unlucky")
        return Order(row.id, row.at, "many" if row.amount == 14 else row.amount * 2)

    app = App("mapped")
    app.source("orders", Order, start="earliest") | MapRows(double, returns=Order) | app.sink("out")
    sent = [order(f"o{a}", amount=a) for a in range(10, 18)]
    with app.test() as t:
        if crash:
            t.crash(at=crash)
        t.send("orders", sent)
        unlucky, many = letters(t)
        assert (unlucky[0], unlucky[1]["offset"]) == (sent[3], "3")
        assert unlucky[1]["cause"].endswith("ValueError: unlucky")
        assert unlucky[1]["operator"] in unlucky[1]["cause"]
        assert (many[0], many[1]["offset"]) == (sent[4], "4")
        assert "TypeError" in many[1]["cause"]
        assert [row.amount for row in t.read("out")] == [20, 22, 24, 30, 32, 34]


@pytest.mark.parametrize("crash", CRASHES)
@pytest.mark.parametrize("poll", [1, 20_000])
def test_a_keyed_class_that_raises_leaves_no_trace(crash: str | None, poll: int) -> None:
    sent = [order(id, amount=a) for a in (1, 13, 2, 14, 13, 3) for id in ("a", "b")]
    with counting().test(poll_records=poll) as t:
        if crash:
            t.crash(at=crash)
        for half in (sent[:5], sent[5:]):
            t.send("orders", half, partition=0)
        found = letters(t)
        assert [(v, h["offset"]) for v, h in found] == [(sent[i], str(i)) for i in (2, 3, 6, 7, 8, 9)]
        assert [h["cause"].split(": ")[1] for _, h in found] == ["ValueError"] * 2 + ["TypeError"] * 2 + [
            "ValueError"
        ] * 2
        assert t.read("out") == [Count(id, n) for n in (1, 2, 3) for id in ("a", "b")]


@pytest.mark.parametrize("crash", CRASHES)
def test_two_branches_one_letter(crash: str | None) -> None:
    def careful(row: Order) -> Order:
        if row.amount >= 13:
            raise ValueError("unlucky")
        return row

    app = App("branches")
    orders = app.source("orders", Order, key="id", start="earliest")
    orders | MapRows(careful, returns=Order) | app.sink("mapped")
    orders | Counting() | app.sink("counted")
    sent = [order("a"), order("a", amount=13), order("a", amount=14), order("a", amount=15), order("a", amount=2)]
    with app.test() as t:
        if crash:
            t.crash(at=crash)
        t.send("orders", sent, partition=0)
        assert [(v, h["offset"]) for v, h in letters(t)] == [(sent[i], str(i)) for i in (1, 2, 3)]
        assert [row.amount for row in t.read("mapped")] == [1, 2]
        assert [row.n for row in t.read("counted")] == [1, 2, 3]  # what fails in one branch alone goes on in the other


def test_the_letters_of_two_sources_are_told_apart() -> None:
    app = App("two")
    app.source("orders", Order, start="earliest") | app.sink("out")
    app.source("refunds", Order, start="earliest") | app.sink("back")
    with app.test() as t:
        t.send("orders", [b"oops"])
        t.send("refunds", [b"oops"])
        assert sorted((v, h["topic"], h["offset"]) for v, h in letters(t)) == [
            (b"oops", "orders", "0"),
            (b"oops", "refunds", "0"),
        ]
