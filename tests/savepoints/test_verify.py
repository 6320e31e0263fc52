"""`streams verify` reads savepoints, too, and compares the location's token with that of the last commits."""

from pathlib import Path

from streams.checkpoint.collect import token_key
from streams.runtime.plan import prepare
from streams.runtime.verify import Verification
from tests.savepoints.support import program


def verified(site):
    app = program("old")
    plan = prepare("old", app.topology(), site.log, app.dead_letters, 2, make=False)
    made = Verification(plan, site.log, None, site.location)
    return list(made.findings()), made.checked


def below(site, key):
    return Path(site.location.directory) / key


def saved(site):
    site.send()
    site.run(program("old"), turns=9)
    return site.create("first", program("old"))


def test_a_savepoint_that_is_whole_is_counted(site):
    saved(site)
    found, checked = verified(site)
    assert not found
    assert checked[-1] == "1 savepoint, 0 damaged"


def test_damaged_and_missing_objects_are_named(site):
    made = saved(site)
    first, second = (below(site, f"old/savepoints/first/{each.key}") for each in made.objects[:2])
    first.write_bytes(b"x" * first.stat().st_size)
    second.unlink()
    found, checked = verified(site)
    assert [(f.where.endswith(made.objects[i].key), f.what) for i, f in enumerate(found)] == [
        (True, "savepoint 'first': the savepoint is damaged: an object of it is not what it was"),
        (True, "savepoint 'first': the savepoint is damaged: an object of it is missing"),
    ]
    assert found[0].fix.endswith("streams savepoint delete first --app old")
    assert checked[-1] == "1 savepoint, 1 damaged"


def test_a_savepoint_that_cannot_be_read_is_named(site):
    saved(site)
    below(site, "old/savepoints/first.json").write_text("{}")
    (found,), _ = verified(site)
    assert found.where.endswith("old/savepoints/first.json")
    assert found.what.startswith("savepoint 'first': the savepoint is damaged")


def test_another_locations_token_is_told_once_a_task(site):
    site.send()
    checkpoints = str(site.location.directory)
    site.run(program("old"), checkpoints=checkpoints)
    assert not verified(site)[0]
    below(site, token_key("old")).write_text("another")
    found = verified(site)[0]
    assert found
    assert len(found) == len({f.where for f in found})
    assert all(f.what.startswith("its last commit was made with the checkpoint location of token") for f in found)
    assert found[0].what.endswith("this one has another...")
    below(site, token_key("old")).unlink()
    assert verified(site)[0][0].what.endswith("this one has no token")
