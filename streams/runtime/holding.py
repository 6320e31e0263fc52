"""Where a task's inputs wait for each other: one that is far ahead is not read on."""

from collections.abc import Iterable

from streams.core.record import TopicPartition
from streams.log.base import LogReader
from streams.runtime.task import Task


class Holding:
    """Pauses the inputs whose rows wait in memory for those of others, more than `most` of them.

    Never the one that the others wait for: a shuffle's channels lie in one partition, so many rows of a channel may
    wait for what another one has written behind them; and after a restart nothing goes on before each input has come
    to where it was.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._paused: set[TopicPartition] = set()

    def look(self, task: Task, reader: LogReader) -> None:
        """Stop reading an input that is far ahead; go on when half of its rows have been caught up."""
        if not task.release.merging or len(task.inputs) < 2:
            return
        merged = task.release.merged()
        for partition, item, rows in zip(task.partitions, task.inputs, task.release.rows(), strict=True):
            mark = item.watermark
            awaited = item.next < item.fresh or merged is None or (mark is not None and mark <= merged)
            if rows > self._most and not awaited and partition not in self._paused:
                reader.pause([partition])
                self._paused.add(partition)
            elif partition in self._paused and (awaited or rows < self._most // 2):
                reader.resume([partition])
                self._paused.discard(partition)

    def forget(self, partitions: Iterable[TopicPartition]) -> None:
        """These are not read any more."""
        self._paused.difference_update(partitions)
