"""Polyps in colonoscopy, two hospitals: HyperKvasir's segmented images and CVC-ClinicDB.

segmented-images/{images,masks}/*.jpg             HyperKvasir (Borgli et al. 2020), Kvasir-SEG
CVC-ClinicDB/[PNG/]{Original,Ground Truth}/1.png  CVC-ClinicDB (Bernal et al. 2015), or .tif
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.importers.files import files_in, folders_named, stem
from hyfree_ray.importers.source import LeftOut, Source, SourceCase
from hyfree_ray.importers.two_classes import read_black_and_white, read_colour

CVC_LAST_FRAMES = (
    25, 50, 67, 78, 103, 126, 151, 177, 199, 205, 227, 252, 277, 297, 317, 342, 363, 383, 408, 428,
    447, 466, 478, 503, 528, 546, 571, 591, 612,
)  # fmt: skip
"""Last frame of each of CVC-ClinicDB's 29 sequences: frames of one sequence are near copies."""


_KVASIR_FILE = re.compile(r"c[jkl][a-z0-9]+|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""Names of Kvasir-SEG's and HyperKvasir's files, for folders that do not name their set."""

_PAIRS = {"original": "ground truth", "images": "masks", "image": "masks"}


def polyp(root: Path) -> Source:
    """Import two sites, Kvasir and CVC, if both are below `root`; one if only one is.

    A sequence counts as a patient at CVC. HyperKvasir does not publish which images show one
    patient: each image counts as one.

    Raises:
        HyfreeError: neither is there, or another set is, whose patients are not known.
    """
    cases, left_out = [], []
    seen: dict[str, Path] = {}
    for images, masks in _folders(root):
        files = files_in(images)
        named = _set_named(root, images)
        cvc = _is_cvc(named, images, files)
        if not cvc and not _is_kvasir(named, files):
            raise HyfreeError(
                "import.unknown-set",
                f"{images}: of a set that is neither HyperKvasir, Kvasir-SEG nor CVC-ClinicDB:"
                " who its patients are is not known; move it away, or use 'import folder'",
            )
        for image in files:
            why = _why_left_out(image, masks, cvc=cvc)
            case = None if why else _case(image, masks[stem(image)], cvc=cvc)
            if case and (first := seen.setdefault(case.name, image)) != image:
                # CVC is distributed twice, as PNG and as TIF: the PNG are first in the alphabet.
                case, why = None, f"its image is taken from {first}"
            if case is None:
                left_out.append(LeftOut(path=image, why=why))
            else:
                cases.append(case)
    if not cases:
        raise HyfreeError(
            "import.nothing-found",
            f"{root}: neither images and masks of HyperKvasir nor Original and Ground Truth of"
            " CVC-ClinicDB are below it; name the folder that holds both downloads",
        )
    return Source(
        name="Polyp",
        root=root,
        channel_names=("R", "G", "B"),
        labels={"background": 0, "polyp": 1},
        file_ending=".png",
        cases=sorted(cases, key=lambda case: (case.site != "Kvasir", case.name)),
        read_images=read_colour,
        read_label=read_black_and_white,
        left_out=tuple(left_out),
    )


def _folders(root: Path) -> Iterator[tuple[Path, dict[str, Path]]]:
    """Yield each folder of images with the masks beside it, by name."""
    for images in folders_named(root, *_PAIRS):
        wanted = _PAIRS[images.name.casefold()]
        names = (wanted, "mask") if wanted == "masks" else (wanted,)
        beside = [p for p in sorted(images.parent.iterdir()) if p.name.casefold() in names]
        if beside and files_in(images):
            yield images, {stem(path): path for path in files_in(beside[0])}


def _set_named(root: Path, images: Path) -> str:
    """Return what the folders of a download call their set: the name that is nearest to it."""
    above = (root.resolve().name, *images.relative_to(root).parts[:-1])
    for name in (part.casefold() for part in reversed(above)):
        if "kvasir" in name or name == "segmented-images":
            return "kvasir"
        if "cvc" in name or "clinicdb" in name:
            return "cvc" if "clinic" in name else "other"
        if "etis" in name or "colondb" in name or "endoscene" in name:
            return "other"
    return ""


def _is_cvc(named: str, images: Path, files: list[Path]) -> bool:
    """Return whether images are frames of CVC-ClinicDB, whose names are their numbers."""
    if named == "cvc":
        return True
    numbered = all(f.stem.isdigit() and 1 <= int(f.stem) <= CVC_LAST_FRAMES[-1] for f in files)
    return named == "" and images.name.casefold() == "original" and numbered


def _is_kvasir(named: str, files: list[Path]) -> bool:
    return named == "kvasir" or (
        named == "" and all(_KVASIR_FILE.fullmatch(stem(file)) for file in files)
    )


def _why_left_out(image: Path, masks: dict[str, Path], *, cvc: bool) -> str:
    if stem(image) not in masks:
        return "no mask of that name beside it"
    if cvc and not (image.stem.isdigit() and 1 <= int(image.stem) <= CVC_LAST_FRAMES[-1]):
        return "its name is not the number of a frame of CVC-ClinicDB"
    return ""


def _case(image: Path, mask: Path, *, cvc: bool) -> SourceCase:
    name, site = f"kvasir_{stem(image)}", "Kvasir"
    patient = name
    if cvc:
        name, site = f"cvc_{int(image.stem):04d}", "CVC"
        patient = f"cvc_sequence{bisect_left(CVC_LAST_FRAMES, int(image.stem)) + 1:02d}"
    return SourceCase(name=name, site=site, patient=patient, images=(image,), masks=(mask,))
