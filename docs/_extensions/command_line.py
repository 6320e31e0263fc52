"""The directive `command-line`: the help of every command, taken from click while the site is built."""

import inspect
from collections.abc import Iterator
from typing import Any

import click
from docutils import nodes
from sphinx.util.docutils import SphinxDirective


def commands(
    command: click.Command, path: tuple[str, ...] = ("streams",)
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """A command and all below it, in the order of `--help`, with the words that call it."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=path[-1])
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None and not below.hidden:
                yield from commands(below, (*path, name))


def as_markdown(path: tuple[str, ...], command: click.Command) -> str:
    """A section: usage, what it does, options."""
    context = click.Context(command, info_name=" ".join(path))
    usage = " ".join([*path, *command.collect_usage_pieces(context)])
    parts = [f"{'#' * (len(path) + 2)} {' '.join(path)}", f"```text\n{usage}\n```", _text(command.help or "")]
    if isinstance(command, click.Group):
        names = command.list_commands(context)
        rows = [
            (n, c.get_short_help_str(200)) for n in names if (c := command.get_command(context, n)) and not c.hidden
        ]
        parts.append("\n".join(f"`{name}`\n: {text}\n" for name, text in rows))
    options = [r for p in command.params if (r := p.get_help_record(context)) is not None]
    if options:
        parts.append("\n".join(f"`{names}`\n: {_escaped(text) or 'No more to say.'}\n" for names, text in options))
    return "\n\n".join(part for part in parts if part)


def _text(help: str) -> str:
    """Paragraphs; those behind \\b keep their lines."""
    made = []
    for paragraph in inspect.cleandoc(help).split("\n\n"):
        if paragraph.startswith("\b"):
            made.append(
                "```console\n" + "\n".join(f"$ {line}" for line in paragraph[1:].strip().splitlines()) + "\n```"
            )
        else:
            made.append(_escaped(paragraph))
    return "\n\n".join(made)


def _escaped(text: str) -> str:
    return text.replace("<", "\\<").replace("[", "\\[").replace("*", "\\*").replace("_", "\\_")


class CommandLine(SphinxDirective):
    """Takes the place of itself with a section a command."""

    has_content = False

    def run(self) -> list[nodes.Node]:
        from streams.cli import assembled

        text = "\n\n".join(as_markdown(path, command) for path, command in commands(assembled()))
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def setup(app: Any) -> dict[str, Any]:
    app.add_directive("command-line", CommandLine)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
