"""A phantom patient: shapes in millimetres, drawn into slices and passed through a site's scanner.

Lengths are in mm, in the image plane, (y, x) from its centre; greys are from 0 (air) to about 1. H,
W: rows and columns of a slice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from hyfree_ray.cohorts.phantom_shapes import (
    Array,
    Blob,
    draw_blob,
    inside,
    pixel_grid,
    smooth_noise,
)
from hyfree_ray.cohorts.phantom_sites import Greys, SiteStyle

ORGAN, LESION = 1, 2
_AIR = 0.02


@dataclass(frozen=True, kw_only=True)
class _Lesion:
    blob: Blob
    contrast: float
    """Fraction of the site's difference between lesion and organ."""


@dataclass(frozen=True, kw_only=True)
class _Patient:
    greys: Greys
    body: Blob
    fat: float
    """Thickness of the fat under the skin."""
    organ: Blob
    twin: Blob
    bones: tuple[Blob, ...]
    canal: Blob
    kidneys: tuple[Blob, ...]
    bowel: tuple[tuple[Blob, float], ...]
    """Loops with their grey, which depends on their content, not on the site."""
    vessels: tuple[Blob, ...]
    cysts: tuple[Blob, ...]
    lesions: tuple[_Lesion, ...]


def draw_patient(
    style: SiteStyle, rng: np.random.Generator, slices: int
) -> list[tuple[Array, NDArray[np.uint8]]]:
    """Draw images (H, W) in scanner units and labels (H, W) of one patient's slices."""
    patient = _patient(style, rng)
    grid_HW = pixel_grid(style.matrix, style.spacing)
    gap = rng.uniform(20, 36) / (slices - 1)
    placed = rng.normal(0, 5, 2)
    style = replace(
        style, noise=style.noise * rng.uniform(0.7, 1.3), blur=style.blur * rng.uniform(0.8, 1.3)
    )
    field_HW = smooth_noise(style.matrix, style.spacing, rng, 60.0)
    texture_HW = smooth_noise(style.matrix, style.spacing, rng, 4.0)
    drawn = []
    for number in range(slices):
        z = (number - (slices - 1) / 2) * gap + rng.uniform(-3, 3)
        moved_HW = tuple(
            axis_HW + shift
            for axis_HW, shift in zip(grid_HW, placed + rng.normal(0, 1.5, 2), strict=True)
        )
        image_HW, label_HW, tissue_HW = _paint(patient, style, moved_HW, z)
        fresh_HW = smooth_noise(style.matrix, style.spacing, rng, 4.0)
        image_HW += style.texture * tissue_HW * (texture_HW + fresh_HW) / np.sqrt(2)
        image_HW *= np.exp(style.shading * (0.6 * field_HW + 0.4 * moved_HW[0] / 100))
        drawn.append((_scan(image_HW, style, rng), label_HW))
    return drawn


def _scan(image_HW: Array, style: SiteStyle, rng: np.random.Generator) -> Array:
    """Apply point spread, complex noise, magnitude and the scanner's units."""
    image_HW = gaussian_filter(image_HW, [style.blur / step for step in style.spacing])
    real_HW, imaginary_HW = rng.normal(0, style.noise, (2, *style.matrix))
    return np.asarray(style.gain * np.hypot(image_HW + real_HW, imaginary_HW))


# ---------------------------------------------------------------- anatomy


def _patient(style: SiteStyle, rng: np.random.Generator) -> _Patient:
    size = rng.normal(1, 0.08)
    half = (88 * size * rng.normal(1, 0.04), 122 * size * rng.normal(1, 0.04))
    greys = {field.name: getattr(style.greys, field.name) for field in fields(Greys)}
    organ = draw_blob(
        rng,
        (-8 * size + rng.normal(0, 8), -50 * size + rng.normal(0, 8)),
        (42 * size * rng.normal(1, 0.15), 48 * size * rng.normal(1, 0.15)),
        irregular=0.1,
        turn=rng.normal(0, 0.3),
    )
    twin = draw_blob(
        rng,
        (4 * size + rng.normal(0, 8), 74 * size + rng.normal(0, 5)),
        (32 * size * rng.normal(1, 0.15), 21 * size * rng.normal(1, 0.15)),
        irregular=0.09,
        turn=rng.normal(0, 0.3),
        reach=60,
    )
    back = 50 * size
    return _Patient(
        greys=Greys(**{name: grey + rng.normal(0, style.spread) for name, grey in greys.items()}),
        body=draw_blob(rng, (0, 0), half, irregular=0.02, reach=400),
        fat=rng.uniform(6, 18),
        organ=organ,
        twin=twin,
        bones=_spine(rng, back),
        canal=draw_blob(rng, (back + 14, 0), (5.5, 7), irregular=0.03, reach=300),
        kidneys=tuple(_kidney(rng, side, back, size) for side in (-1, 1)),
        bowel=tuple(_bowel_loop(rng, size) for _ in range(rng.integers(1, 5))),
        vessels=tuple(_vessel(rng, organ) for _ in range(rng.integers(2, 5))),
        cysts=tuple(
            _ball(rng, inside(rng, organ, 0.9), rng.uniform(5, 11)) for _ in range(rng.poisson(0.6))
        ),
        lesions=_lesions(style, rng, organ),
    )


