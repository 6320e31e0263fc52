"""A savepoint in mid-stream, restored under another id: together they give what an uninterrupted run gives."""

from tests.savepoints.support import check_equal, program


def test_old_and_new_together_give_what_an_uninterrupted_run_gives(site):
    old, new = program("old"), program("new")
    site.send()
    site.run(old, turns=9)
    made = site.create("first", old)
    assert sum(t.waiting_rows for t in made.tasks) > 20
    assert sum(t.entries for t in made.tasks) > 50
    site.restore("first", "old", new)
    site.send()
    site.run(new)
    site.end()
    site.run(new)
    site.run(program("whole"))
    check_equal(site.outputs("old", "new"), site.outputs("whole"))
    for part, key in (("running", "card"), ("risk", "terminal")):
        assert site.keyed(part, key, "old", "new") == site.keyed(part, key, "whole")
