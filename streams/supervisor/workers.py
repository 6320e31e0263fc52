"""How many workers, and the command of each."""

import sys
from collections.abc import Sequence

import click
from click.core import ParameterSource

from streams.core.errors import SettingsError, WrongType
from streams.core.time import duration
from streams.settings import Settings
from streams.supervisor.child import cores
from streams.supervisor.supervisor import Supervisor
from streams.terminal.display import Display

_OURS = ("program", "workers", "stop_timeout", "slot", "http", "plain", "log_format")


def supervise(
    context: click.Context, app: str, settings: Settings, workers: str, stop_timeout: float, display: Display
) -> None:
    """`streams run --workers`: the same command for each slot, until it is told to end."""
    slots = [f"{settings.slot}-{number}" for number in range(count(workers))]
    log = settings.brokers or settings.log_dir
    made = Supervisor(app, log, {slot: command(context, slot) for slot in slots}, stop_timeout=stop_timeout)
    with display:
        made.run(display, settings.http, settings.http_state)


def limit(text: str) -> float:
    """The seconds that `--stop-timeout` gives.

    >>> limit("500ms")
    0.5
    """
    try:
        return duration(text) / 1000
    except WrongType as error:
        raise SettingsError(
            f"stop-timeout = {text!r} is not valid", where="option --stop-timeout", fix=str(error)
        ) from None


def count(text: str) -> int:
    """The number that `--workers` asks for.

    >>> count("3"), count("auto") >= 1
    (3, True)
    """
    if text == "auto":
        return cores()
    if not text.isdigit() or int(text) < 1:
        raise SettingsError(
            f"workers = {text!r} is not valid", where="option --workers", fix="a number from 1 on, or auto"
        )
    return int(text)


def command(context: click.Context, slot: str) -> list[str]:
    """`streams run` of the same program with the same options, as the worker of one slot.

    Settings from the environment and from a file it finds by itself.
    """
    out = [sys.executable, "-m", "streams", "run", context.params["program"], *_options(context)]
    return [*out, "--slot", slot, "--http", "", "--log-format", "json"]


def _options(context: click.Context) -> Sequence[str]:
    out: list[str] = []
    for parameter in context.command.params:
        name = parameter.name or ""
        if name in _OURS or context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        assert isinstance(parameter, click.Option)
        value = context.params[name]
        if parameter.is_flag:
            out.append((parameter.opts if value else parameter.secondary_opts)[0])
        else:
            for item in value if parameter.multiple else [value]:
                out += [parameter.opts[0], str(item)]
    return out
