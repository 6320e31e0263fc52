"""Brokers lose the log's end (a power failure); snapshots and stores of what was lost are there still. What only looks
at the application tells of no damage, and sees the state that the log has."""

import shutil

import pytest

from streams.app import open_store
from streams.checkpoint.location import Location
from streams.dlq.restored import restore_copy
from streams.runtime.replayed import replayed
from streams.runtime.verify import Verification
from tests.runtime.shop import CHANGELOG, Shop


class Lost(Shop):
    """A shop whose power may fail."""

    def keep(self):
        """What of the log is on the brokers' disks for sure."""
        self.close()
        shutil.copytree(self.directory / "log", self.directory / "saved")
        self.kept = self.sent
        self.reopen()

    def fail(self):
        self.close()
        for name in ("state", "checkpoints"):
            shutil.copytree(self.directory / name, self.directory / f"lost-{name}")
        shutil.rmtree(self.directory / "log")
        shutil.copytree(self.directory / "saved", self.directory / "log")
        self.sent = self.kept
        self.reopen()
        self.until(lambda: self.worker.complete)

    def stop(self):
        self.worker.leave()
        self.worker.close()

    def put_back(self, name):
        """The stores, or the snapshots, as they were when the power failed."""
        shutil.rmtree(self.directory / name)
        shutil.copytree(self.directory / f"lost-{name}", self.directory / name)

    @property
    def task(self):
        return next(iter(self.worker._tasks.values()))

    def verify(self, state=False):
        """The findings while nobody works, and what was checked."""
        plan = self.worker.plan
        check = Verification(plan, self.log, self.directory / "state" if state else None, Location(str(self.location)))
        return list(check.findings()), check.checked


def entries(store):
    return {name: store.entries(name, b"", 1 << 20)[:2] for name in store.names()}


@pytest.fixture
def lost(tmp_path):
    made = Lost(tmp_path)
    made.start()
    made.snapshot(2)
    made.keep()
    made.snapshot(4)
    yield made
    made.close()


@pytest.mark.parametrize("again", [0, 1, 2])
def test_nothing_is_found_whatever_was_worked_since(lost, again):
    lost.fail()
    for _ in range(again):
        lost.send()
    lost.stop()
    lost.put_back("checkpoints")
    findings, checked = lost.verify()
    assert findings == []
    assert checked[-1] == "0 savepoints, 0 damaged"
    assert len(checked) == 4


@pytest.mark.parametrize("same", [False, True])
def test_the_state_is_that_of_the_log(lost, tmp_path, same):
    """`same`: as many commits again as were lost; then only the marks of the commits tell one history from another."""
    lost_at = lost.task.lease.sequence
    lost.fail()
    while lost.task.lease.sequence < (lost_at if same else lost_at - 1):
        lost.send(49)
    (task,), sequence, right = lost.worker.plan.tasks, lost.task.lease.sequence, entries(lost.task.store)
    lost.stop()
    lost.put_back("checkpoints")
    location = Location(str(lost.location))
    with replayed(lost.log, lost.worker.plan, task, location) as made:
        assert made.sequence == sequence
        assert entries(made.store) == right
    copied = restore_copy(lost.log, lost.worker.plan, task, tmp_path / "copy", location=location)
    assert copied == sequence
    copy = open_store(1 << 20)(tmp_path / "copy")
    assert entries(copy) == right
    copy.close()


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_store_of_what_was_lost_is_no_damage(lost, ahead):
    lost_at = lost.task.lease.sequence
    lost.fail()
    while lost.task.lease.sequence < lost_at + ahead:
        lost.send(49)
    lost.stop()
    lost.put_back("state")
    findings, checked = lost.verify(state=True)
    assert findings == []
    assert f"(commit {lost_at}) is at a commit that the log does not have: it is made anew" in checked[1]


def test_blocks_that_are_really_lost_are_told(lost):
    """Not every snapshot that does not fit is of a lost history: where none fits, that is a finding."""
    lost.until_trimmed()
    lost.stop()
    for later in sorted((lost.location / "shop/0-0/manifests").iterdir())[1:]:
        later.unlink()
    lost.log.trim({CHANGELOG: lost.log.ends([CHANGELOG])[CHANGELOG] - 1})
    findings, _ = lost.verify()
    assert len(findings) == 1
    assert "its state cannot be made from the log" in findings[0].what
