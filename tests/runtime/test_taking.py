"""Taking leases beside other work: nothing is waited for, and what is not wanted any more is given back."""

import threading
from types import SimpleNamespace

import pytest

from streams.core.errors import Fenced, LogError
from streams.protocol import RESTORING, Lease
from streams.runtime import leases
from streams.runtime.leases import Taking

PATIENCE = 60  # seconds; nothing waits so long where it works


class SlowLog:
    """Each kind of call waits until it is let through; what was done stands in `done`."""

    def __init__(self, *let, records=None):
        self.let = {kind: threading.Event() for kind in ("claim", "leases", "fence", "write")}
        self.begun = {kind: threading.Event() for kind in self.let}
        self.records, self.done, self.later = dict(records or {}), [], set()
        self.closed = set()
        for kind in let:
            self.let[kind].set()

    def wait(self, kind, *what):
        self.begun[kind].set()
        assert self.let[kind].wait(PATIENCE)
        self.done.append((kind, *what))

    def claim(self, app, task):
        self.wait("claim", task)
        return SimpleNamespace(write=lambda lease: self.write(task, lease), close=lambda: self.close(task))

    def close(self, task):
        self.closed.add(task)

    def write(self, task, lease):
        self.wait("write", task)
        if task in self.later:
            raise Fenced(f"a later claimer of task {task} came")
        self.records[task] = lease

    def leases(self, app, tasks):
        self.wait("leases", *tasks)
        return {task: self.records.get(task) for task in tasks}

    def holders(self, app, tasks):
        return {t: self.records[t].slot for t in tasks if t in self.records and self.records[t].held}

    def fence(self, app, slot):
        self.wait("fence", slot)


def taking(log, *tasks):
    return Taking(log, SimpleNamespace(members=1), "app", "me", "f", tasks, lambda text, *more: None)


def kinds(log):
    return [kind for kind, *_ in log.done]


def holding_up(log, monkeypatch):
    """The read of the records waits until it is let through; `looked` is set by the second look for the holders."""
    monkeypatch.setattr(leases, "_STUCK", 0.01)
    log.looked, looks, holders = threading.Event(), [], log.holders

    def look(app, tasks):
        looks.append(tasks)
        if len(looks) > 1:
            log.looked.set()
        return holders(app, tasks)

    log.holders = look


@pytest.mark.parametrize("kind", ["claim", "leases", "fence", "write"])
def test_nothing_is_waited_for(kind):
    log = SlowLog(*{"claim", "leases", "fence", "write"} - {kind}, records={0: Lease("other", True, "f", 7)})
    made = taking(log, 0, 1)
    assert log.begun[kind].wait(PATIENCE)
    assert not made.wait(0.0)
    log.let[kind].set()
    assert made.result() == {0: Lease("me", True, "f", 7), 1: Lease("me", True, "f", 0)}
    assert log.closed == {0, 1}


def test_the_commit_of_a_slot_that_holds_a_record_up_is_ended(monkeypatch):
    """A worker that died in the middle of its commit: brokers would end that after 15 s."""
    log = SlowLog("claim", "write", "fence", records={0: Lease("dead", True, "f", 7), 1: Lease("me", True, "f", 2)})
    holding_up(log, monkeypatch)
    made = taking(log, 0, 1)
    assert log.looked.wait(PATIENCE)
    log.let["leases"].set()
    assert made.result() == {0: Lease("me", True, "f", 7), 1: Lease("me", True, "f", 2)}
    assert kinds(log).index("fence") < kinds(log).index("leases")
    assert [slot for kind, slot, *_ in log.done if kind == "fence"] == ["dead"]


@pytest.mark.parametrize("slot", ["me", RESTORING])
def test_our_own_slot_is_not_fenced_nor_that_of_a_restore(slot, monkeypatch):
    log = SlowLog("claim", "write", "fence", records={0: Lease(slot, True, "f", 7)})
    holding_up(log, monkeypatch)
    made = taking(log, 0)
    assert log.looked.wait(PATIENCE)
    log.records[0] = Lease(slot, False, "f", 8)
    log.let["leases"].set()
    assert made.result() == {0: Lease("me", True, "f", 8)}
    assert "fence" not in kinds(log)


def test_a_holder_that_cannot_be_found_out_changes_nothing(monkeypatch):
    log = SlowLog("claim", "write", "fence")

    def fails(app, tasks):
        raise LogError("no answer")

    log.holders = fails
    holding_up(log, monkeypatch)
    made = taking(log, 0)
    assert log.looked.wait(PATIENCE)
    log.let["leases"].set()
    assert made.result() == {0: Lease("me", True, "f", 0)}


