"""Numbers as people read them, with their units."""

from datetime import UTC, datetime

NONE = "-"


def count(value: float) -> str:
    """A count in full.

    >>> count(1234567)
    '1,234,567'
    """
    return f"{value:,.0f}"


def rate(value: float, what: str = "") -> str:
    """So many a second, to three digits.

    >>> rate(12345.6), rate(0.25), rate(0), rate(3.4e6, "rows")
    ('12.3 k/s', '0.25/s', '0/s', '3.40 M rows/s')
    """
    text, unit = _short(value)
    space = " " if unit or what else ""
    return f"{text}{space}{unit}{' ' if unit and what else ''}{what}/s"


def short(value: float) -> str:
    """A count to three digits.

    >>> short(999), short(54321), short(1_750_000)
    ('999', '54.3 k', '1.75 M')
    """
    text, unit = _short(value)
    return f"{text} {unit}".strip()


def _short(value: float) -> tuple[str, str]:
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit * 0.9995:
            return _three(value / limit), unit
    return (f"{value:.0f}" if value >= 100 or value == int(value) else _three(value)), ""


def _three(value: float) -> str:
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def size(value: float) -> str:
    """Bytes in binary units.

    >>> size(0), size(1536), size(5 * 2**30)
    ('0 B', '1.5 KiB', '5.0 GiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def seconds(value: float | None) -> str:
    """A duration: the two greatest units of it.

    >>> seconds(0.0123), seconds(2.34), seconds(75), seconds(200_000), seconds(2.6e8), seconds(None)
    ('12 ms', '2.3 s', '1 min 15 s', '2 d 7 h', '8 y 89 d', '-')
    """
    if value is None:
        return NONE
    if value < 0:
        return f"-{seconds(-value)}"
    if value < 1:
        return f"{value * 1000:.1f} ms" if value < 0.00995 else f"{value * 1000:.0f} ms"
    if value < 60:
        return f"{value:.1f} s" if value < 9.95 else f"{value:.0f} s"
    units = [("y", 365 * 86400), ("d", 86400), ("h", 3600), ("min", 60), ("s", 1)]
    rest = round(value)
    at = next(i for i, (_, length) in enumerate(units) if rest >= length)
    first, rest = divmod(rest, units[at][1])
    second = rest // units[at + 1][1]
    return f"{first} {units[at][0]}" + (f" {second} {units[at + 1][0]}" if second else "")


def instant(milliseconds: int | None) -> str:
    """Event time or wall-clock time, in UTC.

    >>> instant(1_525_000_000_000), instant(None), instant(2**59)
    ('2018-04-29 11:06:40', '-', '576460752303423488 ms')
    """
    if milliseconds is None:
        return NONE
    try:
        return datetime.fromtimestamp(milliseconds // 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return f"{milliseconds} ms"


def clock(milliseconds: int) -> str:
    """The time of day, in UTC.

    >>> clock(1_525_000_000_123)
    '11:06:40'
    """
    return instant(milliseconds).rpartition(" ")[2]


def share(value: float) -> str:
    """A part of a whole.

    >>> share(0.314), share(0.004), share(0.0001), share(0)
    ('31 %', '0.4 %', '<0.1 %', '0 %')
    """
    percent = min(value, 1.0) * 100
    if 0 < percent < 0.05:
        return "<0.1 %"
    return f"{percent:.1f} %" if 0 < percent < 1 else f"{percent:.0f} %"
