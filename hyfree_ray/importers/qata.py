"""QaTa-COV19-v2: chest X-rays with masks of COVID-19 pneumonia (Degerli et al. 2022).

QaTa-COV19-v2/{Train Set,Test Set}/{Images,Ground-truths}/
"""

from __future__ import annotations

import re
from pathlib import Path

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.importers.raw_set import (
    Source,
    SourceCase,
    files_in,
    folders_named,
    foreground_of,
    grey,
)

_SUBJECT = re.compile(r"sub-[A-Za-z0-9]+")


def qata(root: Path) -> Source:
    """Import both sets together: folds are drawn anew, by patient (`sub-...` in the name).

    Images without a subject in their name are patients of their own. The set has no sites: use
    `--partition`.
    """
    cases, left_out = [], []
    for images in folders_named(root, "Images"):
        masks = images.with_name("Ground-truths")
        for image in files_in(images):
            mask = masks / f"mask_{image.name}"
            if not mask.is_file():
                left_out.append(f"{image}: no mask {mask.name}")
                continue
            subject = _SUBJECT.match(image.name)
            cases.append(
                SourceCase(
                    name=re.sub(r"[^A-Za-z0-9-]+", "_", image.stem),
                    site="QaTa",
                    patient=subject[0] if subject else image.stem,
                    images=(image,),
                    masks=(mask,),
                    columns={"set": images.parent.name},
                )
            )
    if not cases:
        raise HyfreeError(
            "import.nothing-found",
            f"{root}: no 'Images' with masks in 'Ground-truths' beside it; name the folder of"
            " QaTa-COV19-v2",
        )
    return Source(
        name="QaTa-COV19",
        channel_names=("X-ray",),
        labels={"background": 0, "pneumonia": 1},
        file_ending=".png",
        cases=cases,
        read_images=lambda case: [grey(case.images[0])],
        read_label=lambda case: foreground_of(case.masks),
        left_out=tuple(left_out),
    )
