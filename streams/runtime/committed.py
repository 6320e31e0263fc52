"""What can be asked about committed state: steps for `Queries`, which the worker's thread takes.

Each answer is of this worker's running tasks alone, and says of which, and of which commit. A step reads a few entries;
where they are large, fewer.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from streams.core.errors import StateError
from streams.runtime.queries import Steps, Unanswered
from streams.runtime.task import State, Task
from streams.state.base import Mark, StateStore
from streams.state.look import Look

_STEP_BYTES = 64 << 10
_STEP_ENTRIES = 128
ANSWER_BYTES = 1 << 20
"""Of keys and values in an answer; one that is full says where the next one begins."""

Only = Collection[str]
"""Tasks that are asked about; none: all."""


@dataclass
class Covered:
    """A task that an answer is about, and the commit that was seen. `upto` is a later one where the task went on while
    its store was looked at several times (streams/state/look.py)."""

    task: str
    commit: int
    upto: int


@dataclass
class Found:
    """Entries, each with its task. `running`: the tasks here that have the store, of which `covered` were read. `next`:
    the task and the key at which the next answer begins, if there are more."""

    running: list[str]
    covered: list[Covered] = field(default_factory=list)
    entries: list[tuple[str, bytes, bytes]] = field(default_factory=list)
    next: tuple[str, bytes] | None = None


@dataclass
class Counted:
    """A task's stores: (entries, bytes of keys and values) by name."""

    covered: Covered
    mark: Mark
    stores: dict[str, tuple[int, int]]


@dataclass
class Here:
    """The tasks that this worker has: those that run, with the names of their stores, and those that do not run yet."""

    running: dict[str, tuple[int, list[str]]]
    restoring: list[str]


def here(tasks: Sequence[Task]) -> Steps[Here]:
    """Which tasks with state are here."""
    running = {str(t.id): (t.store.mark.sequence, t.store.names()) for t in _stateful(tasks) if t.store is not None}
    yield "listing tasks"
    return Here(running, [str(t.id) for t in tasks if t.state is not State.RUNNING and t.sub.stateful])


def get(store: str, key: bytes, only: Only = ()) -> Callable[[Sequence[Task]], Steps[Found]]:
    """The entry of one key, of whichever task has it."""

    def steps(tasks: Sequence[Task]) -> Steps[Found]:
        found = Found(_running(tasks, store))
        for task, opened in _having(tasks, store, only):
            look = opened.committed(store, key, key + b"\0")
            entries: list[tuple[bytes, bytes | None]] = []
            while not look.ended and not entries:
                yield f"looking into task {task.id}"
                entries = _read(task, look, 1)
            found.covered.append(_covered(task, look))
            found.entries += [(str(task.id), k, v or b"") for k, v in entries]
        return found

    return steps


def scan(
    store: str, head: bytes, start: bytes, limit: int, only: Only = (), since: tuple[str, bytes] | None = None
) -> Callable[[Sequence[Task]], Steps[Found]]:
    """Entries whose key begins with `head`, from `start` on, task by task. `since`: the `next` of the answer before."""

    def steps(tasks: Sequence[Task]) -> Steps[Found]:
        found, size = Found(_running(tasks, store)), 0
        for task, opened in _having(tasks, store, only):
            first = max(head, start)
            if since is not None:
                if number_of(str(task.id)) < number_of(since[0]):
                    continue
                first = max(first, since[1]) if str(task.id) == since[0] else first
            look = opened.committed(store, first, behind(head))
            pieces = _Pieces()
            while not look.ended and found.next is None:
                yield f"reading task {task.id}: {len(found.entries):,} entries so far"
                for key, value in pieces.read(task, look):
                    if len(found.entries) >= limit or size >= ANSWER_BYTES:
                        found.next = str(task.id), key
                        break
                    found.entries.append((str(task.id), key, value))
                    size += len(key) + len(value)
            found.covered.append(_covered(task, look))
            if found.next is not None:
                break
        return found

    return steps


def count(only: Only = ()) -> Callable[[Sequence[Task]], Steps[list[Counted]]]:
    """Entries and bytes of every store."""

    def steps(tasks: Sequence[Task]) -> Steps[list[Counted]]:
        out = []
        for task in _stateful(tasks):
            if only and str(task.id) not in only:
                continue
            opened = task.store
            if opened is None:
                raise _gone(task)
            mark, covered, stores = opened.mark, Covered(str(task.id), 0, 0), {}
            # All looks at once: they see the same commit, whatever is committed while they are read.
            looks = {name: opened.committed(name) for name in opened.names()}
            for name, look in looks.items():
                number = size = 0
                pieces = _Pieces()
                while not look.ended:
                    yield f"counting {name} of task {task.id}: {number:,} entries so far"
                    read = pieces.read(task, look)
                    number += len(read)
                    size += sum(len(key) + len(value) for key, value in read)
                stores[name] = number, size
            covered.commit, covered.upto = mark.sequence, max([mark.sequence, *(x.last for x in looks.values())])
            out.append(Counted(covered, mark, stores))
            yield f"counted task {task.id}"
        return out

    return steps


def behind(head: bytes) -> bytes | None:
    """The first key behind all that begin so; None if there is none.

    >>> behind(b"ab"), behind(b"a\\xff"), behind(b"")
    (b'ac', b'b', None)
    """
    kept = head.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else None


def number_of(task: str) -> tuple[int, ...]:
    """Tasks sort by number: 0/2 comes before 0/10."""
    return tuple(int(part) for part in task.split("/"))


# ---- inside


class _Pieces:
    """How many entries to read at a time: more while they are small."""

    def __init__(self) -> None:
        self._most = 8

    def read(self, task: Task, look: Look) -> list[tuple[bytes, bytes]]:
        read = [(key, value or b"") for key, value in _read(task, look, self._most)]
        size = sum(len(key) + len(value) for key, value in read)
        self._most = min(_STEP_ENTRIES, 2 * self._most) if size < _STEP_BYTES else max(1, self._most // 4)
        return read


def _stateful(tasks: Sequence[Task]) -> list[Task]:
    return sorted((t for t in tasks if t.state is State.RUNNING and t.store is not None), key=lambda t: t.id.number)


def _running(tasks: Sequence[Task], store: str) -> list[str]:
    return [str(task.id) for task in _stateful(tasks) if task.store is not None and store in task.store.names()]


def _having(tasks: Sequence[Task], store: str, only: Only) -> Iterator[tuple[Task, StateStore]]:
    """Running tasks that have this store."""
    for task in _stateful(tasks):
        if only and str(task.id) not in only:
            continue
        if task.store is None:
            raise _gone(task)
        if store in task.store.names():
            yield task, task.store


def _read(task: Task, look: Look, most: int) -> list[tuple[bytes, bytes | None]]:
    if task.store is None:
        raise _gone(task)
    try:
        return look.read(most)
    except StateError:
        if task.store is None:
            raise _gone(task) from None
        raise


def _gone(task: Task) -> Unanswered:
    return Unanswered(
        f"task {task.id} was taken from this worker, or was opened anew, while it was read",
        where=f"task {task.id}",
        fix="ask again: whoever has it now answers",
    )


def _covered(task: Task, look: Look) -> Covered:
    return Covered(str(task.id), look.first, look.last)
