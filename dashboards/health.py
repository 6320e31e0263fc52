"""The dashboard "pipeline health": is it running, does it keep up, what goes wrong."""

from dashboards.panels import Query, dashboard, graph, number, of, quantiles, rate, summed


def health() -> str:
    """The dashboard as JSON."""
    failures = [
        Query(rate("streams_aborts_total", "reason"), "aborts {{reason}}"),
        Query(rate("streams_stalls_total", "operator"), "stalls {{operator}}"),
    ]
    numbers = [
        number(
            "Workers",
            "Worker processes that Prometheus or their supervisor reaches",
            f"count({of('streams_commits_total')})",
        ),
        number("Records in", "Records read a second", rate("streams_records_in_total"), unit="reqps"),
        number("Lag", "Records left to read, in all topics", summed(of("streams_lag"))),
        number("Commits", "Commits a second, of all workers", rate("streams_commits_total"), unit="ops"),
        number("Dead letters", "Dead letters in the time range", _in_range("streams_dead_total"), bad=1),
        number("Aborts", "Aborted commits in the time range", _in_range("streams_aborts_total"), bad=4),
    ]
    flow = [
        graph(
            "Records read",
            "By topic; shuffles too",
            Query(rate("streams_records_in_total", "topic"), "{{topic}}"),
            unit="reqps",
        ),
        graph(
            "Records written and committed",
            "By topic; changelogs and shuffles are counted in blocks",
            Query(rate("streams_records_out_total", "topic"), "{{topic}}"),
            unit="reqps",
        ),
        graph("Lag", "Records left to read, by topic", Query(summed(of("streams_lag"), "topic"), "{{topic}}")),
        graph(
            "Watermark delay",
            "Wall clock minus the watermark of the slowest task of each sub-topology. Large when old data is replayed",
            Query(
                "max by (sub) (label_replace("
                + of("streams_watermark_delay_seconds")
                + ', "sub", "$1", "task", "(.*)/.*"))',
                "sub-topology {{sub}}",
            ),
            unit="s",
        ),
        graph(
            "Rows that wait",
            "Rows in memory that wait until event time has come to them on all inputs, by task",
            Query(f"max by (task) ({of('streams_waiting_rows')})", "{{task}}"),
        ),
    ]
    timing = [
        graph("Commits", "How long a commit takes", *quantiles("streams_commit_seconds"), unit="s"),
        graph(
            "End-to-end latency",
            "Commit time minus the timestamp of the oldest source record in it: as large as the data is old",
            *quantiles("streams_latency_seconds"),
            unit="s",
        ),
        graph(
            "Time in operators",
            "Seconds of work a second, by operator: 1 is a whole core",
            Query(rate("streams_operator_seconds_total", "operator"), "{{operator}}"),
            unit="s",
            stacked=True,
        ),
        graph(
            "Rows given to operators",
            "By operator",
            Query(rate("streams_operator_rows_total", "operator"), "{{operator}}"),
            unit="reqps",
        ),
    ]
    trouble = [
        graph(
            "Dead letters", "By operator", Query(rate("streams_dead_total", "operator"), "{{operator}}"), unit="reqps"
        ),
        graph("Late rows", "By operator", Query(rate("streams_late_total", "operator"), "{{operator}}"), unit="reqps"),
        graph("Aborted commits", "By reason. Each is redone", *failures, unit="ops"),
        graph(
            "Dropped on purpose",
            "By operator and reason",
            Query(rate("streams_dropped_total", "operator, why"), "{{operator}} {{why}}"),
            unit="reqps",
        ),
    ]
    return dashboard(
        "streams-health",
        "streams: pipeline health",
        "Is it running, does it keep up, what goes wrong. Alerts are explained in docs/operations.md",
        [("Now", numbers), ("Flow", flow), ("Time", timing), ("Trouble", trouble)],
    )


def _in_range(metric: str) -> str:
    """How much a counter has risen in the time range, its first event included."""
    old = f"{of(metric)} offset $__range"
    return f"sum(increase({of(metric)}[$__range]) or ({of(metric)} unless {old})) or on () vector(0)"
