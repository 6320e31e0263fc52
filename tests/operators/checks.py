"""What every operator must pass, and a small task that drives one operator without an engine.

run(operator, stream(Payment, key="card"), payments)        rows in, rows out
check(operator, stream(...), payments)                      the shared checks of CONTRIBUTING.md
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from streams.core.batch import ROW, TIME, WATERMARK, Batch, Letter
from streams.core.failures import Failures, Policy
from streams.core.operator import Operator
from streams.core.schema import Schema, StreamType, describe
from streams.core.store import DictStore
from streams.core.time import FOREVER, NEVER

Row = dict[str, Any]
Release = tuple[list[tuple[int, pl.DataFrame]], int]
"""What an engine gives a task at once: frames by port, and the watermark behind them."""


def stream(schema: type[Schema], key: str | Sequence[str] = (), time: bool | None = None) -> StreamType:
    """The type of a source's stream."""
    fields, at = describe(schema)
    return StreamType(
        fields, (key,) if isinstance(key, str) else tuple(key), at is not None if time is None else time, schema
    )


def frame_of(type_: StreamType, rows: Sequence[Any], disorder: int = 0, first: int = 0) -> pl.DataFrame:
    """Rows of one channel as a source gives them: with event time, each row's watermark, and the row's number."""
    names = list(type_.fields)
    columns = {n: [r[n] if isinstance(r, Mapping) else getattr(r, n) for r in rows] for n in names}
    frame = pl.DataFrame({n: pl.Series(n, columns[n], dtype=f.dtype) for n, f in type_.fields.items()})
    hidden = [pl.Series(ROW, range(first, first + len(rows)), dtype=pl.UInt32)]
    if type_.time:
        at = describe(type_.schema)[1] if type_.schema is not None else "at"
        assert at is not None
        times = frame[at].to_numpy()
        marks = np.maximum.accumulate(times) - disorder if len(times) else times
        hidden += [pl.Series(TIME, times), pl.Series(WATERMARK, marks)]
    return frame.hstack(hidden)


@dataclass(frozen=True)
class Numbered:
    """An origin for tests: records are known by their numbers."""

    topic: str = "in"

    def letters(self, rows: Sequence[int]) -> list[Letter]:
        return [Letter(b"", None, self.topic, 0, row, 0) for row in rows]


@dataclass
class Made:
    """What a run has made."""

    frames: list[pl.DataFrame] = field(default_factory=list)
    sides: dict[str, list[pl.DataFrame]] = field(default_factory=dict)
    dead: list[tuple[str, str]] = field(default_factory=list)
    late: int = 0
    dropped: int = 0

    @property
    def rows(self) -> list[Row]:
        """The rows of the output, the user's columns alone."""
        return [r for f in self.frames for r in _visible(f).to_dicts()]

    @property
    def full(self) -> list[Row]:
        """With event time and watermark."""
        return [r for f in self.frames for r in f.select(c for c in f.columns if c != ROW).to_dicts()]

    def column(self, name: str) -> list[Any]:
        return [r[name] for r in self.rows]

    def side(self, name: str) -> list[Row]:
        return [r for f in self.sides.get(name, []) for r in _visible(f).to_dicts()]

    def add(self, other: "Made") -> None:
        self.frames += other.frames
        for name, frames in other.sides.items():
            self.sides.setdefault(name, []).extend(frames)
        self.dead += other.dead
        self.late += other.late
        self.dropped += other.dropped

    def summary(self) -> dict[str, Any]:
        """All that must not depend on cuts."""
        return {
            "rows": self.full,
            "sides": {n: self.side(n) for n in sorted(self.sides)},
            "dead": sorted(self.dead),
            "late": self.late,
        }


