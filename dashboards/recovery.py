"""The dashboard "state and recovery": tasks, sizes, restores, snapshots."""

from dashboards.panels import Query, dashboard, graph, number, of, quantiles, rate, summed

_AGE = f"time() - max by (task) ({of('streams_snapshot_time_seconds')})"


def recovery() -> str:
    """The dashboard as JSON."""
    failed = of("streams_snapshots_total", 'outcome="failed"')
    waiting = of("streams_tasks", 'state=~"created|restoring"')
    numbers = [
        number("Tasks at work", "Tasks that have been restored", summed(of("streams_tasks", 'state="running"'))),
        number("Tasks being restored", "They read nothing until that is done", summed(waiting), bad=1),
        number("State", "Size of all stores on disk", summed(of("streams_state_bytes")), unit="bytes"),
        number(
            "Oldest snapshot",
            "Age of the last snapshot of the task for which it is longest ago",
            f"max({_AGE})",
            unit="s",
        ),
        number(
            "Snapshots failed",
            "In the time range",
            f"sum(increase({failed}[$__range]))",
            bad=1,
        ),
        number(
            "Restarts",
            "Of supervised workers, in the time range",
            f"sum(increase({of('streams_worker_restarts_total')}[$__range])) or on () vector(0)",
            bad=1,
        ),
    ]
    state = [
        graph(
            "State on disk",
            "By task",
            Query(summed(of("streams_state_bytes"), "task"), "{{task}}"),
            unit="bytes",
            stacked=True,
        ),
        graph(
            "Uncommitted writes",
            "In memory, by task",
            Query(summed(of("streams_overlay_bytes"), "task"), "{{task}}"),
            unit="bytes",
            stacked=True,
        ),
        graph(
            "Tasks by worker",
            "Tasks that have been restored",
            Query(summed(of("streams_tasks", 'state="running"'), "instance, worker"), "{{instance}} {{worker}}"),
            stacked=True,
        ),
        graph("Tasks being restored", "By state", Query(summed(waiting, "state"), "{{state}}")),
    ]
    restores = [
        graph(
            "Restores", "Tasks restored a second", Query(rate("streams_restore_seconds_count"), "restores"), unit="ops"
        ),
        graph(
            "Time of restores",
            "Seconds spent on restores, since the start of each worker: mean a task",
            Query(f"sum({of('streams_restore_seconds_sum')}) / sum({of('streams_restore_seconds_count')})", "mean"),
            unit="s",
        ),
    ]
    snapshots = [
        graph(
            "Snapshots",
            "By outcome, and sweeps of what no snapshot needs any more",
            Query(rate("streams_snapshots_total", "outcome"), "{{outcome}}"),
            Query(rate("streams_snapshot_sweeps_total", "outcome"), "sweep {{outcome}}"),
            unit="ops",
        ),
        graph(
            "Age of the last snapshot",
            "By task. A task without input gets no new one",
            Query(_AGE, "{{task}}"),
            unit="s",
        ),
        graph(
            "Bytes uploaded and deleted",
            "In the checkpoint location; what is needed no more is deleted after a day",
            Query(rate("streams_snapshot_bytes_total"), "uploaded"),
            Query(rate("streams_snapshot_swept_bytes_total"), "deleted"),
            unit="Bps",
        ),
        graph(
            "Time of a snapshot",
            "From the copy of a store to its manifest",
            *quantiles("streams_snapshot_seconds"),
            unit="s",
        ),
        graph(
            "Snapshots under way",
            "What is still to be uploaded of them",
            Query(summed(of("streams_snapshot_left_bytes")), "left"),
            unit="bytes",
        ),
        graph(
            "Pause for a copy",
            "How long copying a store held up processing",
            *quantiles("streams_snapshot_copy_seconds"),
            unit="s",
        ),
    ]
    return dashboard(
        "streams-recovery",
        "streams: state and recovery",
        "Tasks, sizes of state, restores, snapshots",
        [("Now", numbers), ("State", state), ("Restores", restores), ("Snapshots", snapshots)],
    )
