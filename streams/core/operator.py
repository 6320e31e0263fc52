"""The narrow waist: the engine knows only this. A user's own operator is the equal of a built-in one."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, Self

from streams.core.batch import Batch
from streams.core.entries import Entries
from streams.core.errors import StateMismatch
from streams.core.failures import Failures, Policy
from streams.core.schema import StreamType
from streams.core.store import KeyValueStore, StoreSpec


class Context(Protocol):
    """What an operator is given when a task opens it. One for each operator and task."""

    @property
    def operator_id(self) -> str: ...

    @property
    def inputs(self) -> Sequence[StreamType]:
        """The types of the input ports."""
        ...

    @property
    def output(self) -> StreamType: ...

    @property
    def partition(self) -> int:
        """The task's partition."""
        ...

    @property
    def channels(self) -> int:
        """How many channels (source partitions, writers of a shuffle) feed the task."""
        ...

    @property
    def cache_rows(self) -> int:
        """How many rows of state the operator may keep in memory between commits."""
        ...

    @property
    def piece_rows(self) -> int:
        """About how many stored rows should go out at once, where there may be millions: see `Operator.unfinished`."""
        ...

    def failures(self, policy: Policy | None) -> Failures:
        """What becomes of rows on which a user's function fails; None: as the app says."""
        ...

    def store(self, name: str) -> KeyValueStore:
        """A store that the operator has declared."""
        ...

    def emit(self, side: str, batch: Batch) -> None:
        """Rows for a side output that the operator has declared."""
        ...

    def dead(self, batch: Batch, rows: Sequence[int], causes: Sequence[str]) -> None:
        """These rows of the batch (positions in its frame) are bad: one dead letter each, inside the commit."""
        ...

    def late(self, rows: int) -> None:
        """So many rows came too late; counted in the metrics after the commit."""
        ...

    def dropped(self, rows: int, why: str) -> None:
        """So many rows were dropped on purpose; counted in the metrics after the commit."""
        ...


