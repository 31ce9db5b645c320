"""The result of an importer, and its writing as an nnU-Net raw data set with `sites.csv`."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.folders import check_free, filling

itk: Any = sitk  # SimpleITK has no type annotations

Image = Any
"""A `SimpleITK.Image`."""


@dataclass(frozen=True, kw_only=True)
class SourceCase:
    """One case of a download."""

    name: str
    site: str
    patient: str
    images: tuple[Path, ...]
    """One per channel, or one with all channels."""
    masks: tuple[Path, ...] = ()
    """Joined if there are several; none: the labels have yet to be drawn."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Further columns for `sites.csv`."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A download as it will be written."""

    name: str
    channel_names: tuple[str, ...]
    labels: Mapping[str, Any]
    file_ending: str
    cases: Sequence[SourceCase]
    read_images: Callable[[SourceCase], list[Image]]
    """Returns the files to write: one per channel, or one that holds all channels."""
    read_label: Callable[[SourceCase], Image]
    regions_class_order: tuple[int, ...] = ()
    left_out: tuple[str, ...] = ()
    """Files that cannot be used, a line each."""


def write_raw_set(
    source: Source, out: Path, report: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Write `imagesTr`, `labelsTr`, `dataset.json` and `sites.csv`; all of it or nothing.

    Args:
        source: the data set to write.
        out: a folder that does not exist yet, or is empty.
        report: called with (cases done, cases in all).

    Raises:
        HyfreeError: `out` is taken, nothing was found, or a file cannot be read.
    """
    check_free(out, "OUT")
    if not source.cases:
        raise HyfreeError(
            "import.nothing-found",
            f"{source.name}: no cases found; see 'hyfree-ray import --help'",
        )
    _refuse_equal_names(source)
    with filling(out, "OUT") as partial:
        for folder in ("imagesTr", "labelsTr"):
            (partial / folder).mkdir(parents=True)
        for done, case in enumerate(source.cases, start=1):
            _write_case(source, case, partial)
            report(done, len(source.cases))
        _write_tables(source, partial)


def _refuse_equal_names(source: Source) -> None:
    first: dict[str, SourceCase] = {}
    for case in source.cases:
        other = first.setdefault(case.name, case)
        if other is not case:
            raise HyfreeError(
                "import.same-name",
                f"{case.images[0]}: would be named {case.name}, like {other.images[0]}; rename one",
            )


def _write_case(source: Source, case: SourceCase, out: Path) -> None:
    ending = source.file_ending
    images = source.read_images(case)
    for channel, image in enumerate(images):
        itk.WriteImage(image, str(out / "imagesTr" / f"{case.name}_{channel:04d}{ending}"))
    if case.masks:
        label = source.read_label(case)
        if label.GetSize() != images[0].GetSize():
            raise HyfreeError(
                "import.size-differs",
                f"{case.masks[0]}: size {label.GetSize()} differs from {images[0].GetSize()} of"
                f" {case.images[0]}; remove the case or correct it",
            )
        itk.WriteImage(label, str(out / "labelsTr" / f"{case.name}{ending}"))


def _write_tables(source: Source, out: Path) -> None:
    dataset: dict[str, Any] = {
        "name": source.name,
        "channel_names": {str(k): name for k, name in enumerate(source.channel_names)},
        "labels": dict(source.labels),
        "numTraining": len(source.cases),
        "file_ending": source.file_ending,
    }
    if source.regions_class_order:
        dataset["regions_class_order"] = list(source.regions_class_order)
    (out / "dataset.json").write_text(json.dumps(dataset, indent=1) + "\n")
    further = sorted({name for case in source.cases for name in case.columns})
    with (out / "sites.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["case", "site", "patient", *further])
        for case in sorted(source.cases, key=lambda case: case.name):
            cells = (case.columns.get(name, "") for name in further)
            table.writerow([case.name, case.site, case.patient, *cells])


# --- reading ------------------------------------------------------------------------------------


def read(path: Path) -> Image:
    """Read any image that SimpleITK knows.

    Raises:
        HyfreeError: it cannot be read.
    """
    try:
        return itk.ReadImage(str(path))
    except RuntimeError:
        raise HyfreeError(
            "import.unreadable", f"{path}: cannot be read as an image; download it again"
        ) from None


def grey(path: Path) -> Image:
    """Read a 2D image as one channel of 8 bits; of a grey image in colour, its first channel."""
    return itk.GetImageFromArray(_one_channel(_eight_bits(pixels_of(path))))


def grey_as_it_is(path: Path) -> Image:
    """Read a 2D image as one channel, of 16 bits if it has them."""
    return itk.GetImageFromArray(_one_channel(pixels_of(path)))


def colour(path: Path) -> Image:
    """Read a 2D image as RGB of 8 bits."""
    pixels = _eight_bits(pixels_of(path))
    rgb = np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels[..., :3]
    return itk.GetImageFromArray(np.ascontiguousarray(rgb), isVector=True)


def foreground_of(paths: Iterable[Path]) -> Image:
    """Join 2D masks into one label: 1 where any is bright (JPEG leaves values between)."""
    masks = [_one_channel(pixels_of(path)) for path in paths]
    return itk.GetImageFromArray(np.any([_bright(mask) for mask in masks], axis=0).astype(np.uint8))


def _bright(mask_HW: np.ndarray) -> np.ndarray:
    """Return where a mask is above the middle of the bits it uses; values 0 and 1 are taken as they
    are."""
    highest = int(mask_HW.max())
    return mask_HW > (0 if highest <= 1 else 127 if highest <= 255 else highest // 2)


def _one_channel(pixels: np.ndarray) -> np.ndarray:
    return pixels if pixels.ndim == 2 else pixels[..., 0].copy()


def _eight_bits(pixels: np.ndarray) -> np.ndarray:
    return (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels


def pixels_of(path: Path) -> np.ndarray:
    """Read a 2D image's pixels, uint8 or uint16: (H, W), or (H, W, channels)."""
    pixels: np.ndarray = itk.GetArrayFromImage(read(path))
    if pixels.ndim not in (2, 3) or pixels.dtype not in (np.uint8, np.uint16):
        raise HyfreeError(
            "import.unreadable", f"{path}: not a 2D image of 8 or 16 bits; convert it"
        )
    return pixels


# --- finding ------------------------------------------------------------------------------------

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
VOLUMES = (".nii.gz", ".nii", ".nrrd", ".mha")


def stem(path: Path) -> str:
    """Return a file's name without its ending, `.nii.gz` included."""
    return path.name[: -len(".nii.gz")] if path.name.endswith(".nii.gz") else path.stem


def files_in(folder: Path, endings: Sequence[str] = PICTURES) -> list[Path]:
    """Return the images of a folder, sorted; empty if there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.name.lower().endswith(tuple(endings)) and path.name[0] != "."
    )


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
    found = [path for path in root.rglob("*") if path.is_dir()]
    return sorted(path for path in (root, *found) if path.name.casefold() in folded)


def one_folder(root: Path, *names: str) -> Path | None:
    """Return the first of `folders_named`."""
    found = folders_named(root, *names)
    return found[0] if found else None
