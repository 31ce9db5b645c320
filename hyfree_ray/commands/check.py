"""`hyfree-ray check`: everything that is wrong with a data set, at once; and its reading."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hyfree_ray.commands.options import EXIT_CODES, STORE
from hyfree_ray.core.store import ROOT_FILE, check_layout

if TYPE_CHECKING:
    from hyfree_ray.cohorts.checks import Problem


@click.command("check", epilog=EXIT_CODES)
@click.argument("data", type=click.Path(path_type=Path))
@STORE
def check_data(data: Path, store: Path) -> None:
    """List all that is wrong with an nnU-Net raw data set and its sites.csv, file by file.

    `simulate` looks at the same things first and stops at the first kind.

    \b
    Example:
      hyfree-ray check Dataset301_LungCXR
    """
    sys.exit(_check(data, store))


def _check(data: Path, store: Path) -> int:
    """Print every problem, a line each, and what the sites hold. Returns the exit code."""
    from hyfree_ray.cohorts.cohort import survey
    from hyfree_ray.cohorts.summary import render_sites
    from hyfree_ray.commands.announce import nothing_to_share

    with reading_bar() as told:
        found = survey(data, digest_cache=digest_cache(store), told=told)
    fatal = [problem for problem in found.problems if problem.fatal]
    for problem in fatal:
        click.echo(f"error: {problem.line()}")
    for line in notes(found.problems):
        click.echo(f"note: {line}")
    if found.cohort is not None:
        Console().print(render_sites(found.cohort))
        if len(found.cohort.sites) == 1:
            click.echo(f"note: {nothing_to_share(found.cohort.sites)}")
        cases = sum(map(len, found.cohort.sites.values()))
        left_out = f", {found.cohort.left_out} not in sites.csv" * bool(found.cohort.left_out)
        click.echo(f"{cases} cases at {len(found.cohort.sites)} sites{left_out}: good")
        return 0
    click.echo(f"{len(fatal)} problems: mend them before anything trains")
    return 2


def notes(problems: tuple[Problem, ...]) -> list[str]:
    """What is worth knowing and stops nothing: one line a kind, with how many there are."""
    kinds: dict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        if not problem.fatal:
            kinds[problem.rule].append(problem)
    return [members[0].line(len(members) - 1) for members in kinds.values()]


def digest_cache(store: Path) -> Path | None:
    """Where facts of files are kept; None before the store is made: bad data leave nothing.

    Raises:
        HyfreeError: the store is another version's, or its marker cannot be read.
    """
    check_layout(store)
    return store / "digests.json" if (store / ROOT_FILE).exists() else None


@contextmanager
def reading_bar(doing: str = "reading files") -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error, where that is a terminal, that is told (done, total)."""
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
