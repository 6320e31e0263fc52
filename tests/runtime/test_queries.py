"""Questions about committed state: bounded in time and number, and answered whatever becomes of the tasks."""

import json
import threading
import time
from types import SimpleNamespace

import pytest

from operators import Keyed, Running, Value, Window, agg, tumbling
from streams import App, EventTime, Schema
from streams.core.errors import LogError
from streams.core.store import StoreSpec
from streams.runtime import committed
from streams.runtime.queries import MOST, Queries, Unanswered
from streams.web.state import Asked, StateAnswers


class Tx(Schema):
    card: str
    at: EventTime
    amount: int


class Seen(Schema):
    card: str
    n: int


class Count(Keyed[Tx, Seen]):
    n = Value(int, default=0)

    def on_row(self, row, ctx):
        self.n.set(self.n.get() + 1)
        yield Seen(row.card, self.n.get())


def program() -> App:
    app = App("shop")
    tx = app.source("tx", Tx, key="card", start="earliest")
    tx | Count().named("count") | app.sink("out")
    tx | Window(tumbling("1m"), [agg.count().alias("n")]).named("minutes") | app.sink("minutes")
    tx | Running([agg.count().alias("n")]).named("times") | app.sink("times")
    return app


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def steps(clock: Clock, count: int, seconds: float, done: list):
    def ask(tasks):
        for i in range(count):
            done.append(i)
            clock.now += seconds
            yield f"at {i}"
        return "done"

    return ask


# ---- the queue


def test_a_turn_gives_no_more_than_its_share():
    clock, done = Clock(), []
    queries = Queries(share=0.002, now=clock)
    query = queries.ask(steps(clock, 100, 0.0005, done))
    turns = 0
    while queries.waiting:
        began = clock.now
        queries.serve([])
        assert clock.now - began <= 0.002 + 0.0005
        turns += 1
    assert (query.result(0), len(done), turns) == ("done", 100, 26)


def test_a_short_question_does_not_wait_for_a_long_one():
    clock = Clock()
    queries = Queries(share=0.002, now=clock)
    long = queries.ask(steps(clock, 1000, 0.001, []))
    short = queries.ask(steps(clock, 1, 0.001, []))
    queries.serve([])
    queries.serve([])
    assert short.result(0) == "done"
    assert long.doing.startswith("at ")
    with pytest.raises(TimeoutError):
        long.result(0)


def test_what_nobody_waits_for_is_dropped():
    clock, done = Clock(), []
    queries = Queries(share=0.0, now=clock)
    query = queries.ask(steps(clock, 100, 0.001, done))
    queries.serve([])
    query.give_up()
    with pytest.raises(Unanswered, match="given up"):
        query.result(10)
    queries.serve([])
    assert (queries.waiting, len(done)) == (False, 1)


def test_only_so_many_may_wait_and_those_given_up_do_not_count():
    clock = Clock()
    queries = Queries(now=clock)
    asked = [queries.ask(steps(clock, 1, 0.0, [])) for _ in range(MOST)]
    with pytest.raises(Unanswered, match="wait already"):
        queries.ask(steps(clock, 1, 0.0, []))
    asked[0].give_up()
    assert queries.ask(steps(clock, 1, 0.0, [])) is not None


def test_a_question_that_fails_fails_alone():
    def wrong(tasks):
        yield "well"
        raise ValueError("no")

    queries = Queries()
    bad, good = queries.ask(wrong), queries.ask(steps(Clock(), 3, 0.0, []))
    queries.serve([])
    with pytest.raises(ValueError, match="no"):
        bad.result(0)
    assert good.result(0) == "done"


def test_an_ending_worker_refuses_what_waits_and_what_comes():
    queries = Queries()
    query = queries.ask(steps(Clock(), 3, 0.0, []))
    queries.close("the worker is ending")
    for ask in (lambda: query.result(0), lambda: queries.ask(steps(Clock(), 1, 0.0, []))):
        with pytest.raises(Unanswered, match="is ending"):
            ask()
    assert not queries.waiting


# ---- a worker's stores


def answer(worker, path: str, **given: str) -> tuple[int, dict]:
    """What a worker answers that goes on turning meanwhile."""
    out = []
    thread = threading.Thread(target=lambda: out.append(StateAnswers(worker).answer(Asked(path, given))))
    thread.start()
    while thread.is_alive():
        worker.turn()
    return out[0].status, json.loads(out[0].body)