def _visible(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.select(c for c in frame.columns if not c.startswith("$"))


class FakeContext:
    """What an operator is told, over stores in memory. `made` collects what it tells."""

    def __init__(
        self,
        inputs: Sequence[StreamType],
        output: StreamType,
        stores: dict[str, DictStore],
        channels: int,
        cache: int,
        piece: int,
    ) -> None:
        self.operator_id, self.piece_rows = "op", piece
        self.inputs, self.output, self.channels, self.cache_rows = inputs, output, channels, cache
        self.partition = 0
        self.made = Made()
        self._stores = stores

    def failures(self, policy: Policy | None) -> Failures:
        return Failures(policy or "dead-letter", lambda seconds: None, self.operator_id)

    def store(self, name: str) -> DictStore:
        return self._stores[name]

    def emit(self, side: str, batch: Batch) -> None:
        self.made.sides.setdefault(side, []).append(batch.frame)

    def dead(self, batch: Batch, rows: Sequence[int], causes: Sequence[str]) -> None:
        for row, cause in zip(rows, causes, strict=True):
            if batch.origin is not None and ROW in batch.frame.columns:
                about = f"record {batch.origin.letters([int(batch.frame[ROW][row])])[0].offset}"
            else:
                about = str(_visible(batch.frame).row(row, named=True))
            self.made.dead.append((about, cause))

    def late(self, rows: int) -> None:
        self.made.late += rows

    def dropped(self, rows: int, why: str) -> None:
        self.made.dropped += rows


class Task:
    """One operator of one task: rows go in, commits make outputs and state last, a crash drops what is uncommitted."""

    def __init__(
        self, operator: Operator, *inputs: StreamType, channels: int = 1, cache: int = 1_000_000, piece: int = 1_000_000
    ) -> None:
        self.template, self.inputs, self.piece = operator, inputs, piece
        self.output = operator.bind(*inputs)
        self.channels, self.cache = channels, cache
        self.stores = {s.name: DictStore() for s in operator.stores}
        self.committed = Made()
        self.open()

    def open(self) -> None:
        """Begin from the committed stores."""
        working = {}
        for name, store in self.stores.items():
            working[name] = DictStore()
            working[name].data = dict(store.data)
        self._working = working
        self.context = FakeContext(self.inputs, self.output, working, self.channels, self.cache, self.piece)
        self.operator = copy.copy(self.template)
        self.operator.open(self.context)

    def give(self, frames: Sequence[tuple[int, pl.DataFrame]], watermark: int | None, origin: Any = None) -> None:
        batches = [(port, Batch(f, origin or _ORIGINS[port])) for port, f in frames if f.height]
        if batches and self.operator.ports > 1 and self.operator.ordered:
            self._take(self.operator.process_ordered(batches))
        else:
            for port, batch in batches:
                self._take(self.operator.process(batch, port))
        if watermark is not None:
            self._take(self.operator.advance(watermark))

    def commit(self) -> None:
        self._take(self.operator.drain())
        self.committed.add(self.context.made)
        self.context.made = Made()
        for name, store in self._working.items():
            self.stores[name].data = dict(store.data)

    def _take(self, batch: Batch | None) -> None:
        if batch is not None and batch.count:
            fields = {n: f.dtype for n, f in self.output.fields.items()}
            for name, dtype in batch.frame.schema.items():
                assert name.startswith("$") or fields[name] == dtype, (name, dtype, fields)
            self.context.made.frames.append(batch.frame)


_ORIGINS = [Numbered(f"in-{i}") for i in range(4)]


def cut(frame: pl.DataFrame, size: int, port: int = 0) -> list[Release]:
    """A single channel, cut into batches of a size."""
    releases = []
    for piece in frame.iter_slices(size):
        mark = int(piece[WATERMARK][-1]) if WATERMARK in piece.columns else NEVER
        releases.append(([(port, piece)], mark))
    return releases


def merge(frames: Sequence[pl.DataFrame], sizes: Sequence[int]) -> list[Release]:
    """Several channels, a port each: rows wait until the merged watermark has passed them, as a task releases them."""
    releases: list[Release] = []
    places = [0] * len(frames)
    marks = [NEVER] * len(frames)
    waiting = [f.clear() for f in frames]
    while any(p < f.height for p, f in zip(places, frames, strict=True)):
        for i, (frame, size) in enumerate(zip(frames, sizes, strict=True)):
            piece = frame.slice(places[i], size)
            places[i] += piece.height
            waiting[i] = pl.concat([waiting[i], piece])
            marks[i] = (
                int(piece[WATERMARK][-1]) if piece.height else (FOREVER if places[i] >= frame.height else marks[i])
            )
        releases.append(_released(waiting, min(marks)))
    releases.append(_released(waiting, FOREVER))
    return releases


def _released(waiting: list[pl.DataFrame], frontier: int) -> Release:
    going = []
    for i, frame in enumerate(waiting):
        turn = pl.max_horizontal(TIME, WATERMARK)
        now = frame.filter(turn < frontier).sort(turn, maintain_order=True)
        waiting[i] = frame.filter(turn >= frontier)
        if now.height:
            going.append((i, now))
    return going, frontier - 1


def run(
    operator: Operator,
    type_: StreamType,
    rows: Sequence[Any] | pl.DataFrame,
    *,
    size: int = 1000,
    disorder: int = 0,
    every: int = 0,
    reopen: bool = False,
    end: bool = False,
    cache: int = 1_000_000,
) -> Made:
    """Drive an operator over the rows of one channel, in batches of `size`.

    `every`: commit after so many batches (0: only at the end), and with `reopen` begin anew from the stores then.
    `end`: event time goes to its end afterwards, as behind a bounded source.
    """
    frame = rows if isinstance(rows, pl.DataFrame) else frame_of(type_, rows, disorder)
    task = Task(operator, type_, cache=cache)
    return drive(task, cut(frame, size), every=every, reopen=reopen, end=end)


def drive(task: Task, releases: Iterable[Release], *, every: int = 0, reopen: bool = False, end: bool = False) -> Made:
    for number, (frames, watermark) in enumerate(releases, 1):
        task.give(frames, watermark if task.inputs[0].time else None)
        if every and number % every == 0:
            task.commit()
            if reopen:
                task.open()
    if end:
        task.give([], FOREVER)
    task.commit()
    while task.operator.unfinished:
        task.commit()
        if reopen:
            task.open()
    return task.committed


# ---------------------------------------------------------------- the shared checks


def check(
    operator: Operator,
    types: StreamType | Sequence[StreamType],
    rows: Sequence[Any] | pl.DataFrame | Sequence[pl.DataFrame],
    *,
    disorder: int = 0,
    end: bool = True,
    summary: Callable[[Made], Any] = Made.summary,
) -> Made:
    """All shared checks; gives what the operator makes of the rows (one channel a port)."""
    inputs = [types] if isinstance(types, StreamType) else list(types)
    if isinstance(types, StreamType):
        one = rows if isinstance(rows, pl.DataFrame) else frame_of(types, rows, disorder)
        frames = [one]
    else:
        frames = list(rows)
    end = end and inputs[0].time

    def releases(size: int) -> list[Release]:
        if len(frames) == 1:
            return cut(frames[0], size)
        return merge(frames, [size + i for i in range(len(frames))])

    def task(cache: int = 1_000_000, piece: int = 1_000_000) -> Task:
        return Task(operator, *inputs, channels=len(frames), cache=cache, piece=piece)

    expected = drive(task(), releases(1000), end=end)
    want = summary(expected)
    for size in (1, 7, 1000):
        for every in (0, 1, 3):
            same(
                want, summary(drive(task(), releases(size), every=every, end=end)), f"batches of {size}, commit {every}"
            )
    same(want, summary(drive(task(), releases(7), every=2, reopen=True, end=end)), "reopened after each commit")
    same(want, summary(drive(task(2), releases(7), every=2, end=end)), "a cache of two rows")
    for reopen in (False, True):
        pieces = drive(task(piece=2), releases(7), every=2, reopen=reopen, end=end)
        same(want, summary(pieces), f"pieces of two stored rows, {reopen=}")
    same(want, summary(_crashing(task(), releases(7), end)), "crashes in mid-stream")
    _failing(task(), releases(7))
    last = task()
    _pruned(lambda: task(), releases(7), end, drive(last, releases(7), end=end))
    _told(last)
    return expected


def same(want: Any, got: Any, what: str) -> None:
    if isinstance(want, dict):
        for name in want:
            assert got[name] == want[name], f"{what}: {name}\n{got[name]}\n{want[name]}"
    assert got == want, what


def _crashing(task: Task, releases: Sequence[Release], end: bool) -> Made:
    """Commit each third batch; before that, two more are processed and lost, once each."""
    for start in range(0, len(releases), 3):
        lost = releases[start : start + 2]
        for frames, watermark in lost:
            task.give(frames, watermark if task.inputs[0].time else None)
        task.open()
        for frames, watermark in releases[start : start + 3]:
            task.give(frames, watermark if task.inputs[0].time else None)
        task.commit()
    if end:
        task.give([], FOREVER)
    task.commit()
    return task.committed


def _pruned(task: Callable[[], Task], releases: Sequence[Release], end: bool, whole: Made) -> None:
    """What `needs` does not name is not decoded: without it, each column of the output is the same."""
    first = task()
    wanted = set(first.output.fields)
    each = () if whole.dead else ({c} for c in sorted(wanted))  # an expression that nobody wants cannot fail
    for columns in [wanted, *each]:
        needed = [first.template.needs(set(columns), p, first.inputs) for p in range(first.template.ports)]
        fewer = [
            ([(p, f.select(c for c in f.columns if c in needed[p] or c.startswith("$"))) for p, f in frames], mark)
            for frames, mark in releases
        ]
        made = drive(task(), fewer, end=end)
        kept = [*sorted(columns), *([TIME] if first.output.time else [])]
        want, got = ([tuple(r[c] for c in kept) for r in m.full] for m in (whole, made))
        assert got == want, f"`needs` names {needed} for {sorted(columns)}: the output differs"
        assert made.dead == whole.dead, f"`needs` names {needed} for {sorted(columns)}: dead letters differ"


def _told(task: Task) -> None:
    """What the stores hold can be shown, found again, and given to the tasks of other keys."""
    operator, inputs = task.template, task.inputs
    for spec in operator.stores:
        kinds = operator.store_type(spec.name, inputs)
        entries = operator.entries(spec.name, inputs)
        for key, value in task.stores[spec.name].data.items():
            shown = entries.key(key)
            assert entries.stored(shown) == key, f"store {spec.name!r}: {shown!r} does not lead back to {key!r}"
            entries.value(key, value)
            operator.key_of(spec.name, key, inputs)  # rescaling is refused without it
            assert kinds, f"store {spec.name!r}: `store_type` tells nothing, so a changed program would misread it"


def _failing(task: Task, releases: Sequence[Release]) -> None:
    """A batch that fails leaves neither output nor state."""
    half = len(releases) // 2
    for frames, watermark in releases[:half]:
        task.give(frames, watermark if task.inputs[0].time else None)
    task.commit()
    before = {n: dict(s.data) for n, s in task._working.items()}
    made = len(task.context.made.frames)
    for frames, _ in releases[half : half + 1]:
        broken = [(p, f.select(c for c in f.columns if c.startswith("$"))) for p, f in frames]
        try:
            task.give(broken, None)
        except Exception:
            assert len(task.context.made.frames) == made
            assert not task.context.made.sides
            assert {n: dict(s.data) for n, s in task._working.items()} == before
