"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

DEFAULT_STORE = Path("hyfree-store")

EXIT_CODES = """\b
Exit codes: 0 done; 1 something broke; 2 bad input, said in one line;
3 too few sites; 130 interrupted. To go on, give the same command again."""

STORE = click.option(
    "--store",
    type=click.Path(path_type=Path),
    default=DEFAULT_STORE,
    show_default=True,
    envvar="HYFREE_STORE",
    help="Where everything is kept.",
)

FORMAT = click.option(
    "--format", "output", type=click.Choice(["text", "json"]), default="text", show_default=True
)

DEVICE = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
)

_EXPERIMENT = (
    click.option("--config", type=click.Path(path_type=Path), help="YAML with experiment fields."),
    click.option(
        "--budget",
        type=click.Choice(["smoke", "small", "paper"]),
        help="How much is computed. Default: small on a CPU, paper on a GPU.",
    ),
    click.option(
        "--generator", type=click.Choice(["auto", "flow", "stylegan2"]), help="Default: auto."
    ),
    click.option("--fold", type=click.IntRange(0, 4), help="Test fold. Default: 0."),
    click.option("--seed", type=click.IntRange(0), help="Of everything. Default: 0."),
    click.option(
        "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="E.g. budget.unet.epochs=40."
    ),
)


def experiment_options(command: Command) -> Command:
    """The options that resolve to an `Experiment`: the same at all parties of a federation."""
    for option in reversed(_EXPERIMENT):
        command = option(command)
    return command
