"""A patient of the brain phantom: a head in millimetres, drawn into slices of four sequences.

The head has scalp, skull, fluid, a folded cortex over white matter, basal ganglia, ventricles,
cerebellum and eyes; vessels, spots of old age and old infarcts look like a tumour in one sequence
or another. A tumour is nested: necrosis within core within oedema, which spreads through white
matter and pushes the midline aside.

Lengths are in mm, in the image plane, (y, x) from its centre, y to the back; z upwards. S
sequences, D slices, H, W.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from hyfree_ray.cohorts.phantom_brain_sites import SEQUENCES, BrainStyle, Tissues
from hyfree_ray.cohorts.phantom_shapes import (
    Array,
    Blob,
    draw_blob,
    inside,
    pixel_grid,
    smooth_noise,
)

OEDEMA, CORE, NECROSIS = 1, 2, 3
SLAB = 88.0
"""Extent of the slices across the head."""

_AIR = 0.01
_FAR = 99.0
_TUMOUR_AT = 20.0
"""A tumour's centre is at most this far from the middle of the slab."""


@dataclass(frozen=True, kw_only=True)
class _Tumour:
    whole: Blob
    core: Blob
    necrosis: Blob | None


@dataclass(frozen=True, kw_only=True)
class _Head:
    tissues: tuple[Tissues, ...]
    """Of each sequence, this patient's."""
    scalp: Blob
    fat: float
    skull: float
    """Thicknesses."""
    gap: float
    """Between skull and brain."""
    ventricles: tuple[Blob, ...]
    deep: tuple[Blob, ...]
    cerebellum: Blob
    stem: Blob
    eyes: tuple[Blob, ...]
    sinus: Blob
    vessels: tuple[Blob, ...]
    spots: tuple[Blob, ...]
    infarcts: tuple[Blob, ...]
    tumour: _Tumour


def draw_head(
    style: BrainStyle, rng: np.random.Generator, slices: int
) -> tuple[Array, NDArray[np.uint8]]:
    """Draw images_SDHW in scanner units and the label_DHW of one patient."""
    head = _head(style, rng)
    shape, gap = (slices, *style.matrix), SLAB / slices
    grid_HW = pixel_grid(style.matrix, style.spacing)
    placed = rng.normal(0, 5, 2)
    tilt = rng.normal(0, 0.1)
    y_HW, x_HW = grid_HW[0] + placed[0], grid_HW[1] + placed[1]
    turned_HW = (y_HW + tilt * x_HW, x_HW - tilt * y_HW)
    folds_DHW = smooth_noise(shape, (gap, *style.spacing), rng, 3.5)
    sulci_DHW = smooth_noise(shape, (gap, *style.spacing), rng, 4.5)
    low = rng.uniform(-5, 5)
    images_SDHW = np.empty((len(SEQUENCES), *shape))
    label_DHW = np.zeros(shape, np.uint8)
    for number in range(slices):
        z = low + (number - (slices - 1) / 2) * gap
        images_SDHW[:, number], label_DHW[number] = _paint(
            head, style, turned_HW, z, folds_DHW[number], sulci_DHW[number]
        )
    for sequence, image_DHW in zip(SEQUENCES, images_SDHW, strict=True):
        _scan(image_DHW, sequence, style, gap, rng)
    for missing in style.missing:
        if rng.uniform() < missing.share:
            there = SEQUENCES.index(missing.copy_of)
            images_SDHW[SEQUENCES.index(missing.sequence)] = images_SDHW[there]
    return images_SDHW, label_DHW


def _scan(
    image_DHW: Array, sequence: str, style: BrainStyle, gap: float, rng: np.random.Generator
) -> None:
    """Apply texture, bias field, point spread, complex noise, magnitude and the scanner's units."""
    spacing = (gap, *style.spacing)
    image_DHW *= 1 + 0.03 * smooth_noise(image_DHW.shape, spacing, rng, 3.0)
    image_DHW *= np.exp(style.bias * smooth_noise(image_DHW.shape, spacing, rng, 55.0))
    blur = style.blur * (1.5 if sequence == "FLAIR" else 1.0)
    widths = [0.0, *(blur / step for step in style.spacing)]
    blurred_DHW = gaussian_filter(image_DHW, widths)
    noise = style.noise * rng.uniform(0.7, 1.3)
    real_DHW, imaginary_DHW = rng.normal(0, noise, (2, *image_DHW.shape))
    image_DHW[...] = style.gain * np.hypot(blurred_DHW + real_DHW, imaginary_DHW)


# ---------------------------------------------------------------- anatomy


