"""Window: aggregates by key and window of event time."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl

from operators.aggregation import Aggregating, Rows
from operators.aggregators import Aggregator
from operators.entries import WindowEntries
from operators.stored_keys import StoredKeys, instant_bytes
from operators.window_store import WindowStore, combined_heads, migrated_head, window_key
from operators.windows import Tumbling
from streams.core.batch import TIME, WATERMARK, Batch
from streams.core.entries import Entries
from streams.core.errors import StateMismatch, WrongType
from streams.core.operator import Context
from streams.core.schema import INT64, Field, StreamType
from streams.core.store import StoreSpec
from streams.core.time import NEVER, duration

_START, _KEY = "$start", "$stored-key"
_ROWS = 16_384  # rows that wait before they are aggregated: a group_by of few rows costs as much as one of thousands
_PARTIAL = 65_536  # rows of partial results that wait before they are merged


class Window(Aggregating):
    """Aggregates by key and window: `Window(tumbling("1m"), [agg.count(), agg.sum("amount").alias("spent")])`.

    Output: the key's columns, `window_start`, `window_end` (Int64 milliseconds), one column an aggregation. The event
    time of an output row is its window's last millisecond.

    `lateness`: how long a window stays open for late rows after event time has passed its end. A row is late for its
    window if the watermark that the row carries has passed the window's end plus the lateness, or if the window has
    been closed already (a source that was idle came back); late rows go to the side output "late" and are counted.

    `emit`: "close" gives one row a key and window, when the window closes; "commit" gives in addition, at each commit,
    a row of each key and window that has changed: there the last row of a key and window is the promise, and how many
    come before it depends on where commits fall.

    Guarantees: the rows of "close", their order (window, then the key's bytes) and the set of late rows do not depend
    on how the input is cut into batches and commits. Sums of floats are equal but for rounding.

    How it works, and why it is fast:

    1. `process` splits off late rows and aggregates the others; results wait in memory as columns. No store is touched.
    2. `advance` remembers the watermark.
    3. `drain` merges what waits to one row a window and key, reads stored rows of windows that have any, emits and
       deletes the windows that are over, and writes the others. A window that is born and closed between two commits
       never reaches the store.
    4. Where millions of stored rows are over at once, a drain emits a piece of them, and the others follow with the
       next commits, which come at once: rows that touch those are written, too.

    Costs 0.1 to 0.2 microseconds a row in large batches. Raises, while the program is built: NoKey, NoEventTime,
    UnknownColumn, WrongType. A row on which an aggregation's expression fails, and a result over 64 bits, become dead
    letters.

    >>> from operators import agg, tumbling
    >>> from streams.core.schema import EventTime, Schema
    >>> from tests.operators.checks import stream, run
    >>> class Payment(Schema):
    ...     card: str
    ...     at: EventTime
    ...     cents: int
    >>> minutes = Window(tumbling("1m"), [agg.count().alias("n"), agg.sum("cents").alias("spent")])
    >>> payments = [Payment("a", 0, 5), Payment("a", 30_000, 7), Payment("a", 60_000, 1), Payment("a", 1, 9)]
    >>> done = run(minutes, stream(Payment, key="card"), payments)
    >>> done.rows
    [{'card': 'a', 'window_start': 0, 'window_end': 60000, 'n': 2, 'spent': 12}]
    >>> done.side("late")
    [{'card': 'a', 'at': 1, 'cents': 9}]
    """

    sides = ("late",)
    stores = (StoreSpec("windows"),)

    def __init__(
        self,
        windows: Tumbling,
        aggregations: Sequence[Aggregator],
        lateness: str | int = "0s",
        emit: Literal["close", "commit"] = "close",
    ) -> None:
        if not isinstance(windows, Tumbling):
            raise WrongType(f"{windows!r} are no windows", where="Window", fix='Window(tumbling("1m"), [...])')
        if emit not in ("close", "commit"):
            raise WrongType(f"emit={emit!r}", where="Window", fix='"close" or "commit"')
        self.windows, self.aggregations, self.emit = windows, aggregations, emit
        self.lateness = duration(lateness)
        self._watermark = self._drained = NEVER

    # ---- while the program is built

    def bind(self, *inputs: StreamType) -> StreamType:
        where = self.id or "Window"
        inputs[0].require_key(where)
        inputs[0].require_time(where)
        made = self.aggregation(inputs[0])
        whole = Field(pl.Int64(), python=Annotated[int, INT64])
        key = {k: inputs[0].fields[k] for k in inputs[0].key}
        fields = {**key, "window_start": whole, "window_end": whole, **made.fields}
        if len(fields) < len(key) + 2 + len(made.fields):
            raise WrongType(
                "two columns of the output have one name: key, window_start, window_end, aggregations",
                where=where,
                fix='name the aggregation otherwise: .alias("name")',
            )
        return StreamType(fields, inputs[0].key, True)

    def bind_side(self, side: str, *inputs: StreamType) -> StreamType:
        return inputs[0]

    def needs(self, wanted: set[str], port: int, inputs: Sequence[StreamType]) -> set[str]:
        made = self.aggregation(inputs[0])
        late = {n for n in wanted if n in inputs[0].fields or n.startswith("$")}  # the side output's
        return made.needs() | set(inputs[0].key) | late

    def entries(self, store: str, inputs: Sequence[StreamType]) -> Entries:
        return WindowEntries(inputs[0], self.aggregation(inputs[0]))

    def hold(self) -> int:
        """Rows come at the commit: until then event time stands still behind the window, where it was at the last
        one."""
        return self.lateness + self._watermark - self._drained

    # ---- savepoints

    def store_type(self, store: str, inputs: Sequence[StreamType]) -> Mapping[str, str]:
        made = self.aggregation(inputs[0])
        return {
            "key": StoredKeys(inputs[0]).type,
            "windows": f"{self.windows.size}+{self.windows.offset}",
            "rows": made.signature,
        }

    def key_of(self, store: str, entry: bytes, inputs: Sequence[StreamType]) -> bytes | None:
        key = window_key(entry)
        return None if key is None else StoredKeys(inputs[0]).hashed(key)

    def combine(self, store: str, entry: bytes, values: Sequence[bytes | None]) -> bytes | None:
        return combined_heads(values)

    def migrated(
        self, store: str, entry: bytes, value: bytes, before: Mapping[str, str], inputs: Sequence[StreamType]
    ) -> bytes | None:
        """The function for "windows" is given the bytes of a window's accumulators, and gives them."""
        now = self.store_type(store, inputs)
        if before["windows"] != now["windows"]:
            raise StateMismatch(
                f"windows of {before['windows']} ms cannot become windows of {now['windows']} ms",
                where=f"operator {self.id or 'Window'}",
                fix="a function changes what is kept of a window, not the window: keep its size and offset, or begin "
                "the store empty with --drop",
            )
        if window_key(entry) is None:
            return migrated_head(value, self._signed(now["rows"]))
        return super().migrated(store, entry, value, before, inputs)

    def _signed(self, rows: str) -> str:
        return f"{self.windows.size}+{self.windows.offset}; {rows}"

    # ---- while a task runs

    def open(self, context: Context) -> None:
        super().open(context)
        self._keys = StoredKeys(context.inputs[0])
        self._made = self.aggregation(context.inputs[0])
        self._by = [_START, *self._keys.columns]
        self._columns = list(dict.fromkeys([*self._by, *self._made.sources]))
        self._store = WindowStore(
            context.store("windows"),
            self._made.layout,
            self._made.initial,
            self._signed(self._made.signature),
            context.operator_id,
        )
        self._watermark = self._drained = NEVER
        self.unfinished = self._store.over(self._store.closed - self.windows.size)
        self._waiting: list[pl.DataFrame] = []
        self._waiting_rows = 0
        self._partial: list[pl.DataFrame] = []
        self._partial_rows, self._partial_limit = 0, _PARTIAL

    def process(self, batch: Batch, port: int = 0) -> None:
        frame = batch.frame
        starts = self.windows.starts(frame[TIME].to_numpy())
        ends = starts + self.windows.size
        late = (frame[WATERMARK].to_numpy() >= ends + self.lateness) | (ends <= self._store.closed)
        if late.any():
            mask = pl.Series(late)
            came_late = frame.filter(mask)
            self.context.late(came_late.height)
            self.context.emit("late", batch.with_frame(came_late))
            frame, starts = frame.filter(~mask), starts[~late]
            if not frame.height:
                return
        frame = self._made.prepared(batch.with_frame(frame.hstack([pl.Series(_START, starts)])), self.context).frame
        self._waiting.append(pl.DataFrame([frame.get_column(c) for c in self._columns]))
        self._waiting_rows += frame.height
        if self._waiting_rows >= _ROWS:
            self._fold()

    def advance(self, watermark: int) -> None:
        self._watermark = max(self._watermark, watermark)

    def drain(self) -> Batch | None:
        closed = self.windows.last_end(max(self._watermark - self.lateness, self._store.closed))
        touched = self._touched()
        made = None
        if touched is not None or closed > self._store.closed or self.unfinished:
            made = self._settle(touched, closed)
            self._store.flush(closed)
        if not self.unfinished:
            self._drained = self._watermark
        return made

    def state_of(self, key: Sequence[Any]) -> list[dict[str, Any]] | None:
        """The open windows of a key, as the rows that they would give now, the earliest first; None if none is."""
        bare = self._keys.encode_one(key)
        found = [instant_bytes(start) + bare for start in sorted(self._store.starts)]
        held = [(name, raw) for name in found if (raw := self._store.get(name)) is not None]
        if not held:
            return None
        frame = self._stored_frame([name for name, _ in held])
        rows = np.frombuffer(b"".join(raw for _, raw in held), self._made.layout)
        bounds = [frame[_START].alias("window_start"), (frame[_START] + self.windows.size).alias("window_end")]
        return frame.select(self._keys.columns).hstack([*bounds, *self._made.results(rows)]).to_dicts()

    # ---- inside

    def _fold(self) -> None:
        """Aggregate the rows that wait."""
        if not self._waiting:
            return
        frame = pl.concat(self._waiting, rechunk=True) if len(self._waiting) > 1 else self._waiting[0]
        partial = frame.group_by(self._by).agg(self._made.group)
        self._waiting, self._waiting_rows = [], 0
        self._partial.append(partial)
        self._partial_rows += partial.height
        if self._partial_rows >= self._partial_limit:
            self._merge()
            self._partial_limit = max(_PARTIAL, 2 * self._partial_rows)

    def _merge(self) -> None:
        """Merge the partial results to one row a window and key."""
        if len(self._partial) > 1:
            self._partial = [pl.concat(self._partial, rechunk=True).group_by(self._by).agg(self._made.regroup)]
        self._partial_rows = self._partial[0].height if self._partial else 0

    def _touched(self) -> pl.DataFrame | None:
        """What was touched since the last drain: one row a window and key, sorted."""
        self._fold()
        self._merge()
        if not self._partial:
            return None
        frame = self._partial[0]
        self._partial, self._partial_rows, self._partial_limit = [], 0, _PARTIAL
        return frame.hstack([self._keys.encode(frame).alias(_KEY)]).sort(_START, _KEY)

    def _settle(self, touched: pl.DataFrame | None, closed: int) -> Batch | None:
        """Merge with the store, write what stays open, and give what is to be emitted."""
        over = closed - self.windows.size  # the start of the last window that closes
        # More than came in, or a window would never catch up.
        piece = max(self.context.piece_rows, 2 * touched.height if touched is not None else 0)
        stored_keys, stored, last = self._store.close(over, piece)
        self.unfinished = last is not None
        if touched is None:
            return None if self.emit == "commit" else self._emit_stored(stored_keys, stored)
        starts = touched[_START].to_numpy()
        prefixes = {s: instant_bytes(s) for s in np.unique(starts).tolist()}
        keys = [prefixes[s] + k for s, k in zip(starts.tolist(), touched[_KEY].to_list(), strict=True)]
        rows = self._made.pack(touched)
        # Rows are sorted by start and key.
        ending = int(np.searchsorted(starts, over, side="right")) if last is None else bisect_right(keys, last)
        rest = self._add_stored(keys[:ending], rows[:ending], stored_keys, stored)
        known = np.flatnonzero(np.isin(starts[ending:], list(self._store.starts))) + ending
        if len(known):
            rows[known] = self._made.merge(rows[known], self._store.read([keys[i] for i in known.tolist()]))
        self._store.put(keys[ending:], rows[ending:], starts[ending:])
        if self.emit == "commit":
            return self._batch(touched, rows)
        touched, rows = touched.head(ending), rows[:ending]
        if rest:
            frame = self._stored_frame([stored_keys[i] for i in rest])
            touched = pl.concat([touched[frame.columns], frame]).with_row_index("$at").sort(_START, _KEY)
            rows = np.concatenate([rows, stored[rest]])[touched["$at"].to_numpy()]
        return self._batch(touched, rows)

    def _add_stored(self, keys: list[bytes], rows: Rows, stored_keys: list[bytes], stored: Rows) -> list[int]:
        """Fold stored rows into those of equal keys; the places of the other stored ones."""
        if not stored_keys:
            return []
        place = {key: i for i, key in enumerate(stored_keys)}
        found = np.array([place.pop(key, -1) for key in keys], dtype=np.int64)
        both = np.flatnonzero(found >= 0)
        rows[both] = self._made.merge(rows[both], stored[found[both]])
        return list(place.values())

    def _stored_frame(self, keys: list[bytes]) -> pl.DataFrame:
        starts = np.frombuffer(b"".join([k[:8] for k in keys]), ">u8") ^ np.uint64(1 << 63)
        bare = [k[8:] for k in keys]
        frame = self._keys.frame(bare)
        return frame.hstack([pl.Series(_START, starts.astype(np.int64)), pl.Series(_KEY, bare, dtype=pl.Binary)])

    def _emit_stored(self, keys: list[bytes], rows: Rows) -> Batch | None:
        return self._batch(self._stored_frame(keys), rows) if keys else None

    def _batch(self, frame: pl.DataFrame, rows: Rows) -> Batch | None:
        """The output rows of these windows and keys."""
        if not frame.height:
            return None
        starts = frame[_START]
        ends = starts + self.windows.size
        made = frame[list(self._keys.columns)].hstack(
            [
                starts.alias("window_start"),
                ends.alias("window_end"),
                *self._made.results(rows),
                (ends - 1).alias(TIME),
                (ends - 1).alias(WATERMARK),
            ]
        )
        wrong = self._made.wrong(rows)
        if wrong:
            causes = [f"{self.context.operator_id}: OverflowError: {why}" for why in wrong.values()]
            self.context.dead(Batch(made), list(wrong), causes)
            made = made.filter(pl.Series(~np.isin(np.arange(made.height), list(wrong))))
        return Batch(made) if made.height else None
