"""How the rows that were found differ from those that were expected, in words."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any] | bytes

_MOST = 20  # lines of one kind


def difference(expected: Sequence[Row], found: Sequence[Row], in_order: bool = True) -> str:
    """What is missing, what is there without being expected, and what is in another order; empty if all is as expected.

    A missing and an unexpected row that agree in most fields are told as one row that differs. Rows are mappings, or
    bytes.

    >>> print(difference([{"card": "c2", "n": 2}], [{"card": "c2", "n": 3}]))
      differs     {"card": "c2", "n": 3}: n is 3, expected 2
    >>> print(difference([{"n": 1}, {"n": 2}], [{"n": 2}, {"n": 1}]))
      order       row 0 is {"n": 2}, expected {"n": 1}; the rows are those that were expected
    >>> difference([{"n": 1}, {"n": 2}], [{"n": 2}, {"n": 1}], in_order=False)
    ''
    """
    left, extra = list(expected), []
    for row in found:
        if row in left:
            left.remove(row)
        else:
            extra.append(row)
    if not left and not extra:
        if not in_order or list(expected) == list(found):
            return ""
        at = next(i for i, (e, f) in enumerate(zip(expected, found, strict=True)) if e != f)
        return (
            f"  order       row {at} is {shown(found[at])}, expected {shown(expected[at])}; "
            "the rows are those that were expected"
        )
    pairs, missing, extra = _pairs(left, extra)
    lines = [f"  differs     {shown(row)}: {_fields(wanted, row)}" for wanted, row in pairs]
    return "\n".join(
        [
            *_some(lines),
            *_some([f"  missing     {shown(row)}" for row in missing]),
            *_some([f"  unexpected  {shown(row)}" for row in extra]),
        ]
    )


def shown(row: Row) -> str:
    """A row as a line of text.

    >>> shown({"card": "c1", "raw": b"x"})
    '{"card": "c1", "raw": "b\\'x\\'"}'
    """
    if isinstance(row, bytes):
        return repr(row if len(row) <= 300 else row[:300] + b"...")
    return json.dumps(dict(row), default=repr, ensure_ascii=False)


def _pairs(missing: list[Row], extra: list[Row]) -> tuple[list[tuple[Row, Row]], list[Row], list[Row]]:
    """Rows of both that agree in at least half of their fields, the most alike first."""
    if len(missing) * len(extra) > 10_000:
        return [], missing, extra
    scored = sorted(
        ((_alike(m, e), -i, -j) for i, m in enumerate(missing) for j, e in enumerate(extra)),
        reverse=True,
    )
    pairs: dict[int, int] = {}
    for score, i, j in scored:
        if score >= 0.5 and -i not in pairs and -j not in pairs.values():
            pairs[-i] = -j
    taken = set(pairs.values())
    return (
        [(missing[i], extra[j]) for i, j in sorted(pairs.items())],
        [m for i, m in enumerate(missing) if i not in pairs],
        [e for j, e in enumerate(extra) if j not in taken],
    )


def _alike(a: Row, b: Row) -> float:
    if isinstance(a, bytes) or isinstance(b, bytes):
        return 0.0
    names = {*a, *b}
    return len([n for n in names if n in a and n in b and a[n] == b[n]]) / max(1, len(names))


def _fields(wanted: Row, row: Row) -> str:
    assert not isinstance(wanted, bytes)
    assert not isinstance(row, bytes)
    told = []
    for name in dict.fromkeys([*wanted, *row]):
        if name not in row:
            told.append(f"{name} is missing")
        elif name not in wanted:
            told.append(f"{name} is {row[name]!r}, not expected")
        elif wanted[name] != row[name]:
            told.append(f"{name} is {row[name]!r}, expected {wanted[name]!r}")
    return ", ".join(told)


def _some(lines: list[str]) -> list[str]:
    return lines if len(lines) <= _MOST else [*lines[:_MOST], f"  ... and {len(lines) - _MOST} more of these"]
