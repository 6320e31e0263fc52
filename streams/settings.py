"""What an operator of the service can set: data only, read from TOML, environment and arguments (the later wins)."""

import logging
import os
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from streams.core.errors import SettingsError
from streams.core.schema import nearest
from streams.settings_sources import DEFAULT_FILE, FILE, TABLES, Found, from_environment, from_file, table_value
from streams.settings_values import HIDDEN, Redacting, convert, is_secret, show, unknown_fix

log = logging.getLogger("streams")

_LONGEST_COMMIT = 10_000  # ms; a broker ends a transaction that is open for 15 s (streams/log/kafka_settings.py)


def _setting(default: Any, kind: str, help: str, least: int | None = None) -> Any:
    return field(default=default, metadata={"kind": kind, "help": help, "least": least})


def _table(help: str) -> Any:
    return field(default_factory=dict, metadata={"kind": "table", "help": help, "least": None})


@dataclass(frozen=True)
class Settings:
    """All settings of a worker. Durations are milliseconds, sizes bytes; each field's metadata says what it is.

    `load` takes texts such as "250ms" and "256MB", too. Secrets in tables are never shown.

    >>> Settings(slot="a", kafka={"sasl.password": "hunter2"}).kafka
    {'sasl.password': '***'}
    """

    brokers: str = _setting(
        "", "brokers", "Kafka's addresses, HOST:PORT,HOST:PORT. Empty: the embedded log in `log_dir` is used."
    )
    log_dir: str = _setting(".streams/log", "path", "Directory of the embedded log.")
    state_dir: str = _setting(
        ".streams/state", "path", "Directory of the state. It is a cache: what is lost is restored from the changelog."
    )
    slot: str = _setting(
        "0", "slot", "Name of this worker: the same after a restart, another one for each worker that runs."
    )
    commit_interval: int = _setting(
        1000, "duration", "How often to commit; results become visible that often. On Kafka at most 10s.", 1
    )
    poll_records: int = _setting(20_000, "count", "How many records a worker takes from the log at a time.", 1)
    overlay_bytes: int = _setting(
        256 * 2**20, "size", "Uncommitted state of a worker in memory; above that it commits before its time.", 1
    )
    open_records: int = _setting(
        1_000_000, "count", "Records written and not yet committed; from there on a worker commits before its time.", 1
    )
    cache_bytes: int = _setting(256 * 2**20, "size", "Memory for state that was read, shared by a worker's tasks.", 0)
    record_bytes: int = _setting(1_000_000, "size", "Largest result; a larger one becomes a dead letter.", 1)
    waiting_rows: int = _setting(
        1_000_000,
        "count",
        "Rows of an input that may wait for other inputs; above that it is paused. Within a shuffle none can be.",
        1,
    )
    changelog_bytes: int = _setting(
        64 * 2**20, "size", "Without `checkpoints`: from this size on a task's changelog may be written anew.", 1
    )
    changelog_factor: int = _setting(
        2, "count", "Without `checkpoints`: a changelog this many times the state is written anew and trimmed.", 1
    )
    checkpoints: str = _setting(
        "",
        "text",
        "Where snapshots are kept: a directory that all workers share, or s3://, gs://, az://. Empty: nowhere.",
    )
    checkpoint_options: Mapping[str, str] = _table(
        "Options of the checkpoint location by obstore's names: endpoint, region, access_key_id and so on."
    )
    snapshot_interval: int = _setting(60_000, "duration", "How often a task's store is copied to `checkpoints`.", 1)
    snapshots_kept: int = _setting(3, "count", "How many snapshots of a task are kept.", 1)
    upload_bytes: int = _setting(0, "size", "Bytes a second that snapshots may take of the network. 0: no limit.", 0)
    watchdog: int = _setting(
        60_000,
        "duration",
        "After this long in one call the operator is named, with Python's stack. 0: never.",
        0,
    )
    watchdog_exit: int = _setting(
        0, "duration", "After this long in one call the worker ends, so that a supervisor starts it again. 0: never.", 0
    )
    partitions: int = _setting(4, "count", "Partitions of topics that are made, where no input topic tells.", 1)
    http: str = _setting("", "address", "Serve a page, metrics and health on [HOST:]PORT. Empty: off.")
    http_state: str = _setting(
        "local",
        "reach",
        "Who may read state over `http`: local (this machine, if only it can reach the address), all, none.",
    )
    kafka: Mapping[str, str] = _table("Settings of librdkafka: security.protocol, sasl.*, ssl.* and so on.")

    def __post_init__(self) -> None:
        for name in TABLES:
            object.__setattr__(self, name, Redacting(getattr(self, name)))


@dataclass(frozen=True)
class Resolved:
    """The settings in force, and where each came from (by name, or `kafka.<name>`), and the file that was read."""

    settings: Settings
    origins: Mapping[str, str]
    file: Path | None

    def rows(self) -> list[tuple[str, str, str]]:
        """(key, value as one would write it, origin) of every setting, secrets hidden."""
        out = []
        for declared in fields(Settings):
            value, kind = getattr(self.settings, declared.name), declared.metadata["kind"]
            if kind != "table":
                origin = self.origins.get(declared.name, "default")
                out.append((declared.name, show(kind, value), origin))
                continue
            for name, text in sorted(value.items()):
                key = f"{declared.name}.{name}"
                out.append((key, HIDDEN if is_secret(name) else text, self.origins.get(key, "default")))
        return out


