"""A release in formats that other tools read: Parquet, an nnU-Net raw data set, PNGs.

No text of the release becomes a file name: names are made here, from row numbers. Every file says
by itself, in a field that programs read, that it is synthetic (`marks`).

Shapes: N rows, C channels, H height, W width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import SimpleITK as sitk
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from hyfree_ray.border.marks import marks_of, short_mark
from hyfree_ray.border.release import Release
from hyfree_ray.border.release_arrow import METADATA_KEY, ROWS_PER_BATCH
from hyfree_ray.cohorts.label_sets import LabelEncoding

PARQUET_FILE = "release.parquet"
METADATA_FILE = "metadata.json"
_NIFTI = ".nii.gz"


def export_parquet(release: Release, out: Path) -> None:
    """Write one table: `image` and `label` with stored pixels in C order; shapes are in the
    metadata.

    The columns are plain lists of fixed length, which readers without Arrow's tensors read, too.
    """
    images_NCHW, labels_NHW = release.images_NCHW, release.labels_NHW
    shape = {"image_shape": list(images_NCHW.shape[1:]), "label_shape": list(labels_NHW.shape[1:])}
    table = pa.table(
        {"image": _lists(images_NCHW), "label": _lists(labels_NHW)},
        metadata={
            METADATA_KEY: release.metadata.to_json().encode(),
            b"hyfree_shapes": json.dumps(shape).encode(),
            **{name.encode(): value.encode() for name, value in marks_of(release).items()},
        },
    )
    pq.write_table(
        table, out / PARQUET_FILE, compression="zstd", row_group_size=ROWS_PER_BATCH, version="2.6"
    )


def _lists(pixels: npt.NDArray[Any]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(
        pa.array(np.ascontiguousarray(pixels).reshape(-1)), int(np.prod(pixels.shape[1:]))
    )


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
            _write_png(image_HW, out / "images" / f"{row:06d}_{channel:04d}.png", marks)
        _write_png(label_HW, out / "labels" / f"{row:06d}.png", marks)
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


def _write_png(pixels_HW: npt.NDArray[Any], path: Path, marks: Mapping[str, str]) -> None:
    chunks = PngInfo()
    for name, value in marks.items():
        chunks.add_text(name, value)  # tEXt, or iTXt where it is not Latin-1
    Image.fromarray(np.ascontiguousarray(pixels_HW)).save(path, pnginfo=chunks)


EXPORTERS = {"parquet": export_parquet, "nnunet": export_nnunet, "png": export_png}