def _head(style: BrainStyle, rng: np.random.Generator) -> _Head:
    size, age = rng.normal(1, 0.05), style.age * np.exp(rng.normal(0, 0.25))
    scalp = draw_blob(
        rng,
        (0, 0),
        (97 * size * rng.normal(1, 0.03), 77 * size * rng.normal(1, 0.03)),
        irregular=0.015,
        reach=118,
    )
    brain = replace(scalp, radii=(scalp.radii[0] - 20, scalp.radii[1] - 20))
    tumour = _tumour(style, rng, brain)
    return _Head(
        tissues=_patients_tissues(style, rng),
        scalp=scalp,
        fat=rng.uniform(4, 9),
        skull=rng.uniform(5, 8),
        gap=1.5 + 1.5 * age * rng.uniform(0.6, 1.4),
        ventricles=_ventricles(rng, size, age, tumour.whole),
        deep=tuple(
            draw_blob(
                rng,
                (4 * size, side * 21 * size),
                (17 * size, 8 * size),
                irregular=0.05,
                turn=side * 0.25,
                z=-6,
                reach=20,
            )
            for side in (-1, 1)
        ),
        cerebellum=draw_blob(rng, (50 * size, 0), (26, 44), irregular=0.04, z=-50, reach=28),
        stem=draw_blob(rng, (16 * size, 0), (14, 17), irregular=0.04, z=-50, reach=28),
        eyes=tuple(
            draw_blob(
                rng, (-76 * size, side * 31 * size), (12, 12), irregular=0.02, z=-45, reach=16
            )
            for side in (-1, 1)
        ),
        sinus=draw_blob(
            rng, (scalp.radii[0] - 20, rng.normal(0, 2)), (4, 5), irregular=0.1, reach=300
        ),
        vessels=tuple(
            _ball(rng, inside(rng, brain, 1.0), rng.uniform(1.8, 3.2))
            for _ in range(rng.integers(6, 14))
        ),
        spots=tuple(
            _ball(rng, inside(rng, brain, 0.62), rng.uniform(2.5, 5.5))
            for _ in range(rng.poisson(2.5 * age))
        ),
        infarcts=tuple(
            _ball(rng, inside(rng, brain, 0.9), rng.uniform(6, 13))
            for _ in range(rng.poisson(0.2 * age))
        ),
        tumour=tumour,
    )


def _patients_tissues(style: BrainStyle, rng: np.random.Generator) -> tuple[Tissues, ...]:
    """Return one patient's signals in each sequence."""
    names = [field.name for field in fields(Tissues)]
    found = [
        Tissues(
            **{name: max(0.0, getattr(one, name) + rng.normal(0, style.spread)) for name in names}
        )
        for one in style.tissues
    ]
    if rng.uniform() >= style.enhancing:
        plain, enhanced = SEQUENCES.index("T1"), SEQUENCES.index("T1c")
        found[enhanced] = replace(found[enhanced], core=found[plain].core)
    return tuple(found)


def _ventricles(
    rng: np.random.Generator, size: float, age: float, tumour: Blob
) -> tuple[Blob, ...]:
    """Draw both lateral ventricles, their posterior horns and the third, pushed by a tumour."""
    pushed = -np.sign(tumour.centre[1]) * 0.2 * np.sqrt(np.prod(tumour.radii))
    wide = np.sqrt(age)
    found = [draw_blob(rng, (6, 0.5 * pushed), (13, 2.2 * wide), irregular=0.05, z=-14, reach=14)]
    for side in (-1, 1):
        # On the tumour's side they are squeezed.
        near = 0.6 if side * tumour.centre[1] > 0 else 1.0
        found.append(
            draw_blob(
                rng,
                (-12 * size, side * 10 * wide + pushed),
                (26 * size, 5.5 * wide * near),
                irregular=0.08,
                turn=side * 0.22,
                z=10,
                reach=26,
            )
        )
        found.append(
            draw_blob(
                rng,
                (26 * size, side * 21 + pushed),
                (17 * size, 5 * wide * near),
                irregular=0.08,
                turn=-side * 0.35,
                z=2,
                reach=18,
            )
        )
    return tuple(found)


def _ball(rng: np.random.Generator, centre: tuple[float, float], radius: float) -> Blob:
    radii = (radius * rng.uniform(0.75, 1.25), radius * rng.uniform(0.75, 1.25))
    z = rng.uniform(-SLAB / 2, SLAB / 2)
    return draw_blob(rng, centre, radii, irregular=0.12, z=z, reach=max(1.5 * radius, 8))


def _tumour(style: BrainStyle, rng: np.random.Generator, brain: Blob) -> _Tumour:
    radius = rng.uniform(*style.radius)
    z, turn = rng.uniform(-_TUMOUR_AT, _TUMOUR_AT), rng.uniform(0, np.pi)
    centre = inside(rng, brain, 0.75)
    while abs(centre[1]) < 12:
        centre = inside(rng, brain, 0.75)
    radii = (radius * rng.uniform(0.8, 1.25), radius * rng.uniform(0.8, 1.25))
    whole = draw_blob(
        rng, centre, radii, irregular=0.16, turn=turn, z=z, reach=max(1.25 * radius, 24)
    )
    share = rng.uniform(0.6, 0.8)
    core = draw_blob(
        rng,
        inside(rng, whole, 0.25),
        (radii[0] * share, radii[1] * share),
        irregular=0.12,
        turn=turn,
        z=z + rng.normal(0, 2),
        reach=whole.reach * 0.85,
    )
    inner = rng.uniform(0.6, 0.8)
    necrosis = draw_blob(
        rng,
        inside(rng, core, 0.2),
        (core.radii[0] * inner, core.radii[1] * inner),
        irregular=0.12,
        turn=turn,
        z=core.z,
        reach=core.reach * 0.85,
    )
    return _Tumour(
        whole=whole,
        core=core,
        necrosis=necrosis if rng.uniform() < style.necrotic else None,
    )


