"""Replaying dead letters: the original bytes are appended to their source topic again, each letter once.

What was replayed is recorded in a topic of its own, `<app>-dlq-replayed`, by the very commit that appends the records.
So a replay may be killed at any instant, and run again: either both are there, or neither.

1. opened     the writer of the slot "replay" is opened: an earlier replay's open commit has ended, and none that still
              runs can commit any more
2. known      what has been replayed is read; only now, so that nothing can be added to it but by us
3. appended   some letters' records, and for each a record in `<app>-dlq-replayed`, are in the open commit
4. committed  both are committed; on with 3 until all are done
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from streams.core.clock import Clock, SystemClock
from streams.core.errors import Fenced, StreamsError
from streams.core.record import Headers, Produced
from streams.core.stream import Graph
from streams.dlq.letters import DeadLetter
from streams.log.base import Log, TopicInfo, TopicSpec
from streams.log.reading import read_all, topic_info

SLOT = "replay"
REPLAY_OF = "streams-replay-of"
"""Header of a replayed record: `topic/partition/offset` of the record that died."""
LETTER = "streams-replay-letter"
"""Header of a replayed record: `topic/partition/offset` of its dead letter."""

STEPS = ("opened", "known", "appended", "committed")
Hook = Callable[[str], None]

_AT_ONCE = 1000  # letters, and
_BYTES_AT_ONCE = 16 << 20  # bytes, in one commit


@dataclass
class Outcome:
    """What a replay did: letters replayed, those that had been replayed before, and (letter's name, why it cannot)."""

    replayed: int = 0
    before: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)


def replayed_topic(app: str) -> str:
    """The topic that records which letters have been replayed."""
    return f"{app}-dlq-replayed"


def writer_app(app: str) -> str:
    """The name under which a replay writes: not the application's, whose leases and positions it must not touch."""
    return f"{app}-dlq"


def replayed(log: Log, app: str, letters: str) -> dict[tuple[int, int], int]:
    """The letters of the topic `letters` that have been replayed: their places, and when (milliseconds)."""
    found = log.topics([replayed_topic(app), letters])
    if len(found) < 2:
        return {}
    id, out = found[letters].id, {}
    for records in read_all(log, replayed_topic(app)):
        for value in records.values():
            said = json.loads(value or b"{}")
            if said.get("topic_id") == id:  # else the topic was deleted and made again: other letters have those places
                out[int(said["partition"]), int(said["offset"])] = int(said["at"])
    return out


def refusal(letter: DeadLetter, sources: Mapping[str, int]) -> str:
    """Why a letter cannot be replayed, and the way out; empty if it can. `sources`: partitions of the source topics.

    >>> letter = DeadLetter(b"", "", "burst-1", "app-keyby-1-shuffle", 0, 3, 0, row=5)
    >>> refusal(letter, {"payments": 2}).split(":")[0]
    'it holds a row from behind a shuffle (app-keyby-1-shuffle), not a record of a source topic'
    """
    out = "mend the program, write a corrected record with `streams topics write`"
    if not letter.topic:
        return f"it holds a row that the program made itself (a window's result, a timer), not a record: {out}"
    if letter.row >= 0:
        where = f"behind a shuffle ({letter.topic}), not a record of a source topic"
        return f"it holds a row from {where}: see it with `streams dlq debug`, {out}"
    if letter.topic not in sources:
        known = ", ".join(sorted(sources)) or "none"
        return f"its topic {letter.topic!r} is no source of the program (sources: {known}): {out}"
    if not 0 <= letter.partition < sources[letter.topic]:
        return f"topic {letter.topic!r} has no partition {letter.partition} any more: {out}"
    if letter.cut_from is not None:
        whole = f"{letter.source}, if that topic still has it"
        return f"only {len(letter.value):,} of its {letter.cut_from:,} bytes were kept: the whole record is {whole}"
    return ""


def sources_of(graph: Graph, log: Log) -> dict[str, int]:
    """The program's source topics that the log has, with their partition counts."""
    names = [n.source.topic for n in graph.nodes.values() if n.source is not None]
    return {name: info.partitions for name, info in log.topics(names).items()}


