"""Lung fields on chest X-rays, two hospitals: the NLM's Montgomery and Shenzhen sets.

MontgomerySet/CXR_png/MCUCXR_0001_0.png
MontgomerySet/ManualMask/{leftMask,rightMask}/MCUCXR_0001_0.png     Jaeger et al. 2014
ChinaSet_AllFiles/CXR_png/CHNCXR_0001_0.png
mask/CHNCXR_0001_0_mask.png                                         Stirenko et al. 2018

Kaggle distributes both in one: `Lung Segmentation/CXR_png` and `Lung Segmentation/masks`.
"""

from __future__ import annotations

from pathlib import Path

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.importers.files import files_in, folders_named, stem
from hyfree_ray.importers.source import LeftOut, Source, SourceCase
from hyfree_ray.importers.two_classes import read_black_and_white, read_grey

_FINDINGS = {"0": "normal", "1": "tuberculosis"}


def lung(root: Path) -> Source:
    """Import one image per patient; leave out images without masks of both lungs."""
    cases, left_out = _cases(root)
    if not cases:
        first = f"; {left_out[0].path}: {left_out[0].why}" if left_out else ""
        raise HyfreeError(
            "import.nothing-found",
            f"{root}: no CXR_png with masks below it{first}; name the folder that holds"
            " MontgomerySet and ChinaSet_AllFiles, and Shenzhen's masks in 'mask'",
        )
    return Source(
        name="LungCXR",
        root=root,
        channel_names=("X-ray",),
        labels={"background": 0, "lung": 1},
        file_ending=".png",
        cases=cases,
        read_images=read_grey,
        read_label=read_black_and_white,
        left_out=tuple(left_out),
    )


def _cases(root: Path) -> tuple[list[SourceCase], list[LeftOut]]:
    """Return the cases with masks, and the images without."""
    masks_of = _Masks(root)
    cases, left_out = [], []
    for image in (image for folder in folders_named(root, "CXR_png") for image in files_in(folder)):
        site = {"MCUCXR": "Montgomery", "CHNCXR": "Shenzhen"}.get(image.name.split("_")[0].upper())
        masks, why = masks_of.find(image) if site else ((), "of neither Montgomery nor Shenzhen")
        if site is None or not masks:
            left_out.append(LeftOut(path=image, why=why))
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
    """The locations of the masks: one a lung in `leftMask` and `rightMask`, or one an image."""

    def __init__(self, root: Path) -> None:
        self.left = _by_stem(root, "leftMask")
        self.right = _by_stem(root, "rightMask")
        self.whole = _by_stem(root, "mask", "masks")

    def find(self, image: Path) -> tuple[tuple[Path, ...], str]:
        """Return the masks of an image; if there are none, the reason."""
        name = stem(image)
        left, right, whole = (side.get(name) for side in (self.left, self.right, self.whole))
        if left and right:
            return (left, right), ""
        if whole:
            return (whole,), ""
        if left or right:
            return (), f"no mask of its {'right' if left else 'left'} lung"
        return (), "no mask of its lungs"


def _by_stem(root: Path, *names: str) -> dict[str, Path]:
    return {
        stem(path).removesuffix("_mask"): path
        for folder in folders_named(root, *names)
        for path in files_in(folder)
    }
