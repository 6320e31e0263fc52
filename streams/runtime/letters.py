"""Dead letters: bad records on their way to the dead-letter topic, inside the commit."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from streams.core.batch import Letter
from streams.core.record import Headers, Produced

ORIGINAL = "header:"  # before the name of each header that the bad record has itself

MOST_BYTES = 8_000_000  # a value above this is cut, and a header says so; the topic takes 16 MB


@dataclass
class DeadLetters:
    """Collects the dead letters of a task's open commit: one a record, the first cause counts. Rows that come from no
    record (a window's results) may look alike and are many all the same: one a row and operator.

    >>> letters = DeadLetters()
    >>> letters.add(Letter(b"oops", None, "tx", 0, 7, -1), "not JSON", "source-tx")
    >>> letters.add(Letter(b"oops", None, "tx", 0, 7, -1), "again", "filter-1")
    >>> letters.count
    1
    """

    _found: dict[tuple[str, int, int, int, bytes, int], tuple[Letter, str, str]] = field(default_factory=dict)
    _alike: Counter[tuple[bytes, str]] = field(default_factory=Counter)

    def add(self, letter: Letter, cause: str, operator: str) -> None:
        value, number = b"", 0
        if not letter.topic:
            # Which of those that look alike: the n-th that this operator refuses. Another one's n-th is the same row.
            value, number = letter.value, self._alike[letter.value, operator]
            self._alike[letter.value, operator] += 1
        name = (letter.topic, letter.partition, letter.offset, letter.row, value, number)
        self._found.setdefault(name, (letter, cause, operator))

    @property
    def count(self) -> int:
        return len(self._found)

    def by_operator(self) -> Counter[str]:
        """How many letters each operator has made."""
        return Counter(operator for _, _, operator in self._found.values())

    def last(self, most: int) -> list[tuple[Letter, str, str]]:
        """The last few, oldest first: letter, cause, operator."""
        return list(islice(reversed(self._found.values()), most))[::-1]

    def firsts(self) -> dict[str, str]:
        """By operator: its first letter as a text, which record and why.

        >>> letters = DeadLetters()
        >>> letters.add(Letter(b"oops", None, "tx", 0, 7, -1), "not JSON", "source-tx")
        >>> letters.firsts()
        {'source-tx': 'tx/0 offset 7: not JSON'}
        """
        made: dict[str, str] = {}
        for letter, cause, operator in self._found.values():
            if operator not in made:
                record = f"{letter.topic}/{letter.partition} offset {letter.offset}" if letter.topic else "a result"
                made[operator] = f"{record}: {cause.splitlines()[0][:300] if cause else ''}"
        return made

    def produced(self, topic: str, partition: int, now: int, latest: int | None = None) -> Produced | None:
        """The records for the dead-letter topic; None if there are none. `latest`: their timestamps are no later, since
        the topic would refuse them; a header has the bad record's own."""
        if not self._found:
            return None
        letters = list(self._found.values())
        times = [letter.timestamp if letter.timestamp >= 0 else now for letter, _, _ in letters]
        headers: Sequence[Headers] = [_headers(letter, cause, operator) for letter, cause, operator in letters]
        return Produced(
            topic,
            partition,
            [letter.key for letter, _, _ in letters],
            [letter.value[:MOST_BYTES] for letter, _, _ in letters],
            times if latest is None else [min(time, latest) for time in times],
            headers,
        )

    def clear(self) -> None:
        self._found.clear()
        self._alike.clear()


def _headers(letter: Letter, cause: str, operator: str) -> Headers:
    headers = [
        ("cause", cause[:2000].encode()),
        ("operator", operator.encode()),
        ("topic", letter.topic.encode()),
        ("partition", str(letter.partition).encode()),
        ("offset", str(letter.offset).encode()),
        ("timestamp", str(letter.timestamp).encode()),
    ]
    if letter.row >= 0:
        headers.append(("row", str(letter.row).encode()))
    if len(letter.value) > MOST_BYTES:
        headers.append(("cut-from-bytes", str(len(letter.value)).encode()))
    return [*headers, *((f"{ORIGINAL}{name}", value) for name, value in letter.headers)]