def had_it(graph: Graph, letter: DeadLetter) -> list[str]:
    """Sinks, shuffles and operators with state that may have had the record although it died elsewhere: they will see
    it a second time when it is replayed.

    >>> from operators import MapRows
    >>> from streams import App, Schema
    >>> class Payment(Schema):
    ...     card: str
    >>> app = App("shop"); payments = app.source("payments", Payment, start="earliest")
    >>> payments | app.sink("all"); payments | MapRows(lambda row: row, returns=Payment) | app.sink("mapped")
    >>> had_it(app.graph, DeadLetter(b"", "", "maprows-1", "payments", 0, 0, 0))
    ['sink-all-1']
    """
    start = next((n.id for n in graph.nodes.values() if n.source is not None and n.source.topic == letter.topic), None)
    if start is None or letter.operator == start:
        return []
    reached = {start}
    for node in graph.nodes.values():  # inputs come first
        if node.id != letter.operator and any(e.node in reached for e in node.inputs):
            reached.add(node.id)
    effects = [graph.nodes[id] for id in graph.nodes if id in reached]
    return [n.id for n in effects if n.kind in ("sink", "shuffle") or (n.operator is not None and n.operator.stores)]


def replay(
    log: Log,
    app: str,
    topic: str,
    letters: Iterable[DeadLetter],
    sources: Mapping[str, int],
    *,
    clock: Clock | None = None,
    hook: Hook | None = None,
    at_once: int = _AT_ONCE,
) -> Outcome:
    """Append the letters' records to their source partitions: value, key, headers and timestamp as they were.

    Guarantees: a letter is replayed once, whatever is killed at whatever instant, and however many replays run: of two
    at a time the older one is fenced, and raises StreamsError with nothing half done. Letters that cannot be replayed
    are in the outcome. `topic` is the dead-letter topic. `hook` is called at each of `STEPS`.
    """
    clock, tell = clock or SystemClock(), hook or (lambda step: None)
    info = topic_info(log, topic)
    settings = {"retention.ms": "-1"}
    log.create([TopicSpec(replayed_topic(app), 1, settings)])
    outcome = Outcome()
    writer = log.writer(writer_app(app), SLOT)
    try:
        tell("opened")
        done = set(replayed(log, app, topic))
        tell("known")
        for chosen in _portions(letters, done, sources, outcome, at_once):
            for produced in _records(app, info, chosen, clock.now()):
                writer.append(produced)
            tell("appended")
            writer.commit({}, {})
            outcome.replayed += len(chosen)
            tell("committed")
    except Fenced as error:
        raise StreamsError(
            f"another replay of {app!r} was started; this one has replayed {outcome.replayed} letters",
            where=str(error).splitlines()[0],
            fix="nothing is lost or doubled: when the other one has ended, run this command again for the rest",
        ) from error
    finally:
        writer.close()
    return outcome


def _portions(
    letters: Iterable[DeadLetter],
    done: set[tuple[int, int]],
    sources: Mapping[str, int],
    outcome: Outcome,
    at_once: int,
) -> Iterator[list[DeadLetter]]:
    """What is to be replayed, so much of it as goes into one commit."""
    portion: list[DeadLetter] = []
    size = 0
    for letter in letters:
        if letter.place in done:
            outcome.before += 1
        elif why := refusal(letter, sources):
            outcome.refused.append((letter.name, why))
        else:
            done.add(letter.place)  # named twice, it is replayed once
            portion.append(letter)
            size += len(letter.value)
        if len(portion) >= at_once or size >= _BYTES_AT_ONCE:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


def _records(app: str, info: TopicInfo, letters: Sequence[DeadLetter], now: int) -> Iterator[Produced]:
    """The records of a commit: in each partition in the order in which they lay there, and what tells of them."""
    places: dict[tuple[str, int], list[DeadLetter]] = {}
    for letter in sorted(letters, key=lambda each: (each.topic, each.partition, each.offset)):
        places.setdefault((letter.topic, letter.partition), []).append(letter)
    for (topic, partition), group in places.items():
        headers: list[Headers | None] = [_headers(letter, info.name) for letter in group]
        keys, values = [each.key for each in group], [each.value for each in group]
        yield Produced(topic, partition, keys, values, [each.timestamp for each in group], headers)
    notes = [
        json.dumps(
            {
                "topic_id": info.id,
                "topic": info.name,
                "partition": letter.place[0],
                "offset": letter.place[1],
                "record": letter.source,
                "at": now,
            }
        ).encode()
        for letter in letters
    ]
    yield Produced(replayed_topic(app), 0, [None] * len(notes), notes, now)


def _headers(letter: DeadLetter, topic: str) -> Headers:
    own = [(name, value) for name, value in letter.headers if name not in (REPLAY_OF, LETTER)]
    place = f"{topic}/{letter.place[0]}/{letter.place[1]}"
    return [*own, (REPLAY_OF, letter.source.encode()), (LETTER, place.encode())]