class _Canvas:
    """The slice of all sequences that is being painted."""

    def __init__(self, head: _Head, style: BrainStyle) -> None:
        self.image_SHW = np.full((len(SEQUENCES), *style.matrix), _AIR)
        self._head = head
        self._pixel = float(np.mean(style.spacing))

    def cover(self, depth_HW: Array, tissue: str) -> None:
        """Paint a tissue where `depth_HW` is positive, mixed within a pixel of the contour."""
        signals_S = np.array([getattr(one, tissue) for one in self._head.tissues])
        self.mix(depth_HW, signals_S)

    def mix(self, depth_HW: Array, signals_S: Array) -> None:
        """Paint signals of each sequence."""
        share_HW = np.clip(depth_HW / self._pixel + 0.5, 0, 1)
        self.image_SHW += share_HW * (signals_S[:, None, None] - self.image_SHW)


def _paint(
    head: _Head,
    style: BrainStyle,
    grid_HW: tuple[Array, Array],
    z: float,
    folds_HW: Array,
    sulci_HW: Array,
) -> tuple[Array, NDArray[np.uint8]]:
    """Draw the slice at `z`: signals of all sequences, and the label."""
    canvas = _Canvas(head, style)

    def fill(blobs: Sequence[Blob], tissue: str, within_HW: Array, rim: float = 0.0) -> None:
        for shape in blobs:
            if abs(z - shape.z) < shape.reach:
                canvas.cover(np.minimum(shape.depth_HW(grid_HW, z) - rim, within_HW), tissue)

    head_HW = head.scalp.depth_HW(grid_HW, z)
    canvas.cover(head_HW, "fat")
    canvas.cover(head_HW - head.fat, "bone")
    inner_HW = head_HW - head.fat - head.skull
    canvas.cover(inner_HW, "fluid")
    brain_HW = inner_HW - head.gap
    canvas.cover(brain_HW, "grey")
    white_HW = brain_HW - 6 - 5 * folds_HW
    canvas.cover(white_HW, "white")
    # Furrows run from the surface inwards, the deeper the older the patient.
    furrow_HW = np.minimum(3 * (sulci_HW - 1.15), 6 + 3 * head.gap - brain_HW)
    canvas.cover(np.minimum(furrow_HW, brain_HW), "fluid")
    midline_HW = np.minimum(0.9 - np.abs(grid_HW[1]), np.abs(grid_HW[0] - 4) - 34)
    canvas.cover(np.minimum(midline_HW, brain_HW), "fluid")
    fill(head.deep, "deep", brain_HW - 4)
    fill(head.spots, "scar", brain_HW - 3)
    fill([head.cerebellum], "grey", inner_HW - 2)
    fill([head.stem], "white", inner_HW - 2)
    depths, label_HW = _tumour_depths(head.tumour, grid_HW, z, brain_HW, folds_HW)
    for depth_HW, tissue in zip(depths, ("oedema", "core", "necrosis"), strict=False):
        canvas.cover(depth_HW, tissue)
    outside_HW = np.where(label_HW > 0, -_FAR, brain_HW)
    fill(head.infarcts, "scar", outside_HW)
    fill(head.infarcts, "fluid", outside_HW, 3)
    fill(head.ventricles, "fluid", outside_HW - 4)
    fill(head.vessels, "vessel", np.where(label_HW > 0, -_FAR, inner_HW))
    fill([head.sinus], "vessel", inner_HW)
    fill(head.eyes, "fluid", head_HW - 2)
    return canvas.image_SHW, label_HW


def _tumour_depths(
    tumour: _Tumour, grid_HW: tuple[Array, Array], z: float, brain_HW: Array, folds_HW: Array
) -> tuple[list[Array], NDArray[np.uint8]]:
    """Return the depths of oedema, core and necrosis, nested, and the label."""
    depths: list[Array] = []
    label_HW = np.zeros(brain_HW.shape, np.uint8)
    # Oedema spreads in fingers through the folds; a core has a wall around its necrosis.
    parts = [(tumour.whole, 1.5 * folds_HW, OEDEMA), (tumour.core, 0 * folds_HW, CORE)]
    if tumour.necrosis is not None:
        parts.append((tumour.necrosis, np.full_like(folds_HW, 1.5), NECROSIS))
    within_HW = brain_HW - 1.5
    for shape, wall_HW, value in parts:
        depth_HW = np.full_like(brain_HW, -_FAR)
        if abs(z - shape.z) < shape.reach:
            depth_HW = np.minimum(shape.depth_HW(grid_HW, z), within_HW) - wall_HW
        depths.append(depth_HW)
        label_HW[depth_HW > 0] = value
        within_HW = depth_HW
    return depths, label_HW
