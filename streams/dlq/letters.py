"""Dead letters as they lie in the dead-letter topic: read, told apart, chosen."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from streams.core.clock import Clock, SystemClock
from streams.core.errors import SettingsError, StreamsError
from streams.core.record import Records, TopicPartition
from streams.core.time import duration
from streams.log.base import Log
from streams.log.reading import read_all, topic_info
from streams.runtime.letters import ORIGINAL

_PLACE = re.compile(r"(?:(\d+):)?(\d+)")


@dataclass(frozen=True)
class DeadLetter:
    """One record of a dead-letter topic.

    `value`, `key`, `headers` and `timestamp` (milliseconds; -1: none) are those of the bad record; `topic`, `partition`
    and `offset` tell where it lies. Past a shuffle the value is the row as JSON, the place is that of the block, and
    `row` the row in it (-1 else). A row that comes from no record (a window's result, a timer) has an empty `topic`.
    `place` is the letter's own: partition and offset in the dead-letter topic. `cut_from`: the value's size, if it was
    too large to be kept whole.
    """

    value: bytes
    cause: str
    operator: str
    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None = None
    row: int = -1
    headers: Sequence[tuple[str, bytes]] = ()
    place: tuple[int, int] = (0, 0)
    cut_from: int | None = None

    @property
    def name(self) -> str:
        """The letter's place as it is typed, `partition:offset`."""
        return f"{self.place[0]}:{self.place[1]}"

    @property
    def source(self) -> str:
        """Where the record lies: `topic/partition/offset`, and the row in a shuffle's block."""
        if not self.topic:
            return "no record"
        return f"{self.topic}/{self.partition}/{self.offset}" + (f" row {self.row}" if self.row >= 0 else "")

    @property
    def when(self) -> str:
        """The record's timestamp in UTC."""
        return instant(self.timestamp)


def letters_of(records: Records) -> Iterator[DeadLetter]:
    """The letters in a run of records of a dead-letter topic."""
    columns = (records.values(), records.keys(), records.offsets(), records.headers())
    for value, key, offset, headers in zip(*columns, strict=True):
        yield _letter(value or b"", key, (records.source.partition, offset), headers or [])


def _letter(
    value: bytes, key: bytes | None, place: tuple[int, int], headers: Sequence[tuple[str, bytes]]
) -> DeadLetter:
    said = {name: text for name, text in headers if not name.startswith(ORIGINAL)}

    def number(name: str) -> int:
        text = said.get(name, b"")
        return int(text) if text.removeprefix(b"-").isdigit() else -1

    def words(name: str) -> str:
        text = said.get(name, b"").decode(errors="replace")
        # A cause quotes the record: what would steer a terminal is not handed on.
        return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)

    return DeadLetter(
        value,
        words("cause") or "(the record has no header `cause`: it was not written by this engine)",
        words("operator"),
        words("topic"),
        number("partition"),
        number("offset"),
        number("timestamp"),
        key,
        number("row"),
        [(name.removeprefix(ORIGINAL), text) for name, text in headers if name.startswith(ORIGINAL)],
        place,
        number("cut-from-bytes") if "cut-from-bytes" in said else None,
    )


@dataclass(frozen=True)
class Choice:
    """Which letters: those of an operator, with a text in their cause (any case), of records not older than `since`
    (milliseconds since the epoch), of a topic.

    >>> letter = DeadLetter(b"", "ValueError: unlucky", "burst-1", "payments", 0, 7, 1000)
    >>> [choice.takes(letter) for choice in (Choice(cause="valueerror"), Choice(operator="b"), Choice(since=1001))]
    [True, False, False]
    """

    operator: str = ""
    cause: str = ""
    since: int | None = None
    topic: str = ""

    def takes(self, letter: DeadLetter) -> bool:
        return (
            (not self.operator or letter.operator == self.operator)
            and self.cause.lower() in letter.cause.lower()
            and (self.since is None or letter.timestamp >= self.since)
            and (not self.topic or letter.topic == self.topic)
        )


