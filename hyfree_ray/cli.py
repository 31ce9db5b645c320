"""The command line. Heavy libraries are imported when a command needs them, never for its help."""

from __future__ import annotations

from hyfree_ray.core.isolation import leave_working_directory

leave_working_directory()  # before anything else is imported

# isort: split
import sys
from pathlib import Path
from typing import Any

import click

from hyfree_ray import __version__
from hyfree_ray.commands.check import check_data
from hyfree_ray.commands.command_group import CommandGroup, MainGroup
from hyfree_ray.commands.completion import completion
from hyfree_ray.commands.doctor import doctor
from hyfree_ray.commands.import_data import import_data
from hyfree_ray.commands.model import export_model, predict
from hyfree_ray.commands.options import (
    EXIT_CODES,
    FOLD,
    FORMAT,
    LOG_FORMAT,
    SEED,
    STORE,
    VERBOSITY,
    in_a_folder,
    runtime_options,
    simulated_options,
)
from hyfree_ray.commands.pool import pool
from hyfree_ray.commands.reader_study import reader_study
from hyfree_ray.commands.runs import runs
from hyfree_ray.commands.site_risk import site
from hyfree_ray.commands.store import store
from hyfree_ray.commands.study import scale, study
from hyfree_ray.commands.track import track


@click.group(
    cls=MainGroup,
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__)
def main() -> None:
    """Would sharing synthetic images help my hospital, by how much, at what risk?

    \b
    Try:
      hyfree-ray simulate --sites 5
      hyfree-ray simulate --data DIR --partition random --sites 4
      hyfree-ray results
    """


for command in (
    check_data,
    import_data,
    site,
    pool,
    predict,
    export_model,
    scale,
    study,
    store,
    track,
    doctor,
    runs,
    reader_study,
    completion,
):
    main.add_command(command)


@main.command(epilog=EXIT_CODES)
@click.option(
    "--sites",
    type=click.IntRange(1),
    show_default="those of the phantom, or of --data",
    help="Number of hospitals.",
)
@simulated_options
@FOLD
@click.option(
    "--folds", metavar="A-B", help="Run each of these test folds, e.g. 0-4, and pool them."
)
@SEED
@runtime_options
@click.option(
    "--min-sites",
    type=click.IntRange(1),
    help="Continue without sites that fail or are late, given at least this many releases.",
)
@click.option("--deadline", metavar="TIME", help="Close the round after this time, e.g. 90m or 8h.")
@click.option("--next-round", is_flag=True, help="Start a round that includes late releases.")
@click.option(
    "--withdraw",
    multiple=True,
    metavar="SITE",
    help="Withdraw this site for good and rebuild without it.",
)
@click.option(
    "--drop", multiple=True, metavar="SITE@STAGE", help="Simulate a dropout at this stage."
)
@click.option(
    "--slow",
    multiple=True,
    metavar="SITE=3x",
    help="Simulate a site that is this many times slower.",
)
@click.option(
    "--contributors",
    metavar="SITE,...",
    default="",
    show_default="all",
    callback=lambda _, __, text: tuple(name.strip() for name in text.split(",") if name.strip()),
    help="Sites whose releases are pooled; all sites fine-tune.",
)
@click.option(
    "--dry-run", is_flag=True, help="Print the plan and what is already done; create nothing."
)
@click.option(
    "--calibrate",
    is_flag=True,
    help="With --dry-run: time the trainings for up to a minute if no earlier run has done so.",
)
@FORMAT
@LOG_FORMAT
@VERBOSITY
def simulate(folds: str | None, **options: Any) -> None:
    """Simulate hospitals that share synthetic images, and report what each of them gains.

    \b
    Examples:
      hyfree-ray simulate --sites 5
      hyfree-ray simulate --phantom brain
      hyfree-ray simulate --data Dataset301_LungCXR --budget small
      hyfree-ray simulate --sites 2 --budget smoke --ray off
      hyfree-ray simulate --sites 5 --folds 0-4
      hyfree-ray simulate --sites 5 --dry-run
    """
    if folds is not None:
        from hyfree_ray.commands.folds import run_folds

        sys.exit(run_folds(folds, options))
    from hyfree_ray.commands.simulate import run_simulate

    sys.exit(run_simulate(**options))


@main.command(epilog=EXIT_CODES)
@click.argument("runs", nargs=-1)
@STORE
@click.option("--compare", is_flag=True, help="Compare two runs: the first minus the second.")
@click.option(
    "--format",
    "output",
    type=click.Choice(["text", "json", "csv"]),
    default="text",
    show_default=True,
)
def results(runs: tuple[str, ...], store: Path, compare: bool, output: str) -> None:
    """Print a run's results: a table, its summary (json) or its per-case scores (csv).

    Without RUNS, the newest run. `hyfree-ray results no-such-run` lists all runs. Several runs
    that differ only in fold and seed are pooled: mean and standard deviation over the folds,
    contrasts by patient.

    \b
    Examples:
      hyfree-ray results
      hyfree-ray results LungCXR-2ebbc650 LungCXR-9d41f7c3
      hyfree-ray results --compare LungCXR-2ebbc650 LungCXR-03ad6b1e
    """
    from hyfree_ray.commands.results import run_results

    run_results(runs, store, compare=compare, output=output)


