"""Every error that a user can meet.

StreamsError
+-- BuildError              the program is wrong; raised while it is built
|   +-- UnknownColumn       a column that the stream does not have
|   +-- WrongType           an expression or a schema of the wrong type
|   +-- NoEventTime         a window, a timer ... on a stream without event time
|   +-- NoKey               keyed state on a stream without a key
|   +-- DuplicateId         two operators of one id
+-- SettingsError           a setting is missing or wrong
+-- LogError                the log (Kafka or embedded)
|   +-- LogUnreachable      the broker does not answer, the file cannot be opened
|   +-- LogLocked           another process holds the embedded log
|   +-- TopicMissing        a topic that must exist does not
|   +-- TopicMismatch       a topic is not as the topology needs it (partitions, retention)
|   +-- RecordTooLarge      a record is larger than the log takes; it becomes a dead letter
|   +-- Fenced              another worker took over; not shown to users, handled by the worker
|   +-- SlotTaken           two living processes use one slot
+-- StateError              a store
|   +-- StateInUse          another process holds the state directory
|   +-- StateCorrupt        the files of a store are damaged
|   +-- StateMismatch       store, changelog and lease do not agree
|   +-- DiskFull            no space left
+-- CheckpointError         a checkpoint location or a snapshot in it
|   +-- LocationUnreachable it does not answer; snapshots are tried again by themselves
+-- OperatorError           a user's function failed in a way that no dead letter can take
+-- SinkError               a sink outside the log failed; tried again
+-- RecordError             one record is bad; it becomes a dead letter
"""

from collections.abc import Sequence


class StreamsError(Exception):
    """What happened, where, and what to do about it.

    >>> print(StreamsError("the oven is cold", where="kitchen", fix="light it"))
    the oven is cold
      where: kitchen
      fix:   light it
    """

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        lines = [what]
        if where:
            lines.append(f"  where: {where}")
        if fix:
            lines.append(f"  fix:   {fix}")
        super().__init__("\n".join(lines))


class BuildError(StreamsError):
    """The program is wrong; raised while it is built, never while it runs."""


class UnknownColumn(BuildError):
    """An expression names a column that the stream does not have."""


class WrongType(BuildError):
    """An expression, a schema or an argument has the wrong type."""


class NoEventTime(BuildError):
    """The operator needs event time and the stream has none."""


class NoKey(BuildError):
    """The operator keeps state by key and the stream has no key."""


class DuplicateId(BuildError):
    """Two operators, or two stores, share an id."""


class SettingsError(StreamsError):
    """A setting is missing, unknown or out of range. `problems` are all that were found at once, if several."""

    problems: "tuple[SettingsError, ...]" = ()

    @classmethod
    def of(cls, problems: "Sequence[SettingsError]") -> "SettingsError":
        """One error for all of them, numbered.

        >>> print(SettingsError.of([SettingsError("no slot", fix="name one"), SettingsError("no log", where="x.toml")]))
        2 settings are wrong
          1. no slot
               fix:   name one
          2. no log
               where: x.toml
        """
        if len(problems) == 1:
            return problems[0]
        lines = [f"{len(problems)} settings are wrong"]
        for number, problem in enumerate(problems, 1):
            lines.append(f"  {number}. " + str(problem).replace("\n", "\n     "))
        made = cls("\n".join(lines))
        made.problems = tuple(problems)
        return made


class LogError(StreamsError):
    """The log refused or failed."""


class LogUnreachable(LogError):
    """The broker does not answer, or the embedded log's file cannot be opened."""


class LogLocked(LogError):
    """Another process holds the embedded log's write lock for too long."""


class TopicMissing(LogError):
    """A topic that must exist does not."""


class TopicMismatch(LogError):
    """A topic exists but is not as the topology needs it."""


class RecordTooLarge(LogError):
    """A record is larger than the log takes: the open commit must be aborted, the record becomes a dead letter.

    `topic`, `index` (its place among the records of that append) and `size` (bytes) say which record it is.
    """

    def __init__(self, what: str, *, topic: str, index: int, size: int, where: str = "", fix: str = "") -> None:
        super().__init__(what, where=where, fix=fix)
        self.topic, self.index, self.size = topic, index, size


class Fenced(LogError):
    """A newer holder of this slot, or a claimer of the task, has taken over. The worker handles it."""


class SlotTaken(LogError):
    """Two living processes use one slot. On the embedded log the newer one is refused; on Kafka it is the older one
    that ends, since the brokers give the slot to whoever came last."""


class StateError(StreamsError):
    """A state store failed."""


class StateInUse(StateError):
    """Another process holds the state directory."""


class StateCorrupt(StateError):
    """The files of a store are damaged."""


class StateMismatch(StateError):
    """Store, changelog and lease record do not agree."""


class DiskFull(StateError):
    """No space is left on the device of the state directory or the embedded log."""


class CheckpointError(StreamsError):
    """A checkpoint location refused something, or a snapshot in it is not as it should be."""


class LocationUnreachable(CheckpointError):
    """A checkpoint location does not answer, or answers with errors that may pass."""


class OperatorError(StreamsError):
    """A user's function failed in a way that no single record explains."""


class SinkError(StreamsError):
    """A sink outside the log failed. Nothing is lost: it is tried again."""


class RecordError(StreamsError):
    """One record is bad: it goes to the dead-letter topic with this cause."""
