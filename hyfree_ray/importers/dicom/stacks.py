"""The division of DICOM images into volumes, and the check that each is one.

A volume's images lie parallel, at equal distances, on a straight line. Where they do not, nothing
is made up: the series is left out, and the reason says which image or place is at fault.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hyfree_ray.importers.dicom.headers import SPLITTING, DicomFile, Plane

PARALLEL = 1e-3
"""Directions (unit vectors) that differ by less are the same: headers round them."""

UNEVEN = 0.05
"""Part of the distance between slices by which one may differ: headers round positions."""

STRAIGHT = 0.02
"""Part of the distance along a stack that its images may be shifted sideways."""


NEAR = 0.1
"""Part of a pixel, or of the distance between slices, by which a mask may be off its image."""


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Images that are one volume, sorted along its normal."""

    header: DicomFile
    """Of the first file."""
    planes: tuple[Plane, ...]
    fault: str = ""
    """Why it is not a volume."""
    split_by: str = ""
    """What told it from others of its series."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files, without repetition."""
        return tuple(dict.fromkeys(plane.file for plane in self.planes))


def stacks_of(files: Sequence[DicomFile]) -> list[Stack]:
    """Divide images by patient, study, series, size, orientation, echo, b-value and acquisition."""
    stacks: list[Stack] = []
    headers = {file.path: file for file in files}
    for group in _series(files):
        parallel = _parallel(group)
        for planes in parallel:
            header = headers[planes[0].file]
            found = _divided(planes)
            why = "orientation, size, spacing, echo or b-value" if len(parallel) > 1 else ""
            stacks += [
                Stack(header=header, planes=part, fault=fault, split_by=name or why)
                for name, part, fault in found
            ]
    return stacks


def _series(files: Sequence[DicomFile]) -> list[list[Plane]]:
    groups: dict[tuple[object, ...], list[Plane]] = defaultdict(list)
    for file in files:
        for plane in file.planes:
            spacing = plane.spacing and tuple(round(step, 4) for step in plane.spacing)
            owner = (file.patient_id, file.study, file.series, file.modality, file.colour)
            groups[owner, plane.size, spacing, plane.contrast].append(plane)
    return list(groups.values())


def _parallel(planes: Sequence[Plane]) -> list[list[Plane]]:
    """Group images whose directions are the same to `PARALLEL`."""
    groups: list[list[Plane]] = []
    for plane in planes:
        for group in groups:
            first = group[0].orientation
            if first is None or plane.orientation is None:
                same = first is plane.orientation
            else:
                same = bool(np.allclose(first, plane.orientation, atol=PARALLEL))
            if same:
                group.append(plane)
                break
        else:
            groups.append([plane])
    return groups


def _divided(planes: Sequence[Plane]) -> list[tuple[str, tuple[Plane, ...], str]]:
    """Return the volumes among parallel images: what split them, their images, their fault."""
    planes = sorted(planes, key=lambda plane: (_height(plane), plane.number, str(plane.file)))
    fault = fault_of(planes)
    if planes[0].position is None or len(planes) < 2:
        return [("", tuple(planes), fault)]
    acquisitions = _by_mark(planes, 0)
    if fault:
        for index, name in enumerate(SPLITTING):
            parts = _by_mark(planes, index)
            if len(parts) == 1:
                continue
            found = [piece for part in parts.values() for piece in _divided(part)]
            if all(len(p) > 1 and not why for _, p, why in found):
                return [(more or name, part, "") for more, part, _ in found]
    elif len(acquisitions) > 1 and _interleaved(acquisitions):
        found = [piece for part in acquisitions.values() for piece in _divided(part)]
        if not any(why for _, _, why in found):
            return [(more or SPLITTING[0], part, "") for more, part, _ in found]
    return [("", tuple(planes), fault)]


def _by_mark(planes: Sequence[Plane], index: int) -> dict[str, list[Plane]]:
    parts: dict[str, list[Plane]] = defaultdict(list)
    for plane in planes:
        parts[plane.marks[index]].append(plane)
    return parts


def _interleaved(parts: Mapping[str, Sequence[Plane]]) -> bool:
    """Return whether the ranges of several acquisitions overlap: they are then phases."""
    ranges = sorted((_height(part[0]), _height(part[-1])) for part in parts.values())
    return any(second[0] < first[1] for first, second in itertools.pairwise(ranges))


def normal_of(plane: Plane) -> np.ndarray:
    """Return the unit normal of an image: rows cross columns."""
    assert plane.orientation is not None
    normal: np.ndarray = np.cross(plane.orientation[:3], plane.orientation[3:])
    normal /= np.linalg.norm(normal)
    return normal


