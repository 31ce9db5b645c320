"""Cases as nnU-Net reads them, and the slices of them that a generator sees.

Shapes: C channels, Z slices, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero

from hyfree_ray.cohorts.slices import generator_slices
from hyfree_ray.core.guard import check_path


def reader_of(dataset_json: Mapping[str, Any], example: str) -> Any:
    """nnU-Net's reader class for a data set, without reading an image where the ending tells it."""
    # Only for .tif has nnU-Net two readers, of images and of volumes, and has to try.
    probe = example if dataset_json["file_ending"] == ".tif" else None
    return determine_reader_writer_from_dataset_json(dict(dataset_json), probe, verbose=False)


def read_image(
    files: Sequence[Path], dataset_json: Mapping[str, Any]
) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Read a case as nnU-Net does: float32 image_CZHW and its spacing (z, h, w) in mm."""
    for file in files:
        check_path(file)  # SimpleITK opens it out of Python's sight
    names = [str(file) for file in files]
    image_CZHW, properties = reader_of(dataset_json, names[0])().read_images(names)
    depth, height, width = (float(s) for s in properties["spacing"])
    return image_CZHW, (depth, height, width)


def read_label(file: Path, dataset_json: Mapping[str, Any]) -> np.ndarray:
    """Read a label map as nnU-Net does: integer label_ZHW."""
    check_path(file)
    label_CZHW, _ = reader_of(dataset_json, str(file))().read_seg(str(file))
    return np.asarray(label_CZHW[0]).astype(np.int16)


def cut_slices(
    image_CZHW: np.ndarray, spacing: Sequence[float], axis: int
) -> tuple[list[np.ndarray], tuple[float, float]]:
    """The slices of a case that a generator sees: each image_CHW, and their spacing in mm.

    The margins of zeros are cropped, as nnU-Net's preprocessing crops them; slices in which
    every channel is constant are left out, for there is nothing in them to learn.

    Args:
        image_CZHW: as `read_image` returns it.
        spacing: (z, h, w) in mm.
        axis: the axis of (z, h, w) along which the plan cuts.
    """
    across = [k for k in range(3) if k != axis]
    slices = [image_CHW for image_CHW, _ in _cut(image_CZHW, spacing, axis)]
    return slices, (float(spacing[across[0]]), float(spacing[across[1]]))


def cut_masks(
    label_ZHW: np.ndarray, image_CZHW: np.ndarray, spacing: Sequence[float], axis: int
) -> list[np.ndarray]:
    """The masks, label_HW each, of the slices that `cut_slices` cuts from the image."""
    return [label_ZHW[place] for _, place in _cut(image_CZHW, spacing, axis)]


def _cut(
    image_CZHW: np.ndarray, spacing: Sequence[float], axis: int
) -> Iterator[tuple[np.ndarray, tuple[Any, ...]]]:
    """Each slice that a generator sees, image_CHW, and its place in the volume's axes."""
    chosen = generator_slices(image_CZHW.shape[1 + axis], spacing[axis])
    cropped_CZHW, _, box = crop_to_nonzero(image_CZHW)
    for k in chosen:
        if not box[axis][0] <= k < box[axis][1]:
            continue
        image_CHW = np.asarray(cropped_CZHW.take(k - int(box[axis][0]), axis=1 + axis))
        if (image_CHW.max(axis=(1, 2)) > image_CHW.min(axis=(1, 2))).any():
            inside: list[Any] = [slice(int(first), int(last)) for first, last in box]
            inside[axis] = k
            yield image_CHW, tuple(inside)
