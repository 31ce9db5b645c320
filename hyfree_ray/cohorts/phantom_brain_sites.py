"""The brain phantom's hospitals: their numbers of patients and the properties of their scanners."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.seeds import seed_of

MAX_SITES = 64
SEQUENCES = ("T1", "T1c", "T2", "FLAIR")


@dataclass(frozen=True, kw_only=True)
class Tissues:
    """Mean signal of each tissue in one sequence, from 0 (air) to about 1."""

    fat: float
    """Of the scalp."""
    bone: float
    fluid: float
    grey: float
    white: float
    deep: float
    """Basal ganglia and thalamus."""
    vessel: float
    scar: float
    """Spots of old age and rims of old infarcts: bright where a tumour is, and no tumour."""
    oedema: float
    core: float
    necrosis: float


_T1 = Tissues(
    fat=0.95,
    bone=0.08,
    fluid=0.18,
    grey=0.48,
    white=0.66,
    deep=0.54,
    vessel=0.20,
    scar=0.52,
    oedema=0.46,
    core=0.44,
    necrosis=0.26,
)
_T1_INVERSION = replace(_T1, fat=0.80, fluid=0.08, grey=0.36, white=0.78, deep=0.52, oedema=0.48)
_T1_LOW_FIELD = replace(_T1, fat=0.75, fluid=0.26, grey=0.50, white=0.58, deep=0.53, oedema=0.49)
_T1C = replace(_T1, vessel=0.98, core=0.92, scar=0.53, necrosis=0.28)
_T1C_INVERSION = replace(_T1_INVERSION, vessel=0.95, core=0.88, necrosis=0.22)
_T1C_WEAK = replace(_T1_LOW_FIELD, vessel=0.84, core=0.80, necrosis=0.30)
_T2 = Tissues(
    fat=0.55,
    bone=0.06,
    fluid=0.98,
    grey=0.50,
    white=0.36,
    deep=0.42,
    vessel=0.08,
    scar=0.66,
    oedema=0.76,
    core=0.60,
    necrosis=0.88,
)
_T2_FAST = replace(_T2, fat=0.88, fluid=0.90, grey=0.52, white=0.42, core=0.66, scar=0.62)
_T2_PROTON = replace(
    _T2, fat=0.70, fluid=0.66, grey=0.74, white=0.58, deep=0.64, oedema=0.82, core=0.78, scar=0.76
)
_FLAIR = Tissues(
    fat=0.60,
    bone=0.06,
    fluid=0.10,
    grey=0.52,
    white=0.40,
    deep=0.46,
    vessel=0.12,
    scar=0.80,
    oedema=0.88,
    core=0.70,
    necrosis=0.36,
)
_FLAIR_WEAK = replace(_FLAIR, fluid=0.75, grey=0.56, white=0.42, oedema=0.80, core=0.66, scar=0.70)
_FLAIR_BRIGHT_FAT = replace(_FLAIR, fat=0.98, grey=0.46, white=0.36, oedema=0.74, scar=0.82)


@dataclass(frozen=True, kw_only=True)
class Missing:
    """A sequence that some patients lack: the file in its place is a copy of another one."""

    sequence: str
    copy_of: str
    share: float


@dataclass(frozen=True, kw_only=True)
class BrainStyle:
    """A hospital's patients and scanner."""

    patients: int
    slices: tuple[int, int]
    """Minimum and maximum number of slices of a volume."""
    matrix: tuple[int, int]
    """Rows and columns."""
    spacing: tuple[float, float]
    """mm a pixel, (y, x)."""
    tissues: tuple[Tissues, ...]
    """Of each of `SEQUENCES`."""
    spread: float
    """Standard deviation of each tissue's signal between patients."""
    noise: float
    """Standard deviation of the complex noise (the magnitude's noise is Rician)."""
    blur: float
    """Standard deviation of the point spread function in mm; FLAIR's is half as large again."""
    bias: float
    """Depth of the coil's smooth bias field."""
    gain: float
    """Scanner units a unit of signal."""
    missing: tuple[Missing, ...] = ()
    age: float
    """Size of ventricles and sulci, and number of spots, where 1 is usual."""
    radius: tuple[float, float]
    """Smallest and largest tumour radius in mm."""
    enhancing: float
    """Share of tumours whose core takes up contrast agent."""
    necrotic: float
    """Share of tumours with a necrosis."""


