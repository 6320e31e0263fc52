"""Records without a log."""

from dataclasses import dataclass
from typing import Any

import msgspec

from streams.core.record import TopicPartition
from streams.core.schema import EventTime, Schema
from streams.core.stream import Graph, make_source, source
from streams.core.topology import Input


class Tx(Schema):
    card: str
    at: EventTime
    amount: int


TX = TopicPartition("tx", 0)


@dataclass
class FakeRecords:
    """A run of records that starts at an offset; each is bytes or a dictionary."""

    items: list[Any]
    start: int = 0
    source: TopicPartition = TX
    stamps: list[int] | None = None

    @property
    def next_offset(self) -> int:
        return self.start + len(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def values(self):
        return [i if isinstance(i, bytes) or i is None else msgspec.json.encode(i) for i in self.items]

    def keys(self):
        return [None] * len(self.items)

    def timestamps(self):
        return self.stamps or [-1] * len(self.items)

    def first_timestamp(self):
        return self.timestamps()[0]

    def offsets(self):
        return list(range(self.start, self.next_offset))

    def headers(self):
        return [None] * len(self.items)


def input_of(disorder: Any = 0, schema: type[Schema] = Tx, **more: Any):
    """(Input, Source) of a topic `tx` with every column wanted."""
    arguments = {
        "key": ("card",),
        "start": "earliest",
        "idle": 1000,
        "validate": "used",
        "ahead": "366d",
        "behind": "50d",
    }
    spec, type_ = make_source("tx", schema, disorder=disorder, **{**arguments, **more})
    stream = source(Graph(), spec, type_.key, type_)
    return Input("source-tx", "tx", False, stream.type, frozenset(type_.fields)), spec


def tx(at: int, card: str = "c", amount: int = 1) -> dict[str, Any]:
    return {"card": card, "at": at, "amount": amount}
