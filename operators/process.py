"""Keyed: a user's class with values and timers by key."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import signature
from typing import Any, ClassVar, Generic, TypeVar, get_args, get_origin

from operators.entries import TimerEntries, ValueEntries
from operators.keyed_calls import Calls, KeyedContext, Port
from operators.row_types import RowReader, RowWriter, row_class
from operators.stored_keys import StoredKeys
from operators.timers import timer_key
from operators.value_types import type_texts
from operators.values import Cell, Value, migrated_values
from streams.core.batch import Batch
from streams.core.entries import Entries
from streams.core.errors import UnknownColumn, WrongType
from streams.core.failures import Policy, checked
from streams.core.operator import Context, Operator
from streams.core.schema import Schema, StreamType, describe, nearest
from streams.core.store import StoreSpec

In = TypeVar("In")
Out = TypeVar("Out")

__all__ = ["Cell", "Keyed", "KeyedContext", "Value"]


class Keyed(Operator, Generic[In, Out]):
    """A class of your own that is called for each row, with values and timers by key.

        class Burst(Keyed[Payment, Alert]):
            last = Value(int, ttl="1h")

            def on_row(self, row, ctx):
                if self.last.get() is not None and row.at - self.last.get() < 60_000:
                    yield Alert(row.card_id, "BURST")
                self.last.set(row.at)
                ctx.timer(row.at + 60_000)

            def on_timer(self, at, ctx):
                self.last.clear()

    `on_row(row, ctx)` yields, or returns a list of, outputs (None: nothing); so does `on_timer(at, ctx)`. `row` has the
    stream's columns as attributes: an instance of `In` where it is a Schema (then only its fields are decoded), else of
    the stream's own. `ctx` tells `key`, `time` and `watermark`, and sets timers: see `KeyedContext`.

    Class attributes:

    - `returns`: the schema of the outputs; by default the second type in `Keyed[In, Out]`.
    - `inputs`: names of several input ports. With `inputs = ("label", "payment")` the methods are `on_label` and
      `on_payment`, and streams come by `connect(labels, payments) | Mine()`. Rows come in the order of event time, at
      equal times the earlier port first.
    - `key`: the output's columns that hold the input's key unchanged, so that the output has a key. By default it has
      none.
    - `on_error`: what becomes of a row or timer on which a method raises: "dead-letter", "stop", "retry" or
      `Retry(...)`; by default as the app says. (Where an input is called "error", `on_error` is its method.)
    - values: see `Value`.

    Event time of an output is that of its schema's `EventTime` field if it has one, else of the row or timer it comes
    from.

    When timers fire: a timer at T fires once the watermark is above T; among them, in the order of (T, key). Where one
    channel feeds the task, that is before the first row whose own watermark is above T. Where several do, rows come
    sorted by turn (event time, or the row's own watermark if it came late), and it is before the first row whose turn
    is above T. A timer set at or before the watermark fires next.

    Guarantees: the result does not depend on how the input is cut into batches and commits. A call that raises, or
    whose output does not fit its schema, leaves no trace but one dead letter: its outputs, values and timers are undone
    (a timer's call: a dead letter with the key and the instant). Everything the class remembers elsewhere (`self.x =
    ...`) is lost at each restart: keep it in values.

    How it works: values and timers live decoded in memory for the keys in use, are read from their stores with one call
    a batch, and handed over, sorted, once a commit. Timers beyond the nearest stay in the store.

    Costs 1 to 2 microseconds a row of a key in memory, 4 a timer that is set and fires, beside your own code; a key
    that must be read costs some 10 more. Raises, while the program is built: NoKey; NoEventTime for
    timers, values with a `ttl` or several inputs on a stream without event time; WrongType.

    >>> from streams.core.schema import EventTime
    >>> from tests.operators.checks import stream, run
    >>> class Payment(Schema):
    ...     card: str
    ...     at: EventTime
    >>> class Quiet(Schema):
    ...     card: str
    ...     since: int
    >>> class Silence(Keyed[Payment, Quiet]):
    ...     last = Value(int)
    ...     def on_row(self, row, ctx):
    ...         self.last.set(row.at)
    ...         ctx.timer(row.at + 1000)
    ...     def on_timer(self, at, ctx):
    ...         if self.last.get() == at - 1000:
    ...             yield Quiet(ctx.key, at)
    >>> payments = [Payment("a", 0), Payment("a", 600), Payment("b", 9000)]
    >>> run(Silence(), stream(Payment, key="card"), payments).rows
    [{'card': 'a', 'since': 1600}]
    """

    returns: ClassVar[type[Schema] | None] = None
    inputs: ClassVar[Sequence[str]] = ()
    key: ClassVar[str | Sequence[str]] = ()
    on_error: ClassVar[Any] = None
    ordered = True

    _takes: ClassVar[type[Schema] | None] = None
    _values: ClassVar[Sequence[Value[Any]]] = ()
    _handlers: ClassVar[Sequence[str]] = ("on_row",)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        where = cls.__name__
        for base in cls.__dict__.get("__orig_bases__", ()):
            if isinstance(get_origin(base), type) and issubclass(get_origin(base), Keyed):
                takes, returns = (*get_args(base), None, None)[:2]
                cls._takes = takes if _is_schema(takes) else None
                if "returns" not in cls.__dict__ and _is_schema(returns):
                    cls.returns = returns
        values = {n: v for c in reversed(cls.__mro__) for n, v in vars(c).items() if isinstance(v, Value)}
        cls._values = [v for n, v in values.items() if getattr(cls, n) is v]
        for value in cls._values:
            if hasattr(Keyed, value.name) or value.name == "context" or "@" in value.name:
                raise WrongType(f"a value cannot be called {value.name!r}", where=where, fix="the engine uses it")
        if isinstance(cls.inputs, str) or len(set(cls.inputs)) < len(cls.inputs):
            raise WrongType(f"inputs={cls.inputs!r}", where=where, fix='inputs = ("label", "payment")')
        cls._handlers = [f"on_{name}" for name in cls.inputs] or ["on_row"]
        cls.ports = len(cls._handlers)
        timers = cls.on_timer is not Keyed.on_timer
        expiring = any(v.ttl is not None for v in cls._values)
        specs = [("values", bool(cls._values)), ("timers", timers or expiring)]
        cls.stores = [StoreSpec(name, cache=False) for name, used in specs if used]

    def on_row(self, row: In, ctx: KeyedContext) -> Iterable[Out] | None:
        """A row has come. Override it (with several `inputs`: on_<name> of each)."""
        raise NotImplementedError

    def on_timer(self, at: int, ctx: KeyedContext) -> Iterable[Out] | None:
        """A timer of the current key is due. Override it to use timers."""
        raise NotImplementedError

    # ---- while the program is built

    def bind(self, *inputs: StreamType) -> StreamType:
        where = self.id or type(self).__name__
        if self._policy() is not None:
            checked(self._policy(), where)
        if self.returns is None:
            raise WrongType(
                "what does the class give?", where=where, fix="write class Mine(Keyed[In, Out]), or returns = MySchema"
            )
        for name in self._handlers:
            handler = getattr(self, name, None)
            if handler is None or getattr(type(self), name, None) is Keyed.on_row:
                raise WrongType(f"the class has no method {name}", where=where, fix=f"def {name}(self, row, ctx): ...")
            _check_takes(handler, ("row", "ctx"), where)
        _check_takes(self.on_timer, ("at", "ctx"), where)
        timed = len(inputs) > 1 or any(s.name == "timers" for s in self.stores)
        for type_ in inputs:
            type_.require_key(where)
            if timed:
                type_.require_time(where)
            if [type_.fields[k].dtype for k in type_.key] != [inputs[0].fields[k].dtype for k in inputs[0].key]:
                raise WrongType(
                    "the inputs have keys of different types", where=where, fix="make them agree with KeyBy"
                )
        if len(inputs) == 1:
            _check_row(self._takes, inputs[0], where)
        made = StreamType(describe(self.returns)[0], self._output_key(), all(t.time for t in inputs), self.returns)
        made.require(made.key, f"{where}, key=")
        if made.key and len(made.key) != len(inputs[0].key):
            raise WrongType(
                f"key={made.key} says where the key of the input is found, which has {inputs[0].key}",
                where=where,
                fix='for another key put KeyBy("column") behind it',
            )
        return made

    def needs(self, wanted: set[str], port: int, inputs: Sequence[StreamType]) -> set[str]:
        type_ = inputs[port]
        if self._takes is None or len(inputs) > 1:
            return set(type_.columns)
        return set(self._takes.__struct_fields__) | set(type_.key)

    def entries(self, store: str, inputs: Sequence[StreamType]) -> Entries:
        return ValueEntries(inputs[0], self._values) if store == "values" else TimerEntries(inputs[0])

    # ---- savepoints

    def store_type(self, store: str, inputs: Sequence[StreamType]) -> Mapping[str, str]:
        made = {"key": StoredKeys(inputs[0]).type}
        if store == "values":  # by name: values may be added
            for value in self._values:
                made |= type_texts(f"value {value.name}", value.type, value.packed)
        return made

    def key_of(self, store: str, entry: bytes, inputs: Sequence[StreamType]) -> bytes | None:
        return StoredKeys(inputs[0]).hashed(timer_key(entry) if store == "timers" else entry)

    def migrated(
        self, store: str, entry: bytes, value: bytes, before: Mapping[str, str], inputs: Sequence[StreamType]
    ) -> bytes | None:
        """The function for "values" is given all values of a key by name, and gives them."""
        if store != "values":
            return super().migrated(store, entry, value, before, inputs)
        return migrated_values(value, before, self._values, self.migrate[store])

    # ---- while a task runs

    def open(self, context: Context) -> None:
        super().open(context)
        assert self.returns is not None
        ports = []
        for number, type_ in enumerate(context.inputs):
            takes = self._takes if len(context.inputs) == 1 else None
            columns = list(takes.__struct_fields__) if takes is not None else type_.columns
            reader = RowReader(takes or row_class(type_), columns)
            ports.append(Port(type_, reader, getattr(self, self._handlers[number])))
        stores = {s.name: context.store(s.name) for s in self.stores}
        on_timer: Callable[..., Any] | None = self.on_timer if type(self).on_timer is not Keyed.on_timer else None
        failures = context.failures(self._policy())
        self._calls = Calls(
            context, ports, on_timer, self._values, stores, RowWriter(self.returns), self._output_key(), failures
        )
        self.__dict__.update(self._calls.cells())

    def process(self, batch: Batch, port: int = 0) -> Batch | None:
        return self._calls.rows([(port, batch)])

    def process_ordered(self, batches: Sequence[tuple[int, Batch]]) -> Batch | None:
        return self._calls.rows(batches)

    def advance(self, watermark: int) -> Batch | None:
        return self._calls.advance(watermark)

    def drain(self) -> None:
        self._calls.drain()

    def state_of(self, key: Sequence[Any]) -> dict[str, Any] | None:
        return self._calls.state_of(key)

    def _policy(self) -> Policy | None:
        return None if "on_error" in self._handlers else self.on_error

    def _output_key(self) -> tuple[str, ...]:
        return (self.key,) if isinstance(self.key, str) else tuple(self.key)


def _is_schema(candidate: Any) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, Schema)


def _check_takes(method: Callable[..., Any], arguments: Sequence[str], where: str) -> None:
    try:
        signature(method).bind(*arguments)
    except TypeError as error:
        name, wanted = method.__name__, ", ".join(arguments)
        raise WrongType(
            f"{name} is called with {wanted}, and does not take them: {error}",
            where=where,
            fix=f"def {name}(self, {wanted}): ...",
        ) from None


def _check_row(takes: type[Schema] | None, type_: StreamType, where: str) -> None:
    """The stream's columns give the rows that the class takes."""
    if takes is None:
        row_class(type_)
        return
    for name, field in describe(takes)[0].items():
        have = type_.fields.get(name)
        if have is None:
            raise UnknownColumn(
                f"{takes.__name__} has a field {name!r}, the stream has no such column{nearest(name, type_.fields)}",
                where=where,
                fix=f"the stream has: {', '.join(type_.fields)}",
            )
        if have.dtype != field.dtype:
            raise WrongType(f"{takes.__name__}.{name} is {field.dtype}, the stream's is {have.dtype}", where=where)
