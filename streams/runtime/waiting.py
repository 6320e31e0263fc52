"""What a person is told when very many rows wait for their turn: who holds them up, and what can be done."""

from streams.core.time import NEVER, text
from streams.core.topology import Topology
from streams.runtime.inputs import TaskInput
from streams.runtime.task import Task


def many_wait(task: Task, rows: int, topology: Topology) -> str:
    """The note: rows go on when event time has come to them on all channels, so it names the one that is behind."""
    return (
        f"task {task.id} holds {rows:,} rows in memory that wait for their turn, as "
        f"{_behind(task, topology) or 'more came than go on at a time'}; a shuffle cannot be paused. A quiet partition "
        "is not waited for with idle= of its source; one that lives must catch up; until then the worker needs the "
        "memory (docs: Operations, Sizing)"
    )


def _behind(task: Task, topology: Topology) -> str:
    """The channel with the least event time; empty if all are idle, and none is waited for."""
    live = [(c.watermark, n, item) for item in task.inputs for n, c in item.channels.items() if not c.idle]
    if not live:
        return ""
    least, number, item = min(live, key=lambda found: found[:2])
    most = max(mark for mark, _, _ in live)
    gap = "has told no event time yet" if least == NEVER else f"is {text(most - least)} behind the others in event time"
    return f"{_channel(task, item, number, topology)} {gap}"


def _channel(task: Task, item: TaskInput, number: int, topology: Topology) -> str:
    """A channel in the user's terms: a partition of a source, or of what writes a shuffle."""
    spec = item.spec
    if not spec.shuffle:
        return f"partition {task.id.partition} of source topic {spec.topic!r}"
    writers = [sub for sub in topology.subs if spec.node in sub.feeds]
    sources = sorted({topic for sub in writers for topic in sub.sources})
    named = f"source topic {' or '.join(map(repr, sources))}" if sources else f"sub-topology {writers[0].index}"
    return f"partition {number} of {named} (shuffle {spec.node!r})"
