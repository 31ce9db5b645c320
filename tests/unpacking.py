"""What bytes hold, whatever they are wrapped in: all their layers, and every image that is in them.

Shapes: H height, W width, C colours; an array's other axes are its own.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator

import nibabel as nib
import numpy as np
import pyarrow as pa
import safetensors.numpy
from PIL import Image

_DEEPEST = 4
_GZIP, _ZIP, _NPY, _ARROW = b"\x1f\x8b", b"PK\x03\x04", b"\x93NUMPY", b"ARROW1"
_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"II*\x00", b"MM\x00*")
_NIFTI = (b"n+1\x00", b"n+2\x00")


def layers(content: bytes, depth: int = 0) -> Iterator[bytes]:
    """The bytes themselves, and what is left of them when gzip and zip are taken off."""
    yield content
    if depth == _DEEPEST:
        return
    if content.startswith(_GZIP):
        with contextlib.suppress(OSError, EOFError, zlib.error):
            yield from layers(gzip.decompress(content), depth + 1)
    elif content.startswith(_ZIP):
        with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(io.BytesIO(content)) as file:
            for name in file.namelist():
                yield from layers(file.read(name), depth + 1)


def arrays(content: bytes) -> Iterator[np.ndarray]:
    """The arrays of one layer: Arrow, npy, safetensors or NIfTI (npz is a zip of npy)."""
    if content.startswith(_ARROW):
        with pa.ipc.open_file(io.BytesIO(content)) as reader:
            table = reader.read_all().combine_chunks()
        for column in table.columns:
            if isinstance(column.type, pa.FixedShapeTensorType):
                for chunk in column.chunks:
                    yield chunk.to_numpy_ndarray()
    elif content.startswith(_NPY):
        yield np.load(io.BytesIO(content), allow_pickle=False)
    elif content[344:348] in _NIFTI or content[4:8] in _NIFTI:
        kind = nib.Nifti1Image if content[344:348] in _NIFTI else nib.Nifti2Image
        yield np.asanyarray(kind.from_bytes(content).dataobj)
    elif content[8:9] == b"{":
        with contextlib.suppress(safetensors.SafetensorError):
            yield from safetensors.numpy.load(content).values()


def picture(content: bytes) -> np.ndarray | None:
    """picture_HWC of a PNG, JPEG or TIFF, as floats; None of anything else."""
    if not content.startswith(_PICTURES):
        return None
    with Image.open(io.BytesIO(content)) as image:
        shown = image if image.mode.startswith("I") else image.convert("RGB")
        return np.atleast_3d(np.asarray(shown, float))


def planes(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """planes_KHW: all that an array holds of H by W pixels, in whichever order its axes are."""
    height, width = size
    found = [np.empty((0, height, width))]
    if array.dtype.kind not in "biuf":
        return found[0]
    if array.ndim and array.shape[-1] == height * width:
        found.append(array.reshape(-1, height, width))
    for i in range(array.ndim):
        for j in range(array.ndim):
            if i != j and (array.shape[i], array.shape[j]) == size:
                found.append(np.moveaxis(array, (i, j), (-2, -1)).reshape(-1, height, width))
    return np.concatenate(found).astype(float)


def cells(picture_HWC: np.ndarray) -> Iterator[np.ndarray]:
    """The picture, and the parts of it between rows and columns of the background's colour."""
    yield picture_HWC
    ink_HW = (picture_HWC < 0.98 * picture_HWC.max()).any(axis=2)
    for axis in (0, 1):
        filled = np.flatnonzero(ink_HW.any(axis=1 - axis))
        runs = np.split(filled, np.flatnonzero(np.diff(filled) > 1) + 1)
        if filled.size and (len(runs) > 1 or len(filled) < ink_HW.shape[axis]):
            for run in runs:
                if len(run) >= 8:
                    kept = [slice(None), slice(None)]
                    kept[axis] = slice(run[0], run[-1] + 1)
                    yield from cells(picture_HWC[tuple(kept)])
            return
