"""docs/savepoints.md, as its reader works through it."""

import pytest

from tests.tutorial import ROOT, Reader


@pytest.mark.slow
def test_the_page_does_what_it_shows(tmp_path):
    here = tmp_path / "shop"
    here.mkdir()
    with Reader(here, {}) as reader:
        assert reader.follow((ROOT / "docs" / "savepoints.md").read_text()) == 5
        listed = reader.type("streams savepoint list --app shop --checkpoints checkpoints\n")
        assert listed.startswith("monday  2")
        assert "4 tasks, 2 entries of state, 0 rows that wait" in listed
        shown = reader.type("streams savepoint show monday --app shop --checkpoints checkpoints\n")
        assert "store sales/values, 2 partitions\n  key: product: String\n  value sold: int" in shown
        again = reader.type("streams savepoint create monday shop:app --checkpoints checkpoints\n")
        assert "there is a savepoint 'monday' of 'shop' already" in again
        wrong = reader.type("streams savepoint restore mondya shop3:app --from-app shop --checkpoints checkpoints\n")
        assert "'shop' has no savepoint 'mondya'; did you mean 'monday'?" in wrong
        assert "no checkpoint location is set" in reader.type("streams savepoint list --app shop\n")
        used = reader.type("streams savepoint restore monday shop:app --checkpoints checkpoints\n")
        assert "the application 'shop' has worked already" in used
        gone = reader.type("streams savepoint delete monday --app shop --checkpoints checkpoints\n")
        assert gone == "savepoint 'monday' of 'shop' is deleted\n"
        assert "has no savepoints" in reader.type("streams savepoint list --app shop --checkpoints checkpoints\n")
