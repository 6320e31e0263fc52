"""How messages word a count."""


def counted(number: int, thing: str) -> str:
    """
    >>> counted(1, "lease"), counted(2000, "lease")
    ('1 lease', '2,000 leases')
    """
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
