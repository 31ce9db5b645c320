"""The partitions of a cohort's patients into sites. A patient is never divided.

Every partition depends on the seed and the patients' names, not on the order of the files.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from hyfree_ray.cohorts.checks import FOLDS
from hyfree_ray.cohorts.cohort import Case, Cohort
from hyfree_ray.cohorts.label_sets import foreground
from hyfree_ray.cohorts.tables import check_site_names
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.seeds import seed_of

NATURAL = "natural"
COLUMN = "column:"

CONCENTRATION = 0.5
"""Parameter of the Dirichlet distribution: the usual value for strong skew (Hsu et al. 2019)."""
STRATA = 5
"""Groups of patients with similar amounts of foreground, each partitioned by shares of its own."""


def partition(cohort: Cohort, how: str, *, sites: int | None, seed: int) -> Cohort:
    """Partition the same cases into other sites.

    Args:
        cohort: the data set; `natural` leaves its sites as they are.
        how: `natural`; `random` (equal to within one patient); `size-skew` (sizes as 1, 1/2, 1/3,
            ...); `dirichlet` (each site its own mix of much and little foreground); `column:NAME`
            (a column of sites.csv names the sites).
        sites: how many; None where the data say it.
        seed: the experiment's seed.

    Raises:
        HyfreeError: no such partition, a number of sites that does not fit, too few patients.
    """
    if how == NATURAL or how.startswith(COLUMN):
        if how != NATURAL:
            cohort = replace(cohort, sites=_by_column(cohort, how.removeprefix(COLUMN)))
        if sites not in (None, len(cohort.sites)):
            raise HyfreeError(
                "option.conflict",
                f"--sites {sites}: {cohort.root} has {len(cohort.sites)} {how} sites "
                f"({', '.join(cohort.sites)}); leave --sites out or add --partition random",
            )
        return cohort
    if how not in _DEALS:
        known = ", ".join([NATURAL, *_DEALS, f"{COLUMN}NAME"])
        raise HyfreeError("partition.unknown", f"--partition {how}: unknown; use one of {known}")
    if sites is None:
        raise HyfreeError(
            "option.conflict", f"--partition {how}: needs a number of sites; add --sites N"
        )
    if sites < 1:
        raise HyfreeError(
            "option.out-of-range", f"--sites {sites}: too few; at least one site is needed"
        )
    patients = _by_patient(cohort)
    if sites * FOLDS > len(patients):
        raise HyfreeError(
            "partition.too-few-patients",
            f"--sites {sites}: {len(patients)} patients fill at most {len(patients) // FOLDS} sites"
            f" of {FOLDS} patients; use fewer sites",
        )
    ranked = sorted(patients, key=lambda patient: (seed_of(seed, "partition", patient), patient))
    width = len(str(sites))
    groups = _DEALS[how](cohort, patients, ranked, sites, seed)
    return replace(
        cohort,
        sites={
            f"site-{index:0{width}d}": _sorted(case for name in group for case in patients[name])
            for index, group in enumerate(groups, start=1)
        },
    )


_Patients = Mapping[str, Sequence[Case]]
_Groups = Sequence[Sequence[str]]


def _evenly(
    _cohort: Cohort, _patients: _Patients, ranked: Sequence[str], sites: int, _seed: int
) -> _Groups:
    groups: list[list[str]] = [[] for _ in range(sites)]
    for rank, patient in enumerate(ranked):
        groups[rank * sites // len(ranked)].append(patient)
    return groups


def _skewed(
    _cohort: Cohort, _patients: _Patients, ranked: Sequence[str], sites: int, _seed: int
) -> _Groups:
    """Give each site its first FOLDS patients; divide the others by 1, 1/2, 1/3, ..."""
    share_K = 1 / np.arange(1, sites + 1)
    extra_K = _apportioned(len(ranked) - FOLDS * sites, share_K)
    ends = np.cumsum(FOLDS + extra_K)
    return [ranked[end - FOLDS - extra : end] for end, extra in zip(ends, extra_K, strict=True)]


def _dirichlet(
    cohort: Cohort, patients: _Patients, ranked: Sequence[str], sites: int, seed: int
) -> _Groups:
    """Divide each stratum of foreground by shares drawn from a Dirichlet distribution."""
    share = {name: _foreground_share(cohort, cases) for name, cases in patients.items()}
    by_share = sorted(ranked, key=share.__getitem__)  # stable: ties stay in the drawn order
    groups: list[list[str]] = [[] for _ in range(sites)]
    for stratum, members in enumerate(np.array_split(np.array(by_share, dtype=object), STRATA)):
        draw = np.random.default_rng(seed_of(seed, "dirichlet", stratum))
        ends = np.cumsum(_apportioned(len(members), draw.dirichlet([CONCENTRATION] * sites)))
        for group, part in zip(groups, np.split(members, ends[:-1]), strict=True):
            group.extend(part)
    while len(smallest := min(groups, key=len)) < FOLDS:
        smallest.append(max(groups, key=len).pop())
    return groups


_DEALS: dict[str, Callable[[Cohort, _Patients, Sequence[str], int, int], _Groups]] = {
    "random": _evenly,
    "size-skew": _skewed,
    "dirichlet": _dirichlet,
}


def _apportioned(total: int, share_K: np.ndarray) -> np.ndarray:
    """Apportion `total` items by shares, in whole numbers: the largest remainders are rounded
    up."""
    exact_K: np.ndarray = total * share_K / share_K.sum()
    whole_K: np.ndarray = np.floor(exact_K).astype(int)
    left = np.argsort(whole_K - exact_K, kind="stable")[: total - whole_K.sum()]
    whole_K[left] += 1
    return whole_K


def _foreground_share(cohort: Cohort, cases: Sequence[Case]) -> float:
    values = {value for classes in foreground(cohort.labels).values() for value in classes}
    pixels = [pair for case in cases for pair in case.label_pixels]
    found = sum(count for value, count in pixels if value in values)
    return found / max(1, sum(count for _, count in pixels))


def _by_patient(cohort: Cohort) -> dict[str, list[Case]]:
    patients: dict[str, list[Case]] = defaultdict(list)
    for members in cohort.sites.values():
        for case in members:
            patients[case.patient].append(case)
    return patients


def _sorted(cases: Iterable[Case]) -> tuple[Case, ...]:
    return tuple(sorted(cases, key=lambda case: case.name))


def _by_column(cohort: Cohort, column: str) -> dict[str, tuple[Case, ...]]:
    """Group cases by a column of `sites.csv` that names the sites."""
    groups: dict[str, list[Case]] = defaultdict(list)
    for members in _by_patient(cohort).values():
        cells = {case.name: dict(case.columns).get(column, "") for case in members}
        if "" in cells.values():
            known = ", ".join(name for name, _ in members[0].columns) or "none"
            raise HyfreeError(
                "partition.bad-column",
                f"--partition {COLUMN}{column}: sites.csv has no value there for case"
                f" {min(cells)}; its other columns are: {known}",
            )
        if len(set(cells.values())) > 1:
            raise HyfreeError(
                "partition.bad-column",
                f"--partition {COLUMN}{column}: the patient of case {min(cells)} has several values"
                f" ({', '.join(sorted(set(cells.values())))}); assign each patient to one site",
            )
        groups[cells[members[0].name]].extend(members)
    check_site_names(groups, f"--partition {COLUMN}{column}")
    for site, members in sorted(groups.items()):
        patients = len({case.patient for case in members})
        if patients < FOLDS:
            raise HyfreeError(
                "partition.too-few-patients",
                f"{site}: {patients} patients cannot fill {FOLDS} folds; use another column or"
                " leave its cases out of sites.csv",
            )
    return {site: _sorted(groups[site]) for site in sorted(groups)}
