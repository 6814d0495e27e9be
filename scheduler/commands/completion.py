"""`rewrap completion`: what makes a shell complete commands and options."""

import click
from click.shell_completion import get_completion_class

_SHELLS = ("bash", "zsh", "fish")
_VARIABLE = "_REWRAP_COMPLETE"
"""What click asks of its environment: its name follows from the command's."""


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(context: click.Context, /, shell: str) -> None:
    """Print what makes a shell complete `rewrap`; for the shell's start-up file.

    bash (4.4 or newer) and zsh: eval "$(rewrap completion bash)", in ~/.bashrc or ~/.zshrc.
    fish: rewrap completion fish > ~/.config/fish/completions/rewrap.fish

    Example: rewrap completion bash
    """
    made = get_completion_class(shell)
    assert made is not None, shell  # noqa: S101 - click knows these three
    click.echo(made(context.find_root().command, {}, "rewrap", _VARIABLE).source())
