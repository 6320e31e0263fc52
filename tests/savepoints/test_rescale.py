"""State, timers and waiting rows go to another number of partitions by their keys, and the result stays exact."""

import pytest

from operators import KeyBy, Running, agg
from streams import App
from streams.core.errors import StateMismatch, TopicMismatch
from streams.core.operator import Operator
from streams.core.store import StoreSpec
from streams.runtime.inspect import task_table
from streams.runtime.plan import prepare
from streams.runtime.reset import remains, reset
from tests.savepoints.support import Tx, check_equal, program


@pytest.mark.slow
def test_from_two_to_three_to_one_partition(site):
    site.send()
    site.run(program("two"), turns=9)
    made = site.create("first", program("two"))
    assert sum(t.waiting_rows for t in made.tasks) > 20
    site.restore("first", "two", program("three", partitions=3))
    site.send()
    site.run(program("three", partitions=3), turns=11)
    made = site.create("second", program("three", partitions=3))
    assert len(made.tasks_of(next(s.index for s in made.subs if s.partitions == 3))) == 3
    site.restore("second", "three", program("one", partitions=1))
    site.send()
    site.run(program("one", partitions=1), turns=9)
    site.end()
    site.run(program("one", partitions=1))
    site.run(program("whole"))
    apps = ("two", "three", "one")
    check_equal(site.outputs(*apps), site.outputs("whole"))
    assert site.keyed("risk", "terminal", *apps) == site.keyed("risk", "terminal", "whole")


@pytest.mark.parametrize("turns", [3, 6, 14])
def test_wherever_the_stream_stands(site, turns):
    site.send()
    site.run(program("two"), turns=turns)
    site.create("first", program("two"))
    site.restore("first", "two", program("five", partitions=5))
    site.end()
    site.run(program("five", partitions=5))
    site.run(program("whole"))
    check_equal(site.outputs("two", "five"), site.outputs("whole"))


def chain(name, first=None, second=None):
    """A shuffle behind a shuffle: the writers of the second one change in number, too."""
    app = App(name, dead_letters=f"{name}.dead")
    tx = app.source("tx", Tx, key="card", disorder="30s", start="earliest", idle="1h")
    seen = tx | KeyBy("terminal", partitions=first).named("a") | Running([agg.count().alias("n")]).named("seen")
    (
        seen
        | KeyBy("card", partitions=second).named("b")
        | Running([agg.sum("n").alias("of")]).named("of")
        | app.sink(f"{name}.running", key="card")
    )
    return app


def test_a_shuffle_behind_a_shuffle(site):
    site.send()
    site.run(chain("two"), turns=9)
    site.create("first", chain("two"))
    site.restore("first", "two", chain("more", 3, 5))
    site.send()
    site.run(chain("more", 3, 5))
    site.end()
    site.run(chain("more", 3, 5))
    site.run(chain("whole"))
    found, wanted = site.outputs("two", "more"), site.outputs("whole")
    assert found["running"] == wanted["running"]


class Last(Operator):
    """Keeps the last batch: nobody knows of which key that is."""

    stores = (StoreSpec("last"),)

    def process(self, batch, port=0):
        self.context.store("last").put(b"last", str(batch.count).encode())
        return batch


def unkeyed(name, partitions):
    app = App(name)
    tx = app.source("tx", Tx, start="earliest")
    tx | KeyBy("terminal", partitions=partitions).named("a") | Last().named("keeper") | app.sink(f"{name}.running")
    return app


def test_state_without_keys_is_refused_by_name(site):
    site.send()
    site.run(unkeyed("two", 2))
    site.create("first", unkeyed("two", 2))
    with pytest.raises(StateMismatch, match="'keeper/last' cannot go from 2 to 3 partitions: Last does not say"):
        site.restore("first", "two", unkeyed("three", 3))
    assert not [t for t in site.log.all_topics() if t.startswith("three")]  # so another count may be tried
    site.restore("first", "two", unkeyed("again", 2))
    site.send()
    site.run(unkeyed("again", 2))


def sums(name):
    app = App(name, dead_letters=f"{name}.dead")
    tx = app.source("tx", Tx, key="card", disorder="30s", start="earliest")
    tx | Running([agg.count().alias("n")]).named("sums") | app.sink(f"{name}.running")
    return app


def test_a_source_topic_that_has_grown(site):
    site.send()
    site.run(sums("two"))
    site.grow("tx", 3)
    with pytest.raises(TopicMismatch, match="--had"):
        site.run(sums("two"))
    site.create("first", sums("two"), had={"tx": 2})
    site.restore("first", "two", sums("three"))
    site.send(partitions=3)
    site.run(sums("three"))
    counts = site.keyed("running", "card", "two", "three")
    assert all([r["n"] for r in rows] == list(range(1, len(rows) + 1)) for rows in counts.values())


def keyed_sums(name):
    app = App(name, dead_letters=f"{name}.dead")
    tx = app.source("tx", Tx, key="card", disorder="30s", start="earliest")
    tx | KeyBy("terminal") | Running([agg.count().alias("n")]).named("sums") | app.sink(f"{name}.running")
    return app


def test_who_only_looks_names_the_same_way_out_where_a_source_topic_has_grown(site):
    site.send()
    app = keyed_sums("two")
    site.run(app)
    site.grow("tx", 3)
    topology, settings = app.topology(), site.settings()

    def placed(**more):
        return prepare(app.name, topology, site.log, app.dead_letters, 2, make=False, **more)

    with pytest.raises(TopicMismatch, match="--had"):
        task_table(app.name, topology, app.dead_letters, site.log, settings)
    with pytest.raises(TopicMismatch, match="--had"):
        placed()
    site.create("first", app, had={"tx": 2})
    plan, said = placed(check=False), []
    found = remains(plan, site.log, site.directory / "state", None)
    reset(plan, site.log, found, None, said.append, wait=0)
    assert not remains(placed(), site.log, site.directory / "state", None)
    site.run(app)


def test_keys_that_lie_elsewhere_than_they_belong_are_refused(site):
    site.misplaced()
    site.run(sums("two"))
    site.grow("tx", 3)
    site.create("first", sums("two"), had={"tx": 2})
    with pytest.raises(StateMismatch, match="were not partitioned by the declared key"):
        site.restore("first", "two", sums("three"))
