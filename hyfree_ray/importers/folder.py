"""Plain folders of images and masks: one site, or a site a folder.

SOURCE/images/x.png   SOURCE/masks/x.png              one site
SOURCE/SITE/images/x.png   SOURCE/SITE/masks/x.png    several
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from hyfree_ray.cohorts.itk_images import Image, itk
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.importers.classes import Classes, labels_of
from hyfree_ray.importers.files import PICTURES, VOLUMES, files_in, image_in, stem
from hyfree_ray.importers.masks import MaskRule, codes_of, rule_for, rule_of_values, solid_in
from hyfree_ray.importers.pictures import (
    Picture,
    grey_of,
    in_one_position,
    read_picture,
    rgb_of,
    stored_as,
)
from hyfree_ray.importers.source import LeftOut, Source, SourceCase
from hyfree_ray.importers.volumes import read_label_values, read_one_volume

_MASK_SUFFIXES = ("", "_mask", "_label", "_seg", "_gt")


def folder(root: Path, classes: Classes | None = None) -> Source:
    """Import images and masks of equal names (a mask may end in _mask, _label, _seg or _gt).

    All masks are looked at before a rule is chosen for reading them. Every image counts as a
    patient: correct the column `patient` of sites.csv where that is wrong.

    Args:
        root: the folder.
        classes: what stands for each class in the masks, where that is not clear.

    Raises:
        HyfreeError: there are no images with masks, or they admit no single reading.
    """
    if not root.is_dir():
        raise HyfreeError(
            "import.not-found", f"{root}: no such folder; name the folder of images and masks"
        )
    cases, left_out = _cases(root)
    if not cases:
        raise HyfreeError(
            "import.nothing-found",
            f"{root}: no images with masks; give SOURCE/images and SOURCE/masks, or SITE/images and"
            " SITE/masks below SOURCE",
        )
    flat = [case for case in cases if _is_picture(case.images[0])]
    if 0 < len(flat) < len(cases):
        volume = next(case for case in cases if case not in flat)
        raise HyfreeError(
            "import.mixed-kinds",
            f"{flat[0].images[0]}: a picture, and {volume.images[0]} is a volume; import them"
            " apart",
        )
    other = next((c for c in cases for m in c.masks if _is_picture(m) != bool(flat)), None)
    if other is not None:
        raise HyfreeError(
            "import.mixed-kinds",
            f"{other.images[0]}: one of it and its mask is a picture, the other a volume;"
            " convert one",
        )
    notes = _renamed(cases)
    read = _pictures if flat else _volumes
    return read(root, cases, tuple(left_out), classes, notes)


def _is_picture(path: Path) -> bool:
    return path.name.casefold().endswith(PICTURES)


def _cases(root: Path) -> tuple[list[SourceCase], list[LeftOut]]:
    parts = [root] if _inside(root, "images") else sorted(p for p in root.iterdir() if p.is_dir())
    cases: list[SourceCase] = []
    left_out = []
    for part in parts:
        site = site_name(part.resolve().name)  # "." is a folder too
        masks, images, before = _by_stem(part), _files(part, "images"), len(cases)
        for image in images:
            found = _masks_of(stem(image), masks)
            if not found:
                left_out.append(LeftOut(path=image, why="no mask of that name in 'masks'"))
                continue
            name = case_name(stem(image) if len(parts) == 1 else f"{site}_{stem(image)}")
            cases.append(
                SourceCase(name=name, site=site, patient=name, images=(image,), masks=found)
            )
        if images and len(cases) == before and len(parts) > 1:
            raise HyfreeError(
                "import.no-masks",
                f"{part}: none of its {len(images)} images has a mask of its name in {part.name}/"
                "masks; name folder and masks so, or move the hospital elsewhere",
            )
        used = {mask for case in cases for mask in case.masks}
        left_out += [
            LeftOut(path=path, why="no image of that name in 'images'")
            for paths in masks.values()
            for path in paths
            if path not in used
        ]
    return cases, left_out


def _inside(part: Path, name: str) -> Path | None:
    """Return the folder of this name, in any case."""
    return next(
        (p for p in sorted(part.iterdir()) if p.name.casefold() == name and p.is_dir()), None
    )


def _files(part: Path, name: str) -> list[Path]:
    inside = _inside(part, name)
    return [] if inside is None else [image_in(p) for p in files_in(inside, (*PICTURES, *VOLUMES))]


def _by_stem(part: Path) -> dict[str, list[Path]]:
    masks: dict[str, list[Path]] = defaultdict(list)
    for path in _files(part, "masks"):
        masks[stem(path)].append(path)
    return masks


def _masks_of(name: str, masks: Mapping[str, Sequence[Path]]) -> tuple[Path, ...]:
    """Return an image's masks: one, or several numbered ones (x_mask, x_mask_1), of its objects."""
    for suffix in _MASK_SUFFIXES:
        found = list(masks.get(name + suffix, ()))
        if len(found) > 1:
            raise HyfreeError(
                "import.same-name",
                f"{found[0]}: {found[1].name} is a mask of the same image; keep one of them",
            )
        if suffix:
            numbered = re.compile(re.escape(name + suffix) + r"_\d+")
            found += [p for key in sorted(masks) if numbered.fullmatch(key) for p in masks[key]]
        if found:
            return tuple(found)
    return ()


