"""Looking at a running application from outside: who holds which task."""

from dataclasses import dataclass

from streams.core.clock import SystemClock
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


_FEW = 100  # records: offsets between positions and ends that may be markers of transactions
_LOOK = 2.0  # seconds


def holdings(plan: Plan, log: Log, *, exact: bool = False) -> list[Holding]:
    """Every task of the application, whoever works on it. Reads what is committed, which waits for open commits.

    `exact`: a short lag is counted by reading. On Kafka the difference of offsets has the marks of transactions in it,
    so that it stands at 1 or more when everything has been read.
    """
    app = plan.app
    inputs = {task: plan.inputs(task) for task in plan.tasks}
    every = [tp for tps in inputs.values() for tp in tps]
    leases = log.leases(app, [t.number for t in plan.tasks])
    committed, ends, starts = log.committed(app, every), log.ends(every), log.starts(every)
    held = any(lease is not None and lease.held for lease in leases.values())
    living = {member.slot for member in log.living(app)} if held else set()
    begins = {tp: at.offset if (at := committed[tp]) is not None else starts[tp] for tp in every}
    lags = {tp: max(0, ends[tp] - begins[tp]) for tp in every}
    if exact:
        lags.update(_counted(log, {tp: begins[tp] for tp in every if 0 < lags[tp] <= _FEW}, ends))
    out = []
    for task in plan.tasks:
        lag = sum(lags[tp] for tp in inputs[task])
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


def _counted(log: Log, begins: dict[TopicPartition, int], ends: dict[TopicPartition, int]) -> dict[TopicPartition, int]:
    """How many records there are between these offsets and the ends; partitions that do not answer are left out."""
    if not begins:
        return {}
    reader, clock = log.reader(), SystemClock()
    found = dict.fromkeys(begins, 0)
    try:
        reader.assign(begins)
        deadline = clock.monotonic() + _LOOK
        while waiting := [tp for tp in begins if reader.position(tp) < ends[tp]]:
            if clock.monotonic() > deadline:
                break
            for records in reader.poll(_FEW, 0.05):
                found[records.source] += len(records)
    finally:
        reader.close()
    return {tp: count for tp, count in found.items() if tp not in waiting}


def task_table(app: str, topology: Topology, dead_letters: str, log: Log, settings: Settings) -> str:
    """A line a task: holder and whether it lives, commit sequence, and the lag of its inputs. Changes nothing."""
    if lease_topic(app) not in log.topics([lease_topic(app)]):
        return f"{app} has never run on {log.name}"
    rows = [("task", "reads", "slot", "sequence", "lag")]
    for item in holdings(prepare(app, topology, log, dead_letters, settings.partitions, make=False), log, exact=True):
        holder = "-" if item.slot is None else item.slot if item.held else f"({item.slot}, released)"
        if not item.lives:
            holder = f"{holder} (its worker is gone)"
        sequence = "-" if item.slot is None else str(item.sequence)
        rows.append((item.task, ", ".join(item.reads), holder, sequence, f"{item.lag:,}"))
    widths = [max(len(r[i]) for r in rows) for i in range(5)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows)
