"""Files of a download: which there are, and which nobody means to be read."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from hyfree_ray.core.errors import HyfreeError

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
VOLUMES = (".nii.gz", ".nii", ".nrrd", ".mha")

_OF_SYSTEMS = ("thumbs.db", "desktop.ini", ".ds_store")


def every_file(root: Path) -> list[Path]:
    """Return all files below a folder, sorted; links to folders are not followed twice."""
    found, seen = [], set()
    for folder, names, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            names.clear()
            continue
        seen.add(real)
        names.sort()
        found += [Path(folder, name) for name in files]
    return sorted(found)


def why_ignored(path: Path) -> str:
    """Return why no importer reads a file, whatever is in it; empty if it is read."""
    if not path.is_file() and not path.is_dir():
        return "not a file (a broken link, a pipe or a device)"
    if path.name.startswith("._") or "__MACOSX" in path.parts:
        return "a resource fork of macOS"
    if path.name.casefold() in _OF_SYSTEMS:
        return "a file of the operating system"
    if path.name.startswith("."):
        return "a hidden file"
    if path.name.upper() == "DICOMDIR":
        return "an index of DICOM files"
    return ""


def stem(path: Path) -> str:
    """Return a file's name without its ending, `.nii.gz` included, in Unicode's composed form."""
    lower = path.name.casefold()
    name = path.name[: -len(".nii.gz")] if lower.endswith(".nii.gz") else path.stem
    return unicodedata.normalize("NFC", name)


def files_in(folder: Path, endings: Sequence[str] = PICTURES) -> list[Path]:
    """Return the images of a folder, sorted; empty if there is no such folder.

    A folder that is named as an image and holds a single one, as archives unpack them, is read as
    that image.
    """
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.name.casefold().endswith(tuple(endings)) and not why_ignored(path)
    )


def image_in(path: Path, endings: Sequence[str] = VOLUMES) -> Path:
    """Return the image of a path: itself, or the only one in a folder that is named as an image."""
    if not path.is_dir():
        return path
    held = files_in(path, endings)
    if len(held) != 1:
        raise HyfreeError(
            "import.unreadable",
            f"{path}: a folder named as an image that holds {len(held)} images; put one file there",
        )
    return held[0]


def folders_named(root: Path, *names: str) -> list[Path]:
    """Return folders below `root` (or itself) that have one of `names`, in any case, sorted.

    Raises:
        HyfreeError: there is no folder `root`.
    """
    if not root.is_dir():
        raise HyfreeError(
            "import.not-found", f"{root}: no such folder; name the folder of the download"
        )
    folded = {name.casefold() for name in names}
    found = [path for path in root.rglob("*") if path.is_dir() and "__MACOSX" not in path.parts]
    return sorted(path for path in (root, *found) if path.name.casefold() in folded)
