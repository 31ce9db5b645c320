"""Plain folders of images and masks: one site, or a site a folder.

SOURCE/images/x.png   SOURCE/masks/x.png              one site
SOURCE/SITE/images/x.png   SOURCE/SITE/masks/x.png    several
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.importers.raw_set import (
    PICTURES,
    VOLUMES,
    Source,
    SourceCase,
    colour,
    files_in,
    foreground_of,
    grey_as_it_is,
    itk,
    pixels_of,
    read,
    stem,
)

_MASK_SUFFIXES = ("", "_mask", "_label", "_seg", "_gt")


def folder(root: Path) -> Source:
    """Import images and masks of equal names (a mask may end in _mask, _label, _seg or _gt).

    Masks of 2D images are read as foreground and background; those of volumes keep their values.
    Every image counts as a patient: correct the column `patient` of sites.csv where that is wrong.
    """
    if not root.is_dir():
        raise HyfreeError(
            "import.not-found", f"{root}: no such folder; name the folder of images and masks"
        )
    parts = [root] if (root / "images").is_dir() else sorted(p for p in root.iterdir())
    cases, left_out = [], []
    for part in parts:
        site = part.resolve().name  # "." is a folder too
        masks = {stem(path): path for path in files_in(part / "masks", (*PICTURES, *VOLUMES))}
        for image in files_in(part / "images", (*PICTURES, *VOLUMES)):
            names = [stem(image) + suffix for suffix in _MASK_SUFFIXES]
            mask = next((masks[name] for name in names if name in masks), None)
            if mask is None:
                left_out.append(f"{image}: no mask of that name in 'masks'")
                continue
            name = stem(image) if len(parts) == 1 else f"{site}_{stem(image)}"
            name = re.sub(r"[^A-Za-z0-9-]+", "_", name)
            cases.append(
                SourceCase(name=name, site=site, patient=name, images=(image,), masks=(mask,))
            )
    if not cases:
        raise HyfreeError(
            "import.nothing-found",
            f"{root}: no images with masks; give SOURCE/images and SOURCE/masks, or SITE/images and"
            " SITE/masks below SOURCE",
        )
    first = cases[0].images[0]
    if first.name.lower().endswith(PICTURES):
        return _pictures(root, cases, left_out, rgb=pixels_of(first).ndim == 3)
    return _volumes(root, cases, left_out)


def _pictures(root: Path, cases: list[SourceCase], left_out: list[str], *, rgb: bool) -> Source:
    return Source(
        name=root.resolve().name,
        channel_names=("R", "G", "B") if rgb else ("image",),
        labels={"background": 0, "foreground": 1},
        file_ending=".png",
        cases=cases,
        read_images=lambda case: [(colour if rgb else grey_as_it_is)(case.images[0])],
        read_label=lambda case: foreground_of(case.masks),
        left_out=tuple(left_out),
    )


def _volumes(root: Path, cases: list[SourceCase], left_out: list[str]) -> Source:
    highest = max(int(_classes(case.masks[0])[0].max()) for case in cases)
    return Source(
        name=root.resolve().name,
        channel_names=("image",),
        labels={"background": 0, **{f"label {value}": value for value in range(1, highest + 1)}},
        file_ending=".nii.gz",
        cases=cases,
        read_images=lambda case: [read(case.images[0])],
        read_label=lambda case: _label(case.masks[0]),
        left_out=tuple(left_out),
    )


def _classes(path: Path) -> tuple[np.ndarray, Any]:
    image = read(path)
    values: np.ndarray = itk.GetArrayFromImage(image)
    if (values != np.round(values)).any() or values.min() < 0 or values.max() > 255:
        raise HyfreeError(
            "import.bad-labels",
            f"{path}: label values are not whole numbers from 0 to 255; correct them",
        )
    return values.astype(np.uint8), image


def _label(path: Path) -> Any:
    values, image = _classes(path)
    label = itk.GetImageFromArray(values)
    label.CopyInformation(image)
    return label
