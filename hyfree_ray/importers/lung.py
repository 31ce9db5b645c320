"""Lung fields on chest X-rays, two hospitals: the NLM's Montgomery and Shenzhen sets.

MontgomerySet/CXR_png/MCUCXR_0001_0.png
MontgomerySet/ManualMask/{leftMask,rightMask}/MCUCXR_0001_0.png     Jaeger et al. 2014
ChinaSet_AllFiles/CXR_png/CHNCXR_0001_0.png
mask/CHNCXR_0001_0_mask.png                                         Stirenko et al. 2018
"""

from __future__ import annotations

from pathlib import Path

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.importers.raw_set import (
    Source,
    SourceCase,
    files_in,
    folders_named,
    foreground_of,
    grey,
    one_folder,
)

_FINDINGS = {"0": "normal", "1": "tuberculosis"}


def lung(root: Path) -> Source:
    """Import one image per patient; leave out Shenzhen's images without a mask."""
    cases, left_out = _cases(root)
    if not cases:
        raise HyfreeError(
            "import.nothing-found",
            f"{root}: no CXR_png with masks below it; name the folder that holds MontgomerySet"
            " and ChinaSet_AllFiles, and Shenzhen's masks in 'mask'",
        )
    return Source(
        name="LungCXR",
        channel_names=("X-ray",),
        labels={"background": 0, "lung": 1},
        file_ending=".png",
        cases=cases,
        read_images=lambda case: [grey(case.images[0])],
        read_label=lambda case: foreground_of(case.masks),
        left_out=tuple(left_out),
    )


def _cases(root: Path) -> tuple[list[SourceCase], list[str]]:
    """Return the cases with masks, and a line for each image without."""
    masks_of = _Masks(root)
    cases, left_out = [], []
    for image in (image for folder in folders_named(root, "CXR_png") for image in files_in(folder)):
        site = {"M": "Montgomery", "C": "Shenzhen"}.get(image.name[0].upper(), "")
        masks = masks_of.find(image, site)
        if not masks or not all(mask.is_file() for mask in masks):
            left_out.append(f"{image}: no mask of its lungs")
            continue
        _, number, finding = (*image.stem.split("_"), "", "")[:3]
        name = f"{site.lower()}_{number}"
        cases.append(
            SourceCase(
                name=name,
                site=site,
                patient=name,
                images=(image,),
                masks=masks,
                columns={"finding": _FINDINGS.get(finding, "unknown")},
            )
        )
    return cases, left_out


class _Masks:
    """The locations of each hospital's masks: Montgomery has one a lung, Shenzhen one an image."""

    def __init__(self, root: Path) -> None:
        sides = (one_folder(root, "leftMask"), one_folder(root, "rightMask"))
        self.sides = [side for side in sides if side is not None]
        self.shenzhen = {
            path.stem.removesuffix("_mask"): path
            for folder in folders_named(root, "mask", "masks")
            for path in files_in(folder)
        }

    def find(self, image: Path, site: str) -> tuple[Path, ...]:
        """Return the masks of an image; empty if there are none."""
        if site == "Montgomery":
            return tuple(side / image.name for side in self.sides)
        found = self.shenzhen.get(image.stem) if site == "Shenzhen" else None
        return () if found is None else (found,)
