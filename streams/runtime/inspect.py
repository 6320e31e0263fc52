"""Looking at a running application from outside: who holds which task."""

from dataclasses import dataclass

from streams.core.record import TopicPartition
from streams.core.topology import Topology
from streams.log.base import Log
from streams.runtime.plan import Plan, lease_topic, prepare
from streams.settings import Settings


@dataclass(frozen=True)
class Holding:
    """A task of an application as the log knows it: `slot` holds it, or had it last and has given it back.

    `lives`: the worker of a slot that holds it is not known to be dead. A lease does not tell: who was killed holds it
    until another worker takes it.
    """

    task: str
    reads: tuple[str, ...]
    slot: str | None
    held: bool
    sequence: int
    lag: int
    lives: bool = True


def holdings(plan: Plan, log: Log) -> list[Holding]:
    """Every task of the application, whoever works on it. Reads what is committed, which waits for open commits."""
    app = plan.app
    inputs = {
        task: [
            TopicPartition(plan.input_topic(plan.topology.subs[task.sub], i), task.partition)
            for i in range(len(plan.topology.subs[task.sub].inputs))
        ]
        for task in plan.tasks
    }
    every = [tp for tps in inputs.values() for tp in tps]
    leases = log.leases(app, [t.number for t in plan.tasks])
    committed, ends, starts = log.committed(app, every), log.ends(every), log.starts(every)
    held = any(lease is not None and lease.held for lease in leases.values())
    living = {member.slot for member in log.living(app)} if held else set()
    out = []
    for task in plan.tasks:
        lag = 0
        for tp in inputs[task]:
            at = committed[tp]
            lag += max(0, ends[tp] - (at.offset if at is not None else starts[tp]))
        lease = leases[task.number]
        out.append(
            Holding(
                str(task),
                tuple(tp.topic for tp in inputs[task]),
                lease.slot if lease is not None else None,
                lease is not None and lease.held,
                lease.sequence if lease is not None else 0,
                lag,
                lease is None or not lease.held or lease.slot in living,
            )
        )
    return out


def task_table(app: str, topology: Topology, dead_letters: str, log: Log, settings: Settings) -> str:
    """A line a task: holder and whether it lives, commit sequence, and the lag of its inputs. Changes nothing."""
    if lease_topic(app) not in log.topics([lease_topic(app)]):
        return f"{app} has never run on {log.name}"
    rows = [("task", "reads", "slot", "sequence", "lag")]
    for item in holdings(prepare(app, topology, log, dead_letters, settings.partitions, make=False), log):
        holder = "-" if item.slot is None else item.slot if item.held else f"({item.slot}, released)"
        if not item.lives:
            holder = f"{holder} (its worker is gone)"
        sequence = "-" if item.slot is None else str(item.sequence)
        rows.append((item.task, ", ".join(item.reads), holder, sequence, f"{item.lag:,}"))
    widths = [max(len(r[i]) for r in rows) for i in range(5)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows)
