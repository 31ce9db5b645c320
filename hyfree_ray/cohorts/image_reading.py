"""Image files read as nnU-Net's readers read them: the same libraries, axes, values and spacing.

What `check` says is said of these pixels, and so of those that a network is trained on.
"""

from __future__ import annotations

import logging
import math
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

from hyfree_ray.cohorts.file_ends import nifti_steps, nifti_version, why_incomplete
from hyfree_ray.cohorts.grids import TURNED
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
NO_SPACING = "no spacing in its header"


# It writes to the terminal which headers it has corrected; what has to be known is in `said`.
logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)


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
            found = _natural(path, ending, content)
        else:
            check_nifti(content, ending, reader)
            read = _nibabel if reader == NIBABEL_IO else _simpleitk
            found = read(path, ending, content)
    if found.pixels.dtype.kind not in "buif":
        raise ImageFault(UNREADABLE, f"its pixels are of the type {found.pixels.dtype}")
    return found


def check_nifti(content: bytes, ending: str, reader: str) -> None:
    """Refuse a NIfTI that is not what its name says, or states no spacing: readers take 1 mm.

    Raises:
        ImageFault: it is.
    """
    if not ending.startswith(".nii"):
        return
    packed = content[:2] == b"\x1f\x8b"
    if packed != (ending == ".nii.gz"):
        kind = "compressed" if packed else "not compressed"
        raise ImageFault(UNREADABLE, f"it is {kind}, other than its name says")
    version = nifti_version(content, ending)
    if version == 0:
        raise ImageFault(UNREADABLE, "it has no NIfTI header")
    if version == 2 and reader == SIMPLEITK_IO:
        raise ImageFault(UNREADABLE, "SimpleITK reads NIfTI-1, not NIfTI-2; NibabelIO reads both")
    steps = nifti_steps(content, ending)
    if any(step == 0 or not math.isfinite(step) for step in steps):
        raise ImageFault(NO_SPACING, f"{'x'.join(f'{step:g}' for step in steps)} mm")


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
    said = (WHITE_IS_ZERO,) if pixels.dtype.kind != "b" and _white_is_zero(path, ending) else ()
    return ReadImage(pixels=pixels, shape=pixels.shape, said=said)


WHITE_IS_ZERO = "0 is white in it, as its header says, and nnU-Net takes its numbers as they are"


def _white_is_zero(path: Path, ending: str) -> bool:
    if ending not in (".tif", ".tiff"):
        return False
    with tifffile.TiffFile(path) as file:
        page: Any = file.pages[0]
        return bool(page.photometric == tifffile.PHOTOMETRIC.MINISWHITE)


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
        told += _header_says(path, "read as mm, of which it is a part")
        if any(step < 0 for step in nifti_steps(content, ending)):
            told.append("its header gives a negative spacing: it is read without its sign")
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
    cells = 2 if image.ndim == 2 else 3
    steps = image.affine[:cells, :cells]
    directions = steps / np.maximum(np.linalg.norm(steps, axis=0), 1e-12)
    flat = np.concatenate([image.affine[:cells, 3], directions.ravel()])
    zooms = tuple(float(step) for step in image.header.get_zooms()[:axes])
    return ReadImage(
        pixels=pixels,
        shape=tuple(int(length) for length in image.shape[:axes])[::-1],
        spacing=zooms[::-1],
        place=tuple(float(number) for number in flat),
        said=tuple(_header_says(path, "nnU-Net's NibabelIO takes its numbers for mm")),
    )


def _header_says(path: Path, how: str) -> list[str]:
    """Say that a NIfTI states its distances in another unit than mm, or two places at once."""
    library: Any = nib  # it carries no types
    header = library.load(path).header
    unit = header.get_xyzt_units()[0]
    said = [] if unit in ("mm", "unknown") else [f"its header gives distances in {unit}: {how}"]
    if int(header["sform_code"]) > 0 and int(header["qform_code"]) > 0:
        sides = (header.get_sform()[:3, :3], header.get_qform()[:3, :3])
        one, other = (side / np.maximum(np.linalg.norm(side, axis=0), 1e-12) for side in sides)
        if np.abs(one - other).max() > TURNED:
            said.append(
                "its sform and qform turn or mirror it differently: programs show it in two ways"
            )
    return said
