"""Polyps in colonoscopy, two hospitals: HyperKvasir's segmented images and CVC-ClinicDB.

segmented-images/{images,masks}/*.jpg             HyperKvasir (Borgli et al. 2020), Kvasir-SEG
CVC-ClinicDB/[PNG/]{Original,Ground Truth}/1.png  CVC-ClinicDB (Bernal et al. 2015), or .tif
"""

from __future__ import annotations

from bisect import bisect_left
from pathlib import Path

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.importers.raw_set import (
    Source,
    SourceCase,
    colour,
    files_in,
    folders_named,
    foreground_of,
)

CVC_LAST_FRAMES = (
    25, 50, 67, 78, 103, 126, 151, 177, 199, 205, 227, 252, 277, 297, 317, 342, 363, 383, 408, 428,
    447, 466, 478, 503, 528, 546, 571, 591, 612,
)  # fmt: skip
"""Last frame of each of CVC-ClinicDB's 29 sequences: frames of one sequence are near copies."""


def polyp(root: Path) -> Source:
    """Import two sites, Kvasir and CVC, if both are below `root`; one if only one is.

    A sequence counts as a patient at CVC. HyperKvasir does not publish which images show one
    patient: each image counts as one.
    """
    kvasir, unmasked = _kvasir(root)
    cvc, unmasked_frames = _cvc(root)
    cases = [*kvasir, *cvc]
    if not cases:
        raise HyfreeError(
            "import.nothing-found",
            f"{root}: neither images and masks of HyperKvasir nor Original and Ground Truth of"
            " CVC-ClinicDB are below it; name the folder that holds both downloads",
        )
    return Source(
        name="Polyp",
        channel_names=("R", "G", "B"),
        labels={"background": 0, "polyp": 1},
        file_ending=".png",
        cases=cases,
        read_images=lambda case: [colour(case.images[0])],
        read_label=lambda case: foreground_of(case.masks),
        left_out=(*unmasked, *unmasked_frames),
    )


def _kvasir(root: Path) -> tuple[list[SourceCase], list[str]]:
    """Return HyperKvasir's cases, and what was left out."""
    cases, left_out = [], []
    for images in folders_named(root, "images"):
        for image in files_in(images):
            mask = images.with_name("masks") / image.name
            if not mask.is_file():
                left_out.append(f"{image}: no mask of that name in 'masks'")
                continue
            name = f"kvasir_{image.stem}"
            cases.append(
                SourceCase(name=name, site="Kvasir", patient=name, images=(image,), masks=(mask,))
            )
    return cases, left_out


def _cvc(root: Path) -> tuple[list[SourceCase], list[str]]:
    """Return CVC-ClinicDB's cases, and what was left out."""
    cases, left_out = [], []
    # Distributed twice, as PNG and as TIF: the PNG are first in the alphabet.
    for images in folders_named(root, "Original")[:1]:
        for image in files_in(images):
            mask = images.with_name("Ground Truth") / image.name
            if not image.stem.isdigit() or not mask.is_file():
                left_out.append(f"{image}: no mask of that name in 'Ground Truth'")
                continue
            frame = int(image.stem)
            cases.append(
                SourceCase(
                    name=f"cvc_{frame:04d}",
                    site="CVC",
                    patient=f"cvc_sequence{bisect_left(CVC_LAST_FRAMES, frame) + 1:02d}",
                    images=(image,),
                    masks=(mask,),
                )
            )
    return cases, left_out
