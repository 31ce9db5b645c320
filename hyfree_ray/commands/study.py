"""`hyfree-ray scale` and `hyfree-ray study`: the command line of studies."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from hyfree_ray.commands.options import (
    EXIT_CODES,
    FORMAT,
    RAY,
    STORE,
    runtime_options,
    simulated_options,
)

_PARALLEL = click.option(
    "--parallel",
    type=click.IntRange(1),
    show_default="one per GPU, or per CPU without GPUs",
    help="Simulations to run at a time.",
)

_DRY_RUN = click.option(
    "--dry-run",
    is_flag=True,
    help="Print the simulations and what is left of them; create nothing.",
)


@click.command(epilog=EXIT_CODES)
@click.option(
    "--sites", required=True, metavar="N,...", help="Numbers of sites to pool, e.g. 2,4,8."
)
@click.option(
    "--repeats",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Random subsets of each size.",
)
@click.option("--folds", default="0", show_default=True, metavar="A-B", help="Test folds.")
@click.option(
    "--seeds", type=click.IntRange(1), default=1, show_default=True, help="Seeds 0 to N-1."
)
@simulated_options
@runtime_options
@_PARALLEL
@_DRY_RUN
@FORMAT
def scale(parallel: int | None, dry_run: bool, output: str, **options: Any) -> None:
    """Measure how the gain grows with the number of sites, by pooling random subsets of them.

    Every subset's general model is fine-tuned at all sites. Simulations share the store, so each
    generator is trained once. Writes studies/STUDY/scaling.csv and the curve to the store.

    \b
    Examples:
      hyfree-ray scale --sites 2,4,8
      hyfree-ray scale --sites 2,4,8 --dry-run
      hyfree-ray scale --sites 2,4,8 --repeats 2 --folds 0-4 --seeds 3
      hyfree-ray scale --sites 2,4,8 --settings personalised
      hyfree-ray scale --data Dataset301_LungCXR --partition random --sites 2,4,8
    """
    from hyfree_ray.commands.study_runs import How, run_scale

    how = How(parallel=parallel, dry_run=dry_run, output=output)
    sys.exit(run_scale(how=how, **options))


@click.command(epilog=EXIT_CODES)
@click.argument("file", type=click.Path(path_type=Path))
@STORE
@RAY
@_PARALLEL
@_DRY_RUN
@FORMAT
def study(
    file: Path, store: Path, ray: str, parallel: int | None, dry_run: bool, output: str
) -> None:
    """Run every combination of a grid of experiment fields that FILE defines:

    \b
      simulate:                          # for all runs
        sites: 5
        budget: small
      grid:                              # fields of the experiment, sites, budget
        budget.synthesis.per_real: [1, 4, 20]
        budget.synthesis.max_images: [null]    # lift the cap
        seed: [0, 1, 2]

    Of the options of simulate, `simulate` takes: sites, data, partition, config, budget, generator,
    precision, settings. Paths are relative to FILE's folder.

    \b
    Examples:
      hyfree-ray study grid.yaml --dry-run
      hyfree-ray study grid.yaml

    Folds and seeds of one combination are pooled. Writes studies/NAME/scaling.csv to the store,
    where NAME is FILE's name.
    """
    from hyfree_ray.commands.study_runs import How, run_study

    how = How(parallel=parallel, dry_run=dry_run, output=output)
    sys.exit(run_study(file, store=store, ray=ray, how=how))
