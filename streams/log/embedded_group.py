"""The members of an application on the embedded log: who should work on which task."""

import json
import os
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from streams.core.clock import Clock
from streams.core.errors import SlotTaken
from streams.log.base import Group, Member
from streams.log.embedded_file import LogFile
from streams.log.embedded_process import birth, describe, gone

_CHECK = 0.1  # seconds between looks at the members
_HEARTBEAT = 1000  # at most so many milliseconds between signs of life: each is a write
_NAP = 0.02

Revoke = Callable[[frozenset[int], bool], None]


def shares(tasks: int, held: Mapping[str, frozenset[int]]) -> dict[str, frozenset[int]]:
    """Who should work on what: as evenly as can be, and each keeps what it holds up to its share.

    The same for every member that sees the same table. Where the tasks do not divide evenly, those that hold most have
    one more; what nobody keeps goes to members below their share, in the order of their slots' names.

    >>> shares(4, {"a": frozenset({0, 1, 2, 3}), "b": frozenset()})
    {'a': frozenset({0, 1}), 'b': frozenset({2, 3})}
    >>> shares(3, {"a": frozenset(), "b": frozenset({2})})
    {'a': frozenset({0}), 'b': frozenset({1, 2})}
    """
    if not held:
        return {}
    least, over = divmod(tasks, len(held))
    ranked = sorted(held, key=lambda slot: (-len(held[slot]), slot))
    share = {slot: least + (rank < over) for rank, slot in enumerate(ranked)}
    left, kept = set(range(tasks)), dict[str, set[int]]()
    for slot in ranked:
        kept[slot] = set(sorted(held[slot] & left)[: share[slot]])
        left -= kept[slot]
    free = sorted(left)
    for slot in sorted(held):
        wanted = share[slot] - len(kept[slot])
        kept[slot].update(free[:wanted])
        del free[:wanted]
    return {slot: frozenset(kept[slot]) for slot in sorted(held)}


@dataclass(frozen=True, slots=True)
class _Member:
    """A row of the table. `token` tells one stay in the group from another under the same slot."""

    slot: str
    token: str
    pid: int
    born: str
    heartbeat: int
    tasks: frozenset[int]


