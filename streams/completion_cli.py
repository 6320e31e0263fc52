"""`streams completion`: the shell completes commands, options and the apps that are around."""

from pathlib import Path

import click
from click.shell_completion import CompletionItem, get_completion_class

from streams.programs import programs

VARIABLE = "_STREAMS_COMPLETE"  # click looks for it when the command `streams` starts
_INSTALL = {
    "bash": "# To keep it:  streams completion bash > ~/.streams-completion.bash\n"
    "#              echo '. ~/.streams-completion.bash' >> ~/.bashrc\n"
    "# To try it:   . <(streams completion bash)\n",
    "zsh": "# To keep it:  streams completion zsh > ~/.streams-completion.zsh\n"
    "#              echo '. ~/.streams-completion.zsh' >> ~/.zshrc     (after compinit)\n"
    "# To try it:   . <(streams completion zsh)\n",
    "fish": "# To keep it:  streams completion fish > ~/.config/fish/completions/streams.fish\n"
    "# To try it:   streams completion fish | source\n",
}


@click.command("completion")
@click.argument("shell", type=click.Choice(sorted(_INSTALL)))
def completion(shell: str) -> None:
    """Print the completion script for bash, zsh or fish.

    It completes commands, options, and the MODULE:APP names in the current directory. How to install it stands in
    its first lines; the command must be called `streams`.

    \b
    . <(streams completion bash)
    streams completion fish > ~/.config/fish/completions/streams.fish

    Exit codes: 0 fine, 2 wrong usage.
    """
    made = get_completion_class(shell)
    assert made is not None
    # Not made.source(), which starts a bash to look at its version first.
    instance = made(click.Command("streams"), {}, "streams", VARIABLE)
    click.echo(_INSTALL[shell] + instance.source_template % instance.source_vars())


def complete_program(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """MODULE:APP names. bash splits words at the colon: there, complete before it is typed."""
    return [CompletionItem(name) for name in programs(Path.cwd()) if name.startswith(incomplete)]
