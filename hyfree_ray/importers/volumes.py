"""Volumes of downloads, read in the format that their ending names."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hyfree_ray.cohorts.file_ends import why_incomplete
from hyfree_ray.cohorts.image_facts import all_finite
from hyfree_ray.cohorts.image_reading import READERS, SIMPLEITK_IO, ImageFault, check_nifti
from hyfree_ray.cohorts.itk_images import Image, itk, plain, reading_quietly
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.importers.files import VOLUMES


def read_volume_file(path: Path) -> Image:
    """Read an image in the format of its ending.

    Raises:
        HyfreeError: it cannot be read, or ends early.
    """
    ending = next(ending for ending in VOLUMES if path.name.casefold().endswith(ending))
    reader = itk.ImageFileReader()
    reader.SetImageIO(READERS[ending])
    reader.SetFileName(str(path))
    try:
        content = path.read_bytes()
        early = why_incomplete(content, ending)
        if not early:
            check_nifti(content, ending, SIMPLEITK_IO)
        with reading_quietly():
            image = reader.Execute()
    except ImageFault as fault:
        raise _unreadable(path, f"{fault.fault} ({fault.why}); save it anew") from None
    except PermissionError:
        raise _unreadable(path, "no permission to read it; correct its access rights") from None
    except (RuntimeError, OSError) as error:
        why = plain(str(error))
        if "orthonormal" in why:
            raise _unreadable(
                path, "its direction cosines are not orthonormal (a shear); resample it to a grid"
            ) from None
        raise _unreadable(path, "cannot be read as an image; download it again") from None
    if early:
        raise _unreadable(path, f"{early}; download it again")
    pixels = itk.GetArrayViewFromImage(image)
    if pixels.dtype.kind == "f" and not all_finite(path, ending, pixels):
        raise _unreadable(path, "it has NaN or infinite pixels; replace them with finite numbers")
    return image


def read_one_volume(path: Path) -> Image:
    """Read a volume of one channel.

    Raises:
        HyfreeError: it has several channels, or a fourth axis.
    """
    image = read_volume_file(path)
    if image.GetNumberOfComponentsPerPixel() != 1 or image.GetDimension() > 3:
        raise _unreadable(
            path,
            f"{image.GetNumberOfComponentsPerPixel()} channels on {image.GetDimension()} axes;"
            " split it into volumes of one channel",
        )
    return image


def read_label_values(path: Path) -> tuple[np.ndarray, Image]:
    """Read a label volume: its values, and the image for its place.

    Raises:
        HyfreeError: its values are not whole, or negative.
    """
    image = read_one_volume(path)
    values: np.ndarray = itk.GetArrayFromImage(image)
    if not np.isfinite(values).all() or (values != np.round(values)).any() or values.min() < 0:
        raise HyfreeError(
            "import.bad-labels", f"{path}: label values are not whole numbers from 0; correct them"
        )
    return values.astype(np.int64), image


def _unreadable(path: Path, why: str) -> HyfreeError:
    return HyfreeError("import.unreadable", f"{path}: {why}")
