"""A savepoint in mid-stream, restored under another id: together they give what an uninterrupted run gives."""

import random

import pytest

from streams.app import make_worker
from streams.checkpoint.collect import verify
from streams.checkpoint.manifest import tasks
from streams.checkpoint.savepoint import delete, list_savepoints
from streams.core.errors import CheckpointError, LogError, StateMismatch
from streams.runtime.drain import SLOT, DrainWorker
from streams.runtime.leases import Taking
from streams.runtime.restoring import RESTORE_STEPS
from streams.runtime.savepoint import CREATE_STEPS
from tests.savepoints.support import Crash, check_equal, crash_at, program


def finish(site, *apps):
    """The last one of these applications works to the end; all of them together must be exact."""
    site.send()
    site.run(program(apps[-1]))
    site.end()
    site.run(program(apps[-1]))
    site.run(program("whole"))
    check_equal(site.outputs(*apps), site.outputs("whole"))
    for part, key in (("running", "card"), ("risk", "terminal")):
        assert site.keyed(part, key, *apps) == site.keyed(part, key, "whole")


@pytest.mark.parametrize("turns", [1, 4, 9, 17])
def test_old_and_new_together_give_what_an_uninterrupted_run_gives(site, turns):
    old, new = program("old"), program("new")
    site.send()
    site.run(old, turns=turns)
    made = site.create("first", old)
    if turns > 4:
        assert sum(t.waiting_rows for t in made.tasks) > 20
        assert sum(t.entries for t in made.tasks) > 50
    assert site.restore("first", "old", new) == []
    finish(site, "old", "new")


@pytest.mark.parametrize("turns", [3, 9])
def test_no_input_is_held_back_while_shuffles_are_worked_to_their_ends(site, turns):
    """Nothing is released meanwhile, so an input that is held back would be so for ever."""
    old, new = program("old"), program("new")
    site.send(400)
    site.run(old, turns=turns)
    made = site.create("first", old, waiting_rows=1)
    assert sum(t.waiting_rows for t in made.tasks) > 20
    assert site.restore("first", "old", new) == []
    finish(site, "old", "new")


def test_a_source_that_grows_while_a_savepoint_is_taken_is_in_nobodys_way(site, monkeypatch):
    monkeypatch.setattr("streams.runtime.growth._EVERY", 0.0)
    site.send()
    site.run(program("old"), turns=9)
    site.create("first", program("old"), hook=lambda step: step == "taken" and site.grow("tx", 3))
    assert not site.log.holders("old", range(6))


def test_a_savepoint_that_is_refused_beside_a_living_worker_gives_its_tasks_back(site, monkeypatch):
    site.send()
    app = program("old")
    site.run(app, turns=9)
    other = make_worker(app, site.settings(), site.log, clock=site.clock, note=site.note, wait=0.0)
    other.start()
    turn = DrainWorker.turn
    monkeypatch.setattr(DrainWorker, "turn", lambda worker: (turn(worker), other.turn()))
    with pytest.raises(StateMismatch, match="another worker of 'old' lives"):
        site.create("first", app, takeover=True)
    assert SLOT not in site.log.holders("old", range(6)).values()
    assert [member.slot for member in site.log.living("old")] == [site.settings().slot]
    other.close()


def test_the_old_application_may_go_on_and_a_savepoint_may_be_restored_again_and_again(site):
    site.send()
    site.run(program("old"), turns=9)
    site.create("first", program("old"))
    site.restore("first", "old", program("new"))
    before = site.outputs("old")
    site.send()
    site.run(program("old"))
    site.run(program("new"))
    site.restore("first", "old", program("third"))
    site.run(program("third"))
    assert site.outputs("third") == site.outputs("new")
    after = site.outputs("old")
    check_equal({part: before[part] + n for part, n in site.outputs("new").items()}, after)


@pytest.mark.parametrize("step", [*CREATE_STEPS, "state:4"])
def test_create_dies_at_a_step_and_is_run_again(site, step):
    name, _, times = step.partition(":")
    site.send()
    site.run(program("old"), turns=9)
    with pytest.raises(Crash):
        site.create("first", program("old"), hook=crash_at(name, int(times or 1)))
    if name in ("named", "left"):
        with pytest.raises(CheckpointError, match="already"):
            site.create("first", program("old"))
    else:
        assert list_savepoints(site.location, "old") == []
        site.create("first", program("old"))
    site.restore("first", "old", program("new"))
    finish(site, "old", "new")


@pytest.mark.parametrize("step", RESTORE_STEPS)
def test_restore_dies_at_a_step_and_is_run_again(site, step):
    site.send()
    site.run(program("old"), turns=9)
    site.create("first", program("old"))
    with pytest.raises(Crash):
        site.restore("first", "old", program("new"), hook=crash_at(step))
    if step in ("placed", "left"):
        with pytest.raises(StateMismatch, match="has worked already"):
            site.restore("first", "old", program("new"))
    else:
        if step != "checked":
            with pytest.raises(StateMismatch, match="being restored"):
                site.run(program("new"))
        site.restore("first", "old", program("new"))
    finish(site, "old", "new")