def read(log: Log, topic: str, choice: Choice | None = None) -> Iterator[DeadLetter]:
    """The letters of a topic, partition by partition in the order of offsets; none if the topic does not exist."""
    info = log.topics([topic]).get(topic)
    for partition in range(info.partitions if info is not None else 0):
        for records in read_all(log, topic, partitions=[partition], most=1000):
            for letter in letters_of(records):
                if choice is None or choice.takes(letter):
                    yield letter


def find(log: Log, topic: str, name: str) -> DeadLetter:
    """The letter that `partition:offset` names; or `offset` alone, where one partition only has it."""
    matched = _PLACE.fullmatch(name)
    if matched is None:
        raise SettingsError(
            f"{name!r} does not name a dead letter",
            fix="name it as `streams dlq list` does, partition:offset, for example 0:17",
        )
    count = topic_info(log, topic).partitions
    partitions = range(count) if matched[1] is None else [int(matched[1])]
    found = [letter for p in partitions if p < count and (letter := _at(log, topic, p, int(matched[2]))) is not None]
    if not found:
        raise StreamsError(
            f"no dead letter {name!r}", where=f"topic {topic!r} on {log.name}", fix="see `streams dlq list PROGRAM`"
        )
    if len(found) > 1:
        names = ", ".join(each.name for each in found)
        raise SettingsError(f"{name!r} is the offset of several dead letters", fix=f"say which one: {names}")
    return found[0]


def _at(log: Log, topic: str, partition: int, offset: int) -> DeadLetter | None:
    place = TopicPartition(topic, partition)
    if not log.starts([place])[place] <= offset < log.ends([place])[place]:
        return None
    for records in read_all(log, topic, partitions=[partition], start={partition: offset}, most=1):
        return next((each for each in letters_of(records) if each.place == (partition, offset)), None)
    return None


def instant(milliseconds: int) -> str:
    """An instant in UTC, or `-` where there is none.

    >>> instant(1_700_000_000_000), instant(-1)
    ('2023-11-14 22:13:20', '-')
    """
    if milliseconds < 0:
        return "-"
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):  # after the year 9999
        return str(milliseconds)


def since(text: str, clock: Clock | None = None) -> int:
    """Milliseconds since the epoch of "2023-11-14T22:13" (UTC unless it says otherwise), or of so long ago ("1h").

    >>> since("2023-11-14T22:13:20"), since("2023-11-14T23:13:20+01:00")
    (1700000000000, 1700000000000)
    """
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        try:
            return (clock or SystemClock()).now() - duration(text)
        except StreamsError:
            raise SettingsError(
                f"{text!r} is no time", where="--since", fix='write "1h" (so long ago) or 2023-11-14T22:13 (UTC)'
            ) from None
    return int((at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp() * 1000)


def text_of(value: bytes, most: int = 100_000) -> str:
    """Bytes for people: as text where they are printable UTF-8, else as a hex dump; cut after `most` bytes.

    >>> print(text_of(b"ab\\x00"))
    00000000  61 62 00                                         |ab.|
    """
    head = value[:most]
    more = f"\n... {len(value) - most:,} more bytes" if len(value) > most else ""
    try:
        text = head.decode()
        if all(c.isprintable() or c in "\n\t" for c in text):
            return text + more
    except UnicodeDecodeError:
        pass
    lines = []
    for start in range(0, min(len(head), 4096), 16):
        row = head[start : start + 16]
        shown = "".join(chr(b) if 32 <= b < 127 else "." for b in row)
        lines.append(f"{start:08x}  {row.hex(' '):47}  |{shown}|")
    if len(value) > 4096:
        more = f"\n... {len(value) - 4096:,} more bytes"
    return "\n".join(lines) + more


def counts(causes: Mapping[str, int], most: int = 10) -> list[str]:
    """Lines that say how often each cause was found, the most frequent ones first."""
    found = sorted(causes.items(), key=lambda item: (-item[1], item[0]))
    width = max((len(f"{n:,}") for _, n in found), default=0)
    lines = [f"  {n:>{width},}  {cause}" for cause, n in found[:most]]
    if len(found) > most:
        lines.append(f"  {sum(n for _, n in found[most:]):>{width},}  of {len(found) - most} other causes")
    return lines
