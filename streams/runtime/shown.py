"""The stores of a program for people: their names, and keys and values as the operators mean them."""

import json
from collections.abc import Callable
from typing import Any

import msgspec

from streams.core.entries import Entries, plain
from streams.core.errors import SettingsError
from streams.core.schema import nearest
from streams.core.topology import Topology


class Shown(msgspec.Struct, frozen=True):
    """An entry as it is shown. `value` is made of what JSON knows; `note`: why it is shown as it lies there."""

    task: str
    key: str
    value: Any
    note: str = ""


class Stores:
    """What the stores of a program are called, and how their entries read. For any thread."""

    def __init__(self, app: str, topology: Topology) -> None:
        self._app, self._topology = app, topology
        self.names = [name for sub in topology.subs for name in sub.stores]

    def entries(self, name: str) -> Entries:
        """How the entries of a store read."""
        node = self._topology.graph.nodes.get(name.partition("/")[0])
        if node is None or node.operator is None:
            return Entries()
        inputs = [self._topology.graph.type_of(e) for e in node.inputs]
        return node.operator.entries(name.partition("/")[2], inputs)

    def name_of(self, store: str) -> str:
        """The whole name of a store; an operator with a single one may be named alone."""
        alone = [name for name in self.names if name.partition("/")[0] == store]
        if store in self.names:
            return store
        if len(alone) == 1:
            return alone[0]
        raise SettingsError(
            f"{self._app} has no store {store!r}{nearest(store, self.names)}",
            fix=f"one of: {', '.join(self.names)}" if self.names else "its operators keep no state",
        )

    def subs_of(self, name: str) -> set[int]:
        """The sub-topologies that have a store of this name."""
        return {sub.index for sub in self._topology.subs if name in sub.stores}

    def stored(self, name: str, key: str) -> bytes:
        """The key that is shown so. SettingsError if there is none."""
        return _told(self.entries(name).stored, key)

    def begin(self, name: str, text: str) -> bytes:
        """What all keys begin with whose text begins so. SettingsError if there is none."""
        return _told(self.entries(name).start, text)


def _told(convert: Callable[[str], bytes], text: str) -> bytes:
    try:
        return convert(text)
    except (ValueError, OverflowError) as error:
        raise SettingsError(f"{text!r} is no key of this store: {error}", fix="write it as `scan` shows it") from None


def shown(task: str, entries: Entries, key: bytes, value: bytes) -> Shown:
    """An entry for people. One that was stored by another version of the program is shown as it lies there."""
    try:
        return Shown(task, entries.key(key), _jsonable(entries.value(key, value)))
    except Exception as error:
        raw = Entries()
        note = f"not as the program declares it ({type(error).__name__}: {error})"
        return Shown(task, raw.key(key), _jsonable(raw.value(key, value)), note)


def _jsonable(value: Any) -> Any:
    """Once to JSON and back, so that it is the same whether or not it travels."""
    return json.loads(json.dumps(value, default=plain))
