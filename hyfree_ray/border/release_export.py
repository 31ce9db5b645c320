"""A release in formats that other tools read: Parquet, an nnU-Net raw data set, PNGs.

No text of the release becomes a file name: names are made here, from row numbers. Every file says
by itself, in a field that programs read, that it is synthetic (`marks`).

Shapes: N rows, C channels, H height, W width.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from hyfree_ray.border.marks import marks_of, short_mark
from hyfree_ray.border.release import Release
from hyfree_ray.border.release_parquet import export_parquet, png
from hyfree_ray.cohorts.label_sets import LabelEncoding

METADATA_FILE = "metadata.json"
_NIFTI = ".nii.gz"


def export_nnunet(release: Release, out: Path) -> None:
    """Write an nnU-Net raw data set: one 2D NIfTI a channel, in the site's units and spacing."""
    for folder in ("imagesTr", "labelsTr"):
        (out / folder).mkdir()
    spacing, mark = release.metadata.spacing, short_mark(release)
    for row, label_HW in enumerate(release.labels_NHW):
        name = f"synthetic_{row:06d}"
        for channel, image_HW in enumerate(release.physical(slice(row, row + 1))[0]):
            _write_nifti(
                image_HW, out / "imagesTr" / f"{name}_{channel:04d}{_NIFTI}", spacing, mark
            )
        _write_nifti(label_HW, out / "labelsTr" / f"{name}{_NIFTI}", spacing, mark)
    names = release.metadata.channel_names
    dataset = {
        "channel_names": {str(channel): name for channel, name in enumerate(names)},
        **LabelEncoding(
            names=release.metadata.label_names, regions=release.metadata.regions
        ).dataset(),
        "numTraining": len(release.labels_NHW),
        "file_ending": _NIFTI,
        "synthetic": marks_of(release),
    }
    (out / "dataset.json").write_text(json.dumps(dataset, indent=1))


def export_png(release: Release, out: Path) -> None:
    """Write a PNG per channel and one of labels, as stored values; `metadata.json` scales them."""
    for folder in ("images", "labels"):
        (out / folder).mkdir()
    marks = marks_of(release)
    for row, (image_CHW, label_HW) in enumerate(
        zip(release.images_NCHW, release.labels_NHW, strict=True)
    ):
        for channel, image_HW in enumerate(image_CHW):
            (out / "images" / f"{row:06d}_{channel:04d}.png").write_bytes(png(image_HW, marks))
        (out / "labels" / f"{row:06d}.png").write_bytes(png(label_HW, marks))
    described = json.loads(release.metadata.to_json()) | {"synthetic": marks}
    (out / METADATA_FILE).write_text(json.dumps(described, indent=1))


def _write_nifti(
    pixels_HW: npt.NDArray[Any], path: Path, spacing: tuple[float, float], mark: str
) -> None:
    itk: Any = sitk  # SimpleITK has no type annotations
    image = itk.GetImageFromArray(np.ascontiguousarray(pixels_HW))
    image.SetSpacing(spacing[::-1])
    image.SetMetaData("ITK_FileNotes", mark)  # which ITK writes as `descrip`
    itk.WriteImage(image, str(path))


EXPORTERS = {"parquet": export_parquet, "nnunet": export_nnunet, "png": export_png}
