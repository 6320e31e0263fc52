"""What a program needs from a log: its topics, found and made, and where its tasks lie."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

from streams.core.errors import TopicMismatch, TopicMissing
from streams.core.record import TopicPartition
from streams.core.schema import nearest
from streams.core.stream import Node
from streams.core.topology import SubTopology, TaskId, Topology
from streams.log.base import Log, TopicInfo, TopicSpec
from streams.runtime.position import topic_mark
from streams.runtime.store_types import digests, store_types

_INTERNAL = {"retention.ms": "-1", "max.message.bytes": "16777216"}


@dataclass(frozen=True)
class Plan:
    """A topology placed on a log."""

    app: str
    topology: Topology
    partitions: Mapping[int, int]
    """By sub-topology."""
    topics: Mapping[str, TopicInfo]
    fingerprint: str
    tasks: tuple[TaskId, ...]
    dead_letters: str

    @cached_property
    def types(self) -> Mapping[int, dict[str, dict[str, str]]]:
        """By sub-topology: what the entries of its stores are."""
        return {sub.index: store_types(self.topology, sub) for sub in self.topology.subs}

    @cached_property
    def digests(self) -> Mapping[int, dict[str, dict[str, str]]]:
        """The same as each commit notes it."""
        return {index: digests(types) for index, types in self.types.items()}

    def changelog(self, sub: int) -> str:
        return changelog_topic(self.app, sub)

    def input_topic(self, sub: SubTopology, index: int) -> str:
        spec = sub.inputs[index]
        return shuffle_topic(self.app, spec.node) if spec.shuffle else spec.topic

    def inputs(self, task: TaskId) -> list[TopicPartition]:
        """What the task reads, in the order of its sub-topology's inputs."""
        sub = self.topology.subs[task.sub]
        return [TopicPartition(self.input_topic(sub, i), task.partition) for i in range(len(sub.inputs))]

    def channels(self, sub: SubTopology, index: int) -> int:
        """How many tasks write to this input; a source partition is one channel."""
        spec = sub.inputs[index]
        if not spec.shuffle:
            return 1
        return sum(self.partitions[s.index] for s in self.topology.subs if spec.node in s.feeds)

    def first_channel(self, node: str, sub: int) -> int:
        """The number of a sub-topology's first channel in a shuffle."""
        before = [s for s in self.topology.subs if node in s.feeds and s.index < sub]
        return sum(self.partitions[s.index] for s in before)

    def reader_of(self, node: str) -> SubTopology:
        return next(s for s in self.topology.subs if any(i.node == node for i in s.inputs))

    def sinks(self, sub: SubTopology) -> list[Node]:
        return [n for n in sub.nodes if n.kind == "sink"]

    def shuffles(self, sub: SubTopology) -> list[Node]:
        return [self.topology.graph.nodes[id] for id in sub.feeds]


def lease_topic(app: str) -> str:
    return f"{app}-tasks"


def changelog_topic(app: str, sub: int) -> str:
    return f"{app}-{sub}-changelog"


def shuffle_topic(app: str, node: str) -> str:
    return f"{app}-{node}-shuffle"


def prepare(
    app: str,
    topology: Topology,
    log: Log,
    dead_letters: str,
    partitions: int,
    *,
    had: Mapping[str, int] = MappingProxyType({}),
    make: bool = True,
    check: bool = True,
) -> Plan:
    """Find the program's topics, make those that are its own, and place its tasks. `had`: partition counts that source
    topics had before they were given more, for who does not read them.

    Source topics must exist; sinks, the dead-letter topic and internal topics are made where they are missing. Tools
    that only look say `make=False`: then what is missing is missing in `topics`.

    Raises TopicMismatch where an internal topic has other partitions than the program needs now, since state, leases
    and rows under way are bound to them; `check=False` is for who deletes it all.
    """
    sources = sorted({t for sub in topology.subs for t in sub.sources})
    found = log.topics(sources)
    missing = [t for t in sources if t not in found]
    if missing:
        raise TopicMissing(
            f"no topic {missing[0]!r}{nearest(missing[0], log.all_topics())}",
            where=log.name,
            fix=f"create it (`streams topics create {missing[0]} --partitions N{log.option}`), or correct the name in "
            "app.source(...)",
        )
    counts = topology.place({t: had.get(t, i.partitions) for t, i in found.items()}, partitions)
    tasks = topology.tasks(counts)
    most = max(counts.values())
    bound = internal_topics(app, topology, counts)
    free = [TopicSpec(dead_letters, most, _INTERNAL)]
    for sub in topology.subs:
        for node in sub.nodes:
            if node.sink is not None:
                free.append(TopicSpec(node.sink.topic, node.sink.partitions or most, {"retention.ms": "-1"}))
    if make:
        log.create([*bound, *free])
    topics = {**found, **log.topics([t.name for t in (*bound, *free)])}
    if check:
        _check_counts(app, topics, bound)
    fingerprint = topology.fingerprint(counts)
    return Plan(app, topology, counts, topics, fingerprint, tuple(tasks), dead_letters)


