"""Plain Python for what windows and running aggregates must give: no batches, no state, exact integers."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

Values = Sequence[Any]

FOLDS: dict[str, Callable[[Values], Any]] = {
    "n": len,
    "some": lambda vs: sum(v is not None for v in vs),
    "total": lambda vs: sum(v for v in vs if v is not None),
    "least": lambda vs: min((v for v in vs if v is not None), default=None),
    "most": lambda vs: max((v for v in vs if v is not None), default=None),
    "mean": lambda vs: float(sum(known)) / len(known) if (known := [v for v in vs if v is not None]) else None,
}


def windows(
    rows: Sequence[dict[str, Any]], size: int, offset: int, lateness: int, disorder: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The windows' rows, sorted by start and key, and the late rows."""
    groups: dict[tuple[int, str], list[Any]] = defaultdict(list)
    late = []
    top = -(2**63)
    for row in rows:
        top = max(top, row["at"])
        start = (row["at"] - offset) // size * size + offset
        if top - disorder >= start + size + lateness:
            late.append(row)
        else:
            groups[start, row["card"]].append(row["amount"])
    out = []
    for (start, card), values in sorted(groups.items(), key=_order):
        folded = {name: fold(values) for name, fold in FOLDS.items()}
        out.append({"card": card, "window_start": start, "window_end": start + size, **folded})
    return out, late


def _order(item: tuple[tuple[int, Any], Any]) -> tuple[int, bytes]:
    (start, card), _ = item
    return start, b"\xff" if card is None else card.encode()


def running(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each row with the aggregates of its key so far."""
    seen: dict[Any, list[Any]] = defaultdict(list)
    out = []
    for row in rows:
        seen[row["card"]].append(row["amount"])
        out.append({**row, **{name: fold(seen[row["card"]]) for name, fold in FOLDS.items()}})
    return out
