"""Which names a topic may have: Kafka's rule, kept on every log, so that a program of one log runs on the other."""

import re

from streams.core.errors import BuildError

LONGEST = 249
_ALLOWED = re.compile(r"[a-zA-Z0-9._-]+")
FIX = f"use letters (a-z, A-Z), digits, '.', '_' and '-', at most {LONGEST} of them"


def fault(name: str) -> str:
    """What is wrong with the name of a topic; nothing if it may be used.

    >>> fault("card.minutes"), fault("pay/ments"), fault("..")
    ('', "'pay/ments' is not a name for a topic", "'..' is not a name for a topic")
    """
    if len(name) > LONGEST:
        return f"'{name[:20]}...' is not a name for a topic: it has {len(name)} characters"
    if name in (".", "..") or not _ALLOWED.fullmatch(name):
        return f"{name!r} is not a name for a topic"
    return ""


def check(name: str, where: str) -> None:
    """BuildError if a program cannot name a topic so."""
    if wrong := fault(name):
        raise BuildError(wrong, where=where, fix=FIX)
