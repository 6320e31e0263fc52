"""The vocabulary of programs: filters, keys, windows, aggregates and keyed classes over streams of columns."""

from polars import col, lit

from operators import aggregators as agg
from operators.aggregate import Window
from operators.aggregators import Aggregator, Argument, Part, nulls
from operators.files import FileSink
from operators.folds import GREATEST, LEAST, SUM, Fold
from operators.keyed_calls import KeyedContext
from operators.process import Keyed
from operators.routing import KeyBy, Union, union
from operators.rows import FlatMap, MapFrame, MapRows
from operators.running import Running
from operators.stateless import Filter, Select, WithColumns
from operators.values import Cell, Value
from operators.windows import Tumbling, tumbling
from streams.core.failures import Retry

__all__ = [
    "GREATEST",
    "LEAST",
    "SUM",
    "Aggregator",
    "Argument",
    "Cell",
    "FileSink",
    "Filter",
    "FlatMap",
    "Fold",
    "KeyBy",
    "Keyed",
    "KeyedContext",
    "MapFrame",
    "MapRows",
    "Part",
    "Retry",
    "Running",
    "Select",
    "Tumbling",
    "Union",
    "Value",
    "Window",
    "WithColumns",
    "agg",
    "col",
    "lit",
    "nulls",
    "tumbling",
    "union",
]
