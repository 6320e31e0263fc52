"""Values of settings: from what was written to what the engine takes, and which of them are never shown."""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from streams.core.errors import SettingsError, StreamsError
from streams.core.schema import nearest
from streams.core.time import duration
from streams.core.time import text as as_duration

HIDDEN = "***"

_SECRET = re.compile("pas|pwd|secret|key|token|user|principal|oauthbearer|jaas|pem|cred", re.IGNORECASE)
_SECRETS = ("sasl.password", "sasl.username", "ssl.key.password", "ssl.keystore.password", "ssl.key.pem")
_UNITS = {
    "": 1,
    "B": 1,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "TB": 1000**4,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
_SIZE = re.compile(r"([\d_]+)\s*([KMGT]i?B|B|)", re.IGNORECASE)
_BROKER = re.compile(r"(?:\w+://)?(?:\[[0-9a-fA-F:.]+\]|[^\s:/,\[\]]+)(?::(\d+))?")
_SLOT = re.compile(r"[A-Za-z0-9._-]+")


# ---------------------------------------------------------------- secrets


def is_secret(name: str) -> bool:
    """Whether the value of a setting of this name is never shown. A misspelt secret is one, too; a path is none.

    >>> [is_secret(n) for n in ("sasl.password", "sasl.pasword", "ssl.key.pem", "security.protocol", "ssl.ca.location")]
    [True, True, True, False, False]
    """
    if name.endswith(".location"):
        return False
    return bool(_SECRET.search(name) or difflib.get_close_matches(name.lower(), _SECRETS, 1, 0.8))


class Redacting(dict[str, str]):
    """Settings of a Kafka client: a dict that shows no secret when it is printed.

    >>> Redacting({"security.protocol": "SASL_SSL", "sasl.password": "hunter2"})
    {'security.protocol': 'SASL_SSL', 'sasl.password': '***'}
    """

    def __repr__(self) -> str:
        return repr(shown(self))

    def __str__(self) -> str:
        return repr(self)


def shown(table: Mapping[str, str]) -> dict[str, str]:
    """A copy for the eye: secrets replaced."""
    return {name: HIDDEN if is_secret(name) else value for name, value in table.items()}


# ---------------------------------------------------------------- kinds


def size(value: Any) -> int:
    """Bytes of a size: an int is bytes, a text has a unit (KB, MB, GB: powers of 1000; KiB, MiB, GiB: of 1024).

    >>> size("256MB"), size("1GiB"), size(4096)
    (256000000, 1073741824, 4096)
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    found = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise SettingsError("is not a size", fix='write bytes or a text such as "64KB", "256MB", "1GiB"')
    return int(found[1].replace("_", "") or "0") * _UNITS[found[2].upper()]


def size_text(count: int) -> str:
    """The shortest exact text of a size.

    >>> size_text(256 * 2**20), size_text(1_000_000), size_text(1001), size_text(0)
    ('256MiB', '1MB', '1001B', '0B')
    """
    for unit in ("TiB", "GiB", "MiB", "KiB", "TB", "GB", "MB", "KB"):
        if count and count % _UNITS[unit.upper()] == 0:
            return f"{count // _UNITS[unit.upper()]}{unit}"
    return f"{count}B"


def convert(kind: str, value: Any, least: int | None = None) -> Any:
    """The value as the engine takes it. SettingsError: `what` completes "KEY = VALUE ...", `fix` is the remedy.

    >>> convert("duration", "50ms"), convert("size", "1KB"), convert("count", "20_000")
    (50, 1000, 20000)
    """
    made: Any = _CONVERTERS[kind](value)
    if least is not None and made < least:
        raise SettingsError("is too small", fix=f"at least {show(kind, least)}")
    return made


def show(kind: str, value: Any) -> str:
    """A value as it can be written in a settings file, without quotes.

    >>> show("duration", 1000), show("size", 2**20), show("count", 20000), show("text", "")
    ('1s', '1MiB', '20000', '')
    """
    return {"duration": as_duration, "size": size_text}.get(kind, str)(value)


def _duration(value: Any) -> int:
    if isinstance(value, str) and re.fullmatch(r"\s*-?\d+\s*", value):
        value = int(value)
    try:
        return duration(value)
    except StreamsError as error:
        if isinstance(value, int) and not isinstance(value, bool):
            raise SettingsError("cannot be negative", fix='write e.g. "50ms", "1s"') from error
        fix = 'write milliseconds or a text such as "50ms", "1s", "1m30s"'
        raise SettingsError("is not a duration", fix=fix) from None


def _count(value: Any) -> int:
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            raise SettingsError("is not a whole number", fix="write it without a unit, e.g. 20000") from None
    if isinstance(value, bool) or not isinstance(value, int):
        raise SettingsError("is not a whole number", fix="write it without quotes or a point, e.g. 20000")
    return value


def _text(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        raise SettingsError("is a list, not a text", fix=f'write "{",".join(value)}"')
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise SettingsError("is not a text", fix='write it in quotes: "..."')
    return str(value)


def _brokers(value: Any) -> str:
    text = _text(value)
    for part in filter(None, (p.strip() for p in text.split(","))):
        found = _BROKER.fullmatch(part)
        if found is None or (found[1] is not None and not 0 < int(found[1]) < 65536):
            raise SettingsError(
                f"is no list of brokers: {part!r} is not HOST:PORT",
                fix='write e.g. "localhost:9092" or "kafka-1:9092,kafka-2:9092"',
            )
    return text


def _address(value: Any) -> str:
    text = _text(value)
    if text:
        port = text.rpartition(":")[2]
        if not port.isdecimal() or int(port) > 65535:
            raise SettingsError("is not HOST:PORT", fix="the port is a number up to 65535: 127.0.0.1:9400")
    return text


def _slot(value: Any) -> str:
    text = _text(value)
    if not _SLOT.fullmatch(text) or text in (".", ".."):
        raise SettingsError("is not a name", fix="use letters, digits, '-', '_' and '.'")
    if text.startswith("claim-"):
        raise SettingsError("cannot begin with 'claim-'", fix="choose another name")
    return text


def _reach(value: Any) -> str:
    text = _text(value)
    if text not in ("local", "all", "none"):
        raise SettingsError("is not one of the choices", fix="write local, all or none")
    return text


def _path(value: Any) -> str:
    text = _text(value)
    if not text:
        raise SettingsError("is empty", fix="name a directory")
    return text


_CONVERTERS = {
    "duration": _duration,
    "size": size,
    "count": _count,
    "text": _text,
    "brokers": _brokers,
    "address": _address,
    "slot": _slot,
    "reach": _reach,
    "path": _path,
}


def unknown_fix(name: str, names: Iterable[str]) -> str:
    """The remedy for an unknown name: all names only where none is near, since there are many."""
    names = sorted(names)
    if nearest(name, names):
        return "correct the name, or remove it; `streams settings` shows them all"
    return f"remove it; there are: {', '.join(names)}"
