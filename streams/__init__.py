"""An exactly-once stream processor.

The engine: an `App`, its types, and the log. The vocabulary of operators is in the package `operators`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polars import col

    from streams.app import App
    from streams.core.batch import Batch
    from streams.core.errors import StreamsError
    from streams.core.operator import Context, Operator
    from streams.core.schema import EventTime, Schema
    from streams.core.sinks import SinkTask, TwoPhaseSink
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
    "SinkTask",
    "StoreSpec",
    "Stream",
    "StreamsError",
    "TwoPhaseSink",
    "col",
    "connect",
]

# Imported when they are first asked for: pytest loads the plugin in this package wherever it is installed, and must not
# pay for Polars where nobody tests a program.
_HOMES = {
    "App": "streams.app",
    "Batch": "streams.core.batch",
    "Context": "streams.core.operator",
    "EventTime": "streams.core.schema",
    "KeyValueStore": "streams.core.store",
    "Operator": "streams.core.operator",
    "Schema": "streams.core.schema",
    "SinkTask": "streams.core.sinks",
    "StoreSpec": "streams.core.store",
    "Stream": "streams.core.stream",
    "StreamsError": "streams.core.errors",
    "TwoPhaseSink": "streams.core.sinks",
    "col": "polars",
    "connect": "streams.core.stream",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(home), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
