"""The simulated application, its input, and a model that says what must come out.

The program has two inputs, a shuffle, a running aggregate, a window with late rows, and a keyed class with a timer. The
model is written without anything of the engine: plain loops over the whole input.
"""

import json
import random
from collections import Counter, defaultdict
from dataclasses import dataclass

from operators import KeyBy, Keyed, Running, Select, Value, Window, agg, tumbling
from streams import App, EventTime, Schema, TwoPhaseSink, connect

PARTITIONS = 2
TX, LABELS, PLAIN = "sim.tx", "sim.labels", "sim.plain.in"
MINUTE, DISORDER, LATENESS, HOLD = 60_000, 5_000, 3_000, 45_000
START = 28_333_333 * MINUTE
FAR, NEVER = START + 10**9, -(10**18)


class Tx(Schema):
    id: int
    at: EventTime
    card: str
    terminal: str


class Label(Schema):
    id: int
    at: EventTime
    terminal: str


class Risk(Schema):
    terminal: str
    at: EventTime
    what: str
    id: int
    seen: int


class Watch(Keyed[Tx, Risk]):
    """Counts the labels of a terminal; some time after a payment a timer takes one back."""

    inputs = ("label", "tx")
    seen = Value(int, default=0)

    def on_label(self, row, ctx):
        self.seen.set(self.seen.get() + 1)

    def on_tx(self, row, ctx):
        ctx.timer(row.at + HOLD)
        yield Risk(row.terminal, row.at, "tx", row.id, self.seen.get())

    def on_timer(self, at, ctx):
        self.seen.set(max(0, self.seen.get() - 1))
        yield Risk(ctx.key, at, "timer", -1, self.seen.get())


def make(outside: TwoPhaseSink | None = None, idle: str = "", plain: bool = False) -> App:
    """The program; its running counts are written to a sink outside the log, too, if one is given.

    `idle`: its sources fall silent, and a window of windows shows if that is told before all rows have gone on.
    `plain`: the payments are read once more, by tasks without state: all that these have is their positions.
    """
    app = App("sim", dead_letters="sim.dead")
    tx = app.source(TX, Tx, key="card", disorder="5s", start="earliest", idle=idle or "1h")
    labels = app.source(LABELS, Label, key="terminal", start="earliest", idle=idle or "1h")
    running = tx | Running([agg.count().alias("n")]) | Select("id", "card", "n")
    running | app.sink("sim.running", key="card")
    if outside is not None:
        running | app.write_to(outside, name="outside")
    minutes = tx | Window(tumbling("1m"), [agg.count().alias("n")], lateness="3m" if idle else "3s")
    minutes | app.sink("sim.minutes", key="card")
    if idle:
        sums = minutes | KeyBy("n") | Window(tumbling("4m"), [agg.count().alias("windows")])
        sums | app.sink("sim.sums", key="n")
        sums.late | app.sink("sim.late", key="n")
    minutes.late | Select("id", "card") | app.sink("sim.late", key="card")
    connect(labels, tx | KeyBy("terminal")) | Watch() | app.sink("sim.risk", key="terminal")
    if plain:
        again = app.source(PLAIN, Tx, key="card", disorder="5s", start="earliest", idle="1h")
        again | Select("id", "card") | app.sink("sim.plain", key="card")
    return app


APP = make()
IDLE = make(idle="1ms")
WITH_PLAIN = make(plain=True)


@dataclass(frozen=True)
class Row:
    id: int
    at: int
    card: str
    terminal: str
    partition: int
    place: int


class Input:
    """Some rows for each partition, with disorder and late ones, from a seed; an end mark after them, or silence."""

    def __init__(
        self, seed: int, place_of: "dict[str, int]", silence: bool, count: int, *, plain: bool = False
    ) -> None:
        self.plain = plain
        self.silence, self.place_of, self.lateness = silence, place_of, 3 * MINUTE if silence else LATENESS
        rng = random.Random(seed * 7919 + 1)
        self.tx: list[Row] = []
        self.labels: list[Row] = []
        cards = [f"c{i}" for i in range(5)]
        terminals = [f"t{i}" for i in range(3)]
        places: Counter[tuple[str, int]] = Counter()

        def add(rows: list[Row], what: str, id: int, at: int, card: str, terminal: str, partition: int) -> None:
            rows.append(Row(id, at, card, terminal, partition, places[what, partition]))
            places[what, partition] += 1

        for number in range(count):
            at = START + number * 9_000 - (rng.randrange(200_000) if rng.random() < 0.15 else rng.randrange(5_000))
            card, terminal = rng.choice(cards), rng.choice(terminals)
            add(self.tx, "tx", number, max(START, at), card, terminal, place_of[card])
            if rng.random() < 0.3:
                add(self.labels, "labels", number, max(START, at) + 20_000, card, terminal, place_of[terminal])
        for card in ("c0", "c1") if silence else ():  # many windows close at once, and go out in pieces
            add(
                self.tx,
                "tx",
                count + place_of[card],
                START + 2 * count * 9_000 + 10 * MINUTE,
                card,
                "t0",
                place_of[card],
            )
        for p in () if silence else range(PARTITIONS):
            add(self.tx, "tx", -1 - p, FAR, f"end{p}", f"end{p}", p)
            add(self.labels, "labels", -1 - p, FAR, f"end{p}", f"end{p}", p)

    def records(self, what: str, partition: int) -> list[bytes]:
        rows = [r for r in (self.tx if what == "tx" else self.labels) if r.partition == partition]
        names = ("id", "at", "card", "terminal") if what == "tx" else ("id", "at", "terminal")
        return [json.dumps({n: getattr(r, n) for n in names}).encode() for r in rows]


