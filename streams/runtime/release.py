"""The order in which a task's rows go on.

With one channel rows go on as they come. Where several channels meet and an operator depends on their order, rows wait
until the merged watermark has passed them and go on in the order (turn, channel, offset); so the result is the same
however the channels interleave, and after a restart.

A row's turn is its event time, or, if it comes late within its own source partition, that partition's watermark at the
row. So late rows have a place of their own in the order, too: a channel's watermark is never above the turn of a row
that is still to come. Only a channel that was idle can bring rows behind the frontier; they go on at once.

Many rows may wait, and all may go on when the channel that was behind has come. They go in pieces of whole turns, so
that commits come in between: the brokers end a transaction that is open for too long.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from streams.core.batch import ROW, TIME, WATERMARK, Batch, Joined, Origin
from streams.core.time import NEVER
from streams.runtime.inputs import BlockOrigin, Read, RecordOrigin, TaskInput
from streams.runtime.position import Channel, InputPosition, TaskPosition

_CHANNEL = "$channel"
_TURN = "$turn"


@dataclass
class _Waiting:
    """Rows of one run of records that have not gone on yet."""

    frame: pl.DataFrame
    origin: Origin
    channel: int

    @property
    def offset(self) -> int:
        """The offset of the first of them."""
        if isinstance(self.origin, RecordOrigin):
            return self.origin.records.offsets()[int(self.frame[ROW].min())]  # type: ignore[arg-type]
        assert isinstance(self.origin, BlockOrigin)
        return self.origin.offset


class Release:
    """Holds the inputs of a task and says which rows go on.

    `merging`: several channels meet and the order matters.
    """

    def __init__(self, inputs: Sequence[TaskInput], merging: bool) -> None:
        self.inputs = list(inputs)
        self.merging = merging
        self.frontier = NEVER
        self.watermark = NEVER
        self.more = False
        """More rows could go on: call `ready` again before anything else is read."""
        self._waiting: list[list[_Waiting]] = [[] for _ in inputs]
        self._restored_frontier = NEVER

    def restore(self, position: TaskPosition) -> None:
        for item in self.inputs:
            if item.spec.topic in position.inputs:
                item.restore(position.inputs[item.spec.topic])
        self.frontier = self._restored_frontier = position.frontier
        self.watermark = position.drained

    def add(self, index: int, reads: Sequence[Read]) -> None:
        """Rows of an input have been read."""
        for read in reads:
            frame, origin = read.batch.frame, read.batch.origin
            assert origin is not None
            if self.merging:
                turns = np.maximum(frame[TIME].to_numpy(), frame[WATERMARK].to_numpy())
                frame = frame.hstack([pl.Series(_TURN, turns)])
                # Read before the restart: what lies below the frontier had gone on.
                gone = np.flatnonzero(turns[: read.fresh_from] < self._restored_frontier)
                if len(gone):
                    frame = frame[np.delete(np.arange(frame.height), gone)]
            if frame.height:
                self._waiting[index].append(_Waiting(frame, origin, read.channel))

    @property
    def pending(self) -> bool:
        """Rows are still to go on although nobody is waited for: more of them than one piece, or some that had been
        read before the restart and have not come again yet."""
        return self.more or any(item.next < item.fresh for item in self.inputs)

    def merged(self) -> int | None:
        """The least watermark of the inputs that are not idle; None if all are."""
        marks = [w for w in (i.watermark for i in self.inputs) if w is not None]
        return min(marks) if marks else None

    def _highest(self) -> int:
        """How far the furthest channel is: what counts when all are idle and nobody is to be waited for."""
        return max(c.watermark for i in self.inputs for c in i.channels.values())

    def rows(self) -> list[int]:
        """How many rows of each input wait."""
        return [sum(w.frame.height for w in waiting) for waiting in self._waiting]

    def waiting(self, index: int) -> list[tuple[int, pl.DataFrame]]:
        """The rows of an input that wait, by channel, in the order in which they were read."""
        return [(w.channel, w.frame.drop(_TURN, ROW, strict=False)) for w in self._waiting[index]]

    def ready(self, most: int = 1 << 62) -> dict[int, Batch]:
        """What goes on now, by input: about `most` rows, and all of one turn; moves the watermark."""
        merged = self.merged()
        if not self.merging:
            self.watermark = max(self.watermark, merged if merged is not None else self._highest())
            batches = {index: self._join(waiting) for index, waiting in enumerate(self._waiting)}
            self._waiting = [[] for _ in self.inputs]
            return {index: batch for index, batch in batches.items() if batch is not None}
        if any(item.next < item.fresh for item in self.inputs):
            merged = self.frontier  # rows that had been read before the restart come first: nothing may overtake them
        elif merged is None:  # all channels are idle: nothing is to be waited for
            latest = [int(w.frame[_TURN].max()) + 1 for ws in self._waiting for w in ws]  # type: ignore[arg-type]
            merged = max([*latest, self._highest()])
        until = self._bounded(merged, most)
        self.more = until < merged
        self.frontier = max(self.frontier, until)
        self.watermark = max(self.watermark, self.frontier - 1)
        out: dict[int, Batch] = {}
        for index, waiting in enumerate(self._waiting):
            going, staying = [], []
            for item in waiting:
                mask = item.frame[_TURN] < self.frontier
                if mask.all():
                    going.append(item)
                elif not mask.any():
                    staying.append(item)
                else:
                    going.append(_Waiting(item.frame.filter(mask), item.origin, item.channel))
                    staying.append(_Waiting(item.frame.filter(~mask), item.origin, item.channel))
            self._waiting[index] = staying
            joined = self._join(going)
            if joined is not None:
                frame = joined.frame
                if not frame[_TURN].is_sorted() or _CHANNEL in frame.columns:
                    by = [_TURN, _CHANNEL] if _CHANNEL in frame.columns else [_TURN]
                    frame = frame.sort(by, maintain_order=True)
                out[index] = joined.with_frame(frame[[c for c in frame.columns if c not in (_TURN, _CHANNEL)]])
        return out

    def _bounded(self, until: int, most: int) -> int:
        """The frontier up to which at most so many rows go on; one turn is never cut."""
        waiting = [w.frame[_TURN] for ws in self._waiting for w in ws]
        if sum(map(len, waiting)) <= most:
            return until
        turns = np.concatenate([turn.to_numpy() for turn in waiting])
        turns = turns[turns < until]
        if len(turns) <= most:
            return until
        return max(int(np.partition(turns, most)[most]), int(turns.min()) + 1)

    def _join(self, items: Sequence[_Waiting]) -> Batch | None:
        if not items:
            return None
        if len(items) == 1:
            return Batch(items[0].frame, items[0].origin)
        bases, frames, base = [], [], 0
        several = self.merging and len({i.channel for i in items}) > 1
        for item in items:
            rows = item.frame[ROW]
            # A copy of the frame, not of its columns: `with_columns` would cost more than all else where rows are few.
            frame = item.frame.clone().replace_column(item.frame.get_column_index(ROW), rows + base)
            if several:
                frame = frame.hstack([pl.Series(_CHANNEL, np.full(len(rows), item.channel, np.int32))])
            frames.append(frame)
            bases.append(base)
            base += int(rows.max()) + 1  # type: ignore[arg-type]
        return Batch(pl.concat(frames), Joined(bases, [i.origin for i in items]))

    def position(self) -> TaskPosition:
        """Where the task stands, with rows that wait taken as not read."""
        inputs = {}
        for item, waiting in zip(self.inputs, self._waiting, strict=True):
            low, maximum = item.next, item.maximum
            if waiting:
                first = min(waiting, key=lambda w: w.offset)
                low = first.offset
                if item.source is not None and WATERMARK in first.frame.columns:
                    # The first of them in the order of offsets: its own watermark tells the maximum up to it.
                    row = first.frame[ROW].arg_min()
                    maximum = int(first.frame[WATERMARK][row]) + item.source.disorder  # type: ignore[index]
            channels = {n: Channel(c.watermark, c.idle) for n, c in item.channels.items()}
            inputs[item.spec.topic] = InputPosition(low, max(item.next, item.fresh), maximum, channels, item.topic)
        return TaskPosition(inputs, self.frontier, self.watermark)
