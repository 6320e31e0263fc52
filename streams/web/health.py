"""Is the worker alive, and is it ready? Decisions alone, on what it publishes."""

import sys
from collections.abc import Sequence

import msgspec

from streams.runtime.inspect import Holding
from streams.runtime.report import Pulse, WorkerReport

WITHIN = 15.0
"""Seconds within which the loop must have turned. A commit on a slow broker may take some."""

_FRAMES = 6


class Health(msgspec.Struct, frozen=True):
    """`ok`, the reason in words, what the loop does, and, where it hangs, the innermost calls of its thread."""

    ok: bool
    reason: str
    doing: str
    seconds_since_turn: float
    calls: tuple[str, ...] = ()


def alive(pulse: Pulse, within: float = WITHIN) -> Health:
    """Has the loop turned within so many seconds? Where it has not, the calls in which its thread is say why."""
    age = pulse.age()
    if age <= within:
        return Health(True, "the worker's loop turns", pulse.doing, age)
    reason = f"the worker's loop has not turned for {age:.1f} s; it was {pulse.doing}"
    return Health(False, reason, pulse.doing, age, calls(pulse.thread))


def ready(report: WorkerReport, health: Health, slot: str, holdings: Sequence[Holding]) -> Health:
    """Has the worker joined, and do all its tasks run?

    A worker without tasks is ready where others hold all of them (`holdings`, from the log): it stands by.
    """
    if not health.ok:
        return health
    if not report.joined:
        return _not(health, "the worker is joining the group")
    restoring = [t for t in report.tasks if t.state != "running"]
    if restoring:
        first = restoring[0]
        done = len(report.tasks) - len(restoring)
        what = f"{done} of {len(report.tasks)} tasks run; task {first.task} has come to commit {first.restored_to:,} of"
        return _not(health, f"{what} {first.sequence:,} ({first.restored_blocks:,} changelog blocks read)")
    if report.tasks:
        return msgspec.structs.replace(health, reason=f"{len(report.tasks)} of {len(report.tasks)} tasks run")
    if holdings and all(h.held and h.slot != slot for h in holdings):
        return msgspec.structs.replace(health, reason=f"stands by: other slots hold all {len(holdings)} tasks")
    return _not(health, "the worker has joined and was given no task yet")


def _not(health: Health, reason: str) -> Health:
    return msgspec.structs.replace(health, ok=False, reason=reason)


def calls(thread: int | None) -> tuple[str, ...]:
    """The innermost calls of a thread, the innermost first: function and where it stands. No values."""
    frame = sys._current_frames().get(thread) if thread is not None else None
    out: list[str] = []
    while frame is not None and len(out) < _FRAMES:
        code = frame.f_code
        out.append(f"{code.co_qualname} ({frame.f_globals.get('__name__', '?')}:{frame.f_lineno})")
        frame = frame.f_back
    return tuple(out)