def case_name(name: str) -> str:
    """Return a name that a file can have; letters of all scripts stay."""
    return re.sub(r"[^\w-]+", "_", unicodedata.normalize("NFC", name))


def site_name(name: str) -> str:
    """Return a name that a cohort accepts for a site: `St. Mary's` is `St. Marys`."""
    name = re.sub(r"['\u2018\u2019`´]", "", unicodedata.normalize("NFC", name))
    kept = re.sub(r"[^\w .-]+", "-", name)
    kept = re.sub(r"\.{2,}", ".", kept).strip(" ._-")
    return kept or "site"


def _renamed(cases: Sequence[SourceCase]) -> list[str]:
    folders = {case.site: case.images[0].parent.parent.resolve().name for case in cases}
    return [
        f"the folder {folder!a} is the site {site!a}: a site's name has letters, digits, '-', '_',"
        " '.' and spaces"
        for site, folder in sorted(folders.items())
        if unicodedata.normalize("NFC", folder) != site
    ]


# --- pictures -----------------------------------------------------------------------------------


def _pictures(
    root: Path,
    cases: Sequence[SourceCase],
    left_out: tuple[LeftOut, ...],
    classes: Classes | None,
    notes: list[str],
) -> Source:
    rgb, about_images = _look_at_images(cases)
    rule = rule_for((read_picture(mask) for case in cases for mask in case.masks), classes)

    def images_of(case: SourceCase) -> list[Image]:
        image = _upright(case)[0]
        pixels = rgb_of(image) if rgb else grey_of(image)
        return [itk.GetImageFromArray(np.ascontiguousarray(pixels), isVector=rgb)]

    return Source(
        name=root.resolve().name,
        root=root,
        channel_names=("R", "G", "B") if rgb else ("image",),
        labels=labels_of(rule.names),
        file_ending=".png",
        cases=cases,
        read_images=images_of,
        read_label=lambda case: itk.GetImageFromArray(_label_of(case, rule)),
        left_out=left_out,
        notes=(*notes, *about_images, rule.said),
        meanings=rule.meanings,
    )


def _upright(case: SourceCase) -> tuple[Picture, tuple[Picture, ...]]:
    """Read an image and its masks, turned alike."""
    image, masks = case.images[0], case.masks
    return _turned_alike(image, masks, sum(path.stat().st_mtime_ns for path in (image, *masks)))


