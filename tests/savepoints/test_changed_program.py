"""A savepoint is restored into changed code: what is carried over, said, migrated, or refused."""

import re
from collections import Counter
from typing import ClassVar

import pytest

from operators import Filter, KeyBy, Keyed, Running, Select, Value, Window, agg, tumbling
from streams import App, EventTime, Schema, col
from streams.core.errors import OperatorError, StateMismatch
from tests.savepoints.support import Risk, Tx, Watch, check_equal, program


class Seen(Schema):
    card: str
    at: EventTime
    n: int


class Count(Keyed[Tx, Seen]):
    n = Value(int, default=0)

    def on_row(self, row, ctx):
        self.n.set(self.n.get() + 1)
        yield Seen(row.card, row.at, self.n.get())


class Amounts(Keyed[Tx, Seen]):
    """Another version: the amounts instead of their number."""

    n = Value(list[int], default=[])
    most = Value(int, default=0)

    def on_row(self, row, ctx):
        self.n.set([*self.n.get(), row.amount])
        self.most.set(max(self.most.get(), row.amount))
        yield Seen(row.card, row.at, len(self.n.get()))


class Migrating(Amounts):
    migrate: ClassVar = {"values": lambda old: {"n": [0] * old["n"], "most": 0}}


class Back(Count):
    """From the list to the number again."""

    migrate: ClassVar = {"values": lambda old: {"n": len(old["n"])}}


class More(Count):
    """A value is added."""

    most = Value(int, default=0)


def counting(name, operator, *, id="count", extra=False):
    app = App(name, dead_letters=f"{name}.dead")
    tx = app.source("tx", Tx, key="card", disorder="30s", start="earliest", idle="1h")
    if extra:  # before the other one, and a sub-topology more: numbers of automatic ids and of tasks move
        by = tx | Filter(col("amount") > 0) | KeyBy("terminal").named("new-shuffle")
        by | Window(tumbling("1m"), [agg.count()]).named("new-window") | app.sink(f"{name}.extra")
    tx | operator.named(id) | app.sink(f"{name}.running")
    return app


@pytest.fixture
def saved(site):
    site.send()
    site.run(counting("old", Count()))
    site.create("first", counting("old", Count()))
    return site


def go_on(site, app, *apps):
    """The counts of each card go on from those before."""
    site.send()
    site.run(app)
    for rows in site.keyed("running", "card", *apps).values():
        assert [r["n"] for r in rows] == list(range(1, len(rows) + 1))


def test_an_operator_and_a_shuffle_are_added(saved):
    app = counting("new", Count(), extra=True)
    assert saved.restore("first", "old", app) == ["store 'new-window/windows' is new: it begins empty"]
    go_on(saved, app, "old", "new")


def test_a_renamed_operator_is_named_and_refused(saved):
    with pytest.raises(
        StateMismatch, match=r"no operator of the program wants: count/values(.|\n)*--drop count/values"
    ):
        saved.restore("first", "old", counting("new", Count(), id="counter"))
    notes = saved.restore("first", "old", counting("new", Count(), id="counter"), drop=["count/values"])
    assert sorted(notes) == [
        "'count/values' is dropped: no operator wants it",
        "store 'counter/values' is new: it begins empty",
    ]
    saved.send()
    saved.run(counting("new", Count(), id="counter"))
    assert all(rows[0]["n"] == 1 for rows in saved.keyed("running", "card", "new").values())


def test_what_is_to_be_dropped_must_be_there(saved):
    with pytest.raises(
        StateMismatch, match=r"no store or shuffle 'cuont/values' to drop(.|\n)*it has: count/values, tx"
    ):
        saved.restore("first", "old", counting("new", Count()), drop=["cuont/values"])
    with pytest.raises(StateMismatch, match=r"'count/value' to drop; did you mean 'count/values'"):
        saved.restore("first", "old", counting("new", Count()), drop=["count/value"])


def test_an_operator_with_one_store_may_be_named_alone(saved):
    assert saved.restore("first", "old", counting("fresh", Amounts()), drop=["count"]) == [
        "store 'count/values' is dropped: it begins empty"
    ]


def test_a_changed_type_is_refused_migrated_or_begun_anew(saved):
    with pytest.raises(
        StateMismatch, match=r"'count/values' has changed: value n(.|\n)*was int; is packed list\[int\]"
    ):
        saved.restore("first", "old", counting("new", Amounts()))
    assert saved.restore("first", "old", counting("new", Migrating())) == ["store 'count/values' is migrated"]
    go_on(saved, counting("new", Migrating()), "old", "new")
    saved.create("second", counting("new", Migrating()))
    with pytest.raises(StateMismatch, match="value n, value most"):
        saved.restore("second", "new", counting("back", Count()))
    assert saved.restore("second", "new", counting("back", Back())) == ["store 'count/values' is migrated"]
    go_on(saved, counting("back", Back()), "old", "new", "back")
    assert saved.restore("first", "old", counting("fresh", Amounts()), drop=["count/values"]) == [
        "store 'count/values' is dropped: it begins empty"
    ]


def test_a_value_is_added(saved):
    assert saved.restore("first", "old", counting("new", More())) == []
    go_on(saved, counting("new", More()), "old", "new")


def test_a_migration_that_gives_what_does_not_fit_is_refused_and_may_be_mended(saved):
    wrong = type("Wrong", (Amounts,), {"migrate": {"values": lambda old: {"n": "many"}}})
    with pytest.raises(StateMismatch, match="the migration gives a wrong type: n holds"):
        saved.restore("first", "old", counting("new", wrong()))
    saved.restore("first", "old", counting("new", Migrating()))
    go_on(saved, counting("new", Migrating()), "old", "new")


