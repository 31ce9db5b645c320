"""Segmentations (SEG) as masks on the grid of a series, whatever grid they were drawn on.

Source: DICOM PS3.3, sections A.51 and C.8.20 (segmentation), C.7.6.16.2.1 (pixel measures).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pydicom

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.importers.dicom.headers import DicomFile, Plane, quiet_pydicom
from hyfree_ray.importers.dicom.stacks import NEAR, Stack, normal_of, place_on

OFF_GRID = 0.01
"""Part of the distance between frames by which a frame may be off their grid."""


def lies_on(planes: Sequence[Plane], stack: Stack) -> bool:
    """Return whether all frames of a segmentation are slices of a volume, pixel by pixel.

    A picture without a place in the patient is its own grid.
    """
    first = stack.planes[0]
    for plane in planes:
        if plane.size != first.size:
            return False
        if first.position is None or first.orientation is None:
            if plane.position is not None:
                return False
            continue
        if plane.position is None or plane.orientation is None or plane.spacing is None:
            return False
        if not np.allclose(plane.orientation, first.orientation, atol=1e-3):
            return False
        if not np.allclose(plane.spacing, first.spacing or (), rtol=1e-3):
            return False
        _, row, column, off = place_on(stack, np.array([plane.position]))
        if off > NEAR or abs(row[0]) > NEAR or abs(column[0]) > NEAR:
            return False
    return True


@dataclass(frozen=True, kw_only=True)
class FrameGrid:
    """The grid that a segmentation's frames lie on (mm, in DICOM's axes)."""

    origin: np.ndarray
    """Of the first frame."""
    axes: np.ndarray
    """Rows: steps from frame to frame, from row to row, and from column to column."""
    heights: tuple[int, ...]
    """Of each frame, in steps from the first."""

    @classmethod
    def of(cls, planes: Sequence[Plane]) -> FrameGrid | str:
        """Return the grid of frames, or why they have none."""
        first = planes[0]
        if first.position is None or first.orientation is None or first.spacing is None:
            return "its frames have no positions"
        if first.step is None:
            return "it lies on another grid than its series, and does not state its own distance"
        same = all(
            plane.size == first.size
            and plane.position is not None
            and np.allclose(plane.orientation or (), first.orientation, atol=1e-4)
            and np.allclose(plane.spacing or (), first.spacing, rtol=1e-4)
            for plane in planes
        )
        moved = np.array([plane.position for plane in planes if plane.position], dtype=float)
        moved -= moved[0]
        right, down = np.array(first.orientation[:3]), np.array(first.orientation[3:])
        heights = moved @ normal_of(first) / first.step
        sideways = np.abs(np.stack([moved @ right, moved @ down])).max()
        uneven = np.abs(heights - np.rint(heights)).max()
        if not same or uneven > OFF_GRID or sideways > OFF_GRID * min(first.spacing):
            return "its frames do not lie on one grid"
        return cls(
            origin=np.array(first.position),
            axes=np.stack(
                [
                    normal_of(first) * first.step,
                    down * first.spacing[0],
                    right * first.spacing[1],
                ]
            ),
            heights=tuple(int(height) for height in np.rint(heights)),
        )

    def resample(self, masks: Mapping[int, np.ndarray], stack: Stack) -> np.ndarray:
        """Return a mask_ZHW: each voxel of a volume is what the nearest pixel is.

        Args:
            masks: a segment's masks (rows, columns), by the frame that holds them.
            stack: the volume.
        """
        low, high = (limit(self.heights[index] for index in masks) for limit in (min, max))
        size = next(iter(masks.values())).shape
        drawn = np.zeros((high - low + 1, *size), bool)
        for index, mask_HW in masks.items():
            drawn[self.heights[index] - low] |= mask_HW
        first = stack.planes[0]
        assert first.orientation is not None
        assert first.spacing is not None
        inverse = np.linalg.inv(self.axes)
        down = np.array(first.orientation[3:]) * first.spacing[0] @ inverse
        right = np.array(first.orientation[:3]) * first.spacing[1] @ inverse
        rows, columns = (np.arange(length)[:, None] for length in first.size)
        in_plane = (rows * down)[:, None] + (columns * right)[None]
        mask_ZHW = np.zeros((len(stack.planes), *first.size), bool)
        for z, plane in enumerate(stack.planes):
            start = (np.array(plane.position) - self.origin) @ inverse
            k, row, column = np.floor(np.moveaxis(start + in_plane, -1, 0) + 0.5).astype(int)
            k -= low
            inside = (k >= 0) & (k < len(drawn))
            inside &= (row >= 0) & (row < drawn.shape[1])
            inside &= (column >= 0) & (column < drawn.shape[2])
            mask_ZHW[z][inside] = drawn[k[inside], row[inside], column[inside]]
        return mask_ZHW


def why_no_segments(header: DicomFile, stack: Stack) -> str:
    """Describe why a segmentation cannot be brought to a volume's grid; empty if it can."""
    if lies_on(header.planes, stack):
        return ""
    if stack.planes[0].position is None:
        return "it has another size than its picture"
    frames = (header.frame_of_reference, stack.header.frame_of_reference)
    if all(frames) and frames[0] != frames[1]:
        return "it lies in another frame of reference than its series; register and resample it"
    grid = FrameGrid.of(header.planes)
    if isinstance(grid, str):
        return f"{grid}; resample it"
    whole = dict.fromkeys(range(len(header.planes)), np.ones(header.planes[0].size, bool))
    if not grid.resample(whole, stack).any():
        return "none of its frames lies in its series"
    return ""


