"""What the entries of stores are: told by the operators, noted with each commit, compared when a task is opened.

So state that a changed program would misread, or whose parts it would lose without a word, is refused before a record
is read. What is noted is a digest of each aspect (a key, a value's type, the window): short, since each commit has it.
"""

from collections.abc import Mapping
from hashlib import blake2s

from streams.core.errors import StateMismatch
from streams.core.topology import SubTopology, Topology

Types = Mapping[str, Mapping[str, str]]
"""By store and aspect: texts, or their digests."""


def store_types(topology: Topology, sub: SubTopology) -> dict[str, dict[str, str]]:
    """What the entries of each store of a sub-topology are."""
    out = {}
    for node in sub.nodes:
        if node.kind == "operator" and node.operator is not None:
            types = [topology.graph.type_of(e) for e in node.inputs]
            for store in node.operator.stores:
                out[f"{node.id}/{store.name}"] = dict(node.operator.store_type(store.name, types))
    return out


def digests(types: Types) -> dict[str, dict[str, str]]:
    """
    >>> digests({"seen/values": {"value seen": "int"}})
    {'seen/values': {'value seen': 'd42cdb'}}
    """
    return {store: {name: _digest(text) for name, text in aspects.items()} for store, aspects in types.items()}


def check_types(task: str, noted: Types, now: Types) -> None:
    """StateMismatch if an aspect that was noted is gone, or is another one now. A store or an aspect may be added.

    >>> noted = digests({"seen/values": {"value seen": "int"}})
    >>> check_types("0/0", noted, {"seen/values": {"value seen": "int", "value bad": "int"}})
    >>> check_types("0/0", noted, {"seen/values": {"value seen": "str"}})
    Traceback (most recent call last):
    streams.core.errors.StateMismatch: the program has changed: what is kept in 'seen/values' is of another type
      where: task 0/0, value seen: is now str
      fix:   run the program as it was, or carry its state over with a savepoint and `migrate` (docs/savepoints.md), \
or give the operator new state by another id: .named("other")
    """
    for store, aspects in noted.items():
        if store not in now:
            continue
        for name, digest in aspects.items():
            text = now[store].get(name)
            if text is None or _digest(text) != digest:
                raise StateMismatch(
                    f"the program has changed: what is kept in {store!r} is of another type",
                    where=f"task {task}, {name}: is {'gone' if text is None else f'now {text}'}",
                    fix="run the program as it was, or carry its state over with a savepoint and `migrate` "
                    '(docs/savepoints.md), or give the operator new state by another id: .named("other")',
                )


def _digest(text: str) -> str:
    return blake2s(text.encode(), digest_size=3).hexdigest()
