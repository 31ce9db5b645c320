"""Image files read as nnU-Net's readers read them: the same libraries, axes, values and spacing.

What `check` says is said of these pixels, and so of those that a network is trained on.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import tifffile
from PIL import Image as pil

from hyfree_ray.cohorts.file_ends import why_incomplete
from hyfree_ray.cohorts.itk_images import itk, plain, reading_quietly

MAX_PIXELS = 1 << 26
MAX_VOXELS = 1 << 30
"""A header with more pixels per slice, or voxels, is refused before memory is allocated."""

# nnU-Net's file endings with SimpleITK's reader for each. The reader is named, so that a file of
# another format under this ending is refused instead of guessed at.
READERS = {
    ".png": "PNGImageIO",
    ".bmp": "BMPImageIO",
    ".tif": "TIFFImageIO",
    ".tiff": "TIFFImageIO",
    ".nii.gz": "NiftiImageIO",
    ".nii": "NiftiImageIO",
    ".nrrd": "NrrdImageIO",
    ".mha": "MetaImageIO",
    ".gipl": "GiplImageIO",
}
# nnU-Net reads these without spacing, and takes all channels from one file.
NATURAL_ENDINGS = (".png", ".bmp", ".tif", ".tiff")

SIMPLEITK_IO, NIBABEL_IO, NATURAL_IO = "SimpleITKIO", "NibabelIO", "NaturalImage2DIO"
"""nnU-Net's readers that give an array as it is stored."""

TOO_LARGE = "too large"
SHEARED = "direction cosines are not orthonormal"
UNREADABLE = "unreadable"
ENDS_EARLY = "not whole"


class ImageFault(Exception):
    """A file cannot be used.

    Args:
        fault: the kind, one of `image_facts.FAULTS`.
        why: what is known of it.
    """

    def __init__(self, fault: str, why: str = "") -> None:
        super().__init__(fault, why)
        self.fault = fault
        self.why = why


@dataclass(frozen=True, kw_only=True)
class ReadImage:
    """An image file as nnU-Net's reader returns it."""

    pixels: np.ndarray
    """Values as stored: (H, W), (H, W, channels), (Z, H, W), or what is not accepted."""
    shape: tuple[int, ...]
    """(height, width) in pixels, or (slices, height, width) of a volume."""
    spacing: tuple[float, ...] = ()
    """In mm, in the order of `shape`; empty for formats that nnU-Net reads without spacing."""
    place: tuple[float, ...] = ()
    """Origin and directions of the grid; empty for formats without spacing."""
    channels: int = 1
    said: tuple[str, ...] = ()
    """What has to be known of the file: a reader's warnings, units other than mm."""


def read_image_file(path: Path, ending: str, reader: str, content: bytes) -> ReadImage:
    """Read a file with the libraries of one of nnU-Net's readers, its header first.

    Args:
        path: the file.
        ending: its ending, which says its format.
        reader: nnU-Net's reader of the data set.
        content: the file's bytes.

    Raises:
        ImageFault: it cannot be read, ends early, or claims to be too large.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if ending in NATURAL_ENDINGS:
            return _natural(path, ending, content)
        if reader == NIBABEL_IO:
            return _nibabel(path, ending, content)
        return _simpleitk(path, ending, content)


def _check_header(shape: tuple[int, ...], content: bytes, ending: str) -> None:
    """Refuse an image that is too large, or of which a part is missing."""
    voxels = int(np.prod(shape, dtype=object))
    if voxels > MAX_VOXELS or int(np.prod(shape[-2:], dtype=object)) > MAX_PIXELS:
        raise ImageFault(TOO_LARGE)
    if early := why_incomplete(content, ending):
        raise ImageFault(ENDS_EARLY, early)


def _natural(path: Path, ending: str, content: bytes) -> ReadImage:
    """Read what nnU-Net's NaturalImage2DIO reads with skimage."""
    from skimage import io

    try:
        size = _natural_size(path, ending)
        _check_header(size, content, ending)
        pixels = np.asarray(io.imread(path))
    except pil.DecompressionBombError:
        raise ImageFault(TOO_LARGE) from None
    except PermissionError:
        raise
    except (OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, RuntimeError) as e:
        raise ImageFault(UNREADABLE, plain(str(e))[:120]) from None
    except (MemoryError, EOFError, struct.error):
        raise ImageFault(UNREADABLE) from None
    if len(size) > 2:
        return ReadImage(pixels=pixels, shape=size)
    if pixels.ndim == 3 and pixels.shape[-1] == 2:
        raise ImageFault("grey with transparency")
    if pixels.ndim == 3 and pixels.shape[-1] in (3, 4):
        return ReadImage(pixels=pixels, shape=pixels.shape[:2], channels=pixels.shape[-1])
    return ReadImage(pixels=pixels, shape=pixels.shape)