def _spine(rng: np.random.Generator, back: float) -> tuple[Blob, ...]:
    return (
        draw_blob(rng, (back - 4, 0), (15, 18), irregular=0.03, reach=300),
        draw_blob(rng, (back + 24, 0), (10, 4), irregular=0.03, reach=300),
    )


def _kidney(rng: np.random.Generator, side: int, back: float, size: float) -> Blob:
    return draw_blob(
        rng,
        (back - 12 + rng.normal(0, 4), side * 44 * size + rng.normal(0, 4)),
        (19, 14),
        irregular=0.05,
        turn=side * 0.4,
        z=rng.uniform(-40, 40),
        reach=50,
    )


def _bowel_loop(rng: np.random.Generator, size: float) -> tuple[Blob, float]:
    loop = draw_blob(
        rng,
        (rng.uniform(-50, 0) * size, rng.uniform(5, 60) * size),
        (rng.uniform(9, 18), rng.uniform(12, 24)),
        irregular=0.1,
        turn=rng.uniform(0, np.pi),
        z=rng.uniform(-30, 30),
        reach=40,
    )
    return loop, rng.uniform(0.05, 0.95)


def _vessel(rng: np.random.Generator, organ: Blob) -> Blob:
    return draw_blob(
        rng,
        inside(rng, organ, 0.8),
        (rng.uniform(3.5, 5), rng.uniform(10, 24)),
        irregular=0.05,
        turn=rng.uniform(0, np.pi),
        z=rng.uniform(-30, 30),
        reach=30,
    )


def _lesions(style: SiteStyle, rng: np.random.Generator, organ: Blob) -> tuple[_Lesion, ...]:
    if rng.uniform() < style.healthy:
        return ()
    return tuple(
        _Lesion(
            blob=_ball(rng, inside(rng, organ, 0.75), rng.uniform(*style.radius)),
            contrast=rng.uniform(0.8, 1.2),
        )
        for _ in range(1 + rng.poisson(style.lesions))
    )


def _ball(rng: np.random.Generator, centre: tuple[float, float], radius: float) -> Blob:
    radii = (radius * rng.uniform(0.8, 1.2), radius * rng.uniform(0.8, 1.2))
    # Flattened less across the slices than a sphere, so that most slices of a patient meet it.
    return draw_blob(
        rng, centre, radii, irregular=0.1, z=rng.uniform(-16, 16), reach=max(1.6 * radius, 20)
    )


def _paint(
    patient: _Patient, style: SiteStyle, grid_HW: tuple[Array, Array], z: float
) -> tuple[Array, NDArray[np.uint8], Array]:
    """Draw the slice at `z`: image in greys, label, and a mask of tissue (for the texture)."""
    greys, pixel = patient.greys, float(np.mean(style.spacing))
    image_HW = np.full(style.matrix, _AIR)

    def cover(depth_HW: Array, grey: float) -> Array:
        share_HW = np.clip(depth_HW / pixel + 0.5, 0, 1)  # of the pixel
        image_HW[...] += share_HW * (grey - image_HW)
        return share_HW

    def fill(blobs: Sequence[Blob], grey: float, within_HW: Array | None = None) -> None:
        for shape in blobs:
            depth_HW = shape.depth_HW(grid_HW, z)
            cover(depth_HW if within_HW is None else np.minimum(depth_HW, within_HW), grey)

    body_HW = patient.body.depth_HW(grid_HW, z)
    cover(body_HW, greys.fat)
    inner_HW = body_HW - patient.fat
    tissue_HW = cover(inner_HW, greys.muscle)
    for loop, grey in patient.bowel:
        fill([loop], grey, inner_HW - 5)
    fill(patient.kidneys, (greys.twin + greys.fluid) / 2, inner_HW - 5)
    fill([patient.twin], greys.twin, inner_HW - 4)
    organ_HW = np.minimum(patient.organ.depth_HW(grid_HW, z), inner_HW - 4)
    cover(organ_HW, greys.organ)
    fill(patient.vessels, greys.vessel, organ_HW - 2)
    fill(patient.cysts, greys.fluid, organ_HW)
    label_HW = np.where(organ_HW > 0, ORGAN, 0).astype(np.uint8)
    for lesion in patient.lesions:
        depth_HW = np.minimum(lesion.blob.depth_HW(grid_HW, z), organ_HW)
        grey = greys.organ + lesion.contrast * (greys.lesion - greys.organ)
        cover(depth_HW, grey + style.rim)
        cover(depth_HW - 4, grey)
        label_HW[depth_HW > 0] = LESION
    fill(patient.bones, greys.bone)
    fill([patient.canal], greys.fluid)
    return image_HW, label_HW, tissue_HW
