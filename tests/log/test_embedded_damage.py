"""What can be wrong with the embedded log's file, and what its user is told."""

import os
import random
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from streams.core.errors import DiskFull, LogError, LogLocked, LogUnreachable
from streams.core.record import Produced, TopicPartition
from streams.log.base import Committed, TopicSpec
from streams.log.embedded import EmbeddedLog
from streams.protocol import Lease
from tests.log.embedded_support import APP, PARTITIONS, TOPIC, numbers, read, read_between, write

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
