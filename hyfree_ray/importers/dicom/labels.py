"""Segmentations (SEG) and contours (RTSTRUCT) of DICOM series, as label maps on their grid.

Source: DICOM PS3.3, sections A.51 (segmentation), C.8.20 and C.8.8.6 (contours).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pydicom
from skimage.draw import polygon

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.importers.classes import Classes, key_of
from hyfree_ray.importers.dicom.headers import DicomFile, quiet_pydicom
from hyfree_ray.importers.dicom.segments import read_segments, why_no_segments
from hyfree_ray.importers.dicom.stacks import NEAR, Stack, place_on


@dataclass(frozen=True, kw_only=True)
class LabelFile:
    """A segmentation object or a set of contours."""

    header: DicomFile
    structures: Mapping[int, str]
    """Names by number."""
    instances: frozenset[str]
    """SOPInstanceUIDs of the images it was drawn on, where it names them."""
    series: frozenset[str]


def read_label_file(header: DicomFile) -> LabelFile | None:
    """Read a label file's names of structures and its references; None if it has no structure.

    Of contours, points and open lines are no structures: they enclose nothing.
    """
    with quiet_pydicom():
        try:
            dataset = pydicom.dcmread(header.path, stop_before_pixels=True, force=True)
            if header.modality == "SEG":
                found = {int(s.SegmentNumber): str(s.SegmentLabel) for s in dataset.SegmentSequence}
            else:
                rois = dataset.StructureSetROISequence
                drawn = {number for number, _ in _contours_of(header.path)}
                found = {int(roi.ROINumber): str(roi.ROIName) for roi in rois}
                found = {number: name for number, name in found.items() if number in drawn}
        except (AttributeError, ValueError, TypeError, KeyError, EOFError):
            return None
        instances, series = set(), set()
        for element in dataset.iterall():
            if element.keyword == "ReferencedSOPInstanceUID":
                instances.add(str(element.value))
            elif element.keyword == "SeriesInstanceUID" and element.value != header.series:
                series.add(str(element.value))
    if not found:
        return None
    return LabelFile(
        header=header,
        structures=found,
        instances=frozenset(instances),
        series=frozenset(series),
    )


def stack_for(label: LabelFile, stacks: Sequence[Stack]) -> tuple[Stack | None, str]:
    """Return the volume that a label file was drawn on, or None and why there is none."""
    same = [
        stack
        for stack in stacks
        if (stack.header.patient_id, stack.header.study)
        == (label.header.patient_id, label.header.study)
    ]
    ways = (
        [s for s in same if any(p.sop_instance in label.instances for p in s.planes)],
        [s for s in same if s.header.series in label.series],
        [
            s
            for s in same
            if s.header.frame_of_reference
            and s.header.frame_of_reference == label.header.frame_of_reference
        ],
    )
    near = next((found for found in ways if found), [])
    if not near:
        return None, "no imported series is the one that it was drawn on"
    fitting = [stack for stack in near if not misfit(label, stack)]
    if len(fitting) == 1:
        return fitting[0], ""
    if fitting:
        return None, f"it fits {len(fitting)} volumes; import them one at a time"
    return None, misfit(label, near[0])


def misfit(label: LabelFile, stack: Stack) -> str:
    """Describe why a label file cannot be read on a volume's grid; empty if it can."""
    if label.header.modality == "SEG":
        return why_no_segments(label.header, stack)
    height, width = stack.planes[0].size
    inside = False
    for _, points in _contours_of(label.header.path):
        _, rows, columns, off = place_on(stack, points)
        if off > NEAR:
            return "its contours do not lie on the slices of its series"
        inside |= bool(((rows > -1) & (rows < height) & (columns > -1) & (columns < width)).any())
    return "" if inside else "its contours lie beside the images of its series"


def read_label_map(
    labels: Sequence[LabelFile], stack: Stack, values: Mapping[str, int], *, painted: bool
) -> np.ndarray:
    """Read the structures of a volume's label files: uint8, (slices, rows, columns) as stored.

    Args:
        labels: the files that were drawn on the volume.
        stack: the volume.
        values: the value of each structure, by `key_of` its name; others are not read.
        painted: whether a structure of a higher value is drawn over one of a lower.

    Raises:
        HyfreeError: structures overlap and are not `painted`, or a file cannot be read.
    """
    shape = (len(stack.planes), *stack.planes[0].size)
    masks: dict[str, np.ndarray] = {}
    drawn_in: dict[str, Path] = {}
    for label in labels:
        for number, mask_ZHW in _masks(label, stack, shape):
            key = key_of(label.structures.get(number, ""))
            if key not in values:
                continue
            path = label.header.path
            if drawn_in.setdefault(key, path) != path and (masks[key] != mask_ZHW).any():
                raise _bad(
                    path,
                    f"draws {label.structures[number]} otherwise than {drawn_in[key].name} of the"
                    " same series; keep one of them",
                )
            masks[key] = masks.get(key, np.zeros(shape, bool)) | mask_ZHW
    found = np.zeros(shape, np.uint8)
    for key, mask_ZHW in sorted(masks.items(), key=lambda item: values[item[0]]):
        under = np.unique(found[mask_ZHW & (found > 0)]).tolist()
        below = [name for name in masks if values[name] in under and values[name] != values[key]]
        if below and not painted:
            raise _bad(
                labels[0].header.path,
                f"{key} and {below[0]} overlap, and a pixel has one label; give --classes in the"
                " order in which they are drawn, the topmost last",
            )
        found[mask_ZHW] = values[key]
    return found


def painting_values(classes: Classes | None, names: Sequence[str]) -> dict[str, int]:
    """Return the value of each structure by its key: as `--classes` says, or by name."""
    if classes is not None:
        pairs = enumerate(classes.named, start=1)
        return {key: value for value, one in pairs for key in one.keys}
    keys = sorted({key_of(name) for name in names})
    return {key: value for value, key in enumerate(keys, start=1)}


def _masks(
    label: LabelFile, stack: Stack, shape: tuple[int, ...]
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each structure's number and mask, (slices, rows, columns)."""
    if label.header.modality == "SEG":
        yield from read_segments(label.header, stack)
        return
    masks: dict[int, np.ndarray] = {}
    for number, points in _contours_of(label.header.path):
        k, rows, columns, _ = place_on(stack, points)
        mask_ZHW = masks.setdefault(number, np.zeros(shape, bool))
        inside = polygon(  # type: ignore[no-untyped-call]
            rows, columns, shape[1:]
        )
        mask_ZHW[k][inside] ^= True  # a contour inside another is a hole
    yield from masks.items()


def _contours_of(path: Path) -> Sequence[tuple[int, np.ndarray]]:
    """Return each closed contour: the number of its structure, and its points (n, 3) in mm.

    Raises:
        ValueError: the file's contours are damaged.
    """
    return _contours_in(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _contours_in(path: Path, _written_ns: int) -> tuple[tuple[int, np.ndarray], ...]:
    found = []
    with quiet_pydicom():
        dataset = pydicom.dcmread(path, force=True)
        for roi in dataset.get("ROIContourSequence", ()):
            for contour in roi.get("ContourSequence", ()):
                points = np.array(contour.get("ContourData", ()), dtype=float)
                if str(contour.get("ContourGeometricType", "")).startswith("CLOSED_PLANAR"):
                    found.append((int(roi.ReferencedROINumber), points.reshape(-1, 3)))
    return tuple(found)


def _bad(path: Path, what: str) -> HyfreeError:
    return HyfreeError("import.bad-labels", f"{path}: {what}")
