"""A worker in a process of its own, with its page, on an embedded log."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from streams.core.record import Produced
from streams.log.base import TopicSpec
from streams.log.embedded import EmbeddedLog

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0
PROGRAM = """
import time
from pathlib import Path

from operators import KeyBy, Keyed, Value, Window, agg, tumbling
from streams import App, EventTime, Schema

class Tx(Schema):
    card: str
    shop: str
    at: EventTime

class Seen(Schema):
    shop: str
    n: int

class Count(Keyed[Tx, Seen]):
    n = Value(int, default=0)

    def on_row(self, row, ctx):
        if row.card == "hang":
            while not Path("go-on").exists():
                time.sleep(0.05)
        if row.card == "evil":
            raise ValueError("<script>alert(1)</script>")
        self.n.set(self.n.get() + 1)
        yield Seen(row.shop, self.n.get())

app = App("shops")
tx = app.source("tx", Tx, key="card", start="earliest")
tx | KeyBy("shop").named("by-shop") | Count().named("<b>count&") | app.sink("seen")
minutes = tx | Window(tumbling("1m"), [agg.count().alias("n")]).named("minutes")
minutes | app.sink("minutes")
minutes.late | app.sink("late")
"""


class Site:
    """The directory of a program, its worker, and the worker's page."""

    def __init__(self, path: Path) -> None:
        self.path, self.url, self._number = path, "", 0
        path.joinpath("program.py").write_text(PROGRAM)
        with EmbeddedLog(path / "log") as log:
            log.create([TopicSpec("tx", 2, {"retention.ms": "-1"})])

    def start(self) -> None:
        command = [sys.executable, "-m", "streams", "run", "program:app", "--http", "127.0.0.1:0"]
        command += ["--log-dir", "log", "--state-dir", "state", "--commit-interval", "50ms"]
        output = self.path / "worker.log"
        with output.open("wb") as file:
            env = {**os.environ, "PYTHONPATH": str(ROOT), "POLARS_MAX_THREADS": "1"}
            self.process = subprocess.Popen(command, cwd=self.path, env=env, stdout=file, stderr=file)
        self.until(lambda: "page, metrics" in output.read_text())
        found = re.search(r"http://[^/]+", output.read_text())
        assert found is not None
        self.url = found[0]

    def feed(self, *cards: str) -> None:
        rows = [{"card": c, "shop": "s", "at": 1_700_000_000_000 + self._number + i} for i, c in enumerate(cards)]
        self.write([json.dumps(row).encode() for row in rows])
        self._number += len(cards)

    def write(self, values: list[bytes]) -> None:
        with EmbeddedLog(self.path / "log") as log:
            writer = log.writer("feeder", "0")
            writer.append(Produced("tx", 0, [None] * len(values), values, 1_700_000_000_000))
            writer.commit({}, {})
            writer.close()

    def get(self, path: str, method: str = "GET", **headers: str) -> tuple[int, str, dict[str, str]]:
        request = urllib.request.Request(self.url + path, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read().decode(), dict(answer.headers)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode(), dict(error.headers)

    def status(self) -> dict[str, Any]:
        return json.loads(self.get("/api/status")[1])

    def until(self, true: Callable[[], Any]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not true():
            output = (self.path / "worker.log").read_text()
            assert self.process.poll() is None, output
            assert time.monotonic() < deadline, output
            time.sleep(0.05)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    made.start()
    try:
        yield made
    finally:
        made.end()
