"""What must come out of tests/kill/program.py: plain loops over its whole input, with nothing of the engine.

The input is taken as it lies in the log (raw values by partition), so it does not matter whether the feeder wrote what
it meant to. Outputs are compared as texts of JSON with sorted keys.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any

MINUTE, DISORDER, LATENESS = 60_000, 5_000, 3_000
AFTER_TX, AFTER_LABEL = 45_000, 60_000
LARGE = 400
LONG_AGO = -(10**18)

IN_ORDER = ("large", "running", "files")  # no shuffle on the way: the order within a partition is promised
AS_MULTISET = ("minutes", "late", "risk", "dead")

Raw = Mapping[int, list[bytes]]
Row = dict[str, Any]


@dataclass
class Expected:
    """`in_order`: by output and partition; `multisets`: by output."""

    in_order: dict[str, dict[int, list[str]]]
    multisets: dict[str, Counter[str]] = field(default_factory=dict)

    def counts(self) -> dict[str, int]:
        """How many records each output has."""
        lists = {name: sum(map(len, parts.values())) for name, parts in self.in_order.items()}
        return lists | {name: each.total() for name, each in self.multisets.items()}


def expected(tx: Raw, labels: Raw) -> Expected:
    """All outputs, for an input with an end mark (a negative id) in each partition of both topics."""
    rows = {p: list(_rows(values)) for p, values in tx.items()}
    marks = {p: list(_rows(values)) for p, values in labels.items()}
    out = Expected({name: {p: [] for p in rows} for name in IN_ORDER})
    broken = [v for values in (*tx.values(), *labels.values()) for v in values if _row(v) is None]
    out.multisets["dead"] = Counter(v.decode() for v in broken)
    minutes, late = Counter[str](), Counter[str]()
    for partition, found in rows.items():
        for row in found:
            if row["amount"] > LARGE:
                out.in_order["large"][partition].append(text(row))
                out.in_order["files"][partition].append(text(row))
        out.in_order["running"][partition] += map(text, _running(found))
        _windows(found, minutes, late)
    out.multisets |= {"minutes": minutes, "late": late, "risk": _risk(rows, marks)}
    return out


def text(row: Mapping[str, Any]) -> str:
    return json.dumps(row, sort_keys=True)


def canonical(name: str, value: bytes) -> str:
    """An output record as `expected` has it; dead letters are the original bytes."""
    return value.decode() if name == "dead" else text(json.loads(value))


def difference(expected: Expected, name: str, found: Raw) -> str:
    """Empty if an output is what it must be, else what differs."""
    values = {p: [canonical(name, v) for v in vs] for p, vs in found.items()}
    if name in expected.in_order:
        for partition, wanted in expected.in_order[name].items():
            got = values.get(partition, [])
            if got != wanted:
                pairs = zip(got, wanted, strict=False)
                at = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(got), len(wanted)))
                return (
                    f"partition {partition}: {len(got)} records, not {len(wanted)}; the first difference is at {at}: "
                    f"{got[at : at + 1]}, not {wanted[at : at + 1]}"
                )
        return ""
    have = Counter(v for vs in values.values() for v in vs)
    lost, extra = expected.multisets[name] - have, have - expected.multisets[name]
    if lost or extra:
        return f"{lost.total()} lost, {extra.total()} too many: {sorted(lost)[:3]} {sorted(extra)[:3]}"
    return ""


def _rows(values: list[bytes]) -> Iterator[Row]:
    for value in values:
        row = _row(value)
        if row is not None:
            yield row


def _row(value: bytes) -> Row | None:
    try:
        row: Row = json.loads(value)
    except ValueError:
        return None
    return row


def _running(rows: list[Row]) -> Iterator[Row]:
    counts, sums = Counter[str](), Counter[str]()
    for row in rows:
        if row["id"] >= 0:
            counts[row["card"]] += 1
            sums[row["card"]] += row["amount"]
            yield {**row, "n": counts[row["card"]], "sum": sums[row["card"]]}


def _windows(rows: list[Row], minutes: Counter[str], late: Counter[str]) -> None:
    """Of one partition: a card lies in one alone. The end marks close all windows but their own."""
    maximum = LONG_AGO
    windows: dict[tuple[str, int], list[int]] = defaultdict(list)
    for row in rows:
        maximum = max(maximum, row["at"])
        start = row["at"] // MINUTE * MINUTE
        if maximum - DISORDER >= start + MINUTE + LATENESS:
            late[text({"id": row["id"], "card": row["card"]})] += 1
        elif row["id"] >= 0:
            windows[row["card"], start].append(row["amount"])
    for (card, start), amounts in windows.items():
        window = {"window_start": start, "window_end": start + MINUTE, "n": len(amounts), "most": max(amounts)}
        minutes[text({"card": card, **window})] += 1


def _risk(tx: Mapping[int, list[Row]], labels: Mapping[int, list[Row]]) -> Counter[str]:
    """Rows in their turn (event time, or the watermark of their partition where that is further), labels first."""
    out = Counter[str]()
    turns: list[tuple[int, int, int, int, Row]] = []
    for port, (rows_of, disorder) in enumerate(((labels, 0), (tx, DISORDER))):
        for partition, rows in rows_of.items():
            maximum = LONG_AGO
            for place, row in enumerate(rows):
                maximum = max(maximum, row["at"])
                turns.append((max(row["at"], maximum - disorder), port, partition, place, row))
    turns.sort(key=lambda t: t[:4])
    end = min(row["at"] for rows in tx.values() for row in rows if row["id"] < 0)
    seen, bad = Counter[str](), Counter[str]()
    timers: dict[str, list[int]] = defaultdict(list)

    def fire(key: str, before: int) -> None:
        heap = timers[key]
        while heap and heap[0] < before:
            at = heappop(heap)
            while heap and heap[0] == at:  # a timer that is set twice fires once
                heappop(heap)
            bad[key] //= 2
            out[text({"terminal": key, "at": at, "what": "timer", "id": -1, "seen": seen[key], "bad": bad[key]})] += 1

    for turn, port, _, _, row in turns:
        if row["id"] < 0 and row["at"] >= end:
            continue  # the end marks wait for each other for ever
        key = row["terminal"]
        fire(key, turn)
        if port == 0:
            seen[key] += 1
            bad[key] += row["bad"]
            if row["bad"]:
                heappush(timers[key], row["at"] + AFTER_LABEL)
        else:
            heappush(timers[key], row["at"] + AFTER_TX)
            risk = {"what": "tx", "id": row["id"], "seen": seen[key], "bad": bad[key]}
            out[text({"terminal": key, "at": row["at"], **risk})] += 1
    for key in list(timers):
        fire(key, end - DISORDER)
    return out
