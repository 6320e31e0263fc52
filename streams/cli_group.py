"""How the command line shows itself: commands in groups, errors as text, guesses for what is misspelt."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from streams.core.errors import StreamsError
from streams.core.schema import nearest

SECTIONS: Mapping[str, Sequence[str]] = {
    "Run": ("run", "demo"),
    "Look at programs and their data": ("topology", "tasks", "topics", "dlq", "state", "verify"),
    "Keep and move": ("savepoint", "reset"),
    "Set up": ("settings", "broker", "completion"),
}


OPTIONS: Mapping[str, Sequence[str]] = {
    "Log": ("brokers", "log_dir", "file"),
    "Worker": ("slot", "state_dir", "checkpoints", "commit_interval", "http"),
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
        except click.UsageError as error:
            guess = nearest(args[0], self.list_commands(ctx)) or f"; there are: {', '.join(self.list_commands(ctx))}"
            raise click.UsageError(f"{error.message.rstrip('.')}{guess}", ctx) from None


class Group(Guessing):
    """Shows an error of ours as text, without a traceback, and lists commands by section."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except StreamsError as error:
            text = "\n".join([str(error), *getattr(error, "__notes__", ())])
            click.echo(f"{click.style('error', fg='red', bold=True)}: {text}", err=True)
            ctx.exit(1)

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
