"""Value: a typed value by key, declared in a keyed class."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar, overload

import msgspec
from msgspec import UNSET

from operators.row_types import FARTHEST
from streams.core.errors import OperatorError, StateMismatch, WrongType
from streams.core.store import KeyValueStore
from streams.core.time import NEVER, duration

T = TypeVar("T")

_SCALARS = (int, float, str, bool, bytes)
_NOTHING = b"\x80"  # MessagePack of an empty map: a key without values


class Value(Generic[T]):
    """A value by key: a class attribute of a `Keyed` class.

        last = Value(int)
        seen = Value(list[str], ttl="1h", default=[])

    Within `on_row` and `on_timer`, `self.last.get()` is the current key's value, or the default; `self.last.set(5)` and
    `self.last.clear()` change it. A value of a wrong type fails at `set`, with TypeError.

    `type`: int (64 bits), float, str, bool, bytes, or anything msgspec can encode: lists, dicts, tuples, Structs. Of
    the latter `get` gives a fresh copy each time, so that only `set` changes the state.

    `ttl`: so long after it was set, in event time, the value is gone; its space is freed as well.
    """

    def __init__(self, type: type[T], ttl: str | int | None = None, default: T | None = None) -> None:
        self.type = type
        self.ttl = None if ttl is None else duration(ttl)
        self.name = ""
        self.packed = type not in _SCALARS
        if self.packed:
            try:
                self._decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(type)
            except Exception as error:
                raise WrongType(f"a value of type {type!r} cannot be kept: {error}", where="Value") from None
        self.default: Any = None
        if default is not None:
            try:
                self.default = self.encode(default)
            except TypeError as error:
                raise WrongType(f"default={default!r}: {error}", where="Value") from None

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: Any) -> "Value[T]": ...
    @overload
    def __get__(self, instance: object, owner: Any) -> "Cell[T]": ...
    def __get__(self, instance: object | None, owner: Any) -> Any:
        if instance is None:
            return self
        raise OperatorError(
            f"the value {self.name!r} belongs to a key: it can be had in on_row and on_timer only",
            where=type(instance).__name__,
        )

    def encode(self, value: Any) -> Any:
        """The value as the state keeps it; TypeError if it is of a wrong type."""
        if not self.packed:
            if self.type is float and type(value) is int:
                value = float(value)
            if type(value) is not self.type:
                raise TypeError(
                    f"{self.name or 'Value'} holds {self.type.__name__}, got {type(value).__name__} {value!r}"
                )
            kept: Any = value
            if self.type is int and not -(2**63) <= kept < 2**63:
                raise TypeError(f"{self.name or 'Value'}: {kept} is over 64 bits")
            return kept
        try:
            raw = msgspec.msgpack.encode(value)
            self._decoder.decode(raw)
        except Exception as error:
            raise TypeError(f"{self.name or 'Value'} holds {self.type}: {error}") from None
        return raw

    def decode(self, kept: Any) -> Any:
        """What the state keeps, as the program has it; StateMismatch if it is not of the declared type."""
        if not self.packed:
            return kept
        try:
            return self._decoder.decode(kept)
        except msgspec.MsgspecError as error:
            raise StateMismatch(
                f"a stored value {self.name!r} is not what the class declares: {error}",
                fix="give a field that was added a default; or carry the state over with a savepoint and `migrate` "
                "(docs/savepoints.md), or give the changed Value another name",
            ) from None


class Cell(Generic[T]):
    """The value of the current key."""

    __slots__ = ("_at", "_expires", "_state", "_value")

    def __init__(self, value: Value[T], number: int, state: "KeyedValues") -> None:
        self._value, self._state = value, state
        self._at, self._expires = f"v{number}", f"x{number}"

    def get(self) -> T | None:
        """The value; the default (None if there is none) where nothing is set or it has expired."""
        value, state = self._value, self._state
        kept = getattr(state.current, self._at)
        if kept is UNSET or (value.ttl is not None and state.now >= getattr(state.current, self._expires)):
            kept = value.default
            if kept is None:
                return None
        return value.decode(kept) if value.packed else kept  # type: ignore[no-any-return]

    def set(self, value: T) -> None:
        """Change it; TypeError for a wrong type."""
        declared, state = self._value, self._state
        kept = declared.encode(value)
        state.change()
        setattr(state.current, self._at, kept)
        if declared.ttl is not None:
            expires = state.now + declared.ttl
            setattr(state.current, self._expires, expires)
            if state.current.wake is None or expires < state.current.wake:
                state.current.wake = expires
                state.expiring(expires)

    def clear(self) -> None:
        """Forget it."""
        if getattr(self._state.current, self._at) is not UNSET:
            self._state.change()
            setattr(self._state.current, self._at, UNSET)
            setattr(self._state.current, self._expires, 0)
            self._state.forget_if_empty()


class _Entry:
    """The values of a key in memory."""

    __slots__ = ("dirty", "state", "stored")

    def __init__(self, state: Any, stored: bool) -> None:
        self.state, self.stored, self.dirty = state, stored, False


class KeyedValues:
    """All values of a task, by key: those of keys in use decoded in memory, all of them in a store.

    A key's values are one MessagePack map by name, so values may be added to a class later; `name@` is when a value
    expires, `@` when the key is to be looked at for that: one timer a key, however often values are set. A key without
    values has no entry.
    """

    def __init__(self, store: KeyValueStore, values: Sequence[Value[Any]], limit: int, where: str) -> None:
        self._store, self._values, self._limit, self._where = store, list(values), limit, where
        self._type = _state_type(self._values)
        self._decode = msgspec.msgpack.Decoder(self._type).decode
        self._encode = msgspec.msgpack.Encoder().encode
        self._entries: dict[bytes, _Entry] = {}
        self._entry = _Entry(self._type(), False)
        self._before: Any = None
        self.current = self._entry.state
        self.now = NEVER
        self.expiring: Callable[[int], None] = lambda expires: None

    def cells(self) -> Mapping[str, Cell[Any]]:
        return {v.name: Cell(v, i, self) for i, v in enumerate(self._values)}

    # ---- one call of a user's function: enter, then keep or undo

    def peek(self, key: bytes) -> dict[str, Any] | None:
        """The values that are set for a key, by name (also those that have expired and whose space is not freed yet);
        None if there are none."""
        entry = self._entries.get(key) or self._read(key, self._store.get(key))
        kept = {v.name: (v, getattr(entry.state, f"v{i}")) for i, v in enumerate(self._values)}
        return {name: value.decode(raw) for name, (value, raw) in kept.items() if raw is not UNSET} or None

    def prefetch(self, keys: Sequence[bytes]) -> None:
        """Read these keys at once."""
        if not self._values:
            return
        if len(self._entries) > self._limit:
            self.drain()
        entries = self._entries
        missing = [k for k in dict.fromkeys(keys) if k not in entries]
        for key, raw in zip(missing, self._store.get_many(missing) if missing else (), strict=True):
            entries[key] = self._read(key, raw)

    def enter(self, key: bytes, now: int) -> None:
        """This key is the current one, and this the time."""
        if not self._values:
            return
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = self._read(key, self._store.get(key))
        self._entry, self.current, self.now, self._before = entry, entry.state, now, None

    def change(self) -> None:
        """The current key's values are about to change."""
        if self._before is None:
            self._before = self.current.__copy__()

    def keep(self) -> None:
        if self._before is not None:
            self._entry.dirty = True

    def undo(self) -> None:
        if self._before is not None:
            self._entry.state = self.current = self._before
            self._before = None

    def forget_if_empty(self) -> None:
        if self._is_empty(self.current):
            self.current.wake = None

    def expire(self, now: int) -> int | None:
        """Free the current key's values that have expired by now; when to look again (None: not on this account)."""
        upcoming = []
        for i, value in enumerate(self._values):
            if value.ttl is None or getattr(self.current, f"v{i}") is UNSET:
                continue
            expires = getattr(self.current, f"x{i}")
            if expires <= now:
                self.change()
                setattr(self.current, f"v{i}", UNSET)
                setattr(self.current, f"x{i}", 0)
            else:
                upcoming.append(expires)
        wake = None
        if self.current.wake == now:
            self.change()
            self.current.wake = wake = min(upcoming, default=None)
        self.forget_if_empty()
        self.keep()
        return wake

    def _is_empty(self, state: Any) -> bool:
        return all(getattr(state, f"v{i}") is UNSET for i in range(len(self._values)))

    def drain(self) -> None:
        """Hand over what has changed, sorted, at once."""
        entries, encode = self._entries, self._encode
        keys: list[bytes] = []
        values: list[bytes | None] = []
        for key in sorted([k for k, e in entries.items() if e.dirty]):
            entry = entries[key]
            entry.dirty = False
            raw = encode(entry.state)
            gone = raw == _NOTHING
            if not gone or entry.stored:
                keys.append(key)
                values.append(None if gone else raw)
            entry.stored = not gone
        if keys:
            self._store.put_many(keys, values)
        if len(self._entries) > self._limit:
            self._entries = {}

    def _read(self, key: bytes, raw: bytes | None) -> _Entry:
        if raw is None:
            return _Entry(self._type(), False)
        try:
            return _Entry(self._decode(raw), True)
        except msgspec.MsgspecError as error:
            raise StateMismatch(
                f"the stored values of key {key!r} are not what the class declares: {error}",
                where=self._where,
                fix="give the changed Value another name, or begin with new state (another id: .named(...))",
            ) from None


