"""Savepoints of a program with a sink outside the log: the old and the new application write each row once."""

import json
from collections import Counter

import pytest

from operators import FileSink, Running, agg
from streams import App
from streams.app import make_worker
from streams.runtime.position import TaskPosition
from tests.savepoints.support import Crash, Tx, crash_at


def program(site, name):
    app = App(name, dead_letters=f"{name}.dead")
    tx = app.source("tx", Tx, key="card", disorder="5s", start="earliest", idle="1h")
    running = tx | Running([agg.count().alias("n")]).named("sums")
    running | app.write_to(FileSink(site.directory / "files" / name), name="files")
    running | app.sink(f"{name}.running")
    return app


def files(site, *apps):
    lines = Counter()
    for app in apps:
        for file in (site.directory / "files" / app).glob("*/[0-9]*.jsonl"):
            lines.update(json.dumps(json.loads(line)) for line in file.read_text().splitlines())
    return lines


def turns(site, worker):
    for _ in range(50):
        site.clock.sleep(0.25)
        worker.turn()


def dies(site, app, step):
    """A worker dies in its first commit, at this step."""
    worker = make_worker(
        app, site.settings(), site.log, clock=site.clock, note=site.note, wait=0.0, hook=crash_at(step)
    )
    worker.start()
    with pytest.raises(Crash):
        turns(site, worker)
    worker.close()
    site.clock.sleep(11)


@pytest.mark.parametrize("step", ["flushed", "committed"])
def test_what_a_dead_worker_had_prepared_is_published_before_the_savepoint(site, step):
    site.send()
    dies(site, program(site, "old"), step)
    assert not files(site, "old")
    made = site.create("first", program(site, "old"), takeover=True)
    assert bool(files(site, "old")) == (step == "committed")
    assert all(not TaskPosition.decode(task.position).tokens for task in made.tasks)
    site.restore("first", "old", program(site, "new"))
    site.send()
    site.run(program(site, "new"))
    site.run(program(site, "whole"))
    assert files(site, "old", "new") == files(site, "whole")
    assert max(files(site, "whole").values()) == 1
