"""Starts workers, restarts those that die, and stops them all."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from streams.core.errors import StreamsError
from streams.core.wording import span
from streams.runtime.reporter import Status
from streams.supervisor.child import Child, environment
from streams.supervisor.metrics import Source, exposition
from streams.supervisor.restarts import Restarts
from streams.terminal.display import Display
from streams.terminal.figures import Figures, Meter, as_line, merged
from streams.terminal.interrupts import Interrupts
from streams.web.state import Answer, Asked, Refused, answer_of

if TYPE_CHECKING:
    from rich.console import RenderableType

    from streams.web.many_server import ManyServer

_LOOK = 0.1
_IN_ORDER = ("ended with exit code 0", "was ended by SIGKILL", "was ended by SIGTERM")  # the last: it still started
_log = logging.getLogger("streams")


@dataclass
class Member:
    """A slot with its worker: a life, or the wait for the next one."""

    slot: str
    command: Sequence[str]
    restarts: Restarts = field(default_factory=Restarts)
    child: Child | None = None
    due: float = 0.0
    """When it is to be started, on the monotonic clock, if there is no child."""
    lives: int = 0
    gone: Status = field(default_factory=Status)
    """What its former lives have counted."""

    @property
    def status(self) -> Status:
        return merged([self.gone, self.child.status]) if self.child is not None else self.gone

    @property
    def started_again(self) -> int:
        return max(0, self.lives - 1)

    @property
    def state(self) -> str:
        """For people: what it is doing."""
        if self.child is None:
            wait = self.due - time.monotonic()
            return f"starts in {span(wait)}" if wait > 0 else "ended"
        return f"{self.status.records_in:,} in" if self.child.joined else "starting"


class Supervisor:
    """Runs a command for each slot until SIGTERM or Ctrl-C.

    1. All are started. One that ends by itself is started again after a wait (`Restarts`); if it dies too often in a
       row, all others are stopped and `StreamsError` says what it said last. Deaths because the log cannot be reached
       do not count, once it has been: those that live survive that, too.
    2. On SIGTERM or SIGINT all get SIGTERM, together; each commits and gives its tasks back.
    3. Those that have not ended after `stop_timeout` seconds get SIGKILL: nothing is lost, what was open is done again.
    4. If the supervisor itself dies, the workers see it and do as in 2.
    """

    def __init__(self, app: str, log: str, commands: Mapping[str, Sequence[str]], *, stop_timeout: float = 30.0):
        self.members = [Member(slot, command) for slot, command in commands.items()]
        self._stop_timeout = stop_timeout
        self._environment = environment(len(self.members))
        self._stopping = threading.Event()
        self._joined = False
        self._ready = os.environ.get("STREAMS_READY_FILE")
        self._meter = Meter(app, f"{self.members[0].slot} .. {self.members[-1].slot}", log)

    def run(self, display: Display, http: str = "", http_state: str = "local") -> None:
        """Work until stopped. Raises `StreamsError` if a worker cannot be kept alive."""
        server = self._serve(http, http_state) if http else None
        try:
            with Interrupts(self._stop, at_once=lambda: self._kill_at_once(display), resumed=display.anew):
                names = ", ".join(member.slot for member in self.members)
                _log.info("%s: %d workers on %s: %s", self._meter.app, len(self.members), self._meter.log, names)
                display.show(lambda: self._meter.look(self._status()), self._draw, self._line)
                try:
                    while not self._stopping.is_set():
                        for member in self.members:
                            self._look_after(member)
                        self._say_ready()
                        self._stopping.wait(_LOOK)
                finally:
                    self._stop_all()
                display.done()
        finally:
            if server is not None:
                server.close()

    # ---- one worker

    def _look_after(self, member: Member) -> None:
        child = member.child
        if child is None:
            if time.monotonic() >= member.due and not self._stopping.is_set():
                try:
                    member.child = Child(member.slot, member.command, self._environment)
                except OSError as error:  # no memory, no process: this machine is short of something for a while
                    self._not_started(member, error)
                    return
                member.lives += 1
                again = " again" if member.started_again else ""
                _log.info("worker %s: started%s as process %d", member.slot, again, member.child.pid)
            return
        if not child.ended:
            return
        lived = child.lived()
        self._buried(member, child)
        if self._stopping.is_set():
            return  # it was told to end just now
        wait = member.restarts.died(lived, counts=not (child.unreachable and self._reached()))
        if wait is None:
            lines = [f"    {line}" for line in child.said()] or ["    (nothing)"]
            raise StreamsError(
                f"worker {member.slot!r} {child.why()}: {member.restarts.row} times in a row, each time within "
                "ten minutes; giving up",
                where="\n".join(["what it said last:", *lines]),
                fix="mend the cause; nothing is lost, the next start goes on where the last commit stood",
            )
        _log.warning("worker %s %s after %s; starting it again in %.1f s", member.slot, child.why(), span(lived), wait)
        member.due = time.monotonic() + wait

    def _not_started(self, member: Member, error: OSError) -> None:
        wait = member.restarts.died(0.0)
        if wait is None:
            raise StreamsError(
                f"worker {member.slot!r} cannot be started: {error}",
                where=f"{member.restarts.row} times in a row",
                fix="see what this machine lacks: memory, processes (ulimit -u), open files (ulimit -n)",
            ) from None
        _log.warning("worker %s cannot be started: %s; trying again in %.1f s", member.slot, error, wait)
        member.due = time.monotonic() + wait

    def _buried(self, member: Member, child: Child) -> None:
        """Keep what an ended child has counted, as far as it could tell."""
        child.finish()
        told = child.status
        counts = Status(told.records_in, told.records_out, told.late, told.dead, told.commits, told.aborts)
        member.gone = merged([member.gone, counts])
        member.child = None
        self._joined = self._joined or child.joined

    def _reached(self) -> bool:
        """Some worker has been on the log: that it cannot be reached now is no wrong setting."""
        return self._joined or any(m.child is not None and m.child.joined for m in self.members)

    def _say_ready(self) -> None:
        if self._ready and all(m.child is not None and m.child.joined for m in self.members):
            Path(self._ready).touch()
            self._ready = None

    # ---- all together

    def _stop(self, why: str) -> None:
        self._stopping.set()
        _log.info("stopping %d workers (%s)", len(self.members), why)

    def _stop_all(self) -> None:
        living = [(m, m.child) for m in self.members if m.child is not None]
        for _, child in living:
            child.signal(signal.SIGTERM)
        deadline = time.monotonic() + self._stop_timeout
        while any(not child.ended for _, child in living) and time.monotonic() < deadline:
            time.sleep(0.05)
        for member, child in living:
            if not child.ended:
                _log.warning(
                    "worker %s did not end within %s and is killed; nothing is lost, its open commit is done again",
                    member.slot,
                    span(self._stop_timeout),
                )
                child.signal(signal.SIGKILL)
            self._buried(member, child)
            if child.why() not in _IN_ORDER:
                _log.warning("worker %s %s while it was stopped", member.slot, child.why())

    def _kill_at_once(self, display: Display) -> None:
        for member in self.members:
            if member.child is not None:
                member.child.signal(signal.SIGKILL)
        display.close()

    # ---- what is shown

    def _status(self) -> Status:
        return merged([member.status for member in self.members])

    def _serve(self, http: str, http_state: str) -> "ManyServer":
        """Its threads ask the children, while this one buries and starts them."""
        from streams.web.many_server import ManyServer

        server = ManyServer(self._askers, exposition(self._sources), http, http_state)
        server.start()
        return server

    def _sources(self) -> list[Source]:
        children = [(member, member.child) for member in self.members]
        return [
            Source(m.slot, m.started_again, child.metrics if child is not None else lambda timeout: None)
            for m, child in children
        ]

    def _askers(self) -> dict[str, Callable[[Asked], Answer]]:
        children = [(member.slot, member.child) for member in self.members]
        return {slot: child.state if child is not None else _down(slot) for slot, child in children}

    def _line(self, figures: Figures) -> str:
        up = sum(m.child is not None and m.child.joined for m in self.members)
        restarts = sum(m.started_again for m in self.members)
        return f"workers {up} of {len(self.members)}  restarts {restarts}  {as_line(figures)}"

    def _draw(self, figures: Figures) -> "RenderableType":
        from streams.supervisor.view import SupervisorView

        workers = [(member.slot, member.state, member.started_again) for member in self.members]
        return SupervisorView(figures, workers)


def _down(slot: str) -> Callable[[Asked], Answer]:
    refused = Refused(503, f"worker {slot} is down", where=f"slot {slot}", fix="ask again when it runs")
    return lambda asked: answer_of(refused)
