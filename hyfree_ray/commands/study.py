"""`hyfree-ray scale` and `hyfree-ray study`: the command line of studies."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from hyfree_ray.commands.options import (
    BUDGET,
    EXIT_CODES,
    FORMAT,
    PHANTOM,
    RAY,
    SET,
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


_CALIBRATE = click.option(
    "--calibrate",
    is_flag=True,
    help="With --dry-run: time each kind of training for up to a minute if no earlier run has.",
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
@_CALIBRATE
@FORMAT
def scale(
    parallel: int | None, dry_run: bool, calibrate: bool, output: str, **options: Any
) -> None:
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

    how = How(parallel=parallel, dry_run=dry_run, calibrate=calibrate, output=output)
    sys.exit(run_scale(how=how, **options))


@click.command(epilog=EXIT_CODES)
@click.argument("study", metavar="NAME|FILE")
@click.option("--data", type=click.Path(path_type=Path), help="The data, in place of the study's.")
@PHANTOM
@click.option(
    "--partition", metavar="HOW", show_default="the study's", help="As of hyfree-ray simulate."
)
@click.option(
    "--sites", type=click.IntRange(1), show_default="the study's", help="Number of hospitals."
)
@BUDGET
@click.option(
    "--grid",
    multiple=True,
    metavar="KEY=VALUE,...",
    help="A list of the grid, in place of the study's: e.g. generator=flow,stylegan2 or seed=0.",
)
@SET
@STORE
@RAY
@_PARALLEL
@_DRY_RUN
@_CALIBRATE
@FORMAT
def study(
    study: str,
    grid: tuple[str, ...],
    overrides: tuple[str, ...],
    store: Path,
    ray: str,
    parallel: int | None,
    dry_run: bool,
    calibrate: bool,
    output: str,
    **given: Any,
) -> None:
    """Run every combination of a grid of experiment fields.

    \b
    Two studies come with hyfree-ray:
      akbar   {real, six generators} x {alone, with real} x {augmented, not},
              a mixing curve, KID beside Dice, one hospital (Akbar et al. 2024)
      vu      images added to real ones, ways to come by masks ranked over
              hospitals, Friedman's and Nemenyi's tests (Vu et al. 2025)

    Both run on the brain phantom, or on any data. FILE defines another one:

    \b
      simulate:                          # for all runs
        sites: 5
        budget: small
      grid:                              # fields of the experiment
        budget.synthesis.per_real: [1, 4, 20]
        budget.synthesis.max_images: [null]    # lift the cap
        seed: [0, 1, 2]
      report:                            # what is read from the runs: regimes
        table: [local2x, syn]            # Dice by label
        mixing: [local2x, mix-50]        # Dice by the share of synthetic images
        ranks: [local2x, augment-1]      # over hospitals
        kid: syn                         # its Dice beside KID

    Of the options of simulate, `simulate` takes: sites, data, phantom, partition, config, budget,
    generator, pairing, segmenter, precision, settings. Paths are relative to FILE's folder.

    \b
    Examples:
      hyfree-ray study akbar --dry-run
      hyfree-ray study akbar --grid generator=flow,stylegan2 --grid seed=0
      hyfree-ray study akbar --data DIR --partition random --sites 1
      hyfree-ray study vu --budget smoke --sites 2
      hyfree-ray study grid.yaml

    Folds and seeds of one combination are pooled. Writes scaling.csv and, where there is a
    `report`, report.md with its figures to studies/NAME in the store; options of the command line
    add a number to NAME.
    """
    from hyfree_ray.commands.study_runs import How, run_study
    from hyfree_ray.studies.grids import Changes

    simulate = {name: value for name, value in given.items() if value is not None}
    if "data" in simulate:
        simulate["data"] = str(simulate["data"].absolute())
    changes = Changes(simulate=simulate, grid=grid, overrides=overrides)
    how = How(parallel=parallel, dry_run=dry_run, calibrate=calibrate, output=output)
    sys.exit(run_study(study, changes, store=store, ray=ray, how=how))
