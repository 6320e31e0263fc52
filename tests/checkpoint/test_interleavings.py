"""Two workers that both take a task for theirs, and a collection by hand, each stopped before any request for as long
as the schedule likes: no snapshot that was finished ever lacks an object. Rules left out are caught."""

import random
import threading

import pytest

from streams.checkpoint import collect as collect_module
from streams.checkpoint import snapshotter as snapshotter_module
from streams.checkpoint.collect import collect, verify
from streams.checkpoint.location import Location
from streams.checkpoint.manifest import File, list_manifests, object_key
from streams.checkpoint.snapshotter import Snapshotter
from streams.checkpoint.sweep import sweep
from streams.core.clock import ManualClock
from tests.checkpoint.support import APP, TASK, copy_of, finish, job, make_files_older

HOUR = 3600.0
CONTENTS = [b"%d" % n * (n + 1) for n in range(6)]  # few, so that content comes back that was not needed any more


class Gate:
    """A location whose every request waits until the schedule lets it go on.

    With `remote` it passes for one that is no directory: then young objects are used again.
    """

    def __init__(self, schedule: "Schedule", location: Location, *, remote: bool) -> None:
        self._schedule, self._location = schedule, location
        self.url, self.directory = location.url, None if remote else location.directory

    def __getattr__(self, name):
        call = getattr(self._location, name)

        def gated(*arguments):
            self._schedule.wait(self)
            return call(*arguments)

        return gated


class Schedule:
    """Lets one of those that wait go on at a time, and time pass in between."""

    def __init__(self, seed: int, location: Location) -> None:
        self.random, self.location, self.clock = random.Random(seed), location, ManualClock()
        self._changed = threading.Condition()
        self._running: set[object] = set()
        self._waiting: set[object] = set()
        self._threads: list[threading.Thread] = []
        self.steps = 0

    def add(self, gate: Gate, work) -> None:
        def run() -> None:
            try:
                work()
            finally:
                with self._changed:
                    self._running.discard(gate)
                    self._changed.notify_all()

        self._running.add(gate)
        self._threads.append(threading.Thread(target=run))

    def wait(self, gate: Gate) -> None:
        with self._changed:
            self._running.discard(gate)
            self._waiting.add(gate)
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: gate not in self._waiting, 120)

    def run(self, check, gates: list[Gate]) -> None:
        for thread in self._threads:
            thread.start()
        while True:
            with self._changed:
                assert self._changed.wait_for(lambda: not self._running, 120)
                if not self._waiting:
                    break
                check()
                if self.random.random() < 0.06:
                    self.pass_time(self.random.choice([0.5, 2, 30]) * HOUR)
                go = self.random.choice([gate for gate in gates if gate in self._waiting])
                self._waiting.remove(go)
                self._running.add(go)
                self._changed.notify_all()
                self.steps += 1
        for thread in self._threads:
            thread.join()

    def pass_time(self, seconds: float) -> None:
        self.clock.sleep(seconds)
        make_files_older(self.location.directory, seconds)


def broken(seed: int, directory) -> str:
    """What was found wrong in the schedule of this seed; empty if nothing."""
    location = Location(str(directory / "location"))
    schedule, finished, found, swept = Schedule(seed, location), {}, [], [0]
    remote = bool(seed % 2)

    def uploads(gate: Gate, name: str, sequences, rnd: random.Random) -> None:
        snapshotter = Snapshotter(gate, APP, keep=1, clock=schedule.clock, sweep_every=0.0)
        for sequence in sequences:
            files = {f"{n}.sst": CONTENTS[n] for n in rnd.sample(range(len(CONTENTS)), 2)}
            assert snapshotter.submit(job(copy_of(directory / f"{name}-{sequence}", files), sequence))
            outcome = finish(snapshotter)
            if outcome.number is not None:
                finished[outcome.number] = name
                swept[0] += outcome.swept.deleted if outcome.swept is not None else 0
        assert snapshotter.close()

    def check() -> None:
        for listed in list_manifests(location, APP, TASK):
            if listed.number in finished and not found:
                missing = [f for f in listed.manifest.files if location.read(object_key(APP, TASK, f)) is None]
                found.extend(f"step {schedule.steps}: snapshot {listed.number} lacks {f.object}" for f in missing)

    gates = [Gate(schedule, location, remote=remote) for _ in range(3)]
    owner, zombie, hand = gates
    schedule.add(owner, lambda: uploads(owner, "owner", range(11, 17), random.Random(seed)))
    schedule.add(zombie, lambda: uploads(zombie, "zombie", range(1, 7), random.Random(seed + 1)))
    schedule.add(hand, lambda: [collect(hand, APP) for _ in range(6)])
    schedule.run(check, gates)
    return "; ".join(found or map(str, verify(location, APP)))


def schedules(first: int, last: int, directory) -> str:
    for seed in range(first, last):
        (directory / f"{seed}").mkdir()
        if what := broken(seed, directory / f"{seed}"):
            return f"seed {seed}: {what}"
    return ""


def test_no_finished_snapshot_ever_lacks_an_object(tmp_path):
    assert schedules(0, 8, tmp_path) == ""


MUTANTS = {
    "an object is named by its content alone": lambda patch: patch.setattr(
        File, "object", property(lambda file: file.hash)
    ),
    "an upload may take as long as it likes": lambda patch: patch.setattr(snapshotter_module, "LONGEST", 1e9),
    "what is an hour old goes": lambda patch: patch.setattr(
        collect_module, "sweep", lambda *of, **more: sweep(*of, **{**more, "min_age": HOUR})
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_rule_that_is_left_out_is_caught(tmp_path, mutant, monkeypatch):
    MUTANTS[mutant](monkeypatch)
    assert schedules(0, 60, tmp_path) != ""