def test_a_migration_that_raises_names_the_entry_and_may_be_mended(saved):
    """Keys of a store that hold no value of that name make a usual mistake."""
    wrong = type("Wrong", (Amounts,), {"migrate": {"values": lambda old: {"n": old["nope"]}}})
    with pytest.raises(OperatorError) as raised:
        saved.restore("first", "old", counting("new", wrong()))
    assert re.fullmatch(
        r"""migrate of operator 'count' failed: KeyError: 'nope'
  where: store 'count/values', key c\d+
  fix:   mend the function and run the restore again: it begins anew""",
        str(raised.value),
    )
    assert isinstance(raised.value.__cause__, KeyError)
    saved.restore("first", "old", counting("new", Migrating()))
    go_on(saved, counting("new", Migrating()), "old", "new")


def test_a_migration_that_gives_no_dictionary_names_the_entry(saved):
    wrong = type("Wrong", (Amounts,), {"migrate": {"values": lambda old: [old["n"]]}})
    with pytest.raises(StateMismatch, match=r"gives list, not a dictionary(.|\n)*where: store 'count/values', key c"):
        saved.restore("first", "old", counting("new", wrong()))


def test_a_migration_that_gives_no_bytes_names_the_entry(site):
    old, new = App("old"), App("new")
    wrong = type("Wrong", (Running,), {"migrate": {"running": lambda row: "text"}})
    for app, running, more in ((old, Running, [agg.sum("amount").alias("s")]), (new, wrong, [])):
        tx = app.source("tx", Tx, key="card", disorder="30s", start="earliest", idle="1h")
        tx | running([agg.count().alias("n"), *more]).named("sums") | app.sink(f"{app.name}.sums")
    site.send()
    site.run(old)
    site.create("first", old)
    with pytest.raises(
        OperatorError, match=r"'sums' gives str, not bytes or None\n  where: store 'sums/running', key c"
    ):
        site.restore("first", "old", new)


class Fewer(Running):
    """The count is kept, which is the first of a row's two numbers; the minimum is not."""

    migrate: ClassVar = {"running": lambda row: row[:8]}


class FewerInWindow(Window):
    migrate: ClassVar = {"windows": lambda row: row[:8]}


def test_rows_of_aggregates_are_migrated_and_the_store_knows_it(site):
    """The entry that tells what the rows are is the operator's own: the function never sees it."""

    def program(name, *more, running=Fewer, window=FewerInWindow, size="1m"):
        app = App(name)
        tx = app.source("tx", Tx, key="card", disorder="30s", start="earliest", idle="1h")
        counts = [agg.count().alias("n"), *more]
        tx | running(counts).named("sums") | Select("card", "n") | app.sink(f"{name}.sums")
        tx | window(tumbling(size), counts).named("windows") | Select("card", "n") | app.sink(f"{name}.windows")
        return app

    old = program("old", agg.min("amount").alias("least"), running=Running, window=Window)
    site.send()
    site.run(old)
    site.create("first", old)
    with pytest.raises(StateMismatch, match=r"windows of 60000\+0 ms cannot become windows of 120000\+0 ms"):
        site.restore("first", "old", program("wide", size="2m"))
    said = site.restore("first", "old", program("new"))
    assert said == ["store 'sums/running' is migrated", "store 'windows/windows' is migrated"]
    site.send()
    site.run(program("new"))
    site.end()
    site.run(program("new"))  # the stores are opened again, and are what they say
    site.run(program("whole"))
    for part in ("sums", "windows"):
        went_on = site.read(f"old.{part}") + site.read(f"new.{part}")
        assert Counter(went_on) == Counter(site.read(f"whole.{part}"))
        assert went_on


def test_another_aggregation_or_key_under_the_same_id_is_refused(site):
    def sums(name, aggregation, key="card"):
        app = App(name)
        tx = app.source("tx", Tx, key=key, start="earliest")
        tx | Running([aggregation]).named("sums") | app.sink(f"{name}.running")
        return app

    site.send()
    site.run(sums("old", agg.count().alias("n")))
    site.create("first", sums("old", agg.count().alias("n")))
    with pytest.raises(StateMismatch, match="'sums/running' has changed: rows"):
        site.restore("first", "old", sums("new", agg.sum("amount").alias("n")))
    with pytest.raises(StateMismatch, match="has changed: key"):
        site.restore("first", "old", sums("new", agg.count().alias("n"), key="terminal"))
    site.restore("first", "old", sums("new", agg.count().alias("another_name")))


class Louder(Watch):
    """Reads the same, tells more."""

    def on_tx(self, row, ctx):
        for out in super().on_tx(row, ctx):
            yield Risk(out.terminal, out.at, out.what, out.id, out.seen, out.bad)


def test_changed_code_takes_waiting_rows_timers_and_windows(site):
    site.send()
    site.run(program("old"), turns=9)
    site.create("first", program("old"))
    site.restore("first", "old", program("new", watch=Louder()))
    site.send()
    site.end()
    site.run(program("new", watch=Louder()))
    site.run(program("whole"))
    check_equal(site.outputs("old", "new"), site.outputs("whole"))


def test_a_shuffle_with_rows_that_wait_is_named_and_refused(site):
    site.send()
    site.run(program("old"), turns=9)
    site.create("first", program("old"))
    app = counting("new", Count())
    stores = ["sums/running", "minutes/windows", "watch/values", "watch/timers", "spent/windows"]
    with pytest.raises(StateMismatch, match="rows that wait in a shuffle that no operator of the program wants"):
        site.restore("first", "old", app, drop=stores)
    shuffles = sorted({n for t in site.load("first", "old").tasks for n in t.waiting})
    notes = site.restore("first", "old", app, drop=[*stores, *shuffles])
    assert "source 'labels' is not read any more: its position is given up" in notes
