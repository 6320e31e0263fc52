"""How a keyed class is called: in which order rows and timers come, and what a failing call leaves (nothing)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import polars as pl

from operators.expressions import cause
from operators.expressions import place as place_of
from operators.order import join_origins, order, turns
from operators.row_types import RowReader, RowWriter
from operators.stored_keys import StoredKeys
from operators.timers import EXPIRY, USER, TimerQueue
from operators.values import Cell, KeyedValues, Value, check_instant
from streams.core.batch import ROW, TIME, WATERMARK, Batch, Joined, Letter, Origin
from streams.core.errors import StateMismatch
from streams.core.failures import FAILURES, Failures
from streams.core.operator import Context
from streams.core.schema import Schema, StreamType
from streams.core.store import DictStore, KeyValueStore
from streams.core.time import NEVER


class KeyedContext:
    """What `on_row` and `on_timer` are told, and how they set timers.

    - `key`: the current key: a value, or a tuple where the stream is keyed by several columns.
    - `time`: event time of the row, or the timer's instant (`NEVER` where the stream has no event time).
    - `watermark`: the row's own watermark; in `on_timer` the timer's instant.
    """

    __slots__ = ("_calls", "_key", "_stored_key", "time", "watermark")

    def __init__(self, calls: "Calls") -> None:
        self._calls = calls
        self._stored_key = b""
        self._key: Any = None
        self.time = self.watermark = NEVER

    @property
    def key(self) -> Any:
        if self._key is None:
            self._key = self._calls.keys.decode_one(self._stored_key)
        return self._key[0] if len(self._key) == 1 else self._key

    def timer(self, at: int) -> None:
        """Call `on_timer` for the current key when event time has passed `at` (milliseconds). Setting the same instant
        twice is one timer. Within `on_timer`, `at` must lie after the timer that fires."""
        self._calls.set_timer(at)

    def cancel(self, at: int) -> None:
        """Take back the current key's timer at this instant, if there is one."""
        self._calls.cancel_timer(at)

    def _enter(self, key: bytes, time: int, watermark: int) -> None:
        self._stored_key, self._key, self.time, self.watermark = key, None, time, watermark


@dataclass(frozen=True)
class Port:
    """An input: how its rows are made and whom they are given to."""

    type: StreamType
    reader: RowReader
    handler: Callable[[Any, KeyedContext], Any]


@dataclass(frozen=True)
class _Fired:
    """The origin of outputs that come from timers: which key, and when."""

    timers: Sequence[tuple[int, bytes]]

    def letters(self, rows: Sequence[int]) -> list[Letter]:
        made = []
        for at, key in (self.timers[row] for row in rows):
            value = msgspec.json.encode({"timer": at, "key": key.decode(errors="replace")})
            made.append(Letter(value, key, "", -1, -1, at))
        return made


