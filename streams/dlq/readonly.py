"""A log that is only looked at: whoever works with it cannot change the application that it belongs to."""

from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from streams.core.errors import LogError
from streams.core.record import TopicPartition
from streams.log.base import Claim, Committed, Group, Log, LogReader, LogWriter, Member, TopicInfo, TopicSpec
from streams.protocol import Lease

Bounds = Callable[[Sequence[TopicPartition]], dict[TopicPartition, int]]


class ReadOnlyLog(Log):
    """Reads go to the log; topics that are to be made are pretended, empty; all else is refused with LogError.

    >>> from streams.log.embedded import EmbeddedLog
    >>> with EmbeddedLog.temporary({"payments": 2}) as log:
    ...     view = ReadOnlyLog(log)
    ...     view.create([TopicSpec("alerts", 1, {})])
    ...     sorted(view.topics(["payments", "alerts"])), view.ends([TopicPartition("alerts", 0)]), log.all_topics()
    (['alerts', 'payments'], {TopicPartition(topic='alerts', partition=0): 0}, ['payments'])
    """

    def __init__(self, log: Log) -> None:
        self._log, self.name, self.option = log, log.name, log.option
        self._pretended: dict[str, TopicInfo] = {}

    def topics(self, names: Sequence[str]) -> dict[str, TopicInfo]:
        pretended = {name: info for name, info in self._pretended.items() if name in names}
        return {**pretended, **self._log.topics(names)}

    def all_topics(self) -> list[str]:
        return self._log.all_topics()

    def create(self, topics: Sequence[TopicSpec]) -> None:
        missing = [t for t in topics if t.name not in self.topics([t.name])]
        self._pretended.update({t.name: TopicInfo(t.name, t.partitions, "") for t in missing})

    def reader(self) -> LogReader:
        return self._log.reader()

    def leases(self, app: str, tasks: Sequence[int]) -> dict[int, Lease | None]:
        return self._log.leases(app, tasks)

    def holders(self, app: str, tasks: Sequence[int]) -> dict[int, str]:
        return self._log.holders(app, tasks)

    def committed(self, app: str, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, Committed | None]:
        return self._log.committed(app, partitions)

    def ends(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return self._bounds(partitions, self._log.ends)

    def starts(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return self._bounds(partitions, self._log.starts)

    def _bounds(self, partitions: Sequence[TopicPartition], of: Bounds) -> dict[TopicPartition, int]:
        real = [p for p in partitions if p.topic not in self._pretended]
        return {**dict.fromkeys(partitions, 0), **(of(real) if real else {})}

    def writer(self, app: str, slot: str) -> LogWriter:
        self._refuse("write to it")

    def group(self, app: str, slot: str, tasks: int) -> Group:
        self._refuse("join a group")

    def claim(self, app: str, task: int) -> Claim:
        self._refuse("claim a task")

    def fence(self, app: str, slot: str) -> None:
        self._refuse("fence a slot")

    def trim(self, before: Mapping[TopicPartition, int]) -> None:
        self._refuse("delete records")

    def living(self, app: str) -> list[Member]:
        return self._log.living(app)

    def forget(self, app: str) -> None:
        self._refuse("forget an application")

    def delete(self, topics: Sequence[str]) -> None:
        self._refuse("delete topics")

    def close(self) -> None:
        """Nothing: the log belongs to somebody else."""

    def _refuse(self, what: str) -> NoReturn:
        raise LogError(f"the log was opened for reading only, and the program tried to {what}", where=self.name)
