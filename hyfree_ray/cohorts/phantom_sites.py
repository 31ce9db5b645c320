"""The phantom's hospitals: their numbers of patients and the properties of their scanners."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.seeds import seed_of

MAX_SITES = 64


@dataclass(frozen=True, kw_only=True)
class Greys:
    """Mean signal of each tissue at a site, as the sequence renders it."""

    fat: float
    muscle: float
    organ: float
    lesion: float
    twin: float
    """The unlabelled organ on the other side."""
    vessel: float
    fluid: float
    bone: float


@dataclass(frozen=True, kw_only=True)
class SiteStyle:
    """A hospital's patients and scanner."""

    patients: int
    slices: tuple[int, int]
    """Minimum and maximum number of slices a patient."""
    matrix: tuple[int, int]
    """Rows and columns."""
    spacing: tuple[float, float]
    """mm a pixel, (y, x)."""
    greys: Greys
    spread: float
    """Standard deviation of each tissue's grey between patients."""
    noise: float
    """Standard deviation of the complex noise (the magnitude's noise is Rician)."""
    blur: float
    """Standard deviation of the point spread function in mm."""
    shading: float
    """Depth of the coil's smooth bias field."""
    texture: float
    """Standard deviation of the parenchyma's texture."""
    gain: float
    """Scanner units a unit of grey."""
    lesions: float
    """Mean number of lesions a patient beyond the first."""
    radius: tuple[float, float]
    """Smallest and largest lesion radius in mm."""
    healthy: float
    """Share of patients without any lesion."""
    rim: float
    """Signal of a lesion's rim, added to the lesion's."""


_T1 = Greys(
    fat=0.66, muscle=0.36, organ=0.54, lesion=0.84, twin=0.46, vessel=0.30, fluid=0.14, bone=0.44
)
_T1_ENHANCED = Greys(
    fat=0.40, muscle=0.40, organ=0.54, lesion=0.82, twin=0.72, vessel=0.88, fluid=0.12, bone=0.22
)
_T2 = Greys(
    fat=0.76, muscle=0.24, organ=0.42, lesion=0.72, twin=0.55, vessel=0.14, fluid=1.00, bone=0.40
)
_T2_LOW_FIELD = Greys(
    fat=0.56, muscle=0.26, organ=0.44, lesion=0.74, twin=0.57, vessel=0.16, fluid=0.94, bone=0.34
)

_FIRST_SITES = (
    SiteStyle(
        patients=60,
        slices=(2, 3),
        matrix=(88, 112),
        spacing=(2.7, 2.7),
        greys=_T1,
        spread=0.05,
        noise=0.035,
        blur=1.6,
        shading=0.25,
        texture=0.03,
        gain=900.0,
        lesions=1.2,
        radius=(11.0, 24.0),
        healthy=0.05,
        rim=0.0,
    ),
    SiteStyle(
        patients=16,
        slices=(4, 5),
        matrix=(64, 80),
        spacing=(3.7, 3.7),
        greys=_T2,
        spread=0.045,
        noise=0.04,
        blur=2.0,
        shading=0.35,
        texture=0.035,
        gain=350.0,
        lesions=0.8,
        radius=(11.0, 22.0),
        healthy=0.05,
        rim=0.0,
    ),
    SiteStyle(
        patients=45,
        slices=(2, 3),
        matrix=(104, 128),
        spacing=(2.3, 2.4),
        greys=_T1_ENHANCED,
        spread=0.045,
        noise=0.03,
        blur=1.2,
        shading=0.4,
        texture=0.03,
        gain=1500.0,
        lesions=1.8,
        radius=(10.0, 19.0),
        healthy=0.05,
        rim=0.08,
    ),
    SiteStyle(
        patients=16,
        slices=(4, 5),
        matrix=(80, 96),
        spacing=(3.0, 3.1),
        greys=_T2_LOW_FIELD,
        spread=0.05,
        noise=0.045,
        blur=2.0,
        shading=0.3,
        texture=0.03,
        gain=220.0,
        lesions=1.0,
        radius=(12.0, 23.0),
        healthy=0.05,
        rim=0.0,
    ),
    SiteStyle(
        patients=90,
        slices=(2, 3),
        matrix=(96, 112),
        spacing=(2.5, 2.7),
        greys=replace(_T2, fat=0.62, muscle=0.30, organ=0.42, lesion=0.70, fluid=0.90),
        spread=0.06,
        noise=0.045,
        blur=1.8,
        shading=0.3,
        texture=0.03,
        gain=600.0,
        lesions=1.0,
        radius=(12.0, 25.0),
        healthy=0.05,
        rim=0.03,
    ),
)


def site_style(index: int, seed: int) -> SiteStyle:
    """Return the style of site `index` (from 1): five are fixed, a seed varies them for others."""
    if not 1 <= index <= MAX_SITES:
        raise HyfreeError(
            "option.out-of-range",
            f"site-{index}: the phantom has only sites 1 to {MAX_SITES}",
        )
    base = _FIRST_SITES[(index - 1) % len(_FIRST_SITES)]
    if index <= len(_FIRST_SITES):
        return base
    rng = np.random.default_rng(seed_of(seed, "phantom", index, "style"))
    zoom = rng.uniform(0.85, 1.15)
    shifts = {name: grey + rng.normal(0, 0.02) for name, grey in vars(base.greys).items()}
    return replace(
        base,
        patients=int(20 * (90 / 20) ** rng.uniform()),
        matrix=(round(base.matrix[0] / zoom / 2) * 2, round(base.matrix[1] / zoom / 2) * 2),
        spacing=(round(base.spacing[0] * zoom, 2), round(base.spacing[1] * zoom, 2)),
        greys=Greys(**shifts),
        noise=base.noise * rng.uniform(0.7, 1.3),
        blur=base.blur * rng.uniform(0.8, 1.3),
        shading=rng.uniform(0.2, 0.45),
        gain=round(base.gain * rng.uniform(0.5, 2.0)),
        lesions=base.lesions * rng.uniform(0.7, 1.4),
    )
