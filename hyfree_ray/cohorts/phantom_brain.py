"""The brain phantom: volumes of four co-registered sequences of several hospitals, from a seed.

A patient's head has a tumour of nested parts (oedema, label 1; core, 2; necrosis, 3), of 0 to 5 %
of a slice's pixels; a third of the slices has none. Sites differ in patients, matrix, spacing,
contrast of each sequence, noise, blur, bias field, age and tumours, and at some of them patients
lack a sequence, in whose place lies a copy of another one.

Frozen: the criteria of `benchmarks/phantom.py`, on real data alone, decided it before any generator
was tried on it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hyfree_ray.cohorts.cohort import Case
from hyfree_ray.cohorts.phantom_brain_anatomy import CORE, NECROSIS, OEDEMA, SLAB, draw_head
from hyfree_ray.cohorts.phantom_brain_sites import (
    FIXED_SITES,
    MAX_SITES,
    SEQUENCES,
    brain_style,
)
from hyfree_ray.cohorts.phantom_record import DrawnCase, Phantom, phantom_case
from hyfree_ray.core.seeds import seed_of

BRAIN_VERSION = 1


def _site_cases(index: int, seed: int) -> list[Case]:
    style = brain_style(index, seed)
    minimum, maximum = style.slices
    cases = []
    for number in range(1, style.patients + 1):
        patient = f"site-{index}_p{number:03d}"
        slices = int(_rng(seed, index, patient, "slices").integers(minimum, maximum, endpoint=True))
        cases.append(
            phantom_case(
                patient,
                patient,
                channels=len(SEQUENCES),
                version=f"brain {BRAIN_VERSION} {seed}",
                shape=(slices, *style.matrix),
                spacing=(round(SLAB / slices, 2), *style.spacing),
            )
        )
    return cases


def _draw(index: int, seed: int, series: tuple[str, ...]) -> Iterator[DrawnCase]:
    style = brain_style(index, seed)
    for case in _site_cases(index, seed):
        random = _rng(seed, index, *series, case.patient)
        images_SDHW, label_DHW = draw_head(style, random, case.shape[0])
        yield DrawnCase(case=case, images=list(images_SDHW), label=label_DHW, spacing=case.spacing)


def _rng(seed: int, index: int, *parts: str) -> np.random.Generator:
    return np.random.default_rng(seed_of(seed, "brain phantom", index, *parts))


BRAIN = Phantom(
    name="brain",
    cohort="BrainPhantom",
    version=BRAIN_VERSION,
    sites=FIXED_SITES,
    max_sites=MAX_SITES,
    channel_names=SEQUENCES,
    labels={"background": 0, "oedema": OEDEMA, "core": CORE, "necrosis": NECROSIS},
    cases=_site_cases,
    draw=_draw,
)
