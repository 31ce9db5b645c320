"""What phantom patients are drawn from: irregular ellipsoids and smooth random fields.

Lengths are in mm, in the image plane, (y, x) from its centre. H, W: rows and columns of a slice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Array = NDArray[np.float64]

_WAVES = np.arange(2, 6)
"""Angular frequencies of a contour's irregularity."""


@dataclass(frozen=True, kw_only=True)
class Blob:
    """An irregular ellipsoid."""

    centre: tuple[float, float]
    radii: tuple[float, float]
    turn: float = 0.0
    """Radians."""
    waves: Array
    """Amplitude and phase of each of `_WAVES`, (2, 4)."""
    z: float = 0.0
    reach: float = 90.0
    """Half its extent across the slices."""

    def depth_HW(self, grid_HW: tuple[Array, Array], z: float) -> Array:
        """Return about how far inside its contour each pixel lies in the slice at `z`; below 0
        outside."""
        shrink = np.sqrt(max(0.0, 1 - ((z - self.z) / self.reach) ** 2))
        y_HW, x_HW = grid_HW[0] - self.centre[0], grid_HW[1] - self.centre[1]
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        v_HW, u_HW = (
            (cos * y_HW - sin * x_HW) / self.radii[0],
            (sin * y_HW + cos * x_HW) / self.radii[1],
        )
        angle_HW = np.arctan2(v_HW, u_HW)
        edge_HW = np.full_like(angle_HW, shrink)
        for wave, amplitude, phase in zip(_WAVES, *self.waves, strict=True):
            # Contours turn slowly with z, so that neighbouring slices are alike but not equal.
            edge_HW += shrink * amplitude * np.cos(wave * angle_HW + phase + 0.02 * z)
        size = float(np.sqrt(self.radii[0] * self.radii[1]))
        return np.asarray((edge_HW - np.hypot(v_HW, u_HW)) * size)


def draw_blob(
    rng: np.random.Generator,
    centre: tuple[float, float],
    radii: tuple[float, float],
    *,
    irregular: float,
    turn: float = 0.0,
    z: float = 0.0,
    reach: float = 90.0,
) -> Blob:
    """Draw an ellipsoid of the given radii whose contour varies by about `irregular` of them."""
    amplitudes = np.abs(rng.normal(0, irregular, len(_WAVES))) * 2 / _WAVES
    waves = np.stack([amplitudes, rng.uniform(0, 2 * np.pi, len(_WAVES))])
    return Blob(centre=centre, radii=radii, turn=turn, waves=waves, z=z, reach=reach)


def pixel_grid(matrix: tuple[int, int], spacing: tuple[float, float]) -> tuple[Array, Array]:
    """Return each pixel's y and x (H, W) from the centre of the image."""
    (rows, columns), (dy, dx) = matrix, spacing
    y_H = (np.arange(rows) - (rows - 1) / 2) * dy
    x_W = (np.arange(columns) - (columns - 1) / 2) * dx
    y_HW, x_HW = np.meshgrid(y_H, x_W, indexing="ij")
    return y_HW, x_HW


def smooth_noise(
    shape: tuple[int, ...],
    spacing: tuple[float, ...],
    rng: np.random.Generator,
    length: float,
) -> Array:
    """Draw a random field of mean 0 and deviation 1 that varies over `length` mm along each
    axis."""
    noise = gaussian_filter(
        rng.normal(size=shape), [length / step for step in spacing], mode="wrap"
    )
    return np.asarray((noise - noise.mean()) / noise.std())


def inside(rng: np.random.Generator, organ: Blob, share: float) -> tuple[float, float]:
    """Draw a point uniformly within the ellipse of `share` of the organ's radii."""
    radius, angle = share * np.sqrt(rng.uniform()), rng.uniform(0, 2 * np.pi)
    v, u = radius * np.sin(angle) * organ.radii[0], radius * np.cos(angle) * organ.radii[1]
    cos, sin = np.cos(organ.turn), np.sin(organ.turn)
    return (
        float(organ.centre[0] + cos * v + sin * u),
        float(organ.centre[1] - sin * v + cos * u),
    )
