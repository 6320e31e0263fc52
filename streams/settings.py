"""What an operator of the service can set: data only, read from TOML, environment and arguments (the later wins)."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from streams.core.errors import SettingsError
from streams.core.schema import nearest
from streams.core.time import duration


@dataclass(frozen=True)
class Settings:
    """All settings of a worker.

    `brokers` empty: the embedded log in `log_dir` is used. Durations are milliseconds; in TOML and the environment a
    text such as "250ms" is taken too. Environment: STREAMS_ and the name in capitals (STREAMS_COMMIT_INTERVAL=50ms).
    """

    brokers: str = ""
    log_dir: str = ".streams/log"
    state_dir: str = ".streams/state"
    slot: str = "0"
    commit_interval: int = 1000
    poll_records: int = 20_000
    overlay_bytes: int = 256 * 2**20
    open_records: int = 1_000_000
    cache_bytes: int = 256 * 2**20
    record_bytes: int = 1_000_000
    waiting_rows: int = 1_000_000
    changelog_bytes: int = 64 * 2**20
    changelog_factor: int = 2
    checkpoints: str = ""
    checkpoint_options: Mapping[str, str] = field(default_factory=dict)
    snapshot_interval: int = 60_000
    snapshots_kept: int = 3
    upload_bytes: int = 0
    partitions: int = 4
    http: str = ""
    kafka: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        shown = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("kafka", "checkpoint_options"):
            shown[name] = {
                k: "***" if any(part in k.lower() for part in ("password", "secret", "pem", "key", "token")) else v
                for k, v in shown[name].items()
            }
        return f"Settings({', '.join(f'{k}={v!r}' for k, v in shown.items())})"


_DURATIONS = {"commit_interval", "snapshot_interval"}
_LEAST = {"commit_interval": 1, "poll_records": 1, "partitions": 1, "open_records": 1, "cache_bytes": 0}


def load(
    arguments: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Settings:
    """The settings in force. Every error names the key, the value, where it came from and the remedy.

    >>> load({"commit_interval": "50ms"}, {}).commit_interval
    50
    """
    environment = os.environ if environment is None else environment
    found: dict[str, tuple[Any, str]] = {}
    if file is not None:
        try:
            data = tomllib.loads(file.read_text())
        except FileNotFoundError:
            raise SettingsError(f"no settings file {str(file)!r}", fix="create it, or leave --settings out") from None
        except tomllib.TOMLDecodeError as error:
            raise SettingsError(f"not TOML: {error}", where=str(file), fix="see https://toml.io") from None
        found.update({key: (value, str(file)) for key, value in data.items()})
    names = {f.name for f in fields(Settings)}
    for name in names - {"kafka", "checkpoint_options"}:
        if (text := environment.get(f"STREAMS_{name.upper()}")) is not None:
            found[name] = (text, f"environment STREAMS_{name.upper()}")
    for key, value in (arguments or {}).items():
        if value is not None:
            found[key] = (value, f"option --{key.replace('_', '-')}")
    out: dict[str, Any] = {}
    for key, (value, where) in found.items():
        if key not in names:
            raise SettingsError(
                f"unknown setting {key!r}{nearest(key, names)}", where=where, fix=f"known: {', '.join(sorted(names))}"
            )
        out[key] = _convert(key, value, where)
    return Settings(**out)


def _convert(key: str, value: Any, where: str) -> Any:
    default = getattr(Settings(), key)
    if isinstance(default, Mapping):
        if not isinstance(value, Mapping):
            example = '[kafka]\n"security.protocol" = "SSL"' if key == "kafka" else f'[{key}]\nregion = "eu-west-1"'
            raise SettingsError(f"{key} must be a table", where=where, fix=example)
        return {str(k): str(v) for k, v in value.items()}
    try:
        if key in _DURATIONS:
            made: Any = duration(int(value) if isinstance(value, str) and value.isdigit() else value)
        elif isinstance(default, int):
            made = int(value)
        else:
            made = str(value)
    except Exception as error:
        raise SettingsError(f"{key} = {value!r} is not valid", where=where, fix=str(error)) from None
    if key in _LEAST and made < _LEAST[key]:
        raise SettingsError(f"{key} = {made} is too small", where=where, fix=f"at least {_LEAST[key]}")
    return made
