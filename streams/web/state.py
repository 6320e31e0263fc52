"""Committed state over HTTP, and over a supervisor's socket: from the parameters of a request to a JSON document.

The worker's thread reads bytes (streams/runtime/committed.py); what they mean is said here, in the thread of whoever
asks. So a key is written as people write it, also with curl, and the program that runs says how its state reads: a tool
that has another version of it cannot misread it. Nothing that can be asked for changes anything.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from streams.core.errors import SettingsError, StreamsError
from streams.core.schema import nearest
from streams.runtime import committed
from streams.runtime.offline import LocalStore
from streams.runtime.position import TaskPosition
from streams.runtime.queries import MOST, Unanswered
from streams.runtime.shown import Stores, shown
from streams.runtime.worker import Worker
from streams.web import health

STATE = {
    "/api/state": "the tasks and stores of this worker, as JSON",
    "/api/state/stats": "entries and bytes of each; ?task=",
    "/api/state/get": "an entry; ?store=&key=&task=",
    "/api/state/scan": "entries; ?store=&prefix=&from=&limit=&task=&next=",
}
PARAMETERS = {
    "/api/state": ("timeout",),
    "/api/state/stats": ("task", "timeout"),
    "/api/state/get": ("store", "key", "task", "timeout"),
    "/api/state/scan": ("store", "prefix", "from", "limit", "task", "next", "timeout"),
}
PATIENCE, LONGEST = 5.0, 60.0  # seconds to wait for the worker's loop
LIMIT, LARGEST = 100, 1000  # entries of an answer

Parameters = Mapping[str, str]
log = logging.getLogger("streams")


class Refused(StreamsError):
    """No answer: `status` as HTTP means it. `task`: the one that is asked for and is not here."""

    def __init__(self, status: int, what: str, *, where: str = "", fix: str = "", task: str = "") -> None:
        super().__init__(what, where=where, fix=fix)
        self.status, self.task = status, task


@dataclass(frozen=True)
class Answer:
    """A status and a JSON document. `missing`: the task that was asked for and is not here."""

    status: int
    body: bytes
    missing: str = ""


def answer_of(error: Refused) -> Answer:
    """An error as a document."""
    document = {"what": error.what, "where": error.where, "fix": error.fix}
    return Answer(error.status, encoded({"error": document | ({"task": error.task} if error.task else {})}), error.task)


def encoded(document: Mapping[str, Any]) -> bytes:
    """As JSON. A NaN that a store holds is written as NaN, as `streams state` prints it."""
    return json.dumps(document).encode() + b"\n"


def refuse_where(setting: str, loopback: bool) -> Refused | None:
    """Whether state may be read here: state may be personal data, and there is no password."""
    if setting == "all" or (setting == "local" and loopback):
        return None
    if setting == "none":
        return Refused(403, "this worker does not show state", where="setting http_state = none")
    return Refused(
        403,
        "state is only shown to this machine, and this server can be reached from others",
        where="setting http_state = local",
        fix="serve on 127.0.0.1, or start with --http-state all: whoever reaches the port can then read all state",
    )


class Asked:
    """A request, from the thread that takes it to the one that answers it."""

    def __init__(self, path: str, parameters: Parameters) -> None:
        self.path, self.parameters = path, parameters
        self._gone = threading.Event()
        self._told: list[Callable[[], None]] = []

    def part(self, path: str, parameters: Parameters) -> "Asked":
        """Another request that is made for this one: it is given up with it."""
        made = Asked(path, parameters)
        self.when_gone(made.give_up)
        return made

    def give_up(self) -> None:
        """Whoever asked is gone, or has the answer. For any thread."""
        self._gone.set()
        for tell in self._told:
            tell()

    def when_gone(self, tell: Callable[[], None]) -> None:
        """Call this when the request is given up; at once if it has been. It may be called twice."""
        self._told.append(tell)
        if self._gone.is_set():
            tell()


class StateAnswers:
    """Answers for one worker: for its own tasks, as they are committed."""

    def __init__(self, worker: Worker) -> None:
        self._worker, self._plan = worker, worker.plan
        self._slot = worker.settings.slot
        self._stores = Stores(self._plan.app, self._plan.topology)
        self._stateful = [t for t in self._plan.tasks if self._plan.topology.subs[t.sub].stateful]
        self._of = {
            name: [str(t) for t in self._stateful if t.sub in self._stores.subs_of(name)] for name in self._stores.names
        }
        # A function of the program that says how entries read could hang: no more threads than this hang with it.
        self._free = threading.BoundedSemaphore(MOST)

    def answer(self, asked: Asked) -> Answer:
        """Blocks for at most the request's timeout and the time it takes to write the answer down. For any thread."""
        if not self._free.acquire(blocking=False):
            return answer_of(Refused(503, f"{MOST} questions wait already", fix="ask again in a moment"))
        try:
            return Answer(200, encoded(self._document(asked)))
        except Refused as error:
            return answer_of(error)
        except Unanswered as error:
            return answer_of(Refused(503, error.what, where=error.where, fix=error.fix))
        except StreamsError as error:  # damage, most of all
            return answer_of(Refused(500, error.what, where=error.where, fix=error.fix))
        except Exception as error:  # of a function of the program that says how entries read
            log.exception("a question about state has failed")
            return answer_of(Refused(500, f"{type(error).__name__}: {error}"))
        finally:
            self._free.release()

    def _document(self, asked: Asked) -> dict[str, Any]:
        given = asked.parameters
        check(asked.path, given)
        only = self._tasks(given)
        if asked.path == "/api/state":
            return self._here(asked)
        if asked.path == "/api/state/stats":
            every = [str(t) for t in self._stateful]
            self._check_has(only, every, "state")
            counted: list[committed.Counted] = self._ask(asked, committed.count(only))
            covered = [c.covered for c in counted]
            return {**self._head(covered, only or every), "tasks": [self._counted(c) for c in counted]}
        try:
            name = self._stores.name_of(given["store"])
        except SettingsError as error:
            raise Refused(404, error.what, fix=error.fix) from None
        having = self._of[name]
        self._check_has(only, having, f"store {name}")
        try:
            if asked.path == "/api/state/get":
                steps = committed.get(name, self._stores.stored(name, given["key"]), only)
            else:
                head, start = (self._stores.begin(name, given[p]) if given.get(p) else b"" for p in ("prefix", "from"))
                steps = committed.scan(name, head, start, limit_of(given), only, since(given))
        except SettingsError as error:
            raise Refused(400, error.what, where=f"store {name}", fix=error.fix) from None
        found, entries = self._ask(asked, steps), self._stores.entries(name)
        lines = [msgspec.to_builtins(shown(task, entries, key, value)) for task, key, value in found.entries]
        next = f"{found.next[0]}:{found.next[1].hex()}" if found.next is not None else None
        about = self._head(found.covered, only or having, found.running)
        return {**about, "store": name, "entries": lines, "next": next}

    def _here(self, asked: Asked) -> dict[str, Any]:
        found = self._ask(asked, committed.here)
        covered = [committed.Covered(task, commit, commit) for task, (commit, _) in found.running.items()]
        stores = {task: names for task, (_, names) in found.running.items()}
        every = [str(t) for t in self._stateful]
        return {**self._head(covered, every), "stores": stores, "restoring": found.restoring, "of": self._of}

    def _tasks(self, given: Parameters) -> tuple[str, ...]:
        """The task that is asked about. Refused if there is none of that name."""
        wanted = given.get("task", "")
        every = [str(t) for t in self._plan.tasks]
        if wanted and wanted not in every:
            raise Refused(
                404,
                f"{self._plan.app} has no task {wanted!r}{nearest(wanted, every)}",
                fix=f"one of: {', '.join(every)}",
            )
        return (wanted,) if wanted else ()

    @staticmethod
    def _check_has(only: tuple[str, ...], having: list[str], what: str) -> None:
        if only and only[0] not in having:
            raise Refused(
                404, f"task {only[0]} has no {what}", fix=f"tasks that have it: {', '.join(having) or 'none'}"
            )

    def _head(
        self, covered: list[committed.Covered], wanted: Sequence[str], running: Sequence[str] = ()
    ) -> dict[str, Any]:
        """What every answer says: whose it is, which tasks it covers at which commit, and which of those that are
        `wanted` do not run here. Refused if that is the one that was asked for."""
        seen = {c.task: {"commit": c.commit, "upto": c.upto} for c in covered}
        missing = [task for task in wanted if task not in seen and task not in running]
        if len(wanted) == len(missing) == 1:
            self._refuse_missing(missing[0])
        return {"app": self._plan.app, "slot": self._slot, "covers": seen, "missing": missing}

    def _refuse_missing(self, task: str) -> None:
        for report in self._worker.reporter.report.tasks:
            if report.task == task and report.state != "running":
                raise Refused(
                    503,
                    f"task {task} is being restored, from commit {report.restored_to:,} to {report.sequence:,} so far",
                    where=f"slot {self._slot}",
                    fix="ask again when it runs",
                )
        raise not_here(task, self._slot, "")

    def _counted(self, found: committed.Counted) -> dict[str, Any]:
        """As `streams state stats --json` shows a task."""
        mark = found.mark
        position = TaskPosition.decode(mark.position) if mark.position else TaskPosition({})
        directory = self._worker.tools.state_dir / found.covered.task.replace("/", "-")
        when = -1.0
        with suppress(OSError):  # a file that is compacted away meanwhile
            when = LocalStore(found.covered.task, self._slot, directory).changed
        return stats(found.covered.task, f"slot {self._slot}", mark.sequence, when, mark.offset, position, found.stores)

    def _ask(self, asked: Asked, steps: Any) -> Any:
        """Ask the worker, and wait. 503 says what it does instead of answering."""
        seconds = timeout_of(asked.parameters)
        query = self._worker.queries.ask(steps)
        asked.when_gone(query.give_up)
        try:
            return query.result(seconds)
        except TimeoutError:
            pulse = self._worker.reporter.pulse
            if query.doing:
                why = f"it was {query.doing}, beside its own work"
            elif pulse.age() >= min(1.0, seconds / 2):
                why = health.alive(pulse, 0.0).reason
            else:
                why = "other questions come first"
            raise Refused(
                503,
                f"the worker did not answer within {seconds:g} s: {why}",
                where=f"slot {self._slot}",
                fix=f"ask again with a longer timeout (at most {LONGEST:g} s), or look at the state in the log: "
                "streams state ... --from-changelog",
            ) from None


