"""The pixels of DICOM images: decoded, their colours as RGB, in the units of their slopes.

Source: DICOM PS3.3, sections C.7.6.3 (image pixels, palettes) and C.11.1 (modality look-up table).
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.pixels.processing import apply_color_lut
from pydicom.uid import (
    CTImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
)

from hyfree_ray.cohorts.itk_images import itk, reading_quietly
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.importers.dicom.headers import PALETTE, Plane, quiet_pydicom

_OF_PIXELS = (
    "Rows", "Columns", "SamplesPerPixel", "PlanarConfiguration", "PhotometricInterpretation",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "NumberOfFrames", "PixelData",
)  # fmt: skip
"""What a decoder needs; nothing of the patient, and no slope."""


@dataclass(frozen=True, kw_only=True)
class _Frames:
    """The images of a file."""

    pixels: np.ndarray
    """(frames, rows, columns), or with three channels."""
    in_units: bool = False
    """Whether a look-up table has given them their units."""
    inverted: float | None = None
    """The sum of a MONOCHROME1 pixel and of what it shows in MONOCHROME2."""


def read_plane(plane: Plane) -> np.ndarray:
    """Read one image with its slope and intercept: float64, (rows, columns) or with three
    channels.

    Raises:
        HyfreeError: it cannot be decoded.
    """
    found = _decoded(plane.file, plane.file.stat().st_mtime_ns)
    if plane.frame >= len(found.pixels):
        raise _unreadable(plane.file, "it holds fewer images than it states")
    pixels = found.pixels[plane.frame].astype(np.float64)
    if found.inverted is not None:
        pixels = found.inverted - pixels
    return np.asarray(pixels if found.in_units else pixels * plane.slope + plane.intercept)


@lru_cache(maxsize=2)
def _decoded(path: Path, _written_ns: int) -> _Frames:
    with quiet_pydicom():
        try:
            dataset = pydicom.dcmread(path, force=True)
            pixels = _stored(path, dataset)
            if _photometric(dataset) == PALETTE:
                colours = apply_color_lut(pixels, dataset)
                wide = colours.dtype.itemsize > 1
                return _Frames(pixels=colours >> 8 if wide else colours)
            if "ModalityLUTSequence" in dataset:
                return _looked_up(dataset, pixels)
            return _Frames(pixels=pixels, inverted=_inverted(dataset))
        except HyfreeError:
            raise
        except Exception as error:  # whatever a decoder raises on damaged data
            raise _unreadable(path, str(error).partition("\n")[0][:120]) from None


def _stored(path: Path, dataset: Any) -> np.ndarray:
    """Return the stored values of a file's images, YBR as RGB."""
    above = 0
    if "HighBit" in dataset and dataset.HighBit >= dataset.BitsStored:
        # Files from before 2007 may keep the bits below for others.
        above = int(dataset.HighBit) + 1 - int(dataset.BitsStored)
        dataset.BitsStored = int(dataset.HighBit) + 1
    several = int(dataset.get("NumberOfFrames", 1) or 1) > 1
    try:
        pixels = np.asarray(dataset.pixel_array)
        pixels = pixels if several else pixels[None]
    except (NotImplementedError, RuntimeError):  # no decoder for its compression
        pixels = _by_itk(path, dataset)
    return pixels >> above if above else pixels


def _photometric(dataset: Any) -> str:
    return str(dataset.get("PhotometricInterpretation", ""))


def _inverted(dataset: Any) -> float | None:
    if _photometric(dataset) != "MONOCHROME1":
        return None
    signed = int(dataset.get("PixelRepresentation", 0))
    return -1.0 if signed else 2.0 ** int(dataset.BitsStored) - 1


def _looked_up(dataset: Any, pixels: np.ndarray) -> _Frames:
    """Return what a modality look-up table gives each stored value."""
    table = dataset.ModalityLUTSequence[0]
    entries, first, bits = (int(number) for number in table.LUTDescriptor)
    if int(dataset.get("PixelRepresentation", 0)) and first >= 1 << 15:
        first -= 1 << 16
    given = table.LUTData
    if isinstance(given, bytes):
        narrow = len(given) < 2 * (entries or 1 << 16)
        given = np.frombuffer(given, "u1" if narrow else "<u2")
    values = np.asarray(given)[: entries or 1 << 16]
    return _Frames(
        pixels=values[(pixels.astype(np.int64) - first).clip(0, len(values) - 1)],
        in_units=True,
        inverted=2.0**bits - 1 if _photometric(dataset) == "MONOCHROME1" else None,
    )


def _by_itk(path: Path, dataset: Any) -> np.ndarray:
    """Decode with GDCM, which knows more compressions, from a file of the pixels alone."""
    bare = pydicom.Dataset()
    for name in _OF_PIXELS:
        if name in dataset:
            bare.add(dataset[name])
    samples = int(dataset.get("SamplesPerPixel", 1) or 1)
    if samples == 1:
        bare.PhotometricInterpretation = "MONOCHROME2"
    bare.SOPClassUID = CTImageStorage
    if int(dataset.get("NumberOfFrames", 1) or 1) > 1:
        bare.SOPClassUID = (
            MultiFrameGrayscaleWordSecondaryCaptureImageStorage
            if samples == 1
            else MultiFrameTrueColorSecondaryCaptureImageStorage
        )
    bare.SOPInstanceUID = "2.25.1"
    bare.file_meta = pydicom.dataset.FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    with tempfile.NamedTemporaryFile(suffix=".dcm") as file, reading_quietly() as said:
        bare.save_as(file.name, enforce_file_format=True)
        reader = itk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(file.name)
        try:
            pixels: np.ndarray = itk.GetArrayFromImage(reader.Execute())
        except RuntimeError:
            raise _unreadable(path, "; ".join(said) or "no decoder reads it") from None
    return pixels


def _unreadable(path: Path, why: str) -> HyfreeError:
    return HyfreeError(
        "import.unreadable", f"{path}: its pixels cannot be read ({why}); export it again"
    )
