"""The command line. Heavy libraries are imported when a command needs them, never for its help."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from hyfree_ray import __version__
from hyfree_ray.commands.check import check_data
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
    in_a_folder,
    runtime_options,
    simulated_options,
)
from hyfree_ray.commands.pool import pool
from hyfree_ray.commands.site import site
from hyfree_ray.commands.store import store
from hyfree_ray.commands.study import scale, study
from hyfree_ray.commands.track import track
from hyfree_ray.core.errors import HyfreeError, StageError
from hyfree_ray.core.failure import choose_format, error_line
from hyfree_ray.core.interrupts import run_interruptible


class _Group(click.Group):
    """Says what went wrong in one line, and ends with the exit code that says it too."""

    def main(self, args: Sequence[str] | None = None, *more: Any, **kwargs: Any) -> Any:
        given = sys.argv[1:] if args is None else list(args)
        choose_format(given)
        try:
            return super().main(given, *more, **kwargs)
        except (HyfreeError, StageError) as error:
            click.echo(error_line(error), err=True)
            raise SystemExit(error.exit_code) from error

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with _in_one_line():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        run = super().invoke
        with _in_one_line():
            return run_interruptible(lambda: run(ctx))


@contextlib.contextmanager
def _in_one_line() -> Iterator[None]:
    """What click says of options in three lines, as all else that is wrong."""
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "hyfree-ray"
        message = " ".join(error.format_message().split()).rstrip(".")
        raise HyfreeError("option.usage", f"{message}; see {command} --help") from error


@click.group(cls=_Group, epilog=EXIT_CODES)
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
):
    main.add_command(command)


@main.command(epilog=EXIT_CODES)
@click.option(
    "--sites", type=click.IntRange(1), help="Hospitals; 5 phantom ones where no data are given."
)
@simulated_options
@FOLD
@click.option("--folds", metavar="A-B", help="A run for each test fold, e.g. 0-4, and a summary.")
@SEED
@runtime_options
@click.option(
    "--min-sites",
    type=click.IntRange(1),
    help="Go on without sites that fail or are late, with at least so many releases.",
)
@click.option("--deadline", metavar="TIME", help="Close the round after, e.g., 90m or 8h.")
@click.option("--next-round", is_flag=True, help="Take in the releases that came late.")
@click.option("--withdraw", multiple=True, metavar="SITE", help="Rebuild without this site.")
@click.option(
    "--drop", multiple=True, metavar="SITE@STAGE", help="Simulate that it drops out there."
)
@click.option("--slow", multiple=True, metavar="SITE=3x", help="Simulate a straggler.")
@click.option(
    "--contributors",
    metavar="SITE,...",
    default="",
    callback=lambda _, __, text: tuple(name.strip() for name in text.split(",") if name.strip()),
    help="Sites whose releases are pooled; all sites fine-tune. Default: all.",
)
@click.option("--dry-run", is_flag=True, help="Print the plan and what is done; create nothing.")
@click.option(
    "--calibrate",
    is_flag=True,
    help="With --dry-run: where no earlier run tells, try the trainings for up to a minute.",
)
@FORMAT
@LOG_FORMAT
def simulate(folds: str | None, **options: Any) -> None:
    """Run the method on simulated hospitals and say what sharing gave each of them.

    \b
    Examples:
      hyfree-ray simulate --sites 5
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
@click.option("--compare", is_flag=True, help="The first of two runs minus the second.")
@click.option(
    "--format",
    "output",
    type=click.Choice(["text", "json", "csv"]),
    default="text",
    show_default=True,
)
def results(runs: tuple[str, ...], store: Path, compare: bool, output: str) -> None:
    """Print a run's table, its summary (json) or its scores case by case (csv).

    Without RUNS: the newest. `hyfree-ray results no-such-run` lists what there is. Several runs
    that differ in fold and seed are pooled: mean and standard deviation over the folds, contrasts
    by patient.

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
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to write to. Default: reports/RUN in the store, or one for these runs together.",
)
@click.option("--study", metavar="NAME", help="A study of the store, whose curve is added.")
@click.option(
    "--with-real",
    multiple=True,
    metavar="FOLDER",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A site's own audit folder, whose pictures of real images are embedded.",
)
def report(
    runs: tuple[str, ...],
    store: Path,
    out: Path | None,
    study: str | None,
    with_real: tuple[Path, ...],
) -> None:
    """Write a run as one HTML file that needs no network, and its figures as PNG and SVG.

    Without RUNS: the newest. Several runs that differ in fold and seed are pooled.

    \b
    Examples:
      hyfree-ray report
      hyfree-ray report LungCXR-2ebbc650 LungCXR-9d41f7c3 --out lung
      hyfree-ray report --with-real hyfree-store/sites/site-1/audit
    """
    from hyfree_ray.commands.report import run_report

    run_report(runs, store, out=out, study=study, with_real=with_real)


@main.group(epilog=EXIT_CODES)
def release() -> None:
    """Check, look at and export releases: files of synthetic images that hospitals hand out.

    FILE is a release.arrow with its manifest.json beside it, or the folder of both.

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
    help="A site's public.key: its signature is checked before anything is read.",
)
def check(files: tuple[Path, ...], key: Path | None) -> None:
    """Check releases as the pool does: a line each; exit 2 where one is refused, with its rule.

    Their privacy cards are held against the default gate.
    """
    from hyfree_ray.commands.release import run_check

    sys.exit(run_check(files, key))


@release.command(epilog=EXIT_CODES)
@_FILE
@click.option(
    "--picture",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=in_a_folder,
    default=Path("release.png"),
    show_default=True,
    help="The PNG that its first images and labels are drawn to.",
)
def show(file: Path, picture: Path) -> None:
    """Print what a release says of itself, its card included, and draw its first images."""
    from hyfree_ray.commands.release import run_show

    run_show(file, picture)


@release.command(epilog=EXIT_CODES)
@_FILE
@click.option("--to", "target", type=click.Choice(["parquet", "nnunet", "png"]), required=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder to write to: a new one, or an empty one.",
)
def export(file: Path, target: str, out: Path) -> None:
    """Write a release in a form that other tools read.

    \b
    parquet  one table: stored pixels as lists, the metadata in the schema
    nnunet   an nnU-Net raw data set (2D NIfTI, in the site's units and spacing)
    png      one PNG a channel, and one of labels, with stored values; metadata.json
    """
    from hyfree_ray.commands.release import run_export

    run_export(file, target, out)


if __name__ == "__main__":
    main()
