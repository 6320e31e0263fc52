"""Looking at a running application from outside: who holds which task."""

from streams.core.record import TopicPartition
from streams.core.topology import Topology
from streams.log.base import Log
from streams.runtime.plan import lease_topic, prepare
from streams.settings import Settings


def task_table(app: str, topology: Topology, dead_letters: str, log: Log, settings: Settings) -> str:
    """A line a task: holder, commit sequence, and the lag of each of its inputs."""
    if lease_topic(app) not in log.topics([lease_topic(app)]):
        return f"{app} has never run on {log.name}"
    plan = prepare(app, topology, log, dead_letters, settings.partitions)
    leases = log.leases(app, [t.number for t in plan.tasks])
    rows = [("task", "reads", "slot", "sequence", "lag")]
    for task in plan.tasks:
        sub = plan.topology.subs[task.sub]
        inputs = [TopicPartition(plan.input_topic(sub, i), task.partition) for i in range(len(sub.inputs))]
        committed, ends, starts = log.committed(app, inputs), log.ends(inputs), log.starts(inputs)
        lag = 0
        for tp in inputs:
            at = committed[tp]
            lag += max(0, ends[tp] - (at.offset if at is not None else starts[tp]))
        lease = leases[task.number]
        holder = "-" if lease is None else lease.slot if lease.held else f"({lease.slot}, released)"
        sequence = "-" if lease is None else str(lease.sequence)
        rows.append((str(task), ", ".join(tp.topic for tp in inputs), holder, sequence, f"{lag:,}"))
    widths = [max(len(r[i]) for r in rows) for i in range(5)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows)