def test_a_fence_that_hangs_does_not_hold_the_answer_up(monkeypatch):
    log = SlowLog("claim", "write", records={0: Lease("slow", True, "f", 7)})
    holding_up(log, monkeypatch)
    made = taking(log, 0)
    assert log.begun["fence"].wait(PATIENCE)
    log.records[0] = Lease("slow", False, "f", 8)
    log.let["leases"].set()
    assert made.result() == {0: Lease("me", True, "f", 8)}
    log.let["fence"].set()


def test_what_is_being_written_when_all_is_given_up_is_given_back():
    """Whoever is given the task next would fence us, and with it our other tasks."""
    log = SlowLog("claim", "leases", "fence")
    made = taking(log, 0)
    assert log.begun["write"].wait(PATIENCE)
    made.give_up()
    assert kinds(log) == ["claim", "leases"]
    log.let["write"].set()
    assert made.wait(PATIENCE)
    assert log.records == {0: Lease("me", False, "f", 0)}
    assert log.closed == {0}


def test_what_was_taken_and_is_not_wanted_is_given_back():
    log = SlowLog("claim", "leases", "fence", "write")
    made = taking(log, 0, 1)
    assert made.wait(PATIENCE)
    made.give_up()
    assert made.wait(PATIENCE)
    assert log.records == {0: Lease("me", False, "f", 0), 1: Lease("me", False, "f", 0)}
    assert log.closed == {0, 1}


def test_what_somebody_else_has_taken_meanwhile_stays_his():
    log = SlowLog("claim", "leases", "fence", "write")
    made = taking(log, 0)
    assert made.wait(PATIENCE)
    log.records[0], log.later = Lease("other", True, "f", 0), {0}
    made.give_up()
    assert made.wait(PATIENCE)
    assert log.records == {0: Lease("other", True, "f", 0)}


def test_what_was_given_up_while_records_were_read_is_not_written(monkeypatch):
    monkeypatch.setattr(leases, "_STUCK", 0.01)
    log = SlowLog("claim", "fence", "write")
    made = taking(log, 0)
    assert log.begun["leases"].wait(PATIENCE)
    made.give_up()
    assert made.wait(PATIENCE)
    log.let["leases"].set()
    assert "write" not in kinds(log)
    assert log.closed == {0}


def test_what_was_written_is_given_back_although_another_record_is_held_up():
    log = SlowLog("claim", "leases", "write", records={1: Lease("other", True, "f", 3)})
    fence = log.fence

    def fence_and_hold_up(app, slot):
        log.let["leases"].clear()
        log.begun["leases"].clear()
        fence(app, slot)

    log.fence = fence_and_hold_up
    log.let["fence"].set()
    made = taking(log, 0, 1)
    assert log.begun["fence"].wait(PATIENCE)
    assert log.begun["leases"].wait(PATIENCE)
    made.give_up()
    assert made.wait(PATIENCE)
    assert log.records == {0: Lease("me", False, "f", 0), 1: Lease("other", True, "f", 3)}
    log.let["leases"].set()


def test_no_slot_is_fenced_after_all_was_given_up(monkeypatch):
    """Whoever has been given the task may be in the middle of a commit."""
    monkeypatch.setattr(leases, "_STUCK", 0.01)
    log = SlowLog("claim", "fence", records={0: Lease("other", True, "f", 3)})
    looking, look = threading.Event(), threading.Event()

    def holders(app, tasks):
        looking.set()
        assert look.wait(PATIENCE)
        return {0: "other"}

    log.holders = holders
    made = taking(log, 0)
    assert looking.wait(PATIENCE)
    made.give_up()
    look.set()
    assert made.wait(PATIENCE)
    log.let["leases"].set()
    assert "fence" not in kinds(log)


def test_claims_that_wait_for_their_turn_are_not_opened_any_more():
    """They would fence those who have been given the tasks."""
    log = SlowLog("leases", "fence", "write")
    made = taking(log, *range(32))
    assert log.begun["claim"].wait(PATIENCE)
    made.give_up()
    made.wait(0.2)
    log.let["claim"].set()
    assert made.wait(PATIENCE)
    assert len(log.done) == len(log.closed) <= 8


def test_a_task_that_a_later_claimer_has_is_left_out():
    log = SlowLog("claim", "leases", "fence", "write")
    log.later.add(0)
    assert taking(log, 0, 1).result() == {1: Lease("me", True, "f", 0)}
