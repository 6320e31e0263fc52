"""`streams run --workers`: real processes on the embedded log."""

import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import pytest
from prometheus_client.parser import text_string_to_metric_families

from streams.runtime.watchdog import EXIT_CODE
from tests.terminal.place import Place, terminal, wait


class Watched:
    """A supervisor with two workers; its log is JSON lines in a file."""

    def __init__(self, place: Place, *arguments: str) -> None:
        self.place = place
        self._log = place.path / "supervisor.log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.http = f"127.0.0.1:{free.getsockname()[1]}"
        ready = place.path / "ready"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                place.command("--workers", "2", "--log-format", "json", "--http", self.http, *arguments),
                cwd=place.path,
                env=place.environment(STREAMS_READY_FILE=str(ready)),
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        self._ready = ready

    def until_ready(self) -> None:
        wait(lambda: self._ready.exists() or self.process.poll() is not None)
        assert self.process.poll() is None, self.text()

    def text(self) -> str:
        return self._log.read_text()

    def log(self) -> list[dict]:
        """Whole lines only: one may just be written. What is no JSON is the error at the end."""
        return [json.loads(line) for line in self.text().splitlines(True) if line.startswith("{") and line[-1] == "\n"]

    def pids(self, slot: str) -> list[int]:
        """The processes that this worker has had."""
        found = [re.fullmatch(rf"worker {slot}: started.* as process (\d+)", line["message"]) for line in self.log()]
        return [int(match[1]) for match in found if match]

    def samples(self) -> dict[tuple[str, str], dict[str, float]]:
        """(name, worker) -> the other labels' values -> value."""
        with urllib.request.urlopen(f"http://{self.http}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        out: dict[tuple[str, str], dict[str, float]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = dict(sample.labels)
                out.setdefault((sample.name, labels.pop("worker")), {})[",".join(labels.values())] = sample.value
        return out

    def shared(self) -> bool:
        """Both workers run two of the four tasks."""
        found = self.samples()
        return all(found.get(("streams_tasks", w), {}).get("running") == 2 for w in ("0-0", "0-1"))

    def stop(self, seconds: float = 60.0) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def end(self) -> None:
        """Whatever has happened, nothing runs afterwards."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for slot in ("0-0", "0-1"):
            for pid in self.pids(slot):
                wait(lambda pid=pid: not alive(pid), what=f"process {pid} is left over")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@contextmanager
def watched(place: Place, *arguments: str) -> Iterator[Watched]:
    made = Watched(place, *arguments)
    try:
        yield made
    finally:
        made.end()


@pytest.mark.slow
def test_a_killed_worker_is_started_again_and_the_output_is_exact(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.feed(4000)
    with watched(place) as run:
        run.until_ready()
        wait(run.shared)
        before = run.samples()
        place.feed(20_000)
        wait(lambda: len(place.made()) > 4000)
        os.kill(run.pids("0-0")[0], signal.SIGKILL)
        wait(lambda: len(run.pids("0-0")) == 2)
        place.feed(4000)
        wait(lambda: len(place.made()) >= place.sent)
        wait(run.shared)
        found = run.samples()
        assert run.stop() == 0, run.text()
    assert place.made() == place.right()
    assert before["streams_worker_up", "0-0"] == {"": 1.0}
    assert before["streams_worker_restarts_total", "0-0"] == {"": 0.0}
    assert found["streams_worker_restarts_total", "0-0"] == {"": 1.0}
    assert found["streams_worker_restarts_total", "0-1"] == {"": 0.0}
    assert found["streams_worker_up", "0-1"] == {"": 1.0}
    log = run.log()
    assert any(
        line["level"] == "WARNING" and "0-0 was ended by SIGKILL" in line["message"] and "0.5 s" in line["message"]
        for line in log
    )
    assert {"0-0", "0-1"} <= {line["slot"] for line in log}
    assert log[-1]["message"].startswith("done: ")
    assert log[-1]["records_in"] > 0


@pytest.mark.slow
def test_metrics_of_both_workers_under_one_port(tmp_path: Path) -> None:
    place = Place(tmp_path)
    with watched(place) as run:
        run.until_ready()
        wait(run.shared)
        place.feed(4000)
        wait(lambda: len(place.made()) == 4000)

        def read() -> float:
            found = run.samples()
            return sum(found.get(("streams_records_in_total", w), {}).get("tx", 0) for w in ("0-0", "0-1"))

        wait(lambda: read() == 4000)
        assert {w for _, w in run.samples()} == {"0-0", "0-1"}
        stopped = run.pids("0-1")[0]
        os.kill(stopped, signal.SIGSTOP)  # it does not answer: the other one's metrics come all the same
        try:
            found = run.samples()
        finally:
            os.kill(stopped, signal.SIGCONT)
        assert found["streams_worker_up", "0-1"] == {"": 0.0}
        assert found["streams_worker_up", "0-0"] == {"": 1.0}
        assert ("streams_commits_total", "0-1") not in found
        wait(lambda: run.samples()["streams_worker_up", "0-1"] == {"": 1.0})
        assert run.stop() == 0


@pytest.mark.slow
def test_health_of_both_workers_under_one_port(tmp_path: Path) -> None:
    place = Place(tmp_path)

    def ask(path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{run.http}{path}", timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    with watched(place) as run:
        run.until_ready()
        wait(run.shared)
        wait(lambda: ask("/readyz") == (200, "worker 0-0: 2 of 2 tasks run\nworker 0-1: 2 of 2 tasks run\n"))
        assert ask("/healthz") == (200, "worker 0-0: the worker's loop turns\nworker 0-1: the worker's loop turns\n")
        assert ask("/nonsense")[0] == 404
        stopped = run.pids("0-1")[0]
        os.kill(stopped, signal.SIGSTOP)
        try:
            for path in ("/healthz", "/readyz"):
                status, text = ask(path)
                assert (status, text.splitlines()[1]) == (503, "worker 0-1: it is down, or does not answer")
        finally:
            os.kill(stopped, signal.SIGCONT)
        wait(lambda: ask("/readyz")[0] == 200)
        assert run.stop() == 0


@pytest.mark.slow
def test_the_state_of_all_workers_under_one_port(tmp_path: Path) -> None:
    place = Place(tmp_path)

    def ask(path: str, **given: str) -> tuple[int, dict]:
        address = f"http://{run.http}/api/state{path}?{urlencode(given)}"
        try:
            with urllib.request.urlopen(address, timeout=60) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    with watched(place) as run:
        run.until_ready()
        wait(run.shared)
        place.feed(4000)
        wait(lambda: len(place.made()) == 4000)
        wait(lambda: sum(e["value"]["n"] for e in ask("/scan", store="count-1", limit="1000")[1]["entries"]) == 4000)
        tasks = ask("/stats")[1]["tasks"]
        assert [t["task"] for t in tasks] == ["0/0", "0/1", "0/2", "0/3"]
        assert {t["from"] for t in tasks} == {"slot 0-0", "slot 0-1"}
        entries = ask("/scan", store="count-1", limit="1000")[1]["entries"]
        assert len(entries) == sum(t["stores"]["count-1/values"]["entries"] for t in tasks)
        for given in entries[0], entries[-1]:  # of a task each worker has
            found = ask("/get", store="count-1", key=given["key"])[1]
            assert (found["entries"], found["missing"]) == ([given], [])
        status, found = ask("/get", store="count-2", key="c1")
        assert (status, "did you mean 'count-1/values'" in found["error"]["what"]) == (404, True)
        assert ask("")[1]["slot"] == "0-0, 0-1"
        stopped = run.pids("0-1")[0]
        os.kill(stopped, signal.SIGSTOP)
        try:
            for _ in range(10):  # more than are kept waiting
                status, found = ask("/stats", timeout="0.1")
                assert (status, found["error"]["what"]) == (503, "worker 0-1 does not answer")
            assert run.samples()["streams_worker_up", "0-0"] == {"": 1.0}
        finally:
            os.kill(stopped, signal.SIGCONT)
        wait(lambda: ask("/stats")[0] == 200)
        assert run.stop() == 0


@pytest.mark.slow
def test_a_program_that_always_dies_is_given_up(tmp_path: Path) -> None:
    place = Place(tmp_path, partitions=1)
    place.feed(1, card="die")
    with watched(place) as run:
        assert run.process.wait(120) == 1
        text = run.text()
    assert "giving up" in text
    assert "ended with exit code 7" in text
    assert "the last words" in text.split("what it said last")[1]
    assert "Traceback" not in text
    # One of the two dies five times; the other takes its task over in between, and dies as well.
    assert max(len(run.pids("0-0")), len(run.pids("0-1"))) == 5


def test_a_worker_that_hangs_is_killed_after_the_limit(tmp_path: Path) -> None:
    place = Place(tmp_path, partitions=1)
    place.feed(1, card="hang")
    with watched(place, "--stop-timeout", "1s") as run:
        wait(lambda: "it hangs" in run.text())
        started = time.monotonic()
        assert run.stop() == 0
        assert time.monotonic() - started < 15
        text = run.text()
    assert "is killed; nothing is lost" in text


def test_a_lone_worker_that_hangs_ends_after_the_limit_and_says_where(tmp_path: Path) -> None:
    place = Place(tmp_path, partitions=1)
    place.feed(1, card="hang")
    with place.run("--stop-timeout", "500ms") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "it hangs\n"
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=60)
    assert process.returncode == EXIT_CODE
    assert "slot 0 did not end within 500 ms (operator '" in error
    assert "' of task 0/0 is running): the process ends" in error
    assert "Traceback" not in error


@pytest.mark.slow
def test_without_their_supervisor_the_workers_end_in_order(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.feed(1000)
    with watched(place) as run:
        run.until_ready()
        wait(lambda: len(place.made()) == 1000)
        wait(run.shared)
        pids = [*run.pids("0-0"), *run.pids("0-1")]
        run.process.kill()
        run.process.wait()
        wait(lambda: not any(alive(pid) for pid in pids), what="a worker goes on without its supervisor")
    with place.run("--slot", "0-0", "--log-format", "json") as process:  # they gave their leases back: nothing to fence
        place.feed(1000)
        wait(lambda: len(place.made()) == 2000)
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=60)
    assert "fencing" not in error
    assert place.made() == place.right()


def test_on_a_terminal(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.feed(1000)
    with terminal(place, "--workers", "2") as seen:
        seen.until(lambda: "worker 0-1" in seen.said and re.search(r"\d in\b", seen.said) is not None)
        seen.until(lambda: len(place.made()) == 1000)
        os.killpg(seen.process.pid, signal.SIGINT)  # what Ctrl-C does: all of them get it
        assert seen.end() == 0
        assert "stopping 2 workers" in seen.said
        assert "done: 1,000 records in, 1,000 out" in seen.said
        assert seen.said.rindex("\x1b[?25h") > seen.said.rindex("\x1b[?25l")
        assert "Traceback" not in seen.said


def test_a_second_ctrl_c_ends_all_at_once(tmp_path: Path) -> None:
    place = Place(tmp_path, partitions=1)
    place.feed(1, card="hang")
    with terminal(place, "--workers", "2") as seen:
        seen.until(lambda: "it hangs" in seen.said)
        pids = [int(pid) for pid in re.findall(r"started as process (\d+)", seen.said)]
        assert len(pids) == 2
        seen.process.send_signal(signal.SIGINT)
        seen.until(lambda: "once more ends at once)" in seen.said)
        assert seen.insist() == 130
        wait(lambda: not any(alive(pid) for pid in pids), what="a worker is left over")


def test_the_supervisor_refuses_what_is_wrong_at_once(tmp_path: Path) -> None:
    place = Place(tmp_path)
    for arguments, said in (
        (("--workers", "none"), "a number from 1 on, or auto"),
        (("--workers", "0"), "a number from 1 on, or auto"),
        (("--workers", "2", "--stop-timeout", "soon"), "--stop-timeout"),
        (("--workers", "2", "--http", "127.0.0.1:99999"), "--http"),
    ):
        with place.run(*arguments) as process:
            _, error = process.communicate(timeout=60)
        assert process.returncode == 1, error
        assert said in error
        assert "Traceback" not in error