@main.command(epilog=EXIT_CODES)
@click.argument("runs", nargs=-1)
@STORE
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    show_default="a folder below reports/ in the store",
    help="Output folder.",
)
@click.option("--study", metavar="NAME", help="Add the curve of this study in the store.")
@click.option(
    "--with-real",
    multiple=True,
    metavar="FOLDER",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A site's own audit folder: embed its pictures of real images.",
)
def report(
    runs: tuple[str, ...],
    store: Path,
    out: Path | None,
    study: str | None,
    with_real: tuple[Path, ...],
) -> None:
    """Write a run's report as one self-contained HTML file, with its figures as PNG and SVG.

    Without RUNS, the newest run. Several runs that differ only in fold and seed are pooled.

    \b
    Examples:
      hyfree-ray report
      hyfree-ray report LungCXR-2ebbc650 LungCXR-9d41f7c3 --out lung
      hyfree-ray report --with-real hyfree-store/sites/site-1/audit
    """
    from hyfree_ray.commands.report import run_report

    run_report(runs, store, out=out, study=study, with_real=with_real)


@main.group(cls=CommandGroup, epilog=EXIT_CODES)
def release() -> None:
    """Check, inspect and export releases: the files of synthetic images that hospitals share.

    FILE is a release.arrow with its manifest.json beside it, or the folder that holds both.

    \b
    Examples:
      hyfree-ray release check inbox/*/release.arrow
      hyfree-ray release show inbox/site-1 --picture site-1.png
      hyfree-ray release export inbox/site-1 --to nnunet --out Dataset901_Synthetic
    """


_FILE = click.argument("file", type=click.Path(path_type=Path))


@release.command(epilog=EXIT_CODES)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--key",
    metavar="PUBLIC_KEY",
    type=click.Path(path_type=Path),
    help="The site's public.key: verify its signature before anything else is read.",
)
def check(files: tuple[Path, ...], key: Path | None) -> None:
    """Check releases as the pool does, one line each; exit with 2 if any is refused.

    A refusal names the rule that was broken. Privacy cards are checked against the default gate.

    \b
    Examples:
      hyfree-ray release check inbox/*/release.arrow
      hyfree-ray release check inbox/site-1 --key site-1.key
    """
    from hyfree_ray.commands.release import run_check

    sys.exit(run_check(files, key))


@release.command(epilog=EXIT_CODES)
@_FILE
@click.option(
    "-o",
    "--out",
    "--picture",
    "picture",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=in_a_folder,
    default=Path("release.png"),
    show_default=True,
    help="PNG file for its first images and labels.",
)
def show(file: Path, picture: Path) -> None:
    """Print a release's metadata and privacy card, and draw its first images.

    \b
    Example:
      hyfree-ray release show inbox/site-1 --out site-1.png
    """
    from hyfree_ray.commands.release import run_show

    run_show(file, picture)


@release.command(epilog=EXIT_CODES)
@_FILE
@click.option(
    "--key",
    metavar="PUBLIC_KEY",
    type=click.Path(path_type=Path),
    help="The site's public.key: verify its signature, and say so on the page.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=in_a_folder,
    default=Path("dossier.html"),
    show_default=True,
    help="HTML file.",
)
def dossier(file: Path, key: Path | None, out: Path) -> None:
    """Write the page that a data protection officer reads about a release.

    What it is, how it was made, what attacks found, similarity last, and what none of this covers.

    \b
    Example:
      hyfree-ray release dossier inbox/site-1 --key site-1.key --out site-1.html
    """
    from hyfree_ray.commands.release import run_dossier

    run_dossier(file, out, key)


@release.command(epilog=EXIT_CODES)
@_FILE
@click.option(
    "--to",
    "target",
    type=click.Choice(["parquet", "nnunet", "png"]),
    required=True,
    help="Format, see above.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Output folder, new or empty.",
)
def export(file: Path, target: str, out: Path) -> None:
    """Write a release in a format that other tools read.

    \b
    parquet  one table of images, for Hugging Face datasets; croissant.json
    nnunet   an nnU-Net raw data set (2D NIfTI, in the site's units and spacing)
    png      one PNG a channel, one of labels, of stored values; metadata.json

    \b
    Examples:
      hyfree-ray release export inbox/site-1 --to parquet --out site-1-table
      hyfree-ray release export inbox/site-1 --to nnunet --out Dataset901_Synthetic
    """
    from hyfree_ray.commands.release import run_export

    run_export(file, target, out)


if __name__ == "__main__":
    main()
