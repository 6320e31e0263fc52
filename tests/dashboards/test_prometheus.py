"""Two workers on a real Kafka, a real Prometheus: each query of the dashboards gives data, each alert is evaluated."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from fraud.feed import feed
from fraud.generator import Profile
from streams import broker
from streams.app import open_log
from streams.core.record import Produced
from streams.log.base import Log
from streams.settings import Settings
from tests.dashboards.test_alerts import PROMETHEUS, RULES
from tests.dashboards.test_dashboards import ALL
from tests.debian import program

ROOT = Path(__file__).parent.parent.parent
WORLD = Profile(customers=400, terminals=800, days=12)
PATIENCE = 120.0  # seconds
VARIABLES = {"$__rate_interval": "15s", "$__range": "60s", "$app": "fraud"}
SEEN = {  # what has certainly happened: these queries must give more than 0
    "payments read": 'sum(streams_records_in_total{app="fraud", topic="tx.auth"})',
    "alerts written": 'sum(streams_records_out_total{app="fraud", topic="fraud.alerts"})',
    "a dead letter": 'sum(streams_dead_total{app="fraud"})',
    "snapshots": 'sum(streams_snapshots_total{app="fraud", outcome="done"})',
    "state": 'sum(streams_state_bytes{app="fraud"})',
    "both workers": 'count(streams_commits_total{app="fraud"}) == 2',
}


class Prometheus:
    """A server on this machine, asked over HTTP."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}"

    def ask(self, path: str, **parameters: str) -> Any:
        """The data of an answer; an AssertionError that shows what Prometheus says to a wrong query."""
        url = f"{self._base}{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer).get("data")
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None

    def value(self, query: str) -> list[float]:
        """The values of an instant query, one a series."""
        for name, text in VARIABLES.items():
            query = query.replace(name, text)
        assert "$" not in query.replace('"$1"', ""), query
        return [float(series["value"][1]) for series in self.ask("/api/v1/query", query=query)["result"]]

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._base}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def process(log: Path, command: list[str], **environment: str) -> "Iterator[subprocess.Popen[bytes]]":
    """A process that ends with the block; what it says goes to a file."""
    with log.open("wb") as out:
        started = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **environment}, stdout=out, stderr=subprocess.STDOUT
        )
        try:
            yield started
        finally:
            started.terminate()
            try:
                started.wait(30)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait()


def worker(brokers: str, slot: str, port: int, directory: Path) -> Any:
    command = [sys.executable, "-m", "streams", "run", "fraud.pipeline:app", "--brokers", brokers, "--slot", slot]
    command += ["--http", f"127.0.0.1:{port}", "--state-dir", str(directory / "state"), "--plain"]
    settings = {"STREAMS_CHECKPOINTS": str(directory / "snapshots"), "STREAMS_SNAPSHOT_INTERVAL": "1s"}
    return process(directory / f"{slot}.log", command, **settings)


def configured(directory: Path, targets: list[str]) -> Path:
    """The configuration that we ship, with these targets, and everything every second."""
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["scrape_configs"][0]["static_configs"][0]["targets"] = targets
    shutil.copy(PROMETHEUS / "alerts.yml", directory)
    path = directory / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    return path


def spoil(log: Log) -> None:
    """A record that is no payment."""
    writer = log.writer("spoiler", "0")
    try:
        writer.append(Produced("tx.auth", 0, [b"c"], [b"no payment"], [1]))
        writer.commit({}, {})
    finally:
        writer.close()


@pytest.mark.slow
@pytest.mark.kafka
def test_every_query_gives_data_and_every_alert_is_evaluated(tmp_path: Path) -> None:
    """The pipeline's topics have fixed names, so it has a broker of its own."""
    server = program("prometheus", "prometheus")
    ports = {slot: free_port() for slot in "ab"}
    own = free_port()
    config = configured(tmp_path, [f"127.0.0.1:{port}" for port in ports.values()])
    command = [server, f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'tsdb'}"]
    command += [f"--web.listen-address=127.0.0.1:{own}", "--log.level=warn"]
    with broker.start() as kafka:
        log = open_log(Settings(brokers=kafka.bootstrap))
        try:
            feed(log, profile=WORLD)
            spoil(log)
        finally:
            log.close()
        with (
            process(tmp_path / "prometheus.log", command) as prometheus,
            worker(kafka.bootstrap, "a", ports["a"], tmp_path) as a,
            worker(kafka.bootstrap, "b", ports["b"], tmp_path) as b,
        ):
            look(Prometheus(own), {"prometheus": prometheus, "a": a, "b": b}, tmp_path)


def look(prometheus: Prometheus, processes: "dict[str, subprocess.Popen[bytes]]", directory: Path) -> None:
    """Wait until every query gives data, and what must have happened has; then look at the alerts."""
    deadline = time.monotonic() + PATIENCE
    missing: list[str] = ["all"]
    while missing:
        for name, running in processes.items():
            said = (directory / f"{name}.log").read_text()[-3000:]
            assert running.poll() is None, f"{name} ended with {running.returncode}:\n{said}"
        assert time.monotonic() < deadline, f"no data: {missing}"
        time.sleep(0.5)
        if prometheus.ready():
            missing = [name for name, query in SEEN.items() if not any(v > 0 for v in prometheus.value(query))]
            missing += [f"{title}: {text}" for title, text in ALL if not prometheus.value(text)]
    for rule in RULES:
        prometheus.value(rule["expr"])
    firing: set[str] = set()
    while "StreamsDeadLetters" not in firing:  # rules are evaluated behind the data
        assert time.monotonic() < deadline, f"firing: {firing}"
        time.sleep(0.5)
        firing = {alert["labels"]["alertname"] for alert in prometheus.ask("/api/v1/alerts")["alerts"]}
    groups = prometheus.ask("/api/v1/rules")["groups"]
    found = {rule["name"]: (rule["health"], rule.get("lastError", "")) for group in groups for rule in group["rules"]}
    assert found == {rule["alert"]: ("ok", "") for rule in RULES}
    assert not firing & {"StreamsWorkerDown", "StreamsNoWorkers", "StreamsSnapshotsFailing"}
