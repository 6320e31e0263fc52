"""How the command line shows itself: commands in groups, errors as text, guesses for what is misspelt."""

from collections.abc import Mapping, Sequence
from typing import IO, Any

import click

from streams.core.errors import StreamsError
from streams.core.schema import nearest

SECTIONS: Mapping[str, Sequence[str]] = {
    "Run": ("run", "demo"),
    "Look at programs and their data": ("topology", "tasks", "topics", "dlq", "state", "verify"),
    "Keep and move": ("savepoint", "snapshots", "reset"),
    "Set up": ("settings", "broker", "completion"),
}


OPTIONS: Mapping[str, Sequence[str]] = {
    "Log": ("brokers", "log_dir", "file"),
    "Worker": ("slot", "state_dir", "checkpoints", "commit_interval", "http", "http_state"),
}


class Command(click.Command):
    """Lists its options by section."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {title: [] for title in (*OPTIONS, "Options")}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                title = next((t for t, names in OPTIONS.items() if parameter.name in names), "Options")
                sections[title].append(record)
        for title, rows in sections.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


class Guessing(click.Group):
    """Guesses a misspelt command, or lists those that there are. Its commands list their options by section."""

    command_class = Command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            names = self.list_commands(ctx)
            guess = nearest(args[0], names) or f"; there are: {', '.join(names)}"
            if ":" in args[0] and ctx.parent is not None:  # a program, where one of our commands should stand first
                guess = f"; write one of these before it: {', '.join(names)}"
            raise click.UsageError(f"no command {args[0]!r}{guess}", ctx) from None


class Misuse(click.UsageError):
    """A command that was called wrongly, shown as our other errors are; with an example of the command's help."""

    def __init__(self, error: click.UsageError) -> None:
        super().__init__(error.format_message(), error.ctx)

    def show(self, file: IO[Any] | None = None) -> None:
        lines = []
        if self.ctx is not None:
            lines.append(self.ctx.get_usage())
            if example := _example(self.ctx.command):
                lines.append(f"For example: {example}")
            lines.append(f"Try '{self.ctx.command_path} {self.ctx.help_option_names[0]}' for help.")
            lines.append("")
        message = self.message[:1].lower() + self.message[1:]
        click.echo("\n".join([*lines, f"{_error()}: {message}"]), file=file, err=file is None)


def _error() -> str:
    return click.style("error", fg="red", bold=True)


def _example(command: click.Command) -> str:
    """The first example in a command's help."""
    lines = (line.strip() for line in (command.help or "").splitlines())
    return next((line for line in lines if line.startswith("streams ")), "")


def _misuse(error: click.UsageError) -> click.UsageError:
    """The error in our form; a group without a command shows its help, as click does (with an error, from 8.2 on)."""
    is_help = isinstance(error, (getattr(click.exceptions, "NoArgsIsHelpError", ()), Misuse))
    return error if is_help else Misuse(error)


class Group(Guessing):
    """Shows an error as text, without a traceback and always in the same form, and lists commands by section."""

    def make_context(self, *arguments: Any, **more: Any) -> click.Context:
        try:
            return super().make_context(*arguments, **more)
        except click.UsageError as error:
            raise _misuse(error) from None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except StreamsError as error:
            text = "\n".join([str(error), *getattr(error, "__notes__", ())])
            click.echo(f"{_error()}: {text}", err=True)
            ctx.exit(1)
        except click.UsageError as error:
            raise _misuse(error) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        names = self.list_commands(ctx)
        placed = {name for section in SECTIONS.values() for name in section}
        sections = {**SECTIONS, "More": [name for name in names if name not in placed]}
        for title, wanted in sections.items():
            rows = []
            for name in wanted:
                command = self.get_command(ctx, name) if name in names else None
                if command is not None and not command.hidden:
                    rows.append((name, command.get_short_help_str(200)))
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)
