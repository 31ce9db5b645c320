"""`hyfree-ray site risk`: what a release tells of each patient, for the hospital alone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click

from hyfree_ray.commands.options import EXIT_CODES, in_a_folder
from hyfree_ray.commands.site import SITE_OPTIONS, open_site, site

__all__ = ["site"]
"""The group, with this command in it."""


@site.command(epilog=EXIT_CODES)
@SITE_OPTIONS
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    show_default="in the hospital's own part of the store",
    callback=in_a_folder,
    help="CSV file, one row per patient who was trained on. It must not leave the hospital.",
)
def risk(out: Path | None, **options: Any) -> None:
    """Rank the hospital's patients by what its release tells of each, for its own eyes.

    By how near the release lies to a patient, how much of it has nobody nearer, and the generator's
    own loss; with generators of other folds in the same store, also by what the loss is without the
    patient. Trains what 'site contribute' trains, unless it is there.

    \b
    Example:
      hyfree-ray site risk --data DIR --site A --budget small
    """
    from hyfree_ray.federation.patient_risk import measure_risk, write_risks

    party, _, patients = open_site(**options)
    found = asyncio.run(measure_risk(party))
    file = out or party.workspace.root / "audit" / f"risk-{found.key[:8]}.csv"
    count = write_risks(file, found, patients)
    loss = "measured" if found.result["loss"] else "this generator has no loss of an image"
    trainings = found.result["compared"]
    ratio = (
        f"beside {trainings} other trainings" if trainings else "not measured: one training only"
    )
    click.echo(f"{party.name}: {count} patients ranked in {file}; keep it at the hospital")
    click.echo(f"loss: {loss}; likelihood ratio: {ratio}")
