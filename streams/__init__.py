"""An exactly-once stream processor.

The engine: an `App`, its types, and the log. The vocabulary of operators is in the package `operators`.
"""

from polars import col

from streams.app import App
from streams.core.batch import Batch
from streams.core.errors import StreamsError
from streams.core.operator import Context, Operator
from streams.core.schema import EventTime, Schema
from streams.core.store import KeyValueStore, StoreSpec
from streams.core.stream import Stream, connect

__all__ = [
    "App",
    "Batch",
    "Context",
    "EventTime",
    "KeyValueStore",
    "Operator",
    "Schema",
    "StoreSpec",
    "Stream",
    "StreamsError",
    "col",
    "connect",
]
