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

from hyfree_ray.cohorts.file_ends import detached_names
from hyfree_ray.cohorts.image_reading import (
    SIMPLEITK_IO,
    UNREADABLE,
    ImageFault,
    ReadImage,
    read_image_file,
)
from hyfree_ray.cohorts.png_structure import png_fault
from hyfree_ray.core.files import replacing

MAX_LABEL_VALUES = 256
CACHE_VERSION = 7

NOT_A_FILE = "not a file"
NO_PERMISSION = "no permission to read it"
ELSEWHERE = "its pixels lie elsewhere"
NOT_FINITE = "NaN or infinite pixels"


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """The facts about one file that checks need."""

    sha256: str
    """Hash of the file's bytes, and of its pixels if they lie in another file."""
    shape: tuple[int, ...] = ()
    """(height, width) in pixels, or (slices, height, width) of a volume."""
    spacing: tuple[float, ...] = ()
    """In mm, in the order of `shape`; empty for formats that nnU-Net reads without spacing."""
    place: tuple[float, ...] = ()
    """Origin and directions of the grid; empty for formats without spacing."""
    channels: int = 0
    fault: str = ""
    """Why the file is unusable, one of the kinds in `file_checks`."""
    why: str = ""
    """What is known of the fault."""
    said: tuple[str, ...] = ()
    """What a reader warned of."""
    detached: bool = False
    """Whether the pixels lie in another file, whose change the header's time does not show."""
    content: str = ""
    """sha256 of an image's pixels: equal for copies with different compression."""
    bits: int = 0
    """Of an integer pixel; 0 for floats."""
    mean: float = 0.0
    sd: float = 0.0
    """Standard deviation of an image's intensities."""
    values: tuple[int, ...] | None = None
    """The distinct values of a label; None if they are not whole numbers, and for an image."""
    counts: tuple[int, ...] = ()
    """Number of pixels with each of `values`."""


def inspect_file(
    path: Path, ending: str, *, is_label: bool, reader: str = SIMPLEITK_IO
) -> FileFacts:
    """Read the header, then (unless it claims too much) the pixels, of one file.

    Args:
        path: the file.
        ending: its ending, which says its format.
        is_label: whether its values are classes.
        reader: nnU-Net's reader of the data set.
    """
    whole = path.read_bytes()
    facts = FileFacts(sha256=hashlib.sha256(whole).hexdigest())
    if hidden := png_fault(whole) if ending == ".png" else "":
        return replace(facts, fault=hidden)
    names = detached_names(whole, ending)
    if any(Path(name).name != name for name in names):
        return replace(facts, fault=ELSEWHERE)
    try:
        image = read_image_file(path, ending, reader, whole)
    except ImageFault as fault:
        return replace(facts, fault=fault.fault, why=fault.why, detached=bool(names))
    facts = _described(facts, image)
    if names:
        pixels = hashlib.sha256(np.ascontiguousarray(image.pixels).data).hexdigest()
        both = hashlib.sha256(f"{facts.sha256} {pixels}".encode()).hexdigest()
        facts = replace(facts, sha256=both, detached=True)
    if len(facts.shape) not in (2, 3):
        return facts
    return _of_pixels(facts, path, ending, image.pixels, is_label=is_label)


def _described(facts: FileFacts, image: ReadImage) -> FileFacts:
    return replace(
        facts,
        shape=image.shape,
        spacing=image.spacing,
        place=image.place,
        channels=image.channels,
        said=image.said,
    )


def _of_pixels(
    facts: FileFacts, path: Path, ending: str, pixels: np.ndarray, *, is_label: bool
) -> FileFacts:
    if pixels.dtype.kind == "f" and not all_finite(path, ending, pixels):
        return replace(facts, fault=NOT_FINITE)
    if is_label:
        values, counts = _whole_values(pixels)
        return replace(facts, values=values, counts=counts)
    content = hashlib.sha256(f"{facts.shape} {pixels.dtype}".encode())
    content.update(np.ascontiguousarray(pixels).data)
    return replace(
        facts,
        content=content.hexdigest(),
        bits=8 * pixels.dtype.itemsize if pixels.dtype.kind in "iu" else 0,
        mean=float(pixels.mean(dtype=np.float64)),
        sd=float(pixels.std(dtype=np.float64)),
    )


def all_finite(path: Path, ending: str, pixels: np.ndarray) -> bool:
    """Return whether no value is NaN or infinite, in nnU-Net's float32 either.

    Args:
        path: the file.
        ending: its ending.
        pixels: floats that were read from it: SimpleITK reads a NIfTI's NaN and infinity as 0.
    """
    if ending.startswith(".nii"):
        nibabel: Any = nib  # it carries no types
        pixels = np.asarray(nibabel.load(path).dataobj)
    if pixels.dtype.kind == "f" and pixels.dtype.itemsize > 4:
        return bool((np.abs(pixels) <= float(np.finfo(np.float32).max)).all())
    return bool(np.isfinite(pixels).all())


def _whole_values(pixels: np.ndarray) -> tuple[tuple[int, ...] | None, tuple[int, ...]]:
    """Return sorted distinct values, the first ones, and the number of pixels with each."""
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8)  # a view of them would be 255 in places
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
    reader: str = SIMPLEITK_IO,
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
        reader: nnU-Net's reader of the data set.
        report: called with (files done, files in all).
    """
    known = _load_cache(cache)
    before: Mapping[str, Any] = known.get(str(root.resolve()), {})
    after: dict[str, list[Any]] = {}
    facts: dict[str, FileFacts] = {}
    for path, is_label in [(path, False) for path in images] + [(path, True) for path in labels]:
        status = _status_of(root / path)
        if status is None:
            facts[path] = FileFacts(sha256="", fault=NOT_A_FILE)
        else:
            stamp = [status.st_size, status.st_mtime_ns, ending, is_label, reader]
            found = _restore(before.get(path), stamp)
            facts[path] = found or _inspect(root / path, ending, is_label, reader)
            if facts[path].sha256 and not facts[path].detached:
                after[path] = [stamp, asdict(facts[path])]
        report(len(facts), len(images) + len(labels))
    if cache is not None and json.loads(json.dumps(after)) != before:
        cache.parent.mkdir(parents=True, exist_ok=True)
        content = {"version": CACHE_VERSION, "roots": {**known, str(root.resolve()): after}}
        with replacing(cache) as file:
            file.write(json.dumps(content).encode())
    return facts


def _inspect(path: Path, ending: str, is_label: bool, reader: str) -> FileFacts:
    """Call `inspect_file`; without a hash, and so never cached, if the file cannot be opened.

    Permission to read it can be given without changing its size or time.
    """
    try:
        return inspect_file(path, ending, is_label=is_label, reader=reader)
    except PermissionError:
        return FileFacts(sha256="", fault=NO_PERMISSION)
    except OSError as error:
        return FileFacts(sha256="", fault=UNREADABLE, why=error.strerror or "")


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