class EmbeddedGroup(Group):
    """A member of an application's group on the embedded log.

    Each look, at most every 100 ms of polling:
    1. read the members; those whose process is gone, or silent for the session's time, are dead;
    2. our row is gone: others took us for dead. `on_revoke(all, lost=True)`, and join anew with nothing;
    3. divide the tasks among the living (`shares`: even, sticky, the same for each who computes it);
    4. give up what is no longer ours: `on_revoke` first, then it leaves our row;
    5. in one write transaction: read again, remove the dead, take what is ours and in no living member's row. Here the
       heartbeat is written too, if one is due.

    Guarantees: as long as all members poll in time, no task is with two of them; tasks of a dead member move as soon as
    another looks. A member that was stopped for longer than the session may still believe in its tasks: the group only
    suggests, the leases decide.

    Raises SlotTaken where a living process uses the slot, LogLocked, DiskFull.

    >>> from streams.log.embedded import EmbeddedLog
    >>> with EmbeddedLog.temporary() as log:
    ...     group = log.group("app", "w1", 3)
    ...     print(sorted(group.poll(0.0, lambda tasks, lost: None)), group.members)
    [0, 1, 2] 1
    """

    def __init__(self, file: LogFile, app: str, slot: str, tasks: int, session: float, clock: Clock) -> None:
        self._file, self._app, self._slot, self._count = file, app, slot, tasks
        self._session, self._clock = int(session * 1000), clock
        self._heartbeat = min(_HEARTBEAT, self._session // 3)
        self._token, self._tasks = "", frozenset[int]()
        self._members = 1
        self._next_look = 0.0
        self._join(again=False)

    def poll(self, timeout: float, on_revoke: Revoke) -> frozenset[int]:
        """The tasks that are ours; waits up to `timeout` seconds for them to change."""
        deadline = time.monotonic() + timeout
        while True:
            if self._token and self._clock.monotonic() >= self._next_look:
                self._next_look = self._clock.monotonic() + _CHECK
                if self._look(on_revoke):
                    return self._tasks
            left = deadline - time.monotonic()
            if left <= 0:
                return self._tasks
            time.sleep(min(_NAP, left))

    def leave(self) -> None:
        token, self._token, self._tasks = self._token, "", frozenset()
        if token:
            with self._file.writing():
                self._remove(token)

    @property
    def patience(self) -> float:
        return self._session / 1000

    @property
    def members(self) -> int:
        return self._members

    def _join(self, again: bool) -> None:
        """Enter the table. A dead predecessor in the same slot leaves us its tasks: a restart moves nothing."""
        with self._file.writing():
            rows = self._read()
            before = rows.get(self._slot)
            if before is not None and (again or before.pid != os.getpid()) and self._lives(before):
                raise SlotTaken(
                    f"slot {self._slot!r} of application {self._app!r} is in use by {describe(before.pid)}",
                    where=str(self._file.path),
                    fix="give each worker a slot of its own (--slot), or stop that process first",
                )
            self._token = secrets.token_hex(8)
            self._write(before.tasks if before is not None else frozenset())
            self._members = 1 + sum(self._lives(row) for slot, row in rows.items() if slot != self._slot)

    def _look(self, on_revoke: Revoke) -> bool:
        """Steps 1 to 5; whether our tasks have changed."""
        # 1. Read the members.
        rows = self._read()
        mine = rows.get(self._slot)
        # 2. Taken for dead.
        if mine is None or mine.token != self._token:
            self._rejoin(on_revoke)
            return True
        # 3. Divide the tasks.
        living = {slot: row for slot, row in rows.items() if self._lives(row)}
        share = self._share(living)
        # 4. Give up.
        given_up = self._tasks - share
        if given_up:
            on_revoke(given_up, False)
            self._tasks -= given_up
        # 5. Take, remove the dead, give a sign of life.
        self._members = max(len(living), 1)
        due = abs(self._now() - mine.heartbeat) >= self._heartbeat
        tasks = self._tasks | self._free(share, living)
        if due or not self._tasks == mine.tasks == tasks or len(living) < len(rows):
            before = self._tasks
            if not self._settle():
                self._rejoin(on_revoke)
                return True
            return bool(given_up) or self._tasks != before
        return False

    def _settle(self) -> bool:
        """Step 5; False if we have been taken for dead meanwhile."""
        with self._file.writing():
            rows = self._read()
            mine = rows.get(self._slot)
            if mine is None or mine.token != self._token:
                return False
            living = {slot: row for slot, row in rows.items() if self._lives(row)}
            for slot in rows.keys() - living.keys():
                self._remove(rows[slot].token)
            tasks = self._tasks | self._free(self._share(living), living)
            self._write(tasks)
        self._tasks = tasks  # only once it is committed
        return True

    def _rejoin(self, on_revoke: Revoke) -> None:
        lost, self._tasks = self._tasks, frozenset()
        if lost:
            on_revoke(lost, True)
        self._join(again=True)

    def _share(self, living: Mapping[str, _Member]) -> frozenset[int]:
        return shares(self._count, {slot: row.tasks for slot, row in living.items()})[self._slot]

    def _free(self, share: frozenset[int], living: Mapping[str, _Member]) -> frozenset[int]:
        """Those tasks of the share that no other living member has."""
        return share.difference(*(row.tasks for slot, row in living.items() if slot != self._slot))

    def _lives(self, row: _Member) -> bool:
        return row.token == self._token or _lives(row, self._now(), self._heartbeat, self._session)

    def _now(self) -> int:
        """Milliseconds of the clock that all processes of this machine share and that is never set."""
        return int(self._clock.monotonic() * 1000)

    def _read(self) -> dict[str, _Member]:
        return _members(self._file, self._app)

    def _write(self, tasks: frozenset[int]) -> None:
        sql = (
            "INSERT OR REPLACE INTO members (app, slot, token, pid, born, heartbeat, tasks) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)"
        )
        pid = os.getpid()
        row = (self._app, self._slot, self._token, pid, birth(pid), self._now(), json.dumps(sorted(tasks)))
        self._file.run(sql, row)

    def _remove(self, token: str) -> None:
        self._file.run("DELETE FROM members WHERE app = ? AND token = ?", (self._app, token))


def living(file: LogFile, app: str, session: float, clock: Clock) -> list[Member]:
    """The members of an application that are not known to be dead."""
    now, silent = int(clock.monotonic() * 1000), int(session * 1000)
    rows = _members(file, app).values()
    return [Member(r.slot, describe(r.pid)) for r in rows if _lives(r, now, _HEARTBEAT, silent)]


def _lives(row: _Member, now: int, heartbeat: int, session: int) -> bool:
    # A time ahead of ours is from before a restart of the machine.
    return -heartbeat <= now - row.heartbeat <= session and not gone(row.pid, row.born)


def _members(file: LogFile, app: str) -> dict[str, _Member]:
    sql = "SELECT slot, token, pid, born, heartbeat, tasks FROM members WHERE app = ?"
    rows = file.run(sql, (app,))
    return {r[0]: _Member(r[0], r[1], int(r[2]), r[3], int(r[4]), frozenset(json.loads(r[5]))) for r in rows}
