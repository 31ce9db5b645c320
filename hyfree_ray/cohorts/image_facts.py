"""The facts about image files that the checks of a cohort need, cached by size and time.

A second reading of a cohort thus opens no image, and a check is a function of facts alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from hyfree_ray.cohorts.png_structure import png_fault
from hyfree_ray.core.files import replacing

MAX_PIXELS = 1 << 26
MAX_VOXELS = 1 << 30
"""A header with more pixels per slice, or voxels, is refused before memory is allocated."""
MAX_LABEL_VALUES = 256
CACHE_VERSION = 4

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


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """The facts about one file that checks need."""

    sha256: str
    """Hash of the file's bytes."""
    shape: tuple[int, ...] = ()
    """(height, width) in pixels, or (slices, height, width) of a volume."""
    spacing: tuple[float, ...] = ()
    """In mm, in the order of `shape`; empty for formats that nnU-Net reads without spacing."""
    place: tuple[float, ...] = ()
    """Origin and directions of the grid; empty for formats without spacing."""
    channels: int = 0
    fault: str = ""
    """Why the file is unusable: `unreadable`, `too large`, `NaN or infinite pixels`, or one of
    `png_structure.png_fault`."""
    content: str = ""
    """sha256 of an image's pixels: equal for copies with different compression."""
    mean: float = 0.0
    sd: float = 0.0
    """Standard deviation of an image's intensities."""
    values: tuple[int, ...] | None = None
    """The distinct values of a label; None if they are not whole numbers, and for an image."""
    counts: tuple[int, ...] = ()
    """Number of pixels with each of `values`."""


def inspect_file(path: Path, ending: str, *, is_label: bool) -> FileFacts:
    """Read the header, then (unless it claims too much) the pixels, of one file."""
    whole = path.read_bytes()
    sha256 = hashlib.sha256(whole).hexdigest()
    hidden = png_fault(whole) if ending == ".png" else ""
    if hidden:
        return FileFacts(sha256=sha256, fault=hidden)
    itk: Any = sitk  # it carries no types
    reader = itk.ImageFileReader()
    reader.SetImageIO(READERS[ending])
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        facts = _header(reader, sha256, ending)
        voxels = int(np.prod(facts.shape, dtype=object))
        if voxels > MAX_VOXELS or int(np.prod(facts.shape[-2:], dtype=object)) > MAX_PIXELS:
            return replace(facts, fault="too large")
        if len(facts.shape) not in (2, 3):
            return facts
        pixels: np.ndarray = itk.GetArrayFromImage(reader.Execute())
    except (RuntimeError, MemoryError):
        return FileFacts(sha256=sha256, fault="unreadable")
    if ending == ".bmp" and _is_grey_bmp(whole, pixels):
        pixels, facts = pixels[..., 0], replace(facts, channels=1)
    if pixels.dtype.kind == "f" and not np.isfinite(_floats(path, ending, pixels)).all():
        return replace(facts, fault="NaN or infinite pixels")
    if is_label:
        values, counts = _whole_values(pixels)
        return replace(facts, values=values, counts=counts)
    content = hashlib.sha256(f"{facts.shape} {pixels.dtype}".encode())
    content.update(np.ascontiguousarray(pixels).data)
    return replace(
        facts,
        content=content.hexdigest(),
        mean=float(pixels.mean(dtype=np.float64)),
        sd=float(pixels.std(dtype=np.float64)),
    )


def _header(reader: Any, sha256: str, ending: str) -> FileFacts:
    size = tuple(int(length) for length in reader.GetSize())
    if len(size) > 2 and all(length == 1 for length in size[2:]):
        size = size[:2]  # one slice stored as a volume: nnU-Net treats it as 2D too
    spacing = tuple(abs(float(step)) for step in reader.GetSpacing()[: len(size)])[::-1]
    natural = ending in NATURAL_ENDINGS
    place = (*reader.GetOrigin(), *reader.GetDirection())
    return FileFacts(
        sha256=sha256,
        shape=size[::-1],
        spacing=() if natural else spacing,
        place=() if natural else tuple(float(number) for number in place),
        channels=int(reader.GetNumberOfComponents()),
    )