_FIRST_SITES = (
    BrainStyle(
        patients=45,
        slices=(5, 6),
        matrix=(96, 80),
        spacing=(2.4, 2.4),
        tissues=(_T1, _T1C, _T2, _FLAIR),
        spread=0.04,
        noise=0.025,
        blur=1.2,
        bias=0.15,
        gain=800.0,
        age=1.0,
        radius=(16.0, 29.0),
        enhancing=0.85,
        necrotic=0.8,
    ),
    BrainStyle(
        patients=8,
        slices=(9, 10),
        matrix=(72, 60),
        spacing=(3.2, 3.2),
        tissues=(_T1_LOW_FIELD, _T1C_WEAK, _T2_FAST, _FLAIR_WEAK),
        spread=0.04,
        noise=0.035,
        blur=1.6,
        bias=0.3,
        gain=240.0,
        age=1.2,
        radius=(17.0, 29.0),
        enhancing=0.9,
        necrotic=0.8,
    ),
    BrainStyle(
        patients=26,
        slices=(5, 6),
        matrix=(112, 92),
        spacing=(2.1, 2.1),
        tissues=(_T1_INVERSION, _T1C_INVERSION, _T2, _FLAIR_BRIGHT_FAT),
        spread=0.04,
        noise=0.03,
        blur=1.0,
        bias=0.25,
        gain=1500.0,
        missing=(Missing(sequence="FLAIR", copy_of="T2", share=0.3),),
        age=0.8,
        radius=(15.0, 29.0),
        enhancing=0.9,
        necrotic=0.8,
    ),
    BrainStyle(
        patients=12,
        slices=(7, 8),
        matrix=(84, 72),
        spacing=(2.7, 2.7),
        tissues=(_T1, _T1C, _T2_PROTON, _FLAIR),
        spread=0.04,
        noise=0.03,
        blur=1.6,
        bias=0.35,
        gain=400.0,
        missing=(Missing(sequence="T1c", copy_of="T1", share=0.25),),
        age=1.0,
        radius=(16.0, 29.0),
        enhancing=0.8,
        necrotic=0.8,
    ),
    BrainStyle(
        patients=34,
        slices=(5, 6),
        matrix=(88, 76),
        spacing=(2.6, 2.5),
        tissues=(_T1_LOW_FIELD, _T1C, _T2_FAST, _FLAIR_BRIGHT_FAT),
        spread=0.04,
        noise=0.03,
        blur=1.5,
        bias=0.4,
        gain=600.0,
        age=1.5,
        radius=(16.0, 29.0),
        enhancing=0.8,
        necrotic=0.8,
    ),
    BrainStyle(
        patients=9,
        slices=(8, 9),
        matrix=(64, 56),
        spacing=(3.6, 3.5),
        tissues=(_T1_INVERSION, _T1C_WEAK, _T2_PROTON, _FLAIR_WEAK),
        spread=0.04,
        noise=0.035,
        blur=1.8,
        bias=0.3,
        gain=1100.0,
        missing=(Missing(sequence="T1", copy_of="T1c", share=0.3),),
        age=1.1,
        radius=(18.0, 29.0),
        enhancing=0.7,
        necrotic=0.8,
    ),
)

FIXED_SITES = len(_FIRST_SITES)


def brain_style(index: int, seed: int) -> BrainStyle:
    """Return the style of site `index` (from 1): six are fixed, a seed varies them for others."""
    if not 1 <= index <= MAX_SITES:
        raise HyfreeError(
            "option.out-of-range",
            f"site-{index}: the brain phantom has only sites 1 to {MAX_SITES}",
        )
    base = _FIRST_SITES[(index - 1) % FIXED_SITES]
    if index <= FIXED_SITES:
        return base
    rng = np.random.default_rng(seed_of(seed, "brain phantom", index, "style"))
    zoom = rng.uniform(0.85, 1.15)
    shifted = tuple(
        Tissues(
            **{
                field.name: max(0.0, getattr(one, field.name) + rng.normal(0, 0.03))
                for field in fields(Tissues)
            }
        )
        for one in base.tissues
    )
    assert len(shifted) == len(SEQUENCES)
    return replace(
        base,
        patients=int(8 * (45 / 8) ** rng.uniform()),
        matrix=(round(base.matrix[0] / zoom / 2) * 2, round(base.matrix[1] / zoom / 2) * 2),
        spacing=(round(base.spacing[0] * zoom, 2), round(base.spacing[1] * zoom, 2)),
        tissues=shifted,
        noise=base.noise * rng.uniform(0.7, 1.3),
        blur=base.blur * rng.uniform(0.8, 1.3),
        bias=rng.uniform(0.15, 0.45),
        gain=round(base.gain * rng.uniform(0.5, 2.0)),
        age=base.age * rng.uniform(0.8, 1.3),
    )
