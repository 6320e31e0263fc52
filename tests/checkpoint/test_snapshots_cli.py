"""`streams snapshots`, on a directory and on S3."""

import json

import pytest
from click.testing import CliRunner

from streams.checkpoint import savepoint
from streams.checkpoint.collect import DAY, token
from streams.checkpoint.manifest import manifest_key
from streams.cli import assembled
from tests.checkpoint.support import APP, TASK, s3_options, upload
from tests.checkpoint.test_snapshots import ONE, THREE, TWO, objects

PROGRAM = """
from operators import Running, agg
from streams import App, EventTime, Schema

class Payment(Schema):
    card: str
    at: EventTime

app = App("app")
app.source("payments", Payment, key="card", start="earliest") | Running([agg.count().alias("n")]) | app.sink("counts")
"""


@pytest.fixture
def say(location, request, tmp_path, monkeypatch):
    """Types a command where a program lies, and a file of settings that names the location."""
    (tmp_path / "shop_cli.py").write_text(PROGRAM)
    settings = f'checkpoints = "{location.url}"\n'
    if location.directory is None:
        options = s3_options(f"http://127.0.0.1:{request.getfixturevalue('s3_port')}")
        settings += "[checkpoint_options]\n" + "".join(f'{name} = "{value}"\n' for name, value in options.items())
    (tmp_path / "streams.toml").write_text(settings)
    monkeypatch.chdir(tmp_path)

    def typed(*arguments, code=0):
        done = CliRunner().invoke(assembled(), ["snapshots", *arguments])
        assert done.exit_code == code, done.output
        return done.output

    return typed


def test_list(say, location, tmp_path):
    for sequence, files in enumerate([ONE, TWO, THREE, THREE], 1):
        upload(location, tmp_path, sequence, files)
    lines = [line.split() for line in say("list", "shop_cli:app").splitlines()]
    assert lines[0] == ["task", "snapshot", "commit", "taken", "files", "size", "new"]
    assert [line[:3] + line[4:] for line in lines[1:4]] == [
        ["0/1", "2", "2", "3", "8.0", "kB", "-"],  # the one before it is gone
        ["0/1", "3", "3", "3", "5.0", "kB", "1", "B"],
        ["0/1", "4", "4", "3", "5.0", "kB", "0", "B"],
    ]
    told = [json.loads(line) for line in say("list", "shop_cli:app", "--json").splitlines()]
    assert [(each["snapshot"], each["commit"], each["bytes"], each["new_bytes"]) for each in told] == [
        (2, 2, 8001, None),
        (3, 3, 5001, 1),
        (4, 4, 5001, 0),
    ]


def test_list_shows_what_cannot_be_read_and_what_nobody_holds(say, location, tmp_path):
    upload(location, tmp_path, 1, ONE)
    upload(location, tmp_path, 2, ONE)
    key = manifest_key(APP, TASK, 2)
    location.delete([key])
    location.create(key, b"spoilt")
    location.create(manifest_key(APP, "7-0", 1), b"spoilt")
    said = say("list", "shop_cli:app")
    assert "snapshot 2 of task 0/1 cannot be read: a manifest is damaged" in said
    assert "keeps no state in 1 task of these (7/0)" in said


def test_collect(say, location, tmp_path, make_older):
    for sequence, files in enumerate([ONE, TWO, THREE, THREE, THREE], 1):
        upload(location, tmp_path, sequence, files)
    savepoint.Writing(location, APP, "half").put(b"data")
    assert "nothing to delete, 7 kept" in say("collect", "shop_cli:app")
    make_older(2 * DAY)
    said = say("collect", "shop_cli:app", "--dry-run")
    assert "task 0/1: 4 objects (6.0 kB) would be deleted, 3 kept" in said
    assert "1 object (4 B) of a savepoint 'half'" in said
    assert len(objects(location)) == 7
    assert "nothing to delete, 7 kept" in say("collect", "shop_cli:app", "--min-age", "3d")
    said = say("collect", "shop_cli:app")
    assert "task 0/1: 4 objects (6.0 kB) deleted, 3 kept" in said
    assert len(objects(location)) == 3
    assert savepoint.delete(location, APP, "half")
    assert "savepoint" not in say("collect", "shop_cli:app")


def test_collect_says_why_it_left_a_task_alone(say, location, tmp_path, make_older):
    upload(location, tmp_path, 1, ONE)
    location.create(manifest_key(APP, TASK, 2), b"spoilt")
    make_older(2 * DAY)
    said = say("collect", "shop_cli:app", code=1)
    assert "nothing to delete, 3 kept; snapshot 2 cannot be read, so what it needs is not known" in said


def test_what_is_wrong_is_said_with_the_way_out(say, location, tmp_path):
    said = say("list", "shop_cli:app", code=1)
    assert "this checkpoint location has nothing of 'app'" in said
    assert "this one has: nothing" in said
    token(location, "apps")
    assert "did you mean 'apps'?" in say("collect", "shop_cli:app", code=1)
    token(location, APP)
    assert "'app' has no snapshots in " in say("list", "shop_cli:app")
    upload(location, tmp_path, 1, ONE)
    assert "give at least 43200 s (12 hours)" in say("collect", "shop_cli:app", "--min-age", "11h", code=1)
    assert "--min-age 'soon' is not a duration" in say("collect", "shop_cli:app", "--min-age", "soon", code=1)
    (tmp_path / "streams.toml").unlink()
    assert "no checkpoint location is set" in say("list", "shop_cli:app", code=1)
    assert "there is no such checkpoint location" in say("list", "shop_cli:app", "--checkpoints", "none", code=1)
    assert not (tmp_path / "none").exists()


def test_a_location_that_cannot_be_reached(tmp_path, monkeypatch):
    (tmp_path / "shop_cli.py").write_text(PROGRAM)
    options = {**s3_options("http://127.0.0.1:1"), "connect_timeout": "1s"}
    lines = "".join(f'{name} = "{value}"\n' for name, value in options.items())
    (tmp_path / "streams.toml").write_text(f'checkpoints = "s3://bucket/x"\n[checkpoint_options]\n{lines}')
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(assembled(), ["snapshots", "list", "shop_cli:app"])
    assert done.exit_code == 1
    assert "the checkpoint location does not answer" in done.output
    assert "check network and endpoint" in done.output


def test_several_are_deleted_at_once_and_one_that_is_missing_is_no_error(location):
    for key in "abcd":
        location.write(f"app/{key}", iter([b"x"]), 1)
    location.delete([f"app/{key}" for key in ("a", "missing", "b", "c")])
    assert [each.key for each in location.objects("app")] == ["app/d"]
