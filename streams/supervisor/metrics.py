"""The metrics of all workers under one port: asked for when we are asked, each sample with a label `worker`.

A worker's counters begin at 0 again when it is started anew, as Prometheus expects of a process; while it is down its
samples are missing and `streams_worker_up` is 0.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

_PATIENCE = 2.0


@dataclass(frozen=True)
class Source:
    """A worker as the collector sees it. `ask` waits at most so many seconds for the exposition."""

    slot: str
    restarts: int
    ask: Callable[[float], bytes | None]


class Merged(Collector):
    """All workers' metrics as one."""

    def __init__(self, sources: Callable[[], Sequence[Source]]) -> None:
        self._sources = sources

    def collect(self) -> Iterable[Metric]:
        sources = self._sources()
        with ThreadPoolExecutor(max(1, len(sources))) as pool:
            answers = list(pool.map(lambda source: source.ask(_PATIENCE), sources))
        up = GaugeMetricFamily("streams_worker_up", "1 if the worker answers its supervisor", labels=["worker"])
        restarts = CounterMetricFamily("streams_worker_restarts", "Restarts of a worker that died", labels=["worker"])
        families: dict[str, Metric] = {}
        for source, answer in zip(sources, answers, strict=True):
            up.add_metric([source.slot], float(bool(answer)))
            restarts.add_metric([source.slot], source.restarts)
            for family in text_string_to_metric_families((answer or b"").decode()):
                into = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                into.samples += [labelled(sample, source.slot) for sample in family.samples]
        return [up, restarts, *families.values()]


def labelled(sample: Sample, slot: str) -> Sample:
    """The sample with the label `worker`.

    >>> labelled(Sample("lag", {"topic": "tx"}, 3.0), "0-1").labels
    {'worker': '0-1', 'topic': 'tx'}
    """
    return sample._replace(labels={"worker": slot, **sample.labels})


def exposition(sources: Callable[[], Sequence[Source]]) -> Callable[[], bytes]:
    """What to serve at /metrics, made anew at each call; it waits for the workers."""
    registry = CollectorRegistry()
    registry.register(Merged(sources))
    return lambda: generate_latest(registry)
