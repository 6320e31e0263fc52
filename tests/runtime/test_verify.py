"""What `streams verify` finds in a shop whose snapshots are damaged, and beside a worker whose lease moves on."""

from dataclasses import replace

import pytest

from streams.checkpoint.location import Location
from streams.checkpoint.manifest import list_manifests
from streams.runtime.verify import Verification
from tests.runtime.shop import Shop


@pytest.fixture
def shop(tmp_path):
    made = Shop(tmp_path)
    made.start()
    yield made
    made.worker.close()
    made.feeder.close()
    made.log.close()


def verification(shop, state=True):
    state_dir = shop.directory / "state" if state else None
    return Verification(shop.worker.plan, shop.log, state_dir, Location(str(shop.location)))


def stop(shop):
    shop.worker.leave()
    shop.worker.close()


def damage(shop):
    for file in (shop.location / "shop/0-0/objects").iterdir():
        file.write_bytes(b"x" * file.stat().st_size)


def test_where_no_snapshot_is_whole_the_way_out_is_the_local_store_and_it_leads_out(shop):
    shop.until_trimmed()
    stop(shop)
    damage(shop)
    found = list(verification(shop).findings())
    assert not [f for f in found if "older ones serve" in f.fix]
    last = found[-1]
    assert (last.where, last.what) == ("task 0/0", "no snapshot of this task is whole")
    assert "do not delete local state: " in last.fix
    assert "start slot 0, whose store of it is on this machine" in last.fix
    (lost,) = [f for f in found if "cannot be made from the log" in f.what]
    assert lost.fix.startswith("do not delete local state: start slot 0")
    (other,) = [f for f in verification(shop, state=False).findings() if "is whole" in f.what]
    assert "start the slot that has its store" in other.fix
    # The way out, followed.
    for each in found:
        if "delete this object" in each.fix:
            shop.location.joinpath(each.where.removeprefix(f"{shop.location}/")).unlink(missing_ok=True)
    shop.start()
    for _ in range(3):
        have = shop.snapshots()
        shop.send()
        shop.until(lambda have=have: shop.snapshots() > have)
    stop(shop)
    assert not [f for f in verification(shop).findings() if "whole" in f.what or "cannot be made" in f.what]


def test_where_one_is_whole_the_older_ones_serve(shop):
    shop.until_trimmed()
    stop(shop)
    newest, older = list_manifests(Location(str(shop.location)), "shop", "0-0")[-1:-3:-1]
    elsewhere = {file.hash for file in older.manifest.files}
    file = next(file for file in newest.manifest.files if file.hash not in elsewhere)
    shop.location.joinpath("shop/0-0/objects", file.object).unlink()
    (found,) = verification(shop).findings()
    assert found.what.startswith("the object is missing")
    assert "older ones serve; the next snapshots of the task mend it" in found.fix


def test_an_internal_topic_whose_records_are_deleted_is_told(shop):
    """The embedded log keeps all for ever; on Kafka somebody may have changed it."""
    stop(shop)
    made, name = verification(shop), "shop-0-changelog"
    topics = shop.worker.plan.topics
    made._plan = replace(made._plan, topics={**topics, name: replace(topics[name], retention_ms=1000)})
    (found,) = made.findings()
    assert (found.where, found.what) == (f"topic {name}", "its records are deleted after 1000 ms: state is lost then")
    assert found.fix == f"kafka-configs.sh --alter --topic {name} --add-config retention.ms=-1"


def test_a_task_whose_lease_moves_on_is_told_of_once(shop, monkeypatch):
    shop.send()
    check, moves = verification(shop), iter(range(2))
    against = check._against_log

    def beside_a_worker(*arguments):
        found = against(*arguments)
        if next(moves, None) is not None:
            shop.send()
        return found

    monkeypatch.setattr(check, "_against_log", beside_a_worker)
    assert list(check.findings()) == []
    assert sum(line.startswith("task 0/0") for line in check.checked) == 1