def _is_grey_bmp(whole: bytes, pixels: np.ndarray) -> bool:
    """Return whether nnU-Net reads a BMP as grey: 8 bits a pixel at most, and a grey palette.

    SimpleITK gives each pixel its palette's colour.
    """
    bits = int.from_bytes(whole[28:30], "little")
    return bits <= 8 and pixels.ndim == 3 and bool((pixels == pixels[..., :1]).all())


def _floats(path: Path, ending: str, pixels: np.ndarray) -> np.ndarray:
    """Return the floats stored in the file: SimpleITK reads a NIfTI's NaN and infinity as 0."""
    if not ending.startswith(".nii"):
        return pixels
    nibabel: Any = nib  # it carries no types
    return np.asarray(nibabel.load(path).dataobj)


def _whole_values(pixels: np.ndarray) -> tuple[tuple[int, ...] | None, tuple[int, ...]]:
    """Return sorted distinct values, the first ones, and the number of pixels with each."""
    if pixels.dtype.kind in "iu" and pixels.min() >= 0 and pixels.max() < 1 << 16:
        counts = np.bincount(pixels.ravel())  # much faster than sorting a volume
        values = np.flatnonzero(counts)
        counts = counts[values]
    else:
        values, counts = np.unique(pixels, return_counts=True)
        if (values != np.round(values)).any():
            return None, ()
    first = slice(MAX_LABEL_VALUES)
    return tuple(int(value) for value in values[first]), tuple(int(n) for n in counts[first])


def gather_facts(
    root: Path,
    ending: str,
    *,
    images: Sequence[str],
    labels: Sequence[str],
    cache: Path | None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, FileFacts]:
    """Gather facts of all files (paths relative to `root`), cached while size and time are the
    same.

    Args:
        root: the data set's folder.
        ending: file ending of all its files.
        images: the image files.
        labels: the label files.
        cache: JSON file; None: no cache.
        report: called with (files done, files in all).
    """
    known = _load_cache(cache)
    before: Mapping[str, Any] = known.get(str(root.resolve()), {})
    after: dict[str, list[Any]] = {}
    facts: dict[str, FileFacts] = {}
    for path, is_label in [(path, False) for path in images] + [(path, True) for path in labels]:
        status = _status_of(root / path)
        if status is None:
            facts[path] = FileFacts(sha256="", fault="not a file")
        else:
            stamp = [status.st_size, status.st_mtime_ns, ending, is_label]
            found = _restore(before.get(path), stamp)
            facts[path] = found or _inspect(root / path, ending, is_label=is_label)
            if facts[path].sha256:
                after[path] = [stamp, asdict(facts[path])]
        report(len(facts), len(images) + len(labels))
    if cache is not None and json.loads(json.dumps(after)) != before:
        cache.parent.mkdir(parents=True, exist_ok=True)
        content = {"version": CACHE_VERSION, "roots": {**known, str(root.resolve()): after}}
        with replacing(cache) as file:
            file.write(json.dumps(content).encode())
    return facts


def _inspect(path: Path, ending: str, *, is_label: bool) -> FileFacts:
    """Call `inspect_file`; without a hash, and so never cached, if the file cannot be opened.

    Permission to read it can be given without changing its size or time.
    """
    try:
        return inspect_file(path, ending, is_label=is_label)
    except OSError:
        return FileFacts(sha256="", fault="unreadable")


def _status_of(path: Path) -> os.stat_result | None:
    """Return a file's status; None for a folder, a pipe or a broken link."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def _restore(entry: Any, stamp: list[Any]) -> FileFacts | None:
    if not (isinstance(entry, list) and len(entry) == 2 and entry[0] == stamp):
        return None
    # JSON has no tuples.
    fields: Any = {key: tuple(v) if isinstance(v, list) else v for key, v in entry[1].items()}
    return FileFacts(**fields)


def _load_cache(path: Path | None) -> dict[str, Any]:
    """Return entries by root folder. An unusable cache costs only time."""
    if path is None or not path.is_file():
        return {}
    try:
        parsed = json.loads(path.read_text())
        return dict(parsed["roots"]) if parsed["version"] == CACHE_VERSION else {}
    except (ValueError, KeyError, TypeError):
        return {}