def _natural_size(path: Path, ending: str) -> tuple[int, ...]:
    """Return (height, width) as the header states them; of a stack of pages, all axes."""
    if ending in (".tif", ".tiff"):
        with tifffile.TiffFile(path) as file:
            page: Any = file.pages[0]
            plane = (int(page.imagelength), int(page.imagewidth))
            return plane if len(file.pages) == 1 else (len(file.pages), *plane)
    with pil.open(path) as image:
        if (image.format or "") not in ("PNG", "BMP", "DIB"):
            raise ImageFault(UNREADABLE, f"it is a {image.format}")
        return (image.height, image.width)


def _simpleitk(path: Path, ending: str, content: bytes) -> ReadImage:
    reader = itk.ImageFileReader()
    reader.SetImageIO(READERS[ending])
    reader.SetFileName(str(path))
    with reading_quietly() as said:
        try:
            reader.ReadImageInformation()
            size = tuple(int(length) for length in reader.GetSize())
            if len(size) > 2 and all(length == 1 for length in size[2:]):
                size = size[:2]  # one slice stored as a volume: nnU-Net treats it as 2D too
            shape = size[::-1]
            _check_header(shape, content, ending)
            image = reader.Execute()
        except (RuntimeError, MemoryError) as error:
            sheared = "orthonormal" in plain(str(error)) and not _is_singular(path, ending)
            raise ImageFault(SHEARED if sheared else UNREADABLE) from None
    pixels: np.ndarray = itk.GetArrayFromImage(image)
    spacing = tuple(abs(float(step)) for step in image.GetSpacing()[: len(size)])[::-1]
    place = (*image.GetOrigin(), *image.GetDirection())
    told = [line.replace(f"{path} ", "").replace(str(path), "") for line in said]
    if ending.startswith(".nii"):
        told += _units(path, "read as mm, of which it is a part")
    return ReadImage(
        pixels=pixels,
        shape=shape,
        spacing=spacing,
        place=tuple(float(number) for number in place),
        channels=int(image.GetNumberOfComponentsPerPixel()),
        said=tuple(dict.fromkeys(told)),
    )


def _is_singular(path: Path, ending: str) -> bool:
    """Return whether a NIfTI's affine has no inverse: it is then no grid at all."""
    library: Any = nib
    return ending.startswith(".nii") and bool(abs(np.linalg.det(library.load(path).affine)) < 1e-12)


def _nibabel(path: Path, ending: str, content: bytes) -> ReadImage:
    library: Any = nib  # it carries no types
    try:
        image = library.load(path)
        _check_header(tuple(image.shape[::-1]), content, ending)
        pixels = np.asarray(image.get_fdata()).T
    except PermissionError:
        raise
    except (
        library.filebasedimages.ImageFileError,
        OSError,
        ValueError,
        EOFError,
        MemoryError,
        zlib.error,
    ):
        raise ImageFault(UNREADABLE) from None
    axes = 2 if image.ndim > 2 and all(n == 1 for n in image.shape[2:]) else image.ndim
    flat = image.affine[:2, :3] if image.ndim == 2 else image.affine[:3]
    zooms = tuple(float(step) for step in image.header.get_zooms()[:axes])
    return ReadImage(
        pixels=pixels,
        shape=tuple(int(length) for length in image.shape[:axes])[::-1],
        spacing=zooms[::-1],
        place=tuple(float(number) for number in flat.ravel()),
        said=tuple(_units(path, "nnU-Net's NibabelIO takes its numbers for mm")),
    )


def _units(path: Path, how: str) -> list[str]:
    """Say that a NIfTI states its distances in another unit than mm."""
    library: Any = nib
    unit = library.load(path).header.get_xyzt_units()[0]
    return [] if unit in ("mm", "unknown") else [f"its header gives distances in {unit}: {how}"]
