"""`hyfree-ray completion`: what a shell needs to complete commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from hyfree_ray.commands.options import EXIT_CODES


@click.command(epilog=EXIT_CODES)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a shell's completion script.

    \b
    Examples:
      hyfree-ray completion bash > ~/.local/share/bash-completion/completions/hyfree-ray
      hyfree-ray completion zsh > "${fpath[1]}/_hyfree-ray"
      hyfree-ray completion fish > ~/.config/fish/completions/hyfree-ray.fish
    """
    root = context.find_root()
    kind = get_completion_class(shell)
    assert kind is not None  # the three that click has
    name = "hyfree-ray"
    click.echo(kind(root.command, {}, name, "_HYFREE_RAY_COMPLETE").source())
