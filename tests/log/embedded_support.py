"""What the tests of the embedded log share."""

import os
import queue
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

from streams.core.record import Produced, TopicPartition
from streams.log.embedded import EmbeddedLog

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
        self._lines: queue.Queue[str] = queue.Queue()
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def line(self) -> str:
        """The next line that it says; fails where none comes."""
        line = self._lines.get(timeout=PATIENCE)
        assert line, "the process ended"
        return line

    def wait_for(self, text: str) -> None:
        while self.line() != text:
            pass

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.strip())
        self._lines.put("")

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def tell(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{text}\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._listener.join()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


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
