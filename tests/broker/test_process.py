"""Processes told apart by pid and birth."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from streams.broker.process import Process, alone, spawn


@pytest.fixture
def sleeper():
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def test_a_recycled_pid_is_never_hit(sleeper):
    stale = Process(sleeper.pid, Process.of(os.getpid()).birth + "0")
    assert not stale.alive
    assert stale.end(signal.SIGKILL, 1)
    assert sleeper.poll() is None


def test_the_one_that_is_meant_is_ended(sleeper):
    process = Process.of(sleeper.pid)
    assert process.alive
    assert process.end(signal.SIGTERM, 10)
    assert not process.alive
    assert process.end(signal.SIGTERM, 1)


def test_one_that_was_not_waited_for_counts_as_ended(tmp_path):
    process = spawn(["true"], tmp_path, tmp_path / "log", os.environ)
    deadline = time.monotonic() + 10
    while process.alive:
        assert time.monotonic() < deadline
    with pytest.raises(ChildProcessError):
        os.waitpid(process.pid, 0)


def test_a_stubborn_one_is_reported(tmp_path):
    ready = tmp_path / "ready"
    process = spawn(
        ["sh", "-c", "trap '' TERM; touch ready; while :; do sleep 0.1; done"], tmp_path, tmp_path / "log", os.environ
    )
    while not ready.exists():
        time.sleep(0.01)
    assert not process.end(signal.SIGTERM, 0.3)
    assert process.end(signal.SIGKILL, 10)


def test_what_it_prints_goes_to_the_log(tmp_path):
    process = spawn(["sh", "-c", "pwd; echo oops >&2"], tmp_path, tmp_path / "log", os.environ)
    while process.alive:
        time.sleep(0.01)
    assert (tmp_path / "log").read_text() == f"{tmp_path}\noops\n"


def test_no_process_has_no_birth():
    assert not Process.of(2**22 - 1).alive


def test_one_at_a_time(tmp_path):
    program = "import fcntl, sys; fcntl.flock(open(sys.argv[1], 'w'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    attempt = ["python3", "-c", program, str(tmp_path / ".lock")]
    with alone(tmp_path):
        assert subprocess.run(attempt, capture_output=True, check=False).returncode != 0
    assert subprocess.run(attempt, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="only Linux tells of threads")
@pytest.mark.parametrize("child", [True, False])
def test_one_whose_first_thread_has_ended_lives_as_long_as_the_others(tmp_path, child):
    # A JVM that is killed dies thread by thread, and its port is free after the last one.
    body = "import ctypes, threading, time; threading.Thread(target=time.sleep, args=(60,)).start(); "
    body += "print(flush=True); ctypes.CDLL(None).syscall(ctypes.c_long(NUMBER), 0)"
    body = body.replace("NUMBER", {"x86_64": "60", "aarch64": "93"}[os.uname().machine])
    command = [sys.executable, "-c", body]
    if child:
        process = spawn(command, tmp_path, tmp_path / "log", os.environ)
    else:  # another one's child
        shell = subprocess.Popen(
            ["sh", "-c", '"$@" & echo $!; wait', "sh", *command], stdout=subprocess.PIPE, text=True
        )
        process = Process.of(int(shell.stdout.readline()))
    stat = Path(f"/proc/{process.pid}/stat")
    while ") Z " not in stat.read_text():
        time.sleep(0.01)
    assert process.alive
    assert process.end(signal.SIGKILL, 10)
    if not child:
        shell.communicate()
