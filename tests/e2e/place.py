"""A place to make mistakes in: a directory with a program, an embedded log and a state directory."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streams.core.record import Produced, TopicPartition
from streams.log.base import TopicSpec
from streams.log.embedded import EmbeddedLog

ROOT = Path(__file__).parents[2]
PROGRAM = """
from operators import Keyed, Value, Window, agg, tumbling
from streams import App, EventTime, Schema

class Tx(Schema):
    card: str
    at: EventTime

class Nth(Schema):
    card: str
    at: EventTime
    n: int

class Count(Keyed[Tx, Nth]):
    n = Value(int, default=0)
    pad = Value(str, default="")

    def on_row(self, row, ctx):
        self.n.set(self.n.get() + 1)
        yield Nth(row.card, row.at, self.n.get())

app = App("counts")
app.source("tx", Tx, key="card", start="earliest") | Count() | app.sink("nth")

typo = App("typo")
typo.source("txs", Tx, start="earliest") | typo.sink("nth")
"""


class Place:
    """A directory with a program, an embedded log and a state directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.joinpath("program.py").write_text(PROGRAM)
        with EmbeddedLog(path / "log") as log:
            log.create([TopicSpec("tx", 1, {})])
        self.sent, self.cards = 0, 10

    def command(self, *arguments: str, log: str = "log", state: str = "state") -> list[str]:
        places = ["--log-dir", log] + (["--state-dir", state] if arguments[0] == "run" else [])
        return [sys.executable, "-m", "streams", *arguments, *places]

    def environment(self, **more: str) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT), **more}

    def fails(self, *arguments: str, **places: str) -> str:
        """The message of a command that ends by itself, with exit code 1 and no traceback."""
        done = subprocess.run(
            self.command(*arguments, **places),
            cwd=self.path,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=60,
        )
        return checked(done.returncode, done.stdout, done.stderr)

    @contextmanager
    def worker(self, *arguments: str, **places: str) -> Iterator[subprocess.Popen[str]]:
        """A worker that is ready; killed afterwards if it still lives."""
        ready = self.path / f"ready-{time.monotonic_ns()}"
        process = subprocess.Popen(
            self.command("run", "program:app", "--commit-interval", "20ms", *arguments, **places),
            cwd=self.path,
            env=self.environment(STREAMS_READY_FILE=str(ready)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            wait(lambda: ready.exists() or process.poll() is not None)
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            process.stdout.close()

    def feed(self, count: int) -> None:
        """Records of all cards in turn."""
        with EmbeddedLog(self.path / "log") as log:
            values = [b'{"card":"c%d","at":%d}' % (i % self.cards, i) for i in range(self.sent, self.sent + count)]
            writer = log.writer("feeder", "0")
            writer.append(Produced("tx", 0, [None] * count, values, 0))
            writer.commit({}, {})
            writer.close()
        self.sent += count

    def made(self) -> list[bytes]:
        return read(self.path / "log", "nth")

    def right(self) -> list[bytes]:
        n = self.cards
        return [b'{"card":"c%d","at":%d,"n":%d}' % (i % n, i, i // n + 1) for i in range(self.sent)]

    def run_until_done(self, *arguments: str, end: signal.Signals = signal.SIGTERM) -> str:
        """A worker does all that was fed; what it said."""
        with self.worker(*arguments) as process:
            wait(lambda: len(self.made()) >= self.sent or process.poll() is not None)
            process.send_signal(end)
            said = process.stdout.read()
            process.wait(timeout=20)
            return said


def checked(code: int, out: str, message: str) -> str:
    assert "Traceback" not in message, message
    assert code == 1, (code, out, message)
    assert "error: " in message
    assert "fix: " in message
    return message


def read(directory: Path, topic: str) -> list[bytes]:
    with EmbeddedLog(directory) as log:
        if not log.topics([topic]):
            return []
        place, out = TopicPartition(topic, 0), []
        reader, end = log.reader(), log.ends([place])[place]
        reader.assign({place: 0})
        while len(out) < end:
            for records in reader.poll(100_000, 1.0):
                out += records.values()
        return out


def wait(condition, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
