"""What the embedded log promises beyond the contract (tests/contract): kills, reading and writing, speed."""

import os
import random
import signal
import sqlite3
import threading
import time
from collections import Counter
from contextlib import closing

import pytest

from streams.core.errors import LogError, TopicMismatch, TopicMissing
from streams.core.record import Produced, TopicPartition
from streams.log.base import Committed, TopicSpec
from streams.log.embedded import EmbeddedLog
from streams.log.embedded_batches import MOST_BYTES, MOST_RECORDS
from streams.log.embedded_file import LogFile
from streams.log.embedded_process import birth, gone
from streams.protocol import Lease
from tests.log.embedded_support import APP, PARTITIONS, PATIENCE, TOPIC, numbers, read, read_between, write

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
            line = appenders.line()
            assert len(line.split()) == 2, line
            name, pid = line.split()
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


def test_records_without_key_take_turns_by_append(log):
    everywhere = [TopicPartition(TOPIC, p) for p in range(3)]
    with closing(log.writer(APP, "w1")) as writer:
        for number in range(5):
            writer.append(Produced(TOPIC, None, [None, None], [b"%d" % number] * 2, 0))
        writer.commit({}, {})
    found = read(log, dict.fromkeys(everywhere, 0))
    assert [found[p] for p in everywhere] == [[b"0", b"0", b"3", b"3"], [b"1", b"1", b"4", b"4"], [b"2", b"2"]]


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


def test_two_open_a_new_log_at_the_same_moment(tmp_path, monkeypatch):
    run, others = LogFile.run, []

    def run_and_be_overtaken(self, sql, parameters=()):
        rows = run(self, sql, parameters)
        if sql == "PRAGMA application_id" and not others:
            others.append(None)  # the other one does not come here
            others[0] = EmbeddedLog(tmp_path)
        return rows

    monkeypatch.setattr(LogFile, "run", run_and_be_overtaken)
    with EmbeddedLog(tmp_path) as log, others[0] as other:
        log.create([TopicSpec("new", 2, {})])
        assert other.topics(["new"])["new"].partitions == 2


def test_a_process_that_remembers_a_deleted_topic_cannot_write_into_another_one(tmp_path):
    from streams.core.errors import TopicMissing
    from streams.core.record import Produced, TopicPartition
    from streams.log.base import TopicSpec

    with EmbeddedLog(tmp_path) as log, EmbeddedLog(tmp_path) as other:
        log.create([TopicSpec("a", 1, {})])
        writer, place = other.writer("app", "w"), TopicPartition("a", 0)
        writer.append(Produced("a", 0, [None], [b"1"], 0))
        writer.commit({}, {})
        log.delete(["a"])
        log.create([TopicSpec("b", 1, {}), TopicSpec("a", 1, {})])
        writer.append(Produced("a", 0, [None], [b"2"], 0))
        with pytest.raises(TopicMissing, match="deleted"):
            writer.commit({}, {})
        with pytest.raises(TopicMissing, match="deleted while this process used it"):
            other.ends([place])
        assert log.ends([place, TopicPartition("b", 0)]) == {place: 0, TopicPartition("b", 0): 0}
