"""How messages word counts, spans of time and sizes."""


def counted(number: int, thing: str) -> str:
    """
    >>> counted(1, "lease"), counted(2000, "lease")
    ('1 lease', '2,000 leases')
    """
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def span(seconds: float | None) -> str:
    """A span in its largest unit, with a digit behind the point where that says something.

    >>> span(0.045), span(3.21), span(250), span(7200), span(86_400 * 2772), span(None)
    ('45 ms', '3.2 s', '4.2 min', '2.0 h', '2,772 d', '-')
    """
    if seconds is None:
        return "-"
    size = abs(seconds)
    if size < 1:
        return f"{seconds * 1000:.0f} ms"
    for unit, length, below in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800), ("d", 86_400, float("inf"))):
        if size < below:
            value = seconds / length
            return f"{value:.1f} {unit}" if abs(value) < 10 else f"{value:,.0f} {unit}"
    raise AssertionError


def size(count: int) -> str:
    """Bytes in a unit that is easy to read.

    >>> size(0), size(1_500), size(12_300_000), size(5_000_000_000)
    ('0 B', '1.5 kB', '12.3 MB', '5.0 GB')
    """
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 999.95:
            return f"{value:.1f} {unit}"
    return f"{value / 1000:,.1f} TB"
