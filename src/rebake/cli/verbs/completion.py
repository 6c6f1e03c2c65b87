"""`rebake completion SHELL`: the Tab key knows the verbs, the options and the environments."""

from __future__ import annotations

import click

from rebake.cli.output import line

_HOW = {
    "bash": 'eval "$(rebake completion bash)"    # in ~/.bashrc',
    "zsh": 'eval "$(rebake completion zsh)"    # in ~/.zshrc, after compinit',
    "fish": "rebake completion fish | source    # in ~/.config/fish/config.fish",
}


@click.command()
@click.argument("shell", type=click.Choice(sorted(_HOW)))
def command(*, shell: str) -> int:
    """Print the completion script for SHELL.

    \b
    bash: eval "$(rebake completion bash)"     in ~/.bashrc
    zsh:  eval "$(rebake completion zsh)"      in ~/.zshrc, after compinit
    fish: rebake completion fish | source      in ~/.config/fish/config.fish
    """
    from click.shell_completion import get_completion_class

    from rebake.cli.root import root

    kind = get_completion_class(shell)
    assert kind is not None, "click knows the three shells"
    line(f"# {_HOW[shell]}")
    line(kind(root, {}, "rebake", "_REBAKE_COMPLETE").source())
    return 0
