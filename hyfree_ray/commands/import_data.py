"""`hyfree-ray import`: convert a public data set to an nnU-Net raw data set with sites.csv."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from hyfree_ray.commands.check import reading_bar
from hyfree_ray.commands.options import EXIT_CODES

MOST_LINES = 10


@click.command("import", epilog=EXIT_CODES)
@click.argument("kind", type=click.Choice(["qata", "polyp", "brats", "lung", "folder", "dicom"]))
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def import_data(kind: str, source: Path, out: Path) -> None:
    """Convert a public data set, as downloaded, to an nnU-Net raw data set with sites.csv.

    \b
    qata    QaTa-COV19-v2: Train Set and Test Set with Images and Ground-truths
    polyp   HyperKvasir's segmented-images and CVC-ClinicDB, below one folder
    brats   BraTS 2020 (sites by name_mapping.csv) or 2021: t1, t1ce, t2, flair, seg
    lung    MontgomerySet, ChinaSet_AllFiles and Shenzhen's masks, below one folder
    folder  images/ and masks/ with the same names; or SITE/images/ and SITE/masks/
    dicom   series to NIfTI, without patient names; draw the labels afterwards

    \b
    Example:
      hyfree-ray import polyp downloads Dataset303_Polyp
    """
    from hyfree_ray.importers import IMPORTERS
    from hyfree_ray.importers.raw_set import write_raw_set

    found = IMPORTERS[kind](source)
    with reading_bar("importing") as told:
        write_raw_set(found, out, told)
    for line in found.left_out[:MOST_LINES]:
        click.echo(f"left out: {line}")
    if len(found.left_out) > MOST_LINES:
        click.echo(f"left out: {len(found.left_out) - MOST_LINES} more")
    cases = Counter(case.site for case in found.cases)
    for site, count in sorted(cases.items()):
        patients = len({case.patient for case in found.cases if case.site == site})
        click.echo(f"{site}: {count} cases of {patients} patients")
    if any(not case.masks for case in found.cases):
        click.echo(f"{out}: no labels yet; draw them into labelsTr")
    else:
        click.echo(f"{out}: written; check it with 'hyfree-ray check {out}'")
