"""The health of several workers under one supervisor: asked over its socket, told as one."""

import json
from collections.abc import Mapping

import msgspec

from streams.runtime.worker import Worker
from streams.web import health
from streams.web.health import Health
from streams.web.state import Answer, Asked, encoded

HEALTH = {
    "/healthz": "200 while every worker's loop turns, else 503",
    "/readyz": "200 once the tasks of every worker run, else 503",
}
QUESTION = "/healthz"
_TIMEOUT = "2"  # seconds: a probe does not wait for long
_NOBODY = Health(False, "it is down, or does not answer", "", 0.0)


class Told(msgspec.Struct, frozen=True):
    """What one worker tells of itself."""

    alive: Health
    ready: Health
    tasks: int


def told_by(worker: Worker) -> Answer:
    """The answer of a worker, from any thread of it."""
    reporter = worker.reporter
    report, alive = reporter.report, health.alive(reporter.pulse)
    made = Told(alive, health.ready(report, alive, worker.settings.slot, ()), len(report.tasks))
    return Answer(200, encoded(msgspec.to_builtins(made)))


def question() -> Asked:
    """What a supervisor asks its workers."""
    return Asked(QUESTION, {"timeout": _TIMEOUT})


def together(path: str, answers: Mapping[str, Answer]) -> Health:
    """Of all workers, by slot: well if every one is. Where others have tasks, one without any stands by."""
    told = {slot: msgspec.convert(json.loads(a.body), Told) if a.status == 200 else None for slot, a in answers.items()}
    works = any(t is not None and t.tasks and t.ready.ok for t in told.values())
    found: dict[str, Health] = {}
    for slot, each in told.items():
        if each is None:
            found[slot] = _NOBODY
        elif path == QUESTION or not each.alive.ok:
            found[slot] = each.alive
        elif not each.tasks and works:
            found[slot] = msgspec.structs.replace(each.alive, reason="stands by: other workers have the tasks")
        else:
            found[slot] = each.ready
    lines = [line for slot, h in found.items() for line in (f"worker {slot}: {h.reason}", *(f"  {c}" for c in h.calls))]
    return Health(all(h.ok for h in found.values()), "\n".join(lines), "", 0.0)
