"""The state that a dead letter is debugged with, where the changelog alone does not hold all of it."""

import pytest

from streams.app import open_store
from streams.checkpoint.location import Location
from streams.core.errors import StateMismatch
from streams.dlq.readonly import ReadOnlyLog
from streams.dlq.restored import restore_copy
from tests.runtime.test_snapshots import Shop


@pytest.fixture
def shop(tmp_path):
    made = Shop(tmp_path)
    made.start()
    made.until_trimmed()
    made.send()
    yield made
    made.worker.close()
    made.feeder.close()
    made.log.close()


def entries(store):
    return {name: store.entries(name, b"", 1 << 20)[:2] for name in store.names()}


def test_behind_a_trimmed_changelog_the_state_is_that_of_snapshot_and_tail(shop, tmp_path):
    (task,) = shop.worker.plan.tasks
    location, where, said = Location(str(shop.location)), tmp_path / "copy", []
    sequence = restore_copy(ReadOnlyLog(shop.log), shop.worker.plan, task, where, location=location, note=said.append)
    running = next(iter(shop.worker._tasks.values()))
    assert sequence == running.lease.sequence
    copy = open_store(1 << 20)(where)
    assert entries(copy) == entries(running.store)
    copy.close()
    assert said == []


def test_without_the_location_it_is_refused_and_the_way_out_is_said(shop, tmp_path):
    (task,) = shop.worker.plan.tasks
    said = []
    with pytest.raises(StateMismatch, match="begins at commit"):
        restore_copy(ReadOnlyLog(shop.log), shop.worker.plan, task, tmp_path / "copy", note=said.append)
    assert any("name it here, too" in text for text in said)
