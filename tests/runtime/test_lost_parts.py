"""What a worker says and does when a part of what it needs is gone: the log's end, a topic, the checkpoint location."""

import shutil
from pathlib import Path

import pytest

from streams.core.errors import StateMismatch
from streams.log.embedded import EmbeddedLog
from streams.runtime.worker import _REFRESH
from streams.state.rocksdb import RocksStore
from tests.runtime.shop import CHANGELOG, Shop


@pytest.fixture
def shop(tmp_path):
    made = Shop(tmp_path)
    made.start()
    yield made
    if made.worker is not None:
        made.worker.close()
    made.feeder.close()
    made.log.close()


def sequence_on_disk(shop) -> int:
    [directory] = Path(shop.directory / "state").rglob("0-0")
    store = RocksStore(directory, cache_bytes=1 << 20)
    try:
        return store.mark.sequence
    finally:
        store.close()


def test_snapshots_of_a_lost_history_do_not_push_out_those_that_the_log_has(shop):
    """A power failure takes the log's last commits; snapshots of them lie in the location. Then the machine is lost."""
    shop.snapshot(2)
    shop.close()
    saved = shutil.copytree(shop.directory / "log", shop.directory / "saved")
    sent = shop.sent
    shop.reopen()
    shop.snapshot(6)
    shop.close()
    shutil.rmtree(shop.directory / "log")
    shutil.copytree(saved, shop.directory / "log")
    shop.sent = sent
    shop.reopen()
    shop.snapshot(3)
    assert any("of commits that the log does not have deleted" in note for note in shop.notes), shop.notes
    shop.until_trimmed()
    shop.lose_the_machine()
    shop.start()
    shop.send()
    assert shop.counts() == shop.expected()


def test_snapshots_whose_commits_may_still_be_lost_push_out_none_that_the_log_has(shop, monkeypatch):
    """All that are kept are younger than what a power failure takes, and the changelog is trimmed: older ones stay."""
    monkeypatch.setattr(EmbeddedLog, "durable_after", 120.0)
    shop.until_trimmed()
    shop.close()
    saved = shutil.copytree(shop.directory / "log", shop.directory / "saved")
    sent, begun = shop.sent, shop.clock.monotonic()
    shop.reopen()
    shop.snapshot(3)  # two are kept
    assert shop.clock.monotonic() - begun < 120.0
    trimmed = shop.log.starts([CHANGELOG])
    shop.close()
    shutil.rmtree(shop.directory / "log")
    shutil.copytree(saved, shop.directory / "log")
    shop.sent = sent
    shop.log = EmbeddedLog(shop.directory / "log")
    shop.log.trim(trimmed)  # a deletion lasts
    shop.log.close()
    shop.reopen()
    shop.send()
    assert shop.counts() == shop.expected()


def test_a_deletion_waits_until_its_reason_is_on_the_brokers_disks(shop, monkeypatch):
    monkeypatch.setattr(EmbeddedLog, "settled_after", 300.0)
    begun = shop.clock.monotonic()
    shop.until_trimmed()
    assert shop.clock.monotonic() - begun >= 300.0


def test_an_application_of_the_same_name_on_another_log_deletes_none_of_our_snapshots(shop, tmp_path):
    """Somebody tries a program out with the settings of production, but for the brokers."""
    shop.until_trimmed()
    other = Shop(tmp_path / "other")
    other.location = shop.location
    other.start()
    other.snapshot(4)
    other.worker.close()
    other.feeder.close()
    other.log.close()
    shop.lose_the_machine()
    shop.start()
    shop.send()
    assert shop.counts() == shop.expected()
    assert any("of another changelog topic kept" in note for note in other.notes), other.notes


@pytest.mark.parametrize("other", ["", "elsewhere"])
def test_a_forgotten_checkpoint_location_is_named(shop, other):
    shop.until_trimmed()
    shop.lose_the_machine()
    right, shop.location = shop.location, shop.directory / other if other else ""
    with pytest.raises(StateMismatch, match="behind a snapshot that is not there") as error:  # noqa: PT012
        shop.start()
        shop.until(lambda: shop.worker.complete)
    assert "--checkpoints" in error.value.fix
    shop.worker.close()
    shop.location = right
    shop.start()
    shop.send()
    assert shop.counts() == shop.expected()


def test_who_goes_on_without_the_location_is_told(shop):
    shop.snapshot(1)
    shop.worker.leave()
    shop.worker.close()
    shop.location = ""
    shop.start()
    shop.send()
    assert any("has none now" in note for note in shop.notes)


def test_local_state_is_not_dropped_for_a_changelog_that_was_deleted(shop):
    shop.send()
    shop.worker.leave()
    shop.worker.close()
    had = sequence_on_disk(shop)
    shop.log.delete([CHANGELOG.topic])
    with pytest.raises(StateMismatch, match="is empty, but its lease record says"):  # noqa: PT012
        shop.start()
        shop.until(lambda: shop.worker.complete)
    shop.worker.close()
    assert sequence_on_disk(shop) == had > 0


def test_local_state_is_not_dropped_for_a_lease_record_that_was_deleted(shop):
    shop.send()
    shop.worker.leave()
    shop.worker.close()
    had = sequence_on_disk(shop)
    shop.log.forget("shop")
    with pytest.raises(StateMismatch, match="its lease record says 0") as error:  # noqa: PT012
        shop.start()
        shop.until(lambda: shop.worker.complete)
    assert "the lease topic or the changelog was deleted" in error.value.fix
    shop.worker.close()
    assert sequence_on_disk(shop) == had > 0


@pytest.mark.parametrize("by", [-1, 1])
def test_a_lease_record_and_a_changelog_that_do_not_agree_are_told(shop, by):
    """Brokers lose the ends of two topics at two places. No snapshot is to blame."""
    shop.until_trimmed()
    shop.send()
    shop.worker.leave()
    shop.worker.close()
    lease = shop.log.leases("shop", [0])[0]
    claim = shop.log.claim("shop", 0)
    claim.write(lease.next(by))
    claim.close()
    shop.notes.clear()
    with pytest.raises(StateMismatch, match=f"restored to commit {lease.sequence}, but its lease record says"):  # noqa: PT012
        shop.start()
        shop.until(lambda: shop.worker.complete)
    assert not any("made anew" in note for note in shop.notes), shop.notes  # local state is kept


def test_a_quiet_task_commits_now_and_then(shop):
    """Brokers forget a position that nobody has committed for a week."""
    shop.send()
    for _ in range(20):  # its source becomes idle
        shop.worker.turn()
        shop.clock.sleep(4)
    [task] = shop.worker.running
    before, since = task.lease.sequence, task.committed_at
    while shop.clock.monotonic() < since + _REFRESH - 5:
        shop.worker.turn()
        shop.clock.sleep(4)
    assert task.lease.sequence == before
    for _ in range(20):
        shop.worker.turn()
        shop.clock.sleep(4)
    assert task.lease.sequence == before + 1