def _height(plane: Plane) -> float:
    """Return an image's place along its normal, mm; 0 where it is unknown."""
    if plane.position is None or plane.orientation is None:
        return 0.0
    return float(np.dot(normal_of(plane), plane.position))


def fault_of(planes: Sequence[Plane]) -> str:
    """Describe why parallel images, sorted, are not one volume; empty if they are."""
    first = planes[0]
    if any(plane.position is None for plane in planes) or first.orientation is None:
        return "its images have no position or orientation, so that their distance is unknown"
    if abs(np.dot(first.orientation[:3], first.orientation[3:])) > PARALLEL:
        return "rows and columns of its images are not at right angles"
    if first.spacing is None:
        return "its images have no PixelSpacing"
    if len(planes) < 2:
        return "a single slice: a scout, or a volume of which the rest is missing"
    if why := fault_of_slopes(planes):
        return why
    heights = np.array([_height(plane) for plane in planes])
    return _uneven(planes, heights) or _crooked(planes, heights)


def fault_of_slopes(planes: Sequence[Plane]) -> str:
    """Describe why the values of images cannot be known from their slopes; empty if they can."""
    if any(plane.slope == 0 for plane in planes):
        return "its RescaleSlope is 0, so that its values are lost"
    if len({plane.states_slope for plane in planes}) > 1:
        bare = next(plane.file for plane in planes if not plane.states_slope)
        return f"{bare.name} states no RescaleSlope, others of its series do"
    return ""


def _uneven(planes: Sequence[Plane], heights: np.ndarray) -> str:
    gaps = np.diff(heights)
    usual = float(np.median(gaps))
    again = Counter(np.round(heights, 2).tolist()).most_common(1)[0]
    if again[1] > 1:
        return (
            f"{again[1]} images lie at {again[0]:g} mm, and nothing in their headers tells which"
            " belong together"
        )
    tolerance = max(UNEVEN * usual, 0.01)
    k = int(np.argmax(np.abs(gaps - usual)))
    if abs(gaps[k] - usual) <= tolerance:
        return ""
    between = (
        f"between {planes[k].file.name} at {heights[k]:g} mm and {planes[k + 1].file.name} at"
        f" {heights[k + 1]:g} mm"
    )
    times = gaps[k] / usual
    if times > 1.5 and abs(times - round(times)) < UNEVEN * times:
        missing = ", ".join(f"{heights[k] + n * usual:g}" for n in range(1, round(times)))
        return f"the slices at {missing} mm are missing ({between})"
    return f"its slices are {gaps.min():g} to {gaps.max():g} mm apart ({between})"


def _crooked(planes: Sequence[Plane], heights: np.ndarray) -> str:
    """Describe images that lie neither above each other nor, as a tilted gantry's, on a line."""
    shifts = shifts_of(planes)
    if len(planes) < 3:
        return ""
    slope = shifts[-1] / (heights[-1] - heights[0])
    line = (heights - heights[0])[:, None] * slope
    worst = float(np.abs(shifts - line).max())
    if worst > max(STRAIGHT * (heights[-1] - heights[0]), 0.1):
        return f"its images are shifted against each other by up to {worst:.3g} mm"
    return ""


def shifts_of(planes: Sequence[Plane]) -> np.ndarray:
    """Return how far each image is shifted along (rows' axis, columns' axis) from the first, mm."""
    first = planes[0]
    assert first.orientation is not None
    positions = np.array([plane.position for plane in planes], dtype=float)
    moved = positions - positions[0]
    down, right = np.array(first.orientation[3:]), np.array(first.orientation[:3])
    return np.stack([moved @ down, moved @ right], axis=1)


def place_on(stack: Stack, points: np.ndarray) -> tuple[int, np.ndarray, np.ndarray, float]:
    """Return the slice that points (n, 3; mm) lie on, their rows and columns there, and how far
    they are off it, in distances between slices."""
    first = stack.planes[0]
    assert first.orientation is not None
    assert first.spacing is not None
    normal = normal_of(first)
    positions = np.array([plane.position for plane in stack.planes], dtype=float)
    heights = positions @ normal
    own = points @ normal
    k = int(np.argmin(np.abs(heights - own.mean())))
    step = float(heights[-1] - heights[0]) / max(1, len(heights) - 1) or 1.0
    inside = points - positions[k]
    rows = inside @ np.array(first.orientation[3:]) / first.spacing[0]
    columns = inside @ np.array(first.orientation[:3]) / first.spacing[1]
    return k, rows, columns, float(np.abs(own - heights[k]).max()) / step
