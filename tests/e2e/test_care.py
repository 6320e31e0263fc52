"""`streams state`, `reset`, `verify` on a stopped application, beside a working one, and on one that was damaged."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from streams.app import make_worker
from streams.checkpoint.location import Location
from streams.checkpoint.manifest import list_manifests
from streams.cli import assembled
from streams.core.record import Produced, TopicPartition
from streams.log.base import Committed, TopicSpec
from streams.log.embedded import EmbeddedLog
from streams.protocol import Lease
from streams.runtime.offline import copy_of, local_stores
from streams.settings import Settings
from streams.state.base import Mark
from streams.state.rocksdb import RocksStore
from tests.e2e.care_program import Payment, app

PROGRAM = "tests.e2e.care_program:app"
ROWS = [Payment(f"c{i % 3}", 60_000 + i, 100 * i) for i in range(6)]


class Place:
    """A log, a state directory, and the command line over both."""

    def __init__(self, path: Path) -> None:
        self.path, self.state = path, path / "state"
        with EmbeddedLog(path / "log") as log:
            log.create([TopicSpec("payments", 1, {})])

    def feed(self) -> None:
        with EmbeddedLog(self.path / "log") as log:
            writer = log.writer("feeder", "0")
            writer.append(Produced("payments", 0, [None] * len(ROWS), [msgspec.json.encode(r) for r in ROWS], 0))
            writer.commit({}, {})

    def settings(self, **more) -> Settings:
        return Settings(state_dir=str(self.state), commit_interval=1, watchdog=0, **more)

    def work(self, until=lambda: True, **more) -> None:
        """A worker does all that is there, and goes."""
        with EmbeddedLog(self.path / "log") as log:
            worker = make_worker(app, self.settings(**more), log, note=lambda text, *_, **__: None)
            worker.start()
            quiet = 0
            while quiet < 30 or not until():
                before = worker.status.commits
                worker.turn()
                still = worker.complete and not worker.busy and worker.status.commits == before
                quiet = quiet + 1 if still else 0
            worker.leave()
            worker.close()

    def say(self, *arguments: str, code: int = 0) -> str:
        words = [*arguments, "--log-dir", str(self.path / "log"), "--state-dir", str(self.state)]
        done = CliRunner().invoke(assembled(), words)
        assert done.exit_code == code, (done.output, done.exception)
        return done.output

    def files(self) -> dict[str, str]:
        return {
            str(f.relative_to(self.state)): sha256(f.read_bytes()).hexdigest()
            for f in sorted(self.state.rglob("*"))
            if f.is_file()
        }

    def read(self, topic: str) -> list[bytes]:
        with EmbeddedLog(self.path / "log") as log:
            place = TopicPartition(topic, 0)
            end, found, reader = log.ends([place])[place], [], log.reader()
            reader.assign({place: 0})
            while len(found) < end:
                for records in reader.poll(1000, 0.1):
                    found += records.values()
            return found


@pytest.fixture
def place(tmp_path):
    made = Place(tmp_path)
    made.feed()
    made.work()
    return made


# ---- state


def test_stats_count_entries_from_disk_and_from_the_log_alike_and_change_nothing(place):
    before = place.files()
    from_disk = place.say("state", "stats", PROGRAM)
    from_log = place.say("state", "stats", PROGRAM, "--from-changelog")
    assert place.files() == before
    assert [line.split()[:5] for line in from_disk.splitlines()] == [line.split()[:5] for line in from_log.splitlines()]
    assert [line.split()[1:3] for line in from_disk.splitlines()[1:]] == [
        ["count/timers", "9"],
        ["count/values", "3"],
        ["minutes/windows", "4"],
        ["own/raw", "2"],
        ["times/running", "7"],
    ]
    first = json.loads(place.say("state", "stats", PROGRAM, "--json").splitlines()[0])
    assert first["task"] == "0/0"
    assert first["positions"] == {"payments": 6}
    assert first["stores"]["count/values"]["entries"] == 3


def test_every_key_that_scan_shows_can_be_got(place):
    for store in ("count/values", "count/timers", "minutes/windows", "times", "own"):
        lines = [json.loads(line) for line in place.say("state", "scan", PROGRAM, store, "--json").splitlines()]
        assert lines
        for line in lines:
            got = place.say("state", "get", PROGRAM, store, line["key"], "--json")
            assert json.loads(got) == line


def test_entries_read_as_the_operator_means_them(place):
    assert '0/0  c1  {"n": 2, "seen": [100, 400], "seen@": 3660004}' in place.say(
        "state", "get", PROGRAM, "count/values", "c1"
    )
    assert place.say("state", "get", PROGRAM, "minutes", "60000:c2") == '0/0  60000:c2  {"spent": 700}\n'
    assert '1/0  ["c1",100]  {"times": 1}\n' in place.say("state", "get", PROGRAM, "times", '["c1", 100]')
    assert '["timer"]' in place.say("state", "scan", PROGRAM, "count/timers", "--prefix", "60005:")
    assert place.say("state", "scan", PROGRAM, "own") == '0/0  0x0001  {"n": 5}\n0/0  plain  "text"\n'


def test_scan_by_prefix_from_a_key_and_with_a_limit(place):
    def keys(*options: str) -> list[str]:
        return [
            json.loads(x)["key"]
            for x in place.say("state", "scan", PROGRAM, "count/values", "--json", *options).splitlines()
            if x[0] == "{"
        ]

    assert keys() == ["c0", "c1", "c2"]
    assert keys("--prefix", "c1") == ["c1"]
    assert keys("--from", "c1") == ["c1", "c2"]
    assert keys("--limit", "2") == ["c0", "c1"]
    assert "there are more" in place.say("state", "scan", PROGRAM, "count/values", "--limit", "2")
    assert keys("--prefix", "x") == []


def test_mistakes_are_answered(place):
    assert "did you mean 'count/values'" in place.say("state", "get", PROGRAM, "count/value", "c1", code=1)
    assert "no task has the key 'c9'" in place.say("state", "get", PROGRAM, "count/values", "c9", code=1)
    assert "is no key of this store" in place.say("state", "get", PROGRAM, "minutes", "c1", code=1)
    assert "slots that have state there: 0" in place.say("state", "stats", PROGRAM, "--slot", "b", code=1)
    assert "no state of care, task 7/7" in place.say("state", "stats", PROGRAM, "--task", "7/7", code=1)
    shutil.rmtree(place.state)
    assert "--from-changelog" in place.say("state", "stats", PROGRAM, code=1)


def test_a_store_in_use_is_refused_and_the_log_can_be_asked(place):
    with EmbeddedLog(place.path / "log") as log:
        worker = make_worker(app, place.settings(), log, note=lambda text, *_, **__: None)
        worker.start()
        while not worker.complete:
            worker.turn()
        said = place.say("state", "stats", PROGRAM, code=1)
        assert "has this store open" in said
        assert "--from-changelog" in said
        place.say("state", "stats", PROGRAM, "--from-changelog")
        verified = place.say("verify", PROGRAM)
        assert "was not compared" in verified
        assert "0 findings" in verified
        said = place.say("reset", PROGRAM, "--yes", "--wait", "0", code=1)
        assert "care is working: slot '0'" in said
        worker.leave()
        worker.close()


def snapshots_of(place: Place, location: Path) -> Path:
    """Run until each task has a snapshot; a settings file that names the location."""
    place.feed()

    def done() -> bool:
        return len({f.parent.parent.name for f in location.glob("care/*/manifests/*.json")}) == 2

    place.work(until=done, checkpoints=str(location), snapshot_interval=1)
    settings = place.path / "settings.toml"
    settings.write_text(f'checkpoints = "{location}"\n')
    return settings


def test_from_snapshots_and_the_tail(place):
    location = place.path / "snapshots"
    settings = str(snapshots_of(place, location))
    place.feed()
    place.work()  # commits behind the snapshots
    assert "snapshots in" in place.say("verify", PROGRAM, "--settings", settings)
    said = place.say("state", "stats", PROGRAM, "--from-changelog", "--settings", settings)
    assert "snapshot of commit" in said
    assert '"n": 6' in place.say(
        "state", "get", PROGRAM, "count/values", "c1", "--from-changelog", "--settings", settings
    )
    newest = list_manifests(Location(str(location)), "care", "0-0")[-1].manifest
    damaged = location / "care/0-0/objects" / max(newest.files, key=lambda f: f.size).object
    damaged.write_bytes(b"x" * damaged.stat().st_size)
    said = place.say("verify", PROGRAM, "--settings", settings, code=1)
    assert "the object's content is not what its hash says" in said


def test_the_location_may_be_named_by_an_option(place):
    location = place.path / "snapshots"
    snapshots_of(place, location)
    named = ("--checkpoints", str(location))
    assert f"snapshots in {location}: 0 findings" in place.say("verify", PROGRAM, *named)
    for words in (("stats", PROGRAM), ("scan", PROGRAM, "own"), ("get", PROGRAM, "count/values", "c1")):
        place.say("state", *words, "--from-changelog", *named)
    assert "snapshot of commit" in place.say("state", "stats", PROGRAM, "--from-changelog", *named)
    assert f"from {location}" in place.say("reset", PROGRAM, "--snapshots", *named)
    assert "give --checkpoints" in place.say("reset", PROGRAM, "--snapshots", code=2)


# ---- verify


def finding(place, *words: str) -> dict:
    said = json.loads(place.say("verify", PROGRAM, "--json", code=1))
    (found,) = [f for f in said["findings"] if all(w in json.dumps(f) for w in words)]
    assert found["fix"]
    return found


def test_what_is_whole_has_no_findings(place):
    before = place.files()
    said = place.say("verify", PROGRAM)
    assert "task 0/0: lease and changelog at commit" in said
    assert said.count("equals the log at commit") == 2
    assert "0 findings" in said
    assert place.files() == before


def test_a_store_that_differs_by_one_entry_is_found(place):
    store = RocksStore(place.state / "care" / "0" / "0-0", cache_bytes=0)
    name = next(n for n in store.names() if n == "count/values")
    from streams.core.store import StoreSpec

    store.map(StoreSpec(name)).put(b"c1", b"\x81\xa1n\x07")
    store.commit(store.mark)
    store.close()
    found = finding(place, "another value at the key b'c1'")
    assert "0-0" in found["where"]


def test_a_store_that_is_behind_is_compared_with_the_log_as_it_was_then(place):
    kept = place.path / "kept"
    shutil.copytree(place.state, kept)
    place.feed()
    place.work()
    shutil.rmtree(place.state)
    shutil.copytree(kept, place.state)
    assert "0 findings" in place.say("verify", PROGRAM)
    store = RocksStore(place.state / "care" / "0" / "0-0", cache_bytes=0)
    from streams.core.store import StoreSpec

    store.map(StoreSpec("count/values")).put(b"c2", None)
    store.commit(Mark(store.mark.sequence, store.mark.topic_id, store.mark.offset, store.mark.position))
    store.close()
    finding(place, "lacks the key b'c2'")


def test_a_lease_that_is_ahead_of_the_changelog_is_found(place):
    with EmbeddedLog(place.path / "log") as log:
        claim = log.claim("care", 0)
        claim.write(Lease("0", False, "f", 99))
    finding(place, "its lease says commit 99")


def test_moved_positions_are_found(place):
    with EmbeddedLog(place.path / "log") as log:
        log.writer("care", "x").commit({TopicPartition("payments", 0): Committed(2)}, {})
    finding(place, "the group's position is 2, the changelog's 6")


def test_a_topic_that_is_gone_is_found(place):
    with EmbeddedLog(place.path / "log") as log:
        log.delete(["care-0-changelog"])
    said = json.loads(place.say("verify", PROGRAM, "--json", code=1))
    assert {f["where"] for f in said["findings"]} == {"topic care-0-changelog", "task 0/0"}


# ---- savepoints


def test_taking_a_savepoint_leaves_nothing_in_the_state_directory(place):
    savepoint = ("savepoint", "create", "one", PROGRAM, "--checkpoints", str(place.path / "snapshots"))
    with EmbeddedLog(place.path / "log") as log:
        worker = make_worker(app, place.settings(), log, note=lambda text, *_, **__: None)
        worker.start()
        while not worker.complete:
            worker.turn()
        worker.close()  # killed: it holds its tasks
    assert "are held by workers: 0" in place.say(*savepoint, code=1)
    assert [p.name for p in (place.state / "care").iterdir()] == ["0"]
    place.say(*savepoint, "--takeover")
    assert [p.name for p in (place.state / "care").iterdir()] == ["0"]
    place.say(*savepoint, code=1)
    assert [p.name for p in (place.state / "care").iterdir()] == ["0"]
    assert "taking-a-savepoint" not in place.say("verify", PROGRAM)


# ---- reset


def test_without_yes_nothing_is_done(place):
    before = place.files()
    said = place.say("reset", PROGRAM)
    assert "delete      topic care-0-changelog" in said
    assert "nothing was done" in said
    assert place.files() == before
    assert "0 findings" in place.say("verify", PROGRAM)
    place.say("reset", PROGRAM, "--yes", "--dry-run", code=2)


def test_after_a_reset_the_program_starts_anew_and_its_outputs_stay(place):
    first = place.read("nth")
    said = place.say("reset", PROGRAM, "--yes", "--wait", "0")
    assert "fenced slot 0" in said
    assert "not touched: minutes, nth, same, times, care-dead" in said
    assert place.say("reset", PROGRAM, "--yes").startswith("there is nothing of care")
    assert place.files() == {}
    place.work()
    assert place.read("nth") == first + first
    assert "0 findings" in place.say("verify", PROGRAM)


def test_a_worker_that_was_stopped_cannot_commit_after_a_reset(place):
    from streams.core.errors import Fenced

    with EmbeddedLog(place.path / "log") as stopped:
        writer = stopped.writer("care", "0")  # a process that hangs, and whose membership has ended
        writer.append(Produced("nth", 0, [None], [b"late"], 0))
        place.say("reset", PROGRAM, "--yes", "--wait", "0")
        with pytest.raises(Fenced):
            writer.commit({}, {0: Lease("0", True, "f", 1)})
    assert b"late" not in place.read("nth")


def test_a_reset_that_was_interrupted_is_done_again(place, monkeypatch):
    def fails(self, topics):
        raise OSError("the cable")

    with monkeypatch.context() as broken:
        broken.setattr(EmbeddedLog, "delete", fails)
        words = ["reset", PROGRAM, "--yes", "--log-dir", str(place.path / "log"), "--state-dir", str(place.state)]
        done = CliRunner().invoke(assembled(), words)
        assert isinstance(done.exception, OSError)
    place.say("reset", PROGRAM, "--yes", "--wait", "0")
    place.work()
    assert "0 findings" in place.say("verify", PROGRAM)


def test_snapshots_are_deleted_if_wanted(place):
    location = place.path / "snapshots"
    settings = str(snapshots_of(place, location))
    assert "keep        snapshots in" in place.say("reset", PROGRAM, "--settings", settings)
    place.say("reset", PROGRAM, "--yes", "--wait", "0", "--snapshots", "--settings", settings)
    assert not [f for f in location.rglob("*") if f.is_file()]
    place.say("reset", PROGRAM, "--snapshots", code=2)


def test_savepoints_outlive_a_reset(place):
    location = place.path / "snapshots"
    settings = ("--settings", str(snapshots_of(place, location)))
    place.say("savepoint", "create", "one", PROGRAM, *settings)
    saved = sorted(f for f in (location / "care" / "savepoints").rglob("*") if f.is_file())
    place.say("reset", PROGRAM, "--yes", "--wait", "0", "--snapshots", *settings)
    assert sorted(f for f in location.rglob("*") if f.is_file()) == saved
    assert saved
    done = CliRunner().invoke(
        assembled(), ["savepoint", "restore", "one", PROGRAM, "--log-dir", str(place.path / "log"), *settings]
    )
    assert "begins with savepoint 'one'" in done.output, done.output


def test_a_store_that_is_looked_at_may_be_opened_meanwhile(place):
    """A worker that is given the task while `verify` replays its changelog would end, again and again."""
    [store] = [s for s in local_stores(place.state, "care") if s.task == "0/0"]
    opens = (
        "import sys; from pathlib import Path; from streams.state.rocksdb import RocksStore\n"
        "print(RocksStore(Path(sys.argv[1]), cache_bytes=1 << 20).mark.sequence)"
    )
    with copy_of(store.directory) as copy:
        opened = subprocess.run([sys.executable, "-c", opens, store.directory], capture_output=True, text=True)
        assert opened.stdout == f"{copy.mark.sequence}\n", opened.stderr


def _left(place, seconds=2 * 3600):
    """What a look has left that was killed so long ago."""
    [store] = [s for s in local_stores(place.state, "care") if s.task == "0/0"]
    dies = (
        "import os, signal, sys; from pathlib import Path; from streams.runtime.offline import copy_of\n"
        "with copy_of(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", dies, store.directory]).returncode == -signal.SIGKILL
    [left] = _copies(store)
    os.utime(left, (time.time() - seconds,) * 2)
    return store


def _copies(store):
    return list(store.directory.parent.glob(".looked-at-*"))


@pytest.mark.parametrize("who", ["a look", "a worker", "a reset"])
def test_what_a_killed_look_has_left_is_deleted(place, who):
    """Its hard links hold the space of tables that the store has given up."""
    store = _left(place)
    if who == "a look":
        place.say("state", "stats", PROGRAM)
    elif who == "a worker":
        place.work()
    else:
        place.say("reset", PROGRAM, "--yes")
    assert _copies(store) == []


def test_a_copy_that_is_young_or_looked_at_is_not_deleted(place):
    store = _left(place, 0)
    with copy_of(store.directory):
        assert len(_copies(store)) == 2
        for copy in _copies(store):
            os.utime(copy, (0, 0))
        place.say("state", "stats", PROGRAM)
        assert len(_copies(store)) == 1
    assert _copies(store) == []


def test_a_location_that_is_not_there_is_told_and_not_made(place):
    wrong = place.path / "snapshost"
    for words in (
        ("verify", PROGRAM),
        ("reset", PROGRAM, "--snapshots"),
        ("state", "stats", PROGRAM, "--from-changelog"),
    ):
        assert "there is no such checkpoint location" in place.say(*words, "--checkpoints", str(wrong), code=1)
    for words in (("list",), ("show", "one"), ("delete", "one")):
        done = CliRunner().invoke(assembled(), ["savepoint", *words, "--app", "care", "--checkpoints", str(wrong)])
        assert done.exit_code == 1
        assert "there is no such checkpoint location" in done.output
    assert not wrong.exists()
