"""The writing of an image: a file that already holds it alone is copied byte for byte."""

from __future__ import annotations

import shutil
import struct
import zlib
from pathlib import Path

import numpy as np

from hyfree_ray.cohorts.file_ends import detached_names
from hyfree_ray.cohorts.image_reading import (
    NATURAL_ENDINGS,
    SIMPLEITK_IO,
    ImageFault,
    read_image_file,
)
from hyfree_ray.cohorts.itk_images import Image, itk
from hyfree_ray.cohorts.png_structure import png_chunks

_PLAIN_CHUNKS = (b"IHDR", b"IDAT", b"IEND", b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"pHYs")
"""Chunks of a PNG that hold its pixels and how they are shown, and no text."""

_NIFTI_OFFSET, _NO_EXTENSION = 108, 352
"""Where a NIfTI-1 header says where its voxels begin, and where they do if no text lies before."""


def save(image: Image, target: Path, source: Path | None, ending: str) -> None:
    """Write an image, or copy the file that it was read from if it is the same in all respects.

    Args:
        image: what is to be written.
        target: where; its name ends in `ending`.
        source: the one file that it was read from; None: several, or a part of one.
        ending: of the data set's files.
    """
    if source is not None and source.name.endswith(ending) and _holds(source, image, ending):
        shutil.copyfile(source, target)
    else:
        itk.WriteImage(image, str(target))


def _holds(path: Path, image: Image, ending: str) -> bool:
    """Return whether a file holds these pixels in this place, and no text or pixels elsewhere."""
    content = path.read_bytes()
    if detached_names(content, ending) or not _is_bare(content, ending):
        return False
    try:
        stored = read_image_file(path, ending, SIMPLEITK_IO, content)
    except (ImageFault, OSError):
        return False
    pixels = itk.GetArrayViewFromImage(image)
    # Of one bit a pixel: other libraries read white as 255.
    if stored.pixels.dtype == np.bool_ or not np.array_equal(stored.pixels, pixels):
        return False
    if ending in NATURAL_ENDINGS:
        return True
    place = (*image.GetOrigin(), *image.GetDirection())
    spacing = image.GetSpacing()[: len(stored.spacing)][::-1]
    return spacing == stored.spacing and place == stored.place


def _is_bare(content: bytes, ending: str) -> bool:
    """Return whether a file has no chunks or extensions of text beside its image."""
    if ending == ".png":
        return set(png_chunks(content)) <= set(_PLAIN_CHUNKS)
    if ending in (".nii", ".nii.gz"):
        return _voxels_begin_at(content, ending) == _NO_EXTENSION
    return False


def _voxels_begin_at(content: bytes, ending: str) -> int:
    head = zlib.decompressobj(31).decompress(content, 400) if ending == ".nii.gz" else content
    (offset,) = struct.unpack_from("<f", head, _NIFTI_OFFSET)
    return int(offset)