@pytest.mark.slow
def test_restore_dies_several_times(site, monkeypatch):
    monkeypatch.setattr("streams.runtime.restoring._COMMIT", 500)
    rng = random.Random(5)
    site.send()
    site.run(program("old"), turns=9)
    site.create("first", program("old"))
    for _ in range(4):
        with pytest.raises(Crash):
            site.restore("first", "old", program("new"), hook=crash_at("state", rng.randrange(1, 6)))
    site.restore("first", "old", program("new"))
    finish(site, "old", "new")


def test_who_is_in_the_way_is_refused(site):
    with pytest.raises(StateMismatch, match="never run"):
        site.create("first", program("old"))
    site.send()
    site.run(program("old"), turns=9)
    with pytest.raises(CheckpointError, match="not a name"):
        site.create("../first", program("old"))
    site.create("first", program("old"))
    with pytest.raises(StateMismatch, match="has worked already"):
        site.restore("first", "old", program("old"))
    site.leave_running(program("old"))
    with pytest.raises(StateMismatch, match="held by workers: 0"):
        site.create("second", program("old"))
    site.create("second", program("old"), takeover=True)  # it was killed, as --takeover says
    assert [x.name for x in list_savepoints(site.location, "old")] == ["first", "second"]


def test_what_is_in_the_way_of_a_restore_is_refused_and_may_be_mended(site, monkeypatch):
    site.send()
    site.run(program("old"), turns=9)
    site.create("first", program("old"))
    with monkeypatch.context() as patch:
        patch.setattr("streams.runtime.restoring._PATIENCE", -1.0)  # the clock stands still here
        other = site.log.group("new", "other", 6)
        with pytest.raises(StateMismatch, match=r"has not given all tasks within (.|\n)*: a worker is running"):
            site.restore("first", "old", program("new"))
        other.leave()
    with monkeypatch.context() as patch:
        patch.setattr(Taking, "result", lambda taking: {})  # another one claims them at the same moment
        with pytest.raises(LogError, match="tasks of 'new' are being claimed by somebody else"):
            site.restore("first", "old", program("new"))
    site.restore("first", "old", program("new"))
    finish(site, "old", "new")


def test_a_restore_beside_state_without_leases_is_refused(site):
    site.send()
    site.run(program("old"), turns=9)
    site.create("first", program("old"))
    site.run(program("new"), turns=9)
    with site.log._file.writing():
        site.log._file.run("DELETE FROM leases WHERE app = ?", ("new",))
    with pytest.raises(StateMismatch, match="the application 'new' has state, but no leases"):
        site.restore("first", "old", program("new"))


def test_a_location_that_fails_leaves_no_leases_behind(site, monkeypatch):
    def refuse(self, data):
        raise CheckpointError("no space left in the checkpoint location")

    site.send()
    site.run(program("old"), turns=9)
    with monkeypatch.context() as patch:
        patch.setattr("streams.checkpoint.savepoint.Writing.put", refuse)
        with pytest.raises(CheckpointError, match="no space left"):
            site.create("first", program("old"))
    assert not any(lease and lease.held for lease in site.log.leases("old", range(8)).values())
    site.create("first", program("old"))


def test_with_snapshots_in_the_same_place(site):
    """The names of savepoints are nothing to snapshots, and state is found where changelogs are trimmed."""
    place = str(site.directory / "checkpoints")
    site.send()
    site.run(program("old"), turns=9, checkpoints=place, snapshot_interval=1, snapshots_kept=1)
    assert tasks(site.location, "old")
    site.create("objects", program("old"), checkpoints=place)
    site.create("manifests", program("old"), checkpoints=place)
    assert set(tasks(site.location, "old")) <= {f"{s}-{p}" for s in range(4) for p in range(2)}
    assert list(verify(site.location, "old")) == []
    assert [x.problem for x in list_savepoints(site.location, "old")] == ["", ""]
    site.restore("objects", "old", program("new"))
    finish(site, "old", "new")


def test_what_is_damaged_is_refused_before_anything_is_written(site):
    site.send()
    site.run(program("old"), turns=9)
    made = site.create("first", program("old"))
    stored = random.Random(3).choice(made.objects)
    file = site.directory / "checkpoints" / "old" / "savepoints" / "first" / stored.key
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="is damaged: an object of it is not what it was"):
        site.restore("first", "old", program("new"))
    file.unlink()
    with pytest.raises(CheckpointError, match="is damaged: an object of it is missing"):
        site.restore("first", "old", program("new"))
    file.write_bytes(whole)
    site.restore("first", "old", program("new"))
    own = site.directory / "checkpoints" / "old" / "savepoints" / "first.json"
    own.write_bytes(own.read_bytes().replace(b'"sequence":', b'"sequence":1', 1))
    with pytest.raises(CheckpointError, match="is damaged: its hash differs"):
        site.restore("first", "old", program("third"))
    assert list_savepoints(site.location, "old")[0].problem
    assert delete(site.location, "old", "first")
    assert not delete(site.location, "old", "first")
    assert not site.location.objects("old/savepoints")
    finish(site, "old", "new")