@pytest.fixture
def test():
    with program().test(partitions=2) as t:
        t.send("tx", [Tx(f"c{i % 5}", i * 1000, 1) for i in range(20)])
        yield t


def test_entries_of_every_operator(test):
    status, found = answer(test._worker, "/api/state/get", store="count", key="c1")
    assert status == 200
    assert [(e["key"], e["value"]) for e in found["entries"]] == [("c1", {"n": 4})]
    assert found["missing"] == []
    assert set(found["covers"]) == {"0/0", "0/1"}
    for store in ("count/values", "minutes", "times"):
        shown = answer(test._worker, "/api/state/scan", store=store)[1]["entries"]
        assert {"c0", "c1", "c2", "c3", "c4"} == {e["key"].rpartition(":")[2] for e in shown if e["key"][0] != "("}
        for entry in shown:
            got = answer(test._worker, "/api/state/get", store=store, key=entry["key"], task=entry["task"])
            assert got[1]["entries"] == [entry]
    tasks = answer(test._worker, "/api/state/stats")[1]["tasks"]
    assert sum(t["stores"]["count/values"]["entries"] for t in tasks) == 5
    assert [t["commit"] for t in tasks] == [t.store.mark.sequence for t in test._worker.running]


def test_pages_lead_from_one_to_the_next(test):
    whole = answer(test._worker, "/api/state/scan", store="count")[1]["entries"]
    found, next = [], ""
    while next is not None:
        page = answer(test._worker, "/api/state/scan", store="count", limit="2", next=next)[1]
        found, next = found + page["entries"], page["next"]
        assert page["missing"] == []
    assert found == whole
    some = answer(test._worker, "/api/state/scan", store="count", prefix="c1")[1]["entries"]
    assert [e["key"] for e in some] == ["c1"]
    some = answer(test._worker, "/api/state/scan", **{"store": "count", "from": "c3"})[1]["entries"]
    assert {e["key"] for e in some} == {"c3", "c4"}


def test_what_is_uncommitted_is_not_seen(test):
    worker = test._worker
    task = next(
        t for t in worker.running if answer(worker, "/api/state/scan", store="count", task=str(t.id))[1]["entries"]
    )
    entries = task.store.map(StoreSpec("count/values"))
    (key, before), *_ = entries.scan()
    commit = task.store.mark.sequence
    entries.put_many([key, b"new"], [b"other", b"other"])
    asked = [worker.queries.ask(committed.get("count/values", k)) for k in (key, b"new")]
    scan = worker.queries.ask(committed.scan("count/values", b"", b"", 100, [str(task.id)]))
    while worker.queries.waiting:
        worker.queries.serve(worker.running)
    assert [q.result(0).entries for q in asked] == [[(str(task.id), key, before)], []]
    found = scan.result(0)
    assert (str(task.id), key, before) in found.entries
    assert b"new" not in [k for _, k, _ in found.entries]
    assert [(c.task, c.commit) for c in found.covered] == [(str(task.id), commit)]


@pytest.mark.parametrize("ask", [committed.count(), committed.scan("count/values", b"", b"", 100)])
def test_an_abort_ends_what_was_begun_and_the_next_question_is_answered(test, ask):
    worker = test._worker
    worker.queries = Queries(share=0.0)
    query = worker.queries.ask(ask)
    worker.queries.serve(worker.running)
    worker._abort("a test", LogError("gone"))
    while worker.queries.waiting:
        worker.turn()
    with pytest.raises(Unanswered, match=r"task 0/0 was taken"):
        query.result(0)
    test.work()
    assert answer(worker, "/api/state/get", store="count", key="c1")[1]["entries"][0]["value"] == {"n": 4}


def test_counting_a_large_store_holds_no_turn_up(test):
    worker = test._worker
    task = worker.running[0]
    task.store.map(StoreSpec("count/values")).put_many([b"%07d" % i for i in range(100_000)], [b"v" * 50] * 100_000)
    task.store.commit(task.store.mark)
    query, spent = worker.queries.ask(committed.count([str(task.id)])), []
    while worker.queries.waiting:
        began = time.thread_time()
        worker.queries.serve(worker.running)
        spent.append(time.thread_time() - began)
    assert query.result(0)[0].stores["count/values"][0] >= 100_000
    assert len(spent) > 10
    assert sorted(spent)[-3] < 0.01  # seconds of this thread; other processes do not count


