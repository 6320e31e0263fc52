"""A directory with a small program on the embedded log, and `streams run` in it as a process."""

import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from streams.core.record import Produced, TopicPartition
from streams.log.base import TopicSpec
from streams.log.embedded import EmbeddedLog

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os
import time

from operators import Keyed, Value
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

    def on_row(self, row, ctx):
        if row.card == "hang":
            print("it hangs", flush=True)
            time.sleep(600)
        if row.card == "die":
            print("the last words", flush=True)
            os._exit(7)
        self.n.set(self.n.get() + 1)
        yield Nth(row.card, row.at, self.n.get())


app = App("counts")
app.source("tx", Tx, key="card", start="earliest") | Count() | app.sink("nth")
"""


class Place:
    def __init__(self, path: Path, partitions: int = 4) -> None:
        self.path, self.partitions, self.sent = path, partitions, 0
        path.joinpath("program.py").write_text(PROGRAM)
        with EmbeddedLog(path / "log") as log:
            log.create([TopicSpec("tx", partitions, {})])

    def command(self, *arguments: str) -> list[str]:
        places = ["--log-dir", "log", "--state-dir", "state", "--commit-interval", "20ms"]
        return [sys.executable, "-m", "streams", "run", "program:app", *places, *arguments]

    def environment(self, **more: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE")}
        return {**kept, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", **more}

    @contextmanager
    def run(self, *arguments: str, **more: str) -> Iterator[subprocess.Popen[str]]:
        """`streams run` with pipes; killed afterwards if it still lives."""
        process = subprocess.Popen(
            self.command(*arguments),
            cwd=self.path,
            env=self.environment(**more),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()

    def feed(self, count: int, card: str = "") -> None:
        """Records of a thousand cards in turn, or of one."""
        with EmbeddedLog(self.path / "log") as log:
            cards = [card or f"c{i % 1000}" for i in range(self.sent, self.sent + count)]
            values = [b'{"card":"%s","at":%d}' % (c.encode(), self.sent + i) for i, c in enumerate(cards)]
            writer = log.writer("feeder", "0")
            writer.append(Produced("tx", None, [c.encode() for c in cards], values, 0))
            writer.commit({}, {})
            writer.close()
        self.sent += count

    def made(self) -> list[bytes]:
        """The output, sorted."""
        with EmbeddedLog(self.path / "log") as log:
            info = log.topics(["nth"]).get("nth")
            if info is None:
                return []
            places = [TopicPartition("nth", p) for p in range(info.partitions)]
            ends, out = log.ends(places), list[bytes]()
            reader = log.reader()
            reader.assign(dict.fromkeys(places, 0))
            left = {p for p in places if ends[p]}
            while left:
                for records in reader.poll(100_000, 1.0):
                    out += [v or b"" for v in records.values()]
                    if records.next_offset >= ends[records.source]:
                        left.discard(records.source)
            reader.close()
            return sorted(out)

    def right(self) -> list[bytes]:
        """What the output must be when all that was fed has been processed."""
        return sorted(b'{"card":"c%d","at":%d,"n":%d}' % (i % 1000, i, i // 1000 + 1) for i in range(self.sent))


class Terminal:
    """A pseudo-terminal with a process in it; `said` is all that was written to it."""

    def __init__(self, command: list[str], path: Path, environment: Mapping[str, str], width: int = 80) -> None:
        self._ours, theirs = os.openpty()
        self.said = ""
        self.resize(width)
        self.process = subprocess.Popen(
            command, cwd=path, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)

    def resize(self, width: int, height: int = 30) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def read(self, seconds: float = 0.1) -> bool:
        """Take what is there; False if the other side has gone."""
        if select.select([self._ours], [], [], seconds)[0]:
            try:
                self.said += os.read(self._ours, 65536).decode(errors="replace")
            except OSError:
                return False
        return True

    def until(self, true: Callable[[], bool], seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            assert self.read() or true(), f"it ended before that:\n{self.said}"
            assert time.monotonic() < deadline, f"it did not happen:\n{self.said}"

    def end(self, seconds: float = 60.0) -> int:
        """Wait for the process; its exit code."""
        deadline = time.monotonic() + seconds
        while self.read() and time.monotonic() < deadline:
            pass
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    def insist(self, seconds: float = 60.0) -> int:
        """Ctrl-C, again and again, until it has ended; its exit code."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it does not end:\n{self.said}"
            self.process.send_signal(signal.SIGINT)
            if not self.read():  # it has closed its terminal and is about to be gone
                self.process.wait(seconds)
        return self.end()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)


@contextmanager
def terminal(place: Place, *arguments: str, width: int = 80, **more: str) -> Iterator[Terminal]:
    made = Terminal(place.command(*arguments), place.path, place.environment(**more), width)
    try:
        yield made
    finally:
        made.close()


def wait(condition: Callable[[], bool], seconds: float = 60.0, what: str = "it did not happen") -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)