class Calls:
    """The calls of one task's keyed class."""

    def __init__(
        self,
        context: Context,
        ports: Sequence[Port],
        on_timer: Callable[[int, KeyedContext], Any] | None,
        values: Sequence[Value[Any]],
        stores: Mapping[str, KeyValueStore],
        writer: RowWriter,
        output_key: tuple[str, ...],
        failures: Failures,
    ) -> None:
        self._failures = failures
        self._context, self._ports, self._on_timer, self._writer = context, ports, on_timer, writer
        self.keys = StoredKeys(ports[0].type)
        self._port_keys = [StoredKeys(p.type) for p in ports]
        self._output_key = [list(writer.fields).index(k) for k in output_key]
        self._timed = all(p.type.time for p in ports)
        self._values = KeyedValues(stores.get("values", DictStore()), values, context.cache_rows, context.operator_id)
        self._values.expiring = self._set_expiry
        self._timers = TimerQueue(stores["timers"], context.cache_rows) if "timers" in stores else None
        self._told = KeyedContext(self)
        self._key = b""
        self._firing: int | None = None
        self._wishes: list[tuple[bool, int, bytes]] = []  # timers set (True) and cancelled by the current call
        self._begin()

    def cells(self) -> Mapping[str, Cell[Any]]:
        return self._values.cells()

    def state_of(self, key: Sequence[Any]) -> dict[str, Any] | None:
        """The values of a key, by name; None if it has none."""
        return self._values.peek(self.keys.encode_one(key))

    # ---- what the engine calls

    def rows(self, batches: Sequence[tuple[int, Batch]]) -> Batch | None:
        """Rows, merged if they are of several ports; timers fire between them."""
        self._begin()
        several = len(batches) > 1
        origin, bases = join_origins([b for _, b in batches])
        keys = [self._port_keys[p].encode(b.frame).to_list() for p, b in batches]
        rows = [self._ports[p].reader.rows(b.frame) for p, b in batches]
        nowhere = [[NEVER] * b.count for _, b in batches]
        times = [b.frame[TIME].to_list() for _, b in batches] if self._timed else nowhere
        marks = [b.frame[WATERMARK].to_list() for _, b in batches] if self._timed else nowhere
        bounds = (
            marks if self._context.channels <= 1 or not self._timed else [turns(b.frame).tolist() for _, b in batches]
        )
        handlers = [self._ports[p].handler for p, _ in batches]
        self._values.prefetch([k for ks in keys for k in ks])
        timers, enter, call, told = self._timers, self._values.enter, self._call, self._told
        failed: list[tuple[list[int], list[str]]] = [([], []) for _ in batches]
        if several:
            index, place = order(batches, self._context.channels)
            taken = zip(index.tolist(), place.tolist(), strict=True)
        else:
            taken = zip([0] * batches[0][1].count, range(batches[0][1].count), strict=True)
        for i, at in taken:
            if timers is not None and timers.first < bounds[i][at]:
                self._fire(bounds[i][at])
            key, time = keys[i][at], times[i][at]
            self._key = key
            enter(key, time)
            told._enter(key, time, marks[i][at])
            text = call(handlers[i], rows[i][at], time, marks[i][at], i, at, batches[i][1])
            if text is not None:
                failed[i][0].append(at)
                failed[i][1].append(text)
        for (_, batch), (places, causes) in zip(batches, failed, strict=True):
            if places:
                self._context.dead(batch, places, causes)
        numbers = [b.frame[ROW].to_numpy() for _, b in batches] if origin is not None else []
        return self._made(origin, [n.astype(np.int64) + base for n, base in zip(numbers, bases, strict=False)])

    def advance(self, watermark: int) -> Batch | None:
        """Timers before the watermark fire."""
        if self._timers is None or self._timers.first >= watermark:
            return None
        self._begin()
        self._values.prefetch(())
        self._fire(watermark)
        return self._made(None, [])

    def drain(self) -> None:
        self._values.drain()
        if self._timers is not None:
            self._timers.drain()

    # ---- one call

    def _call(
        self,
        handler: Callable[..., Any],
        what: Any,
        time: int,
        mark: int,
        batch: int,
        place: int,
        rows: Batch | None = None,
    ) -> str | None:
        """Call the user's function; all of its effects, or none and the cause."""
        count, attempt = len(self._out), 0
        while True:
            try:
                made = handler(what, self._told)
                if made is not None:
                    for one in (made,) if isinstance(made, Schema) else made:
                        self._output(one, time, mark, batch, place)
                break
            except StateMismatch:
                raise  # no fault of this row
            except FAILURES as error:
                self._values.undo()
                self._wishes.clear()
                del self._out[count:], self._times[count:], self._marks[count:], self._from[count:]
                if self._failures.again(attempt):
                    attempt += 1
                    continue
                text = cause(self._context, error)
                about = place_of(rows, place) if rows is not None else f"timer at {time} of key {self._told.key!r}"
                self._failures.give_up(text, about, error)
                return text
        self._values.keep()
        if self._wishes:
            assert self._timers is not None
            for wish, at, kind in self._wishes:
                (self._timers.add if wish else self._timers.remove)(at, self._key, kind)
            self._wishes.clear()
        return None

    def _output(self, one: Any, time: int, mark: int, batch: int, place: int) -> None:
        values = self._writer.convert(one)
        if self._output_key:
            key = self._told.key
            have = [values[i] for i in self._output_key]
            if have != [*key] if len(have) > 1 else have[0] != key:
                raise ValueError(f"the output has the key {have}, key= says it has that of the row: {key!r}")
        own = self._writer.time_of(values)
        self._out.append(values)
        self._times.append(time if own is None else own)
        self._marks.append(mark)
        self._from.append((batch, place))

    def _fire(self, before: int) -> None:
        """Call the timers before an instant, in the order of (instant, key); those that they set, too."""
        timers = self._timers
        assert timers is not None
        while (due := timers.pop(before)) is not None:
            at, key, kinds = due
            self._key = key
            self._values.enter(key, at)
            if EXPIRY in kinds:
                upcoming = self._values.expire(at)
                if upcoming is not None:
                    timers.add(upcoming, key, EXPIRY)
                self._values.enter(key, at)
            if USER not in kinds or self._on_timer is None:
                continue
            self._told._enter(key, at, at)
            self._firing = at
            text = self._call(self._on_timer, at, at, at, -1, len(self._fired))
            self._firing = None
            self._fired.append((at, key))
            if text is not None:
                frame = self.keys.frame([key]).with_columns(pl.lit(at).alias("timer"), pl.lit(at).alias(TIME))
                self._context.dead(Batch(frame), [0], [text])

    def set_timer(self, at: int) -> None:
        if self._on_timer is None:
            raise TypeError("a timer needs a method on_timer(self, at, ctx)")
        check_instant(at)
        if self._firing is not None and at <= self._firing:
            raise ValueError(f"a timer at {at}, set by one at {self._firing}, would never end: set it later")
        self._wishes.append((True, at, USER))

    def cancel_timer(self, at: int) -> None:
        check_instant(at)
        if self._timers is not None:
            self._wishes.append((False, at, USER))

    def _set_expiry(self, at: int) -> None:
        self._wishes.append((True, at, EXPIRY))

    # ---- outputs

    def _begin(self) -> None:
        self._out: list[list[Any]] = []
        self._times: list[int] = []
        self._marks: list[int] = []
        self._from: list[tuple[int, int]] = []  # batch and place of the row; -1 and number of the timer
        self._fired: list[tuple[int, bytes]] = []

    def _made(self, origin: Origin | None, numbers: Sequence[Any]) -> Batch | None:
        """The outputs as a batch; `$row` tells the rows, or behind them the timers, that they come from."""
        if not self._out:
            return None
        columns = self._writer.frame_columns(self._out)
        if self._timed:
            columns[TIME] = pl.Series(TIME, self._times, dtype=pl.Int64)
            columns[WATERMARK] = pl.Series(WATERMARK, self._marks, dtype=pl.Int64)
        of_rows = any(batch >= 0 for batch, _ in self._from)
        if of_rows and origin is None:  # they come from no record (a window's results ...)
            return Batch(pl.DataFrame(columns))
        behind = max((int(n.max()) + 1 for n in numbers), default=0)
        whole = origin
        if self._fired:
            fired = _Fired(self._fired)
            whole = Joined([0, behind], [origin, fired]) if origin is not None else fired
        rows = [int(numbers[batch][place]) if batch >= 0 else behind + place for batch, place in self._from]
        columns[ROW] = pl.Series(ROW, rows, dtype=pl.UInt32)
        return Batch(pl.DataFrame(columns), whole)