def test_a_task_that_is_not_here_is_told(test):
    worker = test._worker
    worker._drop(0)
    status, found = answer_standing(worker, "/api/state/get", store="count", key="c1", task="0/0")
    assert (status, found["error"]["what"]) == (404, "task 0/0 does not run here")
    status, found = answer_standing(worker, "/api/state/stats")
    assert (status, found["missing"], set(found["covers"])) == (200, ["0/0"], {"0/1"})


def answer_standing(worker, path: str, **given: str) -> tuple[int, dict]:
    """What a worker answers that takes no tasks meanwhile."""
    out = []
    thread = threading.Thread(target=lambda: out.append(StateAnswers(worker).answer(Asked(path, given))))
    thread.start()
    while thread.is_alive():
        worker.queries.serve(list(worker._tasks.values()))
    return out[0].status, json.loads(out[0].body)


@pytest.mark.parametrize(
    ("path", "given", "status", "said"),
    [
        ("/api/state/get", {"store": "counts", "key": "c"}, 404, "did you mean 'count/values'"),
        ("/api/state/get", {"store": "minutes", "key": "soon"}, 400, "is no key of this store"),
        ("/api/state/get", {"store": "count"}, 400, "key= is missing"),
        ("/api/state/get", {"store": "count", "key": "c", "task": "9/9"}, 404, "no task '9/9'"),
        ("/api/state/scan", {"store": "count", "limit": "0"}, 400, "limit=0 is not valid"),
        ("/api/state/scan", {"store": "count", "limit": "9" * 5000}, 400, "is not valid"),
        ("/api/state/scan", {"store": "count", "next": "x"}, 400, "next=x is not valid"),
        ("/api/state/scan", {"store": "count", "form": "x"}, 400, "did you mean 'from'"),
        ("/api/state/stats", {"timeout": "1h"}, 400, "timeout=1h is not valid"),
        ("/api/state/drop", {}, 404, "nothing at"),
    ],
)
def test_mistakes_are_answered(test, path, given, status, said):
    found = answer(test._worker, path, **given)
    assert found[0] == status
    assert said in found[1]["error"]["what"]
    assert found[1]["error"]["fix"]


def test_a_worker_that_does_not_turn_is_told_in_time(test):
    began = time.monotonic()
    found = StateAnswers(test._worker).answer(Asked("/api/state", {"timeout": "0.2"}))
    assert found.status == 503
    assert "did not answer within 0.2 s" in found.body.decode()
    assert time.monotonic() - began < 5


def test_an_ended_worker_says_so(test):
    worker = test._worker
    test.restart()
    found = StateAnswers(worker).answer(Asked("/api/state", {}))
    assert (found.status, "the worker has ended" in found.body.decode()) == (503, True)


def test_functions_that_hang_while_entries_are_shown_are_bounded(test, monkeypatch):
    go_on = threading.Event()
    answers = StateAnswers(test._worker)
    monkeypatch.setattr(answers, "_document", lambda asked: go_on.wait(30) and {})
    threads = [threading.Thread(target=answers.answer, args=(Asked("/api/state", {}),)) for _ in range(MOST)]
    for thread in threads:
        thread.start()
    while answers._free._value:
        time.sleep(0.001)
    assert answers.answer(Asked("/api/state", {})).status == 503
    go_on.set()
    for thread in threads:
        thread.join()
    assert answers.answer(Asked("/api/state", {})).status == 200


def test_without_a_question_the_loop_does_not_look(test):
    test._worker.queries.serve = None  # not called
    test._worker.turn()


def test_large_entries_are_read_few_at_a_time():
    class Given:
        ended = False

        def __init__(self) -> None:
            self.asked = []

        def read(self, most):
            self.asked.append(most)
            return [(b"k", b"v" * 200_000)] * most

    look, pieces = Given(), committed._Pieces()
    for _ in range(4):
        pieces.read(SimpleNamespace(store=object(), id="0/0"), look)
    assert look.asked == [8, 2, 1, 1]
