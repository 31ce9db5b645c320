"""DICOM images stacked to volumes, in their place, set upright where the gantry was tilted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from hyfree_ray.cohorts.itk_images import Image, itk
from hyfree_ray.importers.dicom.pixels import read_plane
from hyfree_ray.importers.dicom.stacks import Stack, normal_of, shifts_of

TILTED = 0.1
"""Shift in pixels, over a whole stack, from which slices are set upright."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Where the pixels of a volume lie: ITK's spacing, origin and direction (x, y, z; mm)."""

    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[float, ...]
    shifts: tuple[tuple[float, float], ...]
    """(rows, columns) in pixels by which each slice of a tilted gantry is moved."""


def grid_of(stack: Stack) -> Grid:
    """Return the grid of a volume whose gantry, if it was tilted, is set upright."""
    first, last = stack.planes[0], stack.planes[-1]
    assert first.orientation is not None
    assert first.spacing is not None
    assert first.position is not None
    assert last.position is not None
    normal = normal_of(first)
    along = float(np.dot(normal, np.subtract(last.position, first.position)))
    shifts = shifts_of(stack.planes) / np.array(first.spacing)
    if float(np.abs(shifts).max()) < TILTED:
        shifts = np.zeros_like(shifts)
    low = shifts.min(axis=0)
    right, down = np.array(first.orientation[:3]), np.array(first.orientation[3:])
    origin = first.position + low[0] * first.spacing[0] * down + low[1] * first.spacing[1] * right
    cosines = np.stack([right / np.linalg.norm(right), down / np.linalg.norm(down), normal], axis=1)
    return Grid(
        spacing=(first.spacing[1], first.spacing[0], along / (len(stack.planes) - 1)),
        origin=(float(origin[0]), float(origin[1]), float(origin[2])),
        direction=tuple(float(number) for number in cosines.ravel()),
        shifts=tuple((float(row), float(column)) for row, column in shifts - low),
    )


def is_tilted(stack: Stack) -> bool:
    """Return whether a stack's slices have to be set upright."""
    return any(row or column for row, column in grid_of(stack).shifts)


def read_volume(stack: Stack) -> list[Image]:
    """Read a stack as ITK volumes, one a channel, in the units of its slopes.

    Raises:
        HyfreeError: a file cannot be decoded.
    """
    pixels = np.stack([read_plane(plane) for plane in stack.planes])
    channels = np.moveaxis(pixels, -1, 0) if pixels.ndim == 4 else [pixels]
    return [place_volume(_compact(volume_ZHW), stack, order=1) for volume_ZHW in channels]


def place_volume(volume_ZHW: np.ndarray, stack: Stack, *, order: int) -> Image:
    """Return the pixels of a stack's slices as an ITK volume in its place.

    Args:
        volume_ZHW: as stored, (slices, rows, columns).
        stack: where they lie.
        order: 1 interpolates between pixels that a tilted gantry has shifted, 0 takes the nearest.
    """
    grid = grid_of(stack)
    if any(row or column for row, column in grid.shifts):
        volume_ZHW = _upright(volume_ZHW, grid.shifts, order)
    image = itk.GetImageFromArray(np.ascontiguousarray(volume_ZHW))
    image.SetSpacing(grid.spacing)
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.direction)
    return image


def _upright(
    volume_ZHW: np.ndarray, shifts: Sequence[tuple[float, float]], order: int
) -> np.ndarray:
    """Shift each slice to its place on a grid that holds them all; the rest is the lowest value."""
    rows, columns = (math.ceil(most - 1e-6) for most in np.max(shifts, axis=0))
    empty = volume_ZHW.min() if order else 0
    padded = np.pad(volume_ZHW, ((0, 0), (0, rows), (0, columns)), constant_values=empty)
    moved = [
        ndimage.shift(slice_HW.astype(np.float64), shift, order=order, cval=float(empty))
        for slice_HW, shift in zip(padded, shifts, strict=True)
    ]
    found = np.stack(moved)
    if volume_ZHW.dtype.kind == "f":
        return np.asarray(found.astype(volume_ZHW.dtype))
    return np.asarray(np.round(found).astype(volume_ZHW.dtype))


def _compact(values: np.ndarray) -> np.ndarray:
    """Return whole numbers in the fewest bits from 16 that hold them, others as float32."""
    if np.array_equal(values, np.round(values)):
        for kind in (np.int16, np.uint16, np.int32):
            limits = np.iinfo(kind)
            if limits.min <= values.min() and values.max() <= limits.max:
                return values.astype(kind)
    return values.astype(np.float32)
