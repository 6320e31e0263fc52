"""Durations and instants: everything is integer milliseconds, instants since the epoch in UTC."""

import re

from streams.core.errors import WrongType

NEVER = -(2**62)
"""A watermark before every event time (far from the edge of int64, so that arithmetic cannot wrap)."""

FOREVER = 2**62
"""A watermark after every event time."""

_UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_PART = re.compile(r"(\d+)(ms|s|m|h|d|w)")


def duration(value: "str | int") -> int:
    """Milliseconds of a duration: an int is taken as milliseconds, a text like "1h30m" is added up.

    >>> duration("1m"), duration("1h30m"), duration(250)
    (60000, 5400000, 250)
    """
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise WrongType(f"{value!r} is not a duration", fix='write milliseconds or a text such as "5s", "10m", "1h30m"')
    if isinstance(value, int):
        if value < 0:
            raise WrongType(f"a duration cannot be negative: {value}")
        return value
    text = value.replace(" ", "")
    parts = _PART.findall(text)
    if not parts or "".join(n + u for n, u in parts) != text:
        raise WrongType(f"{value!r} is not a duration", fix='write e.g. "250ms", "5s", "10m", "1h30m", "7d"')
    return sum(int(n) * _UNITS[u] for n, u in parts)


def text(milliseconds: int) -> str:
    """The shortest text of a duration.

    >>> text(5_400_000), text(0)
    ('1h30m', '0ms')
    """
    rest, out = milliseconds, ""
    for unit in ("d", "h", "m", "s", "ms"):
        count, rest = divmod(rest, _UNITS[unit])
        if count:
            out += f"{count}{unit}"
    return out or "0ms"
