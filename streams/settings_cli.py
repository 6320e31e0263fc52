"""`streams settings`, and the options that commands share; both made from what `Settings` declares."""

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from streams.cli_group import Command
from streams.settings import Resolved, Settings, resolve
from streams.settings_sources import DEFAULT_FILE, FILE, KAFKA, PREFIX
from streams.settings_values import show

_KINDS = {
    "duration": "duration",
    "size": "size",
    "count": "whole number",
    "text": "text",
    "brokers": "text",
    "address": "text",
    "slot": "text",
    "reach": "text",
    "path": "path",
    "table": "table",
}
_HEAD = """\
# Settings

<!-- Made by `streams settings --markdown > docs/settings.md`; a test compares them. -->

A worker reads its settings from three places; the later wins:

1. a TOML file: the one that `--settings FILE` names, else the one that the variable `{file}` names, else
   `./{default}` if there is one;
2. the environment: `{prefix}` and the name in capitals, such as `{prefix}COMMIT_INTERVAL=50ms`; for a Kafka setting
   `{kafka}` and its name with underscores for dots, such as `{kafka}SASL_PASSWORD`;
3. options of the command line, such as `--commit-interval 50ms`.

All of them are checked at once, before anything is started: an unknown name (also that of an environment variable which
begins with `{prefix}`), a wrong type, a value out of range. `streams settings` prints what is in force and where each
value comes from.

Durations are written as `"50ms"`, `"1s"`, `"1m30s"`, or as a number of milliseconds. Sizes are written as `"64KB"`,
`"256MB"` (powers of 1000), `"256MiB"` (powers of 1024), or as a number of bytes.
"""
_TAIL = """
## Kafka

The table `[kafka]` goes to librdkafka, whose CONFIGURATION.md lists the names. What exactly-once delivery rests on
(`group.id`, `transactional.id`, `isolation.level` and so on) is refused. A value can be kept elsewhere:

```toml
brokers = "kafka-1:9092,kafka-2:9092"

[kafka]
"security.protocol" = "SASL_SSL"
"sasl.mechanism" = "SCRAM-SHA-512"
"sasl.username" = {env = "KAFKA_USER"}
"sasl.password" = {file = "/run/secrets/kafka"}
```

Secrets (names with password, secret, key, token, user, principal, jaas or pem in them, paths excepted) are shown as
`***` wherever settings are shown, and are taken out of errors.
"""


# ---------------------------------------------------------------- options


def option(name: str) -> Callable[[Any], Any]:
    """The command line's option for a setting, with the help that `Settings` declares."""
    declared = next(f for f in fields(Settings) if f.name == name)
    default = show(declared.metadata["kind"], declared.default)
    text = declared.metadata["help"] + (f"  [default: {default}]" if default else "")
    return click.option(f"--{name.replace('_', '-')}", metavar=_metavar(declared.metadata["kind"]), help=text)


def _metavar(kind: str) -> str:
    return {
        "brokers": "HOST:PORT,...",
        "address": "HOST:PORT",
        "path": "DIRECTORY",
        "slot": "NAME",
        "reach": "local|all|none",
    }.get(kind, kind.upper())


_FILE = click.option(
    "--settings",
    "file",
    type=click.Path(path_type=Path),
    help=f"A TOML file of settings; the environment ({PREFIX}...) and options override it.  "
    f"[default: ./{DEFAULT_FILE} if there is one]",
)


def log_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Which log to use: --brokers, --log-dir, --settings."""
    for each in (_FILE, option("log_dir"), option("brokers")):
        command = each(command)
    return command


def location_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Which checkpoint location to use: --checkpoints, --settings."""
    for each in (_FILE, option("checkpoints")):
        command = each(command)
    return command


def worker_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What a worker is told: --slot, --state-dir, --checkpoints, --commit-interval, --http, --http-state."""
    for name in ("http_state", "http", "commit_interval", "checkpoints", "state_dir", "slot"):
        command = option(name)(command)
    return command


# ---------------------------------------------------------------- the command


@click.command("settings", cls=Command)
@log_options
@worker_options
@click.option("--json", "as_json", is_flag=True, help="As one JSON object: by key, value and origin.")
@click.option("--markdown", is_flag=True, help="Print the reference of all settings instead (docs/settings.md).")
def settings(file: Path | None, as_json: bool, markdown: bool, **options: Any) -> None:
    """Print the settings in force, and where each comes from.

    Settings come from a TOML file, the environment and options; the later wins. Secrets are shown as ***. Where
    settings are wrong, all that is wrong is said at once.

    \b
    streams settings
    streams settings --settings production.toml --slot a
    streams settings --json

    Exit codes: 0 fine, 1 a setting is wrong, 2 wrong usage.
    """
    if markdown:
        click.echo(reference(), nl=False)
        return
    resolved = resolve(options, file=file)
    click.echo(_as_json(resolved) if as_json else table(resolved))


def table(resolved: Resolved) -> str:
    """Key, value, origin of each setting, aligned, and which file was read."""
    rows = [("key", "value", "origin"), *((k, v or '""', o) for k, v, o in resolved.rows())]
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    lines = [f"{key:{widths[0]}}  {value:{widths[1]}}  {origin}" for key, value, origin in rows]
    file = resolved.file.absolute() if resolved.file is not None else f"none (./{DEFAULT_FILE} does not exist)"
    return "\n".join([*lines, "", f"settings file: {file}"])


def _as_json(resolved: Resolved) -> str:
    hidden = {key: value for key, value, _ in resolved.rows()}
    out = {}
    for key, _, origin in resolved.rows():
        value = hidden[key] if key.startswith("kafka.") else getattr(resolved.settings, key)
        out[key] = {"value": value, "origin": origin}
    file = str(resolved.file.absolute()) if resolved.file is not None else None
    return json.dumps({"file": file, "settings": out}, indent=2)


def reference() -> str:
    """docs/settings.md."""
    lines = [_HEAD.format(file=FILE, default=DEFAULT_FILE, prefix=PREFIX, kafka=KAFKA)]
    lines += ["| setting | type | default | what it does |", "|---|---|---|---|"]
    for declared in fields(Settings):
        meta = declared.metadata
        default = "" if meta["kind"] == "table" else show(meta["kind"], declared.default)
        least = f" At least {show(meta['kind'], meta['least'])}." if meta["least"] else ""
        shown = f"`{default}`" if default else "empty"
        lines.append(f"| `{declared.name}` | {_KINDS[meta['kind']]} | {shown} | {meta['help']}{least} |")
    return "\n".join(lines) + "\n" + _TAIL
