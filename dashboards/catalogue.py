"""The metrics that the engine declares, taken from its registries: what queries may name, and the table of them."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import Metric

from streams.metrics import Metrics
from streams.supervisor.metrics import Merged, Source

PAGE = Path(__file__).parent.parent / "docs" / "operations.md"
BEGIN, END = "<!-- metrics: made by `python -m dashboards` -->", "<!-- end of metrics -->"


@dataclass(frozen=True)
class Declared:
    """A metric as it is declared: name (a counter's with `_total`), kind, labels, help."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str

    @property
    def series(self) -> tuple[str, ...]:
        """The names of its time series.

        >>> Declared("streams_commit_seconds", "histogram", (), "").series[0]
        'streams_commit_seconds_bucket'
        """
        if self.kind == "histogram":
            return tuple(self.name + suffix for suffix in ("_bucket", "_sum", "_count"))
        return (self.name,)


def declared() -> list[Declared]:
    """Those of a worker, then those that a supervisor adds."""
    metrics = Metrics()
    labels = {made._name: tuple(made._labelnames) for made in vars(metrics).values() if hasattr(made, "_labelnames")}
    out = [_declared(family, labels[family.name]) for family in metrics.registry.collect()]
    added = Merged(lambda: [Source("0", 0, lambda timeout: b"")]).collect()
    return out + [_declared(family, _labels_of(family)) for family in added]


def names() -> frozenset[str]:
    """The names of all time series.

    >>> {"streams_lag", "streams_commits_total", "streams_worker_up"} <= names()
    True
    """
    return frozenset(series for metric in declared() for series in metric.series)


def table() -> str:
    """All metrics as Markdown."""
    lines = ["| metric | kind | labels | what it is |", "|---|---|---|---|"]
    for metric in declared():
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |")
    return "\n".join(lines)


def in_page(text: str) -> str:
    """The page with the table as it should be."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


def _declared(family: Metric, labels: Iterable[str]) -> Declared:
    name = f"{family.name}_total" if family.type == "counter" else family.name
    return Declared(name, family.type, tuple(labels), family.documentation)


def _labels_of(family: Metric) -> list[str]:
    return sorted({label for sample in family.samples for label in sample.labels})