def _state_type(values: Sequence[Value[Any]]) -> Any:
    """A mutable class with two fields a value: v0 the value, x0 the instant when it expires; and when to look at
    that."""
    fields: list[Any] = [("wake", int | None, None)]
    rename = {"wake": "@"}
    for i, value in enumerate(values):
        kept: Any = bytes if value.packed else value.type
        fields += [(f"v{i}", kept | msgspec.UnsetType, UNSET), (f"x{i}", int, 0)]
        rename |= {f"v{i}": value.name, f"x{i}": f"{value.name}@"}
    return msgspec.defstruct("State", fields, rename=rename, omit_defaults=True)


def migrated_values(
    raw: bytes, before: Mapping[str, str], values: Sequence[Value[Any]], migrate: Callable[[Any], Any]
) -> bytes | None:
    """A key's stored values, of the types `before`, as the declared `values`: what `migrate` makes of a dictionary of
    them by name. When a value expires is kept. Raises StateMismatch if the result does not fit.

    >>> seen = Value(int); seen.name = "seen"
    >>> old = msgspec.msgpack.encode({"names": msgspec.msgpack.encode(["a", "b"])})
    >>> msgspec.msgpack.decode(
    ...     migrated_values(old, {"value names": "packed list[str]"}, [seen], lambda old: {"seen": len(old["names"])})
    ... )
    {'seen': 2}
    """
    stored = msgspec.msgpack.decode(raw)
    old = {
        name: msgspec.msgpack.decode(kept) if before.get(f"value {name}", "").startswith("packed ") else kept
        for name, kept in stored.items()
        if "@" not in name
    }
    made, known = migrate(old), {v.name: v for v in values}
    if not made:
        return None
    if not isinstance(made, Mapping):
        raise StateMismatch(
            f"the migration gives {type(made).__name__}, not a dictionary of values by name", fix="correct the function"
        )
    out: dict[str, Any] = {}
    for name, value in made.items():
        if name not in known:
            raise StateMismatch(f"the migration gives {name!r}, no value of the class", fix="declare it, or leave it")
        declared = known[name]
        try:
            out[name] = declared.encode(value)
        except TypeError as error:
            raise StateMismatch(f"the migration gives a wrong type: {error}", fix="correct the function") from None
        if declared.ttl is not None:
            if f"{name}@" not in stored:
                raise StateMismatch(
                    f"the migration gives {name!r}, which expires, but nothing says when",
                    fix="carry over under its old name what expires, or begin the value empty",
                )
            out[f"{name}@"] = stored[f"{name}@"]
    if "@" in stored:
        out["@"] = stored["@"]
    return msgspec.msgpack.encode(out)


def check_instant(at: Any) -> int:
    """An instant of a timer: an int, and not absurdly far away."""
    if type(at) is not int:
        raise TypeError(f"a timer's instant is an int (milliseconds), got {type(at).__name__} {at!r}")
    if not -FARTHEST < at < FARTHEST:
        raise ValueError(f"implausible instant {at}")
    return at