@lru_cache(maxsize=1)
def _turned_alike(
    image: Path, masks: tuple[Path, ...], _written_ns: int
) -> tuple[Picture, tuple[Picture, ...]]:
    picture = read_picture(image)
    pairs = [in_one_position(picture, read_picture(mask)) for mask in masks]
    return pairs[0][0], tuple(mask for _, mask in pairs)


def _look_at_images(cases: Sequence[SourceCase]) -> tuple[bool, list[str]]:
    """Return whether the images are read as RGB, and what has to be said of them.

    Raises:
        HyfreeError: grey images of one site have 8 bits, and others 16.
    """
    kinds = {case.images[0]: stored_as(case.images[0]) for case in cases}
    colour = [path for path, kind in kinds.items() if kind.colour]
    grey = [path for path, kind in kinds.items() if not kind.colour]
    clear = [path for path, kind in kinds.items() if kind.alpha]
    notes = []
    if colour and grey:
        notes.append(
            f"{len(grey)} of {len(kinds)} images are grey (first {grey[0]}): all are read as RGB"
        )
    if clear:
        notes.append(f"{len(clear)} images have transparency (first {clear[0]}): it is dropped")
    if not colour:
        _refuse_other_bits(cases, {path: kind.bits for path, kind in kinds.items()})
    return bool(colour), notes


def _refuse_other_bits(cases: Sequence[SourceCase], bits: Mapping[Path, int]) -> None:
    first: dict[str, Path] = {}
    for case in cases:
        image = case.images[0]
        other = first.setdefault(case.site, image)
        if bits[image] != bits[other]:
            raise HyfreeError(
                "import.bits-differ",
                f"{image}: {bits[image]} bits a pixel, {other} has {bits[other]}: one scale cannot"
                " be right for both; save all images of a site alike",
            )


def _label_of(case: SourceCase, rule: MaskRule) -> np.ndarray:
    """Read an image's masks; where there are several, each is drawn over those before."""
    label_HW: np.ndarray | None = None
    for mask in _upright(case)[1]:
        found = rule.read(codes_of(mask, rule.kind))
        if label_HW is not None and found.shape != label_HW.shape:
            raise HyfreeError(
                "import.size-differs",
                f"{mask.path}: its size differs from other masks of the image",
            )
        label_HW = found if label_HW is None else np.where(found > 0, found, label_HW)
    assert label_HW is not None
    return label_HW


# --- volumes ------------------------------------------------------------------------------------


def _volumes(
    root: Path,
    cases: Sequence[SourceCase],
    left_out: tuple[LeftOut, ...],
    classes: Classes | None,
    notes: list[str],
) -> Source:
    counts: Counter[int] = Counter()
    solid: set[int] = set()
    for case in cases:
        for mask in case.masks:
            label_ZHW = read_label_values(mask)[0]
            solid |= solid_in(label_ZHW)
            values, numbers = np.unique(label_ZHW, return_counts=True)
            counts.update(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
    masks = [mask for case in cases for mask in case.masks]
    rule = rule_of_values(counts, solid, masks[0], len(masks), classes)

    def label_of(case: SourceCase) -> Image:
        label_ZHW: np.ndarray | None = None
        for mask in case.masks:
            values, image = read_label_values(mask)
            found = rule.read(values)
            if label_ZHW is not None and found.shape != label_ZHW.shape:
                raise HyfreeError(
                    "import.size-differs", f"{mask}: its size differs from other masks of the image"
                )
            label_ZHW = found if label_ZHW is None else np.where(found > 0, found, label_ZHW)
        written = itk.GetImageFromArray(label_ZHW)
        written.CopyInformation(image)
        return written

    return Source(
        name=root.resolve().name,
        root=root,
        channel_names=("image",),
        labels=labels_of(rule.names),
        file_ending=".nii.gz",
        cases=cases,
        read_images=lambda case: [read_one_volume(case.images[0])],
        read_label=label_of,
        left_out=left_out,
        notes=(*notes, rule.said),
        meanings=rule.meanings,
    )
