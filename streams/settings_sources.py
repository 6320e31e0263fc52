"""Where settings come from: a TOML file with its lines, the environment, secrets kept in files and variables."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streams.core.errors import SettingsError
from streams.core.schema import nearest
from streams.settings_values import unknown_fix

PREFIX = "STREAMS_"
KAFKA = f"{PREFIX}KAFKA_"
FILE = f"{PREFIX}SETTINGS"
TABLES = {"kafka": ".", "checkpoint_options": "_"}
"""Settings that are tables, and what stands for an underscore of the environment in the names in them."""
DEFAULT_FILE = Path("streams.toml")

# STREAMS_ variables that are no settings: FILE, two for tests (streams/cli.py), one that a supervisor tells its worker.
OTHERS = frozenset({FILE, "STREAMS_CRASH", "STREAMS_READY_FILE", "STREAMS_SUPERVISOR"})
# What Kubernetes puts into the environment of every pod beside a service called `streams...`.
_SERVICE = re.compile(r"STREAMS(_\w+)?_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")


@dataclass(frozen=True)
class Found:
    """A value as it was written, and where."""

    value: Any
    origin: str


# ---------------------------------------------------------------- the file


def from_file(file: Path, problems: list[SettingsError]) -> dict[tuple[str, ...], Found]:
    """What the file says, by path: ("slot",), ("kafka", "sasl.password"). Nothing where it cannot be read."""
    try:
        text = file.read_text()
        data = tomllib.loads(text)
    except FileNotFoundError:
        fix = f"create it, or leave --settings (or {FILE}) out"
        problems.append(SettingsError(f"no settings file {str(file)!r}", where=str(Path.cwd()), fix=fix))
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        fix = 'write lines such as  slot = "a"  and  commit_interval = "50ms"; see https://toml.io'
        problems.append(SettingsError(f"the settings file is not TOML: {error}", where=str(file), fix=fix))
        return {}
    except OSError as error:
        reason = error.strerror or str(error)
        fix = "give this user the right to read it, or name another file"
        problems.append(SettingsError(f"the settings file cannot be read: {reason}", where=str(file), fix=fix))
        return {}
    lines, found = _lines(text), dict[tuple[str, ...], Found]()
    for key, value in data.items():
        if key in TABLES and isinstance(value, dict):
            for name, each in _flat(value).items():
                found[key, name] = Found(each, _place(file, lines.get((key, name)) or lines.get((key,))))
        else:
            found[(key,)] = Found(value, _place(file, lines.get((key,))))
    return found


def _flat(table: Mapping[str, Any]) -> dict[str, Any]:
    """TOML takes the dots of an unquoted name for tables in tables; {file = ...} and {env = ...} are values.

    >>> _flat({"sasl": {"mechanism": "PLAIN", "password": {"env": "X"}}, "client.id": "a"})
    {'sasl.mechanism': 'PLAIN', 'sasl.password': {'env': 'X'}, 'client.id': 'a'}
    """
    out: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, dict) and not set(value) <= {"file", "env"}:
            out.update({f"{name}.{rest}": each for rest, each in _flat(value).items()})
        else:
            out[name] = value
    return out


def _place(file: Path, line: int | None) -> str:
    return f"{file}, line {line}" if line else str(file)


def _lines(text: str) -> dict[tuple[str, ...], int]:
    """The line of each key and table, as far as a look at single lines tells: tomllib does not.

    >>> _lines('slot = "a"\\n[kafka]\\n"sasl.password" = "x"\\nkafka.a = 1')
    {('slot',): 1, ('kafka',): 2, ('kafka', 'sasl.password'): 3, ('kafka', 'kafka.a'): 4}
    """
    found: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[([^\[\]]+)\]\s*(#.*)?$", line)
        key = re.match(r"\s*([^=#\[\]{}]+?)\s*=", line)
        if header:
            table = _path(header[1])
            found.setdefault(table[:1], number)
        elif key and (path := (*table, *_path(key[1]))):
            inside = path[0] in TABLES and len(path) > 1
            found.setdefault((path[0], ".".join(path[1:])) if inside else path[:1], number)
    return found


def _path(key: str) -> tuple[str, ...]:
    """A dotted and quoted TOML key, taken apart."""
    path: list[str] = []
    with suppress(tomllib.TOMLDecodeError):
        left: Any = tomllib.loads(f"{key} = 0")
        while isinstance(left, dict):
            name, left = next(iter(left.items()))
            path.append(name)
    return tuple(path)


# ---------------------------------------------------------------- the environment


def from_environment(
    environment: Mapping[str, str], names: Iterable[str], problems: list[SettingsError]
) -> dict[tuple[str, ...], Found]:
    """STREAMS_SLOT=a, STREAMS_KAFKA_SASL_PASSWORD=... Another name that begins with STREAMS_ is a problem.

    >>> problems = []
    >>> found = from_environment({"STREAMS_SLOT": "a", "STREAMS_SLOTS": "b"}, ["slot"], problems)
    >>> found[("slot",)].value, problems[0].what
    ('a', "unknown environment variable 'STREAMS_SLOTS'; did you mean 'STREAMS_SLOT'?")
    """
    keys = {f"{PREFIX}{name.upper()}": name for name in names}
    found: dict[tuple[str, ...], Found] = {}
    for variable, value in sorted(environment.items()):
        if not variable.startswith(PREFIX) or variable in OTHERS or _is_service(variable, value):
            continue
        origin = f"environment variable {variable}"
        if variable in keys:
            found[(keys[variable],)] = Found(value, origin)
        elif entry := _entry(variable):
            found[entry] = Found(value, origin)
        else:  # its value is not shown: it could be a secret
            what = f"unknown environment variable {variable!r}{nearest(variable, keys)}"
            fix = unknown_fix(variable, [*keys, f"{KAFKA}...", FILE])
            problems.append(SettingsError(what, where="the environment", fix=fix))
    return found


def _entry(variable: str) -> tuple[str, str] | None:
    """STREAMS_KAFKA_SASL_PASSWORD is an entry of a table."""
    for table, separator in TABLES.items():
        prefix = f"{PREFIX}{table.upper()}_"
        if variable.startswith(prefix) and len(variable) > len(prefix):
            return table, variable.removeprefix(prefix).lower().replace("_", separator)
    return None


def _is_service(variable: str, value: str) -> bool:
    return bool(_SERVICE.fullmatch(variable)) or (variable.endswith("_PORT") and "://" in value)


# ---------------------------------------------------------------- secrets that are kept elsewhere


def table_value(value: Any, environment: Mapping[str, str]) -> str:
    """The text of a table's entry: itself, or what {file = "..."} or {env = "..."} names. Errors as of `convert`.

    >>> table_value({"env": "PASSWORD"}, {"PASSWORD": "x"}), table_value(True, {}), table_value(5000, {})
    ('x', 'true', '5000')
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (str, int, float)):
        return str(value)
    if isinstance(value, dict) and set(value) == {"file"} and isinstance(value["file"], str):
        try:
            return Path(value["file"]).read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not a text"
            fix = "name a file that this user may read"
            raise SettingsError(f"names a file that cannot be read: {value['file']!r} ({reason})", fix=fix) from None
    if isinstance(value, dict) and set(value) == {"env"} and isinstance(value["env"], str):
        if value["env"] not in environment:
            what = f"names an environment variable that is not set: {value['env']!r}"
            raise SettingsError(what, fix=f"set {value['env']}, or name another variable")
        return environment[value["env"]]
    fix = 'write a text, a number, true, false, {file = "/run/secrets/name"} or {env = "NAME"}'
    raise SettingsError("is not a value for a table of settings", fix=fix)
