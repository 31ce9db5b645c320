"""`hyfree-ray import`: a public data set as it was downloaded, to nnU-Net raw + sites.csv."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from hyfree_ray.check_command import reading_bar
from hyfree_ray.importers import IMPORTERS
from hyfree_ray.importers.raw_set import write_raw_set

MOST_LINES = 10


def run_import(kind: str, source: Path, out: Path) -> None:
    """Import, and say what became of what: cases and patients a site, what was left out."""
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
        click.echo(f"{out}: there are no labels yet: draw them into labelsTr")
    else:
        click.echo(f"{out}: look at it with 'hyfree-ray check {out}'")
