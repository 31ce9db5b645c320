"""The built-in cohort: "MR-like" abdominal slices of several hospitals, drawn from a seed.

A patient is a body with fat, spine, kidneys, bowel, a large organ (label 1) with vessels, cysts and
lesions (label 2), and a smaller organ of nearly the same grey. Sites differ in patients, matrix,
spacing, order of the greys (T1-, T2- or fat-suppressed looks), noise, blur, shading and lesions.

`benchmarks/phantom.py` measures, on real data only, the possible gain.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hyfree_ray.cohorts.cohort import Case, Cohort
from hyfree_ray.cohorts.phantom_anatomy import draw_patient
from hyfree_ray.cohorts.phantom_record import DrawnCase, Phantom, phantom_case
from hyfree_ray.cohorts.phantom_sites import MAX_SITES, site_style
from hyfree_ray.core.seeds import seed_of

PHANTOM_VERSION = 2


def phantom_cohort(sites: int, seed: int, root: Path) -> Cohort:
    """Return the cohort of `sites` phantom sites without drawing anything."""
    return ABDOMEN.cohort_of(sites, seed, root)


def draw_phantom_site(index: int, seed: int, out: Path) -> None:
    """Write site `index` as an nnU-Net raw data set of 2D NIfTI files, with its `sites.csv`."""
    ABDOMEN.draw_site(index, seed, out)


def _site_cases(index: int, seed: int) -> list[Case]:
    """Return the cases of a site: a patient's slices one after the other."""
    style = site_style(index, seed)
    minimum, maximum = style.slices
    cases = []
    for number in range(1, style.patients + 1):
        patient = f"site-{index}_p{number:03d}"
        slices = _rng(seed, index, patient, "slices").integers(minimum, maximum, endpoint=True)
        cases += [
            phantom_case(
                f"{patient}_s{part}", patient, channels=1, version=f"{PHANTOM_VERSION} {seed}"
            )
            for part in range(slices)
        ]
    return cases


def _draw(index: int, seed: int, series: tuple[str, ...]) -> Iterator[DrawnCase]:
    style = site_style(index, seed)
    by_patient: dict[str, list[Case]] = {}
    for case in _site_cases(index, seed):
        by_patient.setdefault(case.patient, []).append(case)
    for patient, cases in by_patient.items():
        slices = draw_patient(style, _rng(seed, index, *series, patient), len(cases))
        for case, (image_HW, label_HW) in zip(cases, slices, strict=True):
            yield DrawnCase(case=case, images=[image_HW], label=label_HW, spacing=style.spacing)


def _rng(seed: int, index: int, *parts: str) -> np.random.Generator:
    return np.random.default_rng(seed_of(seed, "phantom", index, *parts))


ABDOMEN = Phantom(
    name="abdomen",
    cohort="Phantom",
    version=PHANTOM_VERSION,
    sites=5,
    max_sites=MAX_SITES,
    channel_names=("MR",),
    labels={"background": 0, "organ": 1, "lesion": 2},
    cases=_site_cases,
    draw=_draw,
)
