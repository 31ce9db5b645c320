"""`hyfree-ray import`: convert a public data set to an nnU-Net raw data set with sites.csv."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hyfree_ray.commands.check import reading_bar
from hyfree_ray.commands.options import EXIT_CODES
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.folders import check_free

if TYPE_CHECKING:
    from hyfree_ray.importers.look import Look
    from hyfree_ray.importers.source import LeftOut, Source

MOST_LINES = 10


@click.command("import", epilog=EXIT_CODES)
@click.argument("kind", type=click.Choice(["qata", "polyp", "brats", "lung", "folder", "dicom"]))
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--classes",
    metavar="NAME=VALUE,...",
    help="What stands for each class in the masks of 'folder' (a value or #colour; several with +),"
    " or which structures to read of 'dicom', each drawn over those before.",
)
def import_data(kind: str, source: Path, out: Path, classes: str | None) -> None:
    """Convert a public data set, as downloaded, to an nnU-Net raw data set with sites.csv.

    Every file is accounted for in OUT/import.json; OUT/contact_sheet.png shows the first cases.

    \b
    qata    QaTa-COV19-v2: Train Set and Test Set with Images and Ground-truths
    polyp   HyperKvasir's segmented-images and CVC-ClinicDB, below one folder
    brats   BraTS 2020 (sites by name_mapping.csv) or 2021: 4 images and seg
    lung    MontgomerySet, ChinaSet_AllFiles, Shenzhen's masks, in one folder
    folder  images/ and masks/ with the same names, or these below SITE/
    dicom   series to NIfTI, without patient names; labels from SEG and RTSTRUCT

    \b
    Example:
      hyfree-ray import polyp downloads Dataset303_Polyp
      hyfree-ray import folder scans Dataset310_Liver --classes liver=100,tumour=200
    """
    from hyfree_ray.importers import IMPORTERS, WITH_CLASSES
    from hyfree_ray.importers.classes import read_classes
    from hyfree_ray.importers.raw_set import ACCOUNT, SHEET, every_left_out, write_raw_set

    if classes is not None and kind not in WITH_CLASSES:
        raise HyfreeError(
            "option.conflict", f"--classes: the masks of {kind} are known; leave the option out"
        )
    check_free(out, "OUT")
    importer = IMPORTERS[kind]
    found = importer(source) if classes is None else importer(source, read_classes(classes))
    left_out = every_left_out(found)  # before OUT is written, which may lie in SOURCE
    with reading_bar("importing") as told:
        look = write_raw_set(found, out, told)
    for note in found.notes:
        click.echo(f"how: {printable(note)}")
    for name, meaning in found.meanings.items():
        click.echo(f"label {found.labels.get(name, '')}: {name} ({printable(meaning)})")
    _show_left_out(left_out)
    _show_sites(found, look)
    for warning in look.warnings():
        click.echo(f"warning: {printable(warning)}")
    click.echo(f"{out / ACCOUNT}: what was taken, and why the rest was not; look at {out / SHEET}")
    undrawn = [case.name for case in found.cases if not case.masks]
    if undrawn:
        which = (
            "no labels yet"
            if len(undrawn) == len(found.cases)
            else f"no labels of {len(undrawn)} cases"
        )
        click.echo(f"{out}: {which}; draw them into labelsTr")
    else:
        click.echo(f"{out}: written; check it with 'hyfree-ray check {out}'")


def _show_left_out(left_out: Sequence[LeftOut]) -> None:
    """Print the first files that were left out, and how many there are for each reason."""
    for one in left_out[:MOST_LINES]:
        click.echo(f"left out: {printable(f'{one.path}: {one.why}')}")
    rest = Counter(one.why for one in left_out[MOST_LINES:])
    for why, count in rest.most_common(MOST_LINES):
        click.echo(f"left out: {count} more: {printable(why)}")
    if len(rest) > MOST_LINES:
        click.echo("left out: others, for other reasons")


def _show_sites(source: Source, look: Look) -> None:
    cases = Counter(case.site for case in source.cases)
    shares = look.mean_shares()
    for site, count in sorted(cases.items()):
        patients = len({case.patient for case in source.cases if case.site == site})
        drawn = ", ".join(f"{name} {share:.2%}" for name, share in shares.get(site, {}).items())
        click.echo(f"{site}: {count} cases of {patients} patients{f'; {drawn}' * bool(drawn)}")


def printable(text: str) -> str:
    """Return a text on one line: names of files can hold anything."""
    return text if text.isprintable() else ascii(text)[1:-1]