def load(
    arguments: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Settings:
    """The settings in force. SettingsError names every problem at once: key, value, where it came from, the remedy.

    The file is the one given, else that of the variable STREAMS_SETTINGS, else ./streams.toml if there is one.

    >>> load({"commit_interval": "50ms", "cache_bytes": "1MiB"}, {}).commit_interval
    50
    >>> load({"slot": "a/b", "comit_interval": 1}, {"STREAMS_POLL_RECORDS": "many"})
    Traceback (most recent call last):
    streams.core.errors.SettingsError: 3 settings are wrong
      1. unknown setting 'comit_interval'; did you mean 'commit_interval'? (value: 1)
           where: option --comit-interval
           fix:   correct the name, or remove it; `streams settings` shows them all
      2. poll_records = 'many' is not a whole number
           where: environment variable STREAMS_POLL_RECORDS
           fix:   write it without a unit, e.g. 20000
      3. slot = 'a/b' is not a name
           where: option --slot
           fix:   use letters, digits, '-', '_' and '.'
    """
    resolved = resolve(arguments, environment, file)
    if resolved.file is not None and file is None:
        log.info("settings from %s", resolved.file.absolute())
    return resolved.settings


def resolve(
    arguments: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Resolved:
    """As `load`, with the origin of each setting."""
    environment = os.environ if environment is None else environment
    declared = {f.name: f for f in fields(Settings)}
    problems: list[SettingsError] = []
    file = _file(file, environment)
    found = from_file(file, problems) if file is not None else {}
    found.update(from_environment(environment, declared.keys() - TABLES.keys(), problems))
    for name, value in (arguments or {}).items():
        paths: list[tuple[str, ...]]
        paths = [(name, str(k)) for k in value] if name in TABLES and isinstance(value, Mapping) else [(name,)]
        for path in paths:
            if value is not None:
                found[path] = Found(value[path[1]] if len(path) == 2 else value, f"option --{name.replace('_', '-')}")
    made: dict[str, Any] = {}
    tables: dict[str, Any] = {name: {} for name in TABLES}
    for path, item in sorted(found.items()):
        try:
            if len(path) == 2:
                tables[path[0]][path[1]] = table_value(item.value, environment)
            else:
                made[path[0]] = _value(path[0], item, declared)
        except SettingsError as error:
            problems.append(_problem(path, item, error))
    _check_together(made, found, problems)
    if problems:
        raise SettingsError.of(problems)
    origins = {".".join(path): item.origin for path, item in found.items()}
    return Resolved(Settings(**made, **tables), origins, file)


def _file(file: Path | None, environment: Mapping[str, str]) -> Path | None:
    if file is not None:
        return file
    if environment.get(FILE):
        return Path(environment[FILE])
    return DEFAULT_FILE if DEFAULT_FILE.exists() else None


def _value(name: str, item: Found, declared: Mapping[str, Field[Any]]) -> Any:
    if name not in declared:
        raise SettingsError("", fix=unknown_fix(name, declared))
    meta = declared[name].metadata
    if meta["kind"] == "table":
        raise SettingsError("is not a table", fix=f'[{name}]\n"NAME" = "VALUE"')
    return convert(meta["kind"], item.value, meta["least"])


def _problem(path: tuple[str, ...], item: Found, error: SettingsError) -> SettingsError:
    """The whole message, from what a conversion said. No value that could be a secret is shown."""
    name = path[-1]
    shown = "" if is_secret(name) or isinstance(item.value, (dict, list)) else repr(item.value)
    if not error.what:
        names = [f.name for f in fields(Settings)]
        value = f" (value: {shown})" if shown else ""
        return SettingsError(f"unknown setting {name!r}{nearest(name, names)}{value}", where=item.origin, fix=error.fix)
    value = f" = {shown}" if shown and len(path) == 1 else ""
    return SettingsError(f"{'.'.join(path)}{value} {error.what}", where=item.origin, fix=error.fix)


def _check_together(
    made: Mapping[str, Any],
    found: Mapping[tuple[str, ...], Found],
    problems: list[SettingsError],
) -> None:
    """What is wrong only beside another setting."""
    at = next((item.origin for path, item in found.items() if path[0] == "kafka" and len(path) == 2), "")
    if at and ("brokers",) not in found:
        problems.append(
            SettingsError(
                "there are Kafka settings, but no brokers: the embedded log would be used",
                where=at,
                fix='write brokers = "HOST:9092", or brokers = "" if the embedded log is meant',
            )
        )
    interval = made.get("commit_interval", Settings.commit_interval)
    if made.get("brokers") and interval > _LONGEST_COMMIT:
        problems.append(
            SettingsError(
                f"commit_interval = {show('duration', interval)} is too long: Kafka ends a transaction after 15s",
                where=found[("commit_interval",)].origin,
                fix=f"at most {show('duration', _LONGEST_COMMIT)}",
            )
        )
