"""`hyfree-ray reader-study`: can a reader tell a release's images from real ones?"""

from __future__ import annotations

from pathlib import Path

import click

from hyfree_ray.commands.command_group import CommandGroup
from hyfree_ray.commands.options import EXIT_CODES, SEED
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.files import writing_to
from hyfree_ray.core.folders import check_free, filling

FOLDER = Path("reader-study")


@click.group("reader-study", cls=CommandGroup, epilog=EXIT_CODES)
def reader_study() -> None:
    """Ask readers whether images are real or synthetic, on a page that works offline.

    The page holds real images: it stays at the hospital.

    \b
    Examples:
      hyfree-ray reader-study make releases/A --real Dataset301_LungCXR
      hyfree-ray reader-study score answers-*.csv
    """


@reader_study.command(epilog=EXIT_CODES)
@click.argument("release", type=click.Path(path_type=Path))
@click.option(
    "--real",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DATA",
    help="The data set that the release was made from: its site's images are shown.",
)
@click.option(
    "--images", type=click.IntRange(2, 500), default=50, show_default=True, help="Of each kind."
)
@SEED
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    default=FOLDER,
    show_default=True,
    help="Folder for the page and its key, new or empty.",
)
def make(release: Path, real: Path, images: int, seed: int | None, out: Path) -> None:
    """Write a page of RELEASE's images among as many real ones, blinded, and its key.

    Give readers reader-study.html, in the hospital and nowhere else, and keep key.json from them.

    \b
    Example:
      hyfree-ray reader-study make release --real Dataset301_LungCXR --out study
    """
    from hyfree_ray.border.opening import open_release
    from hyfree_ray.cohorts.cohort import read_cohort
    from hyfree_ray.studies.reader_study import PAGE, make_reader_study, write_reader_study

    check_free(out)
    opened = open_release(release)
    made = make_reader_study(opened, read_cohort(real), images=images, seed=seed or 0)
    with writing_to(out), filling(out) as partial:
        write_reader_study(made, partial)
    click.echo(f"{images} real and {images} synthetic images: {out / PAGE}")
    click.echo("it holds REAL IMAGES: it must not leave the hospital; keep its key from readers")


@reader_study.command(epilog=EXIT_CODES)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="CSV...")
@click.option(
    "--key",
    type=click.Path(path_type=Path),
    default=FOLDER / "key.json",
    show_default=True,
    help="What is what, as 'make' wrote it.",
)
def score(files: tuple[Path, ...], key: Path) -> None:
    """Print each reader's accuracy and d', with 95 % intervals, from the page's answers.

    \b
    Example:
      hyfree-ray reader-study score answers-*.csv --key study/key.json
    """
    from hyfree_ray.studies.reader_scores import read_answers, score_reader
    from hyfree_ray.studies.reader_study import read_key

    study, truth = read_key(key)
    answers: dict[str, dict[str, str]] = {}
    for file in files:
        for reader, given in read_answers(file, study, truth).items():
            if reader in answers:
                raise HyfreeError(
                    "reader-study.bad-answers",
                    f"{file}: answers of {reader!a} are in another file, too; leave one out",
                )
            answers[reader] = given
    click.echo("reader                answered   accuracy             p        d'")
    for reader, given in sorted(answers.items()):
        one = score_reader(reader, given, truth)
        accuracy = "{:.2f} [{:.2f}, {:.2f}]".format(one.accuracy, *one.accuracy_interval)
        d_prime = "{:+.2f} [{:+.2f}, {:+.2f}]".format(one.d_prime, *one.d_prime_interval)
        shown = f"{one.answered}/{one.of}"
        click.echo(f"{ascii(reader)[1:-1]:<20}  {shown:<9}  {accuracy}  {one.p:<7.3g}  {d_prime}")
    click.echo("a reader who guesses has an accuracy of .5 and a d' of 0; intervals 95 %, p exact")
