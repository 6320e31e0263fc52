"""How the stores of these operators read: keys as the stream's, values by name. For `streams state`."""

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import polars as pl

from operators.aggregation import Aggregation
from operators.stored_keys import SIGNATURE, StoredKeys, instant_bytes, instant_of
from operators.values import Value
from streams.core.entries import Entries, readable
from streams.core.schema import StreamType

_SIGNATURE = "(signature)"
_CLOSED = "(closed)"


class KeyText(Entries):
    """Keys of the stream: `c1` for one column, `["c1",7]` for several; a null is `(null)`, bytes are hex."""

    def __init__(self, type: StreamType) -> None:
        self._keys = StoredKeys(type)
        self._one = len(self._keys.dtypes) == 1

    def key(self, key: bytes) -> str:
        if not self._one:
            return key.decode()
        (value,) = self._keys.decode_one(key)
        if value is None:
            return "(null)"
        if isinstance(value, bool):
            return "true" if value else "false"
        return "0x" + value.hex() if isinstance(value, bytes) else str(value)

    def stored(self, text: str) -> bytes:
        if self._one and text == "(null)":
            return b"\xff"
        return self._bytes(text if self._one else msgspec.json.encode(json.loads(text)).decode())

    def start(self, text: str) -> bytes:
        return self._bytes(text)

    def _bytes(self, text: str) -> bytes:
        if self._one and self._keys.dtypes[0] == pl.Binary:
            return b"=" + (bytes.fromhex(text[2:]) if text.startswith("0x") else text.encode())
        return text.encode()


class ValueEntries(KeyText):
    """The values of a `Keyed` class; `name@` is the instant at which a value expires."""

    def __init__(self, type: StreamType, values: Sequence[Value[Any]]) -> None:
        super().__init__(type)
        self._packed = {v.name for v in values if v.packed}

    def value(self, key: bytes, value: bytes) -> Any:
        found = msgspec.msgpack.decode(value)
        found.pop("@", None)  # when the engine looks at the key next
        return {n: msgspec.msgpack.decode(v) if n in self._packed else v for n, v in found.items()}


class TimerEntries(KeyText):
    """Timers, `INSTANT:KEY`; the value says whose they are."""

    def key(self, key: bytes) -> str:
        return f"{instant_of(key)}:{super().key(key[8:])}"

    def stored(self, text: str) -> bytes:
        at, _, key = text.partition(":")
        return instant_bytes(int(at)) + super().stored(key)

    def start(self, text: str) -> bytes:
        at, _, key = text.partition(":")
        return instant_bytes(int(at)) + (super().start(key) if key else b"")

    def value(self, key: bytes, value: bytes) -> Any:
        kinds = {117: "timer", 101: "expiry"}
        return [kinds.get(kind, chr(kind)) for kind in value or b"u"]


class RunningEntries(KeyText):
    """Running aggregates by key."""

    def __init__(self, type: StreamType, made: Aggregation) -> None:
        super().__init__(type)
        self._made = made

    def key(self, key: bytes) -> str:
        return _SIGNATURE if key == SIGNATURE else super().key(key)

    def stored(self, text: str) -> bytes:
        return SIGNATURE if text == _SIGNATURE else super().stored(text)

    def value(self, key: bytes, value: bytes) -> Any:
        return readable(value) if key == SIGNATURE else results(self._made, value)


class WindowEntries(TimerEntries):
    """Open windows, `START:KEY`; `(closed)` tells up to where windows are closed, and what the rows are."""

    def __init__(self, type: StreamType, made: Aggregation) -> None:
        super().__init__(type)
        self._made = made

    def key(self, key: bytes) -> str:
        return _CLOSED if key == b"\x00" else super().key(key)

    def stored(self, text: str) -> bytes:
        return b"\x00" if text == _CLOSED else super().stored(text)

    def value(self, key: bytes, value: bytes) -> Any:
        if key == b"\x00":
            return {"closed_before": instant_of(value), "rows": readable(value[8:])}
        return results(self._made, value)


def results(made: Aggregation, value: bytes) -> dict[str, Any]:
    """The aggregates of a stored row."""
    return {series.name: series[0] for series in made.results(np.frombuffer(value, made.layout))}