class Operator(ABC):
    """One step of a topology.

    An instance in a program is a template: each task works on a shallow copy of it, opened with a context of its own.
    Put what belongs to a task in `open`, never in `__init__`. After an abort the task is closed and its operators are
    copied and opened anew, so nothing uncommitted can survive.

    Guarantees to keep: the output does not depend on how the input is cut into batches; after `drain` nothing lives
    outside the stores; a failing `process` leaves neither output nor state.

    >>> import polars as pl
    >>> class Double(Operator):
    ...     def process(self, batch, port=0):
    ...         return batch.with_frame(batch.frame.with_columns(pl.col("n") * 2))
    >>> Double().process(Batch(pl.DataFrame({"n": [1, 2]}))).frame["n"].to_list()
    [2, 4]
    """

    ports: int = 1
    """How many input streams it takes (`connect(a, b) | operator`)."""

    sides: Sequence[str] = ()
    """Names of side outputs, each of the type `bind_side` gives."""

    stores: Sequence[StoreSpec] = ()
    """The stores it keeps; names are unique within the operator."""

    ordered: bool = False
    """It depends on the order of rows: where several channels meet, the task releases them by event time."""

    kind: str = ""
    """The stem of automatic ids; the class's name where empty."""

    migrate: Mapping[str, Callable[[Any], Any]] = {}
    """By store: a function from an entry's value, as a savepoint has it, to what this version keeps (None: nothing).
    Values are bytes where the operator does not say otherwise. Used by `streams savepoint restore` where a store's type
    has changed."""

    id: str | None = None
    """The stable id: state is found by it. Set it with `named`."""

    unfinished: bool = False
    """After `drain` or `open`: outputs are left for the next drain, which follows at once: in pieces, since the brokers
    end a commit that takes too long. What is left lies in the stores, and `hold` keeps event time behind it."""

    def named(self, id: str) -> Self:
        """A copy of the operator with this stable id."""
        made = copy.copy(self)
        made.id = id
        return made

    # ---- while the program is built

    def bind(self, *inputs: StreamType) -> StreamType:
        """Check the inputs and tell the output's type. Raise a BuildError for a wrong program."""
        return inputs[0]

    def bind_side(self, side: str, *inputs: StreamType) -> StreamType:
        """The type of a side output."""
        return inputs[0]

    def needs(self, wanted: set[str], port: int, inputs: Sequence[StreamType]) -> set[str]:
        """The columns of an input port that are read when `wanted` columns of the output (and of every side output in
        use) are: what nobody reads is not decoded. By default all."""
        return set(inputs[port].columns)

    def hold(self) -> int:
        """How far, in milliseconds, outputs may lie behind the input's watermark."""
        return 0

    def entries(self, store: str, inputs: Sequence[StreamType]) -> Entries:
        """How the entries of a store read, for `streams state`. By default as text, MessagePack or hex."""
        return Entries()

    # ---- savepoints: what the entries of its stores are

    def store_type(self, store: str, inputs: Sequence[StreamType]) -> Mapping[str, str]:
        """What a store's entries are: texts by aspect (key, rows, ...), kept in savepoints. A restore takes state whose
        aspects are all there with equal texts; a new aspect may be added."""
        return {}

    def key_of(self, store: str, entry: bytes, inputs: Sequence[StreamType]) -> bytes | None:
        """The key, as shuffles and producers hash it, of an entry with this key in a store; None for an entry that
        belongs to the task as a whole. An operator that does not override it cannot be rescaled."""
        raise NotImplementedError

    def combine(self, store: str, entry: bytes, values: Sequence[bytes | None]) -> bytes | None:
        """One entry of a task as a whole (`key_of` is None) from those of several tasks, None where one has none.

        Raise StateMismatch if they do not fit together. By default all that there are must be equal.
        """
        found = {v for v in values if v is not None}
        if len(found) > 1:
            raise StateMismatch(f"tasks do not agree on the entry {entry!r}", where=f"store {store!r}")
        return next(iter(found), None)

    def migrated(
        self, store: str, entry: bytes, value: bytes, before: Mapping[str, str], inputs: Sequence[StreamType]
    ) -> bytes | None:
        """The value of the entry with this key as this version keeps it: what `migrate` makes of it. `before`: the type
        it was kept as. An operator with entries that tell of the store itself (`key_of` is None) overrides it for them.
        """
        made: bytes | None = self.migrate[store](value)
        return made

    # ---- while a task runs

    def open(self, context: Context) -> None:
        """A task begins, at its start and after every abort."""
        self.context = context

    @abstractmethod
    def process(self, batch: Batch, port: int = 0) -> Batch | None:
        """Rows in, rows out; None is no rows. Called with at least one row."""

    def process_ordered(self, batches: Sequence[tuple[int, Batch]]) -> Batch | None:
        """For operators that are `ordered` and have several ports: all rows of one release, as (port, batch).

        Within a batch rows are in the order of event time; the operator merges them by (event time, port).
        """
        raise NotImplementedError(f"{type(self).__name__} is ordered, has several ports and no process_ordered")

    def advance(self, watermark: int) -> Batch | None:
        """Event time has moved: no more rows before `watermark` are expected."""
        return None

    def drain(self) -> Batch | None:
        """A commit begins. After it, nothing lives outside the stores. Called again for the same commit where event
        time has moved behind an operator that drained."""
        return None

    def state_of(self, key: Sequence[Any]) -> Any:
        """What it keeps of a key, as plain Python values, for people and tests; None if nothing. Called after a drain;
        `key` has the values of the stream's key columns. By default an operator does not tell."""
        raise NotImplementedError(f"{type(self).__name__} does not tell what it keeps of a key")

    def close(self) -> None:  # noqa: B027 - most operators have nothing to close
        """The task ends or aborts."""
