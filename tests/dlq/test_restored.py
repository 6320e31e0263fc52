"""The state that a dead letter is debugged with, where the changelog alone does not hold all of it."""

import pytest

from streams.app import open_store
from streams.checkpoint.location import Location
from streams.core.errors import StateCorrupt, StateMismatch
from streams.dlq.readonly import ReadOnlyLog
from streams.dlq.restored import restore_copy
from streams.state.rocksdb import RocksStore
from tests.runtime.shop import Shop


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


def test_a_snapshot_whose_store_turns_out_to_be_damaged_is_passed_over(shop, tmp_path, monkeypatch):
    (task,) = shop.worker.plan.tasks
    location, opened, said = Location(str(shop.location)), [], []

    def damaged_at_first(directory, **options):
        opened.append(directory)
        if len(opened) == 1:
            raise StateCorrupt("a block is not what its checksum says", where=str(directory))
        return RocksStore(directory, **options)

    monkeypatch.setattr("streams.runtime.replayed.RocksStore", damaged_at_first)
    where = tmp_path / "copy"
    restore_copy(ReadOnlyLog(shop.log), shop.worker.plan, task, where, location=location, note=said.append)
    copy = open_store(1 << 20)(where)
    assert entries(copy) == entries(next(iter(shop.worker._tasks.values())).store)
    copy.close()
    assert [text for text in said if "an older one is taken" in text], said


def test_without_the_location_it_is_refused_and_the_way_out_is_said(shop, tmp_path):
    (task,) = shop.worker.plan.tasks
    with pytest.raises(StateMismatch, match="begins at commit") as error:
        restore_copy(ReadOnlyLog(shop.log), shop.worker.plan, task, tmp_path / "copy")
    assert "--checkpoints" in error.value.fix
