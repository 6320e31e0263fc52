"""A worker process, seen from the supervisor."""

import itertools
import json
import logging
import os
import queue
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from pathlib import Path
from typing import IO, Any

from streams.runtime.queries import MOST
from streams.runtime.reporter import Status
from streams.supervisor.parent import METRICS, UNREACHABLE, VARIABLE, Answered, Dropped, Question
from streams.web.health_many import QUESTION
from streams.web.state import Answer, Asked, Refused, answer_of, timeout_of

_KEPT = 12  # lines of what it said last, to show why it died
_BESIDE = 1.0  # seconds that a question may take beside its own timeout
_printed = logging.getLogger("streams.printed")


class Child:
    """One life of a worker: a process that runs, or has ended. `command` is a `streams run` that logs JSON lines.

    Its log goes into ours, with its slot; what else it prints, too, line by line. Three threads read what it says, so
    it never waits for us.
    """

    def __init__(self, slot: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.slot = slot
        self.status = Status()
        self.joined = False
        """It has told its status: it works."""
        self.unreachable = False
        """It has said that it ends because the log cannot be reached."""
        self._last: deque[str] = deque(maxlen=_KEPT)
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._asking = threading.Lock()
        self._sending = threading.Lock()
        self._numbers = itertools.count()
        self._questions: dict[int, queue.SimpleQueue[Answer | None]] = {}
        self._unanswered: set[int] = set()
        self._unanswered_health: set[int] = set()  # apart: eight who wait for state must not make it seem dead
        self._deaf = False
        self._asked = False
        self._connection, theirs = Pipe(duplex=True)
        self._started = time.monotonic()
        try:
            self._process = subprocess.Popen(
                command,
                env={**environment, VARIABLE: str(theirs.fileno())},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                process_group=0,  # Ctrl-C and the like are for the supervisor, also while this one still starts
            )
        finally:
            theirs.close()
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._threads = [
            threading.Thread(target=self._hear, name=f"{slot} status", daemon=True),
            threading.Thread(target=self._read, args=(self._process.stdout,), name=f"{slot} stdout", daemon=True),
            threading.Thread(target=self._read, args=(self._process.stderr,), name=f"{slot} stderr", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def lived(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self._started

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it still lives."""
        self._process.send_signal(number)

    def finish(self) -> None:
        """After its end: take what it said last."""
        self._process.wait()
        for thread in self._threads:
            thread.join(2.0)  # a process that it left behind may hold its pipes open
        self._connection.close()

    def why(self) -> str:
        """How it ended, if it has."""
        code = self._process.returncode
        if code is None or code >= 0:
            return f"ended with exit code {code}"
        try:
            return f"was ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"was ended by signal {-code}"

    def said(self) -> list[str]:
        """The last lines that say what was wrong, or what it printed."""
        return list(self._last)

    def metrics(self, timeout: float) -> bytes | None:
        """Its exposition for Prometheus; None if it does not answer in time."""
        with self._asking:
            try:
                if not self._asked:
                    self._send(METRICS)
                    self._asked = True  # one that stands still is not asked again and again
                answer = self._answers.get(timeout=timeout)
            except (OSError, ValueError, queue.Empty):
                return None
            self._asked = False
            return answer

    def state(self, asked: Asked) -> Answer:
        """Its answer to a question about its state or health; 503 if none comes, or nobody waits for it any more."""
        silent = answer_of(
            Refused(503, f"worker {self.slot} does not answer", where=f"slot {self.slot}", fix="ask again")
        )
        unanswered = self._unanswered if asked.path != QUESTION else self._unanswered_health
        if len(unanswered) >= MOST:  # one that stands still is not asked again and again: its pipe has an end
            return silent
        number = next(self._numbers)
        unanswered.add(number)
        answers = self._questions[number] = queue.SimpleQueue[Answer | None]()
        try:
            self._send(Question(number, asked.path, dict(asked.parameters)))
            asked.when_gone(lambda: self._drop(number))
            if self._deaf:  # it has ended meanwhile, and nobody hears it
                return silent
            return answers.get(timeout=timeout_of(asked.parameters) + _BESIDE) or silent
        except (OSError, ValueError, queue.Empty):
            return silent
        finally:
            del self._questions[number]

    def _drop(self, number: int) -> None:
        if (waits := self._questions.get(number)) is not None:
            waits.put(None)  # a process that ends waits for its threads
            with suppress(OSError, ValueError):
                self._send(Dropped(number))

    def _send(self, what: object) -> None:
        with self._sending:
            self._connection.send(what)

    # ---- what it says

    def _hear(self) -> None:
        try:
            while True:
                said = self._connection.recv()
                if isinstance(said, Status):
                    self.status, self.joined = said, True
                elif isinstance(said, Answered):
                    self._unanswered.discard(said.number)
                    self._unanswered_health.discard(said.number)
                    if (waits := self._questions.get(said.number)) is not None:
                        waits.put(said.answer)
                elif said == UNREACHABLE:
                    self.unreachable = True
                else:
                    self._answers.put(said)
        except (EOFError, OSError):
            pass
        self._deaf = True
        for waits in list(self._questions.values()):
            waits.put(None)

    def _read(self, pipe: IO[bytes]) -> None:
        with pipe:
            for line in pipe:
                self._line(line.decode(errors="replace").rstrip("\r\n"), pipe is self._process.stderr)

    def _line(self, line: str, from_stderr: bool) -> None:
        record = _record(line) if from_stderr else None
        if record is None:
            if line.strip():
                self._last.append(line)
                level = logging.WARNING if from_stderr else logging.INFO
                _printed.log(level, "%s", line, extra={"slot": self.slot})
            return
        level, text = logging.getLevelNamesMapping().get(record["level"], logging.INFO), record["message"]
        if error := record.get("error"):
            text = f"{text}\n{error}"
        if level >= logging.WARNING:
            self._last.extend(text.splitlines())
        extra = {"slot": self.slot, "task": record.get("task", "")}
        logging.getLogger(record["logger"]).log(level, "%s", text, extra=extra)


def _record(line: str) -> dict[str, Any] | None:
    """A line of its log, as logs.JsonFormatter writes it; None for any other line."""
    if not line.startswith('{"time": '):
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if {"level", "logger", "message"} <= set(found) else None


def environment(workers: int) -> dict[str, str]:
    """The environment of children: ours, with the cores shared out among them and without what is about us alone."""
    made = {k: v for k, v in os.environ.items() if k not in (VARIABLE, "STREAMS_READY_FILE")}
    made.setdefault("POLARS_MAX_THREADS", str(max(1, cores() // workers)))
    return made


def cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Cores that this process may use: what it is bound to, or less if its container gets less time."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        allowed, period = quota.read_text().split()
        usable = min(usable, max(1, -(-int(allowed) // int(period))))
    except (OSError, ValueError):
        pass  # no limit ("max"), or no such file on this system
    return usable