def read_segments(header: DicomFile, stack: Stack) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each segment's number and mask, (slices, rows, columns) of a volume.

    Raises:
        HyfreeError: the pixels cannot be read.
    """
    path = header.path
    with quiet_pydicom():
        try:
            dataset = pydicom.dcmread(path, force=True)
            frames = np.asarray(dataset.pixel_array)
        except Exception as error:  # whatever a decoder raises on damaged data
            raise HyfreeError(
                "import.unreadable",
                f"{path}: its pixels cannot be read ({str(error)[:120]}); export it again",
            ) from None
    frames = frames if frames.ndim == 3 else frames[None]
    aligned = lies_on(header.planes, stack)
    grid = None if aligned else FrameGrid.of(header.planes)
    for number, masks in _frames_by_segment(dataset, frames).items():
        if isinstance(grid, FrameGrid):
            yield number, grid.resample(masks, stack)
            continue
        mask_ZHW = np.zeros((len(stack.planes), *stack.planes[0].size), bool)
        for index, mask_HW in masks.items():
            position = header.planes[index].position
            k = 0 if position is None else place_on(stack, np.array([position], dtype=float))[0]
            mask_ZHW[k] |= mask_HW
        yield number, mask_ZHW


def _frames_by_segment(dataset: Any, frames: np.ndarray) -> dict[int, dict[int, np.ndarray]]:
    """Return each segment's masks (rows, columns), by the frame that holds them."""
    kind = str(dataset.get("SegmentationType", "BINARY"))
    found: dict[int, dict[int, np.ndarray]] = {}
    for index, pixels in enumerate(frames):
        if kind == "LABELMAP":
            for number in np.unique(pixels[pixels > 0]).tolist():
                found.setdefault(int(number), {})[index] = pixels == number
        else:
            least = dataset.get("MaximumFractionalValue", 1) / 2 if kind == "FRACTIONAL" else 0.5
            found.setdefault(_segment_of(dataset, index), {})[index] = pixels >= least
    return found


def _segment_of(dataset: Any, index: int) -> int:
    for group in (
        dataset.PerFrameFunctionalGroupsSequence[index],
        dataset.SharedFunctionalGroupsSequence[0],
    ):
        if "SegmentIdentificationSequence" in group:
            return int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
    return 0
