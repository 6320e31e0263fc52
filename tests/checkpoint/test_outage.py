"""Workers while the checkpoint location, an S3 server behind a proxy, cannot be reached."""

import shutil

import pytest

from streams.checkpoint.identity import Identity
from streams.checkpoint.location import Location
from streams.core.errors import CheckpointError, LocationUnreachable
from tests.checkpoint.support import Proxy, s3_options
from tests.runtime.shop import Shop


@pytest.fixture
def proxy(s3_port):
    with Proxy(s3_port).running() as made:
        yield made


@pytest.fixture
def shop(tmp_path, proxy, bucket):
    made = Shop(tmp_path)
    made.location = f"s3://{bucket}/shop"
    made.options = s3_options(f"http://127.0.0.1:{proxy.port}")
    made.start()
    yield made
    made.worker.close()
    made.feeder.close()
    made.log.close()


def said(shop, text):
    return any(text in note for note in shop.notes)


def test_a_worker_starts_again_from_its_local_state_and_snapshots_follow(shop, proxy):
    shop.until_trimmed()
    shop.worker.close()
    proxy.cut = 1
    shop.notes.clear()
    shop.start()
    assert said(shop, "no answer from the checkpoint location")
    shop.send()
    assert shop.counts() == shop.expected()
    proxy.cut, have = 0, shop.snapshots()
    shop.until(lambda: shop.snapshots() > have)
    assert said(shop, "the checkpoint location answers")


def test_a_task_without_its_state_waits_for_its_snapshot(shop, proxy):
    shop.until_trimmed()
    shop.worker.close()
    shutil.rmtree(shop.directory / "state" / "shop" / "0" / "0-0")
    proxy.cut = 1
    shop.notes.clear()
    shop.start()
    shop.until(lambda: said(shop, "it waits for its snapshot"))
    proxy.cut = 0
    shop.send()
    assert shop.counts() == shop.expected()
    assert not said(shop, "aborted")


def test_a_machine_that_never_saw_the_location_cannot_begin_without_it(shop, proxy):
    shop.until_trimmed()
    shop.lose_the_machine()
    proxy.cut = 1
    with pytest.raises(LocationUnreachable, match="does not answer"):
        shop.start()


def test_a_location_that_was_exchanged_meanwhile_is_refused_once_it_answers(shop, proxy):
    shop.until_trimmed()
    shop.worker.close()
    direct = Location(str(shop.location), {**shop.options, "endpoint": f"http://127.0.0.1:{proxy.target}"})
    direct.delete(["shop/token"])
    proxy.cut = 1
    shop.start()
    shop.send()
    proxy.cut = 0
    with pytest.raises(CheckpointError, match="not the one that task 0/0 was last run with"):
        shop.until(lambda: False)


def test_a_refusal_that_follows_an_outage_is_told(shop, proxy, monkeypatch):
    """It was silent for ever: only that there had been no answer at the start was said."""
    shop.worker.close()
    proxy.cut = 1
    shop.start()

    def refused(location, app):
        raise CheckpointError("no permission", where=location.url, fix="let this user in")

    monkeypatch.setattr("streams.checkpoint.identity.token", refused)
    shop.until(lambda: said(shop, "still no answer from the checkpoint location, and snapshots wait: no permission"))
    later = shop.clock.monotonic() + 60
    shop.until(lambda: shop.clock.monotonic() > later)
    assert sum("still no answer" in note for note in shop.notes) <= 2  # not with each question


def test_a_token_that_is_out_of_date_is_never_committed(tmp_path, proxy, bucket):
    """Its file outlived the location's token (`streams reset --snapshots` elsewhere): the answer counts."""
    options, kept = s3_options(f"http://127.0.0.1:{proxy.port}"), tmp_path / "kept.json"
    location = Location(f"s3://{bucket}/shop", options)
    old = Identity(location, "shop", kept).token
    location.delete(["shop/token"])
    proxy.cut = 1
    identity = Identity(location, "shop", kept)
    assert (identity.token, identity.confirmed, identity.confirm()) == (old, False, False)
    proxy.cut = 0
    while not identity.confirm():
        identity.ask_again()
    assert identity.token != old
    assert Identity(location, "shop", kept).token == identity.token


def test_what_does_not_pass_by_itself_is_told_at_once(tmp_path):
    kept, blocked = tmp_path / "kept.json", tmp_path / "blocked"
    location = Location(str(blocked))
    Identity(location, "shop", kept)
    shutil.rmtree(blocked)
    blocked.write_text("a file is in the way")
    with pytest.raises(CheckpointError):
        Identity(location, "shop", kept)
