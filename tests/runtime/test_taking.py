"""Taking leases beside other work: nothing is waited for in the loop."""

import threading
from types import SimpleNamespace

import pytest

from streams.core.clock import SystemClock
from streams.core.errors import Fenced, LogError
from streams.protocol import Lease
from streams.runtime.leases import Taking

PATIENCE = 60  # seconds; nothing waits so long where it works


class SlowLog:
    """Each kind of call waits until it is let through; what was done stands in `done`."""

    def __init__(self, *let, records=None):
        self.let = {kind: threading.Event() for kind in ("claim", "leases", "fence", "write")}
        self.begun = {kind: threading.Event() for kind in self.let}
        self.records, self.done, self.later = dict(records or {}), [], set()
        self.closed = threading.Event()
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
        self.done.append(("close", task))
        self.closed.set()

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


def taking(log, *tasks, clock=None):
    group = SimpleNamespace(members=1)
    return Taking(log, group, "app", "me", "f", tasks, lambda text, *more: None, clock or SystemClock())


def kinds(log):
    return [kind for kind, *_ in log.done]


@pytest.mark.parametrize("kind", ["claim", "leases", "fence", "write"])
def test_a_step_waits_for_nothing(kind):
    log = SlowLog(*{"claim", "leases", "fence", "write"} - {kind}, records={0: Lease("other", True, "f", 7)})
    made = taking(log, 0, 1)
    while not log.begun[kind].is_set():
        assert not made.step()
    for _ in range(100):
        assert not made.step()
    log.let[kind].set()
    assert made.finish() == {0: Lease("me", True, "f", 7), 1: Lease("me", True, "f", 0)}
    made.close()


def test_the_commit_of_a_slot_that_holds_a_record_up_is_ended():
    """A worker that died in the middle of its commit: brokers would end that after 15 s."""
    log = SlowLog("claim", "write", records={0: Lease("dead", True, "f", 7), 1: Lease("me", True, "f", 2)})
    log.let["fence"].set()
    now = [0.0]
    made = taking(log, 0, 1, clock=SimpleNamespace(monotonic=lambda: now[0]))
    while not log.begun["leases"].is_set():
        assert not made.step()
    now[0] = 0.9  # the end of a commit may be on its way
    for _ in range(100):
        assert not made.step()
    assert "fence" not in kinds(log)
    now[0] = 1.1
    while ("fence", "dead") not in log.done:
        assert not made.step()
    log.let["leases"].set()
    assert made.finish()[0] == Lease("me", True, "f", 7)
    assert log.done.count(("fence", "dead")) == 1
    assert ("fence", "me") not in log.done


def test_a_holder_that_cannot_be_found_out_changes_nothing():
    log = SlowLog("claim", "write", "fence")
    log.holders = lambda app, tasks: (_ for _ in ()).throw(LogError("no answer"))
    now = [0.0]
    made = taking(log, 0, clock=SimpleNamespace(monotonic=lambda: now[0]))
    while not log.begun["leases"].is_set():
        assert not made.step()
    for now[0] in (1.1, 2.2, 3.3):
        assert not made.step()
    log.let["leases"].set()
    assert made.finish() == {0: Lease("me", True, "f", 0)}
    assert "fence" not in kinds(log)


def test_what_is_being_written_when_all_is_given_up_is_not_waited_for():
    log = SlowLog("claim", "leases", "fence")
    made = taking(log, 0)
    while not log.begun["write"].is_set():
        assert not made.step()
    made.close()
    assert kinds(log) == ["claim", "leases"]
    log.let["write"].set()
    assert log.closed.wait(PATIENCE)
    assert kinds(log) == ["claim", "leases", "write", "close"]


def test_what_was_given_up_while_records_were_read_is_not_written_at_all():
    log = SlowLog("claim", "fence", "write")
    made = taking(log, 0)
    while not log.begun["leases"].is_set():
        assert not made.step()
    made.close()
    log.let["leases"].set()
    assert made.step()
    assert made.leases == {}
    assert "write" not in kinds(log)


def test_a_task_that_a_later_claimer_has_is_left_out():
    log = SlowLog("claim", "leases", "fence", "write")
    log.later.add(0)
    made = taking(log, 0, 1)
    assert made.finish() == {1: Lease("me", True, "f", 0)}