def check_grown(plan: Plan, log: Log) -> None:
    """TopicMismatch if a source topic has other partitions now than when the plan was made: nobody would read what lies
    in the new ones, and windows would close without it; or if it was deleted and made again, and would be read on from
    where the former one stood. Raises LogError if the log does not answer."""
    sources = sorted({topic for sub in plan.topology.subs for topic in sub.sources})
    for name, info in log.topics(sources).items():
        was, now = topic_mark(plan.topics[name].id), topic_mark(info.id)
        if was and now and was != now:
            raise TopicMismatch(
                f"source topic {name!r} was deleted and made again while this worker ran: it had the id {was}..., "
                f"and has {now}... now",
                where=f"application {plan.app!r}",
                fix=made_again(plan.app),
            )
        before = plan.topics[name].partitions
        if info.partitions != before:
            rest = "what lies in the new ones is not read" if info.partitions > before else "it was made anew"
            raise TopicMismatch(
                f"source topic {name!r} has {info.partitions} partitions now, and had {before} when this worker "
                f"started: {rest}",
                where=f"application {plan.app!r}",
                fix=_changed(plan.app),
            )


def _changed(app: str) -> str:
    return (
        "the partitions of a source topic, or the program, have changed since the first run. To begin anew: `streams "
        "reset PROGRAM`. To keep the state, take it elsewhere by a savepoint: with the old program `streams savepoint "
        "create NAME PROGRAM` (--had TOPIC=N if a source topic has grown), then under another app name `streams "
        f"savepoint restore NAME PROGRAM --from-app {app}`: see docs/savepoints.md"
    )


def made_again(app: str) -> str:
    """The ways out where a source topic was deleted and made again."""
    return (
        "to begin anew: `streams reset PROGRAM`, or another app name. If it has the same records at the same offsets "
        "(it was restored from a backup): `streams savepoint create NAME PROGRAM`, then under another app name "
        f"`streams savepoint restore NAME PROGRAM --from-app {app}`, which takes the topic as it is: see "
        "docs/operations.md"
    )


def internal_topics(app: str, topology: Topology, counts: Mapping[int, int]) -> list[TopicSpec]:
    """The application's own topics, bound to the counts of partitions: leases, changelogs, shuffles."""
    bound = [TopicSpec(lease_topic(app), len(topology.tasks(counts)), _INTERNAL)]
    for sub in topology.subs:
        if sub.stateful:
            bound.append(TopicSpec(changelog_topic(app, sub.index), counts[sub.index], _INTERNAL))
        for item in sub.inputs:
            if item.shuffle:
                settings = {**_INTERNAL, "segment.bytes": "67108864"}
                bound.append(TopicSpec(shuffle_topic(app, item.node), counts[sub.index], settings))
    return bound


def _check_counts(app: str, topics: Mapping[str, TopicInfo], bound: Sequence[TopicSpec]) -> None:
    """State, leases and shuffles are bound to their partitions: a changed count must stop, not mix them up."""
    for spec in bound:
        have = topics[spec.name].partitions if spec.name in topics else spec.partitions
        if have != spec.partitions:
            raise TopicMismatch(
                f"topic {spec.name!r} has {have} partitions, the program needs {spec.partitions}",
                where=f"application {app!r}",
                fix=_changed(app),
            )
