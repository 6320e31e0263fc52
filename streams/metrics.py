"""Every metric, declared once with its help text. Labels are bound once; counting is per batch, after the commit."""

from collections.abc import Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The metrics of one worker, in a registry of its own.

    >>> metrics = Metrics(); metrics.commits.inc()
    >>> b"streams_commits_total 1.0" in metrics.expose()
    True
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        make = self._make
        self.records_in = make(Counter, "records_in", "Records read, by topic", ["topic"])
        self.records_out = make(Counter, "records_out", "Records written and committed, by topic", ["topic"])
        self.late = make(Counter, "late", "Rows that came too late for an operator", ["operator"])
        self.dropped = make(Counter, "dropped", "Rows dropped on purpose, by operator and reason", ["operator", "why"])
        self.dead = make(Counter, "dead", "Records sent to the dead-letter topic, by operator", ["operator"])
        self.lag = make(Gauge, "lag", "Records left to read, by topic and partition", ["topic", "partition"])
        self.watermark_delay = make(Gauge, "watermark_delay_seconds", "Wall clock minus the task's watermark", ["task"])
        self.waiting_rows = make(
            Gauge, "waiting_rows", "Rows in memory that wait until event time has come to them on all inputs", ["task"]
        )
        self.commits = make(Counter, "commits", "Commits that succeeded")
        self.aborts = make(Counter, "aborts", "Commits that were aborted, by reason", ["reason"])
        self.commit_seconds = make(Histogram, "commit_seconds", "How long a commit takes", buckets=_SECONDS)
        self.restore_seconds = make(Histogram, "restore_seconds", "How long restoring a task takes", buckets=_SECONDS)
        self.latency = make(
            Histogram,
            "latency_seconds",
            "End to end: commit time minus the timestamp of the oldest source record in it",
            buckets=(*_SECONDS, 60, 300, 3600),
        )
        self.snapshots = make(Counter, "snapshots", "Snapshots, by outcome: done, failed, abandoned", ["outcome"])
        for outcome in ("done", "failed", "abandoned"):
            self.snapshots.labels(outcome)  # from 0 on, so that the first one is an increase
        self.snapshot_seconds = make(
            Histogram,
            "snapshot_seconds",
            "From the copy of a store to its manifest",
            buckets=(*_SECONDS, 60, 300, 3600),
        )
        self.snapshot_left_bytes = make(
            Gauge, "snapshot_left_bytes", "Bytes of the snapshots under way that are not in the checkpoint location yet"
        )
        self.snapshot_bytes = make(Counter, "snapshot_bytes", "Bytes uploaded to the checkpoint location")
        self.snapshot_time = make(Gauge, "snapshot_time_seconds", "When a task's last snapshot was done", ["task"])
        self.snapshot_copy_seconds = make(
            Histogram, "snapshot_copy_seconds", "How long copying a store held up processing", buckets=_SECONDS
        )
        self.snapshot_sweeps = make(
            Counter,
            "snapshot_sweeps",
            "Sweeps of the checkpoint location, by outcome: done, failed",
            ["outcome"],
        )
        for outcome in ("done", "failed"):
            self.snapshot_sweeps.labels(outcome)
        self.snapshot_swept_bytes = make(
            Counter,
            "snapshot_swept_bytes",
            "Bytes deleted from the checkpoint location, which no snapshot needed",
        )
        self.state_bytes = make(Gauge, "state_bytes", "Size of a task's store on disk", ["task"])
        self.overlay_bytes = make(Gauge, "overlay_bytes", "Uncommitted writes of a task in memory", ["task"])
        self.operator_seconds = make(Counter, "operator_seconds", "Time spent in an operator", ["operator"])
        self.stalls = make(
            Counter, "stalls", "Warnings that the worker's loop does not turn, by operator", ["operator"]
        )
        self.operator_rows = make(Counter, "operator_rows", "Rows given to an operator", ["operator"])
        self.tasks = make(Gauge, "tasks", "Tasks of this worker, by state", ["state"])

    def _make(self, kind: Any, name: str, text: str, labels: Sequence[str] = (), **more: Any) -> Any:
        return kind(f"streams_{name}", text, labels, registry=self.registry, **more)

    def expose(self) -> bytes:
        """The text that Prometheus scrapes."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry)
