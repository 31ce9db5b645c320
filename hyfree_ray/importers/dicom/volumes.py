"""The pixels of DICOM images: decoded, scaled slice by slice, set upright, as a volume."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from scipy import ndimage

from hyfree_ray.cohorts.itk_images import Image, itk, reading_quietly
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.importers.dicom.headers import Plane, quiet_pydicom
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


def read_volume(stack: Stack) -> Image:
    """Read a stack as an ITK volume, in the units of its slopes.

    Raises:
        HyfreeError: a file cannot be decoded.
    """
    pixels = [read_plane(plane) for plane in stack.planes]
    whole = all(
        plane.slope == int(plane.slope) and plane.intercept == int(plane.intercept)
        for plane in stack.planes
    )
    volume_ZHW = _compact(np.stack(pixels)) if whole else np.stack(pixels).astype(np.float32)
    return place_volume(volume_ZHW, stack, order=1)


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
    """Return whole numbers in 16 bits if they fit, else in 32."""
    for kind in (np.int16, np.uint16, np.int32):
        limits = np.iinfo(kind)
        if limits.min <= values.min() and values.max() <= limits.max:
            return np.round(values).astype(kind)
    return values.astype(np.float32)


def read_plane(plane: Plane) -> np.ndarray:
    """Read one image with its slope and intercept: float64, (rows, columns) or with three
    channels.

    Raises:
        HyfreeError: it cannot be decoded.
    """
    frames, scaled, inverted = _decoded(plane.file)
    if plane.frame >= len(frames):
        raise _unreadable(plane.file, "it holds fewer images than it states")
    pixels = frames[plane.frame].astype(np.float64)
    if inverted is not None:
        pixels = inverted - pixels
    return np.asarray(pixels if scaled else pixels * plane.slope + plane.intercept)


@lru_cache(maxsize=2)
def _decoded(path: Path) -> tuple[np.ndarray, bool, float | None]:
    """Return a file's images, whether slopes are applied, and what MONOCHROME1 is inverted by."""
    with quiet_pydicom():
        try:
            dataset = pydicom.dcmread(path, force=True)
            several = int(dataset.get("NumberOfFrames", 1) or 1) > 1
            inverted = _inverted(dataset)
            try:
                pixels = np.asarray(dataset.pixel_array)
                return (pixels if several else pixels[None]), False, inverted
            except (NotImplementedError, RuntimeError):  # no decoder for its compression
                return _by_itk(path), True, _scaled(dataset, inverted)
        except HyfreeError:
            raise
        except (ValueError, TypeError, AttributeError, KeyError, EOFError, OSError) as error:
            raise _unreadable(path, str(error).partition("\n")[0][:120]) from None


def _inverted(dataset: Any) -> float | None:
    """Return the sum of a MONOCHROME1 pixel and of what it shows in MONOCHROME2."""
    if str(dataset.get("PhotometricInterpretation", "")) != "MONOCHROME1":
        return None
    return (
        -1.0 if int(dataset.get("PixelRepresentation", 0)) else 2.0 ** int(dataset.BitsStored) - 1
    )


def _scaled(dataset: Any, inverted: float | None) -> float | None:
    slope, intercept = (float(dataset.get(k, d) or d) for k, d in _DEFAULTS)
    return None if inverted is None else inverted * slope + 2 * intercept


_DEFAULTS = (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0))


def _by_itk(path: Path) -> np.ndarray:
    """Decode with GDCM, which knows more compressions, and applies slopes itself."""
    reader = itk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    with reading_quietly() as said:
        try:
            pixels: np.ndarray = itk.GetArrayFromImage(reader.Execute())
        except RuntimeError:
            raise _unreadable(path, "; ".join(said) or "no decoder reads it") from None
    return pixels


def _unreadable(path: Path, why: str) -> HyfreeError:
    return HyfreeError(
        "import.unreadable", f"{path}: its pixels cannot be read ({why}); export it again"
    )