Output = dict[str, Counter[str]]


def _turns(rows: list[Row], disorder: int) -> dict[Row, int]:
    """A row's place in time: its own, or its partition's watermark where that is further."""
    maximum: dict[int, int] = defaultdict(lambda: NEVER)
    turns = {}
    for row in rows:
        maximum[row.partition] = max(maximum[row.partition], row.at)
        turns[row] = max(row.at, maximum[row.partition] - disorder)
    return turns


def expected(data: Input) -> tuple[Output, dict[str, list[int]]]:
    """What must come out: of each topic the multiset, and of the running counts the order by card, too."""
    out: Output = {name: Counter() for name in ("running", "minutes", "late", "risk", "sums", "plain")}
    order: dict[str, list[int]] = defaultdict(list)
    counts: Counter[str] = Counter()
    windows: Counter[tuple[str, int]] = Counter()
    maximum: dict[int, int] = defaultdict(lambda: NEVER)
    for row in data.tx:
        counts[row.card] += 1
        order[row.card].append(row.id)
        out["running"][_text(id=row.id, card=row.card, n=counts[row.card])] += 1
        maximum[row.partition] = max(maximum[row.partition], row.at)
        start = row.at // MINUTE * MINUTE
        if maximum[row.partition] - DISORDER >= start + MINUTE + data.lateness:
            out["late"][_text(id=row.id, card=row.card)] += 1
        else:
            windows[row.card, start] += 1
    for (card, start), n in windows.items():
        end = maximum[data.place_of[card]] - DISORDER if card in data.place_of else NEVER
        if start + MINUTE + data.lateness <= end:
            out["minutes"][_text(card=card, window_start=start, window_end=start + MINUTE, n=n)] += 1
    if data.silence:
        _sums(out["minutes"], max(maximum.values()) - DISORDER - data.lateness, out["sums"])
    _risk(data, out["risk"])
    out["plain"].update(_text(id=row.id, card=row.card) for row in data.tx if data.plain)
    return out, order


def _sums(minutes: Counter[str], end: int, out: Counter[str]) -> None:
    """Nobody is waited for: time is where the furthest partition is."""
    sums: Counter[tuple[int, int]] = Counter()
    for text, times in minutes.items():
        row = json.loads(text)
        sums[row["n"], (row["window_end"] - 1) // (4 * MINUTE) * 4 * MINUTE] += times
    for (n, start), windows in sums.items():
        if start + 4 * MINUTE <= end:
            out[_text(n=n, window_start=start, window_end=start + 4 * MINUTE, windows=windows)] += 1


def _risk(data: Input, out: Counter[str]) -> None:
    turns = {(0, r): t for r, t in _turns(data.labels, 0).items()}
    turns |= {(1, r): t for r, t in _turns(data.tx, DISORDER).items()}
    rows = sorted(turns, key=lambda k: (turns[k], k[0], k[1].partition, k[1].place))
    seen: Counter[str] = Counter()
    timers: set[tuple[int, str]] = set()

    def due(place: int, end: int) -> None:
        """The timers of a partition before this time."""
        for at, key in sorted(t for t in timers if t[0] < end and data.place_of.get(t[1]) == place):
            timers.discard((at, key))
            seen[key] = max(0, seen[key] - 1)
            out[_text(terminal=key, at=at, what="timer", id=-1, seen=seen[key])] += 1

    for port, row in rows:
        if row.at == FAR:
            break  # the end marks wait for each other for ever
        due(data.place_of[row.terminal], turns[port, row])
        if port == 0:
            seen[row.terminal] += 1
        else:
            timers.add((row.at + HOLD, row.terminal))
            out[_text(terminal=row.terminal, at=row.at, what="tx", id=row.id, seen=seen[row.terminal])] += 1
    ends = [max(r.at for r in data.tx if r.partition == p) - DISORDER for p in {r.partition for r in data.tx}]
    for place in range(PARTITIONS):
        mine = [t for (_, r), t in turns.items() if data.place_of.get(r.terminal) == place]
        # Nobody is waited for: time is where the furthest is, and all rows go on.
        due(place, max([*ends, *(t + 1 for t in mine)]) if data.silence else FAR)


def _text(**fields: object) -> str:
    return json.dumps(fields, sort_keys=True)
