"""What the embedded log promises beyond the contract (tests/contract/test_log.py): processes, kills, damage, speed."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.core.clock import ManualClock
from streams.core.errors import (
    DiskFull,
    Fenced,
    LogError,
    LogLocked,
    LogUnreachable,
    SlotTaken,
    TopicMismatch,
    TopicMissing,
)
from streams.core.record import Produced, TopicPartition
from streams.log.base import Committed, TopicSpec
from streams.log.embedded import EmbeddedLog
from streams.log.embedded_batches import MOST_BYTES, MOST_RECORDS
from streams.log.embedded_group import shares
from streams.log.embedded_process import birth, gone
from streams.protocol import Lease

ROOT = Path(__file__).parent.parent.parent
CHILD = Path(__file__).parent / "embedded_child.py"
TOPIC, PARTITIONS, APP = "numbers", 3, "app"
PATIENCE = 60.0


class Child:
    """A process of embedded_child.py."""

    def __init__(self, *arguments: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "POLARS_MAX_THREADS": "1"}
        command = [sys.executable, str(CHILD), *arguments]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.pid = self.process.pid

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def wait_for(self, text: str) -> None:
        while (line := self.line()) != text:
            assert line, "the process ended"

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def tell(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{text}\n")
        self.process.stdin.flush()

    def end(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
            self.process.communicate()


@pytest.fixture
def start():
    children: list[Child] = []

    def begin(*arguments: str) -> Child:
        children.append(Child(*arguments))
        return children[-1]

    yield begin
    for child in children:
        child.end()


@pytest.fixture
def log(tmp_path):
    with EmbeddedLog(tmp_path, patience=5.0) as made:
        made.create([TopicSpec(TOPIC, PARTITIONS, {})])
        yield made


def numbers(*values: int, partition: int = 0) -> Produced:
    return Produced(TOPIC, partition, [None] * len(values), [str(v).encode() for v in values], 0)


def write(log: EmbeddedLog, *batches: Produced) -> None:
    with closing(log.writer(APP, "filler")) as writer:
        for batch in batches:
            writer.append(batch)
        writer.commit({}, {})


def read(log: EmbeddedLog, start: dict[TopicPartition, int]) -> dict[TopicPartition, list[bytes | None]]:
    """All that is there now, checked to be dense."""
    return read_between(log, start, log.ends(list(start)))


def read_between(log, start, ends) -> dict[TopicPartition, list[bytes | None]]:
    found: dict[TopicPartition, list[bytes | None]] = {source: [] for source in start}
    with closing(log.reader()) as reader:
        reader.assign(start)
        while any(start[source] + len(values) < ends[source] for source, values in found.items()):
            runs = reader.poll(5000, 0.0)
            assert runs
            for run in runs:
                first = start[run.source] + len(found[run.source])
                assert list(run.offsets()) == list(range(first, first + len(run)))
                found[run.source] += run.values()
    return {source: values[: ends[source] - start[source]] for source, values in found.items()}


# ---- processes that are killed


def test_kills_leave_no_partial_commit_and_no_gap(log, tmp_path, start):
    draw, kills = random.Random(7), 20
    slots, pids = {"w0": 0, "w1": 1, "w2": 2}, {}
    appenders = start("appenders", str(tmp_path))
    appenders.wait_for("listens")

    def begin(slot: str, seed: int) -> None:
        appenders.tell(f"{slot} {slots[slot]} {seed}")
        pids[slot] = 0

    def kill(slot: str) -> None:
        while not pids[slot]:
            name, pid = appenders.line().split()
            pids[name] = int(pid)
        time.sleep(draw.uniform(0.0, 0.1))
        born = birth(pids[slot])
        os.kill(pids[slot], signal.SIGKILL)
        while not gone(pids[slot], born):
            time.sleep(0.001)

    for slot in slots:
        begin(slot, 0)
    everywhere = [TopicPartition(TOPIC, p) for p in range(PARTITIONS)]
    position, seen = dict.fromkeys(everywhere, 0), dict.fromkeys(slots, 0)
    for seed in range(1, kills):
        slot = draw.choice(list(slots))
        kill(slot)
        leases = log.leases(APP, list(slots.values()))
        ends = log.ends(everywhere)  # of one moment, after that of the leases
        told = whole_commits(read_between(log, position, ends), seen)
        for each, task in slots.items():
            lease = leases[task]
            assert (lease.sequence if lease else 0) <= told[each]
            assert each != slot or told[each] == (lease.sequence if lease else 0)
        position, seen = ends, told
        begin(slot, seed)
    for slot in slots:
        kill(slot)
    seen = whole_commits(read(log, position), seen)
    assert min(seen.values()) > kills
    for slot, task in slots.items():
        assert log.leases(APP, [task]) == {task: Lease(slot, True, "f", seen[slot])}
        done = TopicPartition("in", task)
        assert log.committed(APP, [done]) == {done: Committed(seen[slot])}


def whole_commits(found, seen: dict[str, int]) -> dict[str, int]:
    """The last commit of each slot, all after those seen being there: each whole, in each partition, in order."""
    last = {}
    for slot in seen:
        numbers_in = []
        for values in found.values():
            mine = [v for v in values if v.startswith(f"{slot} ".encode())]
            counts = Counter(mine)
            assert mine == sorted(mine, key=lambda v: int(v.split()[1]))
            assert all(count == int(v.split()[2]) for v, count in counts.items())
            numbers_in.append([int(v.split()[1]) for v in counts])
        last[slot] = seen[slot] + len(numbers_in[0])
        assert numbers_in == [list(range(seen[slot] + 1, last[slot] + 1))] * PARTITIONS
    return last


def test_a_dead_members_tasks_move_at_once(tmp_path, start):
    log = EmbeddedLog(tmp_path, session=3600.0)  # so it is not the heartbeat that tells
    child = start("member", str(tmp_path), "w1", "4", "3600")
    child.wait_for("has [0, 1, 2, 3]")
    group = log.group(APP, "w2", 4)
    poll_until(group, {2, 3})
    assert group.members == 2
    child.signal(signal.SIGKILL)  # and it is not waited for: it stays as a zombie of the system
    poll_until(group, {0, 1, 2, 3})
    assert group.members == 1
    log.close()


def test_a_stopped_member_loses_its_tasks_and_is_told(tmp_path, start):
    log = EmbeddedLog(tmp_path, session=1.0)
    child = start("member", str(tmp_path), "w1", "2", "1")
    child.wait_for("has [0, 1]")
    child.signal(signal.SIGSTOP)
    group = log.group(APP, "w2", 2)
    poll_until(group, {0, 1})
    child.signal(signal.SIGCONT)
    child.wait_for("lost [0, 1]")
    revoked: list[tuple[frozenset[int], bool]] = []
    poll_until(group, {0}, lambda tasks, lost: revoked.append((tasks, lost)))
    assert revoked == [(frozenset({1}), False)]
    child.wait_for("has [1]")
    log.close()


def poll_until(group, tasks: set[int], on_revoke=lambda tasks, lost: None) -> None:
    deadline = time.monotonic() + PATIENCE
    while (now := group.poll(0.05, on_revoke)) != tasks:
        assert time.monotonic() < deadline, sorted(now)


def test_one_slot_is_for_one_living_process(log, tmp_path, start):
    child = start("member", str(tmp_path), "w1", "2", "10")
    child.wait_for("has [0, 1]")
    with pytest.raises(SlotTaken, match=rf"'w1'.*process {child.pid} \(python"):
        log.group(APP, "w1", 2)
    log.group("other", "w1", 2).leave()
    child.end()
    group = log.group(APP, "w1", 2)
    assert group.poll(0.0, fail) == {0, 1}


def test_the_one_whose_slot_was_taken_meanwhile_is_told(tmp_path):
    clock = ManualClock(1_000_000)
    with EmbeddedLog(tmp_path, clock=clock) as log:
        old = log.group(APP, "w1", 2)
        assert old.poll(0.0, fail) == {0, 1}
        new = log.group(APP, "w1", 2)  # a restart within one process
        assert new.poll(0.0, fail) == {0, 1}
        clock.sleep(1.0)
        lost: list[tuple[frozenset[int], bool]] = []
        with pytest.raises(SlotTaken, match="this one"):
            old.poll(0.0, lambda tasks, late: lost.append((tasks, late)))
        assert lost == [(frozenset({0, 1}), True)]


def fail(tasks: frozenset[int], lost: bool) -> None:
    raise AssertionError(f"nothing was to be revoked: {sorted(tasks)}")


# ---- the group, with a clock moved by hand


@given(st.integers(0, 12), st.dictionaries(st.sampled_from("abcdefg"), st.frozensets(st.integers(0, 14)), min_size=1))
def test_shares_are_even_whole_and_sticky(tasks, held):
    found = shares(tasks, held)
    assert found.keys() == held.keys()
    assert sorted(t for share in found.values() for t in share) == list(range(tasks))
    assert {len(share) for share in found.values()} <= {tasks // len(held), -(-tasks // len(held))}
    assert shares(tasks, found) == found
    distinct: dict[str, frozenset[int]] = {}
    for slot, share in held.items():
        distinct[slot] = share.intersection(range(tasks)).difference(*distinct.values())
    found = shares(tasks, distinct)
    for slot, share in distinct.items():  # each keeps all it has, or is full with what it had
        assert share <= found[slot] or found[slot] <= share
    assert shares(tasks, dict(reversed(held.items()))) == shares(tasks, held)


@pytest.mark.parametrize("seed", range(6))
def test_members_that_come_go_and_stall_never_overlap_while_in_time(tmp_path, seed):
    """Random schedules: tasks are with one member at a time, as long as each polls within its session."""
    draw, clock, tasks = random.Random(seed), ManualClock(1_000_000), 7
    with EmbeddedLog(tmp_path, clock=clock, session=10.0) as log:
        groups, has, polled = {}, {}, {}

        def revoke(slot: str):
            def on_revoke(given: frozenset[int], lost: bool) -> None:
                assert lost == (clock.monotonic() - polled[slot] > 10.0)
                assert given <= has[slot]
                has[slot] -= given

            return on_revoke

        def poll(slot: str) -> None:
            has[slot] = groups[slot].poll(0.0, revoke(slot))
            polled[slot] = clock.monotonic()
            in_time = [s for s in groups if clock.monotonic() - polled[s] <= 10.0]
            assert len(frozenset().union(*(has[s] for s in in_time))) == sum(len(has[s]) for s in in_time)

        for _ in range(300):
            slot = draw.choice("abcd")
            step = draw.random()
            if slot not in groups:
                groups[slot], has[slot], polled[slot] = log.group(APP, slot, tasks), frozenset(), clock.monotonic()
            elif step < 0.05:
                groups.pop(slot).leave()
            elif step < 0.08:
                clock.sleep(11.0)  # all have stalled; whoever looks first takes over
                for each in list(groups):
                    poll(each)
            else:
                poll(slot)
            clock.sleep(draw.choice([0.01, 0.1, 0.5]))
        for _ in range(6):
            for slot in groups:
                poll(slot)
            clock.sleep(0.2)
        assert sorted(t for slot in groups for t in has[slot]) == list(range(tasks))
        assert max(map(len, has.values())) - min(len(has[s]) for s in groups) <= 1
        assert {g.members for g in groups.values()} == {len(groups)}


def test_an_error_while_giving_up_keeps_the_tasks(tmp_path):
    clock = ManualClock(1_000_000)
    with EmbeddedLog(tmp_path, clock=clock) as log:
        first = log.group(APP, "w1", 2)
        first.poll(0.0, fail)
        second = log.group(APP, "w2", 2)
        clock.sleep(1.0)

        def refuse(tasks: frozenset[int], lost: bool) -> None:
            raise Fenced("by somebody")

        with pytest.raises(Fenced):
            first.poll(0.0, refuse)
        assert second.poll(0.0, fail) == frozenset()
        clock.sleep(1.0)
        assert first.poll(0.0, lambda tasks, lost: None) == {0}
        clock.sleep(1.0)
        assert second.poll(0.0, fail) == {1}


def test_heartbeats_are_written_at_most_once_a_second(tmp_path):
    clock = ManualClock(1_000_000)
    with EmbeddedLog(tmp_path, clock=clock) as log, sqlite3.connect(tmp_path / "log.db") as watcher:
        group = log.group(APP, "w1", 2)
        group.poll(0.0, fail)
        versions = set()
        for _ in range(50):
            clock.sleep(0.1)
            group.poll(0.0, fail)
            versions.add(watcher.execute("PRAGMA data_version").fetchone())
        assert 4 <= len(versions) <= 6
    watcher.close()


def test_a_process_is_told_from_a_later_one_of_its_number(start):
    with subprocess.Popen(["sleep", "600"]) as process:
        born = birth(process.pid)
        assert not gone(process.pid, born)
        assert gone(process.pid, born + "1")
        assert not gone(process.pid, "another-namespace 1")
        process.kill()
        while not gone(process.pid, born):
            time.sleep(0.01)
    assert gone(process.pid, born)


# ---- reading and writing


def test_large_commits_are_cut_into_batches(log, tmp_path):
    small = [b"%d" % i for i in range(120_000)]
    large = [bytes([i]) * 300_000 for i in range(10)]
    write(
        log,
        Produced(TOPIC, 0, [None] * len(small), small, 0),
        Produced(TOPIC, 1, [None] * len(large), large, 0),
        Produced(TOPIC, 2, [None], [b"x" * 5_000_000], 0),
    )
    with closing(sqlite3.connect(tmp_path / "log.db")) as file:
        rows = file.execute("SELECT partition_id, records FROM batches ORDER BY 1, base_offset").fetchall()
    assert all(count <= MOST_RECORDS for _, count in rows)
    assert [count for line, count in rows if line == 2] == [3, 3, 3, 1]
    assert MOST_BYTES // 300_000 == 3
    assert read(log, dict.fromkeys([TopicPartition(TOPIC, p) for p in range(3)], 0)) == {
        TopicPartition(TOPIC, 0): small,
        TopicPartition(TOPIC, 1): large,
        TopicPartition(TOPIC, 2): [b"x" * 5_000_000],
    }


def test_trim_deletes_whole_batches_and_remembers_the_offset(log, tmp_path):
    partition = TopicPartition(TOPIC, 0)
    for first in range(0, 100, 10):
        write(log, numbers(*range(first, first + 10)))
    log.trim({partition: 25})
    with closing(sqlite3.connect(tmp_path / "log.db")) as file:
        assert file.execute("SELECT min(base_offset), count(*) FROM batches").fetchone() == (20, 8)
    assert log.starts([partition]) == {partition: 25}
    assert read(log, {partition: 25})[partition][:2] == [b"25", b"26"]
    log.trim({partition: 1_000_000})
    assert log.starts([partition]) == log.ends([partition]) == {partition: 100}
    write(log, numbers(100))
    assert read(log, {partition: 100})[partition] == [b"100"]


def test_a_reader_overtaken_by_a_trim_is_told(log):
    partition = TopicPartition(TOPIC, 0)
    write(log, numbers(*range(10)))
    write(log, numbers(*range(10, 20)))
    reader = log.reader()
    reader.assign({partition: 0})
    assert len(reader.poll(5, 0.0)[0]) == 5
    log.trim({partition: 15})
    with pytest.raises(LogError, match=rf"offset 5 of {TOPIC}/0 does not exist"):
        reader.poll(5, 0.0)
    reader.assign({partition: 21})
    with pytest.raises(LogError, match=r"offset 21[^0-9]"):
        reader.poll(5, 0.0)


def test_no_partition_waits_behind_a_busy_one(log):
    everywhere = [TopicPartition(TOPIC, p) for p in range(3)]
    write(log, numbers(*range(1000)), numbers(1, partition=1), numbers(*range(1000), partition=2))
    reader = log.reader()
    reader.assign(dict.fromkeys(everywhere, 0))
    assert {run.source for run in reader.poll(90, 0.0)} == set(everywhere)
    found = Counter(run.source for _ in range(10) for run in reader.poll(1, 0.0))
    assert found == {everywhere[0]: 5, everywhere[2]: 5}


def test_large_values_do_not_fill_the_memory(log):
    partition = TopicPartition(TOPIC, 0)
    for _ in range(12):
        write(log, Produced(TOPIC, 0, [None] * 4, [random.randbytes(1_000_000) for _ in range(4)], 0))
    reader = log.reader()
    reader.assign({partition: 0})
    assert len(reader.poll(10_000, 0.0)[0]) == 16
    assert sum(len(run) for _ in range(2) for run in reader.poll(10_000, 0.0)) == 32


def test_a_writer_that_failed_refuses(log):
    writer = log.writer(APP, "w1")
    writer.append(numbers(1))
    with pytest.raises(ValueError, match="not a task"):
        writer.commit({}, {"not a task": None})
    assert writer.pending == 0
    for _ in range(2):
        with pytest.raises(LogError, match="open"):
            writer.append(numbers(2))
        with pytest.raises(LogError, match="open"):
            writer.commit({}, {})
    writer.abort()
    writer.close()
    write(log, numbers(3))
    assert read(log, {TopicPartition(TOPIC, 0): 0}) == {TopicPartition(TOPIC, 0): [b"3"]}


def test_what_cannot_be_stored_is_refused_with_a_reason(log):
    writer = log.writer(APP, "w1")
    with pytest.raises(TopicMissing, match="did you mean 'numbers'"):
        writer.append(Produced("nubmers", 0, [None], [b"x"], 0))
    with pytest.raises(TopicMismatch, match=r"has 3 partitions.*no partition 3"):
        writer.append(numbers(1, partition=3))
    with pytest.raises(TopicMismatch, match="no partition -1"):
        log.reader().assign({TopicPartition(TOPIC, -1): 0})
    with pytest.raises(ValueError, match="equally many"):
        writer.append(Produced(TOPIC, 0, [None], [b"x", b"y"], 0))
    with pytest.raises(LogError, match="longer than 2048 bytes"):
        writer.commit({TopicPartition(TOPIC, 0): Committed(1, "x" * 2049)}, {})
    with pytest.raises(TopicMismatch, match="at least one partition"):
        log.create([TopicSpec("none", 0, {})])
    writer.append(numbers(1))
    writer.commit({}, {})
    assert log.ends([TopicPartition(TOPIC, 0)]) == {TopicPartition(TOPIC, 0): 1}


def test_what_is_read_for_a_decision_waits_for_a_commit_in_progress(log, tmp_path):
    begun, partition = threading.Event(), TopicPartition(TOPIC, 0)

    def slowly() -> None:
        with EmbeddedLog(tmp_path) as other, other._file.writing():
            begun.set()
            time.sleep(0.3)
            other._file.run("INSERT INTO leases VALUES (?, 0, 7, ?)", (APP, Lease("w1", True, "f", 7).encode()))
            other._file.run("UPDATE partitions SET end_offset = 9 WHERE topic = ?", (TOPIC,))

    thread = threading.Thread(target=slowly)
    thread.start()
    assert begun.wait(PATIENCE)
    assert log.leases(APP, [0]) == {0: Lease("w1", True, "f", 7)}
    assert log.ends([partition]) == {partition: 9}
    thread.join()


def test_one_log_serves_threads(log):
    failures: list[BaseException] = []

    def work(slot: str, partition: int) -> None:
        try:
            with closing(log.writer(APP, slot)) as writer:
                for number in range(50):
                    writer.append(numbers(number, partition=partition))
                    writer.commit({}, {})
                    log.leases(APP, [0])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(f"w{p}", p)) for p in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    expected = {TopicPartition(TOPIC, p): [str(n).encode() for n in range(50)] for p in range(3)}
    assert read(log, dict.fromkeys(expected, 0)) == expected


def test_speed(log, capsys):
    """Printed, for those who look; a shared machine allows no bar."""
    count, value = 300_000, b'{"card_id":"c1234","amount":1234,"at":1700000000000}'
    keys, values = [b"c%d" % (i % 1000) for i in range(10_000)], [value] * 10_000
    begun = time.perf_counter()
    with closing(log.writer(APP, "w1")) as writer:
        for _ in range(count // 10_000):
            writer.append(Produced(TOPIC, None, keys, values, 1_700_000_000_000))
            writer.commit({}, {})
    written = time.perf_counter()
    reader = log.reader()
    reader.assign({TopicPartition(TOPIC, p): 0 for p in range(PARTITIONS)})
    done = 0
    while done < count:
        done += sum(len(run.values()) for run in reader.poll(10_000, 0.0))
    read_rate, write_rate = count / (time.perf_counter() - written), count / (written - begun)
    with capsys.disabled():
        print(f"\nembedded log: {write_rate:,.0f} records/s written, {read_rate:,.0f} read")


# ---- what can be wrong with the file


def test_a_lock_held_for_too_long_names_its_holder(tmp_path, start):
    with EmbeddedLog(tmp_path, patience=0.3) as log:
        log.create([TopicSpec(TOPIC, PARTITIONS, {})])
        write(log, numbers(0))
        writer = log.writer(APP, "w1")
        child = start("hold", str(tmp_path))
        child.wait_for("holds")
        writer.append(numbers(1))
        with pytest.raises(LogLocked, match=rf"process {child.pid} \(python\S*\)") as caught:
            writer.commit({}, {})
        assert f"kill -9 {child.pid}" in caught.value.fix
        child.signal(signal.SIGSTOP)
        with pytest.raises(LogLocked, match="stopped"):
            log.fence(APP, "w1")
        partition = TopicPartition(TOPIC, 0)
        assert read_between(log, {partition: 0}, {partition: 1}) == {partition: [b"0"]}  # readers go on
        child.end()
        write(log, numbers(2))
        assert read(log, {partition: 0}) == {partition: [b"0", b"2"]}


def test_where_the_holder_is_not_told_the_members_are(tmp_path, start, monkeypatch):
    monkeypatch.setattr("streams.log.embedded_file.lock_holders", lambda path: [])
    with EmbeddedLog(tmp_path, patience=0.2) as log:
        log.group(APP, "w1", 1)
        start("hold", str(tmp_path)).wait_for("holds")
        with pytest.raises(LogLocked, match=f"used by process {os.getpid()}"):
            log.fence(APP, "w1")


def test_a_damaged_file_says_so(tmp_path):
    (tmp_path / "log.db").write_bytes(b"this was a log" * 1000)
    with pytest.raises(LogError, match="damaged") as caught:
        EmbeddedLog(tmp_path)
    assert caught.value.where == str(tmp_path / "log.db")
    assert "backup" in caught.value.fix


def test_damaged_pages_are_found(tmp_path):
    with EmbeddedLog(tmp_path) as log:
        log.create([TopicSpec(TOPIC, 1, {})])
        write(log, Produced(TOPIC, 0, [None] * 1000, [random.randbytes(100) for _ in range(1000)], 0))
    data = bytearray((tmp_path / "log.db").read_bytes())
    for position in range(8192, len(data)):
        data[position] ^= 0x5A
    (tmp_path / "log.db").write_bytes(data)
    with pytest.raises(LogError, match="damaged"), EmbeddedLog(tmp_path) as log:
        read(log, {TopicPartition(TOPIC, 0): 0})


def test_damaged_records_are_found(tmp_path):
    with EmbeddedLog(tmp_path) as log:
        log.create([TopicSpec(TOPIC, 1, {})])
        write(log, Produced(TOPIC, 0, [None] * 9, [b"needle in a haystack"] + [random.randbytes(900)] * 8, 0))
    data = (tmp_path / "log.db").read_bytes()
    assert b"needle" in data
    (tmp_path / "log.db").write_bytes(data.replace(b"needle", b"noodle"))
    with EmbeddedLog(tmp_path) as log, pytest.raises(LogError, match=rf"offset 0 of {TOPIC}/0, checksum"):
        read(log, {TopicPartition(TOPIC, 0): 0})


def test_another_programs_database_is_left_alone(tmp_path):
    with closing(sqlite3.connect(tmp_path / "log.db")) as other:
        other.execute("CREATE TABLE recipes (name TEXT)")
    with pytest.raises(LogError, match="not an embedded log"):
        EmbeddedLog(tmp_path)
    with closing(sqlite3.connect(tmp_path / "log.db")) as other:
        assert other.execute("SELECT name FROM sqlite_master").fetchall() == [("recipes",)]


def test_a_later_format_is_refused(tmp_path):
    EmbeddedLog(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / "log.db")) as file:
        file.execute("PRAGMA user_version = 2")
    with pytest.raises(LogError, match="has format 2, this version of streams reads format 1"):
        EmbeddedLog(tmp_path)


def test_a_full_disk_is_told_and_nothing_half_written_remains(log, tmp_path):
    partition = TopicPartition(TOPIC, 0)
    write(log, numbers(0))
    pages = log._file.run("PRAGMA page_count")[0][0]
    log._file.run(f"PRAGMA max_page_count = {pages + 20}")
    writer = log.writer(APP, "w1")
    writer.append(numbers(1))
    writer.append(Produced(TOPIC, 1, [None], [random.randbytes(1_000_000)], 0))
    with pytest.raises(DiskFull) as caught:
        writer.commit({partition: Committed(1)}, {0: Lease("w1", True, "f", 1)})
    assert caught.value.where == str(tmp_path / "log.db")
    assert log.committed(APP, [partition]) == {partition: None}
    assert log.leases(APP, [0]) == {0: None}
    log._file.run("PRAGMA max_page_count = 1000000")
    write(log, numbers(2))
    assert read(log, {partition: 0}) == {partition: [b"0", b"2"]}


def test_a_directory_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LogUnreachable, match="cannot be opened for writing"):
        EmbeddedLog(tmp_path / "file" / "below")
    if Path("/proc/self/task").is_dir():
        with pytest.raises(LogUnreachable, match="cannot be opened for writing"):
            EmbeddedLog("/proc/self/task")


def test_a_log_that_was_deleted_while_in_use(log, tmp_path):
    writer, reader = log.writer(APP, "w1"), log.reader()
    reader.assign({TopicPartition(TOPIC, 0): 0})
    writer.append(numbers(1))
    for name in ("log.db", "log.db-wal", "log.db-shm"):
        (tmp_path / name).unlink()
    with pytest.raises(LogError, match="deleted or replaced"):
        writer.commit({}, {})
    with pytest.raises(LogError, match="deleted or replaced"):
        reader.poll(1, 0.0)


def test_the_files_are_its_users_alone(tmp_path):
    with EmbeddedLog(tmp_path / "a" / "b") as log:
        log.create([TopicSpec(TOPIC, 1, {})])
        assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
        for file in (tmp_path / "a" / "b").iterdir():
            assert file.stat().st_mode & 0o777 == 0o600


def test_a_closed_log_says_so(tmp_path):
    log = EmbeddedLog(tmp_path)
    reader = log.reader()
    log.close()
    log.close()
    with pytest.raises(LogError, match="closed"):
        log.all_topics()
    with pytest.raises(LogError, match="closed"):
        reader.poll(1, 0.0)


def test_many_processes_may_make_it_at_once(tmp_path, start):
    children = [start("member", str(tmp_path / "new"), f"w{i}", "3", "30") for i in range(3)]
    for child in children:
        while len(child.line().split()) != 2:  # "has [n]": one task each
            pass