def not_here(task: str, slot: str, holder: str) -> Refused:
    """`holder`: the slot that has it, if that is known."""
    return Refused(
        404,
        f"task {task} does not run here" + (f": slot {holder} holds it" if holder else ""),
        where=f"slot {slot}",
        fix=f"ask the worker of slot {holder}" if holder else "ask the worker that has it: see `streams tasks`",
        task=task,
    )


def stats(
    task: str,
    origin: str,
    commit: int,
    when: float,
    offset: int,
    position: TaskPosition,
    stores: Mapping[str, tuple[int, int]],
) -> dict[str, Any]:
    """A task's stores as a document. `when`: seconds since the epoch, below 0 if unknown."""
    return {
        "task": task,
        "from": origin,
        "commit": commit,
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when)) if when >= 0 else "-",
        "changelog_offset": offset,
        "positions": {topic: place.offset for topic, place in position.inputs.items()},
        "stores": {name: {"entries": n, "bytes": size} for name, (n, size) in stores.items()},
    }


# ---- parameters


def check(path: str, given: Parameters) -> None:
    """Refused with 404 or 400 where the path or a parameter is not as it should be."""
    if path not in PARAMETERS:
        raise Refused(404, f"there is nothing at {path}", fix=f"one of: {', '.join(STATE)}")
    for name in given:
        if name not in PARAMETERS[path]:
            names = PARAMETERS[path]
            raise Refused(400, f"{path} takes no {name!r}{nearest(name, names)}", fix=f"it takes: {', '.join(names)}")
    for name in ("store", "key") if path == "/api/state/get" else ("store",) if path == "/api/state/scan" else ():
        if name not in given:
            raise Refused(400, f"{name}= is missing", where=path, fix=STATE[path])
    timeout_of(given)
    limit_of(given)
    since(given)


def timeout_of(given: Parameters) -> float:
    """Seconds to wait for the worker's loop."""
    try:
        seconds = float(given.get("timeout", PATIENCE))
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= LONGEST:
        raise Refused(400, f"timeout={given['timeout']} is not valid", fix=f"seconds, at most {LONGEST:g}")
    return seconds


def limit_of(given: Parameters) -> int:
    text = given.get("limit", str(LIMIT))
    if not text.isdecimal() or len(text) > 9 or not 1 <= int(text) <= LARGEST:
        raise Refused(
            400, f"limit={text} is not valid", fix=f"a number from 1 to {LARGEST}; `next` of an answer leads on from it"
        )
    return int(text)


def since(given: Parameters) -> tuple[str, bytes] | None:
    """Where an answer before this one has ended."""
    if not given.get("next"):
        return None
    task, _, key = given["next"].partition(":")
    try:
        committed.number_of(task)
        return task, bytes.fromhex(key)
    except ValueError:
        raise Refused(
            400, f"next={given['next']} is not valid", fix="give back what an answer says as `next`"
        ) from None
