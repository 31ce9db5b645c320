"""A table of the sites of a cohort, which shows how they differ before anything is trained."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from rich.table import Table
from rich.text import Text

from hyfree_ray.cohorts.checks import Problem
from hyfree_ray.cohorts.cohort import Case, Cohort
from hyfree_ray.cohorts.label_sets import foreground


@dataclass(frozen=True, kw_only=True)
class SiteSummary:
    """The numbers that describe a site."""

    site: str
    cases: int
    patients: int
    label_share: dict[str, float]
    """Share of the pixels that each label or region takes, the mean over cases."""
    empty: int
    """Number of cases without any label."""
    intensity: tuple[float, float]
    """Mean over the cases of the mean and of the standard deviation of the first channel."""


def summarise_sites(cohort: Cohort) -> list[SiteSummary]:
    """Summarise each site, in the cohort's order."""
    return [_summary(cohort, site, cases) for site, cases in cohort.sites.items()]


def _summary(cohort: Cohort, site: str, cases: Sequence[Case]) -> SiteSummary:
    classes = foreground(cohort.labels)
    foreground_values = {value for values in classes.values() for value in values}
    return SiteSummary(
        site=site,
        cases=len(cases),
        patients=len({case.patient for case in cases}),
        label_share={
            name: fmean(_share(case, set(values)) for case in cases)
            for name, values in classes.items()
        },
        empty=sum(not _share(case, foreground_values) for case in cases),
        intensity=(
            fmean(case.intensity[0] for case in cases),
            fmean(case.intensity[1] for case in cases),
        ),
    )


def _share(case: Case, classes: set[int]) -> float:
    found = sum(count for value, count in case.label_pixels if value in classes)
    return found / max(1, sum(count for _, count in case.label_pixels))


def render_sites(cohort: Cohort) -> Table:
    """Format the summaries as a table for the terminal."""
    table = Table(title="what the sites hold", title_justify="left")
    table.add_column("site")
    names = list(foreground(cohort.labels))
    for column in ("cases", "patients", *names, "empty", f"{cohort.channel_names[0]}: mean ± sd"):
        table.add_column(Text(column), justify="right")
    for one in summarise_sites(cohort):
        mean, sd = one.intensity
        table.add_row(
            Text(one.site),
            str(one.cases),
            str(one.patients),
            *(f"{100 * one.label_share[name]:.2f} %" for name in names),
            str(one.empty),
            f"{mean:.4g} ± {sd:.4g}",
        )
    return table


def describe_notes(problems: Iterable[Problem]) -> list[str]:
    """Describe problems that stop nothing: a line per kind, with the number of them."""
    kinds: dict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        if not problem.fatal:
            kinds[problem.code].append(problem)
    return [members[0].line(len(members) - 1) for members in kinds.values()]
