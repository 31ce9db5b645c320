"""`hyfree-ray check`: list everything that is wrong with a data set."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hyfree_ray.commands.options import EXIT_CODES, STORE
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.files import writing_to


@click.command("check", epilog=EXIT_CODES)
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--write-sites",
    is_flag=True,
    help="First write a sites.csv to fill in, where there is none: each case a patient, one site.",
)
@STORE
def check_data(data: Path, store: Path, write_sites: bool) -> None:
    """List everything that is wrong with an nnU-Net raw data set and its sites.csv, file by file.

    `simulate` makes the same checks first, and stops at the first kind of problem.

    \b
    Example:
      hyfree-ray check Dataset301_LungCXR
    """
    if write_sites:
        _write_sites(data)
    sys.exit(_check(data, store))


def _write_sites(data: Path) -> None:
    from hyfree_ray.cohorts.raw_files import case_names
    from hyfree_ray.cohorts.tables import write_sites_csv

    table = data / "sites.csv"
    if table.exists():
        raise HyfreeError(
            "output.not-empty", f"{table}: already exists; leave --write-sites out, or move it away"
        )
    names = case_names(data)
    with writing_to(table, "DATA"):
        write_sites_csv(table, names)
    click.echo(f"{table}: written; fill in the columns site and patient")


def _check(data: Path, store: Path) -> int:
    """Print every problem, a line each, and what the sites hold. Returns the exit code."""
    from hyfree_ray.cohorts.cohort import survey
    from hyfree_ray.cohorts.summary import describe_notes, render_sites
    from hyfree_ray.core.store_root import digest_cache
    from hyfree_ray.runners.run import nothing_to_share

    with reading_bar() as told:
        found = survey(data, digest_cache=digest_cache(store), report=told)
    fatal = [problem for problem in found.problems if problem.fatal]
    if found.cohort is not None:
        from hyfree_ray.segmenters.nnunet.rereading import read_again

        fatal += read_again(found.cohort)
    for problem in fatal:
        click.echo(f"error: {problem.line()}")
    for line in describe_notes(found.problems):
        click.echo(f"note: {line}")
    if found.cohort is not None and not fatal:
        Console().print(render_sites(found.cohort))
        if len(found.cohort.sites) == 1:
            click.echo(f"note: {nothing_to_share(found.cohort.sites)}")
        cases = sum(map(len, found.cohort.sites.values()))
        left_out = f", {found.cohort.left_out} not in sites.csv" * bool(found.cohort.left_out)
        click.echo(f"{cases} cases at {len(found.cohort.sites)} sites{left_out}: good")
        return 0
    many = "1 problem; correct it" if len(fatal) == 1 else f"{len(fatal)} problems; correct them"
    click.echo(f"{many} before training")
    return 2


@contextmanager
def reading_bar(doing: str = "reading files") -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on standard error, where it is a terminal; yield its update function."""
    columns = (
        TextColumn(doing),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
